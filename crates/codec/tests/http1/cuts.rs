//! Properties that hold however the bytes are cut, and whatever they are.

use bytes::{Bytes, BytesMut};
use isthmus_codec::http1::{Body, Item, RequestHead, Target, Version, encode_request};
use proptest::prelude::*;

use crate::{bytewise, fields, requests, responses};

/// Cuts `input` at the given places.
fn cut<'a>(input: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places
        .iter()
        .map(|place| place.index(input.len() + 1))
        .collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places {
        pieces.push(&input[start..place]);
        start = place;
    }
    pieces.push(&input[start..]);
    pieces
}

/// Text that is nearly HTTP: fragments that matter, in random order, with some noise.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        8 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 304 \r\n",
            "Host: x\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "a: b\r\n",
            "\r\n", "\r\n\r\n", "abc", "3\r\nabc\r\n", "0\r\n\r\n", "0\r\n", "\n", "\r", " ", ":",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(fragment, 0..24).prop_map(|parts| parts.concat())
}

/// Well-formed requests with bodies of both kinds.
fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..4);
    let message = (
        body,
        any::<bool>(),
        prop::collection::vec("[a-z]{1,8}", 0..4),
    );
    prop::collection::vec(message, 1..4).prop_map(|messages| {
        let mut out = BytesMut::new();
        for (chunks, chunked, names) in messages {
            let mut head = RequestHead {
                method: "PUT".into(),
                target: "/".into(),
                version: Version::Http11,
                fields: fields(&[("Host", "x")]),
            };
            for name in &names {
                head.fields.push(format!("x-{name}"), name.clone()).unwrap();
            }
            let length = chunks.iter().map(Vec::len).sum::<usize>() as u64;
            let framing = if chunked {
                Body::Chunked
            } else {
                Body::Length(length)
            };
            let mut body = encode_request(&head, framing, &mut out).unwrap();
            for chunk in chunks {
                body.data(&chunk, &mut out).unwrap();
            }
            body.end(names.first().map(|_| &head.fields), &mut out)
                .unwrap();
        }
        out.to_vec()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn cuts_change_nothing(
        input in prop_oneof![nearly_http(), well_formed()],
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = requests(&[&input]);
        prop_assert_eq!(&requests(&cut(&input, &places)), &whole);
        prop_assert_eq!(&requests(&bytewise(&input)), &whole);
        let asked = ["GET", "HEAD", "POST"];
        let whole = responses(&asked, &[&input]);
        prop_assert_eq!(&responses(&asked, &cut(&input, &places)), &whole);
        prop_assert_eq!(&responses(&asked, &bytewise(&input)), &whole);
    }

    #[test]
    fn what_is_written_is_read_back(input in well_formed()) {
        let (items, end) = requests(&[&input]);
        prop_assert_eq!(end, Ok(()));
        let mut out = BytesMut::new();
        let mut open = None;
        for item in items {
            match item {
                Item::Head(head, framing) => {
                    open = Some((encode_request(&head, framing, &mut out).unwrap(), None));
                }
                Item::Data(data) => open.as_mut().unwrap().0.data(&data, &mut out).unwrap(),
                Item::Trailers(trailers) => open.as_mut().unwrap().1 = Some(trailers),
                Item::End => {
                    let (body, trailers) = open.take().unwrap();
                    body.end(trailers.as_ref(), &mut out).unwrap();
                }
            }
        }
        prop_assert_eq!(requests(&[&out]), requests(&[&input]));
    }

    #[test]
    fn no_garbage_panics(input in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = requests(&[&input]);
        let _ = responses(&["GET"], &[&input]);
        let _ = Target::parse(b"GET", &Bytes::from(input));
    }
}
