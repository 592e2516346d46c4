//! What is read, what is refused, what is written.

#![allow(clippy::too_many_lines, reason = "tables are long")]

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Body, Item, Limits, Malformed, RequestDecoder, RequestHead, ResponseHead, Target, Unsendable,
    Version, encode_request, encode_response, strip_hop_by_hop,
};

use crate::{bytewise, fields, requests, responses};

/// `GET /a None "body" {trailers}` per message.
fn sketch(items: &[Item<RequestHead>]) -> String {
    let mut text = String::new();
    for item in items {
        match item {
            Item::Head(head, body) => {
                let line =
                    [head.method.as_ref(), head.target.as_ref()].map(String::from_utf8_lossy);
                write!(text, "{} {} {body:?}", line[0], line[1]).unwrap();
            }
            Item::Data(data) => write!(text, " {}", String::from_utf8_lossy(data)).unwrap(),
            Item::Trailers(fields) => write!(text, " +{}", fields.len()).unwrap(),
            Item::End => text += ";",
        }
    }
    text
}

#[test]
fn requests_that_are_read() {
    for (input, expect) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a?b=c None;"),
        ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / None;"),
        ("GET / HTTP/1.0\r\n\r\n", "GET / None;"),
        (
            "GET http://x/ HTTP/1.1\r\nhost:\r\n\r\n",
            "GET http://x/ None;",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "POST / Length(3) abc;",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "POST / Length(0);",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST / Length(1) a;",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n\
             3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n",
            "POST / Chunked abc0123456789;",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nSum: 1\r\nMore: 2\r\n\r\n",
            "POST / Chunked a +2;",
        ),
        (
            "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\n\
             Content-Length: 1\r\n\r\naGET /3 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /1 None;POST /2 Length(1) a;GET /3 None;",
        ),
        (
            "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n\x16\x03raw",
            "CONNECT x:1 None;",
        ),
    ] {
        for pieces in [vec![input.as_bytes()], bytewise(input.as_bytes())] {
            let (items, end) = requests(&pieces);
            assert_eq!(
                (sketch(&items).as_str(), end),
                (expect, Ok(())),
                "{input:?}"
            );
        }
    }
}

#[test]
fn requests_that_are_refused() {
    use Malformed as M;
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
    let chunks = |rest: &str| head("Transfer-Encoding: chunked") + rest;
    let many = "a: b\r\n".repeat(128);
    for (input, expect, status) in [
        ("hello\r\n\r\n".into(), M::RequestLine, 400),
        (
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            M::RequestLine,
            400,
        ),
        (
            "GE(T / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            M::RequestLine,
            400,
        ),
        ("GET /\r\n\r\n".into(), M::RequestLine, 400),
        (
            "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            M::RequestLine,
            400,
        ),
        (
            // A space in the target; the version is a good one.
            "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            M::RequestLine,
            400,
        ),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(), M::Version, 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), M::Version, 505),
        ("GET / HTTP/1.1\r\n\r\n".into(), M::HostMissing, 400),
        (head("Host: y"), M::Host, 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), M::Host, 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), M::Host, 400),
        (head("no colon"), M::FieldName, 400),
        (head(": empty"), M::FieldName, 400),
        (head("a b: c"), M::FieldName, 400),
        (head("Content-Length : 3"), M::SpaceBeforeColon, 400),
        (head("a\t: 3"), M::SpaceBeforeColon, 400),
        (head("a: \x01"), M::FieldValue, 400),
        (head("a: \x7f"), M::FieldValue, 400),
        (head("a: b\r\n c"), M::Folded, 400),
        (head("a: b\r\n\tc: d"), M::Folded, 400),
        (" GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), M::Folded, 400),
        (head("a: b\rc"), M::BareCr, 400),
        (head("a: b\r\rc"), M::BareCr, 400),
        (head("a: b\nc: d"), M::BareLf, 400),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), M::BareLf, 400),
        ("\nGET / HTTP/1.1\r\n".into(), M::BareLf, 400),
        (head("a: \0"), M::Nul, 400),
        ("\x16\x03\x01\x02\0\x01".into(), M::Tls, 400),
        (
            "GET /".to_owned() + &"a".repeat(70_000),
            M::RequestLineTooLong { limit: 8192 },
            414,
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(8177)),
            M::RequestLineTooLong { limit: 8192 },
            414,
        ),
        (
            head(&format!("a: {}", "b".repeat(65_536))),
            M::HeadTooLarge { limit: 65_536 },
            431,
        ),
        (head(&many), M::TooManyFields { limit: 128 }, 431),
        (head("Content-Length: x"), M::ContentLength, 400),
        (head("Content-Length: +3"), M::ContentLength, 400),
        (head("Content-Length: -1"), M::ContentLength, 400),
        (head("Content-Length: 3, 3"), M::ContentLength, 400),
        (head("Content-Length: 0x3"), M::ContentLength, 400),
        (head("Content-Length:"), M::ContentLength, 400),
        (
            head("Content-Length: 18446744073709551616"),
            M::ContentLength,
            400,
        ),
        (
            head("Content-Length: 3\r\nContent-Length: 4"),
            M::ContentLengthsDiffer,
            400,
        ),
        (
            head("Content-Length: 3\r\nContent-Length: 03x"),
            M::ContentLength,
            400,
        ),
        (
            head("Content-Length: 3\r\nTransfer-Encoding: chunked"),
            M::LengthAndTransferCoding,
            400,
        ),
        (
            head("Transfer-Encoding: gzip, chunked"),
            M::TransferCoding,
            501,
        ),
        (head("Transfer-Encoding: xchunked"), M::TransferCoding, 501),
        (
            head("Transfer-Encoding: chunked, chunked"),
            M::TransferCoding,
            501,
        ),
        (head("Transfer-Encoding:"), M::TransferCoding, 501),
        (
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
            M::TransferCoding,
            501,
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            M::TransferCodingIn10,
            400,
        ),
        (
            "CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".into(),
            M::BodyOnConnect,
            400,
        ),
        (chunks("\r\n"), M::ChunkSize, 400),
        (chunks("g\r\n"), M::ChunkSize, 400),
        (chunks("0x5\r\n"), M::ChunkSize, 400),
        (chunks("-1\r\n"), M::ChunkSize, 400),
        (chunks(" 5\r\n"), M::ChunkSize, 400),
        (chunks("5 \r\n"), M::ChunkSize, 400),
        (chunks(";a\r\n"), M::ChunkSize, 400),
        (chunks("10000000000000000\r\n"), M::ChunkSizeOverflow, 400),
        (chunks("5\n"), M::BareLf, 400),
        (chunks("5\ra"), M::BareCr, 400),
        (chunks("5;\x01\r\n"), M::ChunkExtension, 400),
        (chunks("5;a\n"), M::BareLf, 400),
        (
            chunks(&("5;".to_owned() + &"a".repeat(300))),
            M::ChunkLineTooLong,
            400,
        ),
        (chunks("1\r\nab"), M::ChunkEnd, 400),
        (chunks("1\r\na\n"), M::ChunkEnd, 400),
        (chunks("0\r\na b: c\r\n\r\n"), M::FieldName, 400),
        (chunks("0\r\na: b\nc"), M::BareLf, 400),
        (
            chunks(&("0\r\na: ".to_owned() + &"b".repeat(70_000))),
            M::HeadTooLarge { limit: 65_536 },
            431,
        ),
        (chunks("5\r\nab"), M::Truncated, 400),
        (head("Content-Length: 5") + "abc", M::Truncated, 400),
        ("GET / HT".into(), M::Truncated, 400),
    ] {
        let shown = &input[..input.len().min(90)];
        for pieces in [vec![input.as_bytes()], bytewise(input.as_bytes())] {
            assert_eq!(requests(&pieces).1, Err(expect), "{shown:?}");
        }
        assert_eq!(expect.status(), status);
    }
}

/// Status, framing and body of each response, and how the input ended.
type Answers = (Vec<(u16, Body, &'static str)>, Result<(), Malformed>);

#[test]
fn the_framing_of_responses() {
    let plain = |body: Body, data: &'static str, end| (vec![(200, body, data)], end);
    let cases: Vec<(&str, &str, Answers)> = vec![
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            plain(Body::Length(2), "ok", Ok(())),
        ),
        (
            "GET",
            "HTTP/1.1 200\r\n\r\nall of it",
            plain(Body::UntilClose, "all of it", Ok(())),
        ),
        (
            "GET",
            "HTTP/1.0 200 OK\r\n\r\n",
            plain(Body::UntilClose, "", Ok(())),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            plain(Body::None, "", Ok(())),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            plain(Body::None, "", Ok(())),
        ),
        (
            "CONNECT",
            "HTTP/1.1 200 OK\r\n\r\nraw",
            plain(Body::None, "", Ok(())),
        ),
        (
            "GET",
            "HTTP/1.1 204 No\r\n\r\n",
            (vec![(204, Body::None, "")], Ok(())),
        ),
        (
            "GET",
            "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n",
            (vec![(304, Body::None, "")], Ok(())),
        ),
        (
            "POST",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n\
             HTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\na",
            (
                vec![
                    (100, Body::None, ""),
                    (103, Body::None, ""),
                    (201, Body::Length(1), "a"),
                ],
                Ok(()),
            ),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            plain(Body::Length(2), "ok", Err(Malformed::Unasked)),
        ),
        (
            "GET",
            "HTTP/1.1 101 Up\r\n\r\n",
            (vec![], Err(Malformed::SwitchedProtocols)),
        ),
        (
            "GET",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            (vec![], Err(Malformed::StatusLine)),
        ),
        (
            "GET",
            "HTTP/1.1 20 OK\r\n\r\n",
            (vec![], Err(Malformed::StatusLine)),
        ),
        (
            "GET",
            "HTTP/1.1 099 OK\r\n\r\n",
            (vec![], Err(Malformed::StatusLine)),
        ),
        (
            "GET",
            "HTTP/3.1 200 OK\r\n\r\n",
            (vec![], Err(Malformed::Version)),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            (vec![], Err(Malformed::SpaceBeforeColon)),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            (vec![], Err(Malformed::LengthAndTransferCoding)),
        ),
        ("GET", "", (vec![], Err(Malformed::Truncated))),
    ];
    for (method, input, expect) in cases {
        for pieces in [vec![input.as_bytes()], bytewise(input.as_bytes())] {
            let (items, end) = responses(&[method], &pieces);
            let mut seen = Vec::new();
            for item in items {
                match item {
                    Item::Head(head, body) => seen.push((head.status, body, String::new())),
                    Item::Data(data) => {
                        seen.last_mut().unwrap().2 += std::str::from_utf8(&data).unwrap();
                    }
                    _ => {}
                }
            }
            let seen: Vec<_> = seen.iter().map(|(s, b, d)| (*s, *b, d.as_str())).collect();
            assert_eq!((seen, end), expect, "{method} {input:?}");
        }
    }
}

#[test]
fn an_error_is_final() {
    let mut decoder = RequestDecoder::new(Limits::default());
    let mut input = BytesMut::from("GET / HTTP/1.1\n\r\n");
    assert_eq!(decoder.decode(&mut input), Err(Malformed::BareLf));
    let mut input = BytesMut::from("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(decoder.decode(&mut input), Err(Malformed::BareLf));
    assert_eq!(decoder.finish(), Err(Malformed::BareLf));
}

#[test]
fn targets() {
    let path = |text: &'static str| Bytes::from_static(text.as_bytes());
    let absolute = |authority, at| {
        Ok(Target::Absolute {
            authority: path(authority),
            path: path(at),
        })
    };
    for (method, target, expect) in [
        ("GET", "/a?b", Ok(Target::Origin { path: path("/a?b") })),
        ("GET", "http://x:80/a?b", absolute("x:80", "/a?b")),
        ("GET", "HTTP://x", absolute("x", "/")),
        ("GET", "http://x?b", absolute("x", "/?b")),
        ("OPTIONS", "http://x", absolute("x", "*")),
        ("OPTIONS", "*", Ok(Target::Asterisk)),
        ("CONNECT", "x:443", Ok(Target::Authority(path("x:443")))),
        (
            "CONNECT",
            "[::1]:443",
            Ok(Target::Authority(path("[::1]:443"))),
        ),
        ("CONNECT", "x", Err(Malformed::Target)),
        ("CONNECT", ":443", Err(Malformed::Target)),
        ("CONNECT", "x:99999", Err(Malformed::Target)),
        ("CONNECT", "/a", Err(Malformed::Target)),
        ("GET", "*", Err(Malformed::Target)),
        ("GET", "x:443", Err(Malformed::Target)),
        ("GET", "/a#b", Err(Malformed::Target)),
        ("GET", "http://x/#b", Err(Malformed::Target)),
        ("GET", "http:///a", Err(Malformed::Target)),
        ("GET", "http://u@x/", Err(Malformed::Target)),
        ("GET", "https://x/", Err(Malformed::Scheme)),
    ] {
        assert_eq!(
            Target::parse(method.as_bytes(), &path(target)),
            expect,
            "{method} {target}"
        );
    }
}

#[test]
fn connections_live_on_or_close() {
    for (version, connection, expect) in [
        (Version::Http11, "", true),
        (Version::Http11, "close", false),
        (Version::Http11, "x, CLOSE", false),
        (Version::Http10, "", false),
        (Version::Http10, "Keep-Alive", true),
        (Version::Http10, "keep-alive, close", false),
    ] {
        let mut head = ResponseHead {
            status: 200,
            version,
            fields: Fields::new(),
        };
        head.fields.push("Connection", connection).unwrap();
        assert_eq!(head.keep_alive(), expect, "{version:?} {connection:?}");
    }
}

#[test]
fn hop_by_hop_fields_go() {
    let mut before = fields(&[
        ("Host", "x"),
        ("Connection", "close, X-Secret, Host, Content-Length"),
        ("Connection", "x-two"),
        ("Content-Length", "3"),
        ("X-Secret", "1"),
        ("X-Two", "2"),
        ("X-Three", "3"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("TE", "gzip, trailers"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Authenticate", "Basic"),
    ]);
    strip_hop_by_hop(&mut before);
    let after = [
        ("Host", "x"),
        ("Content-Length", "3"),
        ("X-Three", "3"),
        ("te", "trailers"),
    ];
    assert_eq!(before, fields(&after));
}

#[test]
fn what_is_written() {
    let request = RequestHead {
        method: "POST".into(),
        target: "/a".into(),
        version: Version::Http10,
        fields: fields(&[
            ("Host", "x"),
            ("Content-Length", "9"),
            ("Transfer-Encoding", "gzip"),
        ]),
    };
    let mut out = BytesMut::new();
    let mut body = encode_request(&request, Body::Chunked, &mut out).unwrap();
    body.data(b"0123456789abcdef", &mut out).unwrap();
    body.data(b"", &mut out).unwrap();
    body.end(
        Some(&fields(&[("Sum", "1"), ("Content-Length", "1")])),
        &mut out,
    )
    .unwrap();
    let expect: &[u8] = b"POST /a HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n\
        10\r\n0123456789abcdef\r\n0\r\nSum: 1\r\n\r\n";
    assert_eq!(out, expect);

    let version = Version::Http11;
    let length = fields(&[("Content-Length", "7")]);
    for (status, body, expect) in [
        (
            200,
            Body::Length(0),
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (200, Body::UntilClose, "HTTP/1.1 200 OK\r\n\r\n"),
        (
            304,
            Body::None,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        ),
        (204, Body::Length(0), "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            599,
            Body::Chunked,
            "HTTP/1.1 599 \r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let head = ResponseHead {
            status,
            version,
            fields: length.clone(),
        };
        let mut out = BytesMut::new();
        encode_response(&head, body, &mut out)
            .unwrap()
            .end(None, &mut out)
            .unwrap();
        assert_eq!(out, expect);
    }
}

#[test]
fn what_cannot_be_written() {
    let head = |method: &'static str, target: &'static str| RequestHead {
        method: method.into(),
        target: target.into(),
        version: Version::Http11,
        fields: Fields::new(),
    };
    let mut out = BytesMut::new();
    for (head, body, expect) in [
        (head("G T", "/"), Body::None, Unsendable::Method),
        (
            head("GET", "/ HTTP/1.1\r\nX: y"),
            Body::None,
            Unsendable::Target,
        ),
        (head("GET", ""), Body::None, Unsendable::Target),
        (
            head("GET", "/"),
            Body::UntilClose,
            Unsendable::EndlessRequest,
        ),
    ] {
        assert_eq!(encode_request(&head, body, &mut out).unwrap_err(), expect);
    }
    assert!(out.is_empty());
    let mut body = encode_request(&head("PUT", "/"), Body::Length(3), &mut out).unwrap();
    assert_eq!(body.data(b"abcd", &mut out), Err(Unsendable::BodyTooLong));
    body.data(b"ab", &mut out).unwrap();
    assert_eq!(
        body.end(None, &mut out),
        Err(Unsendable::BodyTooShort { missing: 1 })
    );
    let mut body = encode_request(&head("GET", "/"), Body::None, &mut out).unwrap();
    assert_eq!(body.data(b"a", &mut out), Err(Unsendable::BodyTooLong));
}
