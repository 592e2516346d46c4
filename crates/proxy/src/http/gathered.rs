//! A byte stream on which all that is said in one turn is written at once. The crate `h2` hands over each
//! frame of data by itself, and with many requests at a time each would be a call of the kernel.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::blocks;

/// The stream, for whoever speaks on it: takes what is written and keeps it.
pub(crate) struct Gathered<T>(Rc<RefCell<Inner<T>>>);

/// Its other handle, for whoever drives that one.
pub(crate) struct Written<T>(Rc<RefCell<Inner<T>>>);

struct Inner<T> {
    io: T,
    /// Holds no block while it is empty.
    out: BytesMut,
}

pub(crate) fn gathered<T>(io: T) -> (Gathered<T>, Written<T>) {
    let inner = Rc::new(RefCell::new(Inner {
        io,
        out: BytesMut::new(),
    }));
    (Gathered(Rc::clone(&inner)), Written(inner))
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    /// Ready when everything is written.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
        }
        blocks::give_back(&mut self.out);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Written<T> {
    /// Polls what speaks on the stream, and writes what it has said.
    ///
    /// Errors: the stream takes nothing more.
    pub(crate) fn poll_turn<R>(
        &self,
        cx: &mut Context<'_>,
        speak: impl FnOnce(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<io::Result<R>> {
        let said = speak(cx);
        match self.0.borrow_mut().poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Pending: it is polled again when the stream takes more.
            Poll::Ready(Ok(())) | Poll::Pending => said.map(Ok),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let length: usize = data.iter().map(|part| part.len()).sum();
        let is_long = length >= blocks::LONG;
        // A block does not grow; one that is written in part has no more room than it had.
        let room = inner.out.capacity() - inner.out.len();
        if is_long || (!inner.out.is_empty() && length > room) {
            ready!(inner.poll_out(cx))?;
        }
        if is_long {
            // That costs less than to copy it.
            return Pin::new(&mut inner.io).poll_write_vectored(cx, data);
        }
        blocks::borrow(&mut inner.out);
        for part in data {
            inner.out.extend_from_slice(part);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of a turn is what flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::testing::{run, within};

    /// Counts what it is asked to write.
    struct Counting<T>(T, Rc<RefCell<Vec<usize>>>);

    impl<T: AsyncRead + Unpin> AsyncRead for Counting<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl<T: AsyncWrite + Unpin> AsyncWrite for Counting<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(cx, data))?;
            self.1.borrow_mut().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[test]
    fn what_is_said_in_one_turn_is_written_at_once() {
        run(async {
            let (near, mut far) = duplex(1 << 20);
            let writes = Rc::new(RefCell::new(Vec::new()));
            let (mut near, written) = gathered(Counting(near, Rc::clone(&writes)));
            let turn = |near: &mut Gathered<_>, parts: &[&[u8]]| {
                let mut speak = std::pin::pin!(async {
                    for part in parts {
                        near.write_all(part).await.unwrap();
                        near.flush().await.unwrap();
                    }
                });
                let waker = std::task::Waker::noop();
                let turn = written.poll_turn(&mut Context::from_waker(waker), |cx| {
                    speak.as_mut().poll(cx)
                });
                assert!(matches!(turn, Poll::Ready(Ok(()))));
            };
            turn(&mut near, &[b"one ", b"two ", b"three"]);
            assert_eq!(std::mem::take(&mut *writes.borrow_mut()), [13]);
            assert_eq!(near.0.borrow().out.capacity(), 0, "nothing is held");
            // What is long goes by itself, behind what was said before it, and no block grows.
            let long = vec![b'x'; blocks::LONG];
            turn(&mut near, &[b"a", &long, b"b"]);
            assert_eq!(
                std::mem::take(&mut *writes.borrow_mut()),
                [1, long.len(), 1]
            );
            let part = vec![b'y'; blocks::LONG - 1];
            turn(&mut near, &[&part[..]; 5]);
            assert_eq!(
                std::mem::take(&mut *writes.borrow_mut()),
                [4 * part.len(), part.len()]
            );
            near.write_all(b"bye").await.unwrap();
            near.shutdown().await.unwrap();
            let mut heard = Vec::new();
            within(far.read_to_end(&mut heard)).await.unwrap();
            let expect = [&b"one two threea"[..], &long, b"b", &part.repeat(5), b"bye"];
            assert!(heard == expect.concat());
        });
    }

    #[test]
    fn who_takes_nothing_holds_a_block_and_no_more() {
        run(async {
            let (near, mut far) = duplex(100);
            let (mut near, written) = gathered(near);
            let said = blocks::SIZE;
            let speaking = async {
                for _ in 0..said {
                    near.write_all(b"12345678").await.unwrap();
                }
                near.flush().await.unwrap();
            };
            let mut speaking = std::pin::pin!(speaking);
            let all = poll_fn(|cx| written.poll_turn(cx, |cx| speaking.as_mut().poll(cx)));
            let mut heard = vec![0; 8 * said];
            let hear = async {
                for part in heard.chunks_mut(1000) {
                    far.read_exact(part).await.unwrap();
                    assert!(written.0.borrow().out.capacity() <= blocks::SIZE);
                }
            };
            let rest = async {
                all.await.unwrap();
                poll_fn(|cx| written.0.borrow_mut().poll_out(cx))
                    .await
                    .unwrap();
            };
            within(async { tokio::join!(rest, hear) }).await;
            assert!(heard.chunks(8).all(|part| part == b"12345678"));
        });
    }
}
