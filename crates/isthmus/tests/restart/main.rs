//! Processes that carry traffic are restarted under their clients' hands, and nobody notices.

mod client;

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

use self::client::{Client, Redis};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restart/mesh");
/// Runs in east only; callers are in west.
const CATALOG: &str = "http://catalog.shop.mesh/";
const REDIS_PORT: u16 = 6379;
/// Far more than all buffers on the way hold.
const LONG: usize = 30_000_000;
/// Everything that a request of these clients passes.
const WAY: [(&str, &str); 4] = [
    ("west", "frontend-1"),
    ("east", "gateway-1"),
    ("east", "catalog-1"),
    ("east", "redis-1"),
];
const ROUNDS: usize = 3;

#[test]
fn restarts_are_not_noticed() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(FILES))?;
    mesh.up(&[])?;
    no_request_is_lost(&mesh)?;
    what_has_begun_is_finished(&mesh)?;
    the_mesh_sees_the_same_workloads(&mesh)?;
    what_takes_too_long_is_cut_off(&mesh)?;
    a_successor_that_fails_changes_nothing(&mesh)?;
    what_cannot_be_restarted_is_said(&mesh)?;
    mesh.pass();
    Ok(())
}

fn caller(mesh: &Mesh) -> Result<SocketAddr> {
    mesh.outbound("west", "frontend-1")
}

fn restart(mesh: &Mesh, (cluster, process): (&str, &str)) -> Result<()> {
    let noun = if process.starts_with("gateway") {
        "gateway"
    } else {
        "proxy"
    };
    let name = format!("{cluster}/{process}");
    let said = mesh.isthmus(&[noun, "restart", &name])?.expect(0)?;
    ensure(said.out.contains("has taken over"), || said.out.clone())
}

/// Clients that know of nothing ask all the time, each in its own way.
fn no_request_is_lost(mesh: &Mesh) -> Result<()> {
    let caller = caller(mesh)?;
    let redis = SocketAddr::new(caller.ip(), REDIS_PORT);
    let over = AtomicBool::new(false);
    let kept = |counter: &AtomicUsize, method: &str| -> Result<()> {
        let mut client = Client::connect(caller)?;
        while !over.load(Ordering::Relaxed) {
            if !client.ask(method, CATALOG)? {
                client = Client::connect(caller)?;
            }
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let fresh = |counter: &AtomicUsize| -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            Client::connect(caller)?.ask("GET", CATALOG)?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let tcp = |counter: &AtomicUsize| -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            Redis::connect(redis)?.ping()?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let counters = [const { AtomicUsize::new(0) }; 4];
    scope(|scope| -> Result<()> {
        let [gets, posts, new, connections] = &counters;
        let clients = [
            scope.spawn(move || kept(gets, "GET")),
            scope.spawn(move || kept(posts, "POST")),
            scope.spawn(move || fresh(new)),
            scope.spawn(move || tcp(connections)),
        ];
        let restarted = restart_all(mesh, &counters);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        restarted
    })
}

/// Restarts everything in turn; each client must have got on between any two restarts.
fn restart_all(mesh: &Mesh, counters: &[AtomicUsize]) -> Result<()> {
    let count = || -> Vec<usize> { counters.iter().map(|c| c.load(Ordering::Relaxed)).collect() };
    for _ in 0..ROUNDS {
        for process in WAY {
            let before = count();
            restart(mesh, process)?;
            wait_for("every client to get on", PATIENCE, || {
                let now = count();
                ensure(before.iter().zip(&now).all(|(b, n)| n > b), || {
                    format!("{before:?}, then {now:?}")
                })
            })?;
        }
    }
    Ok(())
}

/// A download and a connection that began before go on, through processes that have successors.
fn what_has_begun_is_finished(mesh: &Mesh) -> Result<()> {
    let caller = caller(mesh)?;
    let mut redis = Redis::connect(SocketAddr::new(caller.ip(), REDIS_PORT))?;
    redis.ping()?;
    let mut download = Client::begin(caller, &format!("{CATALOG}bytes/{LONG}"))?;
    for process in WAY {
        restart(mesh, process)?;
    }
    redis.ping()?;
    // Chunked: it is whole when the last chunk is there.
    let (mut rest, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let length = download
            .read(&mut piece)
            .during(|| "the rest of a download".to_owned())?;
        ensure(length > 0, || format!("cut after {} bytes", rest.len()))?;
        rest.extend_from_slice(&piece[..length]);
    }
    assert!(rest.len() > LONG, "{} bytes", rest.len());
    redis.ping()
}

/// Neither is anything deregistered by the farewell of a process that has a successor, nor do two
/// stand for one.
fn the_mesh_sees_the_same_workloads(mesh: &Mesh) -> Result<()> {
    for cluster in ["west", "east"] {
        mesh.is_whole(cluster)?;
    }
    let list = mesh.json(&["get", "workloads", "-n", "shop"])?;
    let count = list["items"].as_array().map_or(0, Vec::len);
    assert_eq!(count, 3, "{list}");
    Ok(())
}

fn what_takes_too_long_is_cut_off(mesh: &Mesh) -> Result<()> {
    let (cluster, process) = WAY[0];
    let config = format!("clusters/{cluster}/{process}/run.yaml");
    let config = mesh.home().join(config);
    let during = || config.display().to_string();
    let file = fs::read_to_string(&config).during(during)?;
    fs::write(&config, format!("drainLimit: 200ms\n{file}")).during(during)?;
    // The process that starts now has the limit when it has a successor itself.
    restart(mesh, WAY[0])?;
    let listener = SocketAddr::new(caller(mesh)?.ip(), REDIS_PORT);
    let mut redis = Redis::connect(listener)?;
    redis.ping()?;
    restart(mesh, WAY[0])?;
    redis.ends()?;
    let log = mesh.home().join(format!("logs/{cluster}/{process}.log"));
    wait_for("it to be told", PATIENCE, || {
        let log = fs::read_to_string(&log).during(|| log.display().to_string())?;
        ensure(log.contains("are cut off"), || log.clone())
    })?;
    Redis::connect(listener)?.ping()
}

fn a_successor_that_fails_changes_nothing(mesh: &Mesh) -> Result<()> {
    let (cluster, process) = WAY[0];
    let config = format!("clusters/{cluster}/{process}/run.yaml");
    let config = mesh.home().join(config);
    let log = mesh.home().join(format!("logs/{cluster}/{process}.log"));
    let during = || config.display().to_string();
    let good = fs::read_to_string(&config).during(during)?;
    let caller = caller(mesh)?;
    for (bad, told) in [
        ("nothing: of this", "bad-config"),
        (&good.replace("state:", "state: nowhere #"), "not-joined"),
    ] {
        let before = fs::read_to_string(&log).during(|| log.display().to_string())?;
        fs::write(&config, bad).during(during)?;
        mesh.process(cluster, process)?.user_signal()?;
        wait_for("the failure to be told", PATIENCE, || {
            let all = fs::read_to_string(&log).during(|| log.display().to_string())?;
            let new = all.get(before.len()..).unwrap_or_default();
            let both = new.contains(told) && new.contains("the process that served goes on");
            ensure(both, || new.to_owned())
        })?;
        Client::connect(caller)?.ask("GET", CATALOG)?;
    }
    fs::write(&config, good).during(during)?;
    restart(mesh, WAY[0])?;
    Client::connect(caller)?.ask("GET", CATALOG).map(drop)
}

fn what_cannot_be_restarted_is_said(mesh: &Mesh) -> Result<()> {
    for name in ["west/control", "west/nobody", "nowhere"] {
        let said = mesh.isthmus(&["proxy", "restart", name])?;
        said.expect_failure(1, &[name, "west/frontend-1"])?;
    }
    Ok(())
}
