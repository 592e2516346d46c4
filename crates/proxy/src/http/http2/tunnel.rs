//! A stream of HTTP/2 as two halves of opaque bytes (RFC 8441 section 5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Receiver, Sender};

/// What the peer says. Credit is given back for what was taken.
pub(crate) struct TunnelReader<'t> {
    receiver: &'t mut Receiver,
    unread: Bytes,
}

/// What the peer is told.
pub(crate) struct TunnelWriter<'t>(pub(super) &'t mut Sender);

impl<'t> TunnelReader<'t> {
    pub(crate) fn of(receiver: &'t mut Receiver) -> Self {
        Self {
            receiver,
            unread: Bytes::new(),
        }
    }
}

impl AsyncRead for TunnelReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receiver.stream.poll_data(cx)) {
                Some(data) => self.unread = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        let released = self.receiver.stream.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(io::Error::other))
    }
}

impl AsyncWrite for TunnelWriter<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.get_mut().0.stream;
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            let room = ready!(stream.poll_capacity(cx));
            let room = room.ok_or(io::ErrorKind::BrokenPipe)?;
            room.map_err(io::Error::other)?;
        }
        let count = stream.capacity().min(data.len());
        let part = Bytes::copy_from_slice(&data[..count]);
        let sent = stream.send_data(part, false);
        Poll::Ready(sent.map(|()| count).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection does.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().0.end(None).map_err(io::Error::other))
    }
}
