//! How often a peer may do what costs us more than it costs the peer.

use std::time::{Duration, Instant};

/// A leaky bucket: `per_second` uses a second for ever, and as many at once.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u32,
    left: u32,
    refilled: Instant,
}

impl Budget {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second,
            refilled: now,
        }
    }

    /// Uses one; false when none is left.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let passed = now
            .saturating_duration_since(self.refilled)
            .min(Duration::from_secs(1));
        let gained = u128::from(self.per_second) * passed.as_micros() / 1_000_000;
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(gained).min(self.per_second);
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_refills_it() {
        let start = Instant::now();
        let mut budget = Budget::new(10, start);
        let spend = |budget: &mut Budget, now| (0..100).filter(|_| budget.spend(now)).count();
        assert_eq!(spend(&mut budget, start), 10);
        assert_eq!(spend(&mut budget, start + Duration::from_millis(99)), 0);
        assert_eq!(spend(&mut budget, start + Duration::from_millis(200)), 2);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(100)), 10);
        assert_eq!(
            spend(&mut budget, start),
            0,
            "time that goes back gives nothing"
        );
    }
}
