//! Resident memory of proxies: untouched, at work, and with connections that nobody uses.
//!
//! It takes processes that have done nothing yet.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{scope, sleep};
use std::time::Duration;

use isthmus_lab::http::connect;
use isthmus_lab::trouble::{During, Result, Trouble, ensure};

use crate::load::{Held, Load, Size, hold_sessions};
use crate::program::BODY;
use crate::samples::{Measure, Sample};
use crate::stage::Way;

/// Between two looks at processes that work.
const LOOK: Duration = Duration::from_millis(100);

/// What the proxies of a way hold, at most, while something is done with `connections`.
pub(crate) fn sample(
    way: &Way,
    held: Held,
    connections: usize,
    duration: Duration,
) -> Result<Sample> {
    let before = way.resident()?;
    let during = match held {
        Held::Nothing => before.clone(),
        Held::Active => active(way, connections, duration)?,
        Held::Clients => {
            let clients = clients(way, connections)?;
            let resident = way.resident()?;
            drop(clients);
            resident
        }
        Held::Sessions => {
            let sessions = hold_sessions(way, connections)?;
            let resident = way.resident()?;
            drop(sessions);
            resident
        }
    };
    let largest = during.iter().copied().max().unwrap_or_default();
    let grown = during
        .iter()
        .zip(&before)
        .map(|(during, before)| during.saturating_sub(*before));
    let grown = grown.max().unwrap_or_default();
    let mut sample = Sample::from([(Measure::Resident, number(largest) / 1_048_576.0)]);
    if matches!(held, Held::Clients | Held::Sessions) {
        let each = number(grown) / 1024.0 / number(connections as u64);
        sample.insert(Measure::PerConnection, each);
    }
    Ok(sample)
}

/// The most while every connection has a request under way.
fn active(way: &Way, connections: usize, duration: Duration) -> Result<Vec<u64>> {
    let load = Load::Http1 { size: Size::Small };
    let mut most = way.resident()?;
    scope(|scope| {
        let running = scope.spawn(|| load.run(way, connections, duration));
        while !running.is_finished() {
            for (most, now) in most.iter_mut().zip(way.resident()?) {
                *most = now.max(*most);
            }
            sleep(LOOK);
        }
        let ended = running.join();
        ended.map_err(|_| Trouble("a client has panicked".to_owned()))?
    })?;
    Ok(most)
}

/// Clients of HTTP/1.1 that have each had a reply, and want nothing now.
fn clients(way: &Way, connections: usize) -> Result<Vec<TcpStream>> {
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", way.host);
    let during = || way.address.to_string();
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut socket = connect(way.address)?;
        socket.write_all(request.as_bytes()).during(during)?;
        let mut reply = Vec::with_capacity(4096);
        while !reply.ends_with(&BODY) {
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).during(during)?;
            ensure(read > 0, || "a connection was closed".to_owned())?;
            reply.extend_from_slice(&buffer[..read]);
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

#[expect(clippy::cast_precision_loss, reason = "no memory is that large")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}
