//! The smallest HTTP/1.1 client that can say anything: what is sent is bytes, right or wrong.
//!
//! One connection per request, so that a reply's end is the connection's end. It retries nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::trouble::{During, Result, Trouble, ensure, trouble};

/// Names and values.
type Fields = Vec<(String, String)>;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// In the order of the wire, names in lower case.
    pub fields: Fields,
    pub body: Vec<u8>,
    /// What came behind the body.
    pub trailers: Fields,
    /// The codes of what came before it, such as 103 (Early Hints).
    pub hints: Vec<u16>,
}

/// Longest silence of the other side.
const PATIENCE: Duration = Duration::from_secs(20);

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        find_field(&self.fields, name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        find_field(&self.trailers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).during(|| format!("{:?} is no JSON", self.text()))
    }

    /// Why the mesh refused the request, if it did.
    pub fn refusal(&self) -> Option<&str> {
        self.field("x-isthmus-refusal")
    }

    /// Errors: the status is another.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure(self.status == status, || {
            let refusal = self.refusal().unwrap_or("none");
            format!(
                "status {} instead of {status} (refusal: {refusal}): {}",
                self.status,
                self.text()
            )
        })?;
        Ok(self)
    }

    /// Errors: the mesh has not refused the request with this status and reason, or not by the book.
    pub fn expect_refusal(self, status: u16, reason: &str) -> Result<Self> {
        let reply = self.expect(status)?;
        ensure(reply.refusal() == Some(reason), || {
            format!("refusal {:?} instead of {reason}", reply.refusal())
        })?;
        ensure(reply.field("x-isthmus-at").is_some(), || {
            "x-isthmus-at is missing".to_owned()
        })?;
        reply.json()?;
        Ok(reply)
    }
}

fn find_field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let found = fields.iter().find(|(each, _)| each == name);
    found.map(|(_, value)| value.as_str())
}

/// GETs `url` through the HTTP proxy at `proxy`, with more header `lines` (`name: value`).
pub fn get(proxy: SocketAddr, url: &str, lines: &[&str]) -> Result<Reply> {
    request(proxy, "GET", url, lines, b"")
}

/// Sends a request with a body of known length, none if it is empty.
pub fn request(
    proxy: SocketAddr,
    method: &str,
    url: &str,
    lines: &[&str],
    body: &[u8],
) -> Result<Reply> {
    let mut head = head(method, url, lines);
    if !body.is_empty() {
        head.push_str("content-length: ");
        head.push_str(&body.len().to_string());
        head.push_str("\r\n");
    }
    head += "\r\n";
    exchange(proxy, &[head.as_bytes(), body].concat()).during(|| format!("{method} {url}"))
}

/// A request's head without its final empty line.
pub fn head(method: &str, url: &str, lines: &[&str]) -> String {
    let host = url.strip_prefix("http://").unwrap_or(url);
    let host = host.split('/').next().unwrap_or_default();
    let mut head = format!("{method} {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head
}

/// Sends bytes and reads a reply until the connection ends.
pub fn exchange(to: SocketAddr, bytes: &[u8]) -> Result<Reply> {
    let mut stream = connect(to)?;
    // Who refuses a request need not read all of it.
    let _ = stream.write_all(bytes);
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Ok(_) => {}
        // As above: what had not been read when it closed makes it a reset.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !reply.is_empty() => {}
        Err(error) => return trouble(format!("reading from {to}: {error}")),
    }
    parse(&reply)
}

pub fn connect(to: SocketAddr) -> Result<TcpStream> {
    let open = || -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    open().during(|| format!("connecting to {to}"))
}

fn parse(mut bytes: &[u8]) -> Result<Reply> {
    let mut hints = Vec::new();
    loop {
        let bad = || Trouble(format!("no reply: {:?}", String::from_utf8_lossy(bytes)));
        let end = find(bytes, b"\r\n\r\n").ok_or_else(bad)?;
        let (status, fields) = parse_head(&bytes[..end]).ok_or_else(bad)?;
        let rest = &bytes[end + 4..];
        // After 101, what comes is no HTTP.
        if !(100..200).contains(&status) || status == 101 {
            let body = rest.to_vec();
            return whole(Reply {
                status,
                fields,
                body,
                trailers: Vec::new(),
                hints,
            });
        }
        hints.push(status);
        bytes = rest;
    }
}

/// Status and fields.
fn parse_head(head: &[u8]) -> Option<(u16, Fields)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    Some((status, parse_fields(lines)?))
}

fn parse_fields<'l>(lines: impl Iterator<Item = &'l str>) -> Option<Fields> {
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    lines.map(field).collect()
}

/// The reply with its body as it was meant, of all that came behind its head.
fn whole(mut reply: Reply) -> Result<Reply> {
    if reply.field("transfer-encoding") == Some("chunked") {
        let broken = || Trouble(format!("the body broke off: {:?}", reply.text()));
        (reply.body, reply.trailers) = unchunk(&reply.body).ok_or_else(broken)?;
    }
    if let Some(length) = reply.field("content-length") {
        let whole = length.parse() == Ok(reply.body.len());
        ensure(whole, || format!("the body broke off: {reply:?}"))?;
    }
    Ok(reply)
}

/// The body and its trailers. `None`: it does not end as it should.
fn unchunk(mut bytes: &[u8]) -> Option<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        let end = find(bytes, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            let last = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n")?;
            return Some((body, parse_fields(last.lines())?));
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

/// Where `wanted` begins in `bytes`.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_broken_ones_are_noticed() {
        let body = |text: &str| parse(text.as_bytes()).map(|reply| (reply.status, reply.text()));
        let good = |status, text: &str| Ok((status, text.to_owned()));
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"),
            good(200, "ab")
        );
        assert_eq!(
            body(
                "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n"
            ),
            good(404, "abc")
        );
        assert_eq!(body("HTTP/1.1 204 None\r\n\r\n"), good(204, ""));
        assert_eq!(body("HTTP/1.1 101 So\r\n\r\nab"), good(101, "ab"));
        let hinted =
            b"HTTP/1.1 100 On\r\n\r\nHTTP/1.1 103 Hint\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nab";
        let hinted = parse(hinted).map(|reply| (reply.status, reply.text(), reply.hints));
        assert_eq!(hinted, Ok((200, "ab".to_owned(), vec![100, 103])));
        let ended =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nSum: 7\r\n\r\n";
        let ended = parse(ended).unwrap();
        assert_eq!(
            (ended.text().as_str(), ended.trailer("sum")),
            ("a", Some("7"))
        );
        for broken in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 103 Hint\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ] {
            assert!(body(broken).is_err(), "{broken:?}");
        }
    }
}
