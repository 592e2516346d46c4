//! How many a program may be given at once: as many as it answers in time.
//!
//! What it cannot do is known only when replies are late, and until then it would be given all that
//! comes: with few workers that take long, a second's worth of work, for which whoever matters most
//! has to wait then. So it is given more step by step: each reply in time makes it one more, each late
//! one makes it one less, as far as they were among so many that they say anything. A program that can
//! do much has it all after a few times its own latency, whatever was learnt of it in quieter times.

use std::time::{Duration, Instant};

use crate::constants::{PRESSED, SURGE_KEPT, SURGE_LEAST};

/// So many are answered in time; forgotten slowly.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Proven(Option<(f64, Instant)>);

impl Proven {
    /// One that was among so many in the program was answered after `took`; it takes `calm` where
    /// nothing queues.
    pub(super) fn replied(&mut self, among: u32, took: Duration, calm: f64, now: Instant) {
        let at = self.at(now);
        if 2.0 * f64::from(among) <= at {
            return;
        }
        let in_time = took.as_secs_f64() <= PRESSED * calm;
        let step = if in_time { 1.0 } else { -1.0 };
        self.0 = Some(((at + step).max(0.0), now));
    }

    pub(super) fn at(self, now: Instant) -> f64 {
        self.0.map_or(SURGE_LEAST, |(most, at)| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            let kept = (-passed / SURGE_KEPT.as_secs_f64()).exp();
            SURGE_LEAST + (most - SURGE_LEAST) * kept
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const CALM: f64 = 0.010;

    #[test]
    fn what_is_answered_in_time_may_be_more_and_what_is_late_less() {
        let now = Instant::now();
        for (among, took, times, expect) in [
            // Too few to say anything of sixteen.
            (8, 10, 100, 16.0),
            (8, 90, 100, 16.0),
            (9, 13, 1, 17.0),
            // Among no more than nine nothing is shown of more than eighteen.
            (9, 10, 100, 18.0),
            (200, 10, 100, 116.0),
            (9, 15, 1, 15.0),
            (200, 90, 100, 0.0),
        ] {
            let mut proven = Proven::default();
            (0..times).for_each(|_| proven.replied(among, took * MS, CALM, now));
            let found = proven.at(now);
            assert!((found - expect).abs() < 1e-9, "{among} {took}: {found}");
            // It is forgotten, whichever it was.
            let later = proven.at(now + 20 * SURGE_KEPT);
            assert!(
                (later - SURGE_LEAST).abs() < 1e-3,
                "{among} {took}: {later}"
            );
        }
    }
}
