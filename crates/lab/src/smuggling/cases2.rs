//! What is said in HTTP/2, and what must become of it: derived from the rules of RFC 9113 section 8, by
//! which a message of HTTP/2 is more than the message of HTTP/1.1 that is made of it. Names and values
//! may be any bytes there, which is how requests are smuggled into the text that a server reads.
//! `{host}` and `{id}` as in [`super::cases`].

/// One request, on the first stream of a connection; a plain one follows on the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case2 {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Pair],
    /// `None`: the head ends the request.
    pub(super) data: Option<&'static str>,
    pub(super) trailers: &'static [Pair],
    pub(super) expect: Expect2,
}

/// Name and value.
type Pair = (&'static str, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect2 {
    /// The server gets it.
    Taken,
    /// It is malformed (RFC 9113 section 8.1.1): its stream or its connection is ended, or 400. The
    /// server gets nothing of it, or a request that breaks off.
    TurnedAway,
    /// Refused by the mesh, with another status and reason.
    Refused(u16, &'static str),
}

use Expect2::{Refused, Taken, TurnedAway};

/// A request with these fields, which ends with them.
macro_rules! head {
    ($name:literal, [$($field:expr),* $(,)?], $expect:expr) => {
        Case2 { name: $name, fields: &[$($field),*], data: None, trailers: &[], expect: $expect }
    };
}

/// A GET with more fields.
macro_rules! get {
    ($name:literal, [$($field:expr),* $(,)?], $expect:expr) => {
        head! { $name, [
            (":method", "GET"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}"),
            $($field),*
        ], $expect }
    };
}

/// A POST with more fields, data and trailers.
macro_rules! post {
    ($name:literal, [$($field:expr),* $(,)?], $data:literal, [$($trailer:expr),* $(,)?], $expect:expr) => {
        Case2 {
            name: $name,
            fields: &[
                (":method", "POST"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}"),
                $($field),*
            ],
            data: Some($data),
            trailers: &[$($trailer),*],
            expect: $expect,
        }
    };
}

/// A GET of another path.
macro_rules! path {
    ($name:literal, $path:literal, $expect:expr) => {
        head! { $name, [
            (":method", "GET"), (":scheme", "http"), (":path", $path), (":authority", "{host}"),
        ], $expect }
    };
}

pub(super) const CASES2: &[Case2] = &[
    // ---- What is well-formed gets through, so that the rest proves something.
    get! { "a plain GET", [], Taken },
    get! { "fields of its own", [("x-a", "b"), ("x-empty", ""), ("cookie", "a=1"), ("cookie", "b=2")], Taken },
    post! { "a body", [], "abc", [], Taken },
    post! { "a counted body", [("content-length", "3")], "abc", [], Taken },
    post! { "an empty body", [], "", [], Taken },
    post! { "a trailer", [], "abc", [("x-sum", "1")], Taken },
    post! { "a request in a body", [],
    "0\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [], Taken },
    get! { "te: trailers", [("te", "trailers")], Taken },
    get! { "a Host that says the same", [("host", "{host}")], Taken },
    head! { "a Host without an authority",
    [(":method", "GET"), (":scheme", "http"), (":path", "/{id}"), ("host", "{host}")], Taken },
    head! { "OPTIONS of everything",
    [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "{host}")], Taken },
    // ---- RFC 9113 section 8.2.1: what a name and a value may be.
    get! { "a value with CR LF", [("x-a", "b\r\nx-c: d")], TurnedAway },
    get! { "a request in a value", [("x-a", "b\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n")],
    TurnedAway },
    get! { "a coding in a value", [("x-a", "b\r\ntransfer-encoding: chunked")], TurnedAway },
    get! { "a value with LF", [("x-a", "b\nx-c: d")], TurnedAway },
    get! { "a value with CR", [("x-a", "b\rx-c: d")], TurnedAway },
    get! { "a value with NUL", [("x-a", "b\0c")], TurnedAway },
    get! { "a name with CR LF", [("x-a: b\r\nx-c", "d")], TurnedAway },
    get! { "a coding in a name", [("x-a: b\r\ntransfer-encoding: chunked\r\nx-c", "d")], TurnedAway },
    get! { "a name with a colon", [("x-a: b", "c")], TurnedAway },
    get! { "a coding with a colon", [("transfer-encoding:", "chunked")], TurnedAway },
    get! { "a name with a space", [("x a", "b")], TurnedAway },
    get! { "a coding with a space", [("transfer-encoding ", "chunked")], TurnedAway },
    get! { "a name in capitals", [("X-A", "b")], TurnedAway },
    get! { "a length in capitals", [("Content-Length", "5")], TurnedAway },
    get! { "an empty name", [("", "b")], TurnedAway },
    get! { "a name above ASCII", [("x-\u{e9}", "b")], TurnedAway },
    get! { "a name with NUL", [("x-a\0", "b")], TurnedAway },
    // ---- RFC 9113 section 8.2.2: what concerns a connection is said in other ways.
    post! { "a coding", [("transfer-encoding", "chunked")],
    "0\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [], TurnedAway },
    post! { "a coding and a length", [("transfer-encoding", "chunked"), ("content-length", "5")],
    "0\r\n\r\n", [], TurnedAway },
    get! { "a coding on a GET", [("transfer-encoding", "chunked")], TurnedAway },
    get! { "an identity", [("transfer-encoding", "identity")], TurnedAway },
    get! { "connection", [("connection", "close")], TurnedAway },
    get! { "keep-alive", [("keep-alive", "timeout=5")], TurnedAway },
    get! { "proxy-connection", [("proxy-connection", "close")], TurnedAway },
    get! { "upgrade", [("upgrade", "websocket")], TurnedAway },
    get! { "te: chunked", [("te", "chunked")], TurnedAway },
    get! { "te: trailers and more", [("te", "trailers, chunked")], TurnedAway },
    // ---- RFC 9113 section 8.1.1: a length that is not that of the data.
    post! { "a length that is too short", [("content-length", "1")],
    "aGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n", [], TurnedAway },
    post! { "a length that is too long", [("content-length", "99")], "abc", [], TurnedAway },
    post! { "a length of zero", [("content-length", "0")], "GET /q9999999z HTTP/1.1\r\n\r\n", [], TurnedAway },
    get! { "a length without data", [("content-length", "5")], TurnedAway },
    post! { "different lengths", [("content-length", "3"), ("content-length", "4")], "abc", [], TurnedAway },
    post! { "a list of lengths", [("content-length", "3, 3")], "abc", [], TurnedAway },
    post! { "a length with a sign", [("content-length", "+3")], "abc", [], TurnedAway },
    post! { "a length in hexadecimal", [("content-length", "0x3")], "abc", [], TurnedAway },
    post! { "a length with a space", [("content-length", "3 ")], "abc", [], TurnedAway },
    post! { "an empty length", [("content-length", "")], "abc", [], TurnedAway },
    post! { "a length beyond 64 bits", [("content-length", "18446744073709551619")], "abc", [], TurnedAway },
    // ---- RFC 9113 section 8.3: pseudo-header fields.
    get! { "two methods", [(":method", "GET")], TurnedAway },
    get! { "two paths", [(":path", "/other")], TurnedAway },
    get! { "two authorities", [(":authority", "other.lab.mesh")], TurnedAway },
    get! { "two schemes", [(":scheme", "http")], TurnedAway },
    get! { "a pseudo-header of a reply", [(":status", "200")], TurnedAway },
    get! { "an unknown pseudo-header", [(":x", "y")], TurnedAway },
    get! { "a protocol", [(":protocol", "websocket")], TurnedAway },
    head! { "a pseudo-header behind a field", [
        (":method", "GET"), (":scheme", "http"), (":path", "/{id}"), ("x-a", "b"), (":authority", "{host}"),
    ], TurnedAway },
    head! { "no method", [(":scheme", "http"), (":path", "/{id}"), (":authority", "{host}")], TurnedAway },
    head! { "no path", [(":method", "GET"), (":scheme", "http"), (":authority", "{host}")], TurnedAway },
    head! { "no scheme", [(":method", "GET"), (":path", "/{id}"), (":authority", "{host}")], TurnedAway },
    head! { "no authority", [(":method", "GET"), (":scheme", "http"), (":path", "/{id}")], TurnedAway },
    head! { "an empty authority",
    [(":method", "GET"), (":scheme", "http"), (":path", "/{id}"), (":authority", "")], TurnedAway },
    get! { "a Host that says otherwise", [("host", "other.lab.mesh")], TurnedAway },
    get! { "two Hosts", [("host", "{host}"), ("host", "other.lab.mesh")], TurnedAway },
    // ---- RFC 9113 section 8.3.1: what goes into the request line of HTTP/1.1.
    path! { "an empty path", "", TurnedAway },
    path! { "a path without a slash", "{id}", TurnedAway },
    path! { "an absolute path", "http://{host}/{id}", TurnedAway },
    path! { "a path with a space", "/{id} HTTP/1.1", TurnedAway },
    path! { "a path with CR LF", "/{id} HTTP/1.1\r\nHost: {host}\r\n\r\nGET /q9999999z", TurnedAway },
    path! { "a path with LF", "/{id}\nx", TurnedAway },
    path! { "a path with NUL", "/{id}\0x", TurnedAway },
    path! { "a path with a tab", "/{id}\tx", TurnedAway },
    // It is cut off where paths are read, and the server sees none.
    path! { "a path with a fragment", "/{id}#x", Taken },
    path! { "a star", "*", TurnedAway },
    path! { "a long path", "/{id}{long}", TurnedAway },
    path! { "a path of 9,000 bytes", "/{id}{9000}", Refused(414, "uri-too-long") },
    head! { "a method with a space",
    [(":method", "GET /q9999999z HTTP/1.1\r\nx-a:"), (":scheme", "http"), (":path", "/{id}"),
     (":authority", "{host}")], TurnedAway },
    head! { "a method with CR LF",
    [(":method", "GET\r\n"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}")], TurnedAway },
    head! { "an empty method",
    [(":method", ""), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}")], TurnedAway },
    head! { "a scheme with CR LF",
    [(":method", "GET"), (":scheme", "http\r\nx-a: b"), (":path", "/{id}"), (":authority", "{host}")],
    TurnedAway },
    head! { "a scheme that is a target",
    [(":method", "GET"), (":scheme", "http://{host}/q9999999z?"), (":path", "/{id}"),
     (":authority", "{host}")], TurnedAway },
    head! { "an authority with CR LF",
    [(":method", "GET"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}\r\nx-a: b")],
    TurnedAway },
    head! { "an authority with a user",
    [(":method", "GET"), (":scheme", "http"), (":path", "/{id}"), (":authority", "me@{host}")], TurnedAway },
    head! { "an authority with a path",
    [(":method", "GET"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}/x")], TurnedAway },
    head! { "a tunnel with a path",
    [(":method", "CONNECT"), (":scheme", "http"), (":path", "/{id}"), (":authority", "{host}")], TurnedAway },
    head! { "a tunnel", [(":method", "CONNECT"), (":authority", "{host}:80")],
    Refused(501, "upgrade-not-supported") },
    // ---- RFC 9113 section 8.1: trailers.
    // It is dropped where sections are read, and nobody sees it.
    post! { "a pseudo-header in trailers", [], "abc", [(":path", "/other")], Taken },
    post! { "framing in trailers", [], "abc", [("content-length", "50")], Taken },
    post! { "a coding in trailers", [], "abc", [("transfer-encoding", "chunked")], TurnedAway },
    post! { "a trailer with CR LF", [], "abc", [("x-a", "b\r\nx-c: d")], TurnedAway },
    post! { "a request in a trailer", [], "abc",
    [("x-a", "b\r\n\r\nGET /q9999999z HTTP/1.1\r\nHost: {host}\r\n\r\n")], TurnedAway },
    post! { "a trailer in capitals", [], "abc", [("X-A", "b")], TurnedAway },
    // ---- Limits.
    get! { "a long field", [("x-a", "{long}")], Refused(431, "") },
    // ---- What concerns a proxy.
    post! { "an expectation", [("expect", "100-continue")], "abc", [], Taken },
    get! { "a name with an underscore", [("transfer_encoding", "chunked")], Taken },
    get! { "a value above ASCII", [("x-a", "\u{e9}")], Taken },
];

/// A request as it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) data: Option<Vec<u8>>,
    pub(super) trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Case2 {
    pub(super) fn message(&self, host: &str, id: &str) -> Message {
        let bytes = |text: &str| super::cases::bytes(text, host, id);
        let pairs = |pairs: &[Pair]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect()
        };
        Message {
            fields: pairs(self.fields),
            data: self.data.map(bytes),
            trailers: pairs(self.trailers),
        }
    }
}

impl Message {
    /// Everything of it that can be changed, each piece by itself.
    pub(super) fn pieces(&mut self) -> Vec<&mut Vec<u8>> {
        let fields = self.fields.iter_mut().chain(&mut self.trailers);
        let pieces = fields.flat_map(|(name, value)| [name, value]);
        pieces.chain(&mut self.data).collect()
    }
}
