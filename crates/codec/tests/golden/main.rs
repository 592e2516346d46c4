//! What release 0.1.0 says to a peer, byte by byte, and that this version says and hears the same:
//! proxies of two versions serve each other during an upgrade.
//!
//! The files are never written anew. Where this version says more than that release did, the
//! comparison is the place to say why the old one understands it all the same.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::message::{
    Context, Open, Priority, RefusalCode, Reply, Request, Response, TcpOpen, TunnelOpen,
    TunnelReply, Utilisation,
};
use isthmus_codec::mux::{Connection, Event, LeaveCode, Settings, Side};
use isthmus_model::{ClusterName, Handle, LabelKey, ServiceName, Subset};

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1.0");
    let text = std::fs::read_to_string(path.join(format!("{name}.hex"))).unwrap();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn check(name: &str, written: &[u8]) {
    assert_eq!(written, golden(name), "{name}");
}

fn service() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn fields(all: &[(&'static str, &'static str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in all {
        fields.push(*name, *value).unwrap();
    }
    fields
}

fn context() -> Context {
    Context {
        remaining: Some(Duration::from_millis(1500)),
        attempt: 2,
        priority: Priority::High,
        source_cluster: Some(ClusterName::new("us-west").unwrap()),
        trace: Some(Bytes::from_static(
            b"00-0af7651916cd43dd8448eb211c80319c-01",
        )),
    }
}

fn opens() -> Vec<(&'static str, Open)> {
    let version = LabelKey::new("version").unwrap();
    let request = Request {
        service: service(),
        port: 80,
        method: Bytes::from_static(b"POST"),
        path: Bytes::from_static(b"/pay?id=7"),
        authority: Bytes::from_static(b"cart.shop.mesh"),
        fields: fields(&[("content-type", "text/plain"), ("x-a", ""), ("x-a", "b")]),
        upgrade: None,
        expects: false,
        context: context(),
    };
    let tcp = TcpOpen {
        service: service(),
        port: 6379,
        context: Context::default(),
    };
    let tunnel = TunnelOpen {
        cluster: ClusterName::new("eu-central").unwrap(),
        service: service(),
        port: 80,
        subset: Subset(BTreeMap::from([(version, "v2".into())])),
        avoid: vec![Handle::new("cart-1"), Handle::new("cart-2")],
        want: Some(Handle::new("cart-3")),
        hop_limit: 1,
        priority: Priority::Low,
        data_class: Some("personal".to_owned()),
    };
    vec![
        ("open-request", Open::Request(request)),
        ("open-tcp", Open::Tcp(tcp)),
        ("open-tunnel", Open::Tunnel(tunnel)),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let response = Response {
        status: 503,
        fields: fields(&[("content-length", "3"), ("x-isthmus-at", "cart-1")]),
        utilisation: Some(Utilisation::of_permille(500)),
        // That release does not say it, and passes over it.
        waited: None,
        do_not_retry: true,
        refusal: Some(Bytes::from_static(b"no-healthy-workload")),
        upgrade: None,
    };
    let open = TunnelReply::Open {
        handle: Handle::new("cart-3"),
        zone: Some("a".into()),
        weight: 7,
    };
    let refused = TunnelReply::Refused {
        code: RefusalCode::WrongCluster,
        detail: "not here".to_owned(),
    };
    vec![
        ("reply-response", Reply::Response(response)),
        ("reply-accepted", Reply::Accepted),
        ("reply-tunnel-open", Reply::Tunnel(open)),
        ("reply-tunnel-refused", Reply::Tunnel(refused)),
    ]
}

#[test]
fn messages_are_those_of_the_release() {
    for (name, open) in opens() {
        let mut written = BytesMut::new();
        open.encode(&mut written);
        check(name, &written);
        assert_eq!(
            Open::decode(Bytes::from(golden(name))).unwrap(),
            open,
            "{name}"
        );
    }
    for (name, reply) in replies() {
        let mut written = BytesMut::new();
        reply.encode(&mut written);
        check(name, &written);
        assert_eq!(
            Reply::decode(Bytes::from(golden(name))).unwrap(),
            reply,
            "{name}"
        );
    }
}

/// What that release began with; today credit grows to as much.
fn as_then() -> Settings {
    Settings {
        stream_credit: 256 * 1024,
        connection_credit: 4 * 1024 * 1024,
        features: 0,
        ..Settings::default()
    }
}

/// All that the one who dials says: settings, a stream with data and trailers, a reset, a farewell.
fn speak(now: Instant) -> Vec<u8> {
    let mut dialler = Connection::new(Side::Dialler, as_then(), now);
    let mut said = BytesMut::new();
    dialler.transmit(&mut said, 1 << 20);
    let open = opens().remove(1).1;
    let stream = dialler.open(&open, false).unwrap();
    dialler
        .send(stream, &mut Bytes::from_static(b"PING\r\n"))
        .unwrap();
    dialler
        .finish(stream, Some(&fields(&[("grpc-status", "0")])))
        .unwrap();
    let other = dialler.open(&open, false).unwrap();
    dialler.transmit(&mut said, 1 << 20);
    dialler.reset(other, isthmus_codec::mux::ResetCode::Timeout);
    dialler.ping(now);
    dialler.go_away(LeaveCode::Draining);
    dialler.transmit(&mut said, 1 << 20);
    said.to_vec()
}

#[test]
fn the_multiplex_is_that_of_the_release() {
    let now = Instant::now();
    check("mux-dialler", &speak(now));

    // What that release said is understood, and answered as it was.
    let mut listener = Connection::new(Side::Listener, as_then(), now);
    let mut arrived = BytesMut::from(golden("mux-dialler").as_slice());
    listener.receive(&mut arrived, now).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| listener.poll_event()).collect();
    let opened = events.iter().find_map(|event| match event {
        Event::Opened { stream, open, .. } => Some((*stream, open.clone())),
        _ => None,
    });
    let (stream, open) = opened.unwrap();
    assert_eq!(*open, opens()[1].1);
    let data = |event: &Event| matches!(event, Event::Data { bytes, .. } if bytes == "PING\r\n");
    assert!(events.iter().any(data), "{events:?}");
    let left = |event: &Event| matches!(event, Event::GoAway { .. });
    assert!(events.iter().any(left), "{events:?}");

    let mut answered = BytesMut::new();
    listener.reply(stream, &replies()[0].1, false).unwrap();
    listener
        .send(stream, &mut Bytes::from_static(b"no\n"))
        .unwrap();
    listener.finish(stream, None).unwrap();
    listener.transmit(&mut answered, 1 << 20);
    check("mux-listener", &answered);
}
