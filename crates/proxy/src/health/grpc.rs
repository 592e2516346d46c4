//! One question of the gRPC health checking protocol, `grpc.health.v1.Health/Check`.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use prost::Message;
use tokio::net::TcpStream;

use crate::http::http2;

/// Longer answers than this are none.
const LONGEST: usize = 1024;
/// Before every message: not compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    /// Empty: the program as a whole.
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    /// Only of a watch, which this is not.
    ServiceUnknown = 3,
}

/// Errors: why the service is not serving, or what went wrong, for people.
pub(super) async fn ask(
    socket: TcpStream,
    address: SocketAddr,
    service: &str,
) -> Result<(), String> {
    let (requests, connection) = http2::client()
        .handshake(socket)
        .await
        .map_err(|error| format!("HTTP/2: {error}"))?;
    let asked = check(requests, address, service);
    tokio::select! {
        biased;
        answer = asked => answer,
        ended = connection => match ended {
            Ok(()) => Err("the connection ended before the answer".to_owned()),
            Err(error) => Err(format!("HTTP/2: {error}")),
        },
    }
}

async fn check(
    requests: h2::client::SendRequest<Bytes>,
    address: SocketAddr,
    service: &str,
) -> Result<(), String> {
    let broken = |error: h2::Error| format!("HTTP/2: {error}");
    let head = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "isthmus")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut requests = requests.ready().await.map_err(broken)?;
    let (answer, mut body) = requests.send_request(head, false).map_err(broken)?;
    let question = HealthCheckRequest {
        service: service.to_owned(),
    };
    body.send_data(framed(&question), true).map_err(broken)?;
    let (head, mut body) = answer.await.map_err(broken)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("HTTP status {}", head.status.as_u16()));
    }
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        // Credit that cannot be given back is no longer needed.
        let _ = body.flow_control().release_capacity(data.len());
        if message.len() + data.len() > LONGEST {
            return Err(format!("an answer of more than {LONGEST} bytes"));
        }
        message.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(broken)?;
    // Where there is nothing but a status, it stands in the head.
    judge(trailers.as_ref().unwrap_or(&head.headers), &message)
}

fn framed(question: &HealthCheckRequest) -> Bytes {
    let message = question.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

fn judge(fields: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => {}
        Some(status) => {
            let message = text("grpc-message").unwrap_or_default();
            return Err(format!("grpc-status {status} {message}")
                .trim_end()
                .to_owned());
        }
        None => return Err("an answer without grpc-status".to_owned()),
    }
    let undecodable = || "an answer that cannot be read".to_owned();
    let message = body.get(PREFIX..).ok_or_else(undecodable)?;
    let answer = HealthCheckResponse::decode(message).map_err(|_| undecodable())?;
    match ServingStatus::try_from(answer.status) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(_) => Err(format!("status {} is not known", answer.status)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.insert(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn only_serving_is_serving() {
        let ok = fields(&[("grpc-status", "0")]);
        let unknown = fields(&[("grpc-status", "5"), ("grpc-message", "unknown service")]);
        for (fields, body, expect) in [
            (&ok, &[0, 0, 0, 0, 2, 8, 1][..], Ok(())),
            (&ok, &[0, 0, 0, 0, 2, 8, 2], Err("NotServing")),
            (&ok, &[0, 0, 0, 0, 2, 8, 0], Err("Unknown")),
            // A default is not written.
            (&ok, &[0, 0, 0, 0, 0], Err("Unknown")),
            (&ok, &[0, 0, 0, 0, 2, 8, 9], Err("status 9 is not known")),
            (
                &ok,
                &[0, 0, 0, 0, 2, 8],
                Err("an answer that cannot be read"),
            ),
            (&ok, &[], Err("an answer that cannot be read")),
            (&unknown, &[], Err("grpc-status 5 unknown service")),
            (&fields(&[]), &[], Err("an answer without grpc-status")),
        ] {
            let said = judge(fields, body);
            assert_eq!(said, expect.map_err(str::to_owned), "{body:?}");
        }
    }

    /// A program that is asked once.
    async fn program(serving: bool) -> (SocketAddr, impl Future<Output = String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let path = request.uri().path().to_owned();
            let mut body = request.into_body();
            let answering = async move {
                let question = body.data().await.unwrap().unwrap();
                let reply = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
                let mut stream = respond.send_response(reply, false).unwrap();
                let status = if serving { 1 } else { 2 };
                let data = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
                stream.send_data(data, false).unwrap();
                stream
                    .send_trailers(fields(&[("grpc-status", "0")]))
                    .unwrap();
                format!("{path} {question:?}")
            };
            let mut answering = std::pin::pin!(answering);
            let said = loop {
                tokio::select! {
                    said = &mut answering => break said,
                    _ = connection.accept() => {}
                }
            };
            // Until the other side has gone.
            while connection.accept().await.is_some_and(|next| next.is_ok()) {}
            said
        };
        (address, serve)
    }

    #[tokio::test]
    async fn a_program_is_asked_about_its_service() {
        for serving in [true, false] {
            let (address, serve) = program(serving).await;
            let asking = async {
                let socket = TcpStream::connect(address).await.unwrap();
                ask(socket, address, "shop.Cart").await
            };
            let (answer, asked) = tokio::join!(asking, serve);
            assert_eq!(answer.is_ok(), serving, "{answer:?}");
            let question = r#"b"\0\0\0\0\x0b\n\tshop.Cart""#;
            assert_eq!(asked, format!("/grpc.health.v1.Health/Check {question}"));
        }
    }

    #[tokio::test]
    async fn who_speaks_something_else_is_not_serving() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut socket, answer)
                .await
                .unwrap();
        };
        let asking = async {
            let socket = TcpStream::connect(address).await.unwrap();
            ask(socket, address, "").await
        };
        let (answer, ()) = tokio::join!(asking, other);
        assert!(answer.unwrap_err().starts_with("HTTP/2: "));
    }
}
