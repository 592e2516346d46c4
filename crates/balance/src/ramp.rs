//! Slow start: how much of its share something gets that has just begun or returned.

use std::time::Instant;

use crate::constants::{SLOW_START, SLOW_START_FLOOR};

/// Grows from a floor to the whole over the slow start, in a straight line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ramp {
    pub(crate) since: Instant,
}

impl Ramp {
    /// [`SLOW_START_FLOOR`] to 1.0; never falls as time goes on.
    pub(crate) fn share(self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.since);
        let part = (passed.as_secs_f64() / SLOW_START.as_secs_f64()).min(1.0);
        SLOW_START_FLOOR + (1.0 - SLOW_START_FLOOR) * part
    }
}

/// The share of something that may be on a ramp.
pub(crate) fn share(ramp: Option<Ramp>, now: Instant) -> f64 {
    ramp.map_or(1.0, |ramp| ramp.share(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn grows_from_a_tenth_to_all_in_ten_seconds() {
        let since = Instant::now();
        let ramp = Ramp { since };
        let at = |ms: u64| ramp.share(since + Duration::from_millis(ms));
        assert!((at(0) - 0.1).abs() < 1e-9);
        assert!((at(5_000) - 0.55).abs() < 1e-9);
        assert!((at(10_000) - 1.0).abs() < 1e-9);
        assert!((at(99_000) - 1.0).abs() < 1e-9);
        assert!((1..200).all(|step| at(step * 100) >= at((step - 1) * 100)));
        assert!((share(None, since) - 1.0).abs() < 1e-9);
    }
}
