//! Ports of which nobody has said what is spoken on them.
//!
//! What a client says first is looked at, for as long as [`crate::config::Patience::detect`] allows and
//! no longer: it may be one that waits for the server. Only the whole first line of a request of
//! HTTP/1.1 makes it HTTP, for nothing else begins so; everything else is carried unread, HTTP/2
//! as well, since the callee's proxy cannot know that its program speaks it. Whatever is found is
//! counted, and what a declaration would have made better is told once for each port.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use isthmus_codec::http1::MAX_REQUEST_LINE;
use isthmus_model::ServiceName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::http2::PREFACE;
use crate::worker::Worker;

/// What a client turned out to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    Other,
    /// It has not said enough in time.
    Silent,
}

/// Looks at what a client says first; what it has said is left in `input`. `None`: it has gone.
pub(super) async fn detect(
    worker: &Worker,
    socket: &mut TcpStream,
    input: &mut BytesMut,
    service: &ServiceName,
    port: u16,
) -> Option<Spoken> {
    let limit = worker.common.config.patience.detect;
    if limit.is_zero() {
        return Some(Spoken::Other);
    }
    let spoken = match timeout(limit, listen(socket, input)).await {
        Ok(Ok(spoken)) => spoken?,
        Ok(Err(_)) => return None,
        Err(_) => Spoken::Silent,
    };
    let (protocol, by) = match spoken {
        Spoken::Http1 => ("http/1.1", "bytes"),
        Spoken::Http2 => ("http/2", "bytes"),
        Spoken::Other => ("tcp", "bytes"),
        Spoken::Silent => ("tcp", "timeout"),
    };
    worker.common.metrics.count_detected(protocol, by);
    tell(worker, spoken, service, port, limit);
    Some(spoken)
}

fn tell(worker: &Worker, spoken: Spoken, service: &ServiceName, port: u16, limit: Duration) {
    let advice = match spoken {
        Spoken::Http1 | Spoken::Other => return,
        Spoken::Http2 => {
            "HTTP/2 is carried unread: to have its requests routed and balanced, set `appProtocol: \
             http2` on the port"
        }
        Spoken::Silent => {
            "every client that waits for the server first waits for this: set `appProtocol: tcp` on the \
             port"
        }
    };
    if worker.first_told(service, port) {
        tracing::warn!(%service, port, waited = ?limit, advice, "a port is not declared");
    }
}

/// `None`: the client has gone.
async fn listen(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<Option<Spoken>> {
    loop {
        if let Some(spoken) = spoken(input) {
            return Ok(Some(spoken));
        }
        if socket.read_buf(input).await? == 0 {
            // What little it has said may be all that it says.
            return Ok((!input.is_empty()).then_some(Spoken::Other));
        }
    }
}

/// `None`: more bytes are needed.
fn spoken(input: &[u8]) -> Option<Spoken> {
    if input.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(input) {
        return None;
    }
    let line = input.split(|&byte| byte == b'\n').next().unwrap_or(input);
    let is_whole = line.len() < input.len();
    if line.len() > MAX_REQUEST_LINE {
        return Some(Spoken::Other);
    }
    match (could_be_request(line), is_whole) {
        (false, _) => Some(Spoken::Other),
        (true, false) => None,
        (true, true) if line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r") => {
            Some(Spoken::Http1)
        }
        (true, true) => Some(Spoken::Other),
    }
}

/// Is this the beginning of `method SP target SP HTTP/1.x CR` (RFC 9112 section 3)?
fn could_be_request(line: &[u8]) -> bool {
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    // Every method that is registered is written so.
    let is_method = |method: &[u8]| {
        method
            .iter()
            .all(|&byte| byte.is_ascii_uppercase() || byte == b'-')
    };
    let is_target = |target: &[u8]| target.iter().all(|&byte| byte > b' ' && byte < 0x7f);
    let Some(target) = words.next() else {
        return is_method(method);
    };
    if method.is_empty() || !is_method(method) || !is_target(target) {
        return false;
    }
    let Some(version) = words.next() else {
        return true;
    };
    let begins = |whole: &[u8]| whole.starts_with(version);
    let is_version = begins(b"HTTP/1.1\r") || begins(b"HTTP/1.0\r");
    !target.is_empty() && is_version && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_line_is_http() {
        let long = [b"GET /".as_slice(), &[b'a'; MAX_REQUEST_LINE]].concat();
        for (input, expect) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http1)),
            (b"GET / HTTP/1.0\r\nhost: x", Some(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"POST /v1 HTTP/1.1\r\n\r\n", Some(Spoken::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Spoken::Http1)),
            // Not yet known.
            (b"", None),
            (b"G", None),
            (b"PRI", None),
            (b"GET /a HT", None),
            (b"GET / HTTP/1.1\r", None),
            (&PREFACE[..23], None),
            (PREFACE, Some(Spoken::Http2)),
            // RTSP, SIP, SMTP, FTP, IRC, memcached, Redis (both forms), SSH, TLS, PROXY, LDAP.
            (b"OPTIONS rtsp://a RTSP/1.0\r\n", Some(Spoken::Other)),
            (b"INVITE sip:a SIP/2.0\r\n", Some(Spoken::Other)),
            (b"EHLO a.example\r\n", Some(Spoken::Other)),
            (b"USER a\r\n", Some(Spoken::Other)),
            (b"NICK a\r\nUSER a 0 * :a\r\n", Some(Spoken::Other)),
            (b"get a b\r\n", Some(Spoken::Other)),
            (b"PING\r\n", Some(Spoken::Other)),
            (b"SET a HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Some(Spoken::Other)),
            (b"\x16\x03\x01", Some(Spoken::Other)),
            (b"PROXY TCP4 192.0.2.1", Some(Spoken::Other)),
            (b"\x30\x0c\x02\x01", Some(Spoken::Other)),
            // Nearly.
            (b"GET / HTTP/1.1\n", Some(Spoken::Other)),
            (b"GET / HTTP/2.0\r\n", Some(Spoken::Other)),
            (b"GET  HTTP/1.1\r\n", Some(Spoken::Other)),
            (b"GET / HTTP/1.1 \r\n", Some(Spoken::Other)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Spoken::Other)),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Spoken::Other)),
            (&long, Some(Spoken::Other)),
        ] {
            let text = String::from_utf8_lossy(&input[..input.len().min(60)]);
            assert_eq!(spoken(input), expect, "{text:?}");
        }
    }

    /// What is decided is never taken back by what follows.
    #[test]
    fn wherever_the_bytes_end_the_answer_is_the_same() {
        for input in [
            &b"GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"EHLO a.example\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore",
            b"PING a b c\r\n",
        ] {
            let whole = spoken(input);
            for end in 0..input.len() {
                let so_far = spoken(&input[..end]);
                assert!(so_far.is_none() || so_far == whole, "{end} of {input:?}");
            }
        }
    }
}
