//! Bytes: as many as the client asks for, again and again.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LARGE;

/// A wish is eight bytes, the most significant first.
pub(super) async fn converse(mut socket: TcpStream) -> io::Result<()> {
    loop {
        let mut left = socket.read_u64().await?;
        while left > 0 {
            let length = usize::try_from(left).map_or(LARGE.len(), |left| left.min(LARGE.len()));
            socket.write_all(&LARGE[..length]).await?;
            left -= length as u64;
        }
    }
}
