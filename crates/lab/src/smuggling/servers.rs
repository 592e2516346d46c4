//! The mesh with its caller and servers, and what their logs say.
//!
//! The servers are programs of others, started by the scripts in `smuggling/servers`; caller and
//! servers are processes of their own, so that their proxies write access logs.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::judge::{Line, Said, Seen};
use crate::http;
use crate::mesh::{Mesh, PATIENCE};
use crate::processes::Process;
use crate::trouble::{During, Result, ensure, wait_for};

/// Every server that there is a script for, with the program that it takes. Those whose name says so speak
/// HTTP/2.
const PROGRAMS: [(&str, &str); 11] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("apache", "apache2"),
    ("node", "node"),
    ("gunicorn", "gunicorn"),
    ("go", "go"),
    ("nginx-h2", "nginx"),
    ("haproxy-h2", "haproxy"),
    ("apache-h2", "apache2"),
    ("node-h2", "node"),
    ("go-h2", "go"),
];

/// Every server that there is a script for.
pub const SERVERS: [&str; 11] = [
    "nginx",
    "haproxy",
    "apache",
    "node",
    "gunicorn",
    "go",
    "nginx-h2",
    "haproxy-h2",
    "apache-h2",
    "node-h2",
    "go-h2",
];

/// Where programs may be that a PATH lacks.
const MORE_PATH: &str = ":/usr/sbin:/sbin:/usr/local/go/bin";

/// Addresses in the cluster's network that `up` gives to nobody.
const FIRST_ADDRESS: u8 = 150;

/// Between two looks at logs that may still grow.
const SETTLE: Duration = Duration::from_millis(300);

/// Which of the wanted servers can be started here, and which cannot.
///
/// Errors: one is unknown.
pub(super) fn present(wanted: &[&str]) -> Result<(Vec<&'static str>, Vec<&'static str>)> {
    for name in wanted {
        ensure(SERVERS.contains(name), || {
            format!(
                "there is no server {name}; there are {}",
                SERVERS.join(", ")
            )
        })?;
    }
    let wanted = PROGRAMS.iter().filter(|(name, _)| wanted.contains(name));
    let (present, missing): (Vec<_>, Vec<_>) = wanted.partition(|(_, program)| is_there(program));
    let names =
        |list: Vec<&(&'static str, &str)>| list.into_iter().map(|(name, _)| *name).collect();
    Ok((names(present), names(missing)))
}

fn is_there(program: &str) -> bool {
    let path = path();
    let mut folders = path.split(':');
    folders.any(|folder| Path::new(folder).join(program).is_file())
}

fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + MORE_PATH
}

/// The mesh, up, with everything in it.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped before the mesh that they are in.
    processes: Vec<Member>,
    logs: BTreeMap<&'static str, Logs>,
    /// How much of the caller's log belongs to what is over.
    heard: Cell<usize>,
    mesh: Mesh,
}

/// A process of the mesh that is a child of this one.
#[derive(Debug)]
struct Member(Child);

#[derive(Debug)]
struct Logs {
    proxy: PathBuf,
    server: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        // It takes its program with it; one that has ended needs no word.
        let _ = Process::with_id(self.0.id()).and_then(|process| process.terminate());
        let _ = self.0.wait();
    }
}

impl Stage {
    pub(super) fn set(binary: &Path, servers: &[&'static str]) -> Result<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("smuggling");
        let mut mesh = Mesh::of(binary, &scripts.join("mesh"))?;
        mesh.up(&["--quiet"])?;
        let mut stage = Self {
            processes: Vec::new(),
            logs: BTreeMap::new(),
            heard: Cell::new(0),
            mesh,
        };
        let nothing = vec!["sleep".to_owned(), "infinity".to_owned()];
        let caller = stage.start("caller", 0, None, &nothing)?;
        stage.logs.insert(
            "caller",
            Logs {
                proxy: caller.clone(),
                server: caller,
            },
        );
        for (number, &server) in (1..).zip(servers) {
            let folder = stage.folder(server)?;
            let (program, speaks) = match server.strip_suffix("-h2") {
                Some(program) => (program, "http2"),
                None => (server, "http1"),
            };
            let script = scripts.join(format!("servers/{program}.sh"));
            let words = [
                "sh",
                &text(&script),
                "${ADDRESS}",
                "${PORT}",
                &text(&folder),
                speaks,
            ];
            let command: Vec<String> = words.map(str::to_owned).to_vec();
            let proxy = stage.start(server, number, Some(server), &command)?;
            let server_log = folder.join("seen");
            stage.logs.insert(
                server,
                Logs {
                    proxy,
                    server: server_log,
                },
            );
        }
        for server in servers {
            stage.wait_for(server)?;
        }
        Ok(stage)
    }

    /// The caller's proxy.
    pub(super) fn caller(&self) -> Result<SocketAddr> {
        Ok((self.address(0)?, 15001).into())
    }

    /// The words by which the caller's proxy counts what is malformed.
    pub(super) fn reasons(&self) -> Result<BTreeSet<String>> {
        let admin = SocketAddr::from((self.address(0)?, 15020));
        let page = http::get(admin, "/metrics", &[])?.expect(200)?.text();
        let counted = page
            .lines()
            .filter_map(|line| line.strip_prefix("isthmus_malformed_requests_total{reason=\""));
        let reasons = counted.filter_map(|line| line.split('"').next());
        Ok(reasons.map(str::to_owned).collect())
    }

    pub(super) fn pass(self) {
        let Self {
            processes, mesh, ..
        } = self;
        drop(processes);
        mesh.pass();
    }

    /// What the logs say of everything that was said to `server`, once they say no more.
    pub(super) fn said(&self, server: &'static str, connections: usize) -> Result<Said> {
        // What is logged in the order of events is there as soon as this one is.
        let marker = format!("/end-of-{server}-{connections}");
        let url = format!("http://{server}.lab.mesh{marker}");
        http::get(self.caller()?, &url, &[])?;
        let (logs, caller) = (&self.logs[server], &self.logs["caller"]);
        let paths = [&caller.proxy, &logs.proxy, &logs.server];
        for path in paths {
            wait_for("the logs to be complete", PATIENCE, || {
                let whole = read(path)?;
                ensure(whole.contains(&marker), || {
                    format!("{} has no {marker}", path.display())
                })
            })?;
        }
        let mut texts = Vec::new();
        wait_for("the logs to grow no more", PATIENCE, || {
            let now = paths.map(|path| read(path).unwrap_or_default()).to_vec();
            let same = now == texts;
            texts = now;
            sleep(SETTLE);
            ensure(same, || "they still do".to_owned())
        })?;
        let fresh = texts[0].get(self.heard.get()..).unwrap_or_default();
        self.heard.set(texts[0].len());
        let lines = |text: &str| text.lines().filter_map(Line::parse).collect::<Vec<_>>();
        let of_this = |line: &Line| {
            let service = line.service.as_deref();
            line.reporter == "source" && service.is_none_or(|name| name == format!("lab/{server}"))
        };
        let mut source = lines(fresh);
        source.retain(|line| (of_this(line) || line.refusal.is_some()) && !line.key.is_of_suite());
        let mut destination = lines(&texts[1]);
        destination.retain(|line| line.reporter == "destination" && !line.key.is_of_suite());
        let mut seen: Vec<Seen> = texts[2].lines().filter_map(Seen::parse).collect();
        seen.retain(|seen| !seen.key.is_of_suite());
        Ok(Said {
            source,
            destination,
            server: seen,
        })
    }

    /// A folder for what a member of the mesh writes, beside the logs of the others.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.mesh.home().join("logs").join(name);
        fs::create_dir_all(&folder).during(|| folder.display().to_string())?;
        Ok(folder)
    }

    fn address(&self, number: u8) -> Result<Ipv4Addr> {
        let IpAddr::V4(control) = self.mesh.address("here", "control")? else {
            return crate::trouble::trouble("a mesh of one machine has addresses of IPv4");
        };
        let [a, b, c, _] = control.octets();
        Ok(Ipv4Addr::new(a, b, c, FIRST_ADDRESS + number))
    }

    /// Lets a process into the mesh and starts it. Gives the file that its proxy logs to.
    fn start(
        &mut self,
        name: &'static str,
        number: u8,
        service: Option<&str>,
        command: &[String],
    ) -> Result<PathBuf> {
        let account = format!("lab/{name}");
        let mut token = vec![
            "token",
            "create",
            "--cluster",
            "here",
            "--account",
            &account,
        ];
        if service.is_some() {
            token.extend(["--service", &account]);
        }
        let token = self.mesh.isthmus(&token)?.expect(0)?.out;
        let token_file = self.mesh.write(&format!("{name}.token"), &token)?;
        let address = self.address(number)?;
        let control = self.mesh.address("here", "control")?;
        let file = serde_json::json!({
            "name": format!("{name}-1"),
            "cluster": "here",
            "address": address,
            "control": [SocketAddr::new(control, 15012)],
            "tokenFile": token_file,
            "state": self.folder(name)?.join("state"),
            "accessLog": true,
            "account": account,
            "program": {"address": address, "port": 8080, "command": command},
        });
        let mut file = file;
        if service.is_some() {
            file["service"] = account.as_str().into();
        }
        // YAML is a superset of JSON.
        let config = self
            .mesh
            .write(&format!("{name}.yaml"), &file.to_string())?;
        let log = self.folder(name)?.join("proxy.log");
        let output = File::create(&log).during(|| log.display().to_string())?;
        let errors = File::create(log.with_extension("errors"));
        let errors = errors.during(|| log.display().to_string())?;
        let parent = std::process::id().to_string();
        let arguments = ["--die-with-parent", &parent, "run", "-c", &text(&config)];
        let mut isthmus: Command = self.mesh.command(&arguments);
        isthmus.env("PATH", path()).stdin(Stdio::null());
        let child = isthmus.stdout(output).stderr(errors).spawn();
        self.processes
            .push(Member(child.during(|| format!("starting {name}"))?));
        Ok(log)
    }

    fn wait_for(&self, server: &str) -> Result<()> {
        let url = format!("http://{server}.lab.mesh/ready");
        let what = format!("{server} to answer");
        // Compiling one takes a while at first.
        wait_for(&what, 4 * PATIENCE, || {
            let reply = http::get(self.caller()?, &url, &[])?;
            ensure(reply.refusal().is_none(), || reply.text())
        })
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).during(|| path.display().to_string())?;
    // One letter for one byte, so that places stay places.
    Ok(bytes
        .iter()
        .map(|&byte| {
            if byte.is_ascii() {
                char::from(byte)
            } else {
                '?'
            }
        })
        .collect())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
