//! An open loop of HTTP/1.1: a request is sent when it is due, whatever became of those before, and
//! its latency counts from then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use isthmus_lab::http::find;
use isthmus_lab::trouble::{During, Result, Trouble, ensure};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::Done;
use crate::program::BODY;
use crate::stage::Way;

/// Longest time that replies may take, beyond the run.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST_NANOS: u64 = 60_000_000_000;
const NANOS: u64 = 1_000_000_000;

/// Sends `rate` requests per second.
pub(super) fn run(way: &Way, rate: u32, duration: Duration) -> Result<Done> {
    ensure(rate > 0, || "nothing is to be sent".to_owned())?;
    let host = way.host;
    let client = Rc::new(Client {
        address: way.address,
        request: format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes(),
        idle: RefCell::default(),
        latency: RefCell::new(
            Histogram::new_with_bounds(1, LONGEST_NANOS, 3).during(|| "a histogram".to_owned())?,
        ),
    });
    let sending = send_all(Rc::clone(&client), rate, duration);
    let took = LocalSet::new().block_on(&crate::runtime()?, sending)?;
    let latency = client.latency.borrow();
    let micros = |share| number(latency.value_at_quantile(share)) / 1000.0;
    Ok(Done {
        count: number(latency.len()),
        took,
        p50: Some(micros(0.5)),
        p99: Some(micros(0.99)),
    })
}

struct Client {
    address: std::net::SocketAddr,
    request: Vec<u8>,
    /// Connections that have no request.
    idle: RefCell<Vec<TcpStream>>,
    /// In nanoseconds.
    latency: RefCell<Histogram<u64>>,
}

async fn send_all(client: Rc<Client>, rate: u32, duration: Duration) -> Result<Duration> {
    let interval = Duration::from_nanos(NANOS / u64::from(rate));
    let mut ticks = Ticks::every(interval)?;
    let mut requests = JoinSet::new();
    let begun = Instant::now();
    let mut due = begun;
    while begun.elapsed() < duration {
        for _ in 0..ticks.next().await? {
            due += interval;
            requests.spawn_local(Rc::clone(&client).ask(due));
        }
        while let Some(ended) = requests.try_join_next() {
            ended.during(|| "a request".to_owned())??;
        }
    }
    let took = begun.elapsed();
    let rest = async {
        while let Some(ended) = requests.join_next().await {
            ended.during(|| "a request".to_owned())??;
        }
        Ok(())
    };
    let ended = timeout(PATIENCE, rest).await;
    ended.unwrap_or_else(|_| Err(Trouble("replies did not come".to_owned())))?;
    Ok(took)
}

/// Tokio's own timers are no finer than a millisecond.
struct Ticks(AsyncFd<rustix::fd::OwnedFd>);

impl Ticks {
    fn every(interval: Duration) -> Result<Self> {
        let during = || "a timer".to_owned();
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).during(during)?;
        let interval = Timespec::try_from(interval).during(during)?;
        let schedule = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &schedule).during(during)?;
        #[expect(
            deprecated,
            reason = "sound for a descriptor that is owned; its successor is unsafe"
        )]
        let timer = AsyncFd::new(timer);
        Ok(Self(timer.during(during)?))
    }

    /// How many have passed since it was asked before; at least one.
    async fn next(&mut self) -> Result<u64> {
        let during = || "a timer".to_owned();
        loop {
            let mut ready = self.0.readable().await.during(during)?;
            let mut passed = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut passed)?));
            if let Ok(read) = read {
                read.during(during)?;
                return Ok(u64::from_ne_bytes(passed));
            }
        }
    }
}

impl Client {
    /// One request. Errors: anything but the program's own reply.
    async fn ask(self: Rc<Self>, due: Instant) -> Result<()> {
        let during = || format!("asking {}", self.address);
        let idle = self.idle.borrow_mut().pop();
        let mut socket = match idle {
            Some(socket) => socket,
            None => TcpStream::connect(self.address).await.during(during)?,
        };
        socket.set_nodelay(true).during(during)?;
        socket.write_all(&self.request).await.during(during)?;
        let mut received = Vec::with_capacity(4096);
        while !is_reply(&received)? {
            let read = socket.read_buf(&mut received).await.during(during)?;
            ensure(read > 0, || format!("{} closed a connection", self.address))?;
        }
        let nanos = u64::try_from(due.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS);
        self.latency.borrow_mut().saturating_record(nanos);
        self.idle.borrow_mut().push(socket);
        Ok(())
    }
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
        let text = String::from_utf8_lossy(received);
        Trouble(format!("an odd reply: {text}"))
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

#[expect(clippy::cast_precision_loss, reason = "no run counts so far")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
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
}
