//! Heads of HTTP/1.1 on connections that are kept, for clients and programs that speak only what
//! they agreed on: lengths are announced, nothing is chunked.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::http::find;

const END: &[u8] = b"\r\n\r\n";
const LONGEST: usize = 64 * 1024;

/// The first line, and fields with names in lower case.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) first: String,
    fields: Vec<(String, String)>,
}

/// A connection, and what was read of it and not used yet.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    pub(crate) read: BytesMut,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(each, _)| each == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A head without a length has no body.
    pub(crate) fn length(&self) -> usize {
        let length = self.field("content-length");
        length.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The connection ends after this exchange.
    pub(crate) fn is_last(&self) -> bool {
        self.field("connection")
            .is_some_and(|text| text.eq_ignore_ascii_case("close"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let first = lines.next()?.to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let fields = lines.map(field).collect::<Option<_>>()?;
        Some(Self { first, fields })
    }
}

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let read = BytesMut::new();
        Ok(Self { socket, read })
    }

    /// The next head. `None`: the connection has ended before it began.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.read, END) {
                let bytes = self.read.split_to(end + END.len());
                let text = std::str::from_utf8(&bytes[..end]).ok();
                return match text.and_then(Head::parse) {
                    Some(head) => Ok(Some(head)),
                    None => Err(odd("no head of HTTP/1.1")),
                };
            }
            if self.read.len() > LONGEST {
                return Err(odd("a head without an end"));
            }
            if self.more().await? == 0 {
                return self.ended().map(|()| None);
            }
        }
    }

    /// The next `length` bytes.
    pub(crate) async fn body(&mut self, length: usize) -> io::Result<Bytes> {
        while self.read.len() < length {
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.split_to(length).freeze())
    }

    /// The next line, without its end. `None`: the connection has ended before it began.
    pub(crate) async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.more().await? == 0 {
                return self.ended().map(|()| None);
            }
        }
    }

    /// The connection is over. Errors: in the middle of something.
    fn ended(&self) -> io::Result<()> {
        if self.read.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.socket.read_buf(&mut self.read).await
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: Close";
        let head = Head::parse(text).unwrap();
        assert_eq!(head.first, "HTTP/1.1 200 OK");
        assert_eq!((head.length(), head.is_last()), (12, true));
        let bare = Head::parse("GET / HTTP/1.1").unwrap();
        assert_eq!((bare.length(), bare.is_last()), (0, false));
        assert!(Head::parse("GET / HTTP/1.1\r\nnonsense").is_none());
    }
}
