//! `isthmus run`: any program in a running mesh, from its first request to its exit code.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, ensure, trouble, wait_for};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/one-cluster");
const CATALOG: &str = "http://catalog.shop.mesh/";
const TELL: &str = "x-isthmus-tell: 1";
/// The target port of catalog.
const PORT: &str = "8080";

#[test]
fn any_program_joins_and_leaves_a_mesh() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    mesh.up(&["--quiet"])?;
    let caller = mesh.outbound("us-west", "frontend-1")?;
    it_serves_gets_signals_and_leaves_unnoticed(&mesh, caller)?;
    its_end_is_passed_on(&mesh)?;
    what_cannot_be_started_is_said(&mesh)?;
    mesh.pass();
    Ok(())
}

/// `isthmus run` with a program. Dropped, it is killed, and the program ends with it.
struct Guest(Child);

impl Guest {
    fn start(mesh: &Mesh, address: IpAddr, log: &Path, program: &[&str]) -> Result<Self> {
        let during = || log.display().to_string();
        let output = fs::File::create(log).during(during)?;
        let errors = output.try_clone().during(during)?;
        let address = address.to_string();
        let mut command = mesh.command(&["run", "--cluster", "us-west"]);
        command
            .args(["--service", "shop/catalog", "--port", PORT])
            .args(["--program-address", &address, "--"])
            .args(program)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        Ok(Self(command.spawn().during(|| "isthmus run".to_owned())?))
    }

    fn process(&self) -> Result<Process> {
        Process::with_id(self.0.id())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        wait_for("isthmus run to end", PATIENCE, || {
            let ended = self.0.try_wait().during(|| "isthmus run".to_owned())?;
            ended.map_or_else(|| trouble("it still runs"), Ok)
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended, or something has failed and nobody wants it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of the mesh that none of its processes has.
fn free_address(mesh: &Mesh) -> Result<IpAddr> {
    match mesh.address("us-west", "frontend-1")? {
        IpAddr::V4(taken) => {
            let [a, b, c, _] = taken.octets();
            Ok(IpAddr::from([a, b, c, 200]))
        }
        IpAddr::V6(_) => trouble("`up` gives IPv4 addresses"),
    }
}

/// Handles of the workloads of catalog that are healthy.
fn healthy(mesh: &Mesh) -> Result<Vec<String>> {
    let list = mesh.json(&["get", "workloads", "-n", "shop"])?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let of_catalog = items.iter().filter(|item| {
        item["spec"]["service"] == "catalog" && item["status"]["health"] == "Healthy"
    });
    let names = of_catalog.filter_map(|item| item["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Waits until so many workloads of catalog are healthy.
fn wait_until_healthy(mesh: &Mesh, count: usize) -> Result<Vec<String>> {
    wait_for("workloads of catalog", PATIENCE, || {
        let names = healthy(mesh)?;
        ensure(names.len() == count, || format!("healthy: {names:?}"))?;
        Ok(names)
    })
}

/// The workload that serves a GET.
fn served_by(caller: SocketAddr) -> Result<String> {
    let reply = http::get(caller, CATALOG, &[TELL])?.expect(200)?;
    let workload = reply.field("x-isthmus-workload").map(str::to_owned);
    workload.map_or_else(|| trouble("no workload is told"), Ok)
}

fn it_serves_gets_signals_and_leaves_unnoticed(mesh: &Mesh, caller: SocketAddr) -> Result<()> {
    let before = wait_until_healthy(mesh, 2)?;
    let address = free_address(mesh)?;
    let heard = mesh.home().join("heard");
    // It tells of a signal, ends its own program when it is asked to end, and has its own code.
    let script = format!(
        "trap 'echo hangup >> {heard}' HUP; trap 'kill $program; wait $program; exit 7' TERM; \
         isthmus-demo catalog --listen {address}:{PORT} & program=$!; \
         while true; do wait $program; done",
        heard = heard.display()
    );
    let path = path_with_demo()?;
    let log = mesh.home().join("logs/guest.log");
    let shell = ["env", &path, "sh", "-c", &script];
    let mut guest = Guest::start(mesh, address, &log, &shell)?;
    let with_guest = wait_until_healthy(mesh, 3)?;
    let new = with_guest.iter().find(|name| !before.contains(name));
    let new = new.expect("three are one more than two").clone();
    wait_for("the guest to serve", PATIENCE, || {
        let by = served_by(caller)?;
        ensure(by == new, || format!("served by {by}, not by {new}"))
    })?;

    guest.process()?.hang_up()?;
    wait_for("the program to hear of a signal", PATIENCE, || {
        let text = fs::read_to_string(&heard).during(|| heard.display().to_string())?;
        ensure(text == "hangup\n", || format!("{text:?}"))
    })?;

    // Somebody calls all the time while it leaves: nobody notices.
    let left = AtomicBool::new(false);
    scope(|scope| -> Result<()> {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<usize> {
                    let mut calls = 0;
                    while !left.load(Ordering::Relaxed) {
                        served_by(caller)?;
                        calls += 1;
                    }
                    Ok(calls)
                })
            })
            .collect();
        let leaving = guest.process()?.terminate();
        let ended = leaving.and_then(|()| guest.end());
        left.store(true, Ordering::Relaxed);
        for caller in callers {
            let calls = caller.join().expect("a caller does not panic")?;
            ensure(calls > 0, || "nobody has called".to_owned())?;
        }
        assert_eq!(ended?.code(), Some(7), "the program's own code");
        Ok(())
    })?;
    assert_eq!(wait_until_healthy(mesh, 2)?, before);
    Ok(())
}

/// `PATH`, with the folder of the demo programs, which is that of the binary.
fn path_with_demo() -> Result<String> {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_isthmus"));
    let folder = binary.parent().expect("a file is in a folder");
    let path = std::env::var("PATH").during(|| "PATH".to_owned())?;
    Ok(format!("PATH={}:{path}", folder.display()))
}

fn its_end_is_passed_on(mesh: &Mesh) -> Result<()> {
    let log = mesh.home().join("logs/guest.log");
    for (script, expect) in [("exit 3", 3), ("kill -9 $$", 128 + 9)] {
        let mut guest = Guest::start(mesh, free_address(mesh)?, &log, &["sh", "-c", script])?;
        assert_eq!(guest.end()?.code(), Some(expect), "{script}");
    }
    wait_until_healthy(mesh, 2).map(drop)
}

fn what_cannot_be_started_is_said(mesh: &Mesh) -> Result<()> {
    let asked = |cluster: &str, service: &str, port: &str, program: &str| {
        let of = ["run", "--cluster", cluster, "--service", service];
        mesh.isthmus(&[&of[..], &["--port", port, "--", program]].concat())
    };
    asked("us-west", "shop/catalog", PORT, "/no/such/program")?
        .expect_failure(1, &["/no/such/program", "program-not-started"])?;
    asked("us-west", "shop/catalog", "9", "true")?.expect_failure(1, &["wrong-port", PORT])?;
    asked("us-west", "shop/nothing", PORT, "true")?.expect_failure(1, &["shop/nothing"])?;
    asked("eu-west", "shop/catalog", PORT, "true")?.expect_failure(2, &["eu-west", "us-west"])?;
    let without_program = ["run", "--cluster", "us-west", "--service", "shop/catalog"];
    mesh.isthmus(&without_program)?
        .expect_failure(2, &["--port"])?;
    wait_until_healthy(mesh, 2).map(drop)
}
