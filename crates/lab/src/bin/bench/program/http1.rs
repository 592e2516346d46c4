//! GETs of HTTP/1.1.

use std::io;
use std::sync::LazyLock;

use isthmus_lab::http::find;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{BODY, LARGE};

static REPLY: LazyLock<Vec<u8>> = LazyLock::new(|| reply(&BODY));
static LARGE_REPLY: LazyLock<Vec<u8>> = LazyLock::new(|| reply(&LARGE));

const HEAD_END: &[u8] = b"\r\n\r\n";
const MAX_HEAD: usize = 64 * 1024;

fn reply(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

pub(super) async fn converse(mut socket: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    while socket.read_buf(&mut received).await? > 0 {
        loop {
            let reply = match next(&received) {
                Next::Whole { is_large, length } => {
                    received.drain(..length);
                    if is_large { &*LARGE_REPLY } else { &*REPLY }
                }
                Next::Partial => break,
                Next::Odd => return Ok(()),
            };
            socket.write_all(reply).await?;
        }
    }
    Ok(())
}

/// What was received begins with.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Whole {
        is_large: bool,
        length: usize,
    },
    Partial,
    /// No GET.
    Odd,
}

fn next(received: &[u8]) -> Next {
    let method = &b"GET "[..received.len().min(4)];
    if !received.starts_with(method) || received.len() > MAX_HEAD {
        return Next::Odd;
    }
    match find(received, HEAD_END) {
        Some(end) => Next::Whole {
            is_large: received.starts_with(b"GET /64k "),
            length: end + HEAD_END.len(),
        },
        None => Next::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let whole = |is_large, length| Next::Whole { is_large, length };
        for (received, expect) in [
            ("", Next::Partial),
            ("GE", Next::Partial),
            ("GET / HTTP/1.1\r\nhost: x\r\n", Next::Partial),
            ("GET / HTTP/1.1\r\n\r\nGET /a HT", whole(false, 18)),
            ("GET /64k HTTP/1.1\r\n\r\n", whole(true, 21)),
            ("POST / HTTP/1.1\r\n\r\n", Next::Odd),
        ] {
            assert_eq!(next(received.as_bytes()), expect, "{received:?}");
        }
    }
}
