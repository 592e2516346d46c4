//! What a program says before it replies: 103 (Early Hints, RFC 8297), 102, and what may be defined yet.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response, StatusCode};
use isthmus_model::AppProtocol::{Http1, Http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::get;
use super::http2::{h2_client, h2_program};
use crate::testing::{HOST, Scene, program, read_head, run, within};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>\r\n\
                     connection: x-mine\r\nx-mine: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Programs of both versions that hint before they reply.
async fn hinting() -> [(isthmus_model::AppProtocol, SocketAddr); 2] {
    let old = program(|mut socket| async move {
        while !read_head(&mut socket).await.is_empty() {
            socket.write_all(HINTS.as_bytes()).await.unwrap();
            socket.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let new = h2_program(|_, mut respond| async move {
        let hints = Response::builder()
            .status(103)
            .header("link", "</a.css>; rel=preload")
            .header("link", "</b.js>");
        respond.send_informational(hints.body(()).unwrap()).unwrap();
        let processing = Response::builder().status(102).body(()).unwrap();
        respond.send_informational(processing).unwrap();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data("ok".into(), true).unwrap();
    });
    [(Http1, old.await), (Http2, new.await)]
}

#[test]
fn a_client_of_http_1_hears_what_comes_before_the_reply() {
    run(async {
        for (protocol, address) in hinting().await {
            for scene in [Scene::local_speaking, Scene::stretched_speaking] {
                let scene = scene(protocol, address);
                let mut client = scene.client().await;
                // Again on the same connection: hints count as no reply.
                for _ in 0..2 {
                    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
                    client.write_all(request.as_bytes()).await.unwrap();
                    let hints = within(read_head(&mut client)).await;
                    assert!(hints.starts_with("HTTP/1.1 103 "), "{protocol:?}: {hints}");
                    let links = "link: </a.css>; rel=preload\r\nlink: </b.js>\r\n\r\n";
                    assert!(hints.ends_with(links), "{hints}");
                    let processing = within(read_head(&mut client)).await;
                    assert!(processing.starts_with("HTTP/1.1 102 "), "{processing}");
                    let head = within(read_head(&mut client)).await;
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    assert!(head.contains("content-length: 2\r\n") || protocol == Http2);
                    if protocol == Http2 {
                        // Chunked, and its chunks end with an empty line as well.
                        let chunks = within(read_head(&mut client)).await;
                        assert_eq!(chunks, "2\r\nok\r\n0\r\n\r\n");
                    } else {
                        let mut body = [0; 2];
                        within(client.read_exact(&mut body)).await.unwrap();
                    }
                }
                let counted = scene.caller.metrics.encode();
                assert!(!counted.contains("response_code=\"103\""), "{counted}");
            }
        }
    });
}

#[test]
fn a_client_of_http_2_hears_what_comes_before_the_reply() {
    run(async {
        for (protocol, address) in hinting().await {
            let scene = Scene::stretched_speaking(protocol, address);
            let mut client = h2_client(&scene).await.ready().await.unwrap();
            let request = Request::get(format!("http://{HOST}/")).body(()).unwrap();
            let (mut response, _) = client.send_request(request, true).unwrap();
            for expect in [103, 102] {
                let interim = poll_fn(|cx| match response.poll_informational(cx) {
                    Poll::Ready(Some(interim)) => Poll::Ready(interim.unwrap()),
                    Poll::Ready(None) | Poll::Pending => Poll::Pending,
                });
                let interim = within(interim).await;
                assert_eq!(interim.status().as_u16(), expect, "{protocol:?}");
                let links = interim.headers().get_all("link").iter().count();
                assert_eq!(links, if expect == 103 { 2 } else { 0 });
                assert!(!interim.headers().contains_key("x-mine"));
            }
            assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
        }
    });
}

/// RFC 9110 section 15.2.
#[test]
fn a_client_of_http_1_0_hears_the_reply_only() {
    run(async {
        let [(_, address), _] = hinting().await;
        let scene = Scene::local(address);
        let reply = scene
            .ask(&format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n"))
            .await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    });
}

/// Nobody is bound by a hint: where the reply does not come, another program may give it.
#[test]
fn what_failed_after_a_hint_is_tried_again() {
    run(async {
        let seen = Rc::new(Cell::new(0));
        let heard = Rc::new(Notify::new());
        let (asked, break_off) = (Rc::clone(&seen), Rc::clone(&heard));
        let address = program(move |mut socket| {
            let (asked, break_off) = (Rc::clone(&asked), Rc::clone(&break_off));
            async move {
                read_head(&mut socket).await;
                socket.write_all(HINTS.as_bytes()).await.unwrap();
                asked.set(asked.get() + 1);
                if asked.get() > 1 {
                    socket.write_all(OK.as_bytes()).await.unwrap();
                } else {
                    // A break at once would overtake the hints.
                    break_off.notified().await;
                }
            }
        })
        .await;
        let mut scene = Scene::local(address);
        scene.multiply(2);
        scene.decree(|_| (), |_| ());
        let mut client = scene.client().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        for expect in ["HTTP/1.1 103 ", "HTTP/1.1 102 "] {
            let hint = within(read_head(&mut client)).await;
            assert!(hint.starts_with(expect), "{hint}");
        }
        assert_eq!(seen.get(), 1);
        heard.notify_one();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.ends_with("\r\n\r\nok"), "{reply}");
        assert_eq!(seen.get(), 2);
    });
}

#[test]
fn a_program_that_hints_without_end_is_not_heard_without_end() {
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            for _ in 0..1000 {
                socket.write_all(HINTS.as_bytes()).await.unwrap();
            }
            socket.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        let scene = Scene::local(address);
        let reply = scene.ask(&get("/")).await;
        let hints = reply.matches("HTTP/1.1 10").count();
        assert!((1..=64).contains(&hints), "{hints}");
        assert!(reply.ends_with("\r\n\r\nok"), "{reply}");
    });
}
