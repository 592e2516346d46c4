//! Names that somebody has asked for and that nothing is known to stand behind.
//!
//! Whoever may ask a proxy for a service can say any name. Those that exist stay; the others are
//! forgotten again, and few are kept at a time, so that no number of them is ever in the way of a
//! service. Who is forgotten and called again is asked for again. Decides only whom to forget.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use isthmus_delta::Topic;

/// Names that are not known to exist; when there are as many, the older half is forgotten.
const MOST: usize = 1_000;
/// How long one of them is remembered.
const REMEMBER: Duration = Duration::from_mins(5);

/// Topics that were not answered yet, or that do not exist, and since when.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<Topic, Instant>);

impl Strangers {
    /// This topic was asked for, or was found not to exist.
    pub(super) fn add(&mut self, topic: &Topic, now: Instant) {
        self.0.entry(topic.clone()).or_insert(now);
    }

    /// All of them are asked for anew.
    pub(super) fn renew(&mut self, now: Instant) {
        for since in self.0.values_mut() {
            *since = now;
        }
    }

    /// This one exists, or is not wanted any more.
    pub(super) fn remove(&mut self, topic: &Topic) {
        self.0.remove(topic);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those to forget now: whose time is over, and the older half when there are too many. `needed`
    /// are asked for by what is known, and stay.
    pub(super) fn due(&self, needed: &BTreeSet<Topic>, now: Instant) -> Vec<Topic> {
        let others = self.0.iter().filter(|(topic, _)| !needed.contains(topic));
        let mut others: Vec<_> = others.map(|(topic, since)| (*since, topic)).collect();
        others.sort_unstable();
        let over =
            others.partition_point(|(since, _)| now.saturating_duration_since(*since) >= REMEMBER);
        let crowd = if others.len() >= MOST {
            others.len() - MOST / 2
        } else {
            0
        };
        others.truncate(over.max(crowd));
        others.into_iter().map(|(_, topic)| topic.clone()).collect()
    }

    /// There are as many as there may be.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.len() >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(number: usize) -> Topic {
        Topic::new(&format!("service/shop/{number:04}"))
    }

    #[test]
    fn what_does_not_exist_is_forgotten_after_a_while_unless_a_route_needs_it() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for number in 0..4 {
            strangers.add(&topic(number), now);
        }
        let later = now + REMEMBER;
        strangers.add(&topic(0), later);
        strangers.add(&topic(9), later);
        // It exists after all.
        strangers.remove(&topic(3));
        let needed = BTreeSet::from([topic(1)]);
        assert_eq!(strangers.due(&needed, now), []);
        assert_eq!(strangers.due(&needed, later), [topic(0), topic(2)]);
    }

    #[test]
    fn of_too_many_the_older_half_is_forgotten() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        let at = |number: usize| now + Duration::from_millis(number as u64);
        for number in (1..MOST).rev() {
            strangers.add(&topic(number), at(number));
        }
        let none = BTreeSet::new();
        assert!(!strangers.is_crowded());
        assert_eq!(strangers.due(&none, at(MOST)), []);
        strangers.add(&topic(0), at(0));
        assert!(strangers.is_crowded());
        let due = strangers.due(&none, at(MOST));
        assert_eq!(due.len(), MOST / 2);
        assert_eq!(due.last(), Some(&topic(MOST / 2 - 1)));
    }
}
