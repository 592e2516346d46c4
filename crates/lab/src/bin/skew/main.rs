//! `make skew`: two releases in one mesh. A mesh of the previous release is upgraded process by process,
//! and taken back again; after each step everything works, whoever speaks to whom.
//!
//! A process is killed and started again by the supervisor, with the program file that stands there
//! then: it finds the state that the other release has left.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

/// Run two releases against each other.
#[derive(Debug, Parser)]
#[command(name = "skew", disable_version_flag = true)]
struct Arguments {
    /// Folder with the programs of the other release.
    #[arg(long, value_name = "FOLDER")]
    other: PathBuf,
}

/// West calls, east serves, by one gateway each.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../isthmus/tests/restart/mesh");
/// In an order in which every kind of pair is of two releases for a while.
const ORDER: [(&str, &str); 6] = [
    ("west", "frontend-1"),
    ("east", "gateway-1"),
    ("east", "control"),
    ("east", "catalog-1"),
    ("east", "redis-1"),
    ("west", "control"),
];
const CATALOG: &str = "http://catalog.shop.mesh/";
const REDIS_PORT: u16 = 6379;
/// Requests of each kind after each step.
const REQUESTS: usize = 50;

fn main() -> ExitCode {
    match run(&Arguments::parse().other) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            println!("MISS  {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn run(other: &Path) -> Result<()> {
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    let this = own.with_file_name("isthmus");
    let folder = std::env::temp_dir().join(format!("isthmus-skew-{}", std::process::id()));
    let binary = folder.join("isthmus");
    fs::create_dir_all(&folder).during(|| folder.display().to_string())?;
    put(&other.join("isthmus-demo"), &folder.join("isthmus-demo"))?;
    put(&other.join("isthmus"), &binary)?;
    let mut mesh = Mesh::of(&binary, Path::new(FILES))?;
    mesh.up(&[])?;
    everything_works(&mesh)?;
    for (direction, program) in [("upgrade", this), ("way back", other.join("isthmus"))] {
        put(&program, &binary)?;
        for process in ORDER {
            replace(&mesh, process)?;
            everything_works(&mesh)?;
            println!("ok    {direction}: {}/{}", process.0, process.1);
        }
    }
    mesh.pass();
    // Nothing but what was made here is in it.
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// A new file under the same name: what runs keeps the old one.
fn put(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).during(|| format!("copying {}", from.display()))?;
    fs::rename(&beside, to).during(|| to.display().to_string())
}

/// Has the process run the program file that stands there now.
fn replace(mesh: &Mesh, (cluster, process): (&str, &str)) -> Result<()> {
    let before = mesh.process(cluster, process)?;
    ensure(is_of_earlier_file(before.pid)?, || {
        format!("{cluster}/{process} runs the new file already")
    })?;
    before.kill()?;
    wait_for("the process to be started again", PATIENCE, || {
        let now = mesh.process(cluster, process)?;
        ensure(
            now.pid != before.pid && !is_of_earlier_file(now.pid)?,
            || "it is the one of before".to_owned(),
        )
    })
}

/// The file that a process was started from has another one in its place.
fn is_of_earlier_file(pid: u32) -> Result<bool> {
    let link = format!("/proc/{pid}/exe");
    let file = fs::read_link(&link).during(|| link.clone())?;
    Ok(file.to_string_lossy().ends_with(" (deleted)"))
}

fn everything_works(mesh: &Mesh) -> Result<()> {
    for cluster in ["west", "east"] {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))?;
    }
    let caller = mesh.outbound("west", "frontend-1")?;
    for _ in 0..REQUESTS {
        http::get(caller, CATALOG, &[])?.expect(200)?;
        let echo = format!("{CATALOG}echo");
        let said = http::request(caller, "POST", &echo, &[], b"hello")?;
        let page = said.expect(200)?.json()?;
        ensure(page["body"] == "hello", || page.to_string())?;
        ping(SocketAddr::new(caller.ip(), REDIS_PORT))?;
    }
    // What is written is taken in by control planes and proxies of either release.
    let shop = mesh.files().join("shop.yaml");
    mesh.isthmus(&["apply", "-f", &shop.display().to_string()])?
        .expect(0)
        .map(drop)
}

/// Plain TCP to another cluster.
fn ping(redis: SocketAddr) -> Result<()> {
    let mut stream = http::connect(redis)?;
    let during = || "a PING over TCP".to_owned();
    stream.write_all(b"PING\r\n").during(during)?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).during(during)?;
    ensure(&answer == b"+PONG\r\n", || format!("{answer:?}"))
}
