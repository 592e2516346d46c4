//! What is too long or too much in one request, whichever version of HTTP it comes in.

use http::{HeaderMap, HeaderValue, Request};

use super::http2::h2_client;
use crate::testing::{HOST, Scene, answering, run, within};

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
