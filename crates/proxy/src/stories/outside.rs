//! What becomes of requests to hosts outside the mesh.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::Request;
use isthmus_model::Egress::{Allow, Deny};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::http2::{data, h2_client};
use super::{HELLO, remembering};
use crate::testing::{HOST, Scene, answering, program, read_head, run, within};

/// A mesh that lets its programs out.
fn open() -> Scene {
    let mut scene = Scene::local(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    scene.let_out(Allow);
    scene
}

/// The last request of a client.
fn get(place: impl std::fmt::Display) -> String {
    format!("GET http://{place}/a?b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

async fn read_hello(client: &mut TcpStream) {
    let head = within(read_head(client)).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut body = [0; 5];
    within(client.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"hello");
}

/// A tunnel to `place`, as far as there is one.
async fn connect(scene: &Scene, place: impl std::fmt::Display) -> (TcpStream, String) {
    let mut client = scene.client().await;
    let ask = format!("CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n\r\n");
    client.write_all(ask.as_bytes()).await.unwrap();
    let head = within(read_head(&mut client)).await;
    (client, head)
}

#[test]
fn a_mesh_lets_nobody_out_that_does_not_say_so() {
    run(async {
        let (address, heads) = remembering().await;
        let scene = Scene::local(address);
        let reply = scene.ask(&get(address)).await;
        assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
        assert!(
            reply.contains("x-isthmus-refusal: outside-denied"),
            "{reply}"
        );
        assert!(reply.contains("egress: Allow"), "{reply}");
        let (_, head) = connect(&scene, address).await;
        assert!(head.contains("outside-denied"), "{head}");
        assert!(heads.borrow().is_empty());
        let (_, head) = connect(&open(), "127.0.0.1").await;
        assert!(head.starts_with("HTTP/1.1 400 "), "no port: {head}");
        let counted = scene.caller.metrics.encode();
        assert!(
            counted.contains("destination_service=\"outside\""),
            "{counted}"
        );
    });
}

#[test]
fn requests_go_out_one_after_the_other_on_one_connection() {
    run(async {
        let accepted = Rc::new(Cell::new(0));
        let heads = Rc::new(RefCell::new(Vec::new()));
        let (counts, keeps) = (Rc::clone(&accepted), Rc::clone(&heads));
        let address = program(move |mut socket| {
            counts.set(counts.get() + 1);
            let keeps = Rc::clone(&keeps);
            async move {
                loop {
                    let head = read_head(&mut socket).await;
                    if head.is_empty() {
                        return;
                    }
                    keeps.borrow_mut().push(head);
                    let reply = "HTTP/1.1 200 OK\r\nx-isthmus-refusal: no-route\r\nkeep-alive: x\r\n\
                                 x-own: 1\r\ncontent-length: 5\r\n\r\nhello";
                    socket.write_all(reply.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let scene = open();
        let mut client = scene.client().await;
        let absolute = format!(
            "GET http://{address}/a?b HTTP/1.1\r\nhost: other\r\nx-isthmus-timeout: 9S\r\n\
             proxy-connection: keep-alive\r\nx-own: 2\r\n\r\n"
        );
        let by_host = format!("GET /a?b HTTP/1.1\r\nHost: {address}\r\n\r\n");
        for asked in [absolute, by_host] {
            client.write_all(asked.as_bytes()).await.unwrap();
            let head = within(read_head(&mut client)).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains("x-own: 1\r\n"), "{head}");
            assert!(
                !head.contains("x-isthmus") && !head.contains("keep-alive"),
                "{head}"
            );
            client.read_exact(&mut [0; 5]).await.unwrap();
        }
        // A name, and another client.
        let reply = scene
            .ask(&get(format_args!("localhost:{}", address.port())))
            .await;
        assert!(reply.ends_with("hello"), "{reply}");
        assert_eq!(accepted.get(), 2, "one by address, one by name");
        let heads = heads.borrow();
        for (head, host) in heads.iter().zip([
            address.to_string(),
            address.to_string(),
            format!("localhost:{}", address.port()),
        ]) {
            assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
            let lower = head.to_ascii_lowercase();
            assert!(lower.contains(&format!("host: {host}\r\n")), "{head}");
            assert!(
                !lower.contains("x-isthmus") && !lower.contains("proxy"),
                "{head}"
            );
        }
        assert!(heads[0].contains("x-own: 2\r\n"), "{}", heads[0]);
    });
}

#[test]
fn names_of_the_mesh_never_leave_it() {
    run(async {
        let scene = open();
        for (host, reason) in [
            ("absent.shop.mesh", "no-such-service"),
            ("absent.mesh", "foreign-destination"),
            ("a.b.c.Mesh.", "foreign-destination"),
            ("absent.svc.clusterset.local", "foreign-destination"),
            ("[cart.shop.mesh]", "foreign-destination"),
        ] {
            let reply = scene.ask(&get(host)).await;
            assert!(
                reply.contains(&format!("x-isthmus-refusal: {reason}")),
                "{host}: {reply}"
            );
        }
    });
}

#[test]
fn nothing_goes_round_in_circles() {
    run(async {
        let scene = open();
        for place in [
            "127.0.0.1:15001",
            "0.0.0.0:15008",
            "[::ffff:127.0.0.1]:15020",
        ] {
            let reply = scene.ask(&get(place)).await;
            assert!(reply.starts_with("HTTP/1.1 508 "), "{place}: {reply}");
            let (_, head) = connect(&scene, place).await;
            assert!(head.contains("loop-detected"), "{place}: {head}");
        }
    });
}

#[test]
fn who_cannot_be_reached_is_told_of() {
    run(async {
        let scene = open();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let closed = listener.local_addr().unwrap().to_string();
        drop(listener);
        // No name has a part of more than 63 letters.
        let unknown = format!("{}.example", "a".repeat(64));
        for place in [closed, unknown] {
            let reply = scene.ask(&get(&place)).await;
            assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
            assert!(
                reply.contains("connect-failed") && reply.contains(&place),
                "{reply}"
            );
        }
    });
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_each_half_ends_by_itself() {
    run(async {
        let address = program(|mut socket| async move {
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await.unwrap();
            socket.write_all(&said).await.unwrap();
        })
        .await;
        let scene = open();
        let (mut client, head) = connect(&scene, address).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client.write_all(b"\x16\x03\x01 hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        within(client.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"\x16\x03\x01 hello");
    });
}

#[test]
fn a_tunnel_that_is_cut_is_seen_to_be_cut() {
    run(async {
        let address = program(|mut socket| async move {
            socket.write_all(b"some").await.unwrap();
            socket.read_exact(&mut [0; 4]).await.unwrap();
            crate::splice::owe(&socket, true);
        })
        .await;
        let scene = open();
        let (mut client, _) = connect(&scene, address).await;
        client.read_exact(&mut [0; 4]).await.unwrap();
        client.write_all(b"more").await.unwrap();
        let ended = within(client.read(&mut [0])).await;
        assert!(ended.is_err(), "{ended:?}");
    });
}

#[test]
fn client_and_server_may_change_to_another_protocol() {
    run(async {
        let address = program(|mut socket| async move {
            let head = read_head(&mut socket).await.to_ascii_lowercase();
            for line in [
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
            ] {
                assert!(head.contains(line), "{head}");
            }
            let reply = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
                         websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst";
            socket.write_all(reply.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await.unwrap();
            socket.write_all(&said).await.unwrap();
        })
        .await;
        let scene = open();
        let mut client = scene.client().await;
        let asking = format!(
            "GET /chat HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(asking.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await.to_ascii_lowercase();
        for line in [
            "http/1.1 101 switching protocols\r\n",
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-accept: x\r\n",
        ] {
            assert!(head.contains(line), "{head}");
        }
        client.write_all(b"\x81\x02hi").await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        within(client.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"first\x81\x02hi");
    });
}

#[test]
fn long_bodies_pass_both_ways() {
    const LENGTH: usize = 1 << 20;
    run(async {
        let address = program(|mut socket| async move {
            let head = read_head(&mut socket).await.to_ascii_lowercase();
            assert!(head.contains("content-length: 1048576\r\n"), "{head}");
            let mut body = vec![0; LENGTH];
            socket.read_exact(&mut body).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100000\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.write_all(&body).await.unwrap();
            socket
                .write_all(b"\r\n0\r\nx-sum: 7\r\n\r\n")
                .await
                .unwrap();
        })
        .await;
        let scene = open();
        let client = scene.client().await;
        let (mut read, mut write) = client.into_split();
        let sending = async {
            let head =
                format!("POST / HTTP/1.0\r\nhost: {address}\r\ncontent-length: {LENGTH}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![7; LENGTH]).await.unwrap();
        };
        let reading = async {
            // Of HTTP/1.0: what ends its body is the end of the connection.
            let mut back = Vec::new();
            read.read_to_end(&mut back).await.unwrap();
            back
        };
        let ((), back) = within(async { tokio::join!(sending, reading) }).await;
        assert!(back.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(back.ends_with(&vec![7; LENGTH]));
    });
}

#[test]
fn what_a_server_says_before_and_after_its_reply_is_handed_on() {
    run(async {
        let address = answering(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-isthmus-at: mine\r\nx-sum: 7\r\n\r\n",
        )
        .await;
        let scene = open();
        let reply = scene.ask(&get(address)).await;
        let hint = "HTTP/1.1 103 \r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert!(reply.starts_with(hint), "{reply}");
        assert!(
            reply.ends_with("5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{reply}"
        );

        let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").await;
        let reply = scene.ask(&get(address).replace("GET", "HEAD")).await;
        assert!(reply.contains("content-length: 7\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\n"), "{reply}");
    });
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_sent_when_the_server_asks() {
    run(async {
        let (told, asked) = oneshot::channel();
        let told = Cell::new(Some(told));
        let address = program(move |mut socket| {
            let told = told.take();
            async move {
                let head = read_head(&mut socket).await;
                assert!(head.contains("expect: 100-continue\r\n"), "{head}");
                let nothing = socket.try_read(&mut [0]);
                assert!(nothing.is_err(), "{nothing:?}");
                socket
                    .write_all(b"HTTP/1.1 100 Go on\r\n\r\n")
                    .await
                    .unwrap();
                let mut body = [0; 4];
                socket.read_exact(&mut body).await.unwrap();
                socket.write_all(HELLO.as_bytes()).await.unwrap();
                told.map(|told| told.send(body));
                let _ = socket.read(&mut [0]).await;
            }
        })
        .await;
        let scene = open();
        let mut client = scene.client().await;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {address}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let go_on = within(read_head(&mut client)).await;
        assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
        client.write_all(b"body").await.unwrap();
        read_hello(&mut client).await;
        assert_eq!(&within(asked).await.unwrap(), b"body");
    });
}

/// A server that answers the first request on each connection, and closes it on the second after `last`.
async fn closing(last: &'static str) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let heads = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&heads);
    let address = program(move |mut socket| {
        let kept = Rc::clone(&kept);
        async move {
            for reply in [HELLO, last] {
                let head = read_head(&mut socket).await;
                kept.borrow_mut().push(head);
                socket.write_all(reply.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, heads)
}

#[test]
fn a_connection_that_was_closed_while_it_waited_costs_nobody_an_answer() {
    run(async {
        let (address, heads) = closing("").await;
        let scene = open();
        let mut client = scene.client().await;
        let ask = |method| format!("{method} / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        for _ in 0..2 {
            client.write_all(ask("GET").as_bytes()).await.unwrap();
            read_hello(&mut client).await;
        }
        assert_eq!(heads.borrow().len(), 3);
        // The second connection is closed in the same way, but this may have been done.
        client.write_all(ask("POST").as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(head.contains("maybe-executed"), "{head}");
        assert_eq!(heads.borrow().len(), 4);

        // Who has begun to answer has seen the request.
        let (address, heads) = closing("HTTP/1.1 200 O").await;
        let mut client = scene.client().await;
        let ask = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        read_hello(&mut client).await;
        client.write_all(ask.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.contains("maybe-executed"), "{head}");
        assert_eq!(heads.borrow().len(), 2);
    });
}

/// What follows the end of a body is the next request.
#[test]
fn the_end_of_a_body_is_read_once_whatever_becomes_of_its_connection() {
    run(async {
        let (address, heads) = closing("").await;
        let scene = open();
        let mut client = scene.client().await;
        let get = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        client.write_all(get.as_bytes()).await.unwrap();
        read_hello(&mut client).await;
        let chunked = "transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let delete = format!("DELETE / HTTP/1.1\r\nhost: {address}\r\n{chunked}{get}");
        client.write_all(delete.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.contains("maybe-executed"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        within(client.read_exact(&mut vec![0; length]))
            .await
            .unwrap();
        read_hello(&mut client).await;
        assert_eq!(heads.borrow().len(), 3);
    });
}

#[test]
fn a_reply_that_is_cut_is_seen_to_be_cut() {
    run(async {
        let scene = open();
        for (framing, body) in [
            ("content-length: 10", "hello"),
            ("transfer-encoding: chunked", "5\r\nhello\r\n"),
        ] {
            let address = program(move |mut socket| async move {
                read_head(&mut socket).await;
                let reply = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
                socket.write_all(reply.as_bytes()).await.unwrap();
            })
            .await;
            let reply = scene.ask(&get(address)).await;
            assert!(reply.contains(framing), "{reply}");
            assert!(reply.ends_with(body), "{reply}");
        }
        let counted = scene.caller.metrics.encode();
        assert!(counted.contains("upstream-reset"), "{counted}");
    });
}

#[test]
fn what_is_no_reply_is_told_as_such() {
    run(async {
        let scene = open();
        for (said, reason) in [
            ("SSH-2.0-OpenSSH\r\n\r\n", "bad-upstream-reply"),
            (
                "HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
                "bad-upstream-reply",
            ),
            ("HTTP/1.1 200 O", "maybe-executed"),
        ] {
            let address = program(move |mut socket| async move {
                read_head(&mut socket).await;
                socket.write_all(said.as_bytes()).await.unwrap();
            })
            .await;
            let reply = scene.ask(&get(address)).await;
            assert!(reply.starts_with("HTTP/1.1 502 "), "{said}: {reply}");
            assert!(reply.contains(reason), "{said}: {reply}");
        }
    });
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    run(async {
        let (arrived, came) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        let both = Cell::new(Some((arrived, told)));
        let address = program(move |mut socket| {
            let both = both.take();
            async move {
                let Some((arrived, told)) = both else { return };
                read_head(&mut socket).await;
                arrived.send(()).unwrap();
                let _ = socket.read(&mut [0]).await;
                told.send(()).unwrap();
            }
        })
        .await;
        let scene = open();
        let mut client = scene.client().await;
        client.write_all(get(address).as_bytes()).await.unwrap();
        within(came).await.unwrap();
        drop(client);
        within(ended).await.unwrap();
    });
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_longer_than_the_client_does() {
    run(async {
        let address = program(|mut socket| async move {
            let _ = socket.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let scene = open();
        let ask = get(address).replace("host: x", "host: x\r\nx-isthmus-timeout: 50m");
        let reply = scene.ask(&ask).await;
        assert!(reply.starts_with("HTTP/1.1 504 "), "{reply}");
        assert!(reply.contains("request-timeout"), "{reply}");
    });
}

#[test]
fn a_mesh_that_lets_nobody_out_any_more_is_obeyed_at_once() {
    run(async {
        let address = answering(HELLO).await;
        let mut scene = open();
        let mut client = scene.client().await;
        let ask = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        read_hello(&mut client).await;
        let (mut tunnel, head) = connect(&scene, address).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        scene.let_out(Deny);
        let ended = within(tunnel.read(&mut [0])).await;
        assert!(ended.is_err(), "{ended:?}");
        client.write_all(ask.as_bytes()).await.unwrap();
        let head = within(read_head(&mut client)).await;
        assert!(head.contains("outside-denied"), "{head}");
        scene.let_out(Allow);
        let reply = scene.ask(&get(address)).await;
        assert!(reply.ends_with("hello"), "{reply}");
    });
}

#[test]
fn clients_of_http_2_are_let_out_as_well() {
    run(async {
        let address = program(|mut socket| async move {
            let head = read_head(&mut socket).await;
            assert!(head.starts_with("POST /a HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(HELLO.as_bytes()).await.unwrap();
            let _ = socket.read(&mut [0]).await;
        })
        .await;
        let scene = open();
        let mut client = h2_client(&scene).await.ready().await.unwrap();
        let request = Request::post(format!("http://{address}/a"))
            .body(())
            .unwrap();
        let (response, mut sending) = client.send_request(request, false).unwrap();
        sending
            .send_data(Bytes::from_static(b"body"), true)
            .unwrap();
        let mut response = within(response).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(within(data(response.body_mut())).await.unwrap(), "hello");
    });
}

#[test]
fn a_listener_for_one_service_leads_nowhere_else() {
    run(async {
        let (address, heads) = remembering().await;
        let mut scene = Scene::local(address);
        scene.let_out(Allow);
        // What is said in a tunnel to a port that speaks HTTP comes to that service, whatever it names.
        let (mut client, head) = connect(&scene, format_args!("{HOST}:80")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n")
            .await
            .unwrap();
        read_hello(&mut client).await;
        assert_eq!(heads.borrow().len(), 1);
        let counted = scene.caller.metrics.encode();
        assert!(!counted.contains("\"outside\""), "{counted}");
    });
}
