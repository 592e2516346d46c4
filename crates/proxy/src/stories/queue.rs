//! A program that has not accepted yet: its queue of connections is full, and the kernel drops what
//! asks for another, to be asked again after a second (RFC 6298 section 2).

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use isthmus_model::AppProtocol::Http2;

use super::{HELLO, get};
use crate::testing::{Scene, read_head, run};

/// `SYN_SENT` in `/proc/net/tcp`.
const ASKING: &str = "02";

/// From where connections are asked for that `address` has not agreed to (proc(5)).
fn asking(address: SocketAddr) -> Vec<String> {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let asks = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let [local, remote, state] = [words.next()?, words.next()?, words.next()?];
        (remote.ends_with(&port) && state == ASKING).then(|| local.to_owned())
    };
    table.lines().filter_map(asks).collect()
}

/// A program that accepts nothing, and whose queue is full as long as the connection lasts.
async fn full() -> (TcpListener, SocketAddr, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    // The kernel takes one more than it is told.
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).await.unwrap();
    (listener, address, first)
}

#[test]
fn who_finds_a_programs_queue_full_is_served_once_there_is_room() {
    run(async {
        let (listener, address, _first) = full().await;
        let mut scene = Scene::local(address);
        scene.decree(|policy| policy.retry_attempts = Some(0), |_| ());
        let request = get("/");
        let serving = async {
            while asking(address).is_empty() {
                tokio::task::yield_now().await;
            }
            let _ = listener.accept().await.unwrap();
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket).await;
            socket.write_all(HELLO.as_bytes()).await.unwrap();
        };
        let (reply, ()) = tokio::join!(scene.ask(&request), serving);
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    });
}

/// Who waits for a connection that others are to share waits for one failure, not for as many as there are
/// before it.
#[test]
fn a_crowd_before_a_program_of_http2_fails_with_the_first_of_it() {
    run(async {
        let (_listener, address, _first) = full().await;
        let mut scene = Scene::local_speaking(Http2, address);
        scene.decree(|policy| policy.retry_attempts = Some(0), |_| ());
        let request = get("/");
        let ask = || scene.ask(&request);
        let mut crowd = pin!(async { tokio::join!(ask(), ask(), ask(), ask()) });
        let mut seen = HashSet::new();
        let (one, two, three, four) = loop {
            tokio::select! {
                biased;
                replies = &mut crowd => break replies,
                () = tokio::task::yield_now() => seen.extend(asking(address)),
            }
        };
        for reply in [one, two, three, four] {
            assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
    });
}
