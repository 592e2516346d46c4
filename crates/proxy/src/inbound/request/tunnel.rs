//! A request that wants to go on in another protocol, as WebSocket does: towards a program of HTTP/1.1 by
//! Upgrade (RFC 9110 section 7.8), towards one of HTTP/2 by extended CONNECT (RFC 8441), whichever of
//! the two the client has used.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use isthmus_codec::http1::{Body, RequestHead, ResponseHead, websocket_accept, websocket_key};
use isthmus_codec::message::{Interim, Request};
use isthmus_model::AppProtocol;
use tokio::net::TcpStream;

use super::{Broken, download, hint, no_head, not_sent, reply};
use crate::gate::Pass;
use crate::http::{Exchange, HttpError, http2, upgradable};
use crate::journey::Journey;
use crate::mux::Stream;
use crate::splice::{Carried, splice, splice_socket};

const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// What is asked for instead of HTTP, and how.
pub(super) struct Asked {
    protocol: String,
    /// The client's key, if its version of HTTP has one.
    given: Option<Bytes>,
    /// Ours, for a program that needs one.
    made: Option<String>,
    is_head: bool,
}

impl Asked {
    /// Says it in the version that the program speaks. `None`: nothing is asked for. `draw`: chance.
    pub(super) fn of(
        request: &Request,
        speaks: AppProtocol,
        mut draw: impl FnMut() -> u64,
        head: &mut RequestHead,
    ) -> Option<Self> {
        // A peer may ask for what a client of its own proxy could not.
        let upgrade = upgradable(request.upgrade.as_ref()?)?;
        let mut asked = Self {
            protocol: String::from_utf8_lossy(&upgrade).into_owned(),
            given: head.fields.find(KEY).cloned(),
            made: None,
            is_head: request.method == b"HEAD"[..],
        };
        if speaks == AppProtocol::Http2 {
            // RFC 8441 section 5.1: neither is used there.
            head.fields.remove(KEY);
            return Some(asked);
        }
        // All of these are values of fields.
        let _ = head.fields.push("connection", "upgrade");
        let _ = head.fields.push("upgrade", upgrade.clone());
        if asked.given.is_none() && upgrade.eq_ignore_ascii_case(b"websocket") {
            let nonce = u128::from(draw()) << 64 | u128::from(draw());
            let key = websocket_key(nonce.to_be_bytes());
            let _ = head.fields.push(KEY, key.clone());
            asked.made = Some(key);
        }
        Some(asked)
    }

    pub(super) fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Has the program agreed? Then the head is made the one of HTTP/1.1 by which it would have.
    fn agreed(&self, is_http2: bool, head: &mut ResponseHead) -> Result<bool, HttpError> {
        if is_http2 {
            let agreed = (200..300).contains(&head.status);
            if agreed {
                head.status = 101;
                // The protocol was the value of a field before, the answer to a key is plain text.
                let _ = head.fields.push("upgrade", self.protocol.clone());
                if let Some(key) = &self.given {
                    let _ = head.fields.push(ACCEPT, websocket_accept(key));
                }
            }
            return Ok(agreed);
        }
        let asked = |protocol: &[u8]| {
            let mut asked = self.protocol.as_bytes().split(|&byte| byte == b',');
            asked.any(|asked| asked.trim_ascii().eq_ignore_ascii_case(protocol))
        };
        if head.status == 101 && !head.fields.members("upgrade").all(asked) {
            return Err(HttpError::Unasked);
        }
        if let (101, Some(key)) = (head.status, &self.made) {
            let accept = head.fields.find(ACCEPT);
            if accept.is_none_or(|accept| *accept != websocket_accept(key.as_bytes())) {
                return Err(HttpError::NotWebSocket);
            }
        }
        Ok(head.status == 101)
    }
}

/// What caller and program speak in another protocol.
pub(super) struct Tunnel {
    program: Way,
    /// `timeout.idle`.
    idle: Duration,
}

enum Way {
    Http1 {
        socket: TcpStream,
        /// Read with the head of the reply.
        early: Bytes,
    },
    Http2(http2::Exchange),
}

impl Tunnel {
    pub(super) async fn carry(self, journey: &mut Journey, stream: &Stream) {
        let idle = self.idle;
        let carried = match self.program {
            Way::Http1 { socket, early } => splice_socket(socket, early, stream, idle).await,
            Way::Http2(mut exchange) => match exchange.tunnel() {
                Some((read, write)) => {
                    let has_all = Cell::new(false);
                    splice(read, write, Bytes::new(), stream, idle, &has_all).await
                }
                None => Carried::default(),
            },
        };
        journey.record.request_bytes += carried.received;
        journey.record.response_bytes += carried.sent;
    }
}

/// Asks the program to change to another protocol. Should it go on in HTTP, its answer is carried, and
/// a connection of HTTP/1.1 used no more.
pub(super) async fn upgrade(
    journey: &mut Journey,
    stream: &Stream,
    mut exchange: Exchange,
    asked: &Asked,
    idle: Duration,
    pass: &mut Pass,
) -> Result<Option<Tunnel>, Broken> {
    let (mut reader, mut writer) = exchange.split();
    writer.begin().await.map_err(not_sent)?;
    let is_http2 = writer.is_http2();
    let (mut head, body) = loop {
        match reader.head().await.map_err(no_head)? {
            (head, _) if head.status == 100 => {}
            (head, _) if Interim::is_interim(head.status) => hint(stream, head),
            head => break head,
        }
    };
    let agreed = asked.agreed(is_http2, &mut head);
    let agreed = agreed.map_err(Broken::NotHttp)?;
    journey.record.response_code = Some(head.status);
    let bodiless = !agreed && (body == Body::None || asked.is_head);
    let busy = pass.replied(head.status);
    let reply = reply(head, body, busy);
    stream.reply(&reply, bodiless).map_err(Broken::Caller)?;
    if !agreed {
        if !bodiless {
            download(journey, stream, &mut reader, bodiless).await?;
        }
        return Ok(None);
    }
    let program = match exchange {
        Exchange::Http1(exchange) => {
            let (read, early, write) = exchange.into_tunnel();
            // They are halves of one.
            let socket = read.reunite(write).map_err(|_| Broken::Cut)?;
            Way::Http1 { socket, early }
        }
        Exchange::Http2(exchange) => Way::Http2(exchange),
    };
    Ok(Some(Tunnel { program, idle }))
}
