//! The task that owns the byte stream under a multiplex.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use isthmus_codec::Sink;
use isthmus_codec::mux::MAX_DATA;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::{Closed, Link, Side};
use crate::alarm::Timer;

/// Read at most this much before others have their turn.
const READ_SIZE: usize = 64 * 1024;
/// While little comes this much is: an idle connection holds no more.
const LITTLE: usize = 2 * 1024;
/// Sealed and written at once: all that one stream may have queued, with its headers.
const WRITE_SIZE: usize = 72 * 1024;
/// How long who takes streams and has left waits for its peer to go first. What the peer has sent
/// meanwhile is refused in so many words; a closed socket would answer it with a reset, which says
/// nothing, and may overtake the farewell.
const LINGER: Duration = Duration::from_secs(2);

/// The byte stream under a multiplex.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Reads once, behind what `input` has, at most `most` bytes where it has to make room. 0: nothing more
    /// will come.
    fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        input.reserve(most);
        poll_read_buf(Pin::new(self), cx, input)
    }

    /// Ready when so much of what was said has been written that more may be said.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Takes what `put` says, hardly more than `length` bytes; it is written when there is time. Where it goes in pieces, none is to be
    /// longer than `piece`.
    ///
    /// Errors: nothing more can be said.
    fn say(
        &mut self,
        piece: usize,
        length: usize,
        put: impl FnOnce(&mut dyn Sink),
    ) -> io::Result<()>;
}

/// The task.
pub(super) struct Driver<T> {
    io: T,
    link: Link,
    input: BytesMut,
    /// Read at most this much next.
    read_size: usize,
    timer: Option<Timer>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<T: Wire> Driver<T> {
    pub(super) fn new(io: T, link: Link) -> Self {
        Self {
            io,
            link,
            input: BytesMut::new(),
            read_size: LITTLE,
            timer: None,
            linger: None,
        }
    }

    /// Reads once. Ready when something was read or the connection ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        match self.io.poll_input(cx, &mut self.input, self.read_size) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Closed::Io(error.kind()))),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Closed::Peer)),
            Poll::Ready(Ok(read)) => {
                if read >= LITTLE {
                    self.read_size = READ_SIZE;
                }
                let mut shared = self.link.0.borrow_mut();
                let was_strange = shared.machine.peer().is_none();
                let parsed = shared.machine.receive(&mut self.input, Instant::now());
                if was_strange && shared.machine.peer().is_some() {
                    shared.introduced.notify_waiters();
                }
                drop(shared);
                // What came before the error is delivered; it was sent in good order.
                self.link.deliver();
                Poll::Ready(parsed.map_err(Closed::Broken))
            }
        }
    }

    /// Writes what is queued. Ready when nothing is left, Pending when the socket is full.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let failed = |error: io::Error| Closed::Io(error.kind());
        loop {
            ready!(self.io.poll_room(cx)).map_err(failed)?;
            let mut shared = self.link.0.borrow_mut();
            let machine = &mut shared.machine;
            if !machine.has_output() {
                drop(shared);
                return Pin::new(&mut self.io).poll_flush(cx).map_err(failed);
            }
            let (piece, waits) = (machine.piece(Instant::now()), machine.waiting());
            let said = self.io.say(piece, waits.min(WRITE_SIZE + MAX_DATA), |out| {
                machine.transmit(out, WRITE_SIZE);
            });
            drop(shared);
            self.link.deliver();
            said.map_err(failed)?;
        }
    }

    /// Is there nothing more to say or to hear?
    fn is_done(&mut self, cx: &mut Context<'_>) -> bool {
        let shared = self.link.0.borrow();
        if !shared.machine.is_drained() {
            return false;
        }
        // Who opens streams knows that none of its own is on its way.
        let opens = shared.side == Side::Dialler;
        drop(shared);
        let linger = self
            .linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        opens || linger.as_mut().poll(cx).is_ready()
    }

    /// Gives back the memory of what was read before it became quiet.
    fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.read_size = LITTLE;
        }
    }

    /// Lets the machine's timers run. Ready when one was due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let mut shared = self.link.0.borrow_mut();
        let Some(due) = shared.machine.next_timeout() else {
            self.timer = None;
            return Poll::Pending;
        };
        // It is put off with everything that comes.
        let timer = self.timer.get_or_insert_with(|| Timer::new(due));
        ready!(timer.poll(due, cx));
        let outcome = shared.machine.on_timeout(Instant::now());
        drop(shared);
        self.link.deliver();
        // A timer is due only when nothing has come for a while.
        self.rest();
        Poll::Ready(outcome.map_err(Closed::Broken))
    }
}

impl<T: Wire> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        // Whoever was woken by what came in the turn before has run since.
        let mut shared = driver.link.0.borrow_mut();
        shared.settle();
        shared.drive(cx.waker());
        drop(shared);
        let closed = loop {
            if driver.link.is_closed() {
                break Closed::Ended;
            }
            // What has arrived proves that the peer lives, however late we look; a timer or a read may
            // queue something to write, so writing comes last.
            let read = driver.poll_read(cx);
            let timed = driver.poll_timer(cx);
            let written = driver.poll_write(cx);
            let outcomes = [&read, &timed, &written];
            if let Some(Poll::Ready(Err(closed))) = outcomes
                .into_iter()
                .find(|outcome| matches!(outcome, Poll::Ready(Err(_))))
            {
                break closed.clone();
            }
            if written.is_ready() && driver.is_done(cx) {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use isthmus_codec::message::{Context as Carried, Open, TcpOpen};
    use isthmus_codec::mux::Settings;
    use isthmus_model::ServiceName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

    use super::*;
    use crate::mux::Pipe;
    use crate::testing::{Plain, plenty, run};

    /// Tells how much room there was for what is read, and in which pieces is written.
    struct Watched(Plain<DuplexStream>, Rc<Cell<usize>>, Rc<Cell<usize>>);

    impl AsyncRead for Watched {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1.set(buffer.remaining());
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl Wire for Watched {
        fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.poll_room(cx)
        }

        fn say(
            &mut self,
            piece: usize,
            length: usize,
            put: impl FnOnce(&mut dyn Sink),
        ) -> io::Result<()> {
            self.2.set(piece);
            self.0.say(piece, length, put)
        }
    }

    impl AsyncWrite for Watched {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_connection_that_has_become_quiet_holds_little_memory() {
        run(async {
            let room = Rc::new(Cell::new(0));
            let (near, far) = tokio::io::duplex(1 << 20);
            let quick = Settings {
                silence_busy: Duration::from_millis(20),
                ..Settings::default()
            };
            let near = Watched(Plain::new(near), Rc::clone(&room), Rc::default());
            let near = Link::start(near, Side::Listener, quick, &plenty());
            let far = Link::start(
                Plain::new(far),
                Side::Dialler,
                Settings::default(),
                &plenty(),
            );
            let open = Open::Tcp(TcpOpen {
                service: ServiceName::new("shop", "cart").unwrap(),
                port: 80,
                context: Carried::default(),
            });
            let mut pipe = Pipe::new(far.open(&open, false).unwrap());
            let _incoming = near.accept().await.unwrap();
            assert!(room.get() <= 2 * LITTLE);
            pipe.write_all(&[0; 2 * LITTLE]).await.unwrap();
            while room.get() < READ_SIZE / 2 {
                tokio::task::yield_now().await;
            }
            while room.get() > 2 * LITTLE {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn what_is_written_is_cut_as_the_machine_says() {
        run(async {
            let piece = Rc::new(Cell::new(0));
            let (near, far) = tokio::io::duplex(1 << 20);
            let near = Watched(Plain::new(near), Rc::default(), Rc::clone(&piece));
            let near = Link::start(near, Side::Dialler, Settings::default(), &plenty());
            let far = Link::start(
                Plain::new(far),
                Side::Listener,
                Settings::default(),
                &plenty(),
            );
            let open = Open::Tcp(TcpOpen {
                service: ServiceName::new("shop", "cart").unwrap(),
                port: 80,
                context: Carried::default(),
            });
            let mut pipe = Pipe::new(near.open(&open, false).unwrap());
            let mut heard = Pipe::new(far.accept().await.unwrap().stream);
            assert!((1..1500).contains(&piece.get()));
            let mut beginning = vec![0; 64 * 1024];
            pipe.write_all(&beginning).await.unwrap();
            heard.read_exact(&mut beginning).await.unwrap();
            pipe.write_all(&[0]).await.unwrap();
            heard.read_exact(&mut [0]).await.unwrap();
            assert_eq!(piece.get(), MAX_DATA);
        });
    }
}
