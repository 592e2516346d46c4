//! Credit: how much a peer may still send, and how that grows.

use std::time::{Duration, Instant};

use super::LEAST_STREAM_CREDIT;

/// Bytes of credit below which a grant is a crumb, which costs more than it brings: who has taken a
/// quarter of the smallest window grants more.
pub(super) const LEAST_GRANT: u64 = LEAST_STREAM_CREDIT as u64 / 8;

/// Bandwidth over a shorter time says more about chance than about the link.
const SHORTEST_MEASURE: Duration = Duration::from_millis(10);

/// The receiving side of a credit, of a stream or of a connection; in bytes of data.
///
/// Invariant: `available` never exceeds what the peer was told, so a peer that never reads our
/// frames can never send more than was promised to it.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    size: u64,
    available: u64,
    /// Consumed or grown by, and not yet given to the peer.
    owed: u64,
    /// What has been consumed since `since`, to measure the bandwidth.
    consumed: u64,
    since: Option<Instant>,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size: size.into(),
            available: size.into(),
            owed: 0,
            consumed: 0,
            since: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn available(&self) -> u64 {
        self.available
    }

    /// Bytes that came and are still in our memory.
    pub(super) fn held(&self) -> u64 {
        self.size.saturating_sub(self.available + self.owed)
    }

    /// Takes `count` bytes in; false when the peer may not send so much.
    pub(super) fn take(&mut self, count: u64) -> bool {
        match self.available.checked_sub(count) {
            Some(left) => {
                self.available = left;
                true
            }
            None => false,
        }
    }

    /// `count` bytes of those taken in have left our memory.
    pub(super) fn release(&mut self, count: u64) {
        self.owed = self.owed.saturating_add(count);
        self.consumed = self.consumed.saturating_add(count);
    }

    /// Bytes that the peer may send, or could be allowed to.
    pub(super) fn free(&self) -> u64 {
        self.available + self.owed
    }

    /// Is so much owed that telling the peer is worth a frame? What counts is the part that moves: a
    /// quarter of the whole may never come together beside streams that nobody reads.
    pub(super) fn is_due(&self) -> bool {
        self.owed >= (self.free() / 4).max(LEAST_GRANT)
    }

    /// What to grant the peer now.
    pub(super) fn grant(&mut self) -> u32 {
        let granted = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(granted);
        self.available += u64::from(granted);
        granted
    }

    /// At the end of a round trip: twice the product of bandwidth and delay, which is the window that
    /// lets a peer send on while its credit is under way. Bandwidth is what was consumed meanwhile: who
    /// is slow to consume needs no larger window. `None` in between, and while no round trip is known.
    pub(super) fn measure(&mut self, rtt: Option<Duration>, now: Instant) -> Option<u64> {
        let rtt = rtt?;
        let Some(since) = self.since else {
            self.measure_from(now);
            return None;
        };
        let passed = now.saturating_duration_since(since);
        if passed < rtt.max(SHORTEST_MEASURE) {
            return None;
        }
        let product = u128::from(self.consumed) * rtt.as_nanos() / passed.as_nanos();
        self.measure_from(now);
        Some(u64::try_from(2 * product).unwrap_or(u64::MAX))
    }

    /// By how much to grow towards `target`: at most twice as large, since a window that limits its
    /// peer hides how much more there could be.
    pub(super) fn missing(&self, target: u64) -> u64 {
        target.min(2 * self.size).saturating_sub(self.size)
    }

    /// By how much it could shrink, a part at a time, when `target` would do.
    pub(super) fn surplus(&self, target: u64) -> u64 {
        let needed = 4 * target.max(self.held());
        if needed < self.size { self.size / 4 } else { 0 }
    }

    /// Is half of it held by streams that nobody reads? They must not stop those that are read.
    pub(super) fn is_crowded(&self) -> bool {
        self.held() > self.size / 2
    }

    fn measure_from(&mut self, now: Instant) {
        self.consumed = 0;
        self.since = Some(now);
    }

    /// The peer may have `more` bytes under way or in our memory.
    pub(super) fn grow(&mut self, more: u64) {
        self.size += more;
        self.owed += more;
    }

    /// Takes back as much of `most` as is not promised. Gives how much that was.
    pub(super) fn shrink(&mut self, most: u64) -> u64 {
        let less = most.min(self.owed);
        self.size -= less;
        self.owed -= less;
        less
    }
}
