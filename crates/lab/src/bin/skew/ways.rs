//! What HTTP/2 and gRPC can say, said on each way that a pair of proxies offers.
//!
//! The release before has no HTTP/2 of its own: it carries HTTP/2 as bytes, and what else is in it
//! (streams both ways, trailers, the fields of gRPC) as HTTP/1.1. So its clients and programs say it
//! in one of these, while those beside a proxy of this release say it in HTTP/2.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request};
use isthmus_lab::http::{self as http1, Reply, find};
use isthmus_lab::traffic::{Client, Failure, frame, patiently, read, runtime};
use isthmus_lab::trouble::{During, Result, ensure};
use tokio::task::LocalSet;

use super::program::{AFTER, HEARD, SPOKEN, STATUS, TIMES, chunk, map};
use super::{BOOKING, LARGE};

/// How a client comes to the program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// HTTP/2 by a local listener of a port of TCP. Proxies see bytes.
    Bytes(SocketAddr),
    /// HTTP/2 to a proxy of this release.
    Http2(SocketAddr),
    /// HTTP/1.1.
    Lines(SocketAddr),
}

const HOST: &str = "booking.shop.mesh";
const GRPC: (&str, &str) = ("content-type", "application/grpc");
/// Calls and messages of each kind.
const ROUNDS: u8 = 20;
/// A program that takes longer than its caller waits, and by then the caller knows.
const LATE: Duration = Duration::from_secs(10);

impl Way {
    /// Says everything. `spoken`: the version of HTTP that is to reach the program.
    pub(crate) fn carries_all(self, spoken: &str) -> Result<()> {
        self.carries_a_body_and_trailers(spoken)
            .during(|| format!("a body with trailers, {self:?}"))?;
        self.carries_calls()
            .during(|| format!("calls of gRPC, {self:?}"))?;
        match self {
            Self::Bytes(to) => talk_in_http2(to),
            Self::Http2(to) => talk_in_http2(to).and_then(|()| self.ends_what_is_late()),
            Self::Lines(to) => talk_in_lines(to),
        }
        .during(|| format!("a stream of gRPC, {self:?}"))
    }

    fn carries_a_body_and_trailers(self, spoken: &str) -> Result<()> {
        let body: Vec<u8> = (0..251).cycle().take(LARGE).collect();
        let reply = self.ask(&[], &body, &[("sum", "251")])?.expect(200)?;
        ensure(reply.body == body, || {
            format!("{} bytes came back, or others", reply.body.len())
        })?;
        ensure(reply.trailer("sum") == Some("251"), || {
            format!("trailers {:?}", reply.trailers)
        })?;
        ensure(reply.field(SPOKEN) == Some(spoken), || {
            format!("the program heard {:?}", reply.field(SPOKEN))
        })
    }

    fn carries_calls(self) -> Result<()> {
        let hello = frame(b"hello");
        for _ in 0..ROUNDS {
            self.call(&[], &hello, "0", &hello)?;
        }
        let message = frame(&[7; 1019]);
        let count = LARGE / message.len();
        let times = count.to_string();
        self.call(&[(TIMES, &times)], &message, "0", &message.repeat(count))?;
        self.call(&[(STATUS, "9")], &hello, "9", &hello)?;
        let reply = self.call(&[("grpc-timeout", "20S")], &hello, "0", &hello)?;
        let heard = reply.field(HEARD).unwrap_or_default();
        // Proxies that know what it means say what is left; one that does not has its own 15 s in mind.
        let left = ["20S", "19", "14"];
        ensure(left.iter().any(|left| heard.starts_with(left)), || {
            format!("a grpc-timeout of {heard:?} instead of 20S")
        })
    }

    /// The proxy of the caller knows what `grpc-timeout` means.
    fn ends_what_is_late(self) -> Result<()> {
        let begun = Instant::now();
        let after = LATE.as_millis().to_string();
        let late = [("grpc-timeout", "300m"), (AFTER, &after)];
        self.call(&late, &frame(b"hello"), "4", &[])?;
        ensure(begun.elapsed() < LATE, || {
            format!("it ended after {:?}", begun.elapsed())
        })
    }

    /// A call of gRPC and how it is to end.
    fn call(self, wants: &[(&str, &str)], sent: &[u8], status: &str, body: &[u8]) -> Result<Reply> {
        let reply = self.ask(&[wants, &[GRPC]].concat(), sent, &[])?;
        let reply = reply.expect(200)?;
        // A call that only fails has its status in the head.
        let found = reply.trailer("grpc-status");
        let found = found.or_else(|| reply.field("grpc-status"));
        ensure(found == Some(status) && reply.body == body, || {
            let (length, head) = (reply.body.len(), &reply.fields);
            let trailers = &reply.trailers;
            format!("instead of {status} {wants:?}: {head:?}, {length} bytes, {trailers:?}")
        })?;
        Ok(reply)
    }

    fn ask(self, fields: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) -> Result<Reply> {
        match self {
            Self::Bytes(to) | Self::Http2(to) => ask_in_http2(to, fields, body, trailers),
            Self::Lines(to) => {
                let line = |(name, value): &(&str, &str)| format!("{name}: {value}\r\n");
                let fields: String = fields.iter().map(line).collect();
                let trailers: String = trailers.iter().map(line).collect();
                let head = http1::head("POST", BOOKING, &["transfer-encoding: chunked"]);
                let front = format!("{head}{fields}\r\n");
                let end = format!("0\r\n{trailers}\r\n");
                let said = [front.as_bytes(), &chunk(body), end.as_bytes()];
                http1::exchange(to, &said.concat())
            }
        }
    }
}

fn ask_in_http2(
    to: SocketAddr,
    fields: &[(&str, &str)],
    body: &[u8],
    trailers: &[(&str, &str)],
) -> Result<Reply> {
    let broken = |error: h2::Error| Failure::new(format!("HTTP/2: {error}"));
    let asked = async {
        let client = Client::new(to, Arc::default());
        let head = Request::post(BOOKING).header("te", "trailers");
        let head = fields
            .iter()
            .fold(head, |head, (name, value)| head.header(*name, *value));
        let (response, mut stream) = client.send(head, false).await?;
        let body = body.to_vec().into();
        stream
            .send_data(body, trailers.is_empty())
            .map_err(broken)?;
        if !trailers.is_empty() {
            stream
                .send_trailers(map(trailers.iter().copied()))
                .map_err(broken)?;
        }
        let (head, mut stream) = response.await.map_err(broken)?.into_parts();
        let body = read(&mut stream).await?.to_vec();
        let trailers = stream.trailers().await.map_err(broken)?;
        Ok(Reply {
            status: head.status.as_u16(),
            fields: list(&head.headers),
            body,
            trailers: list(&trailers.unwrap_or_default()),
            hints: Vec::new(),
        })
    };
    let ended = LocalSet::new().block_on(&runtime()?, patiently(asked));
    ended.map_err(Failure::into_trouble)
}

fn list(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let pairs = fields.iter();
    pairs
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

/// Each message is answered before the next one is said.
fn talk_in_http2(to: SocketAddr) -> Result<()> {
    let talk = async {
        let client = Client::new(to, Arc::default());
        let mut chat = client.chat(HOST, "skew").await?;
        for number in 0..ROUNDS {
            chat.say(&number.to_string()).await?;
        }
        chat.close().await
    };
    let ended = LocalSet::new().block_on(&runtime()?, patiently(talk));
    ended.map_err(Failure::into_trouble)
}

fn talk_in_lines(to: SocketAddr) -> Result<()> {
    let during = || "a stream in HTTP/1.1".to_owned();
    let mut stream = http1::connect(to)?;
    let kind = format!("{}: {}", GRPC.0, GRPC.1);
    let head = http1::head("POST", BOOKING, &["transfer-encoding: chunked", &kind]);
    stream
        .write_all(format!("{head}\r\n").as_bytes())
        .during(during)?;
    let mut read = Vec::new();
    for number in 0..ROUNDS {
        let message = frame(&[number; 16]);
        stream.write_all(&chunk(&message)).during(during)?;
        while find(&read, &message).is_none() {
            let mut piece = [0; 1024];
            let length = stream.read(&mut piece).during(during)?;
            ensure(length > 0, || {
                format!("the end instead of message {number}")
            })?;
            read.extend_from_slice(&piece[..length]);
        }
    }
    stream.write_all(b"0\r\n\r\n").during(during)?;
    stream.read_to_end(&mut read).during(during)?;
    ensure(find(&read, b"grpc-status: 0\r\n").is_some(), || {
        format!("it ended otherwise: {:?}", String::from_utf8_lossy(&read))
    })
}
