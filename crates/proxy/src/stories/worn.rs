//! Connections of HTTP/2 that are left for others, and what becomes of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Response};
use isthmus_model::AppProtocol::Http2;

use super::http2::{call, data, h2_client, h2_program};
use crate::testing::{Scene, program, run, within};

/// More than twice as many as one connection may bring.
const CALLS: usize = 250;

fn ok() -> HeaderMap {
    HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static("0"),
    )])
}

/// Some say that there is no more data before they say how a call has ended.
#[test]
fn frames_with_nothing_in_them_cost_a_program_no_call() {
    run(async {
        let address = h2_program(|_, mut respond| async move {
            let mut reply = respond.send_response(Response::new(()), false).unwrap();
            reply.send_data(Bytes::new(), false).unwrap();
            reply.send_trailers(ok()).unwrap();
        })
        .await;
        let scene = Scene::local_speaking(Http2, address);
        let mut client = h2_client(&scene).await;
        for number in 0..CALLS {
            client = client.ready().await.unwrap();
            let (response, _) = client.send_request(call(None), true).unwrap();
            let mut body = within(response).await.unwrap().into_body();
            assert_eq!(within(data(&mut body)).await, None);
            let status = within(body.trailers()).await.unwrap().unwrap();
            assert_eq!(status["grpc-status"], "0", "call {number}");
        }
    });
}

#[test]
fn frames_with_nothing_in_them_cost_a_client_no_call() {
    run(async {
        let address = h2_program(|request, mut respond| async move {
            let mut body = request.into_body();
            while data(&mut body).await.is_some() {}
            let mut reply = respond.send_response(Response::new(()), false).unwrap();
            reply.send_trailers(ok()).unwrap();
        })
        .await;
        let scene = Scene::local_speaking(Http2, address);
        let (mut client, mut connections) = (h2_client(&scene).await, 1);
        for number in 0..CALLS {
            client = match client.ready().await {
                Ok(client) => client,
                Err(_) => {
                    connections += 1;
                    h2_client(&scene).await.ready().await.unwrap()
                }
            };
            let status = within(empty_call(&mut client)).await;
            assert_eq!(status["grpc-status"], "0", "call {number}");
        }
        assert!(connections > 1, "it is told to open another one");
    });
}

async fn empty_call(client: &mut SendRequest<Bytes>) -> HeaderMap {
    let (response, mut sending) = client.send_request(call(None), false).unwrap();
    sending.send_data(Bytes::new(), false).unwrap();
    sending.send_trailers(HeaderMap::new()).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(data(&mut body).await, None);
    body.trailers().await.unwrap().unwrap()
}

#[test]
fn connections_that_a_crowd_needed_are_closed_after_it() {
    const CROWD: usize = 8;
    run(async {
        let (open, asked) = (Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0)));
        let (now_open, has_asked) = (Rc::clone(&open), Rc::clone(&asked));
        let address = program(move |socket| {
            let (open, asked) = (Rc::clone(&now_open), Rc::clone(&has_asked));
            async move {
                open.set(open.get() + 1);
                let mut server = h2::server::Builder::new();
                let server = server
                    .max_concurrent_streams(1)
                    .handshake::<_, Bytes>(socket);
                let mut connection = server.await.unwrap();
                let mut running = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    running.push(respond.send_response(Response::new(()), false).unwrap());
                    asked.set(asked.get() + 1);
                }
                open.set(open.get() - 1);
            }
        })
        .await;
        let scene = Scene::local_speaking(Http2, address);
        let client = h2_client(&scene).await;
        let mut calls = Vec::new();
        for count in 1..=CROWD {
            let mut client = client.clone().ready().await.unwrap();
            calls.push(client.send_request(call(None), true).unwrap().0);
            within(until(|| asked.get() == count)).await;
        }
        assert_eq!(open.get(), CROWD);
        drop(calls);
        let program = &scene.callee.worker.program;
        within(until(|| {
            program.tidy(Instant::now());
            open.get() == 1
        }))
        .await;
    });
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}
