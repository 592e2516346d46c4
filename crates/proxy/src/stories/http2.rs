//! HTTP/2 and gRPC at both edges.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use isthmus_model::AppProtocol::{Http1, Http2};
use isthmus_world::DrainStage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::testing::{HOST, Scene, program, read_head, run, within};

/// A program that serves every request with `script`.
pub(super) async fn h2_program<S: Future<Output = ()> + 'static>(
    script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> S + 'static,
) -> SocketAddr {
    let script = Rc::new(script);
    program(move |socket| {
        let script = Rc::clone(&script);
        async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(script(request, respond));
            }
        }
    })
    .await
}

/// A client beside the caller's proxy that knows that it may speak HTTP/2.
pub(super) async fn h2_client(scene: &Scene) -> SendRequest<Bytes> {
    connect(scene.client().await).await
}

pub(super) async fn connect(socket: TcpStream) -> SendRequest<Bytes> {
    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    requests
}

pub(super) fn call(timeout: Option<&'static str>) -> Request<()> {
    let mut request = Request::post(format!("http://{HOST}/shop.Cart/Add"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(()).unwrap()
}

pub(super) async fn send(stream: &mut SendStream<Bytes>, data: Bytes, end: bool) {
    stream.reserve_capacity(data.len());
    while stream.capacity() < data.len() {
        poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
    }
    stream.send_data(data, end).unwrap();
}

pub(super) async fn data(stream: &mut RecvStream) -> Option<Bytes> {
    let data = stream.data().await?.unwrap();
    stream.flow_control().release_capacity(data.len()).unwrap();
    Some(data)
}

async fn whole(stream: &mut RecvStream) -> Bytes {
    let mut body = BytesMut::new();
    while let Some(data) = data(stream).await {
        body.extend_from_slice(&data);
    }
    body.freeze()
}

fn trailers(status: &'static str) -> HeaderMap {
    [(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static(status),
    )]
    .into_iter()
    .collect()
}

/// Sends back what comes, piece by piece, and status 0 at the end.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-path", request.uri().path())
        .header("x-authority", request.uri().authority().unwrap().as_str())
        .header(
            "x-te",
            request
                .headers()
                .get("te")
                .cloned()
                .unwrap_or(HeaderValue::from_static("")),
        );
    let mut body = request.into_body();
    let mut reply = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    while let Some(data) = data(&mut body).await {
        send(&mut reply, data, false).await;
    }
    reply.send_trailers(trailers("0")).unwrap();
}

#[test]
fn messages_pass_both_ways_as_they_come_and_trailers_end_them() {
    run(async {
        for scene in [Scene::local_speaking, Scene::stretched_speaking] {
            let scene = scene(Http2, h2_program(echo).await);
            let mut client = h2_client(&scene).await.ready().await.unwrap();
            let (response, mut sending) = client.send_request(call(None), false).unwrap();
            let response = within(response).await.unwrap();
            assert_eq!(response.status(), 200);
            for (name, expect) in [
                ("x-path", "/shop.Cart/Add"),
                ("x-authority", HOST),
                ("x-te", "trailers"),
                ("content-type", "application/grpc"),
            ] {
                assert_eq!(response.headers()[name], expect);
            }
            let mut body = response.into_body();
            // Each is answered before the next is said.
            for message in ["one", "two", "three"] {
                send(&mut sending, message.into(), false).await;
                assert_eq!(within(data(&mut body)).await.unwrap(), message);
            }
            send(&mut sending, Bytes::new(), true).await;
            assert_eq!(within(data(&mut body)).await, None);
            let ended = within(body.trailers()).await.unwrap().unwrap();
            assert_eq!(ended["grpc-status"], "0");
        }
    });
}

#[test]
fn a_hundred_calls_share_one_connection() {
    run(async {
        let scene = Scene::stretched_speaking(Http2, h2_program(echo).await);
        let client = h2_client(&scene).await;
        let calls: Vec<_> = (0..100_u8)
            .map(|number| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let mut client = client.ready().await.unwrap();
                    let (response, mut sending) = client.send_request(call(None), false).unwrap();
                    let sent = Bytes::from(vec![number; 20_000]);
                    send(&mut sending, sent.clone(), true).await;
                    let mut body = response.await.unwrap().into_body();
                    assert_eq!(whole(&mut body).await, sent);
                })
            })
            .collect();
        for call in calls {
            within(call).await.unwrap();
        }
        // Counted per call, each with its status.
        let counted = scene.caller.metrics.encode();
        let line = counted
            .lines()
            .find(|line| line.starts_with("isthmus_requests_total{reporter=\"source\""));
        assert!(
            line.is_some_and(|line| line.ends_with("grpc_response_status=\"0\"} 100")),
            "{line:?}"
        );
    });
}

#[test]
fn a_client_of_http_1_reaches_a_program_of_http_2() {
    run(async {
        for scene in [Scene::local_speaking, Scene::stretched_speaking] {
            let scene = scene(Http2, h2_program(echo).await);
            let reply = scene
                .ask(&format!(
                    "POST /a?b HTTP/1.1\r\nHost: {HOST}\r\nX-Mixed: Case\r\nTE: trailers\r\nConnection: \
                     close, te\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                ))
                .await;
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
            assert!(reply.contains("x-path: /a\r\n"), "{reply}");
            assert!(reply.contains("5\r\nhello\r\n"), "{reply}");
            assert!(reply.ends_with("0\r\ngrpc-status: 0\r\n\r\n"), "{reply}");
        }
    });
}

#[test]
fn a_client_of_http_2_reaches_a_program_of_http_1() {
    run(async {
        let heads = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::clone(&heads);
        let address = program(move |mut socket| {
            let kept = Rc::clone(&kept);
            async move {
                loop {
                    let head = read_head(&mut socket).await;
                    if head.is_empty() {
                        return;
                    }
                    if head.contains("chunked") {
                        let mut body = [0; 15];
                        socket.read_exact(&mut body).await.unwrap();
                        assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n");
                    }
                    kept.borrow_mut().push(head);
                    let reply = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: \
                                 x-hop\r\nx-hop: 1\r\n\r\n3\r\nyes\r\n0\r\nx-sum: 7\r\n\r\n";
                    socket.write_all(reply.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http1, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::post(format!("http://{HOST}/upload"))
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let (response, mut sending) = client
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        send(&mut sending, "hello".into(), true).await;
        let response = within(response).await.unwrap();
        assert_eq!(response.headers().get("x-hop"), None);
        let mut body = response.into_body();
        assert_eq!(within(whole(&mut body)).await, "yes");
        let ended = within(body.trailers()).await.unwrap().unwrap();
        assert_eq!(ended["x-sum"], "7");

        let mut client = client.ready().await.unwrap();
        let head = Request::head(format!("http://{HOST}/")).body(()).unwrap();
        let (response, _) = client.send_request(head, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
        let heads = heads.borrow();
        assert!(
            heads[0].starts_with("POST /upload HTTP/1.1\r\n"),
            "{heads:?}"
        );
        assert!(heads[0].contains("cookie: a=1; b=2\r\n"), "{heads:?}");
        assert!(heads[1].starts_with("HEAD / HTTP/1.1\r\n"), "{heads:?}");
        assert!(!heads[1].contains("chunked"), "{heads:?}");
    });
}

/// Frames as they come, up to the first of the type `wanted`: its flags, and its payload (RFC 9113 section 4.1).
async fn frame(socket: &mut TcpStream, wanted: u8) -> (u8, Vec<u8>) {
    loop {
        let mut header = [0; 9];
        within(socket.read_exact(&mut header)).await.unwrap();
        let [a, b, c, kind, flags, ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        within(socket.read_exact(&mut payload)).await.unwrap();
        if kind == wanted {
            return (flags, payload);
        }
    }
}

#[test]
fn the_end_of_a_short_reply_comes_with_the_last_of_its_data() {
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    run(async {
        let address = program(|mut socket| async move {
            while !read_head(&mut socket).await.is_empty() {
                let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";
                socket.write_all(reply).await.unwrap();
            }
        })
        .await;
        let mut client = Scene::stretched(address).client().await;
        // Preface, empty settings, and a head of static names: GET, http, / and the authority.
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        said.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let host = u8::try_from(HOST.len()).unwrap();
        said.extend_from_slice(&[0, 0, 5 + host, 1, 5, 0, 0, 0, 1]);
        said.extend_from_slice(&[0x82, 0x86, 0x84, 0x41, host]);
        said.extend_from_slice(HOST.as_bytes());
        client.write_all(&said).await.unwrap();
        let (flags, data) = frame(&mut client, DATA).await;
        assert_eq!((flags, &data[..]), (END_STREAM, &b"yes"[..]));
    });
}

#[test]
fn trailers_follow_a_short_reply_that_says_its_length() {
    run(async {
        let address = h2_program(|_, mut respond| async move {
            let head = Response::builder().header("content-length", "3");
            let mut reply = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            reply.send_data("yes".into(), false).unwrap();
            reply.send_trailers(trailers("0")).unwrap();
        })
        .await;
        let scene = Scene::local_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        assert_eq!(within(whole(&mut body)).await, "yes");
        let ended = within(body.trailers()).await.unwrap().unwrap();
        assert_eq!(ended["grpc-status"], "0");
    });
}

#[test]
fn who_does_not_read_holds_up_who_sends() {
    const PIECE: usize = 64 * 1024;
    // Windows and queues of both edges, both proxies, the gateway and the sockets.
    const MOST: usize = 16 * 1024 * 1024;
    run(async {
        let (go_on, wait) = oneshot::channel::<()>();
        let wait = Rc::new(RefCell::new(Some(wait)));
        let address = h2_program(move |request, mut respond| {
            let wait = wait.borrow_mut().take().unwrap();
            async move {
                wait.await.unwrap();
                let mut read = 0;
                let mut body = request.into_body();
                while let Some(data) = data(&mut body).await {
                    read += data.len();
                }
                let reply = Response::builder().header("x-read", read);
                respond
                    .send_response(reply.body(()).unwrap(), true)
                    .unwrap();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        let mut sent = 0;
        let stalled = async {
            loop {
                send(&mut sending, vec![7; PIECE].into(), false).await;
                sent += PIECE;
                assert!(sent <= MOST, "nothing holds up the sender");
            }
        };
        // Whoever could go on would do so at once: the machine has nothing else to do.
        let quiet = tokio::time::timeout(std::time::Duration::from_secs(1), stalled).await;
        assert!(quiet.is_err());
        assert!(sent > 0);
        go_on.send(()).unwrap();
        send(&mut sending, Bytes::new(), true).await;
        let response = within(response).await.unwrap();
        let read: usize = response.headers()["x-read"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(read >= sent && read <= sent + PIECE, "{read} of {sent}");
    });
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_at_the_program() {
    run(async {
        let (told, cancelled) = oneshot::channel();
        let (arrived, began) = oneshot::channel();
        let told = Rc::new(RefCell::new(Some((arrived, told))));
        let address = h2_program(move |request, mut respond| {
            let (arrived, told) = told.borrow_mut().take().unwrap();
            async move {
                let _body = request.into_body();
                arrived.send(()).unwrap();
                let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
                told.send(reason.unwrap()).unwrap();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        send(&mut sending, "hello".into(), false).await;
        within(began).await.unwrap();
        sending.send_reset(Reason::CANCEL);
        drop((response, sending));
        assert_eq!(within(cancelled).await.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn deadlines_reach_the_program_and_hold() {
    run(async {
        let (told, heard) = oneshot::channel();
        let told = Rc::new(RefCell::new(Some(told)));
        let address = h2_program(move |request, respond| {
            let told = told.borrow_mut().take().unwrap();
            async move {
                told.send(request.headers()["grpc-timeout"].clone())
                    .unwrap();
                // Never answers.
                let _kept = (request, respond);
                std::future::pending::<()>().await;
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, _) = client.send_request(call(Some("300m")), true).unwrap();
        let response = within(response).await.unwrap();
        let heard = heard.await.unwrap();
        let micros: u32 = heard
            .to_str()
            .unwrap()
            .strip_suffix('u')
            .unwrap()
            .parse()
            .unwrap();
        assert!(micros <= 300_000, "{heard:?}");
        assert_eq!(response.status(), 200);
        assert!(
            response.body().is_end_stream(),
            "a call without an answer is a head only"
        );
        assert_eq!(response.headers()["grpc-status"], "4");
        assert_eq!(response.headers()["x-isthmus-refusal"], "request-timeout");
    });
}

#[test]
fn refusals_of_calls_are_statuses() {
    run(async {
        let address = h2_program(|_, mut respond| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, _) = client.send_request(call(None), true).unwrap();
        let response = within(response).await.unwrap();
        // No program has seen it: to be tried again without fear.
        assert_eq!(response.headers()["grpc-status"], "14");

        let mut client = client.ready().await.unwrap();
        let absent = Request::post("http://absent.shop.mesh/")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(absent, true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["x-isthmus-refusal"], "no-such-service");
    });
}

#[test]
fn a_tunnel_to_a_port_of_http_is_served_request_by_request() {
    run(async {
        let scene = Scene::stretched_speaking(Http2, h2_program(echo).await);
        let mut socket = scene.client().await;
        let connect_to = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
        socket.write_all(connect_to.as_bytes()).await.unwrap();
        assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200 "));
        let mut client = connect(socket).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        send(&mut sending, "hello".into(), true).await;
        let mut body = within(response).await.unwrap().into_body();
        assert_eq!(within(whole(&mut body)).await, "hello");
        let counted = scene.caller.metrics.encode();
        assert!(
            counted.contains("isthmus_requests_total{reporter=\"source\""),
            "{counted}"
        );
    });
}

#[test]
fn a_host_that_contradicts_the_authority_is_malformed() {
    run(async {
        let scene = Scene::local_speaking(Http2, h2_program(echo).await);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).header("host", "other.shop.mesh");
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        assert_eq!(within(response).await.unwrap().status(), 400);
    });
}

#[test]
fn a_drain_tells_clients_and_finishes_what_runs() {
    run(async {
        let scene = Scene::local_speaking(Http2, h2_program(echo).await);
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (response, mut sending) = client.send_request(call(None), false).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        scene.caller.drain.advance(DrainStage::Closing);
        // Told by GOAWAY: no more requests on this connection.
        let refused = within(async {
            loop {
                let Ok(mut ready) = client.clone().ready().await else {
                    return;
                };
                let Ok((response, _)) = ready.send_request(call(None), true) else {
                    return;
                };
                if response.await.is_err() {
                    return;
                }
            }
        });
        refused.await;
        send(&mut sending, "last".into(), true).await;
        assert_eq!(within(whole(&mut body)).await, "last");
        assert_eq!(
            within(body.trailers()).await.unwrap().unwrap()["grpc-status"],
            "0"
        );
    });
}
