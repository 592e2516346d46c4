//! A load balancer in front of the mesh port, which says whose connections it hands on (PROXY protocol).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use isthmus_world::{Drain, DrainStage, DrainWatch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::intake::{Comers, Intake, accept};
use crate::testing::{HOST, Scene, answering, door, plenty, run, within};

const FROM_ONE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 51000 15008\r\n";
const FROM_OTHER: &[u8] = b"PROXY TCP4 192.0.2.2 198.51.100.2 51000 15008\r\n";
const OWN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A mesh port that believes `from`, and takes two connections of each source. What it has let in: whose
/// it is, and what is said first behind the header.
async fn port(
    scene: &Scene,
    from: &str,
    drain: DrainWatch,
) -> (
    SocketAddr,
    mpsc::UnboundedReceiver<(Option<std::net::IpAddr>, u8)>,
) {
    let mut config = Config::clone(&scene.callee.worker.common.config);
    config.proxy_protocol_from = vec![from.parse().unwrap()];
    config.limits.connections_per_source = Some(2);
    let intake = Intake::of_process(&config, Arc::clone(&scene.callee.metrics), plenty());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        accept(
            &intake,
            drain,
            door(listener),
            Comers::Mesh,
            |mut socket, place| {
                let told = told.clone();
                tokio::task::spawn_local(async move {
                    let first = socket.read_u8().await.unwrap_or(0);
                    told.send((place.source(), first)).unwrap();
                    // Until the client has gone.
                    let _ = socket.read(&mut [0]).await;
                    drop(place);
                });
            },
        )
        .await;
    });
    (address, heard)
}

async fn says(address: SocketAddr, said: &[&[u8]]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    for part in said {
        socket.write_all(part).await.unwrap();
    }
    socket
}

async fn is_closed(mut socket: TcpStream) -> bool {
    matches!(within(socket.read(&mut [0])).await, Ok(0) | Err(_))
}

#[test]
fn connections_of_a_balancer_are_those_of_whom_it_names() {
    run(async {
        let scene = Scene::local(answering(super::HELLO).await);
        let (address, mut heard) = port(&scene, "127.0.0.0/8", scene.callee.drain.watch()).await;
        let mut kept = Vec::new();
        let one = "192.0.2.1".parse().ok();
        let other = "192.0.2.2".parse().ok();
        for (header, expect) in [(FROM_ONE, one), (FROM_ONE, one), (FROM_OTHER, other)] {
            kept.push(says(address, &[header, b"!"]).await);
            let (source, first) = within(heard.recv()).await.unwrap();
            // Not a byte behind the header was taken.
            assert_eq!((source, first), (expect, b'!'));
        }
        // A third one of the same source is one too many, whoever hands it on.
        assert!(is_closed(says(address, &[FROM_ONE, b"!"]).await).await);
        let counted = scene.callee.metrics.encode();
        assert!(
            counted.contains("reason=\"too-many-of-source\"} 1"),
            "{counted}"
        );
        // Byte by byte, and of the balancer itself, as its health checks are.
        kept.push(
            says(
                address,
                &OWN.chunks(1).chain([&b"?"[..]]).collect::<Vec<_>>(),
            )
            .await,
        );
        let (source, first) = within(heard.recv()).await.unwrap();
        assert_eq!((source, first), ("127.0.0.1".parse().ok(), b'?'));
    });
}

#[test]
fn a_balancer_that_names_nobody_is_let_go() {
    run(async {
        let scene = Scene::local(answering(super::HELLO).await);
        let (address, mut heard) = port(&scene, "127.0.0.1", scene.callee.drain.watch()).await;
        for said in [
            &b"\x16\x03\x01"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 192.0.2.1\n",
        ] {
            assert!(is_closed(says(address, &[said]).await).await, "{said:?}");
        }
        let counted = scene.callee.metrics.encode();
        assert!(counted.contains("reason=\"proxy-header\"} 4"), "{counted}");
        assert!(heard.try_recv().is_err());
    });
}

async fn lives(drain: &Drain, count: usize) {
    within(async {
        while drain.live() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn who_has_come_before_the_drain_is_let_in_and_nobody_after() {
    run(async {
        let scene = Scene::local(answering(super::HELLO).await);
        let drain = Drain::new();
        let (address, mut heard) = port(&scene, "127.0.0.1", drain.watch()).await;
        // The listener itself, and who has not said yet whose connection it is.
        lives(&drain, 1).await;
        let (begin, rest) = FROM_ONE.split_at(9);
        let mut early = says(address, &[begin]).await;
        lives(&drain, 2).await;
        drain.advance(DrainStage::Draining);
        lives(&drain, 1).await;
        assert!(TcpStream::connect(address).await.is_err());
        early.write_all(rest).await.unwrap();
        early.write_all(b"!").await.unwrap();
        let (source, first) = within(heard.recv()).await.unwrap();
        assert_eq!((source, first), ("192.0.2.1".parse().ok(), b'!'));
        drop(early);
        lives(&drain, 0).await;
    });
}

/// Whoever is not named in the configuration says what it likes: it is what it says.
#[test]
fn nobody_else_is_believed() {
    run(async {
        let scene = Scene::local(answering(super::HELLO).await);
        let (address, mut heard) = port(&scene, "10.0.0.0/8", scene.callee.drain.watch()).await;
        let _kept = says(address, &[FROM_ONE]).await;
        let (source, first) = within(heard.recv()).await.unwrap();
        assert_eq!((source, first), ("127.0.0.1".parse().ok(), b'P'));

        // On a port of HTTP it is a request that cannot be read.
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        let version_2 = [OWN, request.as_bytes()].concat();
        let version_1 = [FROM_ONE, request.as_bytes()].concat();
        let mut asked = JoinSet::new();
        for said in [version_1, version_2] {
            let mut client = scene.client().await;
            asked.spawn_local(async move {
                client.write_all(&said).await.unwrap();
                let mut reply = String::new();
                within(client.read_to_string(&mut reply)).await.unwrap();
                reply
            });
        }
        for reply in asked.join_all().await {
            let status = &reply[..reply.len().min(13)];
            assert!(
                status == "HTTP/1.1 400 " || status == "HTTP/1.1 505 ",
                "{reply}"
            );
        }
    });
}
