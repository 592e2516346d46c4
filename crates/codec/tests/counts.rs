//! What `make counts` counts of the protocols. Each test does one thing a hundred times, and is an
//! ordinary test besides.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Body, Item, Limits, RequestDecoder, RequestHead, ResponseDecoder, ResponseHead, Version,
    encode_request, encode_response,
};
use isthmus_codec::message::{Context, Open, Reply, Request, Response, Utilisation};
use isthmus_codec::mux::{Connection, Event, MAX_DATA, Settings, Side, StreamId};
use isthmus_model::{ClusterName, ServiceName};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Instructions are counted while this runs, and divided by a hundred.
#[inline(never)]
fn counted<T>(mut act: impl FnMut() -> T) -> T {
    for _ in 1..100 {
        std::hint::black_box(act());
    }
    act()
}

/// Does it once before, since what is made on first use is no part of it.
fn count<T>(mut act: impl FnMut() -> T) -> T {
    act();
    counted(act)
}

const SHORT: &[u8] = b"GET /cart/7 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n";

const BROWSER: &[u8] = b"GET /cart/7?currency=EUR&page=2 HTTP/1.1\r\n\
    host: cart.shop.mesh\r\n\
    connection: keep-alive\r\n\
    user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0\r\n\
    accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    accept-language: en-GB,en;q=0.7,de;q=0.3\r\n\
    accept-encoding: gzip, deflate, br, zstd\r\n\
    referer: http://shop.example/catalog?page=2\r\n\
    cookie: session=3f0a9c5e7b1d4f68a2c4; theme=dark; consent=yes\r\n\
    upgrade-insecure-requests: 1\r\n\
    cache-control: max-age=0\r\n\
    x-request-id: 0f4a1c3e-9b1d-4c53-8a57-2f7d6be01c11\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: application/json\r\n\
    date: Sun, 01 Mar 2026 12:00:00 GMT\r\n\
    server: cart\r\n\
    cache-control: no-store\r\n\
    content-length: 1024\r\n\r\n";

/// Each of 1 KiB.
const CHUNKS: usize = 8;

fn request_head(bytes: &[u8]) -> RequestHead {
    let mut decoder = RequestDecoder::new(Limits::default());
    match decoder.decode(&mut BytesMut::from(bytes)) {
        Ok(Some(Item::Head(head, _))) => head,
        other => panic!("{other:?}"),
    }
}

fn response_head() -> ResponseHead {
    let mut decoder = ResponseDecoder::new(Limits::default());
    decoder.expect("GET".as_bytes());
    match decoder.decode(&mut BytesMut::from(REPLY)) {
        Ok(Some(Item::Head(head, _))) => head,
        other => panic!("{other:?}"),
    }
}

/// As it goes from proxy to proxy.
fn request() -> Open {
    let mut head = request_head(BROWSER);
    head.fields.remove("host");
    head.fields.remove("connection");
    Open::Request(Request {
        service: ServiceName::new("shop", "cart").unwrap(),
        port: 80,
        method: head.method,
        path: head.target,
        authority: "cart.shop.mesh".into(),
        fields: head.fields,
        upgrade: None,
        expects: false,
        context: Context {
            remaining: Some(std::time::Duration::from_secs(15)),
            source_cluster: Some(ClusterName::new("west").unwrap()),
            ..Context::default()
        },
    })
}

fn reply() -> Reply {
    Reply::Response(Response {
        status: 200,
        fields: response_head().fields,
        utilisation: Some(Utilisation::of_permille(250)),
        waited: Some(std::time::Duration::from_micros(40)),
        do_not_retry: false,
        refusal: None,
        upgrade: None,
    })
}

/// The requests in `bytes`, to their end: how much data they had.
fn requests(decoder: &mut RequestDecoder, input: &mut BytesMut, bytes: &[u8]) -> usize {
    input.extend_from_slice(bytes);
    let mut length = 0;
    while let Some(item) = decoder.decode(input).unwrap() {
        match item {
            Item::Data(data) => length += data.len(),
            Item::End => break,
            _ => {}
        }
    }
    length
}

#[test]
fn a_short_request_is_decoded() {
    let (mut decoder, mut input) = (RequestDecoder::new(Limits::default()), BytesMut::new());
    count(|| requests(&mut decoder, &mut input, SHORT));
    assert!(input.is_empty() && decoder.finish().is_ok());
}

#[test]
fn a_request_of_a_browser_is_decoded() {
    let (mut decoder, mut input) = (RequestDecoder::new(Limits::default()), BytesMut::new());
    count(|| requests(&mut decoder, &mut input, BROWSER));
    assert!(input.is_empty() && decoder.finish().is_ok());
}

#[test]
fn a_chunked_body_is_decoded() {
    let mut bytes = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..CHUNKS {
        bytes.extend_from_slice(&[b"400\r\n", &[b'x'; 1024][..], b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let (mut decoder, mut input) = (RequestDecoder::new(Limits::default()), BytesMut::new());
    let length = count(|| requests(&mut decoder, &mut input, &bytes));
    assert_eq!(length, CHUNKS * 1024);
}

#[test]
fn a_response_head_is_decoded() {
    let (mut decoder, mut input) = (ResponseDecoder::new(Limits::default()), BytesMut::new());
    let body = vec![b'x'; 1024];
    let item = count(|| {
        decoder.expect("GET".as_bytes());
        input.extend_from_slice(REPLY);
        input.extend_from_slice(&body);
        let head = decoder.decode(&mut input).unwrap();
        while !matches!(decoder.decode(&mut input), Ok(Some(Item::End))) {}
        head
    });
    assert!(matches!(item, Some(Item::Head(head, Body::Length(1024))) if head.status == 200));
}

#[test]
fn a_request_head_is_encoded() {
    let (head, mut out) = (request_head(BROWSER), BytesMut::new());
    count(|| {
        out.clear();
        let body = encode_request(&head, Body::None, &mut out).unwrap();
        body.end(None, &mut out).unwrap();
    });
    assert_eq!(out, BROWSER);
}

#[test]
fn a_response_is_encoded() {
    let (head, data, mut out) = (response_head(), vec![b'x'; 1024], BytesMut::new());
    count(|| {
        out.clear();
        let mut body = encode_response(&head, Body::Length(1024), &mut out).unwrap();
        body.data(&data, &mut out).unwrap();
        body.end(None, &mut out).unwrap();
    });
    assert_eq!(out, [REPLY, &data[..]].concat());
}

#[test]
fn a_chunked_body_is_encoded() {
    let head = ResponseHead {
        status: 200,
        version: Version::Http11,
        fields: Fields::new(),
    };
    let (data, mut out) = (vec![b'x'; 1024], BytesMut::new());
    count(|| {
        out.clear();
        let mut body = encode_response(&head, Body::Chunked, &mut out).unwrap();
        for _ in 0..CHUNKS {
            body.data(&data, &mut out).unwrap();
        }
        body.end(None, &mut out).unwrap();
    });
    assert!(out.ends_with(b"x\r\n0\r\n\r\n"));
}

#[test]
fn an_open_is_encoded_and_decoded() {
    let open = request();
    let decoded = count(|| {
        let mut out = BytesMut::new();
        open.encode(&mut out);
        Open::decode(out.freeze())
    });
    assert_eq!(decoded.unwrap(), open);
}

#[test]
fn a_reply_is_encoded_and_decoded() {
    let reply = reply();
    let decoded = count(|| {
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        Reply::decode(out.freeze())
    });
    assert_eq!(decoded.unwrap(), reply);
}

/// Two ends that have told each other their settings.
struct Pair {
    now: Instant,
    dialler: Connection,
    listener: Connection,
    wire: BytesMut,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut pair = Self {
            now,
            dialler: Connection::new(Side::Dialler, Settings::default(), now),
            listener: Connection::new(Side::Listener, Settings::default(), now),
            wire: BytesMut::new(),
        };
        for _ in 0..2 {
            pair.there(drop);
            pair.back(drop);
        }
        pair
    }

    /// What the dialler has to say reaches the listener.
    fn there(&mut self, heard: impl FnMut(Event)) {
        self.dialler.transmit(&mut self.wire, usize::MAX);
        self.listener.receive(&mut self.wire, self.now).unwrap();
        std::iter::from_fn(|| self.listener.poll_event()).for_each(heard);
    }

    /// The other way.
    fn back(&mut self, heard: impl FnMut(Event)) {
        self.listener.transmit(&mut self.wire, usize::MAX);
        self.dialler.receive(&mut self.wire, self.now).unwrap();
        std::iter::from_fn(|| self.dialler.poll_event()).for_each(heard);
    }

    /// `streams` exchanges at a time: a request, and a reply of 1 KiB.
    fn exchange(&mut self, streams: usize, open: &Open, reply: &Reply, body: &Bytes) -> usize {
        let mut opened: Vec<StreamId> = Vec::with_capacity(streams);
        for _ in 0..streams {
            self.dialler.open(open, true).unwrap();
        }
        self.there(|event| {
            if let Event::Opened { stream, .. } = event {
                opened.push(stream);
            }
        });
        for stream in opened {
            self.listener.reply(stream, reply, false).unwrap();
            self.listener.send(stream, &mut body.clone()).unwrap();
            self.listener.finish(stream, None).unwrap();
        }
        let mut came = Vec::with_capacity(streams);
        self.back(|event| {
            if let Event::Data { stream, bytes } = event {
                came.push((stream, bytes.len()));
            }
        });
        for (stream, length) in &came {
            self.dialler.consumed(*stream, *length);
        }
        came.iter().map(|(_, length)| length).sum()
    }
}

#[test]
fn an_exchange_crosses_the_multiplex() {
    let (mut pair, open, reply) = (Pair::new(), request(), reply());
    let body = Bytes::from(vec![b'x'; 1024]);
    let came = count(|| pair.exchange(1, &open, &reply, &body));
    assert_eq!((came, pair.dialler.open_streams()), (1024, 0));
}

#[test]
fn sixteen_exchanges_cross_the_multiplex_together() {
    let (mut pair, open, reply) = (Pair::new(), request(), reply());
    let body = Bytes::from(vec![b'x'; 1024]);
    let came = count(|| pair.exchange(16, &open, &reply, &body));
    assert_eq!((came, pair.dialler.open_streams()), (16 * 1024, 0));
}

#[test]
fn a_stream_is_opened_and_transmitted() {
    let (mut pair, open) = (Pair::new(), request());
    count(|| {
        pair.wire.clear();
        pair.dialler.open(&open, true).unwrap();
        pair.dialler.transmit(&mut pair.wire, usize::MAX)
    });
    assert_eq!(pair.dialler.open_streams(), 101);
}

#[test]
fn what_eight_streams_send_is_received() {
    let (mut pair, open) = (Pair::new(), request());
    let mut batch = || {
        let mut batch = BytesMut::new();
        for _ in 0..8 {
            pair.dialler.open(&open, true).unwrap();
        }
        pair.dialler.transmit(&mut batch, usize::MAX);
        batch
    };
    let batches: Vec<BytesMut> = (0..101).map(|_| batch()).collect();
    let (now, mut batches) = (pair.now, batches.into_iter());
    let opened = count(|| {
        let mut batch = batches.next().unwrap();
        pair.listener.receive(&mut batch, now).unwrap();
        std::iter::from_fn(|| pair.listener.poll_event()).count()
    });
    assert_eq!(opened, 8);
}

#[test]
fn a_full_frame_of_data_crosses_the_multiplex() {
    let (mut pair, open) = (Pair::new(), request());
    let stream = pair.dialler.open(&open, false).unwrap();
    pair.there(drop);
    // A frame with its header fills a record of TLS.
    let data = Bytes::from(vec![b'x'; MAX_DATA - 8]);
    let came = count(|| {
        pair.dialler.send(stream, &mut data.clone()).unwrap();
        let mut came = None;
        pair.there(|event| {
            if let Event::Data { stream, bytes } = event {
                came = Some((stream, bytes));
            }
        });
        let (stream, bytes) = came.unwrap();
        pair.listener.consumed(stream, bytes.len());
        pair.back(drop);
        bytes
    });
    assert_eq!(came, data);
}
