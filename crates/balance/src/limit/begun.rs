//! How many have begun of late, counted in few steps, however many there are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Those of the last while. What began in the same short time is counted as one.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Begun(VecDeque<(Instant, u32)>);

/// So many steps a while has.
const STEPS: u32 = 64;

impl Begun {
    /// One begins; what is older than `span` is forgotten.
    pub(super) fn add(&mut self, span: Duration, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) > span;
        while self.0.front().is_some_and(|(at, _)| old(*at)) {
            self.0.pop_front();
        }
        match self.0.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < span / STEPS => {
                *count = count.saturating_add(1);
            }
            _ => self.0.push_back((now, 1)),
        }
    }

    /// How many began within `span` of now.
    pub(super) fn within(&self, span: Duration, now: Instant) -> u32 {
        let recent = self.0.iter().rev();
        let recent = recent.take_while(|(at, _)| now.saturating_duration_since(*at) <= span);
        recent.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_is_not_counted_and_many_take_no_more_room() {
        const MS: Duration = Duration::from_millis(1);
        let (start, mut begun) = (Instant::now(), Begun::default());
        for n in 0..100_000 {
            begun.add(100 * MS, start + n * MS / 100);
        }
        let now = start + 1000 * MS;
        let within = begun.within(100 * MS, now);
        // A step is one or two hundredths of the whole.
        assert!((9_800..=10_200).contains(&within), "{within}");
        assert!(begun.0.len() <= 66, "{}", begun.0.len());
        assert_eq!(begun.within(100 * MS, now + 500 * MS), 0);
    }
}
