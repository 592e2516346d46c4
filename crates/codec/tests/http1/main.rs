//! HTTP/1.1 as its users meet it: tables of what is read and what is refused, and properties that
//! hold however the bytes are cut.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod cuts;
mod tables;
mod words;

use bytes::BytesMut;
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Item, Limits, Malformed, RequestDecoder, RequestHead, ResponseDecoder, ResponseHead,
};

/// Everything that came out of one input; pieces of a body are joined.
type Outcome<H> = (Vec<Item<H>>, Result<(), Malformed>);

fn join<H>(items: Vec<Item<H>>) -> Vec<Item<H>> {
    let mut joined = Vec::new();
    for item in items {
        match (joined.last_mut(), item) {
            (Some(Item::Data(before)), Item::Data(more)) => {
                *before = [before.as_ref(), &more].concat().into();
            }
            (_, item) => joined.push(item),
        }
    }
    joined
}

fn requests(pieces: &[&[u8]]) -> Outcome<RequestHead> {
    let mut decoder = RequestDecoder::new(Limits::default());
    let (mut input, mut items) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (join(items), Err(error)),
            }
        }
    }
    (join(items), decoder.finish())
}

fn responses(methods: &[&str], pieces: &[&[u8]]) -> Outcome<ResponseHead> {
    let mut decoder = ResponseDecoder::new(Limits::default());
    let mut methods = methods.iter();
    let (mut input, mut items, mut interim) = (BytesMut::new(), Vec::new(), false);
    let mut expect = |decoder: &mut ResponseDecoder| {
        if let Some(method) = methods.next() {
            decoder.expect(method.as_bytes());
        }
    };
    expect(&mut decoder);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(item)) => {
                    if let Item::Head(head, _) = &item {
                        interim = head.status < 200;
                    }
                    if item == Item::End && !interim {
                        expect(&mut decoder);
                    }
                    items.push(item);
                }
                Ok(None) => break,
                Err(error) => return (join(items), Err(error)),
            }
        }
    }
    let end = decoder.finish();
    let ending = end.map(|item| items.extend(item));
    (join(items), ending)
}

fn bytewise(input: &[u8]) -> Vec<&[u8]> {
    input.chunks(1).collect()
}

fn fields(list: &[(&'static str, &'static str)]) -> Fields {
    let mut fields = Fields::new();
    for &(name, value) in list {
        fields.push(name, value).unwrap();
    }
    fields
}
