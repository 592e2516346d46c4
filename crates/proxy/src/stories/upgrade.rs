//! Connections that change to another protocol, as WebSocket does (RFC 9110 section 7.8, RFC 6455).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use isthmus_model::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::http2::h2_program;
use super::remembering;
use crate::testing::{HOST, Scene, answering, program, read_head, run, within};

fn asking() -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: \
         websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[test]
fn bytes_pass_both_ways_after_the_change_and_each_half_ends_by_itself() {
    run(async {
        let address = program(|mut socket| async move {
            let head = read_head(&mut socket).await.to_ascii_lowercase();
            for line in [
                "get /chat http/1.1\r\n",
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
            ] {
                assert!(head.contains(line), "{head}");
            }
            // The first frame comes with the head.
            let reply = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
                         websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst";
            socket.write_all(reply.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await.unwrap();
            socket.write_all(&said).await.unwrap();
        })
        .await;
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(address);
            let mut client = scene.client().await;
            client.write_all(asking().as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await.to_ascii_lowercase();
            for line in [
                "http/1.1 101 switching protocols\r\n",
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-accept: x\r\n",
            ] {
                assert!(head.contains(line), "{head}");
            }
            let mut first = [0; 5];
            within(client.read_exact(&mut first)).await.unwrap();
            assert_eq!(&first, b"first");
            client.write_all(b"\x81\x02hi").await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            within(client.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest, b"\x81\x02hi");
        }
    });
}

/// `timeout.request` ends when the program has agreed, not in the middle of what is said after it.
#[test]
fn a_tunnel_outlives_the_time_of_a_request() {
    const LIMIT: Duration = Duration::from_millis(300);
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            let reply = "HTTP/1.1 101 Up\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            socket.write_all(reply.as_bytes()).await.unwrap();
            tokio::time::sleep(2 * LIMIT).await;
            socket.write_all(b"late").await.unwrap();
        })
        .await;
        let mut scene = Scene::local(address);
        scene.decree(|policy| policy.request_timeout = Some(LIMIT), |_| ());
        let mut client = scene.client().await;
        client.write_all(asking().as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut said = Vec::new();
        within(client.read_to_end(&mut said)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said), "late");
    });
}

#[test]
fn a_program_may_go_on_as_if_nobody_had_asked() {
    run(async {
        let address =
            answering("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno").await;
        let scene = Scene::stretched(address);
        let mut client = scene.client().await;
        for _ in 0..2 {
            client.write_all(asking().as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
            let mut body = [0; 2];
            within(client.read_exact(&mut body)).await.unwrap();
        }
    });
}

#[test]
fn what_cannot_change_is_told_so() {
    run(async {
        let address = h2_program(|_, _| async { panic!("it must not be asked") }).await;
        let scene = Scene::local_speaking(AppProtocol::Http2, address);
        let mut client = scene.client().await;
        client.write_all(asking().as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 501 "), "{head}");

        // Nobody asked: an answer that nobody can read.
        let address =
            answering("HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        let scene = Scene::local(address);
        let reply = scene
            .ask(&format!(
                "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{reply}");
        assert!(reply.contains("bad-upstream-reply"), "{reply}");
    });
}

/// HTTP/2 on a connection that is carried unread would pass by all that looks at requests.
#[test]
fn http_is_no_other_protocol() {
    run(async {
        let (address, heads) = remembering().await;
        let scene = Scene::stretched(address);
        for (asked, told) in [("h2c", None), ("h2c, x/1 , HTTP/2.0", Some("x/1"))] {
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: {asked}\r\n\
                 http2-settings: AAMAAABkAAQAAP__\r\n\r\n"
            );
            let mut client = scene.client().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let head = heads.borrow_mut().pop().unwrap();
            let line = told.map(|told| format!("upgrade: {told}\r\n"));
            assert!(line.is_none_or(|line| head.contains(&line)), "{head}");
            assert!(told.is_some() || !head.contains("upgrade"), "{head}");
            assert!(!head.contains("h2c") && !head.contains("http2"), "{head}");
        }
    });
}

#[test]
fn a_program_changes_to_nothing_that_it_was_not_asked_for() {
    run(async {
        let address =
            answering("HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n").await;
        let scene = Scene::local(address);
        let mut client = scene.client().await;
        client.write_all(asking().as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(head.contains("bad-upstream-reply"), "{head}");
    });
}

#[test]
fn a_head_that_is_all_of_the_answer_leaves_nothing_to_wait_for() {
    run(async {
        let (told, left) = oneshot::channel();
        let told = Rc::new(Cell::new(Some(told)));
        let address = program(move |mut socket| {
            let told = told.take();
            async move {
                read_head(&mut socket).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
                socket.write_all(head.as_bytes()).await.unwrap();
                let _ = socket.read(&mut [0]).await;
                let _ = told.map(|told| told.send(()));
            }
        })
        .await;
        let scene = Scene::stretched(address);
        let mut client = scene.client().await;
        let asked = asking().replace("GET", "HEAD");
        client.write_all(asked.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        within(left).await.unwrap();
    });
}
