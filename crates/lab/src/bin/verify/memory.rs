//! Everything that makes a proxy hold memory for others, all of it at once, against proxies that may hold
//! little: how much they take, and whether who was there before is still served.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use isthmus_lab::frames::{self, END_HEADERS, END_STREAM, HEADERS, frame};
use isthmus_lab::http::{self, find};
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, ensure, trouble, wait_for};

use super::{AUTHORITY, Arguments, Point, on_quiet_mesh, slow, whole};

/// Who calls, and who is called: the two that are given little.
const PROXIES: [&str; 2] = ["frontend-1", "cart-1"];
const LIMIT: u64 = 32 << 20;
/// What a proxy may take beside what it counts: the allocator keeps gaps between what it was given, and
/// what has begun may hold some after all else was refused.
const BESIDE: u64 = LIMIT / 2;
const TAKEN: &str = "isthmus_memory_taken_bytes";
const HOST: &str = "cart.shop.mesh";
/// Whom the good client asks: the crowd's own workload may rightly turn requests away that it has no time
/// for, whatever memory there is.
const OTHER: &str = "payment.shop.mesh";
/// A local address of the caller's proxy that leads to plain TCP.
const LISTENER: u16 = 6379;
/// Requests of a client that was there before, one after the other.
const GOOD: usize = 200;
/// A few more bytes from everybody who sends slowly.
const ROUNDS: usize = 10;

/// Clients, and what each says; of some, what they say then, again and again.
struct Crowd {
    name: &'static str,
    clients: usize,
    port: u16,
    first: fn() -> Vec<u8>,
    then: &'static [u8],
}

const CROWDS: [Crowd; 4] = [
    Crowd {
        name: "replies that nobody reads",
        clients: 150,
        port: 15001,
        first: || format!("GET /bytes/20000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes(),
        then: b"",
    },
    Crowd {
        name: "connections that do not take what they have asked for",
        clients: 50,
        port: LISTENER,
        first: || {
            [
                &b"*2\r\n$4\r\nECHO\r\n$500000\r\n"[..],
                &[b'x'; 500_000],
                b"\r\n",
            ]
            .concat()
        },
        then: b"*2\r\n$4\r\nECHO\r\n$5\r\nagain\r\n",
    },
    Crowd {
        name: "bodies that never end",
        clients: 1_000,
        port: 15001,
        first: || {
            format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 60000\r\n\r\n")
                .into_bytes()
        },
        then: b"x",
    },
    Crowd {
        name: "connections of a hundred streams without credit",
        clients: 7_000,
        port: 15001,
        first: hundred_streams,
        then: b"",
    },
];

/// Requests of HTTP/2 whose replies get no credit.
fn hundred_streams() -> Vec<u8> {
    let fields = [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"http"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/bytes/5000000"),
    ];
    let section = frames::section(fields);
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut said = frames::hello(&[(4, 0)]);
    for stream in (1..200).step_by(2) {
        said.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &section));
    }
    said
}

/// Resident memory of both proxies, and what becomes of others.
pub(crate) fn memory(_: &Arguments) -> Result<Vec<Point>> {
    slow::raise_limit()?;
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        for name in PROXIES {
            squeeze(mesh, name)?;
        }
        whole(mesh)?;
        let caller = mesh.outbound(AUTHORITY, PROXIES[0])?;
        let mut good = Lasting::new(caller)?;
        good.ask()?;
        let mut watched = PROXIES
            .iter()
            .map(|name| Watched::new(mesh, name))
            .collect::<Result<Vec<_>>>()?;
        let mut crowd = Vec::new();
        for kind in &CROWDS {
            crowd.push(come(kind, caller, &mut watched)?);
        }
        let failed = beside(&mut good, &mut crowd, &mut watched);
        let refused = mesh.metric(
            (AUTHORITY, PROXIES[0]),
            "isthmus_connections_shed_total",
            &["reason=\"no-memory\""],
        )?;
        let taken = mesh.metric((AUTHORITY, PROXIES[0]), TAKEN, &[])?;
        eprintln!("{taken} of {LIMIT} bytes are taken, {refused} connections were closed");
        drop(crowd);
        let mut points: Vec<Point> = watched.iter().map(Watched::point).collect();
        points.push(Point::none(
            "failed requests of a client that was there before",
            failed,
            GOOD,
        ));
        points.push(Point {
            held: refused > 0.0,
            what: "connections that were closed for want of memory".to_owned(),
            measured: format!("{refused}"),
            bound: "some, or nothing was shown".to_owned(),
        });
        points.push(recovery(mesh, caller)?);
        Ok(points)
    })
}

/// Starts a proxy again that may hold little.
fn squeeze(mesh: &Mesh, name: &str) -> Result<()> {
    let folder = mesh.home().join("clusters").join(AUTHORITY).join(name);
    let path = folder.join("run.yaml");
    let during = || path.display().to_string();
    let mut file = OpenOptions::new().append(true).open(&path).during(during)?;
    writeln!(file, "\nmemory: {}MiB", LIMIT >> 20).during(during)?;
    mesh.process(AUTHORITY, name)?.kill()?;
    wait_for("a proxy with little memory", PATIENCE, || {
        let limit = mesh.metric((AUTHORITY, name), "isthmus_memory_limit_bytes", &[])?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let little = LIMIT as f64;
        ensure((limit - little).abs() < 1.0, || {
            format!("it may hold {limit}")
        })
    })
}

/// A proxy, what it took before, and the most that it was seen to take.
struct Watched {
    name: &'static str,
    process: Process,
    before: u64,
    most: u64,
}

impl Watched {
    fn new(mesh: &Mesh, name: &&'static str) -> Result<Self> {
        let process = mesh.process(AUTHORITY, name)?;
        let before = process.resident()?;
        Ok(Self {
            name,
            process,
            before,
            most: before,
        })
    }

    fn look(&mut self) -> Result<()> {
        self.most = self.most.max(self.process.resident()?);
        Ok(())
    }

    fn point(&self) -> Point {
        let more = self.most.saturating_sub(self.before);
        Point {
            held: more <= LIMIT + BESIDE,
            what: format!(
                "the most that {} took beyond {} MiB",
                self.name,
                self.before >> 20
            ),
            measured: format!("{} MiB", more >> 20),
            bound: format!(
                "at most {} MiB of {} counted",
                (LIMIT + BESIDE) >> 20,
                LIMIT >> 20
            ),
        }
    }
}

/// Those of a kind that are still connected, and what they say.
struct Here {
    clients: Vec<TcpStream>,
    then: &'static [u8],
}

fn come(kind: &Crowd, caller: SocketAddr, watched: &mut [Watched]) -> Result<Here> {
    let begun = Instant::now();
    let to = SocketAddr::new(caller.ip(), kind.port);
    let said = (kind.first)();
    let mut clients = Vec::with_capacity(kind.clients);
    for number in 0..kind.clients {
        let mut client = http::connect(to)?;
        client
            .set_nonblocking(true)
            .during(|| kind.name.to_owned())?;
        // Whoever is turned away is none of them; whose words do not fit says no more.
        match client.write(&said) {
            Ok(_) => clients.push(client),
            Err(error) if error.kind() == ErrorKind::WouldBlock => clients.push(client),
            Err(_) => {}
        }
        if number % 100 == 0 {
            watched.iter_mut().try_for_each(Watched::look)?;
        }
    }
    eprintln!(
        "{} of {} {} after {:.1} s",
        clients.len(),
        kind.clients,
        kind.name,
        begun.elapsed().as_secs_f64()
    );
    Ok(Here {
        clients,
        then: kind.then,
    })
}

/// Failed requests of the good client, while the crowd goes on.
fn beside(good: &mut Lasting, crowd: &mut [Here], watched: &mut [Watched]) -> usize {
    let mut failed = 0;
    for number in 0..GOOD {
        if number % (GOOD / ROUNDS) == 0 {
            for here in crowd.iter_mut() {
                here.clients
                    .retain_mut(|client| match client.write(here.then) {
                        Ok(_) => true,
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    });
            }
        }
        if let Err(trouble) = good.ask() {
            eprintln!("a good request failed: {trouble}");
            failed += 1;
        }
        if watched.iter_mut().try_for_each(Watched::look).is_err() {
            eprintln!("a proxy has ended");
            return GOOD;
        }
    }
    failed
}

/// When all have gone, anybody is served again, and what they held is given back.
fn recovery(mesh: &Mesh, caller: SocketAddr) -> Result<Point> {
    let begun = Instant::now();
    wait_for("all memory to be given back", PATIENCE, || {
        http::get(caller, &format!("http://{HOST}/"), &[])?.expect(200)?;
        let taken = mesh.metric((AUTHORITY, PROXIES[0]), TAKEN, &[])?;
        ensure(taken * 4.0 < 32e6, || format!("{taken} bytes are taken"))
    })?;
    let bound = Duration::from_secs(10);
    Ok(Point::at_most(
        "until a new client was served and the memory given back",
        begun.elapsed(),
        bound,
    ))
}

/// A client that keeps its connection.
struct Lasting(TcpStream);

impl Lasting {
    fn new(to: SocketAddr) -> Result<Self> {
        http::connect(to).map(Self)
    }

    /// Errors: the answer is not 200.
    fn ask(&mut self) -> Result<()> {
        let during = || "a request on a connection that was there before".to_owned();
        let request = format!("GET / HTTP/1.1\r\nhost: {OTHER}\r\n\r\n");
        self.0.write_all(request.as_bytes()).during(during)?;
        let mut reply = Vec::new();
        let mut block = [0; 4096];
        loop {
            let count = self.0.read(&mut block).during(during)?;
            if count == 0 {
                return trouble("the connection was closed");
            }
            reply.extend_from_slice(&block[..count]);
            if is_whole(&reply)? {
                break;
            }
        }
        ensure(reply.starts_with(b"HTTP/1.1 200 "), || {
            String::from_utf8_lossy(&reply).into_owned()
        })
    }
}

/// Errors: it does not say how long it is.
fn is_whole(reply: &[u8]) -> Result<bool> {
    let Some(end) = find(reply, b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    match length.and_then(|length| length.trim().parse::<usize>().ok()) {
        Some(length) => Ok(reply.len() >= end + 4 + length),
        None => trouble(format!("a reply of unknown length: {head}")),
    }
}
