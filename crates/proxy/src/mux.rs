//! Drives one `isthmus/1` multiplex over one byte stream.
//!
//! The protocol lives in `codec::mux`; here bytes are moved and tasks are woken. One task per
//! connection does in each turn: read once, let the machine parse, hand events to streams, then
//! write everything that was queued. All of it runs on one thread, so streams talk to the machine
//! directly. Decides nothing.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::message::{Open, Reply};
use isthmus_codec::mux::{
    CannotOpen, CannotSend, Connection, ConnectionError, Event, LeaveCode, ResetCode, Settings,
    Side, StreamId,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

/// Read at most this much before others have their turn.
const READ_SIZE: usize = 64 * 1024;
/// Sealed and written at once.
const WRITE_SIZE: usize = 64 * 1024;

/// A connection to one peer. Clones are the same connection; it ends when it is drained, or when
/// the peer is gone.
#[derive(Clone)]
pub(crate) struct Link(Rc<RefCell<Shared>>);

/// One stream of a link. Dropping it before both halves are done resets it.
pub(crate) struct Stream {
    id: StreamId,
    link: Link,
}

/// A stream that the peer opened.
pub(crate) struct Incoming {
    pub(crate) stream: Stream,
    pub(crate) open: Open,
    /// Nothing follows.
    pub(crate) end: bool,
}

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Item {
    Reply(Reply),
    Data(Bytes),
    End(Option<Fields>),
}

/// Why a stream has ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the far side reset the stream: {0}")]
    Reset(ResetCode),
    #[error("{0}")]
    Unsendable(#[from] CannotSend),
    #[error("the stream is gone")]
    Gone,
}

struct Shared {
    machine: Connection,
    streams: HashMap<StreamId, Slot>,
    incoming: VecDeque<Incoming>,
    acceptor: Option<Waker>,
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
    Broken(ConnectionError),
    Io(io::ErrorKind),
}

#[derive(Default)]
struct Slot {
    arrived: VecDeque<Item>,
    failed: Option<StreamError>,
    receiver: Option<Waker>,
    sender: Option<Waker>,
    sent_end: bool,
    got_end: bool,
}

impl Slot {
    fn wake(&mut self) {
        for waker in [self.receiver.take(), self.sender.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

impl Link {
    /// Puts `io` under a multiplex and drives it on the current thread.
    pub(crate) fn start<T>(io: T, side: Side, settings: Settings) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let now = Instant::now();
        let link = Self(Rc::new(RefCell::new(Shared {
            machine: Connection::new(side, settings, now),
            streams: HashMap::new(),
            incoming: VecDeque::new(),
            acceptor: None,
            driver: None,
            closed: None,
            idle_since: Some(now),
        })));
        tokio::task::spawn_local(Driver::new(io, link.clone()));
        link
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

    /// May streams be opened?
    pub(crate) fn is_usable(&self) -> bool {
        let shared = self.0.borrow();
        shared.closed.is_none() && shared.machine.can_open().is_ok()
    }

    /// The peer, or we, have said that no new streams are taken.
    pub(crate) fn is_leaving(&self) -> bool {
        let shared = self.0.borrow();
        shared.closed.is_some()
            || matches!(
                shared.machine.can_open(),
                Err(CannotOpen::Leaving | CannotOpen::Failed)
            )
    }

    /// Since when no stream has been open.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.0.borrow().idle_since
    }

    /// No new streams; those that run may finish, then the connection closes.
    pub(crate) fn drain(&self) {
        let mut shared = self.0.borrow_mut();
        shared.machine.go_away(LeaveCode::Draining);
        shared.wake_driver();
    }
}

impl Stream {
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Queues the reply.
    pub(crate) fn reply(&self, reply: &Reply, end: bool) -> Result<(), StreamError> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        shared.machine.reply(self.id, reply, end)?;
        shared.slot(self.id, |slot| slot.sent_end |= end);
        shared.wake_driver();
        Ok(())
    }

    /// Queues all of `data`, waiting for credit.
    pub(crate) async fn send(&self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            poll_fn(|cx| self.poll_send(cx, &mut data)).await?;
        }
        Ok(())
    }

    /// Takes as much from the front of `data` as there is room for now.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        let room = shared.machine.capacity(self.id);
        if room == 0 {
            let waker = cx.waker().clone();
            shared.slot(self.id, |slot| slot.sender = Some(waker));
            return Poll::Pending;
        }
        let taken = shared.machine.send(self.id, data)?;
        shared.wake_driver();
        Poll::Ready(Ok(taken))
    }

    /// Ends our half.
    pub(crate) fn finish(&self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        if shared
            .streams
            .get(&self.id)
            .is_none_or(|slot| slot.sent_end)
        {
            return Ok(());
        }
        shared.machine.finish(self.id, trailers)?;
        shared.slot(self.id, |slot| slot.sent_end = true);
        shared.wake_driver();
        Ok(())
    }

    /// What comes next. Data is taken off the far side's credit by this call.
    ///
    /// Errors: the stream was reset or the connection lost, after everything that arrived before
    /// was given out.
    pub(crate) async fn receive(&self) -> Result<Item, StreamError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Item, StreamError>> {
        let mut shared = self.link.0.borrow_mut();
        let Some(slot) = shared.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(StreamError::Gone));
        };
        if let Some(item) = slot.arrived.pop_front() {
            if let Item::Data(data) = &item {
                let length = data.len();
                shared.machine.consumed(self.id, length);
                shared.wake_driver();
            }
            return Poll::Ready(Ok(item));
        }
        if slot.got_end {
            return Poll::Ready(Ok(Item::End(None)));
        }
        if let Some(error) = slot.failed {
            return Poll::Ready(Err(error));
        }
        slot.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends both halves with a reason.
    pub(crate) fn reset(self, code: ResetCode) {
        let mut shared = self.link.0.borrow_mut();
        shared.machine.reset(self.id, code);
        shared.forget(self.id);
        shared.wake_driver();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut shared = self.link.0.borrow_mut();
        let done = shared
            .streams
            .get(&self.id)
            .is_none_or(|slot| slot.failed.is_some() || (slot.sent_end && slot.got_end));
        if !done {
            shared.machine.reset(self.id, ResetCode::Cancelled);
        }
        shared.forget(self.id);
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

    fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id);
        if self.streams.is_empty() {
            self.idle_since = Some(Instant::now());
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
        for slot in self.streams.values_mut() {
            slot.failed.get_or_insert(StreamError::Gone);
            slot.wake();
        }
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
                return;
            };
            match event {
                Event::Opened { stream, open, end } => {
                    shared.streams.insert(
                        stream,
                        Slot {
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
                    slot.arrived.push_back(Item::Reply(*reply));
                    slot.got_end |= end;
                    slot.wake();
                }),
                Event::Data { stream, bytes } => shared.slot(stream, |slot| {
                    slot.arrived.push_back(Item::Data(bytes));
                    slot.wake();
                }),
                Event::Ended { stream, trailers } => shared.slot(stream, |slot| {
                    slot.arrived.push_back(Item::End(trailers));
                    slot.got_end = true;
                    slot.wake();
                }),
                Event::Reset { stream, code } => shared.slot(stream, |slot| {
                    slot.failed = Some(StreamError::Reset(code));
                    slot.wake();
                }),
                Event::Writable { stream } => shared.slot(stream, Slot::wake),
                Event::Undecodable { stream, error } => {
                    tracing::debug!(stream = stream.number(), %error, "a message was not understood");
                }
                // Asked of the machine when it matters.
                Event::GoAway { .. } | Event::Pong { .. } => {}
            }
        }
    }
}

/// The task that owns the byte stream.
struct Driver<T> {
    io: T,
    link: Link,
    input: BytesMut,
    output: BytesMut,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn new(io: T, link: Link) -> Self {
        Self {
            io,
            link,
            input: BytesMut::new(),
            output: BytesMut::new(),
            timer: None,
        }
    }

    /// Reads once. Ready when something was read or the connection ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.input.reserve(READ_SIZE);
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Closed::Io(error.kind()))),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Closed::Peer)),
            Poll::Ready(Ok(_)) => {
                let mut shared = self.link.0.borrow_mut();
                let parsed = shared.machine.receive(&mut self.input, Instant::now());
                drop(shared);
                // What came before the error is delivered; it was sent in good order.
                self.link.deliver();
                Poll::Ready(parsed.map_err(Closed::Broken))
            }
        }
    }

    /// Writes what is queued. Ready when nothing is left, Pending when the socket is full.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        loop {
            if self.output.is_empty() {
                self.link
                    .0
                    .borrow_mut()
                    .machine
                    .transmit(&mut self.output, WRITE_SIZE);
                self.link.deliver();
            }
            if self.output.is_empty() {
                return match Pin::new(&mut self.io).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Closed::Io(error.kind()))),
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                    Poll::Pending => Poll::Pending,
                };
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.output) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Closed::Peer)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Closed::Io(error.kind()))),
                Poll::Ready(Ok(written)) => drop(self.output.split_to(written)),
            }
        }
    }

    /// Lets the machine's timers run. Ready when one was due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let mut shared = self.link.0.borrow_mut();
        let Some(due) = shared.machine.next_timeout() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        if timer.deadline().into_std() != due {
            timer.as_mut().reset(due.into());
        }
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let outcome = shared.machine.on_timeout(Instant::now());
                drop(shared);
                self.link.deliver();
                Poll::Ready(outcome.map_err(Closed::Broken))
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let closed = loop {
            driver.link.0.borrow_mut().driver = Some(cx.waker().clone());
            // A timer or a read may queue something to write, so writing comes last.
            let timed = driver.poll_timer(cx);
            let read = driver.poll_read(cx);
            let written = driver.poll_write(cx);
            let outcomes = [&timed, &read, &written];
            if let Some(Poll::Ready(Err(closed))) = outcomes
                .into_iter()
                .find(|outcome| matches!(outcome, Poll::Ready(Err(_))))
            {
                break closed.clone();
            }
            if driver.link.0.borrow().machine.is_drained() && driver.output.is_empty() {
                break Closed::Drained;
            }
            if timed.is_pending() && read.is_pending() {
                return Poll::Pending;
            }
        };
        // A last word, such as why the connection ends, if the socket takes it.
        let _ = driver.poll_write(cx);
        let _ = Pin::new(&mut driver.io).poll_shutdown(cx);
        driver.link.0.borrow_mut().machine.lost();
        driver.link.deliver();
        // Streams that hold the link would keep themselves alive in its queue.
        let unserved = std::mem::take(&mut driver.link.0.borrow_mut().incoming);
        driver.link.0.borrow_mut().close(closed);
        drop(unserved);
        Poll::Ready(())
    }
}

/// A stream as a pipe of bytes: what a tunnel carries.
pub(crate) struct Pipe {
    stream: Stream,
    unread: Bytes,
}

impl Pipe {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
        }
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            match std::task::ready!(self.stream.poll_receive(cx)) {
                Ok(Item::Data(data)) => self.unread = data,
                Ok(Item::End(_) | Item::Reply(_)) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut data = Bytes::copy_from_slice(data);
        self.stream.poll_send(cx, &mut data).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.finish(None).map_err(broken))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_codec::message::{Context as Carried, TcpOpen};
    use isthmus_model::ServiceName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;

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
        let (a, b) = tokio::io::duplex(buffer);
        let settings = Settings::default;
        (
            Link::start(a, Side::Dialler, settings()),
            Link::start(b, Side::Listener, settings()),
        )
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
    async fn a_lost_peer_ends_every_stream_and_a_dropped_stream_tells_the_peer() {
        run(async {
            let (io, peer) = tokio::io::duplex(64_000);
            let link = Link::start(io, Side::Dialler, Settings::default());
            let stream = link.open(&open(), false).unwrap();
            tokio::task::yield_now().await;
            drop(peer);
            let lost = stream.receive().await.unwrap_err();
            assert_eq!(lost, StreamError::Reset(ResetCode::MaybeExecuted));

            let (a, b) = pair(64_000);
            let stream = a.open(&open(), false).unwrap();
            let far = b.accept().await.unwrap();
            drop(stream);
            let told = far.stream.receive().await.unwrap_err();
            assert_eq!(told, StreamError::Reset(ResetCode::Cancelled));
        })
        .await;
    }
}
