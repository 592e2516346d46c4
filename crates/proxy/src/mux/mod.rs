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
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::message::Open;
use isthmus_codec::mux::{
    CannotOpen, Connection, ConnectionError, Event, LeaveCode, ResetCode, Settings, Side, StreamId,
    features,
};
use tokio::sync::Notify;

use self::driver::Driver;
pub(crate) use self::driver::Wire;
use self::round_trips::RoundTrips;
use self::stream::{Body, MOST_INTERIMS, Slot, keep};

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
    /// The peer allows another stream, or never will. Held by those who wait for that.
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
    /// It was woken, and has not run since.
    is_woken: bool,
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
        T: Wire + 'static,
    {
        let now = Instant::now();
        let link = Self(Rc::new(RefCell::new(Shared {
            machine: Connection::drawing(side, settings, budget, now),
            side,
            streams: HashMap::default(),
            fresh: Vec::new(),
            incoming: VecDeque::new(),
            acceptor: None,
            opener: Rc::default(),
            introduced: Rc::default(),
            left: Rc::default(),
            shunned: Rc::default(),
            round_trips: RoundTrips::default(),
            driver: None,
            is_woken: false,
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
            keep(&mut shared.acceptor, cx.waker());
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

    /// So many bytes that had come on a stream are somewhere else by now: the far side has credit again.
    fn handed_on(&mut self, id: StreamId, bytes: usize) {
        if bytes > 0 {
            self.machine.consumed(id, bytes);
            self.wake_driver_if_due();
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
        if Rc::strong_count(&self.opener) == 1 {
            return;
        }
        match self.machine.can_open() {
            Ok(()) => self.opener.notify_one(),
            Err(CannotOpen::TooMany { .. }) => {}
            Err(_) => self.opener.notify_waiters(),
        }
    }

    fn wake_driver(&mut self) {
        if !std::mem::replace(&mut self.is_woken, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// Wakes the driver if what was taken or given up leaves it something to do.
    fn wake_driver_if_due(&mut self) {
        if self.machine.has_output() || self.machine.is_drained() {
            self.wake_driver();
        }
    }

    /// The driver runs, and is to be woken by this.
    fn drive(&mut self, waker: &Waker) {
        self.is_woken = false;
        keep(&mut self.driver, waker);
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
        self.wake_acceptor();
    }

    fn wake_acceptor(&self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.wake_by_ref();
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
                    shared.wake_acceptor();
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
pub(crate) mod tests;
