//! A TCP relay that stands for the links between clusters.
//!
//! Each link has routes: an address in one cluster that stands for an address in the other. Bytes
//! cross it in order, after half of the round trip; a new connection takes a whole one first, as a
//! handshake would. A link can be cut (connections are reset) or black-holed (connections stay open
//! and nothing moves). The relay never looks into what it carries.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::delay::{DelayLine, Piece};

/// A link as it is to be emulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// Unique among the relay's links.
    pub name: String,
    /// Round-trip time that the link adds.
    pub rtt: Duration,
    pub routes: Vec<RoutePlan>,
}

/// One address that stands for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePlan {
    pub listen: SocketAddr,
    pub target: SocketAddr,
    /// Which way its connections are opened.
    pub opens: Way,
}

/// From one end of a link to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the end that the link names first.
    Out,
    Back,
}

/// What a link does with traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Open,
    /// Connections are reset, new ones at once.
    Cut,
    /// Connections stay open and are accepted; nothing is forwarded until the link opens again.
    BlackHole,
    /// Likewise, of what goes this way; no connection is opened, which takes both.
    Silent(Way),
}

impl Way {
    /// The way of what comes back.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Out => Self::Back,
            Self::Back => Self::Out,
        }
    }
}

impl Mode {
    fn passes(self, way: Way) -> bool {
        match self {
            Self::Open => true,
            Self::Cut | Self::BlackHole => false,
            Self::Silent(silent) => silent != way,
        }
    }
}

/// What a link has carried since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub connections: u64,
    pub open: u64,
    /// Bytes delivered towards the targets.
    pub bytes_out: u64,
    /// Bytes delivered back from the targets.
    pub bytes_back: u64,
}

/// Why a relay does not begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} (link {link}) cannot be listened on: {source}")]
    Listen {
        link: String,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the relay's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// There is no such link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no link {0:?}")]
pub struct UnknownLink(pub String);

/// A relay whose listeners are bound; connections wait until it is served.
#[derive(Debug)]
pub struct Relay {
    links: BTreeMap<String, Arc<Link>>,
    routes: Vec<(StdListener, RoutePlan, Arc<Link>)>,
}

/// A relay at work on a thread of its own. Dropping it ends the relay.
#[derive(Debug)]
pub struct RelayHandle {
    links: BTreeMap<String, Arc<Link>>,
    /// Closed when the handle goes: the thread's reason to end.
    _alive: watch::Sender<()>,
}

struct Link {
    rtt: Duration,
    mode: watch::Sender<Mode>,
    connections: AtomicU64,
    open: AtomicU64,
    bytes_out: AtomicU64,
    bytes_back: AtomicU64,
}

impl Relay {
    /// Binds every route's listener.
    ///
    /// Errors: the first address that cannot be had.
    pub fn bind(plans: Vec<LinkPlan>) -> Result<Self, BindError> {
        let mut links = BTreeMap::new();
        let mut routes = Vec::new();
        for plan in plans {
            let link = Arc::new(Link::new(plan.rtt));
            for route in plan.routes {
                let listen = route.listen;
                let listener = StdListener::bind(listen)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|source| BindError::Listen {
                        link: plan.name.clone(),
                        address: listen,
                        source,
                    })?;
                routes.push((listener, route, link.clone()));
            }
            links.insert(plan.name, link);
        }
        Ok(Self { links, routes })
    }

    /// Addresses that are listened on, in the order of the plans.
    pub fn addresses(&self) -> impl Iterator<Item = io::Result<SocketAddr>> + '_ {
        self.routes
            .iter()
            .map(|(listener, _, _)| listener.local_addr())
    }

    /// Serves on a thread of its own until the handle is dropped.
    pub fn spawn(self) -> Result<RelayHandle, BindError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(BindError::Thread)?;
        let links = self.links.clone();
        let (alive, mut ended) = watch::channel(());
        thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = self.serve() => {}
                        _ = ended.changed() => {}
                    }
                });
            })
            .map_err(BindError::Thread)?;
        Ok(RelayHandle {
            links,
            _alive: alive,
        })
    }

    /// Serves on the current runtime, until dropped.
    async fn serve(self) {
        let mut listeners = JoinSet::new();
        for (listener, route, link) in self.routes {
            listeners.spawn(async move {
                // Registration fails only without a reactor, and this future has one.
                if let Ok(listener) = TcpListener::from_std(listener) {
                    accept(listener, route, link).await;
                }
            });
        }
        while listeners.join_next().await.is_some() {}
    }
}

impl RelayHandle {
    pub fn links(&self) -> impl Iterator<Item = &str> {
        self.links.keys().map(String::as_str)
    }

    pub fn set_mode(&self, link: &str, mode: Mode) -> Result<(), UnknownLink> {
        self.find(link)?.mode.send_replace(mode);
        Ok(())
    }

    pub fn mode(&self, link: &str) -> Result<Mode, UnknownLink> {
        Ok(*self.find(link)?.mode.borrow())
    }

    pub fn counters(&self, link: &str) -> Result<Counters, UnknownLink> {
        Ok(self.find(link)?.counters())
    }

    fn find(&self, link: &str) -> Result<&Link, UnknownLink> {
        match self.links.get(link) {
            Some(found) => Ok(found),
            None => Err(UnknownLink(link.to_owned())),
        }
    }
}

impl Link {
    fn new(rtt: Duration) -> Self {
        Self {
            rtt,
            mode: watch::Sender::new(Mode::Open),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_back: AtomicU64::new(0),
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            connections: self.connections.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_back: self.bytes_back.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("rtt", &self.rtt)
            .field("mode", &*self.mode.borrow())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// After an accept fails (no file descriptors left, mostly), others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept(listener: TcpListener, route: RoutePlan, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(carry(stream, route, link.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from accept to its end.
async fn carry(mut near: TcpStream, route: RoutePlan, link: Arc<Link>) {
    link.connections.fetch_add(1, Ordering::Relaxed);
    link.open.fetch_add(1, Ordering::Relaxed);
    let mut mode = link.mode.subscribe();
    let accepted = now();
    let dialled = tokio::select! {
        dialled = dial(route.target, accepted + link.rtt / 2, mode.clone()) => dialled.ok(),
        () = until(&mut mode, Mode::Cut) => None,
    };
    let finished = match dialled {
        None => false,
        Some(mut far) => {
            let finished = exchange(
                (&mut near, &mut far),
                route.opens,
                accepted,
                &link,
                &mut mode,
            )
            .await;
            if !finished {
                reset(far);
            }
            finished
        }
    };
    if !finished {
        reset(near);
    }
    link.open.fetch_sub(1, Ordering::Relaxed);
}

async fn dial(
    target: SocketAddr,
    at: Instant,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<TcpStream> {
    sleep_until(at.into()).await;
    until(&mut mode, Mode::Open).await;
    TcpStream::connect(target).await
}

/// Carries both directions. True: both sides ended in order; false: the connection must be reset.
async fn exchange(
    (near, far): (&mut TcpStream, &mut TcpStream),
    opens: Way,
    accepted: Instant,
    link: &Link,
    mode: &mut watch::Receiver<Mode>,
) -> bool {
    // Small messages are the mesh's own batches: they must not wait for each other.
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return false;
    }
    let one_way = link.rtt / 2;
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let out = DelayLine::new(one_way, accepted + link.rtt);
    let back = DelayLine::new(one_way, accepted);
    let out = forward(
        (near_read, far_write),
        out,
        (mode.clone(), opens),
        &link.bytes_out,
    );
    let back = forward(
        (far_read, near_write),
        back,
        (mode.clone(), opens.other()),
        &link.bytes_back,
    );
    tokio::select! {
        done = async { tokio::try_join!(out, back) } => done.is_ok(),
        () = until(mode, Mode::Cut) => false,
    }
}

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// One direction, until its end has been delivered.
async fn forward(
    (mut from, mut to): (ReadHalf<'_>, WriteHalf<'_>),
    mut line: DelayLine,
    (mut mode, way): (watch::Receiver<Mode>, Way),
    delivered: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // The sender lives in the link, which every connection holds.
        let _ = mode.wait_for(|mode| mode.passes(way)).await;
        // Not by the timer alone: it counts in milliseconds, and a link may add nothing.
        while let Some(piece) = line.pop(now()) {
            match piece {
                Piece::Data(bytes) => {
                    to.write_all(&bytes).await?;
                    delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                Piece::End => return to.shutdown().await,
            }
        }
        buffer.reserve(CHUNK);
        let arrival = line.next_arrival();
        tokio::select! {
            read = from.read_buf(&mut buffer), if line.has_room() => {
                let piece = match read? {
                    0 => Piece::End,
                    _ => Piece::Data(buffer.split().freeze()),
                };
                line.push(now(), piece);
            }
            () = sleep_until(arrival.unwrap_or_else(Instant::now).into()), if arrival.is_some() => {}
            _ = mode.changed() => {}
        }
    }
}

/// Returns at once if the link is in `wanted`, else as soon as it is.
async fn until(mode: &mut watch::Receiver<Mode>, wanted: Mode) {
    // The sender lives in the link, which every connection holds.
    let _ = mode.wait_for(|mode| *mode == wanted).await;
}

/// The runtime's clock, so that tests can own it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Closes so that the peer sees a reset, not an orderly end.
fn reset(stream: TcpStream) {
    // A socket that is dead already has nothing to be reset.
    let _ = stream.set_zero_linger();
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One link to an echoing server, and the address that stands for it.
    struct Lab {
        link: Arc<Link>,
        entry: SocketAddr,
        _tasks: JoinSet<()>,
    }

    async fn lab(rtt: Duration) -> Lab {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let relay = Relay::bind(vec![LinkPlan {
            name: "a-b".to_owned(),
            rtt,
            routes: vec![RoutePlan {
                listen: "127.0.0.1:0".parse().unwrap(),
                target,
                opens: Way::Out,
            }],
        }])
        .unwrap();
        let entry = relay.addresses().next().unwrap().unwrap();
        let link = relay.links["a-b"].clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(relay.serve());
        tasks.spawn(async move {
            let mut echoes = JoinSet::new();
            while let Ok((mut stream, _)) = server.accept().await {
                echoes.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        Lab {
            link,
            entry,
            _tasks: tasks,
        }
    }

    impl Lab {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.entry).await.unwrap()
        }

        fn set(&self, mode: Mode) {
            self.link.mode.send_replace(mode);
        }
    }

    async fn echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut reply = vec![0; text.len()];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }

    #[tokio::test]
    async fn bytes_cross_in_order_and_ends_too() {
        let lab = lab(Duration::from_millis(2)).await;
        let mut stream = lab.connect().await;
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut write) = stream.split();
        let (mut received, sending) = (Vec::new(), async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        tokio::join!(sending, async {
            read.read_to_end(&mut received).await.unwrap();
        });
        assert!(received == sent, "{} of {}", received.len(), sent.len());
        let counted = lab.link.counters();
        assert_eq!(
            (counted.bytes_out, counted.bytes_back),
            (1_000_000, 1_000_000)
        );
        assert_eq!(counted.connections, 1);
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_and_what_comes() {
        let lab = lab(Duration::ZERO).await;
        let mut stream = lab.connect().await;
        assert_eq!(echo(&mut stream, b"one").await.unwrap(), b"one");
        lab.set(Mode::Cut);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let refused = echo(&mut lab.connect().await, b"two").await;
        assert!(refused.is_err());
        let before = lab.link.counters().bytes_out;
        lab.set(Mode::Open);
        assert_eq!(
            echo(&mut lab.connect().await, b"three").await.unwrap(),
            b"three"
        );
        assert_eq!(lab.link.counters().bytes_out, before + 5);
    }

    /// Virtual time stands still unless somebody waits for a timer.
    #[tokio::test(start_paused = true)]
    async fn a_link_without_delay_adds_none() {
        let lab = lab(Duration::ZERO).await;
        let mut stream = lab.connect().await;
        echo(&mut stream, b"one").await.unwrap();
        // Between two ticks of the timer.
        tokio::time::advance(Duration::from_micros(300)).await;
        let before = now();
        echo(&mut stream, b"two").await.unwrap();
        assert_eq!(now(), before);
    }

    /// Virtual time: an hour of silence costs nothing.
    #[tokio::test(start_paused = true)]
    async fn a_black_hole_swallows_until_it_ends() {
        let lab = lab(Duration::from_millis(140)).await;
        let mut old = lab.connect().await;
        assert_eq!(echo(&mut old, b"one").await.unwrap(), b"one");
        lab.set(Mode::BlackHole);
        let mut new = lab.connect().await;
        old.write_all(b"two").await.unwrap();
        new.write_all(b"three").await.unwrap();
        let hour = Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, old.read_u8()).await.is_err());
        assert!(tokio::time::timeout(hour, new.read_u8()).await.is_err());
        assert_eq!(lab.link.counters().bytes_out, 3);
        lab.set(Mode::Open);
        let mut two = [0; 3];
        old.read_exact(&mut two).await.unwrap();
        let mut three = [0; 5];
        new.read_exact(&mut three).await.unwrap();
        assert_eq!((&two, &three), (b"two", b"three"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_way_may_be_silent_alone() {
        let lab = lab(Duration::from_millis(140)).await;
        let mut stream = lab.connect().await;
        assert_eq!(echo(&mut stream, b"one").await.unwrap(), b"one");
        let hour = Duration::from_hours(1);
        for (way, arrives) in [(Way::Out, false), (Way::Back, true)] {
            lab.set(Mode::Silent(way));
            let before = lab.link.counters().bytes_out;
            stream.write_all(b"two").await.unwrap();
            assert!(tokio::time::timeout(hour, stream.read_u8()).await.is_err());
            assert_eq!(lab.link.counters().bytes_out > before, arrives);
            let mut new = lab.connect().await;
            new.write_all(b"x").await.unwrap();
            assert!(tokio::time::timeout(hour, new.read_u8()).await.is_err());
            lab.set(Mode::Open);
            let mut two = [0; 3];
            stream.read_exact(&mut two).await.unwrap();
            assert_eq!(&two, b"two");
        }
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_a_reset() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = free.local_addr().unwrap();
        drop(free);
        let relay = Relay::bind(vec![LinkPlan {
            name: "a-b".to_owned(),
            rtt: Duration::ZERO,
            routes: vec![RoutePlan {
                listen: "127.0.0.1:0".parse().unwrap(),
                target,
                opens: Way::Out,
            }],
        }])
        .unwrap();
        let entry = relay.addresses().next().unwrap().unwrap();
        let handle = relay.spawn().unwrap();
        let mut stream = TcpStream::connect(entry).await.unwrap();
        assert!(stream.read_u8().await.is_err());
        assert_eq!(handle.counters("a-b").unwrap().bytes_out, 0);
        assert_eq!(handle.mode("b-a"), Err(UnknownLink("b-a".to_owned())));
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let plan = LinkPlan {
            name: "a-b".to_owned(),
            rtt: Duration::ZERO,
            routes: vec![RoutePlan {
                listen,
                target: listen,
                opens: Way::Out,
            }],
        };
        let error = Relay::bind(vec![plan]).unwrap_err().to_string();
        assert!(
            error.contains(&listen.to_string()) && error.contains("a-b"),
            "{error}"
        );
    }
}
