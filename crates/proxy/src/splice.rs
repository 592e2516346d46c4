//! Carries opaque bytes both ways between a socket and a stream, with half-close: the end of one
//! direction does not end the other.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

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
}

/// Returns when both directions have ended, or at once when one breaks. `early`: bytes that were
/// read from the socket before.
pub(crate) async fn splice(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    early: Bytes,
    stream: &Stream,
) -> Carried {
    let mut carried = Carried::default();
    let Carried { sent, received } = &mut carried;
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
            stream.send(buffer.split().freeze()).await.map_err(drop)?;
        }
    };
    let down = async {
        loop {
            match stream.receive().await.map_err(drop)? {
                Item::Data(data) => {
                    *received += data.len() as u64;
                    write.write_all(&data).await.map_err(drop)?;
                }
                Item::End(_) => return write.shutdown().await.map_err(drop),
                Item::Reply(_) => return Err(()),
            }
        }
    };
    // Dropping the socket and the stream tells both sides of a break.
    let _: Result<((), ()), ()> = tokio::try_join!(up, down);
    carried
}
