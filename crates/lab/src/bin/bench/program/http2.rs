//! GETs of HTTP/2 and unary calls of gRPC.

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Error, RecvStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use isthmus_lab::traffic::frame;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::BODY;

const UNLIMITED: usize = 1 << 16;
/// What servers of gRPC usually have; with less, a few hundred small messages at once are a flood.
const WINDOW: u32 = 1 << 20;

pub(super) async fn converse(socket: TcpStream) -> Result<(), Error> {
    // When a client ends, all that it had under way may be taken back at once; that is no attack here.
    let mut connection = Builder::new()
        .max_pending_accept_reset_streams(UNLIMITED)
        .max_concurrent_reset_streams(UNLIMITED)
        .max_local_error_reset_streams(None)
        .initial_connection_window_size(WINDOW)
        .handshake(socket)
        .await?;
    let message = frame(&BODY);
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        if request.method() == "POST" {
            spawn_local(answer(request, respond, message.clone()));
        } else {
            let mut respond = respond;
            let mut body = respond.send_response(Response::new(()), false)?;
            body.send_data(Bytes::from_static(&BODY), true)?;
        }
    }
    Ok(())
}

/// A message for a message, once the request has ended.
async fn answer(
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    message: Bytes,
) -> Result<(), Error> {
    let body = request.body_mut();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut head = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(CONTENT_TYPE, kind);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    let ok = HeaderValue::from_static("0");
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), ok)]);
    stream.send_trailers(trailers)
}
