//! A stream as a pipe of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Item, Stream, StreamError};

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
