//! A byte stream that carries a multiplex as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use isthmus_codec::Sink;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mux::Wire;

pub(crate) struct Plain<T> {
    io: T,
    out: BytesMut,
}

impl<T> Plain<T> {
    pub(crate) fn new(io: T) -> Self {
        Self {
            io,
            out: BytesMut::new(),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for Plain<T> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn say(
        &mut self,
        _piece: usize,
        _length: usize,
        put: impl FnOnce(&mut dyn Sink),
    ) -> io::Result<()> {
        put(&mut self.out);
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Plain<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Plain<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
