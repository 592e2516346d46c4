//! When to dial which other control plane.
//!
//! Of two clusters the one with the lesser name dials first; the other waits a little, so that
//! there is one session and not two. After a failure both try again soon, with jitter.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_model::ClusterName;
use isthmus_world::Chance;

/// How long the cluster with the greater name waits for the other to dial.
const YIELD: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A cluster of the mesh, and nobody else.
    Cluster(ClusterName),
    /// Whichever control plane of this mesh answers there.
    Bootstrap(SocketAddr),
}

/// Attempts per target.
#[derive(Debug, Default)]
pub(super) struct Dialling(BTreeMap<Target, Attempt>);

#[derive(Debug)]
struct Attempt {
    next: Instant,
    backoff: Duration,
    running: bool,
}

impl Dialling {
    /// The targets, of those wanted now, that are due. Each is then running until `on_ended`.
    pub(super) fn due(
        &mut self,
        own: &ClusterName,
        wanted: Vec<Target>,
        now: Instant,
    ) -> Vec<Target> {
        self.0
            .retain(|target, attempt| attempt.running || wanted.contains(target));
        let mut due = Vec::new();
        for target in wanted {
            let attempt = self.0.entry(target.clone()).or_insert_with(|| {
                let waits = matches!(&target, Target::Cluster(other) if other < own);
                Attempt {
                    next: if waits { now + YIELD } else { now },
                    backoff: FIRST_BACKOFF,
                    running: false,
                }
            });
            if !attempt.running && attempt.next <= now {
                attempt.running = true;
                due.push(target);
            }
        }
        due
    }

    /// The attempt, or the session that came of it, is over. A session that lasted starts the
    /// backoff anew.
    pub(super) fn on_ended(
        &mut self,
        target: &Target,
        lasted: bool,
        now: Instant,
        chance: &mut impl Chance,
    ) {
        if let Some(attempt) = self.0.get_mut(target) {
            if lasted {
                attempt.backoff = FIRST_BACKOFF;
            }
            // Between half the backoff and all of it.
            let half = attempt.backoff / 2;
            let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
            attempt.next = now + half + Duration::from_micros(chance.below(span));
            attempt.backoff = attempt.backoff.saturating_mul(2).min(LONGEST_BACKOFF);
            attempt.running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_world::SeededChance;

    use super::*;

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    #[test]
    fn the_lesser_name_dials_first() {
        let start = Instant::now();
        let target = |text: &str| vec![Target::Cluster(name(text))];
        let mut west = Dialling::default();
        assert_eq!(west.due(&name("west"), target("east"), start), []);
        assert_eq!(
            west.due(&name("west"), target("east"), start + YIELD),
            target("east")
        );
        let mut east = Dialling::default();
        assert_eq!(
            east.due(&name("east"), target("west"), start),
            target("west")
        );
        assert_eq!(
            east.due(&name("east"), target("west"), start),
            [],
            "it runs"
        );
    }

    #[test]
    fn failures_are_tried_again_within_two_seconds() {
        let mut now = Instant::now();
        let mut chance = SeededChance::new(1);
        let target = Target::Bootstrap(([127, 0, 0, 1], 15012).into());
        let mut dialling = Dialling::default();
        for _ in 0..20 {
            let due = dialling.due(&name("west"), vec![target.clone()], now);
            assert_eq!(due, std::slice::from_ref(&target));
            dialling.on_ended(&target, false, now, &mut chance);
            assert_eq!(dialling.due(&name("west"), vec![target.clone()], now), []);
            now += LONGEST_BACKOFF;
        }
    }
}
