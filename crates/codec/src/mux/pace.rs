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
/// Sealed, in one segment of 1,428 bytes.
pub(super) const SHORT: usize = 1360;

#[derive(Debug)]
pub(super) struct Pace {
    /// Of streams, since they were quiet last. Pings and credits come whether they are or not.
    sent: usize,
    /// When something of a stream was sent last.
    last: Instant,
    now: Instant,
    /// More of streams has waited ever since, for the other end to take it: that is no pause.
    waits: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            last: now,
            now,
            waits: false,
        }
    }

    /// How long a frame is now at most, and so a record.
    pub(super) fn piece(&mut self, now: Instant) -> usize {
        self.now = now;
        if !self.waits && now.saturating_duration_since(self.last) >= QUIET {
            self.sent = 0;
        }
        if self.sent < BEGINNING {
            SHORT
        } else {
            MAX_DATA
        }
    }

    /// `sent`: bytes of streams, in the moment that [`Pace::piece`] was told.
    pub(super) fn count(&mut self, sent: usize, waits: bool) {
        self.waits = waits;
        if sent > 0 {
            self.sent = self.sent.saturating_add(sent);
            self.last = self.now;
        }
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
                pace.count(BEGINNING / 4, false);
                now += QUIET / 2;
            }
            for _ in 0..4 {
                assert_eq!(pace.piece(now), MAX_DATA);
                pace.count(1, false);
                now += QUIET / 2;
            }
            // What is no stream's goes on.
            assert_eq!(pace.piece(now), MAX_DATA);
            pace.count(0, false);
            now += QUIET / 2;
        }
    }

    #[test]
    fn who_waits_for_the_other_end_is_not_quiet() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pace.count(BEGINNING, true);
        for (waits, expect) in [(true, MAX_DATA), (false, MAX_DATA), (false, SHORT)] {
            now += 2 * QUIET;
            assert_eq!(pace.piece(now), expect);
            pace.count(1, waits);
        }
    }
}
