//! What clients see of a proxy or gateway that leaves, through whole proxies on real sockets: see
//! [`crate::testing`].

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_codec::message::{Reply, TunnelReply};
use isthmus_codec::mux::{ResetCode, Settings, Side};
use isthmus_model::AppProtocol::Tcp;
use isthmus_model::{Handle, Share, Subset};
use isthmus_world::DrainStage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::mux::{Incoming, Link};
use crate::splice::splice_socket;
use crate::testing::{HOST, Scene, answering, cluster, program, read_head, run, within};
use crate::tls::Turns;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const LEAVING: [DrainStage; 2] = [DrainStage::Leaving, DrainStage::Draining];

async fn ask(client: &mut TcpStream) {
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
}

/// The head of a reply whose body is `hello`.
async fn hear(client: &mut TcpStream) -> String {
    let head = within(read_head(client)).await;
    let mut body = [0; 5];
    within(client.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"hello", "{head}");
    head
}

async fn has_ended(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(within(client.read(&mut byte)).await, Ok(0))
}

/// A connection that has carried a request and waits for the next.
async fn idle(scene: &Scene) -> TcpStream {
    let mut client = scene.client().await;
    ask(&mut client).await;
    let head = hear(&mut client).await;
    assert!(!head.contains("connection:"), "{head}");
    client
}

#[test]
fn the_last_reply_says_so_and_no_request_meets_a_closed_connection() {
    for stage in LEAVING {
        run(async {
            let scene = Scene::local(answering(HELLO).await);
            let mut used = idle(&scene).await;
            let mut fresh = scene.client().await;
            // Accepted, but not heard from yet.
            let mut second = idle(&scene).await;
            scene.caller.drain.advance(stage);
            for client in [&mut used, &mut fresh] {
                ask(client).await;
                let head = hear(client).await;
                assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
                assert!(has_ended(client).await);
            }
            // Who asks nothing more is let go in the end.
            scene.caller.drain.advance(DrainStage::Closing);
            assert!(has_ended(&mut second).await);
            let none = within(scene.caller.drain.finished(crate::testing::HANG)).await;
            assert_eq!(none, Ok(()));
        });
    }
}

#[test]
fn a_request_that_has_begun_is_answered_however_far_the_end_has_come() {
    run(async {
        let (arrived, go) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (told, wait) = (Rc::clone(&arrived), Rc::clone(&go));
        let slow = program(move |mut socket| {
            let (told, wait) = (Rc::clone(&told), Rc::clone(&wait));
            async move {
                while !read_head(&mut socket).await.is_empty() {
                    told.notify_one();
                    wait.notified().await;
                    socket.write_all(HELLO.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let scene = Scene::stretched(slow);
        let mut client = scene.client().await;
        ask(&mut client).await;
        within(arrived.notified()).await;
        let gateway = scene.gateway.as_ref().unwrap();
        for node in [&scene.caller, &scene.callee, gateway] {
            node.drain.advance(DrainStage::Closing);
            assert!(node.drain.live() > 0, "{}", node.worker.name());
        }
        go.notify_one();
        let head = hear(&mut client).await;
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        // Then nothing holds any of the three: not the tunnel through the gateway either.
        for node in [&scene.caller, &scene.callee, gateway] {
            let none = within(node.drain.finished(crate::testing::HANG)).await;
            assert_eq!(none, Ok(()), "{}", node.worker.name());
        }
    });
}

#[test]
fn tunnels_leave_a_gateway_that_leaves() {
    run(async {
        let scene = Scene::stretched(answering(HELLO).await);
        // Warms a tunnel, which stays.
        let _client = idle(&scene).await;
        let gateway = scene.gateway.as_ref().unwrap();
        assert!(gateway.drain.live() > 0);
        gateway.drain.advance(DrainStage::Draining);
        let none = within(gateway.drain.finished(crate::testing::HANG)).await;
        assert_eq!(none, Ok(()), "the caller has closed an idle tunnel");
    });
}

/// How many tunnels a gateway refuses because it leaves, and how many requests wait for the first.
const REFUSED: usize = 3;
const WAITING: usize = 20;

#[test]
fn whoever_waits_for_a_way_that_ends_has_lost_no_try() {
    run(async {
        let mut scene = Scene::stretched(answering(HELLO).await);
        let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut seen = scene.facts.clone();
        seen.workloads.clear();
        seen.clusters[1].gateways[0].address = gateway.local_addr().unwrap();
        seen.shares = vec![Share {
            cluster: cluster("east"),
            service: seen.service.name.clone(),
            subset: Subset::default(),
            healthy: 1,
            total: 1,
        }];
        scene.caller.learn(&seen);
        let me = scene.issuer.gateway(&cluster("east"));
        let (callee, metrics) = (scene.callee.mesh, Arc::clone(&scene.callee.metrics));
        tokio::task::spawn_local(async move {
            let (socket, _) = gateway.accept().await.unwrap();
            let (session, _) = me
                .accept(socket, &Turns::default(), &metrics)
                .await
                .unwrap();
            let link = Link::start(
                session,
                Side::Listener,
                Settings::default(),
                &crate::testing::plenty(),
            );
            let mut refused = 0;
            while let Some(incoming) = link.accept().await {
                refused += 1;
                if refused <= REFUSED {
                    incoming.stream.reset(ResetCode::Refused);
                } else {
                    tokio::task::spawn_local(open_tunnel(incoming, callee));
                }
            }
        });

        let scene = Rc::new(scene);
        let asking = (0..WAITING).map(|_| {
            let scene = Rc::clone(&scene);
            tokio::task::spawn_local(async move {
                let request =
                    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
                scene.ask(&request).await
            })
        });
        for asked in asking.collect::<Vec<_>>() {
            let reply = within(asked).await.unwrap();
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        }
    });
}

/// As a gateway does.
async fn open_tunnel(incoming: Incoming, to: SocketAddr) {
    let reply = TunnelReply::Open {
        handle: Handle::new("cart-1"),
        zone: None,
        weight: 1,
    };
    let socket = TcpStream::connect(to).await.unwrap();
    let stream = incoming.stream;
    stream.reply(&Reply::Tunnel(reply), false).unwrap();
    splice_socket(socket, Bytes::new(), &stream, Duration::ZERO).await;
}

#[test]
fn half_a_connection_may_end_before_the_other() {
    for scene in [Scene::local_speaking, Scene::stretched_speaking] {
        run(async {
            // Answers when the client has said all, and then goes on for a while.
            let echo = program(|mut socket| async move {
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                for piece in all.chunks(1000) {
                    socket.write_all(piece).await.unwrap();
                }
            })
            .await;
            let scene = scene(Tcp, echo);
            let mut client = tunnel(&scene).await;
            let sent = vec![7; 300_000];
            let (mut read, mut write) = client.split();
            let sending = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let receiving = async { read.read_to_end(&mut received).await.unwrap() };
            within(async { tokio::join!(sending, receiving) }).await;
            assert!(received == sent, "{} bytes", received.len());
        });
    }
}

#[test]
fn the_other_half_may_end_first_too() {
    run(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let (kept, all) = (Rc::clone(&heard), Rc::new(Notify::new()));
        let told = Rc::clone(&all);
        // Speaks first and ends its half; what the client says then still arrives.
        let program = program(move |mut socket| {
            let (kept, told) = (Rc::clone(&kept), Rc::clone(&told));
            async move {
                socket.write_all(b"220 ready\r\n").await.unwrap();
                socket.shutdown().await.unwrap();
                let mut said = Vec::new();
                socket.read_to_end(&mut said).await.unwrap();
                *kept.borrow_mut() = said;
                told.notify_one();
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Tcp, program);
        let mut client = tunnel(&scene).await;
        let mut greeting = Vec::new();
        // Nothing was said by the client: nobody waits for its first byte.
        within(client.read_to_end(&mut greeting)).await.unwrap();
        assert_eq!(greeting, b"220 ready\r\n");
        client.write_all(b"late words").await.unwrap();
        client.shutdown().await.unwrap();
        within(all.notified()).await;
        assert_eq!(*heard.borrow(), b"late words");
    });
}

#[test]
fn a_reader_that_stalls_stops_the_sender() {
    run(async {
        let sent = Rc::new(RefCell::new(0_usize));
        let count = Rc::clone(&sent);
        let endless = program(move |mut socket| {
            let count = Rc::clone(&count);
            async move {
                let piece = vec![0; 16 * 1024];
                while socket.write_all(&piece).await.is_ok() {
                    *count.borrow_mut() += piece.len();
                }
            }
        })
        .await;
        let scene = Scene::stretched_speaking(Tcp, endless);
        let mut client = tunnel(&scene).await;
        // Until no more is taken while nobody reads.
        let mut before = usize::MAX;
        while before != *sent.borrow() {
            before = *sent.borrow();
            for _ in 0..10_000 {
                tokio::task::yield_now().await;
            }
        }
        assert!(before > 0 && before < MOST_UNDER_WAY, "{before} bytes");
        // It goes on when the client does.
        let mut pieces = vec![0; before];
        within(client.read_exact(&mut pieces)).await.unwrap();
        within(async {
            while *sent.borrow() <= before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

/// Socket buffers on five connections of the loopback, which grow up to 6 MiB each way, and the
/// credits of a stream in each of the three proxies.
const MOST_UNDER_WAY: usize = 64 << 20;

/// CONNECT to the program's port.
pub(super) async fn tunnel(scene: &Scene) -> TcpStream {
    let mut client = scene.client().await;
    let request = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let head = within(read_head(&mut client)).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    client
}
