//! Where a request or a connection ends: what follows is never taken for a part of it, and what was cut
//! never for the whole.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use isthmus_model::AppProtocol::Tcp;
use isthmus_world::DrainStage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::life::tunnel;
use super::{HELLO, get};
use crate::testing::{HOST, Scene, answering, program, read_head, run, within};

/// A second request would be read as the body that the first has announced.
#[test]
fn a_reply_that_did_not_wait_for_the_body_is_the_last() {
    run(async {
        for (method, reply) in [
            ("POST", "HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n"),
            ("PUT", "HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n"),
            ("PUT", "HTTP/1.1 204 Done\r\n\r\n"),
            ("DELETE", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ] {
            let scene = Scene::stretched(answering(reply).await);
            for expects in ["expect: 100-continue\r\n", ""] {
                let mut client = scene.client().await;
                let head = format!(
                    "{method} / HTTP/1.1\r\nhost: {HOST}\r\n{expects}content-length: 100000\r\n\r\n"
                );
                client.write_all(head.as_bytes()).await.unwrap();
                let head = within(read_head(&mut client)).await;
                assert!(head.starts_with(&reply[..12]), "{head}");
                assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
                // It may be reset, but it is not answered.
                let _ = client.write_all(get("/second").as_bytes()).await;
                let mut rest = String::new();
                let _ = within(client.read_to_string(&mut rest)).await;
                assert_eq!(rest, "", "{method} {expects}");
            }
        }
    });
}

fn refused(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: nobody.lab.mesh\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn a_refusal_of_what_was_read_whole_leaves_the_connection_to_the_next_request() {
    run(async {
        let mut scene = Scene::local(answering(HELLO).await);
        let mut nobody = scene.facts.clone();
        nobody.workloads.clear();
        scene.caller.learn(&nobody);
        let mut client = scene.client().await;
        for _ in 0..2 {
            let asked =
                format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhello");
            client.write_all(asked.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(!head.contains("connection:"), "{head}");
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            within(client.read_exact(&mut vec![0; length]))
                .await
                .unwrap();
        }
        // It is refused before its body is read.
        client.write_all(refused(5).as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    });
}

/// A reset would overtake the refusal.
#[test]
fn a_refusal_reaches_who_still_sends() {
    const LENGTH: usize = 4 << 20;
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let mut client = scene.client().await;
        client.write_all(refused(LENGTH).as_bytes()).await.unwrap();
        within(client.write_all(&vec![0; LENGTH])).await.unwrap();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    });
}

#[test]
fn what_follows_a_tunnel_that_is_refused_is_no_request() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let mut client = tunnel(&scene).await;
        let inner = format!("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n{}", get("/"));
        client.write_all(inner.as_bytes()).await.unwrap();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 501 "), "{reply}");
        assert!(reply.contains("\r\nconnection: close\r\n"), "{reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
    });
}

#[test]
fn a_program_that_breaks_off_is_not_heard_as_if_it_had_said_all() {
    run(async {
        let address = program(|mut socket| async move {
            socket.write_all(&[7; 1000]).await.unwrap();
            // Until all of it has been taken.
            let _ = socket.read(&mut [0]).await;
            socket.set_zero_linger().unwrap();
        })
        .await;
        for scene in [Scene::local_speaking, Scene::stretched_speaking] {
            let scene = scene(Tcp, address);
            let mut client = tunnel(&scene).await;
            let mut heard = vec![0; 1000];
            within(client.read_exact(&mut heard)).await.unwrap();
            client.write_all(b"x").await.unwrap();
            let ended = within(client.read(&mut heard)).await;
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_client_that_breaks_off_is_not_heard_as_if_it_had_said_all() {
    run(async {
        let (told, ended) = oneshot::channel();
        let told = Rc::new(Cell::new(Some(told)));
        let address = program(move |mut socket| {
            let told = told.take().unwrap();
            async move {
                let mut heard = [0; 5];
                socket.read_exact(&mut heard).await.unwrap();
                socket.write_all(b"x").await.unwrap();
                told.send(socket.read(&mut heard).await).unwrap();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Tcp, address);
        let mut client = tunnel(&scene).await;
        client.write_all(b"hello").await.unwrap();
        within(client.read_exact(&mut [0])).await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
        let ended = within(ended).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_body_with_trailers_is_read_to_its_end() {
    run(async {
        let address = program(|mut socket| async move {
            for _ in 0..2 {
                read_head(&mut socket).await;
                read_head(&mut socket).await;
                socket.write_all(HELLO.as_bytes()).await.unwrap();
            }
        })
        .await;
        let scene = Scene::stretched(address);
        let mut client = scene.client().await;
        for _ in 0..2 {
            let asked = format!(
                "POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\na: b\r\n\r\n"
            );
            client.write_all(asked.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert!(!head.contains("connection:"), "{head}");
            within(client.read_exact(&mut [0; 5])).await.unwrap();
        }
    });
}

/// HTTP/1.0 knows no other end of such a reply than that of the connection.
#[test]
fn a_reply_that_is_cut_is_not_heard_as_a_whole_one() {
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n";
            socket.write_all(begun.as_bytes()).await.unwrap();
            // Until the client has it.
            let _ = socket.read(&mut [0]).await;
        })
        .await;
        for is_leaving in [false, true] {
            let scene = Scene::stretched(address);
            let mut client = scene.client().await;
            if is_leaving {
                scene.caller.drain.advance(DrainStage::Leaving);
            }
            let asked =
                format!("POST / HTTP/1.0\r\nhost: {HOST}\r\ncontent-length: 100001\r\n\r\n");
            client.write_all(asked.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            within(client.read_exact(&mut [0; 2])).await.unwrap();
            client.write_all(b"x").await.unwrap();
            let ended = within(client.read(&mut [0])).await;
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Some say that they send nothing more as soon as they have asked.
#[test]
fn who_has_ended_its_half_hears_a_long_reply_to_the_end() {
    const PIECES: usize = 6;
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {PIECES}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..PIECES {
                tokio::time::sleep(Duration::from_millis(500)).await;
                // Who is gone does not hear it.
                let _ = socket.write_all(b"x").await;
            }
        })
        .await;
        let scene = Scene::stretched(address);
        let mut client = scene.client().await;
        let asked = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
        client.write_all(asked.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.ends_with("\r\n\r\nxxxxxx"), "{reply}");
    });
}
