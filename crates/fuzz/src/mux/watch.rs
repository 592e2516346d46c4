//! What a driver may rely on, watched from outside: events come in order, each stream ends once, and
//! what is held stays within what was announced.

use std::collections::BTreeMap;

use isthmus_codec::mux::{
    Connection, Event, LEAST_CONNECTION_CREDIT, LEAST_STREAM_CREDIT, LEAST_STREAMS, StreamId,
};

/// What has been seen of one connection.
#[derive(Debug, Default)]
pub(super) struct Watch {
    streams: BTreeMap<StreamId, Seen>,
    /// Bytes of data that came and were not said to be consumed.
    held: u64,
    /// What credit may have grown by.
    grown: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
struct Seen {
    here: bool,
    replied: bool,
    ended: bool,
    gone: bool,
    /// Nothing more of it needs to be awaited.
    stopped: bool,
    held: u64,
}

impl Watch {
    /// Of a connection whose credit grows by at most `most`.
    pub(super) fn growing(most: u64) -> Self {
        Self {
            grown: most,
            ..Self::default()
        }
    }

    /// A stream was opened from this side.
    pub(super) fn opened_here(&mut self, stream: StreamId) {
        let seen = Seen {
            here: true,
            ..Seen::default()
        };
        let before = self.streams.insert(stream, seen);
        assert!(before.is_none(), "numbers are never used again");
    }

    pub(super) fn consumed(&mut self, stream: StreamId, count: u64) -> u64 {
        let Some(seen) = self.streams.get_mut(&stream) else {
            return 0;
        };
        let count = count.min(seen.held);
        seen.held -= count;
        self.held -= count;
        count
    }

    /// This side wants no more of the stream, or ended it.
    pub(super) fn left(&mut self, stream: StreamId, gone: bool) {
        self.consumed(stream, u64::MAX);
        if let Some(seen) = self.streams.get_mut(&stream) {
            seen.stopped = true;
            seen.gone |= gone;
        }
    }

    /// Streams that were seen, in the order of their numbers.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.keys().copied()
    }

    pub(super) fn nth(&self, index: u8) -> Option<StreamId> {
        let index = usize::from(index).checked_rem(self.streams.len())?;
        self.streams.keys().nth(index).copied()
    }

    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Opened { stream, end, .. } => {
                let seen = Seen {
                    ended: *end,
                    replied: true,
                    ..Seen::default()
                };
                let before = self.streams.insert(*stream, seen);
                assert!(before.is_none(), "a stream is opened once");
            }
            Event::Replied { stream, end, .. } => {
                let seen = self.receiving(*stream);
                assert!(seen.here && !seen.replied, "one reply to what was opened");
                seen.replied = true;
                seen.ended = *end;
            }
            Event::Interim { stream, .. } => {
                let seen = self.receiving(*stream);
                assert!(seen.here && !seen.replied, "before the reply");
            }
            Event::Data { stream, bytes } => {
                assert!(!bytes.is_empty());
                let all = u64::from(LEAST_CONNECTION_CREDIT) + self.grown;
                // A stream's credit grows with what is consumed, up to all of the connection's.
                let one = match self.grown {
                    0 => LEAST_STREAM_CREDIT.into(),
                    _ => all,
                };
                let seen = self.receiving(*stream);
                assert!(seen.replied, "data follows a head");
                seen.held += bytes.len() as u64;
                assert!(seen.held <= one);
                self.held += bytes.len() as u64;
                assert!(self.held <= all);
            }
            Event::Ended { stream, .. } => {
                let seen = self.receiving(*stream);
                assert!(seen.replied);
                seen.ended = true;
            }
            Event::Reset { stream, .. } | Event::Lost { stream } => {
                let seen = self
                    .streams
                    .get_mut(stream)
                    .expect("a stream that is known");
                assert!(!seen.gone, "a stream is reset once");
                // What came of it is held until the driver says that it has dropped it.
                seen.gone = true;
            }
            Event::Unread { stream } => {
                let seen = self
                    .streams
                    .get_mut(stream)
                    .expect("a stream that is known");
                assert!(seen.held > 0, "{stream} holds nothing back");
                seen.gone = true;
                self.consumed(*stream, u64::MAX);
            }
            // If it was the head, nobody knows the stream.
            Event::Undecodable { .. } => {}
            Event::Writable { stream } => {
                let seen = self.streams.get(stream).expect("a stream that is known");
                assert!(!seen.gone);
            }
            Event::GoAway { .. } | Event::Pong { .. } | Event::BodyWanted { .. } => {}
        }
    }

    fn receiving(&mut self, stream: StreamId) -> &mut Seen {
        let seen = self
            .streams
            .get_mut(&stream)
            .expect("a stream that is known");
        assert!(
            !seen.gone && !seen.ended && !seen.stopped,
            "{stream} goes on"
        );
        seen
    }

    /// What holds at every moment.
    pub(super) fn check(&self, connection: &Connection) {
        let open = connection.open_streams();
        assert!(open <= 2 * LEAST_STREAMS as usize, "{open} streams");
        assert!(
            open <= self.streams.len(),
            "{open} streams, not all of them known"
        );
        if connection.error().is_some() {
            assert_eq!(open, 0);
        }
    }

    /// The connection is over: every stream has come to an end.
    pub(super) fn check_over(&self) {
        for (stream, seen) in &self.streams {
            assert!(seen.ended || seen.gone || seen.stopped, "{stream} hangs");
        }
    }
}
