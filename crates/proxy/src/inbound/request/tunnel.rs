//! A request that wants to go on in another protocol, as WebSocket does: towards a program of HTTP/1.1 by
//! Upgrade (RFC 9110 section 7.8), towards one of HTTP/2 by extended CONNECT (RFC 8441), whichever of
//! the two the client has used.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use isthmus_codec::http1::Body;
use isthmus_codec::message::Interim;
use tokio::net::TcpStream;

use super::{Broken, download, hint, no_head, not_sent, reply};
use crate::gate::Pass;
use crate::http::upgrade::Asked;
use crate::http::{Exchange, http2};
use crate::journey::Journey;
use crate::mux::Stream;
use crate::splice::{Carried, splice, splice_socket};

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
    let bodiless = !agreed && (body == Body::None || asked.is_head());
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
