//! What becomes of streams that nobody reads, when they hold what all others need.

use std::time::{Duration, Instant};

use super::{Connection, Event, ResetCode, StreamId};
use crate::mux::LEAST_CONNECTION_CREDIT;

/// Bytes that the peer can always send, or soon again, whatever stands still.
const RESERVE: u64 = LEAST_CONNECTION_CREDIT as u64 / 2;

/// How long a stream has to stand still before others may be more important.
const STANDSTILL: Duration = Duration::from_secs(1);

/// How often to look, while there is nothing to gain.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the driver holds of a stream that is no more.
#[derive(Debug)]
pub(super) struct Lingering {
    pub(super) held: u64,
    pub(super) moved: Instant,
}

impl Connection {
    /// Keeps room for streams that move: first by credit, where the budget has some; else those that
    /// have stood still for longest are ended. Called whenever something was heard or a timer was due.
    pub(super) fn relieve(&mut self, now: Instant) {
        self.clock = now.max(self.clock);
        if self.receive_window.free() >= RESERVE || now < self.next_look {
            return;
        }
        let size = self.receive_window.size();
        self.receive_window.grow(self.drawn.more(size));
        let mut still = self.standing_still();
        while self.receive_window.free() < RESERVE {
            let Some((_, stream)) = still.pop() else {
                self.next_look = now + LOOK_EVERY;
                return;
            };
            self.give_up_unread(stream);
        }
    }

    /// Streams with data that nobody has taken for a while; the one to end first is the last.
    fn standing_still(&self) -> Vec<(Instant, StreamId)> {
        let open = self
            .streams
            .iter()
            .filter(|(_, state)| state.receive.unconsumed > 0)
            .map(|(stream, state)| (state.receive.moved, stream));
        let ended = self
            .lingering
            .iter()
            .map(|(stream, lingering)| (lingering.moved, *stream));
        let stands = |(moved, _): &(Instant, StreamId)| {
            self.clock.saturating_duration_since(*moved) >= STANDSTILL
        };
        let mut still: Vec<_> = open.chain(ended).filter(stands).collect();
        still.sort_unstable_by(|a, b| b.cmp(a));
        still
    }

    fn give_up_unread(&mut self, stream: StreamId) {
        let code = if stream.is_of(self.side) {
            ResetCode::Cancelled
        } else {
            ResetCode::MaybeExecuted
        };
        self.reset(stream, code);
        self.events.push_back(Event::Unread { stream });
    }
}
