//! WebSocket over streams of HTTP/2 (RFC 8441), and between the two versions of HTTP.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use isthmus_codec::http1::websocket_accept;
use isthmus_model::AppProtocol::{Http1, Http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http2::{data, h2_client, h2_program, send};
use crate::testing::{HOST, Scene, answering, program, read_head, run, within};

fn asking(protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{HOST}/chat"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap()
}

/// What came of asking: the head of the reply, and both halves of the stream.
async fn asked(scene: &Scene, request: Request<()>) -> (Response<RecvStream>, SendStream<Bytes>) {
    let mut client = h2_client(scene).await.ready().await.unwrap();
    while !client.is_extended_connect_protocol_enabled() {
        // Its settings are on their way.
        tokio::task::yield_now().await;
    }
    let (response, sending) = client.send_request(request, false).unwrap();
    (within(response).await.unwrap(), sending)
}

async fn whole(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = within(data(body)).await {
        all.extend_from_slice(&piece);
    }
    all
}

/// A program of HTTP/1.1 that agrees, says something at once, and then repeats what it hears.
async fn repeating() -> SocketAddr {
    program(|mut socket| async move {
        let head = read_head(&mut socket).await;
        let lower = head.to_ascii_lowercase();
        for line in [
            "get /chat http/1.1\r\n",
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-version: 13\r\n",
        ] {
            assert!(lower.contains(line), "{head}");
        }
        let at = lower.find("sec-websocket-key: ").unwrap() + "sec-websocket-key: ".len();
        let key = head[at..].lines().next().unwrap();
        assert_eq!(key.len(), 24, "{key}");
        let reply = format!(
            "HTTP/1.1 101 Up\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {}\r\n\r\nfirst",
            websocket_accept(key.as_bytes())
        );
        socket.write_all(reply.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        socket.read_to_end(&mut said).await.unwrap();
        socket.write_all(&said).await.unwrap();
    })
    .await
}

/// A program of HTTP/2 that takes tunnels, or does not, and then does the same.
async fn repeating_http2(offers: bool) -> SocketAddr {
    program(move |socket| async move {
        let mut builder = h2::server::Builder::new();
        if offers {
            builder.enable_connect_protocol();
        }
        let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.uri().path(), "/chat");
            assert_eq!(
                request.extensions().get::<Protocol>().unwrap().as_str(),
                "websocket"
            );
            assert_eq!(request.headers()["sec-websocket-version"], "13");
            assert!(!request.headers().contains_key("sec-websocket-key"));
            tokio::task::spawn_local(async move {
                let head = Response::builder().header("sec-websocket-protocol", "chat");
                let mut reply = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                send(&mut reply, "first".into(), false).await;
                let mut body = request.into_body();
                while let Some(piece) = data(&mut body).await {
                    send(&mut reply, piece, false).await;
                }
                reply.send_data(Bytes::new(), true).unwrap();
            });
        }
    })
    .await
}

#[test]
fn a_stream_of_http_2_becomes_a_tunnel_to_programs_of_either_version() {
    run(async {
        for (protocol, address) in [
            (Http1, repeating().await),
            (Http2, repeating_http2(true).await),
        ] {
            for scene in [Scene::local_speaking, Scene::stretched_speaking] {
                let scene = scene(protocol, address);
                let (response, mut sending) = asked(&scene, asking("websocket")).await;
                assert_eq!(response.status(), 200, "{protocol:?}");
                assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
                for name in ["upgrade", "connection", "sec-websocket-accept"] {
                    assert!(!response.headers().contains_key(name), "{name}");
                }
                let mut body = response.into_body();
                assert_eq!(within(data(&mut body)).await.unwrap(), "first");
                // More than any window holds, and more than one frame.
                let much = Bytes::from(vec![7; 600 * 1024]);
                let hearing = whole(&mut body);
                let saying = async {
                    for piece in much.chunks(10_000) {
                        send(&mut sending, Bytes::copy_from_slice(piece), false).await;
                    }
                    // Each half ends by itself.
                    sending.send_data(Bytes::new(), true).unwrap();
                };
                let (heard, ()) = within(async { tokio::join!(hearing, saying) }).await;
                assert_eq!(heard.len(), much.len());
                let counted = scene.caller.metrics.encode();
                assert!(counted.contains("response_code=\"200\""), "{counted}");
            }
        }
    });
}

/// RFC 6455 section 1.3 has both key and answer.
#[test]
fn a_client_of_http_1_reaches_a_program_of_http_2() {
    run(async {
        let scene = Scene::stretched_speaking(Http2, repeating_http2(true).await);
        let mut client = scene.client().await;
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("upgrade: websocket\r\n"), "{head}");
        assert!(
            lower.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
            "{head}"
        );
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        within(client.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "firsthello");
    });
}

#[test]
fn what_does_not_take_it_says_so() {
    const CHANGED: &str = "HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                           sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    run(async {
        for (protocol, address, asks, status, refusal) in [
            // A good answer in HTTP is no agreement.
            (
                Http1,
                answering(super::HELLO).await,
                "websocket",
                501,
                Some("upgrade-not-supported"),
            ),
            (
                Http1,
                answering(super::HELLO).await,
                "h2c",
                501,
                Some("upgrade-not-supported"),
            ),
            (
                Http2,
                repeating_http2(false).await,
                "websocket",
                501,
                Some("upgrade-not-supported"),
            ),
            // It would agree to anything.
            (
                Http1,
                answering(CHANGED).await,
                "websocket",
                502,
                Some("bad-upstream-reply"),
            ),
            // It has a reason of its own.
            (
                Http1,
                answering("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno").await,
                "websocket",
                403,
                None,
            ),
        ] {
            let scene = Scene::stretched_speaking(protocol, address);
            let (response, _) = asked(&scene, asking(asks)).await;
            assert_eq!(response.status(), status, "{protocol:?} {asks}");
            let said = response.headers().get("x-isthmus-refusal");
            assert_eq!(said.map(|said| said.to_str().unwrap()), refusal);
        }
    });
}

/// A request of the same client beside a tunnel is one like any other.
#[test]
fn requests_go_on_beside_a_tunnel_and_a_reset_ends_only_the_tunnel() {
    run(async {
        let (told, left) = tokio::sync::oneshot::channel();
        let told = std::rc::Rc::new(std::cell::Cell::new(Some(told)));
        let address = program(move |mut socket| {
            let told = std::rc::Rc::clone(&told);
            async move {
                let head = read_head(&mut socket).await;
                if !head.contains("pgrade") {
                    socket.write_all(super::HELLO.as_bytes()).await.unwrap();
                    return;
                }
                let reply = "HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n";
                socket.write_all(reply.as_bytes()).await.unwrap();
                let _ = socket.read(&mut [0]).await;
                told.take().unwrap().send(()).unwrap();
            }
        })
        .await;
        let scene = Scene::local(address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let plain = || Request::get(format!("http://{HOST}/")).body(()).unwrap();
        let (response, _) = client.send_request(plain(), true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
        // Whatever it is called: what the two say to each other is theirs.
        let (response, mut sending) = client.send_request(asking("talk"), false).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
        let (response, _) = client.send_request(plain(), true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
        sending.send_reset(h2::Reason::CANCEL);
        within(left).await.unwrap();
        let (response, _) = client.send_request(plain(), true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
    });
}

/// The one without `:protocol` stays what it was.
#[test]
fn a_plain_connect_is_refused() {
    run(async {
        let address = h2_program(|_, _| async { panic!("it must not be asked") }).await;
        let scene = Scene::local_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("{HOST}:80"))
            .body(())
            .unwrap();
        let (response, _) = client.send_request(request, false).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 501);
    });
}
