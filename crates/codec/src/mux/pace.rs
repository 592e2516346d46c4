//! How long the pieces are in which a sender hands over what it sends.
//!
//! Of a frame or a record nothing is of use before all of it is there. After a pause TCP begins with a few segments
//! and waits for the other end before it sends more (RFC 6928; RFC 5681 section 4.1), so the first
//! bytes of a long record would wait for a round trip although they have arrived. Long pieces cost
//! less, and nothing is gained by short ones once much is on its way.

use std::time::{Duration, Instant};

use super::MAX_DATA;

/// Who has been quiet for so long begins anew: no less than TCP takes to think so.
const QUIET: Duration = Duration::from_secs(1);
/// So many bytes go in short pieces: several round trips of a beginning.
const BEGINNING: usize = 64 * 1024;
/// With its headers, and those of a tunnel around it, in one segment of 1,428 bytes.
pub(super) const SHORT: usize = 1360;

#[derive(Debug)]
pub(super) struct Pace {
    /// Since it was quiet last.
    sent: usize,
    last: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { sent: 0, last: now }
    }

    /// How long a frame is now at most, and so a record.
    pub(super) fn piece(&mut self, now: Instant) -> usize {
        if now.saturating_duration_since(self.last) >= QUIET {
            self.sent = 0;
        }
        self.last = now;
        if self.sent < BEGINNING {
            SHORT
        } else {
            MAX_DATA
        }
    }

    pub(super) fn count(&mut self, sent: usize) {
        self.sent = self.sent.saturating_add(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_short_at_the_beginning_and_after_a_pause() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..2 {
            for _ in 0..4 {
                assert_eq!(pace.piece(now), SHORT);
                pace.count(BEGINNING / 4);
                now += QUIET / 2;
            }
            for _ in 0..4 {
                assert_eq!(pace.piece(now), MAX_DATA);
                pace.count(1);
                now += QUIET / 2;
            }
            now += QUIET / 2;
        }
    }
}
