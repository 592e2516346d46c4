//! Time that runs out: of a whole request, over as many hops as it takes, and of one try.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use isthmus_codec::message::Open;
use isthmus_model::AppProtocol::Http2;
use isthmus_model::{Algorithm, Handle, HashOn, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::http2::{call, connect, h2_client, h2_program};
use super::{get, play_caller, remembering, request};
use crate::testing::crowd::{named, who};
use crate::testing::{HOST, Scene, cluster, program, read_head, run, within};

/// What each of three programs was told, from the first to the last.
type Told = Rc<RefCell<Vec<Duration>>>;

fn check(told: &Told, said: Duration) {
    let told = told.borrow();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0] <= said, "{told:?}");
    // Each has waited for its own way to the next.
    assert!(told.windows(2).all(|pair| pair[1] < pair[0]), "{told:?}");
}

#[test]
fn what_is_left_of_a_call_is_told_from_hop_to_hop_and_holds_at_each() {
    run(async {
        let told = Told::default();
        let outbound: Rc<Cell<Option<SocketAddr>>> = Rc::default();
        let (last, cancelled) = oneshot::channel();
        let last = Rc::new(Cell::new(Some(last)));
        let (kept, way) = (Rc::clone(&told), Rc::clone(&outbound));
        // The first two hand the call on to the next, as a client library of gRPC does with its
        // context; the last never answers.
        let address = h2_program(move |request, mut respond| {
            let timeout = request.headers()["grpc-timeout"].clone();
            let micros = timeout.to_str().unwrap().strip_suffix('u').unwrap();
            let mut kept = kept.borrow_mut();
            kept.push(Duration::from_micros(micros.parse().unwrap()));
            let last = (kept.len() == 3).then(|| last.take().unwrap());
            let way = way.get().unwrap();
            async move {
                let _request = request;
                if let Some(last) = last {
                    std::future::poll_fn(|cx| respond.poll_reset(cx))
                        .await
                        .unwrap();
                    last.send(()).unwrap();
                    return;
                }
                let client = connect(TcpStream::connect(way).await.unwrap()).await;
                let mut next = call(None);
                next.headers_mut().insert("grpc-timeout", timeout);
                let mut client = client.ready().await.unwrap();
                let (reply, _) = client.send_request(next, true).unwrap();
                let status = reply.await.unwrap().headers()["grpc-status"].clone();
                let head = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", status);
                // By then its own caller may have gone.
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Http2, address);
        outbound.set(Some(scene.callee.outbound));
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let (reply, _) = client.send_request(call(Some("2S")), true).unwrap();
        let reply = within(reply).await.unwrap();
        assert_eq!(reply.headers()["grpc-status"], "4");
        within(cancelled).await.unwrap();
        check(&told, Duration::from_secs(2));
    });
}

#[test]
fn what_is_left_of_a_request_is_told_from_hop_to_hop_and_holds_at_each() {
    run(async {
        let told = Told::default();
        let outbound: Rc<Cell<Option<SocketAddr>>> = Rc::default();
        let (last, gone) = oneshot::channel();
        let last = Rc::new(Cell::new(Some(last)));
        let (kept, way) = (Rc::clone(&told), Rc::clone(&outbound));
        // The first two hand the field on as they do with a trace; the last never answers.
        let address = program(move |mut socket| {
            let (kept, last) = (Rc::clone(&kept), Rc::clone(&last));
            let way = way.get().unwrap();
            async move {
                let head = read_head(&mut socket).await.to_ascii_lowercase();
                let (_, rest) = head.split_once("x-isthmus-timeout: ").unwrap();
                let field = rest.lines().next().unwrap();
                let micros = field.strip_suffix('u').unwrap().parse().unwrap();
                kept.borrow_mut().push(Duration::from_micros(micros));
                if kept.borrow().len() == 3 {
                    let last = last.take().unwrap();
                    assert_eq!(read_head(&mut socket).await, "");
                    last.send(()).unwrap();
                    return;
                }
                let next =
                    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-isthmus-timeout: {field}\r\n\r\n");
                let mut client = TcpStream::connect(way).await.unwrap();
                client.write_all(next.as_bytes()).await.unwrap();
                let reply = read_head(&mut client).await;
                // By then its own caller may have gone.
                let _ = socket.write_all(reply.as_bytes()).await;
            }
        })
        .await;
        let scene = Scene::stretched(address);
        outbound.set(Some(scene.callee.outbound));
        let request = get("/").replace("\r\n\r\n", "\r\nx-isthmus-timeout: 2S\r\n\r\n");
        let reply = scene.ask(&request).await;
        assert!(reply.starts_with("HTTP/1.1 504 "), "{reply}");
        assert!(
            reply.contains("x-isthmus-refusal: request-timeout"),
            "{reply}"
        );
        within(gone).await.unwrap();
        check(&told, Duration::from_secs(2));
    });
}

#[test]
fn what_has_passed_before_the_program_is_asked_is_taken_off() {
    run(async {
        let (address, heads) = remembering().await;
        let scene = Scene::local(address);
        let link = play_caller(&scene).await;
        let Open::Request(mut asked) = request("GET", &[("x-isthmus-timeout", "30S")]) else {
            panic!("it is a request");
        };
        asked.context.remaining = Some(Duration::from_secs(30));
        let stream = link.open(&Open::Request(asked), true).unwrap();
        within(stream.receive()).await.unwrap();
        let told = heads.borrow()[0].to_ascii_lowercase();
        let (_, rest) = told.split_once("x-isthmus-timeout: ").unwrap();
        let micros = rest.lines().next().unwrap().strip_suffix('u').unwrap();
        assert!(micros.parse::<u32>().unwrap() < 30_000_000, "{told}");
    });
}

#[test]
fn a_request_whose_body_was_read_first_has_its_time_from_then_on() {
    run(async {
        let heads = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::clone(&heads);
        let address = program(move |mut socket| {
            let kept = Rc::clone(&kept);
            async move {
                let head = read_head(&mut socket).await;
                kept.borrow_mut().push(head);
                socket.read_exact(&mut [0; 5]).await.unwrap();
                let reply = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                socket.write_all(reply.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut scene = Scene::local(address);
        let set = |policy: &mut isthmus_model::TrafficPolicy| {
            policy.request_timeout = Some(Duration::from_secs(20));
        };
        scene.decree(set, |_| ());
        let asked = get("/").replace("GET", "POST").replace(
            "\r\n\r\n",
            "\r\nx-isthmus-timeout: 40S\r\ncontent-length: 5\r\n\r\nhello",
        );
        let reply = scene.ask(&asked).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        let told = heads.borrow()[0].to_ascii_lowercase();
        let (_, rest) = told.split_once("x-isthmus-timeout: ").unwrap();
        let micros = rest.lines().next().unwrap().strip_suffix('u').unwrap();
        assert!(micros.parse::<u32>().unwrap() < 20_000_000, "{told}");
    });
}

/// A program that never answers beside one that does; requests with key 0 go to the silent one first.
async fn silent_first() -> (Scene, Rc<Cell<u32>>) {
    let asked = Rc::new(Cell::new(0));
    let counted = Rc::clone(&asked);
    let silent = named(0, move |_| {
        counted.set(counted.get() + 1);
        std::future::pending()
    });
    let mut scene = Scene::local(silent.await);
    scene.join(named(1, |_| async { "200 OK" }).await);
    scene.decree(
        |policy| {
            policy.algorithm = Some(Algorithm::RingHash);
            policy.hash_on = Some(HashOn::Header("x-key".parse().unwrap()));
            policy.per_try_timeout = Some(Duration::from_millis(50));
        },
        |_| (),
    );
    (scene, asked)
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_one_elsewhere_where_that_is_safe() {
    run(async {
        let (scene, asked) = silent_first().await;
        let mut in_vain = 0;
        for key in 0..20 {
            let field = format!("\r\nx-key: {key}\r\nx-isthmus-tell: 1\r\n\r\n");
            let before = asked.get();
            let reply = scene.ask(&get("/").replace("\r\n\r\n", &field)).await;
            assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            assert_eq!(who(&reply), 1);
            let tries = 1 + asked.get() - before;
            assert!(
                reply.contains(&format!("x-isthmus-attempts: {tries}\r\n")),
                "{reply}"
            );
            in_vain += asked.get() - before;
        }
        assert!(in_vain > 0, "no request has met the silent one");

        // What may have been executed is not repeated: there is one try, and the caller is told.
        let (scene, asked) = silent_first().await;
        let mut refused = 0;
        for key in 0..20 {
            let field = format!("\r\nx-key: {key}\r\ncontent-length: 0\r\n\r\n");
            let post = get("/").replace("GET", "POST").replace("\r\n\r\n", &field);
            let reply = scene.ask(&post).await;
            if !reply.starts_with("HTTP/1.1 200 ") {
                assert!(reply.starts_with("HTTP/1.1 504 "), "{reply}");
                refused += 1;
            }
        }
        assert!(refused > 0 && refused == asked.get(), "{refused}");
    });
}

#[test]
fn where_nobody_is_left_who_has_not_failed_the_next_try_goes_to_another_cluster() {
    run(async {
        let mut scene = Scene::stretched(named(1, |_| async { "200 OK" }).await);
        let short = Some(Duration::from_millis(200));
        scene.decree(|policy| policy.connect_timeout = short, |_| ());
        // The only one in the caller's own cluster takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = Workload {
            handle: Handle::new("cart-near"),
            cluster: cluster("west"),
            address: silent.local_addr().unwrap(),
            ..scene.facts.workloads[0].clone()
        };
        scene.seen_by_caller.workloads.push(near);
        scene.caller.learn(&scene.seen_by_caller);
        let tell = "\r\nx-isthmus-tell: 1\r\n\r\n";
        let reply = scene.ask(&get("/").replace("\r\n\r\n", tell)).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(reply.contains("x-isthmus-cluster: east\r\n"), "{reply}");
        assert!(reply.contains("x-isthmus-attempts: 2\r\n"), "{reply}");
    });
}
