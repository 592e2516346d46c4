//! Replies that go on for as long as there is something to tell, such as server-sent events.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use isthmus_codec::message::Open;
use isthmus_model::AppProtocol::Http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use super::http2::{call, data, h2_client, h2_program, send};
use super::{get, play_caller, request};
use crate::mux::Item;
use crate::testing::{HOST, Scene, program, read_head, run, within};

/// Longer than anything takes here that goes on, on a slow machine too.
const LIMIT: Duration = Duration::from_secs(1);

/// What a program says of a body of this kind; a first piece of it follows.
fn begins(kind: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n\
         7\r\ndata: 1\r\n"
    )
}

/// How the whole of it ends, also where two pieces have become one.
const LAST: &str = "data: 2\r\n0\r\n\r\n";

fn asking(kind: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\naccept: {kind}\r\nconnection: close\r\n\r\n")
}

/// A program that says one thing, of the kind that it is asked for, and the other when it may.
async fn telling(go_on: &Rc<Notify>) -> SocketAddr {
    let go_on = Rc::clone(go_on);
    program(move |mut socket| {
        let go_on = Rc::clone(&go_on);
        async move {
            let head = read_head(&mut socket).await;
            let asked = head.split("accept: ").nth(1).unwrap();
            let begun = begins(asked.lines().next().unwrap());
            socket.write_all(begun.as_bytes()).await.unwrap();
            go_on.notified().await;
            // Whoever was cut off does not hear it.
            let _ = socket.write_all(format!("7\r\n{LAST}").as_bytes()).await;
        }
    })
    .await
}

/// `timeout.request` is for replies that end; what is told as it happens takes as long as that.
#[test]
fn events_outlive_the_time_of_a_request_and_other_replies_do_not() {
    run(async {
        for scene in [Scene::local, Scene::stretched] {
            let go_on = Rc::new(Notify::new());
            let mut scene = scene(telling(&go_on).await);
            // The connections that requests go by are made before their time is limited.
            go_on.notify_one();
            let whole = scene.ask(&asking("text/plain")).await;
            assert!(whole.ends_with(LAST), "{whole}");
            let set = |policy: &mut isthmus_model::TrafficPolicy| {
                policy.request_timeout = Some(LIMIT);
                policy.per_try_timeout = Some(LIMIT);
            };
            scene.decree(set, |_| ());
            let mut streams = Vec::new();
            for kind in [
                "text/event-stream",
                "Text/Event-Stream; charset=utf-8",
                "application/x-ndjson",
                "application/grpc-web+proto",
            ] {
                streams.push((kind, listening(&scene, &asking(kind)).await));
            }
            // It begins after them: when its time is over, so is theirs.
            let cut = scene.ask(&asking("text/plain")).await;
            assert!(cut.ends_with("\r\n\r\n7\r\ndata: 1\r\n"), "{cut}");
            go_on.notify_waiters();
            for (kind, mut client) in streams {
                let mut rest = String::new();
                within(client.read_to_string(&mut rest)).await.unwrap();
                assert!(rest.contains("data: 1"), "{kind}: {rest}");
                assert!(rest.ends_with(LAST), "{kind}: {rest}");
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

/// A client that has heard how the reply to `request` begins.
async fn listening(scene: &Scene, request: &str) -> TcpStream {
    let mut client = scene.client().await;
    client.write_all(request.as_bytes()).await.unwrap();
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
        let mut client = listening(&scene, &get("/")).await;
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
            while let Some(piece) = body.data().await {
                // Who falls silent is cut off.
                let Ok(piece) = piece else { return };
                length += piece.len();
            }
            send(&mut reply, length.to_string().into(), true).await;
        })
        .await;
        let mut scene = Scene::stretched_speaking(Http2, address);
        let limit = 2 * LIMIT;
        scene.decree(|policy| policy.idle_timeout = Some(limit), |_| ());
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        // It begins later and says nothing: when it is ended, the first has lasted for longer than that.
        let (response, _unused) = client.send_request(call(None), false).unwrap();
        let mut silent = within(response).await.unwrap().into_body();
        let mut ended = pin!(within(data(&mut silent)));
        let mut said = 1;
        loop {
            tokio::select! {
                heard = &mut ended => break assert_eq!(heard, None),
                () = tokio::time::sleep(limit / 20) => {
                    send(&mut sending, "x".into(), false).await;
                    said += 1;
                }
            }
        }
        send(&mut sending, "x".into(), true).await;
        assert_eq!(within(data(&mut body)).await.unwrap(), said.to_string());
    });
}

/// A callee cannot know whether a call is a stream before it is one: its caller watches the time.
#[test]
fn a_call_that_has_begun_is_not_late_for_its_callee() {
    const LEFT: Duration = Duration::from_millis(200);
    run(async {
        let address = h2_program(|_, mut respond| async move {
            let head = Response::builder().header("content-type", "application/grpc");
            let head = head.body(()).unwrap();
            let mut reply = respond.send_response(head, false).unwrap();
            tokio::time::sleep(2 * LEFT).await;
            reply.send_data("late".into(), true).unwrap();
        })
        .await;
        let scene = Scene::local_speaking(Http2, address);
        let link = play_caller(&scene).await;
        let Open::Request(mut asked) = request("POST", &[("content-type", "application/grpc")])
        else {
            panic!("it is a request");
        };
        asked.context.remaining = Some(LEFT);
        let stream = link.open(&Open::Request(asked), true).unwrap();
        let reply = within(stream.receive()).await.unwrap();
        assert!(matches!(reply, Item::Reply(_)), "{reply:?}");
        let said = within(stream.receive()).await.unwrap();
        assert!(
            matches!(&said, Item::Data(data) if data == "late"),
            "{said:?}"
        );
    });
}

#[test]
fn a_stream_ends_when_its_service_is_no_longer_exported() {
    run(async {
        let (address, left) = falling_silent().await;
        let mut scene = Scene::stretched(address);
        let mut client = listening(&scene, &get("/")).await;
        let mut facts = scene.facts.clone();
        facts.service.exported = false;
        scene.callee.learn(&facts);
        let mut rest = Vec::new();
        let _ = within(client.read_to_end(&mut rest)).await;
        within(left).await.unwrap();
    });
}
