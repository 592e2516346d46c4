//! The client: bytes to the caller's proxy, and what is heard from it.
//!
//! Speaks HTTP/1.1. Another protocol needs a front of its own that hears the same [`Heard`]; nothing
//! else here knows what is spoken.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use crate::http::{connect, find};
use crate::trouble::{During, Result};

/// The caller's proxy, and the service that is called.
#[derive(Debug)]
pub(super) struct Front {
    proxy: SocketAddr,
    pub(super) host: String,
}

/// Everything that a connection brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) answers: Vec<Answer>,
    pub(super) end: End,
}

/// One final response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The mesh's reason, if the mesh itself answers.
    pub(super) refusal: Option<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it should: between two responses.
    Closed,
    /// In the middle of a response.
    Cut,
    /// Not within [`PATIENCE`], although nothing more could come from the client.
    Hangs,
}

/// For everything that one connection brings. The client says at once that it has said everything.
const PATIENCE: Duration = Duration::from_secs(10);

impl Front {
    pub(super) fn new(proxy: SocketAddr, host: &str) -> Self {
        Self {
            proxy,
            host: host.to_owned(),
        }
    }

    /// Says `bytes` on a connection of their own, and that nothing follows; hears until it is closed.
    ///
    /// Errors: there is no connection.
    pub(super) fn say(&self, bytes: &[u8]) -> Result<Heard> {
        let mut stream = connect(self.proxy)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .during(|| "a connection to the proxy".to_owned())?;
        // Who refuses a request need not read all of it, and may be gone before all is said.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut heard = Vec::new();
        let ended = stream.read_to_end(&mut heard);
        let hangs = matches!(&ended, Err(error) if is_timeout(error));
        let (answers, whole) = answers(&heard);
        let end = match (hangs, whole) {
            (true, _) => End::Hangs,
            (false, true) => End::Closed,
            (false, false) => End::Cut,
        };
        Ok(Heard { answers, end })
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// The responses one after the other, and whether the last one is whole.
fn answers(mut bytes: &[u8]) -> (Vec<Answer>, bool) {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        match answer(bytes) {
            Some((answer, used)) => {
                bytes = &bytes[used..];
                if answer.status >= 200 {
                    answers.push(answer);
                }
            }
            None => return (answers, false),
        }
    }
    (answers, true)
}

/// The response at the front and its length. `None`: it is not whole, or none.
fn answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let rest = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        let mut lines = head.split("\r\n").skip(1);
        lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let bodiless = status < 200 || status == 204 || status == 304;
    let (body, length) = match (field("transfer-encoding"), field("content-length")) {
        _ if bodiless => (Vec::new(), 0),
        (Some(_), _) => chunks(rest)?,
        (None, Some(length)) => {
            let length: usize = length.parse().ok()?;
            match rest.get(..length) {
                Some(body) => (body.to_vec(), length),
                // The answer to HEAD: its length is that of a body that does not come.
                None if rest.is_empty() || rest.starts_with(b"HTTP/1.") => (Vec::new(), 0),
                None => return None,
            }
        }
        (None, None) => (rest.to_vec(), rest.len()),
    };
    let refusal = field("x-isthmus-refusal").map(str::to_owned);
    let answer = Answer {
        status,
        refusal,
        body,
    };
    Some((answer, end + 4 + length))
}

/// A chunked body and its length on the wire.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let end = at + find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at = end + 2;
        if size == 0 {
            let trailers = find(&bytes[at - 2..], b"\r\n\r\n")?;
            return Some((body, at + trailers + 2));
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_told_apart() {
        for (bytes, expect, whole) in [
            ("", &[][..], true),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 204 No\r\n\r\n",
                &[(200, "a"), (204, "")],
                true,
            ),
            (
                "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
                &[(200, "ab")],
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\nHTTP/1.1 200",
                &[(200, "")],
                false,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", &[], false),
        ] {
            let (found, is_whole) = answers(bytes.as_bytes());
            let found: Vec<(u16, String)> = found
                .into_iter()
                .map(|a| (a.status, String::from_utf8_lossy(&a.body).into_owned()))
                .collect();
            let found: Vec<(u16, &str)> = found.iter().map(|(s, b)| (*s, b.as_str())).collect();
            assert_eq!((found.as_slice(), is_whole), (expect, whole), "{bytes:?}");
        }
    }
}
