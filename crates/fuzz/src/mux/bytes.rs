//! One end under bytes from anywhere.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isthmus_codec::mux::{Connection, ConnectionError, Event, ResetCode, Side, StreamId};

use super::watch::Watch;
use super::{a_reply, an_open, connection};
use crate::cuts::ways;
use crate::word;

/// Bits of the first byte.
const DIALLER: u8 = 1;
const ACTS: u8 = 2;
/// The peer's settings come before the input.
const SETTINGS: u8 = 4;
/// The end has opened streams before the input comes.
const OPENS: u8 = 8;

/// The first byte says which end it is and how it behaves; the rest comes from the peer.
pub(crate) fn bytes(data: &[u8]) -> String {
    let (&mode, input) = data.split_first().unwrap_or((&0, &[]));
    if mode & ACTS != 0 {
        let mut end = End::new(mode);
        for piece in input.chunks(64) {
            end.receive(piece);
            end.act();
        }
        return end.conclude();
    }
    let outcomes = ways(input).map(|pieces| {
        let mut end = End::new(mode);
        for piece in pieces {
            end.receive(piece);
        }
        let events = std::mem::take(&mut end.events);
        (events, end.conclude())
    });
    let [whole, bytewise, scattered] = outcomes;
    assert_eq!(whole, bytewise, "bytes that come one by one mean the same");
    assert_eq!(whole, scattered, "bytes that come in pieces mean the same");
    whole.1
}

struct End {
    connection: Connection,
    watch: Watch,
    input: BytesMut,
    now: Instant,
    events: Vec<Event>,
    /// Events so far.
    noted: usize,
    error: Option<ConnectionError>,
}

impl End {
    fn new(mode: u8) -> Self {
        let now = Instant::now();
        let (side, other) = match mode & DIALLER {
            0 => (Side::Listener, Side::Dialler),
            _ => (Side::Dialler, Side::Listener),
        };
        let mut end = Self {
            connection: connection(side, now),
            watch: Watch::default(),
            input: BytesMut::new(),
            now,
            events: Vec::new(),
            noted: 0,
            error: None,
        };
        if mode & OPENS != 0 {
            for kind in 0..3 {
                let opened = end.connection.open(&an_open(kind), kind == 2);
                end.watch
                    .opened_here(opened.expect("a new connection takes streams"));
            }
            end.transmit();
        }
        if mode & SETTINGS != 0 {
            let mut peer = connection(other, now);
            let mut settings = BytesMut::new();
            peer.transmit(&mut settings, 1);
            let length = 8 + usize::from(u16::from_be_bytes([settings[0], settings[1]]));
            end.receive(&settings[..length]);
            end.events.clear();
        }
        end
    }

    fn receive(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        let result = self.connection.receive(&mut self.input, self.now);
        assert_eq!(result.as_ref().err(), self.connection.error());
        self.error = result.err();
        self.note();
    }

    fn note(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.watch.take(&event);
            self.events.push(event);
            self.noted += 1;
        }
        self.watch.check(&self.connection);
    }

    /// Everything goes out; nothing is made of it that could be made again.
    fn transmit(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        let more = self.connection.transmit(&mut out, usize::MAX);
        assert!(!more, "all of it goes out");
        out
    }

    /// What a program behind this end may do with what came.
    fn act(&mut self) {
        self.now += Duration::from_millis(20);
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Opened { stream, .. } => self.answer(stream),
                Event::Data { stream, bytes } => {
                    let half = bytes.len() as u64 / 2 + 1;
                    let count = self.watch.consumed(stream, half);
                    let count = usize::try_from(count).expect("it was a length");
                    self.connection.consumed(stream, count);
                }
                Event::Reset { stream, .. } | Event::Lost { stream } => {
                    self.watch.left(stream, true);
                    self.connection.stop(stream);
                }
                Event::Ended { stream, .. } => {
                    // The half may have ended before, or the stream have been reset.
                    let _ = self.connection.finish(stream, None);
                }
                _ => {}
            }
        }
        let lively = self.connection.on_timeout(self.now);
        assert_eq!(lively.as_ref().err(), self.connection.error());
        self.note();
        self.transmit();
        self.note();
    }

    fn answer(&mut self, stream: StreamId) {
        match stream.number() / 2 % 5 {
            0 => {
                self.watch.left(stream, true);
                self.connection.reset(stream, ResetCode::Refused);
            }
            1 => {
                self.watch.left(stream, false);
                self.connection.stop(stream);
            }
            kind => {
                let kind = u8::try_from(kind).unwrap_or_default();
                let mut answer = Bytes::from_static(&[b'.'; 1000]);
                // The peer may have reset the stream in the same breath.
                if self.connection.reply(stream, &a_reply(kind), false).is_ok() {
                    let _ = self.connection.send(stream, &mut answer);
                }
            }
        }
    }

    /// The socket is lost: everything comes to its end.
    fn conclude(mut self) -> String {
        self.transmit();
        self.note();
        let events = self.noted;
        let failed = self.error.take();
        self.connection.lost();
        self.note();
        self.watch.check_over();
        let out = self.transmit();
        assert!(
            failed.is_some() || out.is_empty(),
            "nobody is there to hear"
        );
        assert!(self.connection.is_drained());
        match failed {
            Some(error) => word(&error),
            None if self.input.is_empty() => format!("good-with-{}-events", events.min(9)),
            None => "inside-a-frame".to_owned(),
        }
    }
}
