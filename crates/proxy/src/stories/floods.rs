//! Clients of HTTP/2 that send what brings nothing, as fast as they can.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::http2::PREFACE;
use isthmus_model::AppProtocol::Http2;

use crate::testing::{HOST, Scene, answering, program, run, within};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const ENHANCE_YOUR_CALM: u32 = 11;

/// Types of frames (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 77;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A head in HPACK, from the static table (RFC 7541 appendix A), without dynamic entries.
fn head(method: Method) -> Vec<u8> {
    let length = u8::try_from(HOST.len()).unwrap();
    let fields = [method as u8, 0x86, 0x84, 0x01, length];
    [&fields, HOST.as_bytes()].concat()
}

#[derive(Clone, Copy)]
enum Method {
    Get = 0x82,
    Post = 0x83,
}

fn get(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &head(Method::Get),
    )
}

/// A request whose body is still to come.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(Method::Post))
}

/// A client that has said hello.
async fn connected(scene: &Scene, settings: &[u8]) -> TcpStream {
    let mut client = scene.client().await;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
    client.write_all(&hello).await.unwrap();
    client
}

/// The next frame: its type, its stream and its payload. `None`: the connection has ended.
async fn heard(client: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, _, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    client.read_exact(&mut payload).await.ok()?;
    Some((kind, u32::from_be_bytes(stream), payload))
}

fn code(payload: &[u8]) -> u32 {
    payload
        .iter()
        .fold(0, |code, &byte| code << 8 | u32::from(byte))
}

/// A flood: what is said first, and then again and again, told the number of the round.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    then: fn(u32) -> Vec<u8>,
}

fn floods() -> Vec<Flood> {
    let flood = |name, first: &[Vec<u8>], then| Flood {
        name,
        first: first.concat(),
        then,
    };
    // A field of 4,000 bytes goes into the table once and is repeated at a byte each.
    let mut bomb = head(Method::Get);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 2000]);
    vec![
        flood("cancelled requests", &[], |round| {
            let stream = 2 * round + 1;
            [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        }),
        flood("requests that make us cancel", &[], |round| {
            let stream = 2 * round + 1;
            // More credit than there may be.
            let too_much = 0x7fff_ffff_u32.to_be_bytes();
            [post(stream), frame(WINDOW_UPDATE, 0, stream, &too_much)].concat()
        }),
        flood("requests that never end", &[], |round| post(2 * round + 1)),
        flood(
            "heads that never end",
            &[frame(HEADERS, 0, 1, &head(Method::Get))],
            |_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 0]),
        ),
        flood(
            "empty pieces of heads",
            &[frame(HEADERS, 0, 1, &head(Method::Get))],
            |_| frame(CONTINUATION, 0, 1, &[]),
        ),
        flood(
            "heads of tiny fields",
            &[frame(HEADERS, 0, 1, &head(Method::Get))],
            |_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 0].repeat(4000)),
        ),
        flood(
            "a head that unpacks",
            &[frame(HEADERS, END_HEADERS, 1, &bomb)],
            |_| Vec::new(),
        ),
        flood("empty data", &[post(1)], |_| frame(DATA, 0, 1, &[])),
        flood("settings", &[], |_| frame(SETTINGS, 0, 0, &[])),
        flood("pings", &[], |_| frame(PING, 0, 0, &[7; 8])),
        flood("pongs", &[], |_| frame(PING, 1, 0, &[7; 8])),
        flood("grants for a stream", &[post(1)], |_| {
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])
        }),
        flood("grants", &[], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flood("priorities", &[], |_| {
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])
        }),
        flood("frames that nobody knows", &[], |_| {
            frame(UNKNOWN, 0, 0, &[])
        }),
    ]
}

/// What the proxy says last to a client that goes on until it is stopped.
async fn last_word(scene: &Scene, flood: &Flood) -> Option<u32> {
    const ROUNDS: u32 = 100;
    let (mut hears, mut says) = connected(scene, &[]).await.into_split();
    let (first, then) = (flood.first.clone(), flood.then);
    let saying = tokio::task::spawn_local(async move {
        let mut round = 0;
        let mut said = says.write_all(&first).await;
        while said.is_ok() {
            let next: Vec<u8> = (round..round + ROUNDS).flat_map(then).collect();
            round += ROUNDS;
            said = says.write_all(&next).await;
            tokio::task::yield_now().await;
        }
    });
    let mut last = None;
    while let Some((kind, _, payload)) = heard(&mut hears).await {
        if kind == GOAWAY {
            last = Some(code(&payload[4..8]));
        }
    }
    drop(hears);
    saying.abort();
    last
}

#[test]
fn every_flood_ends_with_a_word_and_harms_nobody() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let floods = floods();
        for flood in &floods {
            let last = within(last_word(&scene, flood)).await;
            assert_eq!(last, Some(ENHANCE_YOUR_CALM), "{}", flood.name);
            let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
            let reply = scene.ask(&request).await;
            assert!(reply.ends_with("hello"), "{}: {reply}", flood.name);
        }
        let counted = scene.caller.metrics.encode();
        let count = floods.len();
        let line = format!("isthmus_connections_shed_total{{reason=\"http2-flood\"}} {count}\n");
        assert!(counted.contains(&line), "{counted}");
    });
}

#[test]
fn replies_that_get_no_credit_are_given_up() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        // SETTINGS_INITIAL_WINDOW_SIZE of zero.
        let mut client = connected(&scene, &[0, 4, 0, 0, 0, 0]).await;
        let streams: Vec<u32> = (0..100).map(|number| 2 * number + 1).collect();
        let requests: Vec<u8> = streams.iter().flat_map(|&stream| get(stream)).collect();
        client.write_all(&requests).await.unwrap();
        let mut given_up = Vec::new();
        while given_up.len() < streams.len() {
            match heard(&mut client).await.expect("the connection stays") {
                (RST_STREAM, stream, _) => given_up.push(stream),
                (DATA, ..) => panic!("data without credit"),
                _ => {}
            }
        }
        given_up.sort_unstable();
        assert_eq!(given_up, streams);
    });
}

#[test]
fn a_client_that_says_no_more_is_let_go() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        // One asks for nothing, one stops in the middle of a head; neither answers a goodbye.
        let half = frame(HEADERS, 0, 1, &head(Method::Get));
        let mut clients = Vec::new();
        for said in [Vec::new(), half] {
            let mut client = connected(&scene, &[]).await;
            client.write_all(&said).await.unwrap();
            clients.push(client);
        }
        for mut client in clients {
            while heard(&mut client).await.is_some() {}
        }
    });
}

/// A program may be broken as well. What was asked of it fails, and nothing else.
#[test]
fn a_program_that_floods_is_let_go() {
    run(async {
        for (name, flood) in [
            ("pings", frame(PING, 0, 0, &[0; 8])),
            ("settings", frame(SETTINGS, 0, 0, &[])),
            ("grants", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ] {
            let flood = flood.repeat(100);
            let (told, left) = tokio::sync::oneshot::channel();
            let told = std::rc::Rc::new(std::cell::Cell::new(Some(told)));
            let address = program(move |mut socket| {
                let (told, flood) = (told.take(), flood.clone());
                async move {
                    let mut preface = [0; PREFACE.len()];
                    socket.read_exact(&mut preface).await.unwrap();
                    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                    let (mut read, mut write) = socket.split();
                    let hearing = async { while heard(&mut read).await.is_some() {} };
                    let flooding = async { while write.write_all(&flood).await.is_ok() {} };
                    tokio::join!(hearing, flooding);
                    if let Some(told) = told {
                        told.send(()).unwrap();
                    }
                }
            })
            .await;
            let scene = Scene::local_speaking(Http2, address);
            let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
            let mut client = scene.client().await;
            client.write_all(request.as_bytes()).await.unwrap();
            within(left).await.unwrap();
            let mut status = [0; 12];
            within(client.read_exact(&mut status)).await.unwrap();
            assert_eq!(&status[..10], b"HTTP/1.1 5", "{name}");
            let counted = scene.callee.metrics.encode();
            assert!(
                counted.contains("reason=\"http2-flood\"}"),
                "{name}: {counted}"
            );
        }
    });
}
