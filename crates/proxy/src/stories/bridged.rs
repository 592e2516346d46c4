//! What one version of HTTP allows and another does not, where a request passes from one to the other.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderMap, Request, Response};
use isthmus_model::AppProtocol::Http2;

use super::http2::{data, h2_client, h2_program};
use crate::testing::{HOST, Scene, run, within};

/// Head and trailers of a request as a program of HTTP/2 has got them.
type Seen = Rc<RefCell<Vec<(HeaderMap, Option<HeaderMap>)>>>;

async fn scene() -> (Scene, Seen) {
    let seen = Seen::default();
    let kept = Rc::clone(&seen);
    let address = h2_program(move |request, mut respond| {
        let kept = Rc::clone(&kept);
        async move {
            let (parts, mut body) = request.into_parts();
            while data(&mut body).await.is_some() {}
            let trailers = body.trailers().await.unwrap();
            kept.borrow_mut().push((parts.headers, trailers));
            respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    (Scene::local_speaking(Http2, address), seen)
}

/// RFC 9112 section 6.3 forgives equal lengths in HTTP/1.1; servers of HTTP/2 do not.
#[test]
fn a_length_that_was_said_twice_is_said_once() {
    run(async {
        let (scene, seen) = scene().await;
        let reply = scene
            .ask(&format!(
                "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\nContent-Length: 3\r\n\
                 connection: close\r\n\r\nabc"
            ))
            .await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        let seen = seen.borrow();
        let lengths: Vec<_> = seen[0].0.get_all("content-length").iter().collect();
        assert_eq!(lengths, ["3"]);
    });
}

/// RFC 9110 section 6.5.1: what says where a message ends is no trailer.
#[test]
fn framing_among_trailers_is_dropped() {
    run(async {
        let (scene, seen) = scene().await;
        for trailers in [
            "content-length: 50\r\nx-sum: 1\r\n",
            "content-length: 50\r\n",
        ] {
            let reply = scene
                .ask(&format!(
                    "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\
                     transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n"
                ))
                .await;
            assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        }
        let seen = seen.borrow();
        let trailers = seen[0].1.as_ref().unwrap();
        assert_eq!(trailers["x-sum"], "1");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        // A section without a field is one that some servers do not read.
        assert_eq!(seen[1].1, None);
    });
}

/// RFC 9113 section 8.3.1, as RFC 9112 section 3.2 for Host.
#[test]
fn an_authority_is_a_host_and_a_port() {
    run(async {
        let (scene, seen) = scene().await;
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::get(format!("http://me@{HOST}/")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-isthmus-refusal"], "malformed-request");
        assert!(seen.borrow().is_empty());
    });
}
