//! A byte stream of HTTP/2 whose peer is held to [`Calm`].

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::calm::Calm;

/// Reads nothing more of a peer that has to calm down, and says so by its [`Alarm`].
pub(crate) struct Guarded<T> {
    io: T,
    calm: Calm,
    alarm: Alarm,
}

/// Tells whoever drives the connection what becomes of it. Clones are the same alarm.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarm(Rc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    rings: Flag,
    worn: Flag,
}

/// Raised once.
#[derive(Debug, Default)]
struct Flag {
    is_raised: Cell<bool>,
    heard: Notify,
}

impl Flag {
    async fn raised(&self) {
        while !self.is_raised.get() {
            self.heard.notified().await;
        }
    }

    fn raise(&self) {
        if !self.is_raised.replace(true) {
            self.heard.notify_one();
        }
    }
}

impl Alarm {
    /// Ready when the peer has to calm down.
    pub(crate) async fn rung(&self) {
        self.0.rings.raised().await;
    }

    /// Ready when the connection is to be left for another one: see [`Calm::is_worn`].
    pub(crate) async fn worn(&self) {
        self.0.worn.raised().await;
    }
}

impl<T> Guarded<T> {
    /// Of a client, from its preface on.
    pub(crate) fn of_client(io: T) -> (Self, Alarm) {
        Self::new(io, Calm::of_client(Instant::now()))
    }

    /// Of a program, from our preface on.
    pub(crate) fn of_program(io: T) -> (Self, Alarm) {
        Self::new(io, Calm::of_program(Instant::now()))
    }

    fn new(io: T, calm: Calm) -> (Self, Alarm) {
        let alarm = Alarm::default();
        let guarded = Self {
            io,
            calm,
            alarm: alarm.clone(),
        };
        (guarded, alarm)
    }

    fn sent<'d>(&mut self, parts: impl Iterator<Item = &'d [u8]>, mut count: usize) {
        let now = Instant::now();
        for part in parts {
            let part = &part[..count.min(part.len())];
            count -= part.len();
            if !self.calm.on_sent(part, now) {
                self.alarm.0.rings.raise();
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.alarm.0.rings.is_raised.get() {
            // Who hears the alarm polls again, and closes.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if !self
            .calm
            .on_received(&buffer.filled()[before..], Instant::now())
        {
            self.alarm.0.rings.raise();
        }
        if self.calm.is_worn() {
            self.alarm.0.worn.raise();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, data))?;
        self.sent(std::iter::once(data), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, data))?;
        self.sent(data.iter().map(|part| &**part), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
