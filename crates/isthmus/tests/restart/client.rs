//! Clients that do not forgive: a request that was sent and not answered is a failure, and so is a
//! connection that is not taken or that breaks.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use isthmus_lab::http;
use isthmus_lab::trouble::{During, Result, ensure, trouble};

/// One connection on which several requests may go.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(proxy: SocketAddr) -> Result<Self> {
        Ok(Self(BufReader::new(http::connect(proxy)?)))
    }

    /// Asks for `url`, and reads the whole answer. True: the connection may be used again.
    pub(crate) fn ask(&mut self, method: &str, url: &str) -> Result<bool> {
        let text = request(method, url);
        (self.0.get_mut().write_all(text.as_bytes())).during(|| format!("asking for {url}"))?;
        let (status, keeps, length) = self.head(url)?;
        let Some(length) = length else {
            return trouble(format!("{url}: an answer without a length"));
        };
        let mut body = vec![0; length];
        self.0
            .read_exact(&mut body)
            .during(|| format!("the body of {url}"))?;
        // A refusal says in its body why.
        ensure(status.starts_with("http/1.1 200"), || {
            let body = String::from_utf8_lossy(&body);
            format!("{method} {url}: {status}: {body}")
        })?;
        Ok(keeps)
    }

    /// Reads a head: its first line, whether the connection may be used again, and the length of the
    /// body, if it is told.
    fn head(&mut self, url: &str) -> Result<(String, bool, Option<usize>)> {
        let mut line = String::new();
        let mut read = || -> Result<String> {
            line.clear();
            self.0
                .read_line(&mut line)
                .during(|| format!("the head of {url}"))?;
            ensure(!line.is_empty(), || {
                format!("{url}: the connection ended instead of an answer")
            })?;
            Ok(line.trim_end().to_ascii_lowercase())
        };
        let status = read()?;
        let (mut keeps, mut length) = (true, None);
        loop {
            let field = read()?;
            if field.is_empty() {
                return Ok((status, keeps, length));
            }
            if let Some(text) = field.strip_prefix("content-length:") {
                length = text.trim().parse().ok();
            }
            keeps &= field != "connection: close";
        }
    }

    /// Asks for `url` and reads no more than the head: the rest is on its way, or waits to be read.
    pub(crate) fn begin(proxy: SocketAddr, url: &str) -> Result<TcpStream> {
        let mut stream = http::connect(proxy)?;
        let text = request("GET", url);
        (stream.write_all(text.as_bytes())).during(|| format!("asking for {url}"))?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            (stream.read_exact(&mut byte)).during(|| format!("the head of {url}"))?;
            head.push(byte[0]);
        }
        ensure(head.starts_with(b"HTTP/1.1 200"), || {
            String::from_utf8_lossy(&head).into_owned()
        })?;
        Ok(stream)
    }
}

fn request(method: &str, url: &str) -> String {
    let host = url.trim_start_matches("http://").split('/').next();
    let host = host.unwrap_or_default();
    format!("{method} {url} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n")
}

/// A connection to redis, which answers every PING.
pub(crate) struct Redis(TcpStream);

impl Redis {
    pub(crate) fn connect(listener: SocketAddr) -> Result<Self> {
        Ok(Self(http::connect(listener)?))
    }

    /// Waits until the connection is closed from the other side.
    pub(crate) fn ends(&mut self) -> Result<()> {
        match self.0.read(&mut [0]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => trouble(format!("it goes on: {other:?}")),
        }
    }

    pub(crate) fn ping(&mut self) -> Result<()> {
        let during = || "a PING over TCP".to_owned();
        self.0.write_all(b"PING\r\n").during(during)?;
        let mut answer = [0; 7];
        self.0.read_exact(&mut answer).during(during)?;
        ensure(&answer == b"+PONG\r\n", || format!("{answer:?}"))
    }
}
