//! A closed loop: every connection sends a request when the reply to the one before is there.
//!
//! It never retries. Anything but the program's own reply, or a connection that ends, fails the run.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use isthmus_lab::http::find;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, trouble};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::program::BODY;

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The program itself, or somebody's outbound proxy.
    pub(crate) address: SocketAddr,
    /// The same bytes on every path but for the name: in absolute form, as for a proxy.
    pub(crate) request: Vec<u8>,
}

/// How hard and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Before anything counts.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What counted, between two looks at everything else.
#[derive(Debug)]
pub(crate) struct Measured<T> {
    /// Of each request, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) took: Duration,
    pub(crate) before: T,
    pub(crate) after: T,
}

/// Longest time that a reply may take, beyond the run.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST_NANOS: u64 = 60_000_000_000;

impl Target {
    pub(crate) fn new(address: SocketAddr, host: &str) -> Self {
        let request = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
        Self {
            address,
            request: request.into_bytes(),
        }
    }
}

/// What all connections of a run share.
struct Tally {
    latency: RefCell<Histogram<u64>>,
    stop: Cell<bool>,
}

/// Runs a load and looks at the machine when counting begins and when it ends.
///
/// Errors: any request that failed.
pub(crate) fn run<T>(
    target: &Target,
    load: Load,
    look: impl Fn() -> Result<T>,
) -> Result<Measured<T>> {
    let runtime = super::runtime()?;
    LocalSet::new().block_on(&runtime, drive(target, load, look))
}

async fn drive<T>(
    target: &Target,
    load: Load,
    look: impl Fn() -> Result<T>,
) -> Result<Measured<T>> {
    let histogram = Histogram::new_with_bounds(1, LONGEST_NANOS, 3);
    let tally = Rc::new(Tally {
        latency: RefCell::new(histogram.during(|| "a histogram".to_owned())?),
        stop: Cell::new(false),
    });
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        connections.spawn_local(ask(target.clone(), Rc::clone(&tally)));
    }
    undisturbed(&mut connections, load.warm_up).await?;
    tally.latency.borrow_mut().reset();
    let (begun, before) = (Instant::now(), look()?);
    undisturbed(&mut connections, load.duration).await?;
    let (took, after) = (begun.elapsed(), look()?);
    let latency = tally.latency.borrow().clone();
    tally.stop.set(true);
    let ending = async {
        while let Some(ended) = connections.join_next().await {
            ended.during(|| "a connection".to_owned())??;
        }
        Ok(())
    };
    match timeout(PATIENCE, ending).await {
        Ok(ended) => ended?,
        Err(_) => return trouble(format!("no reply within {} s", PATIENCE.as_secs())),
    }
    Ok(Measured {
        latency,
        took,
        before,
        after,
    })
}

/// Lets them work. Errors: one has ended.
async fn undisturbed(connections: &mut JoinSet<Result<()>>, time: Duration) -> Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        ended = connections.join_next() => match ended {
            Some(Ok(Err(trouble))) => Err(trouble),
            Some(Err(error)) => trouble(error.to_string()),
            _ => trouble("there is no connection"),
        },
    }
}

/// One connection.
async fn ask(target: Target, tally: Rc<Tally>) -> Result<()> {
    let during = || format!("asking {}", target.address);
    let mut socket = TcpStream::connect(target.address).await.during(during)?;
    socket.set_nodelay(true).during(during)?;
    let mut received = Vec::with_capacity(4096);
    while !tally.stop.get() {
        let begun = Instant::now();
        socket.write_all(&target.request).await.during(during)?;
        while !is_reply(&received)? {
            let read = socket.read_buf(&mut received).await.during(during)?;
            ensure(read > 0, || {
                format!("{} closed a connection", target.address)
            })?;
        }
        received.clear();
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS);
        tally.latency.borrow_mut().saturating_record(nanos);
    }
    Ok(())
}

/// Is the program's reply there, whole? False: its beginning is.
///
/// Errors: it is something else.
fn is_reply(received: &[u8]) -> Result<bool> {
    let Some(end) = find(received, b"\r\n\r\n") else {
        return Ok(false);
    };
    let body = &received[end + 4..];
    let odd = || {
        Trouble(format!(
            "an odd reply: {}",
            String::from_utf8_lossy(received)
        ))
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| odd())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok()).flatten()
    });
    if status != Some("200") || length != Some(BODY.len()) || !BODY.starts_with(body) {
        return Err(odd());
    }
    Ok(body.len() == BODY.len())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn only_the_programs_own_reply_counts() {
        let body = |count| ".".repeat(count);
        let whole = |head: &str, count| format!("{head}\r\n\r\n{}", body(count));
        let good = "HTTP/1.1 200 OK\r\nvia: x\r\nContent-Length: 1024";
        for (received, expect) in [
            (String::new(), Ok(false)),
            ("HTTP/1.1 503 No\r\nconte".to_owned(), Ok(false)),
            (whole(good, 0), Ok(false)),
            (whole(good, 1023), Ok(false)),
            (whole(good, 1024), Ok(true)),
            (whole(good, 1025), Err(())),
            (whole(&good.replace("200", "503"), 1024), Err(())),
            (whole(&good.replace("1024", "1023"), 1023), Err(())),
            (whole(good, 1023) + "x", Err(())),
            (whole("HTTP/1.1 200 OK", 1024), Err(())),
        ] {
            let found = is_reply(received.as_bytes()).map_err(drop);
            assert_eq!(found, expect, "{received}");
        }
    }

    /// Replies that are none of the program's end a run that would go on for an hour.
    #[test]
    fn a_failed_request_fails_the_run() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let program = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            socket.read_exact(&mut request).unwrap();
            socket.write_all(b"HTTP/1.1 503 No\r\n\r\n").unwrap();
            request
        });
        let load = Load {
            connections: 1,
            warm_up: Duration::from_hours(1),
            duration: Duration::ZERO,
        };
        let measured = run(&Target::new(address, "near.bench.mesh"), load, || Ok(()));
        assert!(measured.unwrap_err().0.contains("503"));
        assert_eq!(&program.join().unwrap(), b"GET ");
    }
}
