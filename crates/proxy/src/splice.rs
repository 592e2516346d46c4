//! Carries opaque bytes both ways between a socket and a stream, with half-close: the end of one
//! direction does not end the other.

use std::cell::Cell;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, sleep_until};

use crate::mux::{Item, Stream};

/// Read from the socket at once.
const READ_SIZE: usize = 16 * 1024;

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carried {
    /// From the socket to the stream.
    pub(crate) sent: u64,
    /// From the stream to the socket.
    pub(crate) received: u64,
    /// One of them has not ended as it should.
    pub(crate) is_cut: bool,
}

/// As [`splice`], of a socket that is carried to its end. Whatever cuts it, the peer is told by a reset:
/// one that is only dropped would say that this was all.
pub(crate) async fn splice_socket(
    socket: TcpStream,
    early: Bytes,
    stream: &Stream,
    idle: Duration,
) -> Carried {
    struct Write(Option<OwnedWriteHalf>);

    impl Drop for Write {
        fn drop(&mut self) {
            if let Some(write) = self.0.take() {
                reset(write);
            }
        }
    }

    let (read, write) = socket.into_split();
    let mut write = Write(Some(write));
    let Some(half) = &mut write.0 else {
        return Carried::default();
    };
    let carried = splice(read, half, early, stream, idle).await;
    if !carried.is_cut {
        write.0 = None;
    }
    carried
}

/// Ends a connection of which the peer must not believe that it has got all.
pub(crate) fn reset(write: OwnedWriteHalf) {
    // A socket that has failed needs none.
    let _ = write.as_ref().set_zero_linger();
    write.forget();
}

/// Returns when both directions have ended, or at once when one breaks or nothing has come, either way,
/// for `idle` (zero: however long): peers that have vanished without a word would hold it for ever.
/// `early`: bytes that were read from the socket before.
pub(crate) async fn splice(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    early: Bytes,
    stream: &Stream,
    idle: Duration,
) -> Carried {
    let mut carried = Carried::default();
    let quiet = Quiet::new();
    let Carried { sent, received, .. } = &mut carried;
    let up = async {
        *sent += early.len() as u64;
        stream.send(early).await.map_err(drop)?;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_SIZE);
            let length = read.read_buf(&mut buffer).await.map_err(drop)?;
            if length == 0 {
                return stream.finish(None).map_err(drop);
            }
            *sent += length as u64;
            quiet.broken();
            stream.send(buffer.split().freeze()).await.map_err(drop)?;
        }
    };
    let down = async {
        loop {
            match stream.receive().await.map_err(drop)? {
                Item::Data(data) => {
                    *received += data.len() as u64;
                    quiet.broken();
                    write.write_all(&data).await.map_err(drop)?;
                }
                Item::End(_) => return write.shutdown().await.map_err(drop),
                Item::Reply(_) => return Err(()),
            }
        }
    };
    let both = async {
        let both: Result<((), ()), ()> = tokio::try_join!(up, down);
        both.is_err()
    };
    let is_cut = tokio::select! {
        is_cut = both => is_cut,
        () = quiet.lasts(idle), if !idle.is_zero() => {
            tracing::info!(?idle, "a connection that carried nothing is ended");
            true
        }
    };
    Carried { is_cut, ..carried }
}

/// Since when nothing has come.
#[derive(Debug)]
pub(crate) struct Quiet(Cell<Instant>);

impl Quiet {
    pub(crate) fn new() -> Self {
        Self(Cell::new(Instant::now()))
    }

    pub(crate) fn broken(&self) {
        self.0.set(Instant::now());
    }

    /// Waits until it has lasted for `limit`.
    pub(crate) async fn lasts(&self, limit: Duration) {
        while self.0.get().elapsed() < limit {
            sleep_until(self.0.get() + limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const IDLE: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn only_an_hour_without_a_byte_is_an_hour_of_quiet() {
        let quiet = Quiet::new();
        let begun = Instant::now();
        for _ in 0..3 {
            let minutes = timeout(Duration::from_mins(59), quiet.lasts(IDLE)).await;
            assert!(minutes.is_err(), "after {:?}", begun.elapsed());
            quiet.broken();
        }
        advance(Duration::from_secs(1)).await;
        quiet.lasts(IDLE).await;
        assert_eq!(begun.elapsed(), 3 * Duration::from_mins(59) + IDLE);
    }
}
