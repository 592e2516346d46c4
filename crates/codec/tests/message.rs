//! Messages between proxies: what is written is read back, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_codec::message::{
    Context, Interim, MAX_AVOID, Open, Priority, RefusalCode, Reply, Request, Response, TcpOpen,
    TunnelOpen, TunnelReply, Utilisation,
};
use isthmus_codec::{DecodeError, Fields};
use isthmus_model::{ClusterName, Handle, LabelKey, ServiceName, Subset};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn encode_open(open: &Open) -> Bytes {
    let mut out = BytesMut::new();
    open.encode(&mut out);
    out.freeze()
}

fn encode_reply(reply: &Reply) -> Bytes {
    let mut out = BytesMut::new();
    reply.encode(&mut out);
    out.freeze()
}

fn fields() -> impl Strategy<Value = Fields> {
    vec(("[a-zA-Z-]{1,12}", "[ -~]{0,90}"), 0..9).prop_map(|list| {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.push(name, value).unwrap();
        }
        fields
    })
}

fn service() -> impl Strategy<Value = ServiceName> {
    ("[a-z]{1,9}", "[a-z]{1,9}").prop_map(|(a, b)| ServiceName::new(&a, &b).unwrap())
}

fn cluster() -> impl Strategy<Value = ClusterName> {
    "[a-z]{1,9}".prop_map(|name| ClusterName::new(&name).unwrap())
}

fn handle() -> impl Strategy<Value = Handle> {
    "[!-~]{1,20}".prop_map(|text| Handle::new(&text))
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(vec![Priority::High, Priority::Normal, Priority::Low])
}

fn context() -> impl Strategy<Value = Context> {
    let remaining = option::of((0..u64::MAX >> 2).prop_map(Duration::from_micros));
    let trace = option::of("[ -~]{0,60}".prop_map(Bytes::from));
    (
        remaining,
        any::<u8>(),
        priority(),
        option::of(cluster()),
        trace,
    )
        .prop_map(
            |(remaining, attempt, priority, source_cluster, trace)| Context {
                remaining,
                attempt,
                priority,
                source_cluster,
                trace,
            },
        )
}

fn open() -> impl Strategy<Value = Open> {
    let line = ("[A-Z]{1,9}", "/[!-\"$-~]{0,40}", "[a-z0-9.]{0,20}");
    let rest = (option::of("[!-~]{1,20}"), any::<bool>(), context());
    let request = (service(), any::<u16>(), line, fields(), rest).prop_map(
        |(service, port, (method, path, authority), fields, (upgrade, expects, context))| {
            Open::Request(Request {
                service,
                port,
                method: method.into(),
                path: path.into(),
                authority: authority.into(),
                fields,
                upgrade: upgrade.map(Into::into),
                expects,
                context,
            })
        },
    );
    let tcp = (service(), any::<u16>(), context()).prop_map(|(service, port, context)| {
        Open::Tcp(TcpOpen {
            service,
            port,
            context,
        })
    });
    let wishes = (
        vec(handle(), 0..MAX_AVOID),
        option::of(handle()),
        option::of(".{0,30}"),
    );
    let subset = btree_map("[a-z]{1,9}", ".{0,20}", 0..4);
    let tunnel = (
        cluster(),
        service(),
        any::<u16>(),
        subset,
        wishes,
        any::<u8>(),
        priority(),
    )
        .prop_map(
            |(cluster, service, port, labels, (avoid, want, data_class), hop_limit, priority)| {
                let label =
                    |(key, value): (String, String)| (LabelKey::new(&key).unwrap(), value.into());
                Open::Tunnel(TunnelOpen {
                    cluster,
                    service,
                    port,
                    subset: Subset(labels.into_iter().map(label).collect()),
                    avoid,
                    want,
                    hop_limit,
                    priority,
                    data_class,
                })
            },
        );
    prop_oneof![request, tcp, tunnel]
}

fn reply() -> impl Strategy<Value = Reply> {
    let utilisation = option::of((0..=1000_u16).prop_map(Utilisation::of_permille));
    let refusal = option::of("[ -~]{0,60}".prop_map(Bytes::from));
    let words = (refusal, option::of("[!-~]{1,20}".prop_map(Bytes::from)));
    let waited = option::of(any::<u32>().prop_map(|micros| Duration::from_micros(micros.into())));
    let busy = (utilisation, waited);
    let response = (200..=999_u16, fields(), busy, any::<bool>(), words).prop_map(
        |(status, fields, (utilisation, waited), do_not_retry, (refusal, upgrade))| {
            Reply::Response(Response {
                status,
                fields,
                utilisation,
                waited,
                do_not_retry,
                refusal,
                upgrade,
            })
        },
    );
    let way = (handle(), option::of(".{0,30}"), any::<u32>()).prop_map(|(handle, zone, weight)| {
        Reply::Tunnel(TunnelReply::Open {
            handle,
            zone,
            weight,
        })
    });
    let refused = (any::<u16>(), ".{0,60}").prop_map(|(code, detail)| {
        Reply::Tunnel(TunnelReply::Refused {
            code: RefusalCode::from(code),
            detail,
        })
    });
    prop_oneof![response, Just(Reply::Accepted), way, refused]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn round_trips(open in open(), reply in reply()) {
        prop_assert_eq!(Open::decode(encode_open(&open)), Ok(open));
        prop_assert_eq!(Reply::decode(encode_reply(&reply)), Ok(reply));
    }

    #[test]
    fn damaged_messages_never_panic(
        open in open(),
        reply in reply(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        length in any::<prop::sample::Index>(),
    ) {
        for whole in [encode_open(&open), encode_reply(&reply)] {
            let mut damaged = whole.to_vec();
            damaged[at.index(whole.len())] = byte;
            damaged.truncate(length.index(whole.len() + 1));
            let damaged = Bytes::from(damaged);
            let _ = Open::decode(damaged.clone());
            let _ = Reply::decode(damaged);
        }
    }

    #[test]
    fn no_garbage_panics(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        // Whatever is read can be written and means the same again.
        if let Ok(open) = Open::decode(bytes.clone()) {
            prop_assert_eq!(Open::decode(encode_open(&open)), Ok(open));
        }
        if let Ok(reply) = Reply::decode(bytes) {
            prop_assert_eq!(Reply::decode(encode_reply(&reply)), Ok(reply));
        }
    }
}

/// A message of one kind with the given (key, value) pairs; values shorter than 64 bytes.
fn raw(kind: u8, entries: &[(u8, &[u8])]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    for (key, value) in entries {
        match key {
            0..64 => out.put_u8(*key),
            _ => out.put_u16(0x4000 | u16::from(*key)),
        }
        out.put_u8(u8::try_from(value.len()).unwrap());
        out.put_slice(value);
    }
    out.freeze()
}

#[test]
fn what_is_refused_and_what_is_skipped() {
    let (service, port) = ((3, &b"shop/cart"[..]), (5, &b"\x08"[..]));
    let line = [(7, &b"GET"[..]), (9, b"/"), (11, b"x")];
    let request = |more: &[(u8, &'static [u8])]| {
        let mut entries = vec![service, port];
        entries.extend(line);
        entries.extend(more);
        Open::decode(raw(1, &entries)).map(|_| ())
    };
    let invalid = |field: &'static str| move |error: &DecodeError| matches!(error, DecodeError::Invalid { field: found, .. } if *found == field);
    assert_eq!(request(&[]), Ok(()));
    assert_eq!(
        request(&[(0x3e, &b"later"[..])]),
        Ok(()),
        "unknown and optional"
    );
    let unknown = DecodeError::UnknownCritical { number: 0x3f >> 1 };
    assert_eq!(request(&[(0x3f, &b"later"[..])]), Err(unknown));
    assert_eq!(
        request(&[(11, &b"x"[..])]),
        Err(DecodeError::Order { number: 5 })
    );
    for (fields, what) in [
        (&b"\x01a\x03b\r\n"[..], "a line end in a value"),
        (b"\x02a \x01b", "a space in a name"),
        (b"\x00\x01b", "an empty name"),
    ] {
        assert!(
            invalid("fields")(&request(&[(13, fields)]).unwrap_err()),
            "{what}"
        );
    }
    let truncated = DecodeError::Truncated {
        field: "a field value",
    };
    assert_eq!(request(&[(13, &b"\x01a\x05b"[..])]), Err(truncated));

    for (entries, field) in [
        (vec![port], "service"),
        (vec![service], "port"),
        (vec![service, port, line[1], line[2]], "method"),
        (vec![service, port, line[0], line[2]], "path"),
        (vec![service, port, line[0], line[1]], "authority"),
    ] {
        let missing = DecodeError::Missing { field };
        assert_eq!(Open::decode(raw(1, &entries)), Err(missing));
    }
    for (entry, field) in [
        ((3, &b"Shop/cart"[..]), "service"),
        ((3, b"\xff"), "service"),
        ((5, b"\x80\x01\x00\x00"), "port"),
        ((5, b"\x08\x08"), "port"),
        ((7, b"G T"), "method"),
        ((9, b"x"), "path"),
        ((9, b"/ HTTP/1.1\r\n"), "path"),
        ((11, b"a\r\nb"), "authority"),
        ((39, b"Up"), "source cluster"),
        ((65, b"-"), "cluster"),
        ((67, b"\x01 \x01b"), "subset"),
        ((68, b"\x01 "), "avoid"),
        ((71, b""), "want"),
    ] {
        let error = Open::decode(raw(3, &[entry])).unwrap_err();
        assert!(invalid(field)(&error), "{field}: {error}");
        assert!(error.to_string().starts_with(field), "{error}");
    }
    assert!(matches!(
        Open::decode(raw(9, &[])),
        Err(DecodeError::UnknownKind { kind: 9, .. })
    ));
    assert!(matches!(
        Reply::decode(raw(9, &[])),
        Err(DecodeError::UnknownKind { kind: 9, .. })
    ));
    assert!(matches!(
        Open::decode(Bytes::new()),
        Err(DecodeError::Truncated { .. })
    ));
    assert!(invalid("status")(
        &Reply::decode(raw(1, &[(3, b"\x40\x64")])).unwrap_err()
    ));
    let too_many = b"\x01a".repeat(MAX_AVOID + 1);
    let mut message = BytesMut::from(&[3, 0x40, 68, 0x40, 130][..]);
    message.put_slice(&too_many);
    assert!(invalid("avoid")(
        &Open::decode(message.freeze()).unwrap_err()
    ));
}

#[test]
fn codes_keep_their_numbers() {
    for (code, number, word) in [
        (RefusalCode::NoSuchService, 1, "no-such-service"),
        (RefusalCode::NotExported, 2, "not-exported"),
        (RefusalCode::NoHealthyWorkload, 3, "no-healthy-workload"),
        (RefusalCode::WrongCluster, 4, "wrong-cluster"),
        (RefusalCode::HopLimit, 5, "hop-limit"),
        (RefusalCode::Draining, 6, "draining"),
        (RefusalCode::Overloaded, 7, "overloaded"),
        (RefusalCode::NotAuthorized, 8, "not-authorized"),
        (RefusalCode::Unknown(99), 99, "unknown-99"),
    ] {
        assert_eq!((u16::from(code), RefusalCode::from(number)), (number, code));
        assert_eq!(code.to_string(), word);
    }
}

#[test]
fn what_comes_before_a_reply_is_no_reply() {
    for (status, expect) in [
        (100, false),
        (101, false),
        (102, true),
        (199, true),
        (200, false),
    ] {
        let interim = Interim {
            status,
            fields: Fields::new(),
        };
        let mut out = BytesMut::new();
        interim.encode(&mut out);
        let written = out.freeze();
        assert_eq!(Interim::decode(written.clone()).is_ok(), expect, "{status}");
        assert!(Reply::decode(written).is_err());
        let accepted = encode_reply(&Reply::Accepted);
        assert!(Interim::decode(accepted).is_err());
    }
}
