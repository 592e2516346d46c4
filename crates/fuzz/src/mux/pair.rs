//! Two ends that do whatever they may, with bytes between them that may be damaged on their way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::mux::{Connection, ConnectionError, Event, Side, StreamId};

use super::watch::Watch;
use super::{a_reply, an_interim, an_open, growing, some_fields};
use crate::word;

/// What the credit of the two ends may grow by, if it may grow.
const BUDGET: u64 = 1 << 20;

/// Every three bytes of the input are a step: who and what, with which, how much. The length of the
/// input says whether credit grows.
pub(crate) fn pair(data: &[u8]) -> String {
    let limit = if data.len() % 2 == 1 { BUDGET } else { 0 };
    let mut pair = Pair::new(limit);
    for step in data.as_chunks::<3>().0 {
        pair.step(*step);
    }
    pair.settle();
    pair.conclude()
}

struct End {
    connection: Connection,
    watch: Watch,
    /// What it has written and has not arrived.
    outgoing: BytesMut,
    incoming: BytesMut,
    /// Bytes of data by stream.
    sent: BTreeMap<StreamId, usize>,
    received: BTreeMap<StreamId, usize>,
}

struct Pair {
    now: Instant,
    ends: [End; 2],
    damaged: bool,
    failed: Option<ConnectionError>,
}

impl End {
    fn new(side: Side, budget: &MemoryBudget, limit: u64, now: Instant) -> Self {
        Self {
            connection: growing(side, budget, now),
            watch: Watch::growing(limit),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    fn consume(&mut self, stream: StreamId, most: u64) {
        let count = self.watch.consumed(stream, most);
        self.connection
            .consumed(stream, usize::try_from(count).unwrap_or(usize::MAX));
    }

    /// Nothing is left to be said or to be heard, so far.
    fn is_quiet(&self) -> bool {
        self.outgoing.is_empty()
    }
}

impl Pair {
    fn new(limit: u64) -> Self {
        let now = Instant::now();
        let budget = MemoryBudget::new(limit);
        let end = |side| End::new(side, &budget, limit, now);
        Self {
            now,
            ends: [Side::Dialler, Side::Listener].map(end),
            damaged: false,
            failed: None,
        }
    }

    fn step(&mut self, [what, which, much]: [u8; 3]) {
        let side = usize::from(what >> 7);
        let end = &mut self.ends[side];
        let stream = end.watch.nth(which);
        match (what % 16, stream) {
            (0 | 1, _) => {
                if let Ok(stream) = end.connection.open(&an_open(which), which > 200) {
                    end.watch.opened_here(stream);
                }
            }
            (2, Some(stream)) if which > 250 => {
                end.connection.interim(stream, &an_interim(much));
            }
            (2, Some(stream)) => {
                // A stream that is gone, or was replied to, says so.
                let _ = end.connection.reply(stream, &a_reply(much), much > 200);
            }
            (3 | 4, Some(stream)) => self.send(side, stream, usize::from(much) * 300),
            (5, Some(stream)) => {
                let trailers = (much > 128).then(some_fields);
                let _ = end.connection.finish(stream, trailers.as_ref());
            }
            (6, Some(stream)) => {
                end.watch.left(stream, true);
                end.connection.reset(stream, u16::from(much).into());
            }
            (7, Some(stream)) => {
                end.watch.left(stream, false);
                end.connection.stop(stream);
            }
            (8 | 9, Some(stream)) => end.consume(stream, u64::from(much) * 300),
            (10 | 11, _) => {
                end.connection
                    .transmit(&mut end.outgoing, usize::from(much) * 100);
            }
            (12, _) => self.deliver(side, usize::from(which) * 64 + usize::from(much)),
            (13, _) => self.damage(side, usize::from(which), much),
            (14, _) => self.pass(Duration::from_millis(u64::from(much) * 4)),
            (15, _) if which < 16 => end.connection.go_away(u16::from(much).into()),
            (15, _) => end.connection.ping(self.now),
            _ => {}
        }
        self.note();
    }

    fn send(&mut self, side: usize, stream: StreamId, count: usize) {
        let end = &mut self.ends[side];
        let sent = end.sent.entry(stream).or_default();
        let data: Vec<u8> = (*sent..*sent + count)
            .map(|at| pattern(stream, at))
            .collect();
        let capacity = end.connection.capacity(stream);
        match end.connection.send(stream, &mut Bytes::from(data)) {
            Ok(taken) => {
                assert_eq!(taken, capacity.min(count));
                *sent += taken;
            }
            Err(_) => assert_eq!(capacity, 0),
        }
    }

    /// Brings bytes that one end has written to the other.
    fn deliver(&mut self, from: usize, count: usize) {
        let count = count.min(self.ends[from].outgoing.len());
        let bytes = self.ends[from].outgoing.split_to(count);
        let to = &mut self.ends[1 - from];
        to.incoming.extend_from_slice(&bytes);
        let result = to.connection.receive(&mut to.incoming, self.now);
        self.failed = self.failed.take().or(result.err());
    }

    fn damage(&mut self, side: usize, place: usize, with: u8) {
        if let Some(byte) = self.ends[side].outgoing.get_mut(place) {
            *byte ^= with;
            self.damaged |= with != 0;
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            let lively = end.connection.on_timeout(self.now);
            self.failed = self.failed.take().or(lively.err());
        }
    }

    fn note(&mut self) {
        for end in &mut self.ends {
            let mut gone = Vec::new();
            while let Some(event) = end.connection.poll_event() {
                end.watch.take(&event);
                if let Event::Reset { stream, .. } | Event::Lost { stream } = &event {
                    gone.push(*stream);
                }
                if let Event::Data { stream, bytes } = &event {
                    let received = end.received.entry(*stream).or_default();
                    for &byte in bytes {
                        let expected = pattern(*stream, *received);
                        assert!(self.damaged || byte == expected, "bytes come in order");
                        *received += 1;
                    }
                }
            }
            for stream in gone {
                // What had arrived of it is dropped, and the machine is told so.
                end.watch.left(stream, true);
                end.connection.stop(stream);
            }
            end.watch.check(&end.connection);
        }
        if let (false, Some(error)) = (self.damaged, &self.failed) {
            let silence = matches!(error, ConnectionError::Dead { .. });
            assert!(silence, "between honest ends: {error}");
        }
    }

    /// Everything is delivered, read, answered and ended: it becomes quiet, whatever was before.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for side in 0..2 {
                let end = &mut self.ends[side];
                for stream in end.watch.streams().collect::<Vec<_>>() {
                    end.consume(stream, u64::MAX);
                    let _ = end.connection.reply(stream, &a_reply(0), false);
                    let _ = end.connection.finish(stream, None);
                }
                end.connection.transmit(&mut end.outgoing, usize::MAX);
                self.deliver(side, usize::MAX);
                self.note();
            }
            let failed = self.failed.is_some();
            let open = |end: &End| end.connection.open_streams() > 0;
            if self.ends.iter().all(End::is_quiet) && (failed || !self.ends.iter().any(open)) {
                return;
            }
            if self.damaged && self.ends.iter().all(End::is_quiet) {
                // What was lost on the way is awaited for ever, or until the connection is closed.
                return;
            }
        }
        panic!("it never settles");
    }

    fn conclude(mut self) -> String {
        for end in &mut self.ends {
            end.connection.lost();
        }
        self.note_over();
        match (&self.failed, self.damaged) {
            (Some(error), _) => word(error),
            (None, true) => "damaged-unnoticed".to_owned(),
            (None, false) => self.sound(),
        }
    }

    fn note_over(&mut self) {
        for end in &mut self.ends {
            while let Some(event) = end.connection.poll_event() {
                end.watch.take(&event);
            }
            end.watch.check_over();
        }
    }

    /// Nothing was damaged and nothing failed.
    fn sound(&self) -> String {
        let received = |end: &End| end.received.values().sum::<usize>();
        let total: usize = self.ends.iter().map(received).sum();
        match total {
            0 => "sound-without-data",
            1..=65_536 => "sound",
            _ => "sound-with-much-data",
        }
        .to_owned()
    }
}

/// The byte at `at` of what is sent on `stream`, either way.
fn pattern(stream: StreamId, at: usize) -> u8 {
    let mixed = at.wrapping_mul(31) ^ (at >> 8) ^ stream.number() as usize;
    mixed.to_le_bytes()[0]
}
