//! When each request of an open loop is due. Pure.

use std::num::NonZeroU32;
use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// Requests at even distances, however long the replies take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) per_second: NonZeroU32,
    pub(super) duration: Duration,
}

impl Schedule {
    /// When the request of this number is due, counted from 0 and from the start of the run.
    /// `None`: the run has ended by then.
    pub(super) fn due(self, number: u64) -> Option<Duration> {
        let nanos = u128::from(number) * NANOS / u128::from(self.per_second.get());
        let due = Duration::from_nanos(u64::try_from(nanos).ok()?);
        (due < self.duration).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(per_second: u32, milliseconds: u64) -> Schedule {
        Schedule {
            per_second: NonZeroU32::new(per_second).unwrap(),
            duration: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn every_second_has_its_requests_and_none_drifts() {
        for (per_second, milliseconds, expect) in [
            (200, 30_000, 6000),
            (1, 1, 1),
            (3, 1000, 3),
            (3, 1001, 4),
            (7, 10_000, 70),
            (1000, 2500, 2500),
            (5, 0, 0),
        ] {
            let schedule = schedule(per_second, milliseconds);
            let due: Vec<Duration> = (0..).map_while(|number| schedule.due(number)).collect();
            assert_eq!(due.len(), expect, "{schedule:?}");
            assert!(due.is_sorted());
            for second in 0..milliseconds / 1000 {
                let within = due.iter().filter(|due| due.as_secs() == second).count();
                assert_eq!(within, per_second as usize, "{schedule:?}, second {second}");
            }
        }
    }

    #[test]
    fn no_number_is_too_large() {
        assert_eq!(schedule(1, 1000).due(u64::MAX), None);
        assert_eq!(schedule(u32::MAX, 1000).due(u64::MAX), None);
    }
}
