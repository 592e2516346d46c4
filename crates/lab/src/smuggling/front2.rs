//! The client that speaks HTTP/2 to the caller's proxy, and says whatever it is told to.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::cases2::Message;
use super::front::{Answer, End, Heard};
use crate::frames::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, SETTINGS,
    frame,
};
use crate::http::connect;
use crate::trouble::{During, Result};

/// The caller's proxy, and the service that is called.
#[derive(Debug)]
pub(super) struct Front2 {
    proxy: SocketAddr,
    pub(super) host: String,
}

/// What became of a request, and of the plain one behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard2 {
    pub(super) answers: [Option<Answer>; 2],
    pub(super) end: End,
}

impl From<Heard2> for Heard {
    fn from(heard: Heard2) -> Self {
        Self {
            answers: heard.answers.into_iter().flatten().collect(),
            end: heard.end,
        }
    }
}

const FIRST: u32 = 1;
const SECOND: u32 = 3;
/// What every reader of frames takes (RFC 9113 section 4.2).
const LONGEST: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

impl Front2 {
    pub(super) fn new(proxy: SocketAddr, host: &str) -> Self {
        Self {
            proxy,
            host: host.to_owned(),
        }
    }

    /// Says `message` on a connection of its own and a plain request behind it, and hears what becomes
    /// of both.
    ///
    /// Errors: there is no connection.
    pub(super) fn say(&self, message: &Message, id: &str) -> Result<Heard2> {
        let mut stream = connect(self.proxy)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .during(|| "a connection to the proxy".to_owned())?;
        // SETTINGS_HEADER_TABLE_SIZE: every reply says its status in full.
        let mut said = frames::hello(&[(1, 0)]);
        said.extend(written(FIRST, message));
        said.extend(written(SECOND, &self.plain(&format!("/{id}-2"))));
        // Who turns one away may be gone before all is said.
        let _ = stream.write_all(&said);
        let mut heard = Replies::default();
        let end = loop {
            match frames::read(&mut stream) {
                Ok(Some(frame)) => {
                    if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                        let _ = stream.write_all(&frames::frame(SETTINGS, ACK, 0, &[]));
                    }
                    heard.take(&frame);
                    if heard.ended == 2 {
                        break End::Closed;
                    }
                }
                Ok(None) => break End::Cut,
                Err(_) => break End::Hangs,
            }
        };
        Ok(Heard2 {
            answers: [FIRST, SECOND].map(|stream| heard.answer(stream)),
            end,
        })
    }

    fn plain(&self, path: &str) -> Message {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", &self.host),
        ];
        Message {
            fields: fields
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            data: None,
            trailers: Vec::new(),
        }
    }
}

/// The frames of one request.
fn written(stream: u32, message: &Message) -> Vec<u8> {
    let trailers = !message.trailers.is_empty();
    let ends = message.data.is_none() && !trailers;
    let mut said = section(stream, ends, &message.fields);
    if let Some(data) = &message.data {
        let ends = if trailers { 0 } else { END_STREAM };
        said.extend(frame(DATA, ends, stream, &data[..data.len().min(LONGEST)]));
    }
    if trailers {
        said.extend(section(stream, true, &message.trailers));
    }
    said
}

fn section(stream: u32, ends: bool, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
    let section = frames::section(fields);
    let mut parts = section.chunks(LONGEST).peekable();
    let mut said = Vec::new();
    let ends = if ends { END_STREAM } else { 0 };
    let (mut kind, mut flags) = (HEADERS, ends);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        said.extend(frame(kind, flags, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    said
}

/// What has come on each stream.
#[derive(Debug, Default)]
struct Replies {
    open: BTreeMap<u32, Reply>,
    ended: usize,
}

#[derive(Debug, Default)]
struct Reply {
    status: Option<u16>,
    body: Vec<u8>,
    /// Not by a reset.
    is_whole: bool,
}

impl Replies {
    fn take(&mut self, frame: &Frame) {
        if ![FIRST, SECOND].contains(&frame.stream) {
            return;
        }
        let reply = self.open.entry(frame.stream).or_default();
        let ends = match frame.kind {
            HEADERS => {
                // Interim heads come before, trailers behind.
                let status = frames::status(&frame.payload);
                let is_final = reply.status.is_none_or(|status| status < 200);
                if is_final && status.is_some() {
                    reply.status = status;
                }
                frame.flags & END_STREAM != 0
            }
            DATA => {
                reply.body.extend_from_slice(&frame.payload);
                frame.flags & END_STREAM != 0
            }
            RST_STREAM => {
                self.ended += usize::from(!reply.is_whole);
                return;
            }
            _ => return,
        };
        reply.is_whole |= ends;
        self.ended += usize::from(ends);
    }

    fn answer(&mut self, stream: u32) -> Option<Answer> {
        let reply = self.open.remove(&stream)?;
        let status = reply.status.filter(|_| reply.is_whole)?;
        let ours: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
        let refusal = ours.and_then(|ours| {
            // What the mesh says names its reason and its proxy.
            let named = ours["at"].is_string();
            Some(ours["refusal"].as_str().filter(|_| named)?.to_owned())
        });
        Some(Answer {
            status,
            refusal,
            body: reply.body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(&str, &str)], data: Option<&str>, trailers: &[(&str, &str)]) -> Message {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        Message {
            fields: pairs(fields),
            data: data.map(Into::into),
            trailers: pairs(trailers),
        }
    }

    fn frames_of(mut said: &[u8]) -> Vec<(u8, u8)> {
        let mut list = Vec::new();
        while let Ok(Some(frame)) = frames::read(&mut said) {
            list.push((frame.kind, frame.flags));
        }
        list
    }

    #[test]
    fn requests_end_where_they_end() {
        let long = "x".repeat(2 * LONGEST);
        for (message, expect) in [
            (message(&[("a", "b")], None, &[]), &[(HEADERS, 5)][..]),
            (
                message(&[("a", "b")], Some(""), &[]),
                &[(HEADERS, 4), (DATA, 1)],
            ),
            (
                message(&[("a", "b")], Some("x"), &[("c", "d")]),
                &[(HEADERS, 4), (DATA, 0), (HEADERS, 5)],
            ),
            (
                message(&[("a", &long)], None, &[]),
                &[(HEADERS, 1), (CONTINUATION, 0), (CONTINUATION, 4)],
            ),
        ] {
            assert_eq!(frames_of(&written(1, &message)), expect);
        }
    }

    #[test]
    fn replies_are_told_apart_by_their_streams() {
        let mut replies = Replies::default();
        let body = br#"{"refusal": "draining", "at": "x-1"}"#;
        for (kind, flags, stream, payload) in [
            (HEADERS, END_HEADERS, 3, &[0x48, 3, b'1', b'0', b'0'][..]),
            (HEADERS, END_HEADERS, 3, &[0x48, 3, b'5', b'0', b'3']),
            (HEADERS, END_HEADERS, 1, &[0x88]),
            (DATA, END_STREAM, 3, body),
            (DATA, 0, 1, b"half"),
            (RST_STREAM, 0, 1, &[0, 0, 0, 1]),
        ] {
            let payload = payload.to_vec();
            replies.take(&Frame {
                kind,
                flags,
                stream,
                payload,
            });
        }
        assert_eq!(replies.ended, 2);
        assert_eq!(replies.answer(1), None);
        let answer = replies.answer(3).unwrap();
        assert_eq!(
            (answer.status, answer.refusal.as_deref()),
            (503, Some("draining"))
        );
    }
}
