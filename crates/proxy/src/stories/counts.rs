//! What `make counts` counts of whole requests: both proxies of a pair, and the gateway where there is
//! one, with a client and a program that do as little as possible. Each test does one thing a hundred
//! times, and is an ordinary test besides.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use isthmus_model::AppProtocol::Http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http2::{connect, h2_program};
use crate::testing::counts::{Thread, count};
use crate::testing::{HOST, Scene, program};

const ASKED: &[u8] = b"GET /cart/7 HTTP/1.1\r\n\
    host: cart.shop.mesh\r\n\
    user-agent: curl/8.14.1\r\n\
    accept: */*\r\n\
    x-request-id: 0f4a1c3e-9b1d-4c53-8a57-2f7d6be01c11\r\n\r\n";

/// Ends every body, and stands nowhere else.
const LAST: u8 = b'!';

/// A program that answers with `length` bytes.
async fn replying(length: usize) -> SocketAddr {
    let mut reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: cart\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    reply.resize(reply.len() + length - 1, b'x');
    reply.push(LAST);
    let reply = Bytes::from(reply);
    program(move |mut socket| {
        let reply = reply.clone();
        async move {
            let mut input = [0; 4096];
            while let Ok(1..) = socket.read(&mut input).await {
                socket.write_all(&reply).await.unwrap();
            }
        }
    })
    .await
}

/// A client of HTTP/1.1.
struct Client {
    socket: TcpStream,
    input: Vec<u8>,
}

impl Client {
    async fn of(scene: &Scene) -> Self {
        Self {
            socket: scene.client().await,
            input: vec![0; 16 * 1024],
        }
    }

    async fn ask(&mut self) {
        self.socket.write_all(ASKED).await.unwrap();
    }

    /// How many bytes came back.
    async fn hear(&mut self) -> usize {
        let mut length = 0;
        loop {
            let count = self.socket.read(&mut self.input).await.unwrap();
            length += count;
            if count == 0 || self.input[count - 1] == LAST {
                return length;
            }
        }
    }
}

/// Requests of one client, one after the other.
fn count_http1(scene: impl FnOnce(SocketAddr) -> Scene, length: usize) {
    let thread = Thread::new();
    let scene = thread.scene(async { scene(replying(length).await) });
    let mut client = thread.run(Client::of(&scene));
    let came = count(|| {
        thread.run(async {
            client.ask().await;
            client.hear().await
        })
    });
    assert!(came > length, "{came}");
}

#[test]
fn a_request_through_a_pair() {
    count_http1(Scene::local, 1024);
}

#[test]
fn a_request_through_a_gateway() {
    count_http1(Scene::stretched, 1024);
}

/// Links to so many stand, of which any may be chosen.
#[test]
fn a_request_to_one_of_five_hundred() {
    const PEERS: usize = 500;
    let thread = Thread::new();
    let scene = thread.scene(async {
        let mut scene = Scene::local(replying(1024).await);
        scene.multiply(PEERS);
        scene
    });
    let mut client = thread.run(Client::of(&scene));
    let mut ask = || {
        thread.run(async {
            client.ask().await;
            client.hear().await
        })
    };
    while scene.caller.worker.sessions.leaving().0 < PEERS {
        ask();
    }
    let came = count(ask);
    assert!(came > 1024, "{came}");
}

#[test]
fn a_reply_of_64_kib_through_a_pair() {
    count_http1(Scene::local, 64 * 1024);
}

#[test]
fn a_reply_of_64_kib_through_a_gateway() {
    count_http1(Scene::stretched, 64 * 1024);
}

#[test]
fn sixteen_requests_at_once_through_a_pair() {
    let thread = Thread::new();
    let scene = thread.scene(async { Scene::local(replying(1024).await) });
    let mut clients: Vec<_> = (0..16).map(|_| thread.run(Client::of(&scene))).collect();
    let came = count(|| {
        thread.run(async {
            let mut came = 0;
            for client in &mut clients {
                client.ask().await;
            }
            for client in &mut clients {
                came += client.hear().await;
            }
            came
        })
    });
    assert!(came > 16 * 1024, "{came}");
}

#[test]
fn a_new_client_with_a_request_through_a_pair() {
    let thread = Thread::new();
    let scene = thread.scene(async { Scene::local(replying(1024).await) });
    let came = count(|| {
        thread.run(async {
            let mut client = Client::of(&scene).await;
            client.ask().await;
            client.hear().await
        })
    });
    assert!(came > 1024, "{came}");
}

/// Requests of one client of HTTP/2, one after the other.
fn count_http2(scene: impl Future<Output = Scene>, request: fn() -> Request<()>) {
    let thread = Thread::new();
    let scene = thread.scene(scene);
    let mut client = thread.run(async { connect(scene.client().await).await });
    let came = count(|| thread.run(call(&mut client, request())));
    assert_eq!(came, 1024);
}

/// With a body if it is a POST: how much came back.
async fn call(client: &mut SendRequest<Bytes>, request: Request<()>) -> usize {
    let has_body = request.method() == "POST";
    let sent = client.send_request(request, !has_body);
    let (response, mut sending) = sent.unwrap();
    if has_body {
        sending
            .send_data(Bytes::from_static(&[b'x'; 64]), true)
            .unwrap();
    }
    let mut body = response.await.unwrap().into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        length += data.len();
    }
    body.trailers().await.unwrap();
    length
}

#[test]
fn a_request_of_http_2_through_a_pair() {
    let scene = async { Scene::local(replying(1024).await) };
    count_http2(scene, || {
        let request = Request::get(format!("http://{HOST}/cart/7"));
        request.body(()).unwrap()
    });
}

/// A program that answers every call with a message of 1 KiB.
async fn answering() -> SocketAddr {
    h2_program(|request, mut respond| async move {
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        let head = Response::builder().header("content-type", "application/grpc");
        let reply = respond.send_response(head.body(()).unwrap(), false);
        let mut reply = reply.unwrap();
        reply
            .send_data(Bytes::from_static(&[b'x'; 1024]), false)
            .unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        reply.send_trailers(trailers).unwrap();
    })
    .await
}

fn unary() -> Request<()> {
    Request::post(format!("http://{HOST}/shop.Cart/Add"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

#[test]
fn a_grpc_call_through_a_pair() {
    count_http2(
        async { Scene::local_speaking(Http2, answering().await) },
        unary,
    );
}

#[test]
fn a_grpc_call_through_a_gateway() {
    count_http2(
        async { Scene::stretched_speaking(Http2, answering().await) },
        unary,
    );
}
