//! HTTP/1.1: however the bytes are cut they mean the same, and what is accepted can be written so
//! that every reader finds the same messages in it.

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Body, BodyEncoder, Item, Limits, MAX_FIELDS, MAX_REQUEST_LINE, Malformed, RequestDecoder,
    RequestHead, ResponseDecoder, ResponseHead, Target, Unsendable, Version, encode_request,
    encode_response, strip_hop_by_hop,
};

use crate::cuts::ways;
use crate::hyphened;

/// Small, so that inputs reach it.
const LIMITS: Limits = limits(1024);
/// The empty line and the framing that a proxy adds may make a head longer than it came.
const ROOMY: Limits = limits(64 * 1024);

const fn limits(head: usize) -> Limits {
    Limits {
        head,
        fields: MAX_FIELDS,
        request_line: MAX_REQUEST_LINE,
    }
}

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message<H> {
    head: H,
    body: Body,
    data: Vec<u8>,
    trailers: Option<Fields>,
}

/// Messages that are complete, the head of one that is not, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome<H> {
    complete: Vec<Message<H>>,
    begun: Option<Message<H>>,
    ending: Result<(), Malformed>,
}

impl<H> Outcome<H> {
    fn new() -> Self {
        Self {
            complete: Vec::new(),
            begun: None,
            ending: Ok(()),
        }
    }

    fn take(&mut self, item: Item<H>) {
        match item {
            Item::Head(head, body) => {
                assert!(self.begun.is_none(), "a head inside a message");
                self.begun = Some(Message {
                    head,
                    body,
                    data: Vec::new(),
                    trailers: None,
                });
            }
            Item::Data(data) => {
                assert!(!data.is_empty(), "data is never empty");
                let message = self.begun.as_mut().expect("data follows a head");
                assert!(message.trailers.is_none(), "data behind trailers");
                message.data.extend_from_slice(&data);
            }
            Item::Trailers(fields) => {
                let message = self.begun.as_mut().expect("trailers follow a head");
                let before = message.trailers.replace(fields);
                assert!(before.is_none(), "trailers come once");
            }
            Item::End => {
                let message = self.begun.take().expect("an end follows a head");
                if let Body::Length(length) = message.body {
                    assert_eq!(message.data.len() as u64, length);
                }
                self.complete.push(message);
            }
        }
    }

    /// What the last head was, and how reading ended.
    fn label(&self) -> String {
        let ending = match self.ending {
            Ok(()) => "good",
            Err(error) => error.code(),
        };
        let last = self.begun.as_ref().or(self.complete.last());
        let state = if self.begun.is_some() {
            "in-"
        } else {
            "after-"
        };
        match last.map(|message| message.body) {
            None => ending.to_owned(),
            Some(Body::None) => format!("{ending}-{state}bodiless"),
            Some(Body::Length(_)) => format!("{ending}-{state}counted"),
            Some(Body::Chunked) => format!("{ending}-{state}chunked"),
            Some(Body::UntilClose) => format!("{ending}-{state}endless"),
        }
    }
}

/// Requests, one after the other, on one connection.
pub(crate) fn request(data: &[u8]) -> String {
    let [whole, bytewise, scattered] = ways(data).map(|pieces| read_requests(LIMITS, &pieces));
    assert_eq!(whole, bytewise, "bytes that come one by one mean the same");
    assert_eq!(whole, scattered, "bytes that come in pieces mean the same");
    for end_to_end in [false, true] {
        let sendable = whole.complete.iter().filter_map(|message| {
            let mut message = message.clone();
            canonical_request(&mut message, end_to_end).then_some(message)
        });
        let sendable: Vec<_> = sendable.collect();
        let mut written = BytesMut::new();
        for message in &sendable {
            let begin = written.len();
            let body = encode_request(&message.head, message.body, &mut written);
            finish(body, message, &mut written);
            check_head(&written[begin..]);
        }
        let mut again = read_requests(ROOMY, &[&written]);
        assert_eq!(again.ending, Ok(()), "what is written is well-formed");
        for message in &mut again.complete {
            canonical_request(message, false);
        }
        assert_eq!(again.complete, sendable, "what is written is read back");
    }
    whole.label()
}

/// Responses. The first line of the input names the methods of the requests that they answer.
pub(crate) fn response(data: &[u8]) -> String {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let methods: Vec<&[u8]> = data[..end].split(|&byte| byte == b' ').collect();
    let input = data.get(end + 1..).unwrap_or_default();
    let [whole, bytewise, scattered] =
        ways(input).map(|pieces| read_responses(LIMITS, &methods, &pieces));
    assert_eq!(whole, bytewise, "bytes that come one by one mean the same");
    assert_eq!(whole, scattered, "bytes that come in pieces mean the same");
    let mut written = BytesMut::new();
    let mut sent = whole.complete.clone();
    for message in &mut sent {
        canonical_response(message);
        let begin = written.len();
        let body = encode_response(&message.head, message.body, &mut written);
        finish(body, message, &mut written);
        check_head(&written[begin..]);
    }
    let mut again = read_responses(ROOMY, &methods, &[&written]);
    for message in &mut again.complete {
        canonical_response(message);
    }
    assert_eq!(again.complete, sent, "what is written is read back");
    whole.label()
}

/// A request target: what has a form can be written as one again. The first line is the method.
pub(crate) fn target(data: &[u8]) -> String {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let (method, text) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let parsed = Target::parse(method, &Bytes::copy_from_slice(text));
    let (written, word) = match &parsed {
        Ok(Target::Origin { path }) => (path.to_vec(), "origin"),
        Ok(Target::Absolute { authority, path }) if path == "*" => (
            [b"http://", authority.as_ref()].concat(),
            "absolute-asterisk",
        ),
        Ok(Target::Absolute { authority, path }) => {
            ([b"http://", authority.as_ref(), path].concat(), "absolute")
        }
        Ok(Target::Authority(authority)) => (authority.to_vec(), "authority"),
        Ok(Target::Asterisk) => (b"*".to_vec(), "asterisk"),
        Err(error) => return format!("{}-of-{}", error.code(), hyphened(&lossy(method))),
    };
    assert!(
        written.iter().all(|&byte| byte > b' ' && byte != 0x7f),
        "a target cannot end its line"
    );
    let again = Target::parse(method, &Bytes::from(written));
    assert_eq!(again, parsed, "a target has one meaning");
    word.to_owned()
}

fn lossy(text: &[u8]) -> String {
    // Inputs are named by this: as many names as there are methods with rules of their own.
    match text {
        b"CONNECT" | b"OPTIONS" => String::from_utf8_lossy(text).into_owned(),
        _ => "other".to_owned(),
    }
}

fn read_requests(limits: Limits, pieces: &[&[u8]]) -> Outcome<RequestHead> {
    let mut decoder = RequestDecoder::new(limits);
    let (mut input, mut outcome) = (BytesMut::new(), Outcome::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(item)) => outcome.take(item),
                Ok(None) => break,
                Err(error) => {
                    outcome.ending = Err(error);
                    assert_eq!(decoder.decode(&mut input), Err(error), "errors are final");
                    return outcome;
                }
            }
        }
    }
    outcome.ending = decoder.finish();
    outcome
}

fn read_responses(limits: Limits, methods: &[&[u8]], pieces: &[&[u8]]) -> Outcome<ResponseHead> {
    let mut decoder = ResponseDecoder::new(limits);
    let mut methods = methods.iter();
    let (mut input, mut outcome) = (BytesMut::new(), Outcome::new());
    if let Some(method) = methods.next() {
        decoder.expect(method);
    }
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(item)) => {
                    let ends = item == Item::End;
                    outcome.take(item);
                    let last = outcome.complete.last();
                    let is_final = last.is_some_and(|message| message.head.status >= 200);
                    // A method is used up by the end of a final response, and by nothing else.
                    if ends
                        && is_final
                        && let Some(method) = methods.next()
                    {
                        decoder.expect(method);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    outcome.ending = Err(error);
                    assert_eq!(decoder.decode(&mut input), Err(error), "errors are final");
                    return outcome;
                }
            }
        }
    }
    match decoder.finish() {
        Ok(item) => item.into_iter().for_each(|item| outcome.take(item)),
        Err(error) => outcome.ending = Err(error),
    }
    outcome
}

fn finish<H>(body: Result<BodyEncoder, Unsendable>, message: &Message<H>, out: &mut BytesMut) {
    let written = body.and_then(|mut body| {
        for piece in message.data.chunks(7) {
            body.data(piece, out)?;
        }
        body.end(message.trailers.as_ref(), out)
    });
    assert_eq!(written, Ok(()), "what was accepted can be written");
}

/// Makes of a request what it is when it is written; false: there is no room for what that takes.
fn canonical_request(message: &mut Message<RequestHead>, end_to_end: bool) -> bool {
    let head = &mut message.head;
    head.version = Version::Http11;
    drop_framing(&mut head.fields);
    if end_to_end {
        strip_hop_by_hop(&mut head.fields);
        assert!(!head.fields.contains("connection") && !head.fields.contains("upgrade"));
    }
    if !head.fields.contains("host") {
        // As it is for HTTP/1.0; HTTP/1.1 must name one.
        let added = head.fields.push("host", "");
        assert_eq!(added, Ok(()));
    }
    clean_trailers(&mut message.trailers);
    // With a line for the framing.
    message.head.fields.len() < MAX_FIELDS
}

fn canonical_response(message: &mut Message<ResponseHead>) {
    message.head.version = Version::Http11;
    drop_framing(&mut message.head.fields);
    clean_trailers(&mut message.trailers);
}

fn drop_framing(fields: &mut Fields) {
    fields.remove("content-length");
    fields.remove("transfer-encoding");
}

fn clean_trailers(trailers: &mut Option<Fields>) {
    if let Some(fields) = trailers {
        drop_framing(fields);
    }
    trailers.take_if(|fields| fields.is_empty());
}

/// A head as strict as can be, found without the decoder: lines end in CR LF, no line is folded,
/// every field is `token: value`, and at most one field says where the body ends.
fn check_head(message: &[u8]) {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    let head = &message[..end.expect("a head ends")];
    let mut lines = head.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    assert!(is_visible(first.strip_suffix(b"\r").unwrap_or(first)));
    let mut framing = 0;
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.windows(2).position(|two| two == b": ");
        let colon = colon.expect("a field has a colon and a space");
        let (name, value) = (&line[..colon], &line[colon + 2..]);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(!name.is_empty() && name.iter().all(token), "{name:?}");
        assert!(is_visible(value), "{value:?}");
        if name.eq_ignore_ascii_case(b"content-length") {
            framing += 1;
            assert!(!value.is_empty() && value.iter().all(u8::is_ascii_digit));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing += 1;
            assert_eq!(value, b"chunked");
        }
    }
    assert!(framing <= 1, "a body has one end");
}

fn is_visible(text: &[u8]) -> bool {
    let control = |&byte: &u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    !text.iter().any(control)
}
