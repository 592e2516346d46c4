//! Replies that go on for as long as there is something to tell, such as server-sent events.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use isthmus_model::AppProtocol::Http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use super::get;
use super::http2::{call, data, h2_client, h2_program, send};
use crate::testing::{Scene, program, read_head, run, within};

const LIMIT: Duration = Duration::from_millis(300);

/// What a program says of a body of this kind; a first piece of it follows.
fn begins(kind: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n\
         7\r\ndata: 1\r\n"
    )
}

/// A program that says two things, twice the time of a request apart.
async fn slowly(kind: &'static str) -> SocketAddr {
    program(move |mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(begins(kind).as_bytes()).await.unwrap();
        tokio::time::sleep(2 * LIMIT).await;
        // Whoever was cut off does not hear it.
        let _ = socket.write_all(b"7\r\ndata: 2\r\n0\r\n\r\n").await;
    })
    .await
}

/// `timeout.request` is for replies that end; what is told as it happens takes as long as that.
#[test]
fn events_outlive_the_time_of_a_request_and_other_replies_do_not() {
    run(async {
        for (kind, lasts) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            ("application/x-ndjson", true),
            ("application/grpc-web+proto", true),
            ("text/plain", false),
        ] {
            for scene in [Scene::local, Scene::stretched] {
                let mut scene = scene(slowly(kind).await);
                let set = |policy: &mut isthmus_model::TrafficPolicy| {
                    policy.request_timeout = Some(LIMIT);
                    policy.per_try_timeout = Some(LIMIT);
                };
                scene.decree(set, |_| ());
                let reply = scene.ask(&get("/")).await;
                assert!(reply.contains("data: 1"), "{kind}: {reply}");
                assert_eq!(
                    reply.ends_with("data: 2\r\n0\r\n\r\n"),
                    lasts,
                    "{kind}: {reply}"
                );
            }
        }
    });
}

/// A browser waits for the head of a stream before it says that the stream is open.
#[test]
fn the_head_of_a_stream_is_seen_before_anything_follows() {
    run(async {
        let seen = Rc::new(Notify::new());
        let go_on = Rc::clone(&seen);
        let address = program(move |mut socket| {
            let go_on = Rc::clone(&go_on);
            async move {
                read_head(&mut socket).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                socket.write_all(head.as_bytes()).await.unwrap();
                go_on.notified().await;
                socket.write_all(b"data: 1").await.unwrap();
            }
        })
        .await;
        let scene = Scene::stretched(address);
        let mut client = scene.client().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        seen.notify_one();
        let mut rest = String::new();
        within(client.read_to_string(&mut rest)).await.unwrap();
        assert!(rest.contains("data: 1"), "{rest}");
    });
}

/// A program that begins a stream, says nothing more, and tells when nobody listens any longer.
async fn falling_silent() -> (SocketAddr, oneshot::Receiver<()>) {
    let (told, left) = oneshot::channel();
    let told = Rc::new(Cell::new(Some(told)));
    let address = program(move |mut socket| {
        let told = told.take();
        async move {
            read_head(&mut socket).await;
            let begun = begins("text/event-stream");
            socket.write_all(begun.as_bytes()).await.unwrap();
            let _ = socket.read(&mut [0]).await;
            if let Some(told) = told {
                told.send(()).unwrap();
            }
        }
    })
    .await;
    (address, left)
}

async fn listening(scene: &Scene) -> TcpStream {
    let mut client = scene.client().await;
    client.write_all(get("/").as_bytes()).await.unwrap();
    let head = within(read_head(&mut client)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client
}

#[test]
fn a_stream_that_falls_silent_ends_when_the_policy_says() {
    run(async {
        let (address, left) = falling_silent().await;
        let mut scene = Scene::stretched(address);
        scene.decree(|policy| policy.idle_timeout = Some(LIMIT), |_| ());
        let mut client = listening(&scene).await;
        let mut rest = String::new();
        within(client.read_to_string(&mut rest)).await.unwrap();
        // It is not told as if it were whole.
        assert_eq!(rest, "7\r\ndata: 1\r\n");
        within(left).await.unwrap();
        let counted = scene.caller.metrics.encode();
        assert!(counted.contains("refusal=\"request-timeout\""), "{counted}");
    });
}

/// Of a call both sides are looked at: whoever sends all the time may get no answer for long.
#[test]
fn a_call_whose_client_goes_on_is_not_silent() {
    run(async {
        let address = h2_program(|request, mut respond| async move {
            let mut reply = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(piece) = data(&mut body).await {
                length += piece.len();
            }
            send(&mut reply, length.to_string().into(), true).await;
        })
        .await;
        let mut scene = Scene::stretched_speaking(Http2, address);
        let limit = 3 * LIMIT;
        scene.decree(|policy| policy.idle_timeout = Some(limit), |_| ());
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        for _ in 0..8 {
            tokio::time::sleep(limit / 6).await;
            send(&mut sending, "x".into(), false).await;
        }
        send(&mut sending, "x".into(), true).await;
        assert_eq!(within(data(&mut body)).await.unwrap(), "9");
    });
}

#[test]
fn a_stream_ends_when_its_service_is_no_longer_exported() {
    run(async {
        let (address, left) = falling_silent().await;
        let mut scene = Scene::stretched(address);
        let mut client = listening(&scene).await;
        let mut facts = scene.facts.clone();
        facts.service.exported = false;
        scene.callee.learn(&facts);
        let mut rest = Vec::new();
        let _ = within(client.read_to_end(&mut rest)).await;
        within(left).await.unwrap();
    });
}
