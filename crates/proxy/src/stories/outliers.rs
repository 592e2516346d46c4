//! Workloads that fail, or are worse than the others, and how many of them may be left out.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Response};
use isthmus_model::AppProtocol::Http2;
use isthmus_model::{Algorithm, Percent, TrafficPolicy};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http2::{call, h2_client, h2_program};
use crate::testing::crowd::{named, who};
use crate::testing::{HOST, Scene, read_head, run, within};

const OK: &str = "200 OK";
const BROKEN: &str = "500 Internal Server Error";

/// Everybody in turn, nothing is tried again, and whoever is out stays out for as long as a test lasts.
fn in_turn(policy: &mut TrafficPolicy) {
    policy.algorithm = Some(Algorithm::RoundRobin);
    policy.retry_attempts = Some(0);
    policy.base_ejection = Some(Duration::from_mins(5));
}

async fn ask(client: &mut TcpStream) -> usize {
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    who(&within(read_head(client)).await)
}

/// Asks until `sick` is out: until 20 requests in a row go to others.
async fn until_out(scene: &Scene, sick: usize) {
    let mut client = scene.client().await;
    let mut without = 0;
    for _ in 0..20_000 {
        without = if ask(&mut client).await == sick {
            0
        } else {
            without + 1
        };
        if without == 20 {
            return;
        }
    }
    panic!("it is never left out");
}

#[test]
fn calls_that_end_as_failures_of_the_program_eject_it() {
    run(async {
        // The status, whether a head and a message come first, and how many calls it gets of 60.
        for (status, streams, expect) in [
            ("14", false, 5),
            ("14", true, 5),
            ("13", true, 5),
            ("2", false, 5),
            // What is wrong with a call says nothing of who answers it.
            ("5", true, 20),
            ("0", true, 20),
        ] {
            let calls = Rc::new(Cell::new(0));
            let program = |status: &'static str, calls: Rc<Cell<u32>>| {
                h2_program(move |_, mut respond| {
                    calls.set(calls.get() + 1);
                    async move {
                        let head = Response::builder().header("content-type", "application/grpc");
                        if streams {
                            let head = head.body(()).unwrap();
                            let mut reply = respond.send_response(head, false).unwrap();
                            reply.send_data("hello".into(), false).unwrap();
                            let status = HeaderValue::from_static(status);
                            let trailers = [("grpc-status".parse().unwrap(), status)];
                            let trailers: HeaderMap = trailers.into_iter().collect();
                            reply.send_trailers(trailers).unwrap();
                        } else {
                            let head = head.header("grpc-status", status).body(()).unwrap();
                            respond.send_response(head, true).unwrap();
                        }
                    }
                })
            };
            let sick = program(status, Rc::clone(&calls)).await;
            let mut scene = Scene::local_speaking(Http2, sick);
            for _ in 0..2 {
                scene.join(program("0", Rc::default()).await);
            }
            scene.decree(in_turn, |_| ());
            let mut client = h2_client(&scene).await;
            for _ in 0..60 {
                client = client.ready().await.unwrap();
                let (reply, _) = client.send_request(call(None), true).unwrap();
                let mut body = within(reply).await.unwrap().into_body();
                while let Some(data) = within(body.data()).await {
                    let length = data.unwrap().len();
                    body.flow_control().release_capacity(length).unwrap();
                }
                within(body.trailers()).await.unwrap();
            }
            assert_eq!(calls.get(), expect, "status {status}, streams {streams}");
        }
    });
}

#[test]
fn who_fails_more_often_than_the_others_is_left_out() {
    run(async {
        let mut scene = Scene::local(named(0, |_| async { OK }).await);
        scene.join(named(1, |_| async { OK }).await);
        // Never twice in a row.
        let failed = Rc::new(Cell::new(false));
        let shaky = named(2, move |_| {
            failed.set(!failed.get());
            let status = if failed.get() { BROKEN } else { OK };
            async move { status }
        });
        scene.join(shaky.await);
        scene.decree(in_turn, |_| ());
        until_out(&scene, 2).await;
    });
}

#[test]
fn who_takes_far_longer_than_the_others_is_left_out() {
    run(async {
        let mut scene = Scene::local(named(0, |_| async { OK }).await);
        scene.join(named(1, |_| async { OK }).await);
        let slow = named(2, |_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            OK
        });
        scene.join(slow.await);
        scene.decree(in_turn, |_| ());
        until_out(&scene, 2).await;
    });
}

#[test]
fn what_is_wrong_with_all_leaves_nobody_out() {
    run(async {
        let failing = |number| {
            let failed = Cell::new(false);
            named(number, move |_| {
                failed.set(!failed.get());
                let status = if failed.get() { BROKEN } else { OK };
                async move { status }
            })
        };
        let mut scene = Scene::local(failing(0).await);
        scene.join(failing(1).await);
        scene.join(failing(2).await);
        scene.decree(in_turn, |_| ());
        let mut client = scene.client().await;
        let mut seen = [0; 3];
        // They are compared four times a second.
        let end = Instant::now() + Duration::from_secs(1);
        while seen[0] < 100 || Instant::now() < end {
            for _ in 0..3 {
                seen[ask(&mut client).await] += 1;
            }
            assert!(seen.iter().all(|count| *count == seen[0]), "{seen:?}");
        }
    });
}

/// Of four workloads three fail always. Whom the last 200 of 300 requests go to: who is out and serves
/// all the same gets a tenth of what others get.
async fn three_of_four_fail(set: impl FnOnce(&mut TrafficPolicy)) -> Vec<usize> {
    let mut scene = Scene::local(named(0, |_| async { BROKEN }).await);
    scene.join(named(1, |_| async { BROKEN }).await);
    scene.join(named(2, |_| async { BROKEN }).await);
    scene.join(named(3, |_| async { OK }).await);
    let set = |policy: &mut TrafficPolicy| {
        in_turn(policy);
        set(policy);
    };
    scene.decree(set, |_| ());
    let mut client = scene.client().await;
    for _ in 0..100 {
        ask(&mut client).await;
    }
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen.push(ask(&mut client).await);
    }
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn no_more_are_left_out_than_the_policy_allows() {
    run(async {
        for (most, expect) in [(100, 1), (50, 2), (25, 3), (0, 4)] {
            let percent = Percent::new(most).ok();
            let seen = three_of_four_fail(|policy| policy.max_ejected = percent).await;
            assert_eq!(seen.len(), expect, "{most} percent: {seen:?}");
            assert!(seen.contains(&3), "{most} percent: {seen:?}");
        }
    });
}

#[test]
fn where_too_few_are_left_those_that_are_out_serve_again() {
    run(async {
        for (panic, expect) in [(0, 1), (25, 1), (26, 4)] {
            let set = |policy: &mut TrafficPolicy| {
                policy.max_ejected = Percent::new(100).ok();
                policy.panic = Percent::new(panic).ok();
            };
            let seen = three_of_four_fail(set).await;
            assert_eq!(seen.len(), expect, "{panic} percent: {seen:?}");
        }
    });
}
