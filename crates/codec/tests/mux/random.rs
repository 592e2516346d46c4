//! Properties: whatever the interleaving, every byte arrives in order; whatever the bytes, nothing
//! panics and nothing grows without bound.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::message::Reply;
use isthmus_codec::mux::{CannotSend, Event, Settings, Side, StreamId};
use proptest::prelude::*;

use crate::pair::{End, Pair, tcp};

#[derive(Debug, Clone)]
enum Step {
    Open,
    Reply(usize),
    Send(usize, usize),
    Finish(usize, bool),
    Consume(usize, usize),
    Transmit(usize),
    Deliver(usize),
}

fn steps() -> impl Strategy<Value = Vec<(Side, Step)>> {
    let which = 0..8_usize;
    let step = prop_oneof![
        2 => Just(Step::Open),
        2 => which.clone().prop_map(Step::Reply),
        6 => (which.clone(), 1..100_000_usize).prop_map(|(i, n)| Step::Send(i, n)),
        1 => (which.clone(), any::<bool>()).prop_map(|(i, t)| Step::Finish(i, t)),
        4 => (which, 1..200_000_usize).prop_map(|(i, n)| Step::Consume(i, n)),
        6 => (1..100_000_usize).prop_map(Step::Transmit),
        6 => (1..100_000_usize).prop_map(Step::Deliver),
    ];
    let side = prop::sample::select(vec![Side::Dialler, Side::Listener]);
    prop::collection::vec((side, step), 1..120)
}

/// What one end knows of one stream.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
struct Seen {
    opened_here: bool,
    replied: bool,
    sent: usize,
    finished: bool,
    trailers_sent: bool,
    received: usize,
    held: usize,
    ended: bool,
    trailers_received: bool,
}

struct Model {
    pair: Pair,
    settings: Settings,
    seen: [BTreeMap<StreamId, Seen>; 2],
}

/// The byte at `at` of what `from` sends on `stream`.
fn pattern(from: Side, stream: StreamId, at: usize) -> u8 {
    let mixed = at.wrapping_mul(31) ^ (at >> 8) ^ stream.number() as usize;
    u8::try_from((mixed ^ from as usize) & 0xff).unwrap()
}

fn other(side: Side) -> Side {
    match side {
        Side::Dialler => Side::Listener,
        Side::Listener => Side::Dialler,
    }
}

fn trailers() -> Fields {
    let mut fields = Fields::new();
    fields.push("sum", "1").unwrap();
    fields
}

impl Model {
    fn new(settings: Settings) -> Self {
        let pair = Pair::new(&settings);
        Self {
            pair,
            settings,
            seen: [BTreeMap::new(), BTreeMap::new()],
        }
    }

    fn nth(&self, side: Side, index: usize) -> Option<StreamId> {
        let streams = &self.seen[side as usize];
        let index = index.checked_rem(streams.len())?;
        streams.keys().nth(index).copied()
    }

    fn end(&mut self, side: Side) -> &mut End {
        self.pair.end(side)
    }

    fn step(&mut self, side: Side, step: &Step) {
        match *step {
            Step::Open => {
                if let Ok(stream) = self.end(side).connection.open(&tcp(), false) {
                    let seen = Seen {
                        opened_here: true,
                        replied: true,
                        ..Seen::default()
                    };
                    self.seen[side as usize].insert(stream, seen);
                }
            }
            Step::Reply(index) => self.reply(side, index),
            Step::Send(index, count) => self.send(side, index, count),
            Step::Finish(index, with_trailers) => self.finish(side, index, with_trailers),
            Step::Consume(index, count) => self.consume(side, index, count),
            Step::Transmit(limit) => self.pair.transmit(side, limit),
            Step::Deliver(count) => {
                self.pair.deliver(side, count).unwrap();
            }
        }
        self.note(Side::Dialler);
        self.note(Side::Listener);
    }

    fn reply(&mut self, side: Side, index: usize) {
        if let Some(stream) = self.nth(side, index) {
            let before = self.seen[side as usize][&stream].replied;
            let result = self
                .end(side)
                .connection
                .reply(stream, &Reply::Accepted, false);
            assert_eq!(result.is_ok(), !before, "{result:?}");
            self.seen[side as usize].get_mut(&stream).unwrap().replied = true;
        }
    }

    fn send(&mut self, side: Side, index: usize, count: usize) {
        let Some(stream) = self.nth(side, index) else {
            return;
        };
        let seen = &self.seen[side as usize][&stream];
        let (sent, replied, finished) = (seen.sent, seen.replied, seen.finished);
        let bytes: Vec<u8> = (sent..sent + count)
            .map(|at| pattern(side, stream, at))
            .collect();
        let connection = &mut self.end(side).connection;
        let capacity = connection.capacity(stream);
        match connection.send(stream, &mut Bytes::from(bytes)) {
            Ok(taken) => {
                assert!(replied && !finished);
                assert_eq!(taken, capacity.min(count));
                self.seen[side as usize].get_mut(&stream).unwrap().sent += taken;
            }
            Err(CannotSend::ReplyOwed) => assert!(!replied),
            Err(CannotSend::Complete | CannotSend::Gone) => assert!(finished),
            Err(error) => panic!("{error}"),
        }
    }

    fn finish(&mut self, side: Side, index: usize, with_trailers: bool) {
        let Some(stream) = self.nth(side, index) else {
            return;
        };
        let fields = trailers();
        let fields = with_trailers.then_some(&fields);
        let result = self.end(side).connection.finish(stream, fields);
        let seen = self.seen[side as usize].get_mut(&stream).unwrap();
        assert_eq!(result.is_ok(), seen.replied && !seen.finished);
        if result.is_ok() {
            seen.finished = true;
            seen.trailers_sent = with_trailers;
        }
    }

    fn consume(&mut self, side: Side, index: usize, count: usize) {
        let Some(stream) = self.nth(side, index) else {
            return;
        };
        let seen = self.seen[side as usize].get_mut(&stream).unwrap();
        let count = count.min(seen.held);
        seen.held -= count;
        self.end(side).connection.consumed(stream, count);
    }

    /// Reads one end's events and holds them against what the other end has done.
    fn note(&mut self, side: Side) {
        for event in self.end(side).events() {
            let streams = &mut self.seen[side as usize];
            match event {
                Event::Opened { stream, open, end } => {
                    assert_eq!(*open, tcp());
                    let seen = Seen {
                        ended: end,
                        ..Seen::default()
                    };
                    assert!(streams.insert(stream, seen).is_none());
                }
                Event::Replied { stream, reply, end } => {
                    assert!(streams[&stream].opened_here);
                    assert_eq!(*reply, Reply::Accepted);
                    streams.get_mut(&stream).unwrap().ended = end;
                }
                Event::Data { stream, bytes } => {
                    let seen = streams.get_mut(&stream).unwrap();
                    assert!(!bytes.is_empty() && !seen.ended);
                    for byte in &bytes {
                        assert_eq!(*byte, pattern(other(side), stream, seen.received));
                        seen.received += 1;
                    }
                    seen.held += bytes.len();
                }
                Event::Ended {
                    stream,
                    trailers: fields,
                } => {
                    let seen = streams.get_mut(&stream).unwrap();
                    assert!(!seen.ended);
                    seen.ended = true;
                    seen.trailers_received = fields == Some(trailers());
                }
                Event::Writable { stream } => assert!(!streams[&stream].finished),
                Event::Pong { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        let credit = self.settings.stream_credit as usize;
        for seen in self.seen[side as usize].values() {
            assert!(seen.held <= credit, "more is held than was allowed");
        }
    }

    /// Lets everything that was begun come to its end.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for side in [Side::Dialler, Side::Listener] {
                for index in 0..self.seen[side as usize].len() {
                    self.consume(side, index, usize::MAX);
                    if !self.seen[side as usize]
                        .values()
                        .nth(index)
                        .unwrap()
                        .replied
                    {
                        self.reply(side, index);
                    }
                    if !self.seen[side as usize]
                        .values()
                        .nth(index)
                        .unwrap()
                        .finished
                    {
                        self.finish(side, index, false);
                    }
                }
                self.step(side, &Step::Transmit(usize::MAX));
                self.step(side, &Step::Deliver(usize::MAX));
            }
            let done = |seen: &Seen| seen.finished && seen.ended;
            let quiet = self.pair.dialler.outgoing.is_empty();
            if quiet && self.seen.iter().all(|streams| streams.values().all(done)) {
                return;
            }
        }
        panic!("it never settles");
    }

    fn check(&self) {
        for (here, there) in [(0, 1), (1, 0)] {
            for (stream, seen) in &self.seen[here] {
                let peer = &self.seen[there][stream];
                assert_eq!(seen.sent, peer.received, "bytes of stream {stream}");
                assert_eq!(seen.trailers_sent, peer.trailers_received);
            }
        }
        assert_eq!(self.pair.dialler.connection.open_streams(), 0);
        assert_eq!(self.pair.listener.connection.open_streams(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_byte_arrives_in_order(steps in steps(), small in any::<bool>()) {
        let (stream_credit, connection_credit) = if small { (0, 0) } else { (1 << 18, 1 << 20) };
        let settings = Settings {
            // Raised to the least that the protocol allows.
            stream_credit: stream_credit.max(1 << 16),
            connection_credit,
            ..Settings::default()
        };
        let mut model = Model::new(settings);
        for (side, step) in &steps {
            model.step(*side, step);
        }
        model.settle();
        model.check();
    }

    #[test]
    fn no_garbage_panics(
        frames in prop::collection::vec(
            (0..12_u8, 0..4_u8, 0..9_u32, prop::collection::vec(any::<u8>(), 0..24), any::<bool>()),
            0..60,
        ),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut pair = Pair::established();
        for _ in 0..3 {
            pair.listener.connection.open(&tcp(), false).unwrap();
        }
        pair.exchange();
        let mut input = BytesMut::new();
        for (kind, flags, stream, payload, real) in frames {
            let mut open = BytesMut::new();
            tcp().encode(&mut open);
            let payload = if real && kind == 1 { open.to_vec() } else { payload };
            let flags = if real { flags & 1 } else { flags };
            input.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            input.extend_from_slice(&[kind, flags]);
            input.extend_from_slice(&stream.to_be_bytes());
            input.extend_from_slice(&payload);
        }
        input.extend_from_slice(&noise);
        let end = &mut pair.listener;
        let result = end.connection.receive(&mut input, pair.now);
        prop_assert_eq!(result.err(), end.connection.error().cloned());
        end.connection.transmit(&mut end.outgoing, usize::MAX);
        if end.connection.error().is_some() {
            prop_assert_eq!(end.connection.open_streams(), 0);
            prop_assert!(end.connection.is_drained());
        }
    }
}
