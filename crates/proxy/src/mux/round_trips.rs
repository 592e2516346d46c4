//! What the last few pings on a connection took.

use std::time::Duration;

/// The last three. One of them alone says nothing: anybody may be held up once.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    last: [Duration; 3],
    count: usize,
}

impl RoundTrips {
    pub(super) fn add(&mut self, took: Duration) {
        self.last[self.count % self.last.len()] = took;
        self.count += 1;
    }

    /// The one in the middle; `None` until there were three.
    pub(super) fn typical(&self) -> Option<Duration> {
        let mut sorted = self.last;
        sorted.sort_unstable();
        (self.count >= sorted.len()).then_some(sorted[sorted.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_held_up_says_nothing() {
        let mut round_trips = RoundTrips::default();
        for (took, expect) in [
            (9, None),
            (300, None),
            (8, Some(9)),
            (7, Some(8)),
            (200, Some(8)),
            (200, Some(200)),
            (5, Some(200)),
            (6, Some(6)),
        ] {
            round_trips.add(Duration::from_millis(took));
            assert_eq!(
                round_trips.typical(),
                expect.map(Duration::from_millis),
                "{took}"
            );
        }
    }
}
