//! How many have begun of late, counted in few steps, however many there are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Those of the last while. What began in the same short time is counted as one.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Begun {
    steps: VecDeque<(Instant, u32)>,
    /// Of all steps together.
    all: u32,
}

/// So many steps a while has.
const STEPS: u32 = 64;

impl Begun {
    /// One begins; what is older than `span` is forgotten.
    pub(super) fn add(&mut self, span: Duration, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) > span;
        while let Some((at, count)) = self.steps.front().copied()
            && old(at)
        {
            self.steps.pop_front();
            self.all -= count;
        }
        // Beyond this, what is one more?
        let Some(all) = self.all.checked_add(1) else {
            return;
        };
        self.all = all;
        match self.steps.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < span / STEPS => *count += 1,
            _ => self.steps.push_back((now, 1)),
        }
    }

    /// How many began within `span` of now. Looks at those that did not, which are few where the span is
    /// that of [`Begun::add`].
    pub(super) fn within(&self, span: Duration, now: Instant) -> u32 {
        let old = |at: Instant| now.saturating_duration_since(at) > span;
        let before = self.steps.iter().take_while(|(at, _)| old(*at));
        before.fold(self.all, |left, (_, count)| left - count)
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
        assert!(begun.steps.len() <= 66, "{}", begun.steps.len());
        assert_eq!(begun.within(100 * MS, now + 500 * MS), 0);
    }
}
