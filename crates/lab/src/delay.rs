//! One direction of a link as a machine: bytes go in, and come out in order after the link's delay.
//!
//! It never reads a clock, sleeps or touches a socket: `now` is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What leaves a delay line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The sender has finished; nothing follows.
    End,
}

/// Bytes under way. Order is kept; what is under way is bounded by `limit`.
#[derive(Debug)]
pub(crate) struct DelayLine {
    delay: Duration,
    /// Nothing that enters earlier is treated as entered before this: the connection's own set-up.
    open_at: Instant,
    queue: VecDeque<(Instant, Piece)>,
    weight: usize,
    limit: usize,
    ended: bool,
}

/// Many small pieces cost memory too: each counts as at least this many bytes.
const SMALLEST_WEIGHT: usize = 256;
/// What a link can hold: a gigabit per second times its delay, but never less than this.
const SMALLEST_LIMIT: usize = 256 * 1024;
const BYTES_PER_SECOND: f64 = 125_000_000.0;

impl DelayLine {
    pub(crate) fn new(delay: Duration, open_at: Instant) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a cast saturates"
        )]
        let product = (delay.as_secs_f64() * BYTES_PER_SECOND) as usize;
        Self {
            delay,
            open_at,
            queue: VecDeque::new(),
            weight: 0,
            limit: product.max(SMALLEST_LIMIT),
            ended: false,
        }
    }

    /// May more be read from the sender?
    pub(crate) fn has_room(&self) -> bool {
        !self.ended && self.weight < self.limit
    }

    pub(crate) fn push(&mut self, now: Instant, piece: Piece) {
        self.weight = self.weight.saturating_add(weight(&piece));
        self.ended |= piece == Piece::End;
        let ready = now.max(self.open_at) + self.delay;
        // Invariant: the queue is in order of readiness, since `now` never goes back.
        self.queue.push_back((ready, piece));
    }

    /// When the oldest piece arrives; `None`: nothing is under way.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.queue.front().map(|(ready, _)| *ready)
    }

    /// The oldest piece, if it has arrived.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Piece> {
        if self.next_arrival()? > now {
            return None;
        }
        let (_, piece) = self.queue.pop_front()?;
        self.weight = self.weight.saturating_sub(weight(&piece));
        Some(piece)
    }
}

fn weight(piece: &Piece) -> usize {
    match piece {
        Piece::Data(bytes) => bytes.len().max(SMALLEST_WEIGHT),
        Piece::End => SMALLEST_WEIGHT,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is sent when: it arrives complete, in order, never early, and exactly late.
        #[test]
        fn order_and_delay_are_kept(
            delay in 0u64..300,
            open in 0u64..300,
            gaps in prop::collection::vec(0u64..50, 1..60),
        ) {
            let start = Instant::now();
            let delay = Duration::from_millis(delay);
            let open_at = start + Duration::from_millis(open);
            let mut line = DelayLine::new(delay, open_at);
            let mut now = start;
            let mut sent = Vec::new();
            for (index, gap) in gaps.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                let piece = Piece::Data(Bytes::from(index.to_string()));
                line.push(now, piece.clone());
                sent.push((now.max(open_at) + delay, piece));
            }
            for (arrival, piece) in sent {
                prop_assert_eq!(line.next_arrival(), Some(arrival));
                let early = arrival.checked_sub(Duration::from_nanos(1)).unwrap();
                prop_assert_eq!(line.pop(early), None);
                prop_assert_eq!(line.pop(arrival), Some(piece));
            }
            prop_assert_eq!((line.next_arrival(), line.weight), (None, 0));
        }
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let start = Instant::now();
        for (delay, size) in [(0, 1), (0, 65_536), (70, 1), (70, 65_536)] {
            let mut line = DelayLine::new(Duration::from_millis(delay), start);
            let mut bytes = 0;
            while line.has_room() {
                line.push(start, Piece::Data(Bytes::from(vec![0; size])));
                bytes += size.max(SMALLEST_WEIGHT);
            }
            assert!(bytes <= line.limit + size.max(SMALLEST_WEIGHT));
            line.pop(start + Duration::from_secs(1));
            assert!(line.has_room());
            line.push(start, Piece::End);
            while line.pop(start + Duration::from_secs(1)).is_some() {}
            assert!(!line.has_room(), "nothing is read behind the end");
        }
    }
}
