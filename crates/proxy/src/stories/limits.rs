//! What is too long or too much in one request, whichever version of HTTP it comes in.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request};
use isthmus_world::RealChance;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::http2::h2_client;
use crate::config::Config;
use crate::outbound;
use crate::testing::{HOST, Scene, answering, door, read_head, run, within};
use crate::worker::Worker;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// A request with so many bytes of path and so many fields of its own, and what becomes of it.
const CASES: [(usize, usize, u16, Option<&str>); 5] = [
    (8000, 0, 200, None),
    (9000, 0, 414, Some("uri-too-long")),
    (80_000, 0, 414, Some("uri-too-long")),
    (1, 120, 200, None),
    (1, 129, 431, Some("head-too-large")),
];

#[test]
fn clients_of_http_1_are_held_to_them() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        for (path, fields, status, refusal) in CASES {
            let path = "x".repeat(path);
            let fields = "a: b\r\n".repeat(fields);
            let request = format!(
                "GET /{path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{fields}\r\n"
            );
            let reply = scene.ask(&request).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
            let refused = refusal.map(|refusal| format!("x-isthmus-refusal: {refusal}\r\n"));
            assert!(refused.is_none_or(|line| reply.contains(&line)), "{reply}");
        }
        expect_counted(
            &scene,
            &[("request-line-too-long", 2), ("too-many-fields", 1)],
        );
    });
}

/// What HTTP/1.1 still allows, and a stream between proxies does not, whichever workload it leads to.
#[test]
fn a_head_that_the_mesh_cannot_carry_is_refused_once() {
    run(async {
        let scene = Scene::stretched(answering(HELLO).await);
        let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\na: ");
        let fill = "x".repeat(65_535 - head.len() - 4);
        let mut client = scene.client().await;
        let asked = format!("{head}{fill}\r\n\r\n");
        client.write_all(asked.as_bytes()).await.unwrap();
        let reply = within(read_head(&mut client)).await;
        assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    });
}

#[test]
fn clients_of_http_2_are_held_to_them() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let client = h2_client(&scene).await;
        // A head beyond what HTTP/2 announces is refused by `h2` itself.
        for (path, fields, status, refusal) in CASES.into_iter().filter(|case| case.0 < 10_000) {
            let mut request = Request::get(format!("http://{HOST}/{}", "x".repeat(path)));
            let own = request.headers_mut().unwrap();
            for _ in 0..fields {
                own.append("a", HeaderValue::from_static("b"));
            }
            let mut client = client.clone().ready().await.unwrap();
            let request = request.body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            let response = within(response).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(refusal_of(response.headers()), refusal);
        }
        expect_counted(
            &scene,
            &[("request-line-too-long", 1), ("too-many-fields", 1)],
        );
    });
}

fn refusal_of(fields: &HeaderMap) -> Option<&str> {
    fields.get("x-isthmus-refusal")?.to_str().ok()
}

/// One cookie may come in as many crumbs as it has pairs (RFC 9113 section 8.2.3).
#[test]
fn crumbs_of_a_cookie_are_one_field() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let mut request = Request::get(format!("http://{HOST}/"));
        for number in 0..200 {
            request = request.header("cookie", format!("c{number}=1"));
        }
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
    });
}

#[test]
fn what_is_wrong_inside_a_body_is_counted_too() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        for body in ["x\r\n", "3\r\nabcd\r\n"] {
            let reply = scene
                .ask(&format!(
                    "POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n{body}"
                ))
                .await;
            assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        }
        let target =
            format!("GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let reply = scene.ask(&target).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        expect_counted(
            &scene,
            &[("chunk-size", 1), ("chunk-end", 1), ("scheme", 1)],
        );
    });
}

fn expect_counted(scene: &Scene, expect: &[(&str, usize)]) {
    let counted = scene.caller.metrics.encode();
    for (reason, count) in expect {
        let line = format!("isthmus_malformed_requests_total{{reason=\"{reason}\"}} {count}\n");
        assert!(counted.contains(&line), "{line}: {counted}");
    }
}

/// A caller's proxy whose configuration says less.
async fn strict(scene: &Scene) -> SocketAddr {
    let mut common = scene.caller.worker.common.clone();
    let mut config = Config::clone(&common.config);
    config.limits.head.fields = 4;
    config.limits.head.request_line = 100;
    config.limits.streams = 3;
    common.config = Arc::new(config);
    let worker = Worker::new(common, RealChance::new().unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(outbound::listen_http(
        outbound::Clients::of(worker),
        door(listener),
    ));
    address
}

#[test]
fn limits_are_what_the_configuration_says() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let address = strict(&scene).await;
        let path = format!("/{}", "a".repeat(100));
        for (path, fields, expect) in [("/", 2, 200), ("/", 3, 431), (path.as_str(), 0, 414)] {
            // Host and Connection are fields as well, and :authority counts as Host.
            let mut said = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
            let mut request = Request::get(format!("http://{HOST}{path}")).header("x-0", "1");
            for number in 1..=fields {
                write!(said, "x-{number}: 1\r\n").unwrap();
                request = request.header(format!("x-{number}"), "1");
            }
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket
                .write_all(format!("{said}\r\n").as_bytes())
                .await
                .unwrap();
            let head = within(read_head(&mut socket)).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {expect} ")), "{head}");

            let socket = TcpStream::connect(address).await.unwrap();
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::task::spawn_local(async move { drop(connection.await) });
            let mut client = client.ready().await.unwrap();
            // One more than with HTTP/1.1 may be there: Host is none here.
            let request = request.header("x-last", "1").body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(
                within(response).await.unwrap().status(),
                expect,
                "{path} {fields}"
            );
            assert_eq!(client.current_max_send_streams(), 3);
        }
    });
}
