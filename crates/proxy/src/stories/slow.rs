//! Clients that begin and do not go on.

use tokio::io::AsyncWriteExt;

use crate::testing::{HOST, Scene, answering, program, read_head, run};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// What a client hears that says no more than `said`.
async fn heard_after(scene: &Scene, said: &str) -> String {
    let mut client = scene.client().await;
    client.write_all(said.as_bytes()).await.unwrap();
    read_head(&mut client).await
}

#[test]
fn a_head_or_a_body_that_does_not_end_is_given_up() {
    run(async {
        let waiting = program(|mut socket| async move {
            read_head(&mut socket).await;
            std::future::pending::<()>().await;
        });
        let scene = Scene::local(waiting.await);
        let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\n\r\nhalf");
        for said in ["GET / HTTP/1.1\r\nhost: cart", &post] {
            let head = heard_after(&scene, said).await;
            assert!(head.starts_with("HTTP/1.1 408 "), "{said:?}: {head}");
            assert!(
                head.contains("x-isthmus-refusal: client-too-slow\r\n"),
                "{head}"
            );
        }
    });
}

#[test]
fn a_client_that_says_nothing_hears_nothing() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        assert_eq!(heard_after(&scene, "").await, "");
        // Between two requests as well.
        let mut client = scene.client().await;
        client
            .write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(read_head(&mut client).await, "hello");
    });
}

#[test]
fn a_client_that_takes_nothing_is_let_go() {
    const PIECE: usize = 64 * 1024;
    run(async {
        let (told, ended) = tokio::sync::oneshot::channel();
        let told = std::rc::Rc::new(std::cell::Cell::new(Some(told)));
        let address = program(move |mut socket| {
            let told = told.take();
            async move {
                read_head(&mut socket).await;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                socket.write_all(head.as_bytes()).await.unwrap();
                let chunk = [b"10000\r\n", vec![7; PIECE].as_slice(), b"\r\n"].concat();
                let mut sent = 0_usize;
                while socket.write_all(&chunk).await.is_ok() {
                    sent += PIECE;
                }
                if let Some(told) = told {
                    told.send(sent).unwrap();
                }
            }
        })
        .await;
        let scene = Scene::local(address);
        let mut client = scene.client().await;
        client
            .write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let sent = ended.await.unwrap();
        // What fits into windows, queues and sockets, and no more.
        assert!((PIECE..64 * 1024 * 1024).contains(&sent), "{sent}");
    });
}
