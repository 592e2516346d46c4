//! HTTP over sockets, as the programs on both sides of a pair of proxies speak it.
//!
//! A client's request is a head, a [`ClientBody`] and a [`ClientReply`], whichever version the client
//! speaks; towards the program it is an [`Exchange`]. Between the two, messages travel in the one form
//! of `codec::message`, so that every version can be bridged to every other.
//!
//! Moves bytes; knows nothing of services or routes.

mod calm;
mod gathered;
pub(crate) mod grpc;
mod guarded;
pub(crate) mod http1;
pub(crate) mod http2;
mod prefixed;
pub(crate) mod remaining;
pub(crate) mod upgrade;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Malformed, ResponseHead, Unsendable, Version};

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub(crate) use gathered::gathered;
pub(crate) use guarded::Guarded;
pub(crate) use prefixed::Prefixed;

use crate::splice::Quiet;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("{0}")]
    Malformed(Malformed),
    #[error("{0}")]
    Unsendable(#[from] Unsendable),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http2(h2::Error),
    /// The program has said that it did not look at the request.
    #[error("the program did not take the request")]
    Unseen,
    #[error("the connection ended inside a message")]
    Truncated,
    /// It has not answered the key that it was given (RFC 6455 section 4.1).
    #[error(
        "the program agreed to WebSocket without having understood it: Sec-WebSocket-Accept is wrong"
    )]
    NotWebSocket,
    /// RFC 9110 section 7.8.
    #[error("the program changed to a protocol that it was not asked for")]
    Unasked,
    /// The client neither sends nor takes anything.
    #[error("the client did not go on for {0:?}")]
    Stalled(Duration),
    #[error("there is no memory to read so much of it ahead")]
    NoMemory,
}

impl From<Malformed> for HttpError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            // Not what was said, but that it was not said to the end.
            Malformed::Truncated => Self::Truncated,
            malformed => Self::Malformed(malformed),
        }
    }
}

impl From<h2::Error> for HttpError {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            return Self::Io(
                error
                    .into_io()
                    .unwrap_or_else(|| io::ErrorKind::Other.into()),
            );
        }
        // Streams beyond the last one that a graceful GOAWAY names, and those that were refused.
        let is_unseen = error.is_remote()
            && match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => true,
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                _ => false,
            };
        if is_unseen {
            Self::Unseen
        } else {
            Self::Http2(error)
        }
    }
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(Fields),
    End,
}

/// As far as a head says it.
pub(crate) fn content_length(fields: &Fields) -> Option<u64> {
    std::str::from_utf8(fields.find("content-length")?)
        .ok()?
        .parse()
        .ok()
}

/// Of the protocols that a value of Upgrade names, those that are carried unread. HTTP/2 is none: requests
/// would pass by everything that looks at them.
pub(crate) fn upgradable(wanted: &Bytes) -> Option<Bytes> {
    let members = || wanted.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let is_http = |member: &[u8]| {
        let name = member.split(|&byte| byte == b'/').next();
        name.is_some_and(|name| HTTP.iter().any(|http| name.eq_ignore_ascii_case(http)))
    };
    if !members().any(is_http) {
        return Some(wanted.clone());
    }
    let left: Vec<&[u8]> = members().filter(|member| !is_http(member)).collect();
    (!left.is_empty()).then(|| left.join(&b", "[..]).into())
}

/// Versions of HTTP, as Upgrade names them (RFC 7540 section 3.2, RFC 9110 section 7.8).
const HTTP: [&[u8]; 3] = [b"h2c", b"h2", b"http"];

/// Does a reply with this head go on for as long as there is something to tell? Its kind says so, and it
/// has not said how long it is. Calls of gRPC do, too: see [`grpc::is_grpc`].
pub(crate) fn is_stream(status: u16, fields: &Fields) -> bool {
    if status != 200 || fields.contains("content-length") {
        return false;
    }
    let kind = fields.find("content-type").map_or(&b""[..], |kind| kind);
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default();
    STREAMS
        .iter()
        .any(|stream| kind.trim_ascii().eq_ignore_ascii_case(stream))
}

/// Media types of which one reply is many messages, each sent when it happens.
const STREAMS: [&[u8]; 8] = [
    // Server-sent events.
    b"text/event-stream",
    // One JSON text after the other: newline-delimited, and RFC 7464.
    b"application/x-ndjson",
    b"application/json-seq",
    // One picture replaces the other.
    b"multipart/x-mixed-replace",
    b"application/grpc-web",
    b"application/grpc-web+proto",
    b"application/grpc-web-text",
    b"application/grpc-web-text+proto",
];

/// What a client sends behind the head of its request.
pub(crate) enum ClientBody<'c> {
    Http1(&'c mut http1::RequestReader),
    Http2(http2::Receiver),
}

impl ClientBody<'_> {
    /// The next piece; what was given before is taken for forwarded. Safe to give up on and call
    /// again.
    pub(crate) async fn piece(&mut self) -> Result<Piece, HttpError> {
        match self {
            Self::Http1(reader) => goes_on(reader.stalled(), reader.piece()).await,
            // A stream of gRPC may be silent for as long as it likes.
            Self::Http2(receiver) => receiver.piece().await,
        }
    }
}

impl ClientBody<'_> {
    /// What is held of the body in places that nobody here sees, until it has ended.
    pub(crate) fn window(&self) -> u64 {
        match self {
            Self::Http1(_) => 0,
            Self::Http2(_) => http2::HELD_IN,
        }
    }

    /// As [`ClientBody::window`], of the reply.
    pub(crate) fn buffer(&self) -> u64 {
        match self {
            Self::Http1(_) => 0,
            Self::Http2(_) => http2::HELD_OUT,
        }
    }

    /// Ready when the client has gone away, once all of its body was read. One that speaks HTTP/2 resets
    /// its stream: see [`ClientReply::unwanted`].
    pub(crate) async fn gone(&mut self, quiet: &Quiet) {
        match self {
            Self::Http1(reader) => reader.gone(quiet).await,
            Self::Http2(_) => std::future::pending().await,
        }
    }
}

/// What a client has to do in time.
async fn goes_on<T>(
    limit: Duration,
    act: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    let done = tokio::time::timeout(limit, act).await;
    done.unwrap_or(Err(HttpError::Stalled(limit)))
}

/// The connection of a client that has changed to another protocol, and what it has said in it already;
/// of a client of HTTP/2, the stream.
pub(crate) enum ClientTunnel<'t> {
    Http1 {
        read: &'t mut OwnedReadHalf,
        early: Bytes,
        write: &'t mut OwnedWriteHalf,
    },
    Http2 {
        read: http2::TunnelReader<'t>,
        write: http2::TunnelWriter<'t>,
    },
}

impl<'t> ClientTunnel<'t> {
    /// `None`: the client has not been told that it stands.
    pub(crate) fn over(
        body: &'t mut ClientBody<'_>,
        reply: &'t mut ClientReply<'_>,
    ) -> Option<Self> {
        match (body, reply) {
            (ClientBody::Http1(reader), ClientReply::Http1(reply)) => {
                let (read, early) = reader.tunnel();
                let write = reply.tunnel();
                Some(Self::Http1 { read, early, write })
            }
            (ClientBody::Http2(receiver), ClientReply::Http2(reply)) => {
                let read = http2::TunnelReader::of(receiver);
                let write = reply.tunnel()?;
                Some(Self::Http2 { read, write })
            }
            _ => None,
        }
    }
}

/// Where the reply to a client goes.
pub(crate) enum ClientReply<'c> {
    Http1(http1::Reply<'c>),
    Http2(http2::Reply),
}

impl ClientReply<'_> {
    /// The version whose rules shape the reply; of HTTP/2 those of HTTP/1.1.
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::Http1(reply) => reply.version(),
            Self::Http2(_) => Version::Http11,
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Tells a client that waits to go on with its body. One that speaks HTTP/2 has its own way of
    /// being held back.
    pub(crate) async fn ask_for_body(&mut self) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => reply.ask_for_body().await,
            Self::Http2(reply) => reply.ask_for_body(),
        }
    }

    /// Tells a client what a program says before it replies.
    pub(crate) async fn interim(&mut self, head: &ResponseHead) -> Result<(), HttpError> {
        match self {
            // RFC 9110 section 15.2: HTTP/1.0 knows nothing of it.
            Self::Http1(reply) if reply.version() == Version::Http10 => Ok(()),
            Self::Http1(reply) => goes_on(reply.stalled(), reply.interim(head)).await,
            Self::Http2(reply) => reply.interim(head),
        }
    }

    /// As [`ClientReply::head`], of a reply that waits for nothing more of its request: where some of that
    /// was not read, it is the last on its connection, and says so.
    pub(crate) fn whole_head(
        &mut self,
        mut head: ResponseHead,
        body: Body,
    ) -> Result<(), HttpError> {
        if let Self::Http1(reply) = self
            && reply.is_last()
        {
            // Both are plain text.
            let _ = head.fields.set("connection", "close");
        }
        self.head(&head, body)
    }

    /// Queues the head. `body`: how the end of what follows is shown; `Length(0)` and `None`: nothing
    /// follows.
    pub(crate) fn head(&mut self, head: &ResponseHead, body: Body) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => reply.head(head, body),
            Self::Http2(reply) => reply.head(head, body),
        }
    }

    /// Queues some of the body, as soon as there is room for it.
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => reply.data(data),
            Self::Http2(reply) => goes_on(reply.stalled(), reply.data(data)).await,
        }
    }

    /// Queues the last of the body, and ends the reply.
    pub(crate) async fn rest(
        &mut self,
        data: Bytes,
        trailers: Option<&Fields>,
    ) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => {
                reply.data(data)?;
                reply.end(trailers)
            }
            Self::Http2(reply) => goes_on(reply.stalled(), reply.rest(data, trailers)).await,
        }
    }

    /// Ends the reply.
    pub(crate) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => reply.end(trailers),
            Self::Http2(reply) => reply.end(trailers),
        }
    }

    /// Bytes that the client has not been sent yet; of HTTP/2 the connection's task looks after them.
    pub(crate) fn queued(&self) -> usize {
        match self {
            Self::Http1(reply) => reply.queued(),
            Self::Http2(_) => 0,
        }
    }

    /// Tells the client that what follows is what it asked for instead of HTTP. `head`: without what
    /// concerns only one connection; `upgrade`: what was agreed to.
    pub(crate) fn agree(
        &mut self,
        mut head: ResponseHead,
        upgrade: Option<Bytes>,
    ) -> Result<(), HttpError> {
        if self.is_http2() {
            // RFC 8441 section 5: it is agreed to by 2xx, and nobody has to prove that it understands.
            head.status = 200;
            head.fields.remove("sec-websocket-accept");
            return self.head(&head, Body::UntilClose);
        }
        // What was read as the value of a field is one.
        let _ = head.fields.push("connection", "upgrade");
        if let Some(upgrade) = upgrade {
            let _ = head.fields.push("upgrade", upgrade);
        }
        self.head(&head, Body::None)?;
        self.end(None)
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> Result<(), HttpError> {
        match self {
            Self::Http1(reply) => goes_on(reply.stalled(), reply.flush()).await,
            // The task of the connection does.
            Self::Http2(_) => Ok(()),
        }
    }

    /// Ends a tunnel of which the client has got all.
    pub(crate) fn end_tunnel(&mut self) {
        match self {
            Self::Http1(reply) => reply.has_all(),
            // Its end is said in it.
            Self::Http2(_) => {}
        }
    }

    /// Ready when the client does not want the reply any more. One that speaks HTTP/1.1 goes away: see
    /// [`ClientBody::gone`].
    pub(crate) async fn unwanted(&mut self) {
        match self {
            Self::Http1(_) => std::future::pending().await,
            Self::Http2(reply) => reply.unwanted().await,
        }
    }

    /// The reply cannot be completed. Of HTTP/1.1 only the end of the connection can tell that.
    pub(crate) fn cut(&mut self) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(reply) => reply.cut(),
        }
    }
}

/// One request on its way to the program.
pub(crate) enum Exchange {
    Http1(http1::Exchange),
    Http2(http2::Exchange),
}

/// What the program answers.
pub(crate) enum ProgramReply<'p> {
    Http1(&'p mut http1::ResponseReader),
    Http2(&'p mut http2::Answer),
}

/// Where the body of the request goes.
pub(crate) enum ProgramRequest<'p> {
    Http1(&'p mut http1::RequestWriter),
    Http2(&'p mut http2::Sender),
}

impl Exchange {
    /// Both halves, to send the body while the reply may already be coming.
    pub(crate) fn split(&mut self) -> (ProgramReply<'_>, ProgramRequest<'_>) {
        match self {
            Self::Http1(exchange) => {
                let (reader, writer) = exchange.split();
                (ProgramReply::Http1(reader), ProgramRequest::Http1(writer))
            }
            Self::Http2(exchange) => {
                let (answer, sender) = exchange.split();
                (ProgramReply::Http2(answer), ProgramRequest::Http2(sender))
            }
        }
    }
}

impl ProgramReply<'_> {
    /// The head of the final reply, or one of those that come before. Safe to give up on and call again.
    pub(crate) async fn head(&mut self) -> Result<(ResponseHead, Body), HttpError> {
        match self {
            Self::Http1(reader) => reader.head().await,
            Self::Http2(answer) => answer.head().await,
        }
    }

    /// The next piece of its body. Safe to give up on and call again.
    pub(crate) async fn piece(&mut self) -> Result<Piece, HttpError> {
        match self {
            Self::Http1(reader) => reader.piece().await,
            Self::Http2(answer) => answer.piece().await,
        }
    }
}

impl ProgramRequest<'_> {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Sends the head, which was queued when the exchange began.
    pub(crate) async fn begin(&mut self) -> Result<(), HttpError> {
        match self {
            Self::Http1(writer) => Ok(writer.flush().await?),
            Self::Http2(_) => Ok(()),
        }
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        match self {
            Self::Http1(writer) => writer.data(data).await,
            Self::Http2(sender) => sender.data(data).await,
        }
    }

    pub(crate) async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        match self {
            Self::Http1(writer) => writer.end(trailers).await,
            Self::Http2(sender) => sender.end(trailers),
        }
    }
}
