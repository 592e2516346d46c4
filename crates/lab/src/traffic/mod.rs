//! Traffic of every protocol at a fixed rate, whose every answer is known, and the program that
//! gives the answers.
//!
//! Clients behave well and forgive nothing: they look whether a connection was ended before they use
//! it, and never send again what they have sent.

mod chance;
mod head;
mod http1;
mod http2;
mod journal;
pub mod program;
mod scene;
mod stream;
mod tally;
mod timeline;
mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until, timeout};

pub use self::chance::Chance;
use self::http1::Pool;
pub use self::http2::{Client, read};
pub use self::journal::{Executed, executed};
pub use self::scene::{CLUSTERS, Scene};
use self::stream::Stream;
pub use self::tally::{Count, Counts, Failure, Kind, Tally};
pub use self::timeline::{DRAIN, Episode, GoingOn, Harm, Timeline};
pub use self::words::{frame, unframe};
use crate::trouble::{During, Result, Trouble};

/// From one caller to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Where the caller's proxy takes calls.
    pub proxy: SocketAddr,
    /// Of the service; HTTP/1.1 is on port 80, HTTP/2 on 81.
    pub host: String,
    /// A local listener of the proxy that leads to the service's TCP.
    pub listener: SocketAddr,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Plan {
    pub lanes: Vec<Lane>,
    /// Requests a second, of all kinds and lanes together.
    pub rate: u32,
    /// Streams of each kind that are open on each lane.
    pub streams: usize,
    /// A stream lives so long: at least, and less than.
    pub life: (Duration, Duration),
    /// Stands in all ids: no two plans for one mesh may have the same.
    pub seed: u64,
}

/// Traffic that goes on until it is stopped or dropped.
#[derive(Debug)]
pub struct Traffic {
    pub tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Ten requests in turn.
const MIX: [Kind; 10] = [
    Kind::Get1,
    Kind::Get2,
    Kind::Get1,
    Kind::Call,
    Kind::New1,
    Kind::Get1,
    Kind::Get2,
    Kind::Post1,
    Kind::Post2,
    Kind::Line,
];
const STREAMS: [Kind; 3] = [Kind::Chat, Kind::Tunnel, Kind::Session];
/// Longest time of one exchange: longer than the mesh's own limit for a request.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two messages of a stream, in milliseconds.
const PAUSE: (u64, u64) = (500, 1500);
/// Before a stream that could not be opened is opened again.
const AGAIN: Duration = Duration::from_secs(1);

impl Traffic {
    /// Errors: there is no thread to be had.
    pub fn start(plan: Plan, timeline: Arc<Timeline>) -> Result<Self> {
        let tally = Arc::<Tally>::default();
        let (stop, stopped) = watch::channel(false);
        let run = Run {
            plan,
            tally: tally.clone(),
            timeline,
            stopped,
        };
        let thread = thread::Builder::new().name("traffic".to_owned());
        let thread = thread.spawn(move || {
            let runtime = runtime()?;
            LocalSet::new().block_on(&runtime, Rc::new(run).drive());
            Ok(())
        });
        Ok(Self {
            tally,
            stop,
            thread: Some(thread.during(|| "a thread for the traffic".to_owned())?),
        })
    }

    /// Begins nothing more, waits for all that has begun, and says what became of it.
    pub fn finish(mut self) -> Result<Counts> {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            ended.map_err(|_| Trouble("the traffic has panicked".to_owned()))??;
        }
        Ok(self.tally.all())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// What all requests and streams share.
struct Run {
    plan: Plan,
    tally: Arc<Tally>,
    timeline: Arc<Timeline>,
    stopped: watch::Receiver<bool>,
}

/// Clients of one proxy.
struct Caller {
    http1: Pool,
    http2: Client,
}

type Callers = BTreeMap<SocketAddr, Rc<Caller>>;

impl Run {
    async fn drive(self: Rc<Self>) {
        let caller = |lane: &Lane| {
            let caller = Caller {
                http1: Pool::new(lane.proxy),
                http2: Client::new(lane.proxy, self.tally.clone()),
            };
            (lane.proxy, Rc::new(caller))
        };
        let callers: Callers = self.plan.lanes.iter().map(caller).collect();
        let mut streams = JoinSet::new();
        let mut seed = self.plan.seed;
        for lane in &self.plan.lanes {
            for kind in STREAMS.repeat(self.plan.streams) {
                seed = seed.wrapping_add(1);
                let chance = Chance::new(seed);
                let caller = callers[&lane.proxy].clone();
                streams.spawn_local(self.clone().keep(kind, lane.clone(), caller, chance));
            }
        }
        let mut requests = JoinSet::new();
        let begun = Instant::now();
        let mut stopped = self.stopped.clone();
        for number in 0_u64.. {
            let due = begun + Duration::from_secs(number) / self.plan.rate.max(1);
            tokio::select! {
                () = sleep_until(due.into()) => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
            let (kind, lane) = self.turn(number);
            let caller = callers[&lane.proxy].clone();
            requests.spawn_local(self.clone().ask(kind, number, lane.clone(), caller, due));
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
        while streams.join_next().await.is_some() {}
    }

    /// Whose turn it is.
    fn turn(&self, number: u64) -> (Kind, &Lane) {
        let place = usize::try_from(number).unwrap_or(0);
        let lanes = &self.plan.lanes;
        let kind = MIX[place % MIX.len()];
        (kind, &lanes[place / MIX.len() % lanes.len()])
    }

    /// One request.
    async fn ask(
        self: Rc<Self>,
        kind: Kind,
        number: u64,
        lane: Lane,
        caller: Rc<Caller>,
        due: Instant,
    ) {
        // Two runs through one mesh have no id in common.
        let id = format!("{}-{}-{number}", kind.name(), self.plan.seed);
        self.tally.begun(kind);
        let (host, Caller { http1, http2 }) = (&lane.host, &*caller);
        let host2 = format!("{host}:81");
        let asked = async {
            match kind {
                Kind::Get1 => http1.get(host, &id).await,
                Kind::New1 => http1.get_anew(host, &id).await,
                Kind::Post1 => http1.post(host, &id).await,
                Kind::Get2 => http2.get(&host2, &id).await,
                Kind::Post2 => http2.post(&host2, &id).await,
                Kind::Call => http2.call(&host2, &id).await,
                Kind::Line => stream::line(lane.listener, &id).await,
                Kind::Chat | Kind::Tunnel | Kind::Session => Ok(()),
            }
        };
        match patiently(asked).await {
            Ok(()) => {
                self.tally.took(kind, due.elapsed());
                self.tally.good(kind);
            }
            Err(failure) => self.failed(kind, &format!("{id} of {host}"), due, &failure),
        }
    }

    fn failed(&self, kind: Kind, id: &str, from: Instant, failure: &Failure) {
        self.tally.failed(&self.timeline, kind, id, from, failure);
    }

    /// Keeps one stream open: when it has ended, the next one is opened.
    async fn keep(self: Rc<Self>, kind: Kind, lane: Lane, caller: Rc<Caller>, mut chance: Chance) {
        let is_stopped = || *self.stopped.borrow();
        while !is_stopped() {
            let number = chance.between(0, u64::MAX);
            let id = format!("{}-{number:016x} of {}", kind.name(), lane.host);
            let opened = Instant::now();
            self.tally.begun(kind);
            match patiently(open(kind, &lane, &caller, &format!("{number:016x}"))).await {
                Ok(stream) => self.live(kind, &id, stream, &mut chance).await,
                Err(failure) => {
                    let why = format!("opening: {}", failure.why);
                    self.failed(kind, &id, opened, &Failure { why, ..failure });
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn live(&self, kind: Kind, id: &str, mut stream: Stream, chance: &mut Chance) {
        let opened = Instant::now();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (shortest, longest) = self.plan.life;
        let life = Duration::from_millis(chance.between(millis(shortest), millis(longest)));
        let mut stopped = self.stopped.clone();
        let (mut last, mut number) = (opened, 0_u64);
        while opened.elapsed() < life {
            let begun = Instant::now();
            number += 1;
            if let Err(failure) = patiently(stream.say(&number.to_string())).await {
                if let Some(restart) = self.timeline.first_drain_since(opened) {
                    self.tally.outlived(restart.elapsed());
                }
                let why = format!("{} at its message {number}", failure.why);
                return self.failed(kind, id, last, &Failure { why, ..failure });
            }
            self.tally.took(kind, begun.elapsed());
            last = Instant::now();
            let pause = Duration::from_millis(chance.between(PAUSE.0, PAUSE.1));
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        }
        match patiently(stream.close()).await {
            Ok(()) => self.tally.good(kind),
            Err(failure) => {
                let why = format!("closing after {number} messages: {}", failure.why);
                self.failed(kind, id, last, &Failure { why, ..failure });
            }
        }
    }
}

async fn open(kind: Kind, lane: &Lane, caller: &Caller, id: &str) -> Result<Stream, Failure> {
    match kind {
        Kind::Chat => {
            let host = format!("{}:81", lane.host);
            caller.http2.chat(&host, id).await.map(Stream::Chat)
        }
        Kind::Tunnel => Stream::tunnel(lane.proxy, &lane.host, id).await,
        _ => Stream::session(lane.listener).await,
    }
}

/// Errors: it failed, or took too long.
pub async fn patiently<T>(act: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, act).await.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Err(Failure::new(format!("nothing for {seconds} s")))
    })
}

/// Of one thread. Errors: the kernel has none.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during(|| "a runtime".to_owned())
}
