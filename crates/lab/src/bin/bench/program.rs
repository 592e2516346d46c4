//! The program that all paths end at: it answers every GET with the same bytes and does nothing
//! else, so that what is measured is the way to it.

use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;

use isthmus_lab::http::find;
use isthmus_lab::trouble::{During, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it answers: 1 KiB.
pub(crate) const BODY: [u8; 1024] = [b'.'; 1024];

static REPLY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let length = BODY.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), &BODY].concat()
});

const HEAD_END: &[u8] = b"\r\n\r\n";
const MAX_HEAD: usize = 64 * 1024;

/// Serves until it is killed. Errors: it cannot listen.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let during = || format!("listening on {listen}");
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.during(during)?;
        loop {
            let (socket, _) = listener.accept().await.during(during)?;
            // What goes wrong on a connection ends it, which its client notices.
            tokio::spawn(converse(socket));
        }
    })
}

async fn converse(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut received = Vec::new();
    loop {
        if socket.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let Some((requests, used)) = requests(&received) else {
            return Ok(());
        };
        received.drain(..used);
        for _ in 0..requests {
            socket.write_all(&REPLY).await?;
        }
    }
}

/// How many whole requests stand at the beginning, and where they end. `None`: something that is no
/// GET.
fn requests(received: &[u8]) -> Option<(usize, usize)> {
    let (mut count, mut used) = (0, 0);
    loop {
        let rest = &received[used..];
        let method = &b"GET "[..rest.len().min(4)];
        if !rest.starts_with(method) || rest.len() > MAX_HEAD {
            return None;
        }
        let Some(end) = find(rest, HEAD_END) else {
            return Some((count, used));
        };
        count += 1;
        used += end + HEAD_END.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_requests_are_counted() {
        for (received, expect) in [
            ("", Some((0, 0))),
            ("GE", Some((0, 0))),
            ("GET / HTTP/1.1\r\nhost: x\r\n", Some((0, 0))),
            ("GET / HTTP/1.1\r\n\r\n", Some((1, 18))),
            ("GET / HTTP/1.1\r\n\r\nGET /a HT", Some((1, 18))),
            (
                "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                Some((2, 36)),
            ),
            ("POST / HTTP/1.1\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n{}", None),
        ] {
            assert_eq!(requests(received.as_bytes()), expect, "{received:?}");
        }
    }
}
