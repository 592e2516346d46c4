//! Clients that go away, and clients that read only when they have said everything.

use std::cell::Cell;
use std::rc::Rc;

use isthmus_model::AppProtocol::{Http1, Http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::http2::{call, h2_client, h2_program, send};
use crate::testing::{HOST, Scene, program, read_head, run, within};

#[test]
fn a_client_of_http_1_that_goes_away_takes_its_request_along() {
    for begun in [false, true] {
        run(async move {
            let (told, ended) = oneshot::channel();
            let told = Rc::new(Cell::new(Some(told)));
            let address = program(move |mut socket| {
                let told = told.take();
                async move {
                    read_head(&mut socket).await;
                    if begun {
                        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nsome";
                        socket.write_all(head.as_bytes()).await.unwrap();
                    }
                    // The end of the connection tells the program.
                    let mut rest = Vec::new();
                    let _ = socket.read_to_end(&mut rest).await;
                    if let Some(told) = told {
                        told.send(rest).unwrap();
                    }
                }
            })
            .await;
            let scene = Scene::stretched_speaking(Http1, address);
            let mut client = scene.client().await;
            let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
            client.write_all(get.as_bytes()).await.unwrap();
            if begun {
                let mut some = [0; 4];
                read_head(&mut client).await;
                client.read_exact(&mut some).await.unwrap();
            } else {
                // It has arrived when it is counted as in service.
                while scene.callee.worker.gates.in_service() == 0 {
                    tokio::task::yield_now().await;
                }
            }
            drop(client);
            assert_eq!(within(ended).await.unwrap(), b"");
            let counted = scene.caller.metrics.encode();
            assert!(!counted.contains("request-timeout"), "{counted}");
            assert!(!counted.contains("upstream-reset"), "{counted}");
        });
    }
}

#[test]
fn a_call_that_was_sent_whole_can_still_be_cancelled() {
    run(async {
        let (arrived, began) = oneshot::channel();
        let (told, cancelled) = oneshot::channel();
        let kept = Rc::new(Cell::new(Some((arrived, told))));
        let address = h2_program(move |request, mut respond| {
            let kept = kept.take();
            async move {
                let Some((arrived, told)) = kept else { return };
                let _body = request.into_body();
                arrived.send(()).unwrap();
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                told.send(reason.unwrap()).unwrap();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        send(&mut sending, "hello".into(), true).await;
        within(began).await.unwrap();
        sending.send_reset(h2::Reason::CANCEL);
        drop((response, sending));
        assert_eq!(within(cancelled).await.unwrap(), h2::Reason::CANCEL);
    });
}

#[test]
fn a_deadline_after_the_head_ends_the_call_with_its_status() {
    run(async {
        let address = h2_program(|request, mut respond| async move {
            let head = http::Response::builder().header("content-type", "application/grpc");
            let _reply = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            let _request = request;
            std::future::pending::<()>().await;
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, _) = client.send_request(call(Some("300m")), true).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        assert!(within(body.data()).await.is_none());
        let ended = within(body.trailers()).await.unwrap().unwrap();
        assert_eq!(ended["grpc-status"], "4");
        assert_eq!(ended["x-isthmus-refusal"], "request-timeout");
    });
}

#[test]
fn neither_direction_waits_for_the_other() {
    const LENGTH: usize = 16 * 1024 * 1024;
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            let (mut read, mut write) = socket.split();
            let reply = async {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
                write.write_all(head.as_bytes()).await.unwrap();
                write.write_all(&vec![1; LENGTH]).await.unwrap();
            };
            let request = async {
                let mut body = vec![0; LENGTH];
                read.read_exact(&mut body).await.unwrap();
            };
            tokio::join!(reply, request);
            std::future::pending::<()>().await;
        })
        .await;
        let scene = Scene::stretched_speaking(Http1, address);
        let mut client = scene.client().await;
        let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LENGTH}\r\n\r\n");
        within(client.write_all(post.as_bytes())).await.unwrap();
        within(client.write_all(&vec![2; LENGTH])).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = vec![0; LENGTH];
        within(client.read_exact(&mut body)).await.unwrap();
    });
}

#[test]
fn a_client_of_http_1_0_is_told_that_its_connection_stays() {
    run(async {
        let address = program(|mut socket| async move {
            while !read_head(&mut socket).await.is_empty() {
                let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                socket.write_all(reply.as_bytes()).await.unwrap();
            }
        })
        .await;
        let scene = Scene::local(address);
        let mut client = scene.client().await;
        for _ in 0..2 {
            let get = format!("GET / HTTP/1.0\r\nhost: {HOST}\r\nconnection: keep-alive\r\n\r\n");
            client.write_all(get.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.contains("connection: keep-alive\r\n"), "{head}");
            let mut body = [0; 2];
            within(client.read_exact(&mut body)).await.unwrap();
        }
    });
}
