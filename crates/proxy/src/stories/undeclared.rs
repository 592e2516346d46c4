//! Ports of which nobody has declared what is spoken on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use http::{Request, Response};
use isthmus_model::AppProtocol::{Http1, Tcp, Undeclared};
use isthmus_model::ServiceName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http2::h2_program;
use super::{HELLO, get};
use crate::config::Listener;
use crate::outbound;
use crate::testing::{HOST, Scene, answering, door, program, read_head, run, within};

const DETECTED: &str = "isthmus_protocol_detected_total{";

/// By a listener that leads to the service.
async fn by_listener(scene: &Scene) -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Listener {
        address,
        service: ServiceName::new("shop", "cart").unwrap(),
        port: 80,
    };
    let worker = Rc::clone(&scene.caller.worker);
    tokio::task::spawn_local(outbound::listen_tcp(
        outbound::Clients::of(worker),
        door(listener),
        target,
    ));
    TcpStream::connect(address).await.unwrap()
}

async fn by_connect(scene: &Scene) -> TcpStream {
    let mut socket = scene.client().await;
    let connect = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
    socket.write_all(connect.as_bytes()).await.unwrap();
    let head = within(read_head(&mut socket)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    socket
}

fn detected(scene: &Scene, protocol: &str, by: &str) -> bool {
    let counted = scene.caller.metrics.encode();
    let line = format!("{DETECTED}protocol=\"{protocol}\",by=\"{by}\"}} 1");
    counted.contains(&line)
}

async fn echoing() -> SocketAddr {
    program(|mut socket| async move {
        let (mut read, mut write) = socket.split();
        // Whoever is cut off needs no answer.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

async fn hears(socket: &mut TcpStream, expect: &[u8]) {
    let mut said = vec![0; expect.len()];
    within(socket.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, expect);
}

/// As with MySQL or SMTP: a client that waits for the server must not be waited for.
#[test]
fn where_the_server_speaks_first_nobody_waits_for_the_client() {
    run(async {
        let address = program(|mut socket| async move {
            socket.write_all(b"220 ready\r\n").await.unwrap();
            let mut said = [0; 6];
            socket.read_exact(&mut said).await.unwrap();
            socket.write_all(&said).await.unwrap();
        })
        .await;
        for scene in [Scene::local_speaking, Scene::stretched_speaking] {
            let scene = scene(Undeclared, address);
            let mut client = by_listener(&scene).await;
            hears(&mut client, b"220 ready\r\n").await;
            client.write_all(b"HELO\r\n").await.unwrap();
            hears(&mut client, b"HELO\r\n").await;
            assert!(detected(&scene, "tcp", "timeout"));
            let mut client = by_connect(&scene).await;
            hears(&mut client, b"220 ready\r\n").await;
        }
    });
}

#[test]
fn requests_are_seen_as_requests() {
    run(async {
        let scene = Scene::stretched_speaking(Undeclared, answering(HELLO).await);
        let mut client = by_listener(&scene).await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.ends_with("hello"), "{reply}");
        assert!(detected(&scene, "http/1.1", "bytes"));
        let counted = scene.caller.metrics.encode();
        assert!(counted.contains("response_code=\"200\""), "{counted}");

        let mut client = by_connect(&scene).await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.ends_with("hello"), "{reply}");
    });
}

/// Its program may speak it, and nobody has said so: what passes unread is right in any case.
#[test]
fn http_2_passes_unread() {
    run(async {
        let address = h2_program(|_, mut respond| async move {
            let head = Response::builder().status(204);
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        })
        .await;
        let scene = Scene::stretched_speaking(Undeclared, address);
        let socket = by_listener(&scene).await;
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::task::spawn_local(async move { drop(connection.await) });
        let request = Request::get(format!("http://{HOST}/")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 204);
        assert!(detected(&scene, "http/2", "bytes"));
        let counted = scene.caller.metrics.encode();
        assert!(!counted.contains("response_code=\"204\""), "{counted}");
    });
}

#[test]
fn what_is_no_request_passes_unread_and_whole() {
    run(async {
        let scene = Scene::local_speaking(Undeclared, echoing().await);
        let mut client = by_listener(&scene).await;
        client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        hears(&mut client, b"*1\r\n$4\r\nPING\r\n").await;
        assert!(detected(&scene, "tcp", "bytes"));

        // A client that stops in the middle of what might have been a request.
        let mut client = by_listener(&scene).await;
        client.write_all(b"GET / HT").await.unwrap();
        hears(&mut client, b"GET / HT").await;
        client.write_all(b"TP/1.1\r\n").await.unwrap();
        hears(&mut client, b"TP/1.1\r\n").await;
        assert!(detected(&scene, "tcp", "timeout"));
    });
}

#[test]
fn what_is_declared_is_never_guessed() {
    run(async {
        let scene = Scene::local_speaking(Tcp, echoing().await);
        let mut client = by_listener(&scene).await;
        let request = get("/");
        client.write_all(request.as_bytes()).await.unwrap();
        hears(&mut client, request.as_bytes()).await;
        assert!(!scene.caller.metrics.encode().contains(DETECTED));

        let scene = Scene::local_speaking(Http1, answering(HELLO).await);
        let mut client = by_listener(&scene).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!scene.caller.metrics.encode().contains(DETECTED));
    });
}
