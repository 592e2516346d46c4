//! Drives one `isthmus/1` multiplex over one byte stream.
//!
//! The protocol lives in `codec::mux`; here bytes are moved and tasks are woken. One task per
//! connection ([`driver`]) does in each turn: read once, let the machine parse, hand events to
//! streams, then write everything that was queued. All of it runs on one thread, so streams
//! ([`stream`]) talk to the machine directly. Decides nothing.

mod driver;
mod pipe;
mod round_trips;
mod stream;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::message::Open;
use isthmus_codec::mux::{
    CannotOpen, Connection, ConnectionError, Event, LeaveCode, ResetCode, Settings, Side, StreamId,
    features,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use self::driver::Driver;
use self::round_trips::RoundTrips;
use self::stream::{Body, MOST_INTERIMS, Slot};

pub(crate) use self::pipe::Pipe;
pub(crate) use self::stream::{Incoming, Item, Stream, StreamError};

/// A connection to one peer. Clones are the same connection; it ends when it is drained, or when
/// the peer is gone.
#[derive(Clone)]
pub(crate) struct Link(Rc<RefCell<Shared>>);

struct Shared {
    machine: Connection,
    /// Who dialled opens streams and takes none.
    side: Side,
    streams: HashMap<StreamId, Slot>,
    /// Streams with data that came in this turn.
    fresh: Vec<StreamId>,
    incoming: VecDeque<Incoming>,
    acceptor: Option<Waker>,
    /// The peer allows another stream, or never will.
    opener: Rc<Notify>,
    /// The peer has introduced itself, or never will.
    introduced: Rc<Notify>,
    /// One of the two leaves.
    left: Rc<Notify>,
    /// There is a better way than this connection.
    shunned: Rc<Notify>,
    round_trips: RoundTrips,
    /// The task that owns the byte stream.
    driver: Option<Waker>,
    closed: Option<Closed>,
    /// When the last stream ended; `None` while one is open.
    idle_since: Option<Instant>,
}

/// How a connection came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Closed {
    /// Both sides were done.
    Drained,
    Peer,
    /// By us.
    Ended,
    Broken(ConnectionError),
    Io(io::ErrorKind),
}

impl Link {
    /// Puts `io` under a multiplex and drives it on the current thread. What it holds for others is
    /// counted in `budget`.
    pub(crate) fn start<T>(io: T, side: Side, settings: Settings, budget: &MemoryBudget) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let now = Instant::now();
        let link = Self(Rc::new(RefCell::new(Shared {
            machine: Connection::drawing(side, settings, budget, now),
            side,
            streams: HashMap::new(),
            fresh: Vec::new(),
            incoming: VecDeque::new(),
            acceptor: None,
            opener: Rc::default(),
            introduced: Rc::default(),
            left: Rc::default(),
            shunned: Rc::default(),
            round_trips: RoundTrips::default(),
            driver: None,
            closed: None,
            idle_since: Some(now),
        })));
        tokio::task::spawn_local(Driver::new(io, link.clone()));
        link
    }

    /// Waits until the peer allows another stream, as it does within a round trip of a connection that
    /// has just come up, and else when one ends. Returns at once when there can be none any more.
    pub(crate) async fn room(&self) {
        let opener = Rc::clone(&self.0.borrow().opener);
        loop {
            // Who gives up waiting leaves nothing behind.
            let notified = opener.notified();
            if self.is_closed() || !self.0.borrow().takes_no_more() {
                return;
            }
            notified.await;
        }
    }

    /// Errors: the peer takes no more streams, or the connection is gone; nothing was sent.
    pub(crate) fn open(&self, open: &Open, end: bool) -> Result<Stream, CannotOpen> {
        let mut shared = self.0.borrow_mut();
        let id = shared.machine.open(open, end)?;
        shared.streams.insert(
            id,
            Slot {
                sent_end: end,
                ..Slot::default()
            },
        );
        shared.idle_since = None;
        shared.wake_driver();
        // One who waits is woken at a time, and wakes the next.
        shared.wake_opener();
        drop(shared);
        Ok(Stream {
            id,
            link: self.clone(),
        })
    }

    /// The next stream that the peer opens; `None` when the connection is gone.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        poll_fn(|cx| {
            let mut shared = self.0.borrow_mut();
            if let Some(incoming) = shared.incoming.pop_front() {
                return Poll::Ready(Some(incoming));
            }
            if shared.closed.is_some() {
                return Poll::Ready(None);
            }
            shared.acceptor = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// A stream can be opened now.
    pub(crate) fn has_room(&self) -> bool {
        let shared = self.0.borrow();
        shared.closed.is_none() && shared.machine.can_open().is_ok()
    }

    /// The peer has said how many streams it takes, and they are open.
    pub(crate) fn is_full(&self) -> bool {
        let shared = self.0.borrow();
        shared.takes_no_more() && shared.machine.peer().is_some()
    }

    /// No new stream will ever be taken: one of the two has said so, or the connection is gone. One
    /// that is full for now is not leaving.
    pub(crate) fn is_leaving(&self) -> bool {
        let shared = self.0.borrow();
        let can_open = shared.machine.can_open();
        shared.closed.is_some() || !matches!(can_open, Ok(()) | Err(CannotOpen::TooMany { .. }))
    }

    /// Can the peer be told of a body that waits to be asked for? Known when it has introduced itself, as
    /// it does within a round trip.
    pub(crate) async fn takes_expectations(&self) -> bool {
        let introduced = Rc::clone(&self.0.borrow().introduced);
        loop {
            let notified = introduced.notified();
            if let Some(peer) = self.0.borrow().machine.peer() {
                return peer.features & features::EXPECT != 0;
            }
            if self.is_closed() {
                return false;
            }
            notified.await;
        }
    }

    /// The connection is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().closed.is_some()
    }

    /// Ends the connection at once, with every stream on it.
    pub(crate) fn end(&self) {
        let mut shared = self.0.borrow_mut();
        shared.close(Closed::Ended);
        shared.wake_driver();
    }

    /// Waits until no new stream will ever be taken.
    pub(crate) async fn left(&self) {
        let left = Rc::clone(&self.0.borrow().left);
        loop {
            // Made before the look: a word between the two is not missed.
            let notified = left.notified();
            if self.is_leaving() {
                return;
            }
            notified.await;
        }
    }

    /// Asks for the round trip, unless that is being done.
    pub(crate) fn ping(&self) {
        let mut shared = self.0.borrow_mut();
        shared.machine.ping(Instant::now());
        shared.wake_driver();
    }

    /// What a ping took of late, as far as one of them can tell: see [`RoundTrips`].
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.0.borrow().round_trips.typical()
    }

    /// Tells those who wait for it that there is a better way. The connection stays.
    pub(crate) fn shun(&self) {
        self.0.borrow().shunned.notify_waiters();
    }

    /// Waits until there is a better way.
    pub(crate) async fn shunned(&self) {
        let shunned = Rc::clone(&self.0.borrow().shunned);
        shunned.notified().await;
    }

    /// As if a ping had taken that.
    #[cfg(test)]
    pub(crate) fn learn_round_trip(&self, took: Duration) {
        self.0.borrow_mut().round_trips.add(took);
    }

    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Since when no stream has been open.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.0.borrow().idle_since
    }

    /// No new streams; those that run may finish, then the connection closes.
    pub(crate) fn drain(&self) {
        let mut shared = self.0.borrow_mut();
        shared.machine.go_away(LeaveCode::Draining);
        shared.left.notify_waiters();
        shared.wake_driver();
    }
}

impl Shared {
    fn check(&self, id: StreamId) -> Result<(), StreamError> {
        match self.streams.get(&id) {
            Some(Slot {
                failed: Some(error),
                ..
            }) => Err(*error),
            Some(_) => Ok(()),
            None => Err(StreamError::Gone),
        }
    }

    fn slot(&mut self, id: StreamId, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.streams.get_mut(&id) {
            change(slot);
        }
    }

    /// What nobody has taken since the last turn is not fresh any more.
    fn settle(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for id in fresh.drain(..) {
            self.slot(id, |slot| slot.arrived.settle());
        }
        // Its memory is of use in the next turn.
        self.fresh = fresh;
    }

    fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id);
        if self.streams.is_empty() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// As many streams are open as the peer takes for now.
    fn takes_no_more(&self) -> bool {
        matches!(self.machine.can_open(), Err(CannotOpen::TooMany { .. }))
    }

    fn wake_opener(&self) {
        match self.machine.can_open() {
            Ok(()) => self.opener.notify_one(),
            Err(CannotOpen::TooMany { .. }) => {}
            Err(_) => self.opener.notify_waiters(),
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn close(&mut self, closed: Closed) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(closed);
        self.left.notify_waiters();
        for slot in self.streams.values_mut() {
            slot.failed.get_or_insert(StreamError::Lost);
            slot.wake();
        }
        self.opener.notify_waiters();
        self.introduced.notify_waiters();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }
}

impl Link {
    /// Gives what the machine has found to the streams it is for.
    fn deliver(&self) {
        loop {
            let mut shared = self.0.borrow_mut();
            let Some(event) = shared.machine.poll_event() else {
                shared.wake_opener();
                return;
            };
            match event {
                Event::Opened { stream, .. } if shared.side == Side::Dialler => {
                    shared.machine.reset(stream, ResetCode::Refused);
                }
                Event::Opened { stream, open, end } => {
                    shared.streams.insert(
                        stream,
                        Slot {
                            served: true,
                            got_end: end,
                            ..Slot::default()
                        },
                    );
                    shared.idle_since = None;
                    let stream = Stream {
                        id: stream,
                        link: self.clone(),
                    };
                    shared.incoming.push_back(Incoming {
                        stream,
                        open: *open,
                        end,
                    });
                    if let Some(acceptor) = shared.acceptor.take() {
                        acceptor.wake();
                    }
                }
                Event::Replied { stream, reply, end } => shared.slot(stream, |slot| {
                    slot.arrived.reply(*reply);
                    slot.got_end |= end;
                    slot.wake();
                }),
                Event::Data { stream, bytes } => {
                    let Some(slot) = shared.streams.get_mut(&stream) else {
                        continue;
                    };
                    let first = slot.arrived.data(bytes);
                    slot.wake();
                    if first {
                        shared.fresh.push(stream);
                    }
                }
                Event::Ended { stream, trailers } => shared.slot(stream, |slot| {
                    slot.arrived.end(trailers);
                    slot.got_end = true;
                    slot.wake();
                }),
                Event::Reset { stream, code } => shared.slot(stream, |slot| {
                    slot.failed = Some(StreamError::Reset(code));
                    slot.wake();
                }),
                Event::Lost { stream } => shared.slot(stream, |slot| {
                    slot.failed = Some(StreamError::Lost);
                    slot.wake();
                }),
                Event::Unread { stream } => shared.slot(stream, |slot| {
                    slot.arrived.clear();
                    slot.got_end = false;
                    slot.failed = Some(StreamError::Unread);
                    slot.wake();
                }),
                Event::Writable { stream } => shared.slot(stream, Slot::wake),
                Event::Interim { stream, interim } => shared.slot(stream, |slot| {
                    if slot.interims.len() < MOST_INTERIMS {
                        slot.interims.push_back(*interim);
                    }
                    slot.wake();
                }),
                Event::BodyWanted { stream } => shared.slot(stream, |slot| {
                    slot.body = Body::Wanted;
                    slot.wake();
                }),
                Event::Undecodable { stream, error } => {
                    tracing::debug!(stream = stream.number(), %error, "a message was not understood");
                }
                // The machine knows from now on.
                Event::GoAway { .. } => shared.left.notify_waiters(),
                Event::Pong { rtt } => shared.round_trips.add(rtt),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use isthmus_codec::message::{Context as Carried, Reply, TcpOpen};
    use isthmus_codec::mux::LEAST_STREAMS;
    use isthmus_model::ServiceName;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;
    use crate::testing::{plenty, within};

    /// A task that has nothing to do when it is woken.
    struct Idle;

    impl Wake for Idle {
        fn wake(self: Arc<Self>) {}
    }

    fn open() -> Open {
        let service = ServiceName::new("shop", "cart").unwrap();
        Open::Tcp(TcpOpen {
            service,
            port: 80,
            context: Carried::default(),
        })
    }

    /// Two ends of one connection over a pipe that holds `buffer` bytes.
    fn pair(buffer: usize) -> (Link, Link) {
        pair_with(buffer, Settings::default())
    }

    fn pair_with(buffer: usize, settings: Settings) -> (Link, Link) {
        let (a, b) = tokio::io::duplex(buffer);
        (
            Link::start(a, Side::Dialler, settings.clone(), &plenty()),
            Link::start(b, Side::Listener, settings, &plenty()),
        )
    }

    /// Who takes as few streams as may be.
    fn least() -> Settings {
        Settings {
            streams: LEAST_STREAMS,
            ..Settings::default()
        }
    }

    async fn run<T>(test: impl Future<Output = T>) -> T {
        LocalSet::new().run_until(test).await
    }

    #[tokio::test]
    async fn megabytes_pass_both_ways_at_once_through_a_narrow_pipe() {
        const LENGTH: usize = 3_000_000;
        run(async {
            let (a, b) = pair(1_000);
            let stream = a.open(&open(), false).unwrap();
            let far = b.accept().await.unwrap();
            assert_eq!(far.open, open());
            far.stream.reply(&Reply::Accepted, false).unwrap();
            assert!(matches!(
                stream.receive().await,
                Ok(Item::Reply(Reply::Accepted))
            ));
            let echo = async {
                let mut pipe = Pipe::new(far.stream);
                let mut buffer = vec![0; 5_000];
                loop {
                    let length = pipe.read(&mut buffer).await.unwrap();
                    if length == 0 {
                        return pipe.shutdown().await.unwrap();
                    }
                    pipe.write_all(&buffer[..length]).await.unwrap();
                }
            };
            let sent: Bytes = (0..LENGTH)
                .map(|at| u8::try_from(at % 251).unwrap())
                .collect();
            let upload = async {
                stream.send(sent.clone()).await.unwrap();
                stream.finish(None).unwrap();
            };
            let receive = async {
                let mut received = BytesMut::new();
                loop {
                    match stream.receive().await.unwrap() {
                        Item::Data(data) => received.extend_from_slice(&data),
                        Item::End(_) => return received.freeze(),
                        Item::Reply(_) => panic!("a second reply"),
                    }
                }
            };
            let ((), (), received) = tokio::join!(echo, upload, receive);
            assert!(received == sent);
        })
        .await;
    }

    #[tokio::test]
    async fn a_drained_link_refuses_new_streams_and_finishes_old_ones() {
        run(async {
            let (a, b) = pair(64_000);
            let stream = a.open(&open(), true).unwrap();
            let far = b.accept().await.unwrap();
            b.drain();
            assert!(b.is_leaving());
            a.left().await;
            far.stream.reply(&Reply::Accepted, true).unwrap();
            assert!(matches!(stream.receive().await, Ok(Item::Reply(_))));
            assert!(matches!(stream.receive().await, Ok(Item::End(None))));
            drop((stream, far));
            assert!(b.accept().await.is_none(), "the connection ends by itself");
            assert!(a.is_leaving());
            assert!(a.open(&open(), true).is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn who_leaves_hears_its_peer_to_the_end() {
        run(async {
            let (io, peer) = tokio::io::duplex(64_000);
            let link = Link::start(io, Side::Listener, Settings::default(), &plenty());
            link.drain();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let accept = link.accept();
            tokio::select! {
                biased;
                _ = accept => panic!("it has closed while its peer may be sending"),
                () = std::future::ready(()) => {}
            }
            drop(peer);
            assert!(link.accept().await.is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn a_lost_peer_ends_every_stream_and_a_dropped_stream_tells_the_peer() {
        run(async {
            let (io, peer) = tokio::io::duplex(64_000);
            let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
            let stream = link.open(&open(), false).unwrap();
            tokio::task::yield_now().await;
            drop(peer);
            let lost = stream.receive().await.unwrap_err();
            assert_eq!(lost, StreamError::Lost);

            let (a, b) = pair(64_000);
            let stream = a.open(&open(), false).unwrap();
            let far = b.accept().await.unwrap();
            drop(stream);
            let told = far.stream.receive().await.unwrap_err();
            assert_eq!(told, StreamError::Reset(ResetCode::Cancelled));
        })
        .await;
    }

    #[tokio::test]
    async fn who_dialled_takes_no_streams() {
        run(async {
            let (a, b) = pair(64_000);
            let stream = b.open(&open(), false).unwrap();
            let told = stream.receive().await.unwrap_err();
            assert_eq!(told, StreamError::Reset(ResetCode::Refused));
            assert!(!a.is_leaving());
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_that_has_arrived_counts_though_its_time_is_over() {
        run(async {
            // Who was stopped for a while finds the answer to its ping in the socket at the moment at
            // which its patience has ended.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let io = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let patience = std::time::Duration::from_millis(5);
            let settings = Settings {
                patience,
                ..Settings::default()
            };
            let link = Link::start(io, Side::Dialler, settings, &plenty());
            tokio::task::yield_now().await;

            let now = Instant::now();
            let mut bytes = BytesMut::new();
            let mut far = Connection::new(Side::Listener, Settings::default(), now);
            let mut near = Connection::new(Side::Dialler, Settings::default(), now);
            near.transmit(&mut bytes, usize::MAX);
            far.receive(&mut bytes, now).unwrap();
            far.transmit(&mut bytes, usize::MAX);
            std::io::Write::write_all(&mut peer, &bytes).unwrap();
            while now.elapsed() < 10 * patience {
                std::thread::yield_now();
            }
            while link.0.borrow().machine.peer().is_none() {
                tokio::task::yield_now().await;
                assert!(!link.is_leaving());
            }
        })
        .await;
    }

    #[tokio::test]
    async fn more_callers_than_streams_wait_for_their_turn() {
        const CALLERS: usize = 300;
        run(async {
            let (a, b) = pair(64_000);
            let calls: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let link = a.clone();
                    tokio::task::spawn_local(async move {
                        link.room().await;
                        let stream = link.open(&open(), true).unwrap();
                        matches!(stream.receive().await, Ok(Item::Reply(_)))
                    })
                })
                .collect();
            for _ in 0..CALLERS {
                let far = b.accept().await.unwrap();
                far.stream.reply(&Reply::Accepted, true).unwrap();
            }
            for call in calls {
                assert!(call.await.unwrap());
            }
        })
        .await;
    }

    /// A link with as many streams as it takes, which has heard nothing of its peer.
    fn full_link() -> (Link, Vec<Stream>, tokio::io::DuplexStream) {
        let (io, peer) = tokio::io::duplex(64_000);
        let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
        let streams = (0..LEAST_STREAMS).map(|_| link.open(&open(), false).unwrap());
        let streams = streams.collect();
        (link, streams, peer)
    }

    #[tokio::test]
    async fn who_gives_up_waiting_for_a_full_link_leaves_nothing_behind() {
        run(async {
            let (link, _streams, _peer) = full_link();
            let task = Arc::new(Idle);
            let waker = Waker::from(Arc::clone(&task));
            let mut context = Context::from_waker(&waker);
            for _ in 0..3 {
                let mut room = pin!(link.room());
                let mut told = pin!(link.takes_expectations());
                for _ in 0..3 {
                    assert!(room.as_mut().poll(&mut context).is_pending());
                    assert!(told.as_mut().poll(&mut context).is_pending());
                }
            }
            assert_eq!(Arc::strong_count(&task), 2, "the task and its own waker");
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_link_tells_what_its_peer_takes() {
        run(async {
            let (link, _streams, mut peer) = full_link();
            let told = link.clone();
            let told = tokio::task::spawn_local(async move { told.takes_expectations().await });
            tokio::task::yield_now().await;
            let mut far = Connection::new(Side::Listener, least(), Instant::now());
            let mut bytes = BytesMut::new();
            far.transmit(&mut bytes, usize::MAX);
            peer.write_all(&bytes).await.unwrap();
            assert!(within(told).await.unwrap());
            assert!(link.is_full());
        })
        .await;
    }
}
