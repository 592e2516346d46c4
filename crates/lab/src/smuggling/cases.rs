//! What is said, and what must become of it: derived from the rules of RFC 9110 and RFC 9112, section
//! by section. `{host}` is the service, `{id}` tells the connection apart, `{long}` is 70,000 bytes and
//! `{9000}` as many as it says.

use std::fmt;

/// Bytes on one connection, after which the client is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub name: &'static str,
    pub(super) text: &'static str,
    /// One for each request that there is.
    pub(super) expect: &'static [Expect],
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// The server gets it.
    Taken,
    /// 400 `malformed-request`; the connection is closed, so this is always the last.
    Malformed,
    /// 431 `head-too-large`; as above.
    TooLarge,
    /// Refused by the mesh, with another status and reason.
    Refused(u16, &'static str),
    /// Its head was good and its body is not: the connection ends, with a refusal if none has begun to
    /// answer.
    BrokenOff,
}

/// What a text of a case stands for.
pub(super) fn bytes(text: &str, host: &str, id: &str) -> Vec<u8> {
    let text = text.replace("{host}", host).replace("{id}", id);
    let text = text.replace("{long}", &"x".repeat(70_000));
    let text = text.replace("{9000}", &"x".repeat(9_000));
    // One byte above ASCII stands for itself in Latin-1.
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
        .collect()
}

impl Case {
    pub(super) fn is_tunnel(&self) -> bool {
        self.text.starts_with("CONNECT")
    }

    /// Does all of it get through?
    pub(super) fn is_taken(&self) -> bool {
        self.expect.iter().all(|each| *each == Expect::Taken)
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => write!(f, "taken"),
            Self::Malformed => write!(f, "400 malformed-request"),
            Self::TooLarge => write!(f, "431 head-too-large"),
            Self::Refused(status, reason) => write!(f, "{status} {reason}"),
            Self::BrokenOff => write!(f, "broken off"),
        }
    }
}

use Expect::{BrokenOff, Malformed, Refused, Taken, TooLarge};

/// A POST whose framing fields are `$fields`, with `$body` behind them.
macro_rules! post {
    ($name:literal, $fields:literal, $body:literal, $expect:expr) => {
        Case {
            name: $name,
            text: concat!(
                "POST /{id} HTTP/1.1\r\nHost: {host}\r\n",
                $fields,
                "\r\n",
                $body
            ),
            expect: &$expect,
        }
    };
}

/// A request whose head is `$head`, without its empty line.
macro_rules! head {
    ($name:literal, $head:literal, $expect:expr) => {
        Case {
            name: $name,
            text: concat!($head, "\r\n"),
            expect: &$expect,
        }
    };
}

pub const CASES: &[Case] = &[
    // ---- What is well-formed gets through, so that the rest proves something.
    head! { "a plain GET", "GET /{id} HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    post! { "a counted body", "Content-Length: 3\r\n", "abc", [Taken] },
    post! { "a chunked body", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", [Taken] },
    post! { "an empty chunked body", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", [Taken] },
    post! { "two requests in a row", "Content-Length: 3\r\n",
    "abcGET /{id}-2 HTTP/1.1\r\nHost: {host}\r\n\r\n", [Taken, Taken] },
    post! { "two requests behind chunks", "Transfer-Encoding: chunked\r\n",
    "1\r\na\r\n0\r\n\r\nGET /{id}-2 HTTP/1.1\r\nHost: {host}\r\n\r\n", [Taken, Taken] },
    post! { "a request in a counted body", "Content-Length: 45\r\n",
    "GET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n............................", [Taken, Malformed] },
    post! { "a request in a chunk", "Transfer-Encoding: chunked\r\n",
    "24\r\nGET /q9999999z HTTP/1.1\r\nHost: xxx\r\n\r\n0\r\n\r\n", [Taken] },
    head! { "an absolute target", "GET http://{host}/{id} HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    head! { "OPTIONS of everything", "OPTIONS * HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    // ---- RFC 9112 section 6.3: Content-Length.
    post! { "equal lengths", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc", [Taken] },
    post! { "different lengths", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd", [Malformed] },
    post! { "different lengths in other letters", "Content-Length: 3\r\ncontent-length: 4\r\n", "abcd",
    [Malformed] },
    post! { "a list of lengths", "Content-Length: 3, 3\r\n", "abc", [Malformed] },
    post! { "a list of different lengths", "Content-Length: 3,4\r\n", "abcd", [Malformed] },
    post! { "a length with a sign", "Content-Length: +3\r\n", "abc", [Malformed] },
    post! { "a negative length", "Content-Length: -3\r\n", "abc", [Malformed] },
    post! { "a length in hexadecimal", "Content-Length: 0x3\r\n", "abc", [Malformed] },
    post! { "a length with a point", "Content-Length: 3.0\r\n", "abc", [Malformed] },
    post! { "a length with an exponent", "Content-Length: 3e0\r\n", "abc", [Malformed] },
    post! { "a length with an underscore", "Content-Length: 1_0\r\n", "0123456789", [Malformed] },
    post! { "a length in quotes", "Content-Length: \"3\"\r\n", "abc", [Malformed] },
    post! { "an empty length", "Content-Length: \r\n", "abc", [Malformed] },
    post! { "two numbers", "Content-Length: 3 3\r\n", "abc", [Malformed] },
    post! { "a length with leading zeros", "Content-Length: 0003\r\n", "abc", [Taken] },
    post! { "a length beyond 64 bits", "Content-Length: 18446744073709551619\r\n", "abc", [Malformed] },
    post! { "a length beyond any bits", "Content-Length: 99999999999999999999999999999999999999\r\n", "abc",
    [Malformed] },
    post! { "a length behind a vertical tab", "Content-Length:\x0b3\r\n", "abc", [Malformed] },
    post! { "a length with a tab before it", "Content-Length:\t3\r\n", "abc", [Taken] },
    post! { "a length with an NBSP", "Content-Length: 3\u{a0}\r\n", "abc", [Malformed] },
    post! { "a body shorter than its length", "Content-Length: 9\r\n", "abc", [BrokenOff] },
    // ---- RFC 9112 section 6.1: Transfer-Encoding with Content-Length.
    post! { "a length, then a coding", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG",
    [Malformed] },
    post! { "a coding, then a length", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nG",
    [Malformed] },
    post! { "a smuggled request behind a coding", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "0\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [Malformed] },
    post! { "a length and a coding in capitals", "CONTENT-LENGTH: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n",
    "0\r\n\r\nG", [Malformed] },
    post! { "a length of zero and a coding", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "0\r\n\r\n", [Malformed] },
    post! { "a length and an unknown coding", "Content-Length: 3\r\nTransfer-Encoding: xchunked\r\n", "abc",
    [Malformed] },
    post! { "a length and an empty coding", "Content-Length: 3\r\nTransfer-Encoding:\r\n", "abc", [Malformed] },
    // ---- RFC 9112 section 6.1: Transfer-Encoding, which must be exactly `chunked`.
    post! { "capitals", "Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n", [Taken] },
    post! { "two codings", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "chunked twice", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "chunked in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "0\r\n\r\n", [Malformed] },
    post! { "chunked and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "0\r\n\r\n", [Malformed] },
    post! { "chunked not last", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n", [Malformed] },
    post! { "identity", "Transfer-Encoding: identity\r\n", "0\r\n\r\n", [Malformed] },
    post! { "no coding", "Transfer-Encoding:\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding in quotes", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding with a parameter", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding with a comma before it", "Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n",
    [Malformed] },
    post! { "a coding with a comma behind it", "Transfer-Encoding: chunked,\r\n", "0\r\n\r\n",
    [Malformed] },
    post! { "a coding that is nearly chunked", "Transfer-Encoding: chunke\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding behind a vertical tab", "Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding with an NBSP", "Transfer-Encoding: chunked\u{a0}\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a space before the colon of the coding", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n",
    [Malformed] },
    post! { "a tab before the colon of the coding", "Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n",
    [Malformed] },
    post! { "a folded coding", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding in another field's fold", "X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n",
    [Malformed] },
    post! { "a space before the coding's name", " Transfer-Encoding: chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding with an underscore", "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n",
    [Taken] },
    post! { "a coding behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a coding behind a NUL", "X: y\0Transfer-Encoding: chunked\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a NUL in the coding", "Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n", [Malformed] },
    post! { "a NUL in the coding's name", "Transfer\0-Encoding: chunked\r\n", "0\r\n\r\n", [Malformed] },
    head! { "a coding in HTTP/1.0", "POST /{id} HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n",
    [Malformed] },
    head! { "a coding on a GET",
    "GET /{id} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", [Taken] },
    // ---- RFC 9112 section 7.1: chunks.
    post! { "a chunk extension", "Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\n\r\n", [Taken] },
    post! { "a chunk extension in quotes", "Transfer-Encoding: chunked\r\n",
    "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n", [Taken] },
    post! { "a chunk extension with a bare LF", "Transfer-Encoding: chunked\r\n", "3;a\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a chunk extension with a bare CR", "Transfer-Encoding: chunked\r\n",
    "3;a\rb\r\nabc\r\n0\r\n\r\n", [BrokenOff] },
    post! { "a last chunk with an extension", "Transfer-Encoding: chunked\r\n", "0;a=b\r\n\r\n", [Taken] },
    post! { "many zeros", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n00000\r\n\r\n", [Taken] },
    post! { "a chunk size with a sign", "Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a negative chunk size", "Transfer-Encoding: chunked\r\n", "-1\r\nabc\r\n0\r\n\r\n", [BrokenOff] },
    post! { "a chunk size with 0x", "Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n", [BrokenOff] },
    post! { "a chunk size with a space before it", "Transfer-Encoding: chunked\r\n", " 3\r\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a chunk size with a space behind it", "Transfer-Encoding: chunked\r\n", "3 \r\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a chunk size with an underscore", "Transfer-Encoding: chunked\r\n", "0_3\r\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "no chunk size", "Transfer-Encoding: chunked\r\n", "\r\nabc\r\n0\r\n\r\n", [BrokenOff] },
    post! { "a chunk size that overflows", "Transfer-Encoding: chunked\r\n",
    "10000000000000003\r\nabc\r\n0\r\n\r\n", [BrokenOff] },
    post! { "a chunk size that ends in a bare LF", "Transfer-Encoding: chunked\r\n", "3\nabc\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a chunk that ends in a bare LF", "Transfer-Encoding: chunked\r\n", "3\r\nabc\n0\r\n\r\n",
    [BrokenOff] },
    post! { "a chunk that is longer than it says", "Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n",
    [BrokenOff] },
    post! { "chunks that end in a bare LF", "Transfer-Encoding: chunked\r\n", "0\n\n", [BrokenOff] },
    post! { "chunks without an end", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", [BrokenOff] },
    // ---- RFC 9112 section 7.1.2: trailers.
    post! { "a trailer", "Transfer-Encoding: chunked\r\n", "0\r\nX-Sum: 1\r\n\r\n", [Taken] },
    post! { "framing in trailers", "Transfer-Encoding: chunked\r\n",
    "1\r\na\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: gzip\r\nHost: other\r\n\r\n", [Taken] },
    post! { "a folded trailer", "Transfer-Encoding: chunked\r\n", "0\r\nX: 1\r\n y\r\n\r\n", [BrokenOff] },
    post! { "a trailer with a space before its colon", "Transfer-Encoding: chunked\r\n", "0\r\nX : 1\r\n\r\n",
    [BrokenOff] },
    post! { "a request in the trailers", "Transfer-Encoding: chunked\r\n",
    "0\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [BrokenOff] },
    // ---- RFC 9112 section 3: the request line.
    head! { "two spaces", "GET  /{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a tab", "GET\t/{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a space in the target", "GET /{id} x HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a second version", "GET /{id} HTTP/1.1 HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "no version", "GET /{id}\r\nHost: {host}\r\n", [Malformed] },
    head! { "a version in small letters", "GET /{id} http/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "version 1.2", "GET /{id} HTTP/1.2\r\nHost: {host}\r\n",
    [Refused(505, "http-version-not-supported")] },
    head! { "version 0.9", "GET /{id} HTTP/0.9\r\nHost: {host}\r\n",
    [Refused(505, "http-version-not-supported")] },
    head! { "version 2.0", "GET /{id} HTTP/2.0\r\nHost: {host}\r\n",
    [Refused(505, "http-version-not-supported")] },
    head! { "a line that ends in a bare LF", "GET /{id} HTTP/1.1\nHost: {host}\r\n", [Malformed] },
    head! { "a line that ends in a bare CR", "GET /{id} HTTP/1.1\rHost: {host}\r\n", [Malformed] },
    head! { "a line that ends in two CR", "GET /{id} HTTP/1.1\r\r\nHost: {host}\r\n", [Malformed] },
    head! { "an empty line before", "\r\nGET /{id} HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    head! { "two empty lines before", "\r\n\r\nGET /{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a space before", " GET /{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a method that is no token", "G(ET /{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a fragment", "GET /{id}#x HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a target without a form", "GET {id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a target with a backslash", "GET /{id}\\x HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    head! { "a long target", "GET /{id}{long} HTTP/1.1\r\nHost: {host}\r\n",
    [Refused(414, "uri-too-long")] },
    head! { "a target of 9,000 bytes", "GET /{id}{9000} HTTP/1.1\r\nHost: {host}\r\n",
    [Refused(414, "uri-too-long")] },
    // ---- RFC 9112 section 3.2: Host.
    head! { "no Host", "GET /{id} HTTP/1.1\r\nX: y\r\n", [Malformed] },
    head! { "two Hosts", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n", [Malformed] },
    head! { "two different Hosts", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nHost: other.lab.mesh\r\n",
    [Malformed] },
    head! { "a list of Hosts", "GET /{id} HTTP/1.1\r\nHost: {host}, other.lab.mesh\r\n", [Malformed] },
    head! { "a Host with a path", "GET /{id} HTTP/1.1\r\nHost: {host}/x\r\n", [Malformed] },
    head! { "a Host with a user", "GET /{id} HTTP/1.1\r\nHost: me@{host}\r\n", [Malformed] },
    head! { "a target that outweighs its Host", "GET http://{host}/{id} HTTP/1.1\r\nHost: other.lab.mesh\r\n",
    [Taken] },
    head! { "a target with a user", "GET http://me@{host}/{id} HTTP/1.1\r\nHost: {host}\r\n", [Malformed] },
    head! { "a Host behind a space", "GET /{id} HTTP/1.1\r\nHost : {host}\r\n", [Malformed] },
    // ---- RFC 9112 section 5: fields.
    head! { "a bare LF in a value", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: a\nY: b\r\n", [Malformed] },
    head! { "a bare CR in a value", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: a\rY: b\r\n", [Malformed] },
    head! { "a NUL in a value", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: a\0b\r\n", [Malformed] },
    head! { "a control in a value", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: a\x01b\r\n", [Malformed] },
    head! { "an empty name", "GET /{id} HTTP/1.1\r\nHost: {host}\r\n: b\r\n", [Malformed] },
    head! { "a name with a space", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX Y: b\r\n", [Malformed] },
    head! { "a name above ASCII", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX\u{e9}: b\r\n", [Malformed] },
    head! { "a value above ASCII", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: \u{e9}\r\n", [Taken] },
    head! { "a line without a colon", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nXY\r\n", [Malformed] },
    head! { "a folded line", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\n", [Malformed] },
    head! { "a fold before the first field", "GET /{id} HTTP/1.1\r\n X: a\r\nHost: {host}\r\n", [Malformed] },
    head! { "a long field", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nX: {long}\r\n", [TooLarge] },
    // ---- RFC 9110 section 7.6.1: what Connection names concerns this connection only.
    post! { "a length that Connection names", "Connection: content-length\r\nContent-Length: 3\r\n", "abc",
    [Taken] },
    post! { "a coding that Connection names",
    "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n", [Taken] },
    head! { "a Host that Connection names", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nConnection: host\r\n",
    [Taken] },
    head! { "TE: chunked", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nTE: chunked\r\n", [Taken] },
    head! { "TE: trailers, named by Connection",
    "GET /{id} HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nConnection: TE\r\n", [Taken] },
    head! { "an upgrade", "GET /{id} HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: h2c\r\n",
    [Taken] },
    // ---- RFC 9110 section 10.1.1: Expect.
    post! { "an expectation", "Expect: 100-continue\r\nContent-Length: 3\r\n", "abc", [Taken] },
    post! { "an expectation of chunks", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
    "3\r\nabc\r\n0\r\n\r\n", [Taken] },
    // ---- RFC 9112 section 9.3: what follows a request that closes is nobody's.
    head! { "a request behind `close`",
    "GET /{id} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n",
    [Taken] },
    head! { "a request behind HTTP/1.0",
    "GET /{id} HTTP/1.0\r\nHost: {host}\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n", [Taken] },
    head! { "a request behind a refused one",
    "GET /{id} HTTP/1.1\r\nHost: nobody.lab.mesh\r\n\r\nGET /{id}-2 HTTP/1.1\r\nHost: {host}\r\n",
    [Refused(404, "no-such-service"), Taken] },
    post! { "a request in the body of one that asks for another protocol",
    "Upgrade: x\r\nConnection: upgrade\r\nContent-Length: 43\r\n",
    "GET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [Taken, Malformed] },
    // ---- Other protocols.
    head! { "a preface that is none", "PRI * HTTP/2.0\r\n\r\nNO\r\n",
    [Refused(505, "http-version-not-supported")] },
    head! { "TLS", "\x16\x03\x01\x00\x05hello\r\n", [Malformed] },
    head! { "CONNECT with a body",
    "CONNECT {host}:80 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc", [Malformed] },
];
