//! Where connections come in: the loop of every listener, and how much is taken at once.
//!
//! Who comes when there is no room is let go at once, so that it learns it and can go elsewhere, and
//! so that the queue never stands still: a process that has run out of descriptors keeps one in
//! reserve to take a connection with and close it. Knows nothing of what connections carry.

use std::collections::HashMap;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use isthmus_codec::memory::{MemoryBudget, Share};
use isthmus_telemetry::Metrics;
use isthmus_world::{DrainWatch, Live};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::config::Config;
use crate::deal::{Hand, Seat};
use crate::introduction::{Network, NotIntroduced, introduce};
use crate::memory::CONNECTION;

/// After an error that may pass.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// That connections were let go is told once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A machine behind one address may have so many connections, however few all may have.
const LEAST_PER_SOURCE: usize = 64;
/// Connections of load balancers, on one listener, that have not said yet whose they are.
const MOST_UNTOLD: usize = 1024;
/// Where a process may have any number of descriptors.
const NO_LIMIT: u64 = 1 << 20;

/// Who comes to a listener?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comers {
    /// Programs of this machine.
    Beside,
    /// Proxies, of any machine: none may take all the room.
    Mesh,
    /// Who asks how this process is; never turned away for want of memory.
    Watchers,
}

/// Room for connections, of one process.
#[derive(Debug)]
pub(crate) struct Intake {
    most: usize,
    per_source: usize,
    /// Load balancers that say whose connections they hand on.
    believed: Vec<Network>,
    held: Mutex<Held>,
    memory: MemoryBudget,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    sources: HashMap<IpAddr, usize>,
    /// When it was told last that connections were let go, and how many were since.
    told: Option<Instant>,
    untold: u64,
}

/// The room of one connection, until it is dropped, and its part in the drain.
#[derive(Debug)]
pub(crate) struct Place {
    intake: Arc<Intake>,
    /// `None`: all comers of its kind are one.
    source: Option<IpAddr>,
    #[expect(dead_code, reason = "held, never read")]
    live: Live,
    #[expect(dead_code, reason = "held, never read")]
    memory: Share,
    /// At the worker that serves it.
    seat: Option<Seat>,
}

/// Why a connection is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Descriptors,
    Process,
    Source,
    Memory,
}

impl Full {
    fn reason(self) -> &'static str {
        match self {
            Self::Descriptors => "no-descriptors",
            Self::Process => "too-many",
            Self::Source => "too-many-of-source",
            Self::Memory => "no-memory",
        }
    }
}

impl Intake {
    /// Of this process: a quarter of its descriptors stays for connections that it opens itself and
    /// for files.
    pub(crate) fn of_process(
        config: &Config,
        metrics: Arc<Metrics>,
        memory: MemoryBudget,
    ) -> Arc<Self> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(NO_LIMIT);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let mut intake = Self::new(descriptors / 4 * 3, metrics, memory);
        intake.believed.clone_from(&config.proxy_protocol_from);
        if let Some(limit) = config.limits.connections_per_source {
            intake.per_source = limit;
        }
        Arc::new(intake)
    }

    fn new(most: usize, metrics: Arc<Metrics>, memory: MemoryBudget) -> Self {
        Self {
            most,
            per_source: (most / 4).max(LEAST_PER_SOURCE),
            believed: Vec::new(),
            held: Mutex::default(),
            memory,
            metrics,
        }
    }

    fn believes(&self, peer: IpAddr) -> bool {
        self.believed.iter().any(|network| network.contains(peer))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        self: &Arc<Self>,
        comers: Comers,
        source: Option<IpAddr>,
        live: Live,
    ) -> Result<Place, Full> {
        let memory = match comers {
            Comers::Beside | Comers::Mesh => {
                self.memory.admit_host(CONNECTION).ok_or(Full::Memory)?
            }
            Comers::Watchers => {
                let mut share = self.memory.share();
                share.hold(CONNECTION);
                share
            }
        };
        let mut held = self.held();
        if held.total >= self.most {
            return Err(Full::Process);
        }
        if let Some(source) = source {
            let of_source = held.sources.entry(source).or_default();
            if *of_source >= self.per_source {
                return Err(Full::Source);
            }
            *of_source += 1;
        }
        held.total += 1;
        drop(held);
        Ok(Place {
            intake: Arc::clone(self),
            source,
            live,
            memory,
            seat: None,
        })
    }

    /// Nobody can say whose connection it is.
    fn refuse(&self, error: &NotIntroduced) {
        self.metrics.count_connection_shed("proxy-header");
        tracing::debug!(%error, "a load balancer did not say whose connection it hands on");
    }

    /// A connection was let go. Counted each time, told now and then.
    fn shed(&self, full: Full) {
        let reason = full.reason();
        self.metrics.count_connection_shed(reason);
        let mut held = self.held();
        held.untold += 1;
        if held.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            held.told = Some(Instant::now());
            let count = std::mem::take(&mut held.untold);
            drop(held);
            tracing::warn!(
                reason,
                count,
                "connections were let go for want of room; see how many a process may have \
                 (`ulimit -n`, LimitNOFILE=), how much memory (`memory` in its file), and who opens \
                 so many"
            );
        }
    }
}

impl Place {
    /// Whose connection it is, as far as that makes a difference.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.source
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.intake.held();
        held.total = held.total.saturating_sub(1);
        if let Some(source) = self.source
            && let Some(count) = held.sources.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                held.sources.remove(&source);
            }
        }
    }
}

/// Where one worker takes the connections of one address: from its sockets, and from other workers.
pub(crate) struct Door {
    sockets: Sockets,
    hand: Hand<Place>,
}

/// More than one where an earlier process had more workers: what waits in the queue of any must be taken.
struct Sockets {
    all: Vec<TcpListener>,
    /// Who is asked first.
    next: usize,
}

impl Door {
    /// Errors: the sockets are no use to this thread's runtime.
    pub(crate) fn open(sockets: Vec<std::net::TcpListener>, hand: Hand<Place>) -> io::Result<Self> {
        let all: io::Result<_> = sockets.into_iter().map(TcpListener::from_std).collect();
        let sockets = Sockets { all: all?, next: 0 };
        Ok(Self { sockets, hand })
    }
}

impl Sockets {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let first = self.next;
            for number in (0..self.all.len()).map(|step| (first + step) % self.all.len()) {
                if let Poll::Ready(accepted) = self.all[number].poll_accept(cx) {
                    self.next = number + 1;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The loop of every door of a proxy, until the drain begins and whoever came before is let in.
pub(crate) async fn accept(
    intake: &Arc<Intake>,
    mut drain: DrainWatch,
    door: Door,
    comers: Comers,
    serve: impl Fn(TcpStream, Place),
) {
    let Door {
        mut sockets,
        mut hand,
    } = door;
    let mut reserve = Reserve::new();
    let mut introduced = JoinSet::new();
    let let_in = |hand: &Hand<Place>, socket, place: Result<Place, Full>| match place {
        Ok(mut place) => {
            let sit = |seat| {
                place.seat = Some(seat);
                place
            };
            if let Some((socket, place)) = hand.keep(socket, sit) {
                serve(socket, place);
            }
        }
        Err(full) => intake.shed(full),
    };
    let receive = |hand: &Hand<Place>, done: Result<Result<_, NotIntroduced>, JoinError>| match done
    {
        Ok(Ok((socket, source, live))) => {
            let place = intake.admit(comers, Some(source), live);
            let_in(hand, socket, place);
        }
        Ok(Err(error)) => intake.refuse(&error),
        // Its task has been ended, with everything else.
        Err(_) => {}
    };
    // As long as connections may come, not all is finished, and none comes unnoticed at the last moment.
    let open = drain.live();
    loop {
        let accepted = tokio::select! {
            () = drain.draining() => break,
            Some(done) = introduced.join_next() => {
                receive(&hand, done);
                continue;
            }
            (socket, place) = hand.passed() => {
                serve(socket, place);
                continue;
            }
            accepted = sockets.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Without it small writes wait for acknowledgements; failing to set it hurts nobody.
                let _ = socket.set_nodelay(true);
                let peer = peer.ip().to_canonical();
                if comers == Comers::Mesh && intake.believes(peer) {
                    if introduced.len() < MOST_UNTOLD {
                        let live = drain.live();
                        introduced.spawn_local(async move {
                            let (socket, source) = introduce(socket, peer).await?;
                            Ok((socket, source, live))
                        });
                    } else {
                        intake.shed(Full::Process);
                    }
                    continue;
                }
                let source = (comers == Comers::Mesh).then_some(peer);
                let place = intake.admit(comers, source, drain.live());
                let_in(&hand, socket, place);
            }
            Err(error) if is_out_of_descriptors(&error) => {
                intake.shed(Full::Descriptors);
                if reserve.let_one_go(&mut sockets).await.is_err() {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
            // The client has changed its mind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop((sockets, open));
    // Nobody passes anything on to this worker behind this: who would serves it.
    for (socket, place) in hand.rest().await {
        serve(socket, place);
    }
    while let Some(done) = introduced.join_next().await {
        receive(&hand, done);
    }
}

/// Of this process, or of the machine.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// A descriptor that is given up for the moment in which a connection is taken and closed.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Errors: somebody else has taken the descriptor; nothing was let go.
    async fn let_one_go(&mut self, sockets: &mut Sockets) -> io::Result<()> {
        self.0 = None;
        // There was one a moment ago; if its client has gone, there may be none.
        let accepted = tokio::select! {
            biased;
            accepted = sockets.accept() => accepted.map(drop),
            () = std::future::ready(()) => Ok(()),
        };
        *self = Self::new();
        accepted?;
        self.0.as_ref().map(drop).ok_or(io::ErrorKind::Other.into())
    }
}

#[cfg(test)]
mod tests {
    use isthmus_world::Drain;

    use super::*;
    use crate::testing::plenty;

    #[test]
    fn room_is_given_back_and_no_source_takes_it_all() {
        let metrics = Arc::new(Metrics::new("test", 1));
        let intake = Arc::new(Intake::new(4 * LEAST_PER_SOURCE, metrics, plenty()));
        let drain = Drain::new();
        let admit = |source: Option<&str>| {
            let source = source.map(|source| source.parse().unwrap());
            intake.admit(Comers::Mesh, source, drain.watch().live())
        };
        let greedy: Vec<_> = (0..LEAST_PER_SOURCE)
            .map(|_| admit(Some("192.0.2.1")).unwrap())
            .collect();
        assert_eq!(admit(Some("192.0.2.1")).unwrap_err(), Full::Source);
        let others: Vec<_> = (0..3 * LEAST_PER_SOURCE)
            .map(|_| admit(None).unwrap())
            .collect();
        assert_eq!(admit(Some("192.0.2.2")).unwrap_err(), Full::Process);
        assert_eq!(drain.live(), 4 * LEAST_PER_SOURCE);
        drop(greedy);
        drop(admit(Some("192.0.2.1")).unwrap());
        drop(others);
        assert_eq!(drain.live(), 0);
        assert!(intake.held().sources.is_empty());
        assert_eq!(intake.held().total, 0);
    }

    #[test]
    fn without_memory_only_those_are_taken_who_ask_how_this_process_is() {
        let metrics = Arc::new(Metrics::new("test", 1));
        // The last eighth is for requests.
        let memory = MemoryBudget::new(3 * CONNECTION);
        let intake = Arc::new(Intake::new(1_000, metrics, memory.clone()));
        let drain = Drain::new();
        let admit = |comers| intake.admit(comers, None, drain.watch().live());
        let first = admit(Comers::Beside).unwrap();
        let second = admit(Comers::Mesh).unwrap();
        assert_eq!(admit(Comers::Beside).unwrap_err(), Full::Memory);
        assert_eq!(admit(Comers::Mesh).unwrap_err(), Full::Memory);
        drop(admit(Comers::Watchers).unwrap());
        drop(first);
        let third = admit(Comers::Beside).unwrap();
        drop((second, third));
        assert_eq!(memory.taken(), 0);
    }
}
