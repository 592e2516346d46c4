//! Little memory: who is refused then, and who is not.

use std::cell::Cell;

use isthmus_codec::memory::Share;
use isthmus_codec::message::{Open, Priority, RefusalCode, Reply, TunnelOpen, TunnelReply};
use isthmus_codec::mux::{Settings, Side};
use isthmus_identity::gateway_server_name;
use isthmus_model::Subset;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::{REQUEST, Room};
use crate::mux::{Item, Link};
use crate::testing::{
    HOST, Node, Scene, answering, cluster, plenty, program, read_head, run, within,
};
use crate::tls::Turns;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Takes all memory of a proxy, what its worker has put aside included.
fn take_all(node: &Node) -> (Vec<Room>, Share) {
    let worker = &node.worker;
    let mut others = worker.common.memory.share();
    others.hold(worker.common.memory.limit());
    let aside = std::iter::from_fn(|| worker.memory.admit(REQUEST));
    (aside.collect(), others)
}

/// A request, and the head of what answers it.
async fn ask(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    within(read_head(client)).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

#[test]
fn what_is_new_is_refused_while_there_is_no_memory() {
    run(async {
        let scene = Scene::stretched(answering(HELLO).await);
        let mut client = scene.client().await;
        // Its connection, and the links behind it, are there.
        for node in [&scene.caller, &scene.callee] {
            let head = ask(&mut client, &get("/")).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            client.read_exact(&mut [0; 5]).await.unwrap();

            let all = take_all(node);
            let head = ask(&mut client, &get("/")).await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(head.contains("x-isthmus-refusal: overloaded\r\n"), "{head}");
            // With a little of chance.
            let again = ["retry-after: 1\r\n", "retry-after: 2\r\n"];
            assert!(again.iter().any(|line| head.contains(line)), "{head}");
            let counted = node.metrics.encode();
            assert!(counted.contains("refusal=\"overloaded\""), "{counted}");
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            client.read_exact(&mut vec![0; length]).await.unwrap();
            drop(all);
        }
        let head = ask(&mut client, &get("/")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    });
}

/// A session with the gateway of a scene that the test plays itself.
async fn play_caller(scene: &Scene, gateway: &Node) -> Link {
    let me = scene.issuer.workload(&cluster("west"), "frontend");
    let socket = TcpStream::connect(gateway.mesh).await.unwrap();
    let name = gateway_server_name(&cluster("east"));
    let (turns, metrics) = (Turns::default(), &scene.caller.metrics);
    let connected = me.connect(name, String::new(), socket, &turns, metrics);
    let (session, _) = within(connected).await.unwrap();
    Link::start(session, Side::Dialler, Settings::default(), &plenty())
}

/// The session stands already, so that it is the tunnel which is turned away.
#[test]
fn a_gateway_without_memory_opens_no_tunnel() {
    run(async {
        let scene = Scene::stretched(answering(HELLO).await);
        let gateway = scene.gateway.as_ref().unwrap();
        let link = play_caller(&scene, gateway).await;
        let open = Open::Tunnel(TunnelOpen {
            cluster: cluster("east"),
            service: scene.facts.service.name.clone(),
            port: 80,
            subset: Subset::default(),
            avoid: Vec::new(),
            want: None,
            hop_limit: 0,
            priority: Priority::Normal,
            data_class: None,
        });
        // What a tunnel holds would be there for the next one when it ends.
        let mut kept = Vec::new();
        for none in [false, true, false] {
            let all = none.then(|| take_all(gateway));
            let stream = link.open(&open, false).unwrap();
            let reply = match within(stream.receive()).await.unwrap() {
                Item::Reply(Reply::Tunnel(reply)) => reply,
                other => panic!("{other:?}"),
            };
            let is_refused = matches!(
                reply,
                TunnelReply::Refused {
                    code: RefusalCode::Overloaded,
                    ..
                }
            );
            assert_eq!(is_refused, none, "{reply:?}");
            assert_eq!(matches!(reply, TunnelReply::Open { .. }), !none);
            kept.push(stream);
            drop(all);
        }
    });
}

#[test]
fn new_connections_are_let_go_and_counted() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let all = take_all(&scene.caller);
        let mut client = scene.client().await;
        // It may have been closed while this was sent.
        let _ = client.write_all(get("/").as_bytes()).await;
        assert_eq!(within(read_head(&mut client)).await, "");
        let counted = scene.caller.metrics.encode();
        let line = "isthmus_connections_shed_total{reason=\"no-memory\"} 1\n";
        assert!(counted.contains(line), "{counted}");
        drop(all);
        let mut client = scene.client().await;
        let head = ask(&mut client, &get("/")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    });
}

/// Where growth has ended, what begins is admitted still, and answered: it is what this head takes
/// beyond its block that is not there.
#[test]
fn a_head_of_many_blocks_needs_memory() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let long = format!(
            "GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {}\r\n\r\n",
            "x".repeat(50_000)
        );
        for (short, expect) in [(false, "HTTP/1.1 200 "), (true, "HTTP/1.1 503 ")] {
            let mut others = scene.caller.worker.common.memory.share();
            if short {
                others.hold(scene.caller.worker.common.memory.limit() * 3 / 4);
            }
            let head = ask(&mut scene.client().await, &long).await;
            assert!(head.starts_with(expect), "{head}");
            let head = ask(&mut scene.client().await, &get("/")).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    });
}

/// A program that sends back what it gets, however much, as it gets it.
async fn echo(mut socket: TcpStream) {
    let head = read_head(&mut socket).await;
    let length = head.split("content-length: ").nth(1).unwrap();
    let length: usize = length.lines().next().unwrap().parse().unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    socket.write_all(answer.as_bytes()).await.unwrap();
    let (mut read, mut write) = socket.split();
    // A client that goes away takes its request along.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Sends a body of which one byte is sent already, and expects it back.
async fn send_and_read(client: TcpStream, length: usize) {
    let (mut read, mut write) = client.into_split();
    let body = vec![7; length - 1];
    let mut came = vec![0; length];
    let (sent, read) = tokio::join!(write.write_all(&body), read.read_exact(&mut came));
    sent.unwrap();
    read.unwrap();
    assert!(came[0] == b'x' && came[1..] == body);
}

/// The deadlock that would be: everyone holds something and waits for more.
#[test]
fn what_has_begun_goes_on_without_memory_beside_others_that_stand_still() {
    const LENGTH: usize = 3_000_000;
    const CLIENTS: usize = 8;
    run(async {
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(program(echo).await);
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                let mut client = scene.client().await;
                let head =
                    format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LENGTH}\r\n\r\nx");
                let head = ask(&mut client, &head).await;
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                clients.push(client);
            }
            let nodes = [
                Some(&scene.caller),
                scene.gateway.as_ref(),
                Some(&scene.callee),
            ];
            let all: Vec<_> = nodes.into_iter().flatten().map(take_all).collect();
            // Half of them send what they can and read nothing.
            let half = clients.split_off(CLIENTS / 2);
            let stalled: Vec<_> = half
                .into_iter()
                .map(|mut client| {
                    tokio::task::spawn_local(async move {
                        let _ = client.write_all(&vec![7; LENGTH - 1]).await;
                        std::future::pending::<()>().await;
                    })
                })
                .collect();
            let moving: Vec<_> = clients
                .into_iter()
                .map(|client| tokio::task::spawn_local(send_and_read(client, LENGTH)))
                .collect();
            for client in moving {
                within(client).await.unwrap();
            }
            stalled.iter().for_each(tokio::task::JoinHandle::abort);
            drop(all);
        }
    });
}

#[test]
fn a_body_that_cannot_be_kept_is_sent_once() {
    // More than the part of every request.
    const BODY: usize = 40_000;
    run(async {
        // Each connection of the program breaks after the first request was read; the next one answers.
        let broken = std::rc::Rc::new(Cell::new(false));
        let once = std::rc::Rc::clone(&broken);
        let asked = std::rc::Rc::new(Cell::new(0));
        let counted = std::rc::Rc::clone(&asked);
        let address = program(move |mut socket| {
            let once = std::rc::Rc::clone(&once);
            let counted = std::rc::Rc::clone(&counted);
            async move {
                while !read_head(&mut socket).await.is_empty() {
                    counted.set(counted.get() + 1);
                    let mut body = vec![0; BODY];
                    if socket.read_exact(&mut body).await.is_err() || !once.replace(true) {
                        return;
                    }
                    socket.write_all(HELLO.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut scene = Scene::local(address);
        scene.multiply(2);
        scene.decree(|_| {}, |_| {});
        for (short, expect, times) in [(false, "HTTP/1.1 200 ", 2), (true, "HTTP/1.1 502 ", 1)] {
            broken.set(false);
            asked.set(0);
            let mut others = scene.caller.worker.common.memory.share();
            if short {
                others.hold(scene.caller.worker.common.memory.limit() * 3 / 4);
            }
            let put = format!(
                "PUT / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {BODY}\r\n\r\n{}",
                "x".repeat(BODY)
            );
            let mut client = scene.client().await;
            let head = ask(&mut client, &put).await;
            assert!(head.starts_with(expect), "short: {short}: {head}");
            assert_eq!(asked.get(), times, "short: {short}");
        }
    });
}
