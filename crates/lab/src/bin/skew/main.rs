//! `make skew`: two releases in one mesh. A mesh of the previous release is upgraded process by process,
//! and taken back again; after each step everything works, whoever speaks to whom.
//!
//! A process is killed and started again by the supervisor, with the program file that stands there
//! then: it finds the state that the other release has left.
//!
//! What proxies have learnt to say to each other since that release works where both know it. Where one
//! does not, the request goes without, and is answered all the same. What a client or a program says in
//! HTTP/2 takes a proxy of this release beside it, or a port of TCP, where proxies carry bytes.
//!
//! What control planes have learnt to say to proxies is read by those that know it; the others go on
//! with what they have read last.

mod news;
mod program;
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

use self::ways::Way;

/// Run two releases against each other.
#[derive(Debug, Parser)]
#[command(name = "skew", disable_version_flag = true)]
struct Arguments {
    /// Folder with the programs of the other release
    #[arg(long, value_name = "FOLDER", required_unless_present = "serve")]
    other: Option<PathBuf>,

    /// Be the program of the mesh that says what only this release carries
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "other")]
    serve: Option<SocketAddr>,
}

/// West calls, east serves, by one gateway each.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/skew/mesh");
/// A process, by its cluster.
type Place = (&'static str, &'static str);
const CALLER: Place = ("west", "frontend-1");
const CALLEE: Place = ("east", "booking-1");
const CONTROLS: [Place; 2] = [("east", "control"), ("west", "control")];
/// In an order in which every kind of pair is of two releases for a while, callers and callees also
/// under control planes of this one.
const ORDER: [Place; 7] = [
    CALLER,
    ("east", "gateway-1"),
    CONTROLS[0],
    CONTROLS[1],
    CALLEE,
    ("east", "catalog-1"),
    ("east", "redis-1"),
];
const CATALOG: &str = "http://catalog.shop.mesh/";
const BOOKING: &str = "http://booking.shop.mesh/";
const REDIS_PORT: u16 = 6379;
/// Leads to the program's HTTP/2 as bytes.
const BYTES_PORT: u16 = 8181;
/// Requests of each kind after each step.
const REQUESTS: usize = 50;
/// Bytes of a body that uses up every credit several times.
const LARGE: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match (arguments.serve, arguments.other) {
        (Some(address), _) => program::serve(address),
        (None, other) => run(&other.unwrap_or_default()),
    };
    match ended {
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
    put(&own, &folder.join("skew"))?;
    put_release(&other.join("isthmus"), &binary)?;
    let mut mesh = Mesh::of(&binary, Path::new(FILES))?;
    mesh.up(&[])?;
    let mut new = BTreeSet::new();
    everything_works(&mesh, &new)?;
    let back = other.join("isthmus");
    for (direction, program) in [("upgrade", &this), ("way back", &back)] {
        put_release(program, &binary)?;
        for process in ORDER {
            let amid_news = knows_news(&new);
            replace(&mesh, process)?;
            // The way back takes each out again.
            if !new.remove(&process) {
                new.insert(process);
            }
            if amid_news && process == CALLER {
                is_whole(&mesh)?;
                news::refuses_what_it_never_read(&mesh)?;
            }
            everything_works(&mesh, &new)?;
            if knows_news(&new) {
                news::are_read_or_left(&mesh, &this, |place| new.contains(&place))?;
            }
            println!("ok    {direction}: {}/{}", process.0, process.1);
        }
    }
    mesh.pass();
    // Nothing but what was made here is in it.
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// All of a release, which may be one program or two.
fn put_release(from: &Path, to: &Path) -> Result<()> {
    put(from, to)?;
    let [from, to] = [from, to].map(|program| program.with_file_name("isthmus-proxy"));
    if from.is_file() {
        return put(&from, &to);
    }
    match fs::remove_file(&to) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).during(|| to.display().to_string())
        }
        _ => Ok(()),
    }
}

/// A new file under the same name: what runs keeps the old one.
fn put(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).during(|| format!("copying {}", from.display()))?;
    fs::rename(&beside, to).during(|| to.display().to_string())
}

/// Has the process run the program file that stands there now.
fn replace(mesh: &Mesh, (cluster, process): Place) -> Result<()> {
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

/// May what only this release can read be written? It stays until the next step.
fn knows_news(new: &BTreeSet<Place>) -> bool {
    CONTROLS.iter().all(|control| new.contains(control))
}

fn is_whole(mesh: &Mesh) -> Result<()> {
    CONTROLS.iter().try_for_each(|(cluster, _)| {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))
    })
}

/// `new`: processes of this release.
fn everything_works(mesh: &Mesh, new: &BTreeSet<Place>) -> Result<()> {
    is_whole(mesh)?;
    // What is written is taken in by control planes and proxies of either release.
    news::are_taken_back(mesh)?;
    let caller = mesh.outbound("west", "frontend-1")?;
    for _ in 0..REQUESTS {
        http::get(caller, CATALOG, &[])?.expect(200)?;
        let echo = format!("{CATALOG}echo");
        let said = http::request(caller, "POST", &echo, &[], b"hello")?;
        let page = said.expect(200)?.json()?;
        ensure(page["body"] == "hello", || page.to_string())?;
        ping(SocketAddr::new(caller.ip(), REDIS_PORT))?;
    }
    let page = http::get(caller, &format!("{CATALOG}bytes/{LARGE}"), &[])?.expect(200)?;
    ensure(page.body.len() == LARGE, || {
        format!("{} bytes instead of {LARGE}", page.body.len())
    })?;
    speak_as_new(caller, new.contains(&CALLER) && new.contains(&CALLEE))?;
    Way::Bytes(SocketAddr::new(caller.ip(), BYTES_PORT)).carries_all("HTTP/2")?;
    Way::Lines(caller).carries_all("HTTP/1.1")?;
    if new.contains(&CALLER) {
        Way::Http2(caller).carries_all("HTTP/1.1")?;
    }
    Ok(())
}

/// Says what the release before cannot carry. `both`: caller and callee can.
fn speak_as_new(caller: SocketAddr, both: bool) -> Result<()> {
    let page = http::get(caller, BOOKING, &[])?.expect(200)?;
    let hints: &[u16] = if both { &[103] } else { &[] };
    ensure(page.hints == hints, || format!("hints {:?}", page.hints))?;

    let body: Vec<u8> = (0..251).cycle().take(LARGE).collect();
    let expect = ["expect: 100-continue"];
    let page = http::request(caller, "POST", BOOKING, &expect, &body)?.expect(200)?;
    ensure(page.body == body, || {
        format!("{} bytes came back, or others", page.body.len())
    })?;

    let wants = [
        "connection: upgrade",
        &format!("upgrade: {}", program::PROTOCOL),
    ];
    let said = http::get(caller, BOOKING, &wants)?;
    if both {
        let said = said.expect(101)?;
        ensure(said.body == program::GREETING, || format!("{said:?}"))
    } else {
        ensure(said.refusal().is_some(), || {
            format!("the request was not refused: {said:?}")
        })
    }
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
