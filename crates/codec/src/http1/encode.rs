//! Writing messages. What is written can always be read back in only one way.

use bytes::{BufMut, BytesMut};

use super::{Body, RequestHead, ResponseHead};
use crate::{Fields, syntax};

/// Why something cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    #[error("the method is not a token")]
    Method,
    #[error("the target holds a space or a control character, or is empty")]
    Target,
    #[error("{0} is not a status from 100 to 999")]
    Status(u16),
    #[error("a request's body cannot last until the connection ends")]
    EndlessRequest,
    #[error("the body is longer than its Content-Length, or there must be none")]
    BodyTooLong,
    #[error("the body is shorter than its Content-Length by {missing} bytes")]
    BodyTooShort { missing: u64 },
}

/// Writes the head of a request, as HTTP/1.1. Content-Length and Transfer-Encoding are written
/// from `body`, never from the fields. Errors leave `out` as it was.
pub fn encode_request(
    head: &RequestHead,
    body: Body,
    out: &mut BytesMut,
) -> Result<BodyEncoder, Unsendable> {
    if !syntax::is_token(&head.method) {
        return Err(Unsendable::Method);
    }
    let visible = |&byte: &u8| byte > b' ' && byte != 0x7f;
    if head.target.is_empty() || !head.target.iter().all(visible) {
        return Err(Unsendable::Target);
    }
    if body == Body::UntilClose {
        return Err(Unsendable::EndlessRequest);
    }
    let line = head.method.len() + head.target.len() + VERSION.len() + 3;
    append(out, line + most_of(&head.fields), |room| {
        room.put(&head.method);
        room.put(b" ");
        room.put(&head.target);
        room.put(b" ");
        room.put(VERSION);
        room.put(b"\r\n");
        put_fields(&head.fields, false, room);
        put_framing(body, room);
    });
    Ok(BodyEncoder::new(body))
}

/// Writes the head of a response, as HTTP/1.1. Content-Length and Transfer-Encoding are written
/// from `body`, except that a response without a body keeps the Content-Length that it may have
/// (answers to HEAD, and 304). Of a response that must have a body, say `Length(0)`, not `None`:
/// a reader takes the latter for one that lasts until the connection ends.
/// Errors leave `out` as it was.
pub fn encode_response(
    head: &ResponseHead,
    body: Body,
    out: &mut BytesMut,
) -> Result<BodyEncoder, Unsendable> {
    if !(100..=999).contains(&head.status) {
        return Err(Unsendable::Status(head.status));
    }
    let bodiless = matches!(head.status, 100..=199 | 204);
    let body = if bodiless { Body::None } else { body };
    let reason = reason(head.status);
    let line = VERSION.len() + DIGITS + reason.len() + 4;
    append(out, line + most_of(&head.fields), |room| {
        room.put(VERSION);
        room.put(b" ");
        room.put_number::<10>(head.status.into());
        room.put(b" ");
        room.put(reason.as_bytes());
        room.put(b"\r\n");
        put_fields(&head.fields, body == Body::None && !bodiless, room);
        put_framing(body, room);
    });
    Ok(BodyEncoder::new(body))
}

const VERSION: &[u8] = b"HTTP/1.1";

/// The most digits that a number has.
const DIGITS: usize = 20;

/// Room at the end of a buffer. It is made once for all that is written one after the other, since much
/// of that is a few bytes.
struct Room<'a>(&'a mut [u8]);

/// Appends what `write` puts into room for `most` bytes.
fn append(out: &mut BytesMut, most: usize, write: impl FnOnce(&mut Room<'_>)) {
    let start = out.len();
    out.resize(start + most, 0);
    let mut room = Room(&mut out[start..]);
    write(&mut room);
    let left = room.0.len();
    out.truncate(out.len() - left);
}

impl Room<'_> {
    fn put(&mut self, part: &[u8]) {
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut(part.len());
        place.copy_from_slice(part);
        self.0 = rest;
    }

    fn put_number<const RADIX: u64>(&mut self, mut number: u64) {
        let mut digits = [0; DIGITS];
        let mut first = DIGITS;
        while first == DIGITS || number > 0 {
            first -= 1;
            let [digit, ..] = (number % RADIX).to_le_bytes();
            digits[first] = b"0123456789abcdef"[usize::from(digit)];
            number /= RADIX;
        }
        self.put(&digits[first..]);
    }
}

/// The most that `fields` and the end of a head take.
fn most_of(fields: &Fields) -> usize {
    let lengths = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    lengths.sum::<usize>() + CHUNKED.len() + LENGTH.len() + DIGITS + 4
}

fn put_fields(fields: &Fields, keep_length: bool, room: &mut Room<'_>) {
    for (name, value) in fields.iter() {
        let framing = is_framing(name);
        if !framing || (keep_length && name.eq_ignore_ascii_case(b"content-length")) {
            room.put(name);
            room.put(b": ");
            room.put(value);
            room.put(b"\r\n");
        }
    }
}

fn is_framing(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n\r\n";
const LENGTH: &[u8] = b"content-length: ";

fn put_framing(body: Body, room: &mut Room<'_>) {
    match body {
        Body::None | Body::UntilClose => room.put(b"\r\n"),
        Body::Length(length) => {
            room.put(LENGTH);
            room.put_number::<10>(length);
            room.put(b"\r\n\r\n");
        }
        Body::Chunked => room.put(CHUNKED),
    }
}

/// Phrases for people who look at a wire.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Writes the body that a head announced, and sees to it that it is exactly that: a peer that
/// sends more than its Content-Length said cannot smuggle a message behind it.
#[derive(Debug)]
#[must_use = "the message is complete only after `end`"]
pub struct BodyEncoder(Body);

impl BodyEncoder {
    fn new(body: Body) -> Self {
        Self(match body {
            Body::None => Body::Length(0),
            body => body,
        })
    }

    /// Writes some of the body. Errors leave `out` as it was.
    pub fn data(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), Unsendable> {
        if self.takes_plain(data.len())? {
            out.put_slice(data);
        } else {
            self.chunk(data, out);
        }
        Ok(())
    }

    /// Is some of the body, `length` bytes long, written as it is? Then it is taken for written; else it
    /// has to go as [`BodyEncoder::chunk`].
    pub fn takes_plain(&mut self, length: usize) -> Result<bool, Unsendable> {
        match &mut self.0 {
            Body::None => Err(Unsendable::BodyTooLong),
            Body::Length(left) => {
                let rest = left.checked_sub(length as u64);
                *left = rest.ok_or(Unsendable::BodyTooLong)?;
                Ok(true)
            }
            Body::UntilClose => Ok(true),
            Body::Chunked => Ok(false),
        }
    }

    pub fn is_chunked(&self) -> bool {
        self.0 == Body::Chunked
    }

    /// Writes some of a body that goes in chunks.
    pub fn chunk(&self, data: &[u8], out: &mut BytesMut) {
        // A chunk of no bytes would be the end of the body.
        if data.is_empty() {
            return;
        }
        append(out, DIGITS + data.len() + 4, |room| {
            room.put_number::<16>(data.len() as u64);
            room.put(b"\r\n");
            room.put(data);
            room.put(b"\r\n");
        });
    }

    /// Ends the message. Trailers are written if the body is chunked, else dropped, as RFC 9110
    /// section 6.5.1 allows; framing fields among them always are.
    /// Errors: fewer bytes were written than announced; the connection must be closed.
    pub fn end(self, trailers: Option<&Fields>, out: &mut BytesMut) -> Result<(), Unsendable> {
        match self.0 {
            Body::Length(missing @ 1..) => Err(Unsendable::BodyTooShort { missing }),
            Body::Chunked => {
                out.put_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    append(out, most_of(trailers), |room| {
                        put_fields(trailers, false, room);
                    });
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
