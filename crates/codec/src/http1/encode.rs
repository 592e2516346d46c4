//! Writing messages. What is written can always be read back in only one way.

use std::io::Write as _;

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
    out.put_slice(&head.method);
    out.put_u8(b' ');
    out.put_slice(&head.target);
    out.put_slice(b" HTTP/1.1\r\n");
    put_fields(&head.fields, false, out);
    Ok(put_framing(body, out))
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
    put(
        out,
        format_args!("HTTP/1.1 {} {}\r\n", head.status, reason(head.status)),
    );
    put_fields(&head.fields, body == Body::None && !bodiless, out);
    Ok(put_framing(body, out))
}

fn put_fields(fields: &Fields, keep_length: bool, out: &mut BytesMut) {
    for (name, value) in fields.iter() {
        let framing = is_framing(name);
        if !framing || (keep_length && name.eq_ignore_ascii_case(b"content-length")) {
            put_field(name, value, out);
        }
    }
}

fn is_framing(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

fn put_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_framing(body: Body, out: &mut BytesMut) -> BodyEncoder {
    match body {
        Body::None | Body::UntilClose => out.put_slice(b"\r\n"),
        Body::Length(length) => put(out, format_args!("content-length: {length}\r\n\r\n")),
        Body::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
    BodyEncoder(match body {
        Body::None => Body::Length(0),
        body => body,
    })
}

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    out.writer()
        .write_fmt(text)
        .expect("a BytesMut takes every write");
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
    /// Writes some of the body. Errors leave `out` as it was.
    pub fn data(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), Unsendable> {
        match &mut self.0 {
            Body::None => return Err(Unsendable::BodyTooLong),
            Body::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(Unsendable::BodyTooLong)?;
                out.put_slice(data);
            }
            Body::UntilClose => out.put_slice(data),
            // A chunk of no bytes would be the end of the body.
            Body::Chunked if data.is_empty() => {}
            Body::Chunked => {
                put(out, format_args!("{:x}\r\n", data.len()));
                out.put_slice(data);
                out.put_slice(b"\r\n");
            }
        }
        Ok(())
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
                    put_fields(trailers, false, out);
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
