//! `Expect: 100-continue` (RFC 9110 section 10.1.1): the program says whether it wants the body.

use std::net::SocketAddr;

use isthmus_model::AppProtocol::Http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http2::{data, h2_program};
use crate::testing::{HOST, Scene, program, read_head, run, within};

/// A program that says `first` when it has read a head, and `then` when it has read a body.
async fn answering(first: &'static str, then: &'static str) -> SocketAddr {
    program(move |mut socket| async move {
        let head = read_head(&mut socket).await.to_ascii_lowercase();
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        socket.write_all(first.as_bytes()).await.unwrap();
        let mut body = [0; 5];
        // Whoever is refused sends none.
        if socket.read_exact(&mut body).await.is_ok() {
            assert_eq!(&body, b"hello");
            socket.write_all(then.as_bytes()).await.unwrap();
        }
    })
    .await
}

async fn asking(scene: &Scene) -> TcpStream {
    let mut client = scene.client().await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

/// The client is asked for its body, sends it, and hears that all is well.
async fn goes_on(mut client: TcpStream) {
    let head = within(read_head(&mut client)).await;
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    client.write_all(b"hello").await.unwrap();
    let head = within(read_head(&mut client)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[test]
fn a_program_that_wants_the_body_gets_it() {
    run(async {
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(answering("HTTP/1.1 100 Continue\r\n\r\n", OK).await);
            goes_on(asking(&scene).await).await;
        }
    });
}

#[test]
fn a_program_that_refuses_the_body_never_sees_it() {
    run(async {
        let refusal = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(answering(refusal, OK).await);
            let mut client = asking(&scene).await;
            let mut reply = Vec::new();
            // The connection ends: whether a body follows is not known.
            within(client.read_to_end(&mut reply)).await.unwrap();
            let reply = String::from_utf8_lossy(&reply);
            assert!(reply.starts_with("HTTP/1.1 417 "), "{reply}");
            assert!(reply.ends_with("no"), "{reply}");
        }
    });
}

#[test]
fn programs_that_do_not_say_so_get_the_body() {
    run(async {
        let scene = Scene::stretched(answering("", OK).await);
        goes_on(asking(&scene).await).await;

        let address = h2_program(|request, mut respond| async move {
            assert_eq!(request.headers()["expect"], "100-continue");
            let mut body = request.into_body();
            while data(&mut body).await.is_some() {}
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        goes_on(asking(&scene).await).await;
    });
}

#[test]
fn programs_of_http_2_are_asked_as_well() {
    run(async {
        let address = h2_program(|request, mut respond| async move {
            let is_wanted = request.uri().path() == "/";
            let mut head = http::Response::new(());
            if is_wanted {
                *head.status_mut() = http::StatusCode::CONTINUE;
                respond.send_informational(head).unwrap();
                let mut body = request.into_body();
                assert_eq!(data(&mut body).await.unwrap(), "hello");
                let _ = respond.send_response(http::Response::new(()), true);
            } else {
                *head.status_mut() = http::StatusCode::EXPECTATION_FAILED;
                respond.send_response(head, true).unwrap();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        goes_on(asking(&scene).await).await;
        let refused = "POST /no HTTP/1.1\r\nhost: cart.shop.mesh\r\nexpect: 100-continue\r\n\
                       content-length: 5\r\n\r\n";
        let reply = scene.ask(refused).await;
        assert!(reply.starts_with("HTTP/1.1 417 "), "{reply}");
    });
}
