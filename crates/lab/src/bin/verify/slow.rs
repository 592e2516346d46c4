//! Clients that are slow on purpose: what thousands of them cost a proxy, and who else notices.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, wait_for};
use rustix::io::ioctl_fionread;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{AUTHORITY, Arguments, Point, on_quiet_mesh, quantile, whole};

const CLIENTS: usize = 4_000;
/// Of those that read slowly, each may have this much of its reply waiting in the proxy.
const READERS: usize = 400;
/// Requests of a client that is not slow, meanwhile.
const GOOD: usize = 100;
const PER_CONNECTION: u64 = 32 << 10;
/// Replies stand still when so many looks one after the other have found nothing new.
const STILL: u32 = 20;
/// Failures after which no more are counted.
const MANY: usize = 2;
/// Good traffic is at most so much slower.
const SLOWER: u32 = 2;
/// Below this, twice as slow is noise.
const NOISE: Duration = Duration::from_millis(20);
const CALLER: &str = "frontend-1";
const CATALOG: &str = "http://catalog.shop.mesh/";

/// What a slow client says, and what it says then, again and again.
struct Kind {
    name: &'static str,
    clients: usize,
    first: &'static [u8],
    then: &'static [u8],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "heads that never end",
        clients: CLIENTS,
        first: b"GET / HTTP/1.1\r\nhost: catalog.shop.mesh\r\nx: ",
        then: b"x",
    },
    Kind {
        name: "bodies that never end",
        clients: CLIENTS,
        first: b"POST /echo HTTP/1.1\r\nhost: catalog.shop.mesh\r\ncontent-length: 60000\r\n\r\n",
        then: b"x",
    },
    Kind {
        name: "replies that nobody reads",
        clients: READERS,
        first: b"GET /bytes/20000000 HTTP/1.1\r\nhost: catalog.shop.mesh\r\n\r\n",
        then: b"",
    },
];

/// Memory for each slow client, and errors and latency of everyone else.
pub(crate) fn slow(_: &Arguments) -> Result<Vec<Point>> {
    raise_limit()?;
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        let proxy = mesh.process(AUTHORITY, CALLER)?;
        let caller = mesh.outbound(AUTHORITY, CALLER)?;
        let mut points = Vec::new();
        let (_, quick) = good_traffic(caller);
        for kind in &KINDS {
            points.extend(endure(mesh, &proxy, caller, kind, quick)?);
        }
        Ok(points)
    })
}

fn endure(
    mesh: &Mesh,
    proxy: &Process,
    caller: SocketAddr,
    kind: &Kind,
    quick: Duration,
) -> Result<Vec<Point>> {
    let before = proxy.resident()?;
    let begun = Instant::now();
    let mut clients = Vec::with_capacity(kind.clients);
    for _ in 0..kind.clients {
        let mut client = http::connect(caller)?;
        client
            .write_all(kind.first)
            .during(|| kind.name.to_owned())?;
        clients.push(client);
    }
    if kind.then.is_empty() {
        // Clients that arrive at once, and what their sockets take in, are another matter than those that
        // do not read.
        let (mut before, mut looks) = (0, 0);
        wait_for("every reply to stand still", PATIENCE, || {
            let waiting = clients.iter().map(unread).collect::<Result<Vec<u64>>>()?;
            let now = waiting.iter().sum();
            let still = std::mem::replace(&mut before, now) == now;
            looks = if still { looks + 1 } else { 0 };
            let begun = waiting.iter().all(|bytes| *bytes > 0);
            ensure(begun && looks >= STILL, || format!("{now} bytes have come"))
        })?;
    }
    trickle(&mut clients, kind.then);
    let connected = begun.elapsed();
    let (failed, slow) = good_traffic(caller);
    trickle(&mut clients, kind.then);
    let held = clients.iter().filter(|client| is_open(client)).count();
    let memory = proxy.resident()?.saturating_sub(before);
    let each = memory / u64::try_from(kind.clients).unwrap_or(1).max(1);
    eprintln!(
        "{}: connected after {:.1} s; {held} of {} still open after {:.1} s",
        kind.name,
        connected.as_secs_f64(),
        kind.clients,
        begun.elapsed().as_secs_f64()
    );
    drop(clients);
    // The next kind begins where this one has left nothing behind.
    whole(mesh)?;
    let bound = NOISE.max(quick * SLOWER);
    let about = |what: &str| format!("{what} beside {} {}", kind.clients, kind.name);
    let memory = if kind.then.is_empty() {
        // A reply that waits takes credit, and has no bound by connection.
        Point {
            held: true,
            what: about("memory of the proxy"),
            measured: format!("{} KiB more", memory >> 10),
            bound: "for comparison".to_owned(),
        }
    } else {
        Point {
            held: each <= PER_CONNECTION,
            what: about("memory of the proxy for each connection"),
            measured: format!("{each} B"),
            bound: format!("at most {PER_CONNECTION} B"),
        }
    };
    Ok(vec![
        Point::none(about("failed requests of others"), failed, GOOD),
        Point::at_most(about("99th percentile of others"), slow, bound),
        memory,
    ])
}

/// A few more bytes from everybody.
fn trickle(clients: &mut [TcpStream], bytes: &[u8]) {
    for client in clients {
        // Those that were turned away are counted later.
        let _ = client.write_all(bytes);
    }
}

/// Has the proxy closed it? An answer that waits to be read is none.
fn is_open(client: &TcpStream) -> bool {
    let peek = || {
        client.set_nonblocking(true)?;
        client.peek(&mut [0])
    };
    match peek() {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Bytes that have come and wait to be read.
fn unread(client: &TcpStream) -> Result<u64> {
    ioctl_fionread(client).during(|| "looking at what has come".to_owned())
}

/// Failed ones of [`GOOD`] requests one after the other, and their 99th percentile.
fn good_traffic(caller: SocketAddr) -> (usize, Duration) {
    let mut failed = 0;
    let mut times = Vec::with_capacity(GOOD);
    for _ in 0..GOOD {
        let begun = Instant::now();
        let answered = http::get(caller, CATALOG, &[]).and_then(|reply| reply.expect(200));
        if let Err(trouble) = answered {
            eprintln!("a good request failed: {trouble}");
            failed += 1;
        }
        times.push(begun.elapsed());
        if failed == MANY {
            // Each takes as long as a client waits.
            break;
        }
        sleep(Duration::from_millis(1));
    }
    (failed, quantile(&mut times, 0.99))
}

/// This process holds one end of every connection.
pub(crate) fn raise_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = 2 * CLIENTS as u64;
    match limit.maximum {
        Some(most) if most < needed => Err(Trouble(format!(
            "{needed} open files are needed and {most} allowed: `ulimit -Hn {needed}`"
        ))),
        maximum => {
            let current = maximum.or(Some(needed));
            setrlimit(Resource::Nofile, Rlimit { current, maximum }).during(|| "ulimit".to_owned())
        }
    }
}
