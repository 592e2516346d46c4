//! What users see, through whole proxies on real sockets: see [`crate::testing`].

mod bridged;
mod chain;
mod counts;
mod deadlines;
mod decreed;
mod ends;
mod expect;
mod extended;
mod floods;
mod gone;
mod http2;
mod interim;
mod introduced;
mod life;
mod limits;
mod many;
mod memory;
mod outliers;
mod outside;
mod priorities;
mod queue;
mod rejudged;
mod resumed;
mod slow;
mod spread;
mod streams;
mod undeclared;
mod upgrade;
mod worn;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use isthmus_codec::Fields;
use isthmus_codec::message::{Context, Open, Reply, Request, Response};
use isthmus_codec::mux::{Settings, Side};
use isthmus_model::{ServiceName, Share, Subset};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use crate::mux::{Item, Link};
use crate::testing::{HOST, Scene, answering, cluster, program, read_head, run, within};
use crate::tls::Turns;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")
}

/// A caller's proxy that the test plays itself: a link to the callee's.
async fn play_caller(scene: &Scene) -> Link {
    let me = scene.issuer.workload(&cluster("west"), "frontend");
    let socket = TcpStream::connect(scene.callee.mesh).await.unwrap();
    let name = HOST.try_into().unwrap();
    let (turns, metrics) = (Turns::default(), &scene.caller.metrics);
    let connected = me.connect(name, String::new(), socket, &turns, metrics);
    let (session, _) = within(connected).await.unwrap();
    Link::start(
        session,
        Side::Dialler,
        Settings::default(),
        &crate::testing::plenty(),
    )
}

fn request(method: &'static str, fields: &[(&'static str, &'static str)]) -> Open {
    let mut all = Fields::new();
    for (name, value) in fields {
        all.push(*name, *value).unwrap();
    }
    Open::Request(Request {
        service: ServiceName::new("shop", "cart").unwrap(),
        port: 80,
        method: method.into(),
        path: "/".into(),
        authority: HOST.into(),
        fields: all,
        upgrade: None,
        expects: false,
        context: Context::default(),
    })
}

/// A program that keeps the heads that it has read.
async fn remembering() -> (std::net::SocketAddr, Rc<RefCell<Vec<String>>>) {
    let heads = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&heads);
    let address = program(move |mut socket| {
        let kept = Rc::clone(&kept);
        async move {
            loop {
                let head = read_head(&mut socket).await;
                if head.is_empty() {
                    return;
                }
                kept.borrow_mut().push(head);
                socket.write_all(HELLO.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, heads)
}

#[test]
fn a_burst_needs_no_more_connections_than_the_program_takes() {
    const BURST: usize = 100;
    run(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        // Two fit into the queue; what comes beyond is not answered for a second.
        let listener = socket.listen(1).unwrap();
        let scene = Scene::local(listener.local_addr().unwrap());
        let link = play_caller(&scene).await;
        let mut streams = Vec::new();
        for _ in 0..BURST {
            link.room().await;
            streams.push(link.open(&request("GET", &[]), true).unwrap());
        }
        let serving = async {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    while !read_head(&mut socket).await.is_empty() {
                        socket.write_all(HELLO.as_bytes()).await.unwrap();
                    }
                });
            }
        };
        let asking = async {
            for stream in streams {
                let reply = stream.receive().await;
                assert!(matches!(reply, Ok(Item::Reply(_))), "{reply:?}");
            }
        };
        // Not accepted before all have been asked for: the first answer comes after that.
        tokio::select! {
            () = within(asking) => {}
            () = serving => {}
        }
    });
}

#[test]
fn an_answer_that_does_not_wait_for_the_body_arrives() {
    run(async {
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            let reply = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
            socket.write_all(reply.as_bytes()).await.unwrap();
            // It reads no more and keeps the connection.
            std::future::pending::<()>().await;
        })
        .await;
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(address);
            let mut client = scene.client().await;
            let head = format!("PUT / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9000000\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&vec![b'x'; 100_000]).await.unwrap();
            let reply = within(read_head(&mut client)).await;
            assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
            let mut body = [0; 3];
            within(client.read_exact(&mut body)).await.unwrap();
            assert_eq!(&body, b"big");
        }
    });
}

#[test]
fn a_refusal_by_the_callee_arrives_though_the_body_is_still_coming() {
    run(async {
        let mut scene = Scene::local(answering(HELLO).await);
        let mut facts = scene.facts.clone();
        facts.service.ports[0].port = 81;
        scene.callee.learn(&facts);
        let mut client = scene.client().await;
        let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9000000\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; 100_000]).await.unwrap();
        let reply = within(read_head(&mut client)).await;
        assert!(
            reply.contains("x-isthmus-refusal: unknown-port\r\n"),
            "{reply}"
        );
        assert!(reply.contains("x-isthmus-at: cart-1\r\n"), "{reply}");
    });
}

#[test]
fn a_caller_who_asks_is_told_how_its_request_was_decided() {
    run(async {
        let mut scene = Scene::stretched(answering(HELLO).await);
        let asking = get("/").replace("\r\n\r\n", "\r\nx-isthmus-tell: 1\r\n\r\n");
        let reply = scene.ask(&asking).await;
        for told in [
            "x-isthmus-route: default",
            "x-isthmus-rule: 0",
            "x-isthmus-backend: shop/cart",
            "x-isthmus-candidates: east 1/1",
            "x-isthmus-cluster: east",
            "x-isthmus-reason: only-choice",
            "x-isthmus-attempts: 1",
        ] {
            assert!(
                reply.contains(&format!("\r\n{told}\r\n")),
                "{told} in {reply}"
            );
        }
        assert!(!scene.ask(&get("/")).await.contains("x-isthmus"));

        // What leads to a refusal is told as well.
        let mut facts = scene.facts.clone();
        facts.service.exported = false;
        facts.workloads.clear();
        facts.shares = vec![Share {
            cluster: cluster("east"),
            service: facts.service.name.clone(),
            subset: Subset::default(),
            healthy: 1,
            total: 1,
        }];
        scene.caller.learn(&facts);
        let reply = scene.ask(&asking).await;
        assert!(
            reply.contains("\r\nx-isthmus-candidates: east 1/1 not-exported\r\n"),
            "{reply}"
        );
        assert!(
            reply.contains("\r\nx-isthmus-reason: not-exported\r\n"),
            "{reply}"
        );
        assert!(!reply.contains("x-isthmus-cluster"), "{reply}");
    });
}

#[test]
fn a_request_is_carried_out_as_it_was_decided_whatever_changes_meanwhile() {
    run(async {
        let (arrived, mut arrivals) = mpsc::channel(1);
        let go_on = Rc::new(Notify::new());
        let released = Rc::clone(&go_on);
        // Its first request makes it wait and fall silent; it answers all others.
        let address = program(move |mut socket| {
            let (arrived, released) = (arrived.clone(), Rc::clone(&released));
            async move {
                read_head(&mut socket).await;
                if arrived.try_send(()).is_ok() {
                    released.notified().await;
                } else {
                    socket.write_all(HELLO.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut scene = Scene::local(address);
        let mut client = scene.client().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        within(arrivals.recv()).await.unwrap();

        // The port that it calls is gone, for those that come now.
        let mut facts = scene.facts.clone();
        facts.service.ports[0].port = 81;
        scene.caller.learn(&facts);
        let late = scene.ask(&get("/")).await;
        assert!(late.contains("x-isthmus-refusal: unknown-port"), "{late}");

        // Its second try is decided by what it saw at first.
        arrivals.close();
        go_on.notify_one();
        let mut reply = String::new();
        within(client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    });
}

#[test]
fn what_a_program_may_have_executed_is_told_as_such() {
    run(async {
        // It takes the request and dies.
        let address = program(|mut socket| async move {
            read_head(&mut socket).await;
            socket.read_u8().await.unwrap();
        })
        .await;
        for scene in [Scene::local, Scene::stretched] {
            let scene = scene(address);
            let post = format!(
                "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
            );
            let reply = scene.ask(&post).await;
            assert!(reply.starts_with("HTTP/1.1 502"), "{reply}");
            assert!(
                reply.contains("x-isthmus-refusal: maybe-executed\r\n"),
                "{reply}"
            );
        }
    });
}

#[test]
fn a_refusal_of_the_callee_has_no_body_in_the_answer_to_head() {
    run(async {
        let mut scene = Scene::local(answering(HELLO).await);
        let mut facts = scene.facts.clone();
        facts.service.ports[0].port = 81;
        scene.callee.learn(&facts);
        let link = play_caller(&scene).await;
        let stream = link.open(&request("HEAD", &[]), true).unwrap();
        let Ok(Item::Reply(Reply::Response(head))) = within(stream.receive()).await else {
            panic!("no reply");
        };
        assert_eq!(head.status, 404);
        let next = within(stream.receive()).await.unwrap();
        assert!(matches!(next, Item::End(None)), "{next:?}");
    });
}

#[test]
fn only_proxies_speak_for_the_mesh() {
    run(async {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-isthmus-refusal: no-route\r\n\
            X-Isthmus-At: nowhere\r\nx-isthmus-cluster: mars\r\nx-own: stays\r\n\r\n";
        let scene = Scene::local(answering(reply).await);
        let asked = get("/").replace("\r\n\r\n", "\r\nx-isthmus-tell: 1\r\n\r\n");
        let reply = scene.ask(&asked).await.to_ascii_lowercase();
        assert!(reply.starts_with("http/1.1 200"), "{reply}");
        assert!(!reply.contains("x-isthmus-refusal"), "{reply}");
        assert!(!reply.contains("x-isthmus-at:"), "{reply}");
        assert_eq!(reply.matches("x-isthmus-cluster").count(), 1, "{reply}");
        assert!(reply.contains("x-isthmus-cluster: west\r\n"), "{reply}");
        assert!(reply.contains("x-own: stays\r\n"), "{reply}");
    });
}

#[test]
fn a_peer_cannot_give_a_program_what_no_client_could() {
    run(async {
        let (address, heads) = remembering().await;
        let scene = Scene::local(address);
        let link = play_caller(&scene).await;
        let fields = [
            ("host", "admin.internal"),
            ("connection", "upgrade, x-named"),
            ("upgrade", "websocket"),
            ("x-named", "1"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-isthmus-tell", "1"),
            ("x-own", "stays"),
        ];
        let stream = link.open(&request("GET", &fields), true).unwrap();
        let reply = within(stream.receive()).await.unwrap();
        assert!(matches!(reply, Item::Reply(_)), "{reply:?}");
        let seen = heads.borrow()[0].to_ascii_lowercase();
        assert_eq!(seen.matches("host:").count(), 1, "{seen}");
        for hidden in [
            "connection",
            "upgrade",
            "x-named",
            "transfer-encoding",
            "expect",
            "tell",
        ] {
            assert!(!seen.contains(hidden), "{hidden} in {seen}");
        }
        assert!(seen.contains("x-own: stays\r\n"), "{seen}");
    });
}

#[test]
fn a_body_that_breaks_its_announced_length_ends_the_exchange() {
    run(async {
        let (gone, mut went) = mpsc::unbounded_channel();
        let address = program(move |mut socket| {
            let gone = gone.clone();
            async move {
                read_head(&mut socket).await;
                let mut rest = Vec::new();
                let _ = socket.read_to_end(&mut rest).await;
                gone.send(rest).unwrap();
            }
        })
        .await;
        let scene = Scene::local(address);
        let link = play_caller(&scene).await;
        let fields = [("content-length", "5")];
        let stream = link.open(&request("POST", &fields), true).unwrap();
        assert!(within(stream.receive()).await.is_err());
        assert_eq!(within(went.recv()).await.unwrap(), b"");
    });
}

#[test]
fn a_callee_that_says_more_than_it_announced_fills_no_memory() {
    run(async {
        let mut scene = Scene::local(answering(HELLO).await);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut facts = scene.facts.clone();
        facts.workloads[0].address = listener.local_addr().unwrap();
        scene.caller.learn(&facts);
        let me = scene.issuer.workload(&cluster("west"), "cart");
        let metrics = std::sync::Arc::clone(&scene.callee.metrics);
        tokio::task::spawn_local(async move {
            let (socket, _) = listener.accept().await.unwrap();
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
            while let Some(incoming) = link.accept().await {
                tokio::task::spawn_local(async move {
                    let mut fields = Fields::new();
                    fields.push("content-length", "5").unwrap();
                    let head = Response {
                        status: 200,
                        fields,
                        utilisation: None,
                        waited: None,
                        do_not_retry: false,
                        refusal: None,
                        upgrade: None,
                    };
                    let stream = incoming.stream;
                    stream.reply(&Reply::Response(head), false).unwrap();
                    while stream.send(vec![0; 60_000].into()).await.is_ok() {}
                });
            }
        });
        let reply = scene.ask(&get("/")).await;
        assert!(!reply.contains("200 OK"), "{reply}");
    });
}
