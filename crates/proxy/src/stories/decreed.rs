//! What a policy sets is what callers meet.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Response};
use isthmus_model::AppProtocol::{Http2, Tcp};
use isthmus_model::{Health, Percent, RetryOn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::http2::{call, h2_client, h2_program};
use super::{HELLO, get};
use crate::testing::{HOST, Scene, answering, program, read_head, run, within};

fn is_overloaded(reply: &str) -> bool {
    reply.starts_with("HTTP/1.1 503 ")
        && reply.contains("x-isthmus-refusal: overloaded")
        && reply.contains("retry-after: 1")
}

#[test]
fn no_more_requests_than_a_policy_allows_are_under_way() {
    run(async {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let go = Rc::new(Notify::new());
        let answer = Rc::clone(&go);
        let address = program(move |mut socket| {
            let (seen, answer) = (seen.clone(), Rc::clone(&answer));
            async move {
                while !read_head(&mut socket).await.is_empty() {
                    seen.send(()).unwrap();
                    answer.notified().await;
                    socket.write_all(HELLO.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut scene = Scene::local(address);
        scene.decree(|policy| policy.max_requests = Some(2), |_| ());
        let request = get("/");
        let two = async { tokio::join!(scene.ask(&request), scene.ask(&request)) };
        let third = async {
            within(requests.recv()).await.unwrap();
            within(requests.recv()).await.unwrap();
            let refused = scene.ask(&request).await;
            go.notify_one();
            go.notify_one();
            refused
        };
        let (served, refused) = tokio::join!(two, third);
        assert!(is_overloaded(&refused), "{refused}");
        assert!(served.0.ends_with("hello") && served.1.ends_with("hello"));
        go.notify_one();
        assert!(scene.ask(&request).await.ends_with("hello"));
    });
}

async fn tunnel(scene: &Scene) -> (TcpStream, String) {
    let mut socket = scene.client().await;
    let connect = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
    socket.write_all(connect.as_bytes()).await.unwrap();
    let head = within(read_head(&mut socket)).await;
    (socket, head)
}

#[test]
fn no_more_connections_than_a_policy_allows_stand() {
    run(async {
        let address = program(|mut socket| async move {
            // Until the client has gone.
            let _ = socket.read(&mut [0]).await;
        })
        .await;
        let mut scene = Scene::stretched_speaking(Tcp, address);
        scene.decree(|policy| policy.max_connections = Some(1), |_| ());
        let (first, head) = tunnel(&scene).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (_, head) = tunnel(&scene).await;
        assert!(is_overloaded(&head), "{head}");
        drop(first);
        within(async {
            while !tunnel(&scene).await.1.starts_with("HTTP/1.1 200 ") {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

#[test]
fn no_more_requests_than_a_policy_allows_wait_for_a_way() {
    run(async {
        let mut scene = Scene::local(answering(HELLO).await);
        // Takes connections and never says anything.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        scene.decree(
            |policy| {
                policy.max_pending = Some(1);
                policy.connect_timeout = Some(Duration::from_hours(1));
            },
            |workload| workload.address = address,
        );
        let mut waiting = scene.client().await;
        waiting.write_all(get("/").as_bytes()).await.unwrap();
        let _held = within(silent.accept()).await.unwrap();
        let refused = scene.ask(&get("/")).await;
        assert!(is_overloaded(&refused), "{refused}");
        assert!(refused.contains("1 wait for a way"), "{refused}");
    });
}

#[test]
fn a_quiet_connection_ends_when_the_policy_says() {
    run(async {
        let address = program(|mut socket| async move {
            let _ = socket.read(&mut [0]).await;
        })
        .await;
        let mut scene = Scene::stretched_speaking(Tcp, address);
        let idle = Some(Duration::from_millis(20));
        scene.decree(|policy| policy.idle_timeout = idle, |_| ());
        let (mut socket, head) = tunnel(&scene).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let end = within(socket.read(&mut [0])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    });
}

#[test]
fn where_nothing_is_healthy_a_policy_may_say_to_try_all_the_same() {
    run(async {
        for (below, expect) in [(0, "HTTP/1.1 503 "), (50, "HTTP/1.1 200 ")] {
            let mut scene = Scene::local(answering(HELLO).await);
            scene.decree(
                |policy| policy.panic = Percent::new(below).ok(),
                |workload| workload.health = Health::Unhealthy,
            );
            let reply = scene.ask(&get("/")).await;
            assert!(reply.starts_with(expect), "{below}: {reply}");
        }
    });
}

#[test]
fn a_call_that_ends_as_unavailable_is_repeated_where_that_is_safe() {
    run(async {
        for (on, expect) in [
            (vec![RetryOn::Refused, RetryOn::Unavailable], "0"),
            (vec![RetryOn::Refused, RetryOn::GatewayError], "14"),
        ] {
            let calls = Rc::new(Cell::new(0));
            let address = h2_program(move |_, mut respond| {
                let calls = Rc::clone(&calls);
                async move {
                    calls.set(calls.get() + 1);
                    let status = if calls.get() == 1 { "14" } else { "0" };
                    let reply = Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", status);
                    respond
                        .send_response(reply.body(()).unwrap(), true)
                        .unwrap();
                }
            })
            .await;
            let mut scene = Scene::stretched_speaking(Http2, address);
            scene.decree(|policy| policy.retry_on = Some(on), |_| ());
            let mut client = h2_client(&scene).await.ready().await.unwrap();
            let (reply, _) = client.send_request(call(None), true).unwrap();
            let mut reply = within(reply).await.unwrap();
            let trailers = within(reply.body_mut().trailers()).await.unwrap();
            let status = |map: &HeaderMap| map.get("grpc-status").cloned();
            let said = status(reply.headers()).or(trailers.as_ref().and_then(status));
            assert_eq!(said.unwrap(), expect);
        }
    });
}

#[test]
fn a_request_that_waits_for_longer_than_most_is_sent_once_more_elsewhere() {
    run(async {
        let slow = Rc::new(Cell::new(0));
        let seen = Rc::clone(&slow);
        let address = program(move |mut socket| {
            let seen = Rc::clone(&seen);
            async move {
                loop {
                    let head = read_head(&mut socket).await;
                    if head.is_empty() {
                        return;
                    }
                    if head.starts_with("GET /slow ") {
                        seen.set(seen.get() + 1);
                        if seen.get() == 1 {
                            // Until nobody waits for it any more.
                            let _ = socket.read(&mut [0]).await;
                            return;
                        }
                    }
                    socket.write_all(HELLO.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut scene = Scene::local(address);
        scene.multiply(2);
        scene.decree(
            |policy| {
                policy.hedge = Some(true);
                policy.request_timeout = Some(Duration::ZERO);
            },
            |_| (),
        );
        // What is usual has to be known, and ways to both workloads have to stand.
        for _ in 0..150 {
            assert!(scene.ask(&get("/")).await.ends_with("hello"));
        }
        let reply = scene.ask(&get("/slow")).await;
        assert!(reply.ends_with("hello"), "{reply}");
        assert_eq!(slow.get(), 2);
    });
}
