//! Memory that sockets are read into and written from. A block is borrowed when there is something to
//! read or to write, and given back when all of it was taken, so that an idle connection holds none.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

/// Of a block, in bytes: what is asked of a socket at once. The longest record of TLS fits.
pub(crate) const SIZE: usize = 17 * 1024;
/// What is asked of who says much.
const MUCH: usize = 64 * 1024;
/// Data from here on is written from where it lies: that costs less than to copy it.
pub(crate) const LONG: usize = 4 * 1024;
/// Blocks that one thread keeps for later.
const MOST: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads once, behind what `input` has already. 0: nothing more will come. Safe to give up on.
pub(crate) async fn read(
    socket: &mut OwnedReadHalf,
    flow: &mut Flow,
    input: &mut BytesMut,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        ready!(socket.as_ref().poll_read_ready(cx))?;
        flow.poll_read(socket, input, SIZE, cx)
    })
    .await
}

/// How much comes of a source at once.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// The last read brought as much as there was room for.
    is_full: bool,
}

impl Flow {
    /// Reads once, behind what `input` has, with room for at least `least` bytes; 0: nothing more will come.
    /// Where nothing is here to read, nothing is held for it.
    pub(crate) fn poll_read(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        input: &mut BytesMut,
        least: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        borrow(input);
        let usual = if self.is_full { MUCH } else { SIZE };
        input.reserve(if input.is_empty() {
            usual
        } else {
            usual.max(least)
        });
        let room = input.capacity() - input.len();
        let read = poll_read_buf(Pin::new(source), cx, input);
        let was_full = std::mem::replace(&mut self.is_full, false);
        match &read {
            Poll::Ready(read) => {
                self.is_full = read.as_ref().is_ok_and(|read| *read == room);
                give_back(input);
            }
            Poll::Pending if input.is_empty() && was_full => *input = BytesMut::new(),
            Poll::Pending => give_back(input),
        }
        read
    }
}

/// What is to be written: heads and what is short in a block, and behind it what is long, as it is.
#[derive(Debug, Default)]
pub(crate) struct Output {
    block: BytesMut,
    long: Bytes,
}

impl Output {
    /// To append to.
    pub(crate) fn block(&mut self) -> &mut BytesMut {
        if !self.long.is_empty() {
            self.block
                .extend_from_slice(&std::mem::take(&mut self.long));
        }
        borrow(&mut self.block);
        &mut self.block
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if self.long.is_empty() && data.len() >= LONG {
            self.long = data;
        } else {
            self.block().extend_from_slice(&data);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.block.len() + self.long.len()
    }

    /// Writes all of it; the block is given back then. Safe to give up on and call again.
    pub(crate) async fn write(&mut self, socket: &mut OwnedWriteHalf) -> io::Result<()> {
        while self.len() > 0 {
            let written = if self.long.is_empty() {
                socket.write(&self.block).await?
            } else {
                let both = [IoSlice::new(&self.block), IoSlice::new(&self.long)];
                socket.write_vectored(&both).await?
            };
            self.advance(written);
        }
        give_back(&mut self.block);
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        if written < self.block.len() {
            return self.block.advance(written);
        }
        self.long.advance(written - self.block.len());
        self.block.clear();
    }
}

/// Sees to it that there is a block, if nothing is in it yet.
pub(crate) fn borrow(input: &mut BytesMut) {
    if !input.is_empty() {
        return;
    }
    if input.capacity() == 0 {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        *input = spare.unwrap_or_default();
    }
    // One whose pieces somebody still holds is left to them.
    if !input.try_reclaim(SIZE) {
        *input = BytesMut::with_capacity(SIZE);
    }
}

/// Gives back the block of `input`, if all that was in it was taken.
pub(crate) fn give_back(input: &mut BytesMut) {
    if input.is_empty() {
        let mut block = std::mem::take(input);
        // What has grown shows only a part of what it holds once some of that was taken.
        let is_usual = block.capacity() > 0 && !block.try_reclaim(SIZE + 1);
        SPARE.with_borrow_mut(|spare| {
            if is_usual && spare.len() < MOST {
                spare.push(block);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::testing::{run, within};

    #[test]
    fn what_is_long_is_written_in_its_turn() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap());
            let (_read, mut near) = near.await.unwrap().into_split();
            let (mut far, _) = listener.accept().await.unwrap();
            let mut output = Output::default();
            // More than the socket takes at once.
            let long = Bytes::from((0..=250).cycle().take(8 << 20).collect::<Vec<u8>>());
            let (mut expect, mut came) = (vec![], vec![]);
            for data in [
                Bytes::from_static(b"head"),
                long.clone(),
                Bytes::from_static(b"between"),
                long,
                Bytes::from_static(b"end"),
            ] {
                expect.extend_from_slice(&data);
                output.push(data);
            }
            assert_eq!(output.len(), expect.len());
            let write = async {
                output.write(&mut near).await.unwrap();
                near.shutdown().await.unwrap();
            };
            tokio::join!(write, async { far.read_to_end(&mut came).await.unwrap() });
            assert!(came == expect);
            assert_eq!((output.len(), output.block.capacity()), (0, 0));
        });
    }

    #[test]
    fn a_connection_on_which_nothing_comes_holds_no_block() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut far = TcpStream::connect(address).await.unwrap();
            let (mut near, _write) = listener.accept().await.unwrap().0.into_split();
            let mut input = BytesMut::new();
            let mut flow = Flow::default();
            tokio::select! {
                biased;
                _ = read(&mut near, &mut flow, &mut input) => panic!("nothing has come"),
                () = tokio::task::yield_now() => assert_eq!(input.capacity(), 0),
            }
            far.write_all(b"abc").await.unwrap();
            let came = within(read(&mut near, &mut flow, &mut input)).await;
            assert_eq!(came.unwrap(), 3);
            let taken = input.split_to(3);
            give_back(&mut input);
            assert_eq!(input.capacity(), 0);
            // What is still held is not written over.
            far.write_all(b"xyz").await.unwrap();
            let came = within(read(&mut near, &mut flow, &mut input)).await;
            assert_eq!(came.unwrap(), 3);
            assert_eq!((&taken[..], &input[..]), (&b"abc"[..], &b"xyz"[..]));
            drop(far);
            input.clear();
            let came = within(read(&mut near, &mut flow, &mut input)).await;
            assert_eq!(came.unwrap(), 0);
            assert_eq!(input.capacity(), 0);
        });
    }

    #[test]
    fn a_block_that_has_grown_is_not_kept() {
        for length in [SIZE, SIZE + 1, 8 * SIZE] {
            let mut output = BytesMut::new();
            borrow(&mut output);
            output.extend_from_slice(&vec![0; length]);
            output.advance(length - 1);
            output.clear();
            give_back(&mut output);
            let mut kept = SPARE.with_borrow_mut(std::mem::take);
            assert!(
                kept.iter_mut().all(|block| !block.try_reclaim(SIZE + 1)),
                "{length}"
            );
        }
    }
}
