//! A program that has not accepted yet: its queue of connections is full, and the kernel drops what
//! asks for another, to be asked again after a second (RFC 6298 section 2).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::{HELLO, get};
use crate::testing::{Scene, read_head, run};

/// `SYN_SENT` in `/proc/net/tcp`.
const ASKING: &str = "02";

/// Does somebody ask for a connection that `address` has not agreed to? (proc(5))
fn is_asked(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(2);
        let remote = words.next().unwrap_or_default();
        remote.ends_with(&port) && words.next() == Some(ASKING)
    })
}

#[test]
fn who_finds_a_programs_queue_full_is_served_once_there_is_room() {
    run(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        // The kernel takes one more than it is told.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        let mut scene = Scene::local(address);
        scene.decree(|policy| policy.retry_attempts = Some(0), |_| ());
        let request = get("/");
        let serving = async {
            while !is_asked(address) {
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
