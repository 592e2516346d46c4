//! How long to wait until a control plane is tried again: longer each time, and somewhat by chance, so
//! that those who have lost it together do not come back together.

use std::time::Duration;

use isthmus_world::Chance;

/// Doubled up to the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

pub(super) struct Backoff<C> {
    chance: C,
    next: Duration,
}

impl<C: Chance> Backoff<C> {
    pub(super) fn new(chance: C) -> Self {
        Self {
            chance,
            next: FIRST,
        }
    }

    /// Nothing has failed since a control plane last was of use.
    pub(super) fn is_fresh(&self) -> bool {
        self.next == FIRST
    }

    /// A control plane was of use.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// It has failed: how long to wait now.
    pub(super) fn pause(&mut self) -> Duration {
        // Between half the time and all of it.
        let half = self.next / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        self.next = (self.next * 2).min(LONGEST);
        half + Duration::from_micros(self.chance.below(span))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_world::SeededChance;

    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_no_two_proxies_wait_alike() {
        let [mut one, mut other] = [1, 2].map(|seed| Backoff::new(SeededChance::new(seed)));
        for full in [100, 200, 400, 800, 1_600, 2_000, 2_000].map(Duration::from_millis) {
            let pauses = [one.pause(), other.pause()];
            for pause in pauses {
                assert!((full / 2..full).contains(&pause), "{pause:?} of {full:?}");
            }
            assert_ne!(pauses[0], pauses[1]);
        }
        one.reset();
        assert!(one.is_fresh());
        assert!(one.pause() < FIRST);
    }
}
