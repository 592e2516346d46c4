//! Links to one workload, or to one gateway: one, and more while it carries as many requests as it may.
//! Requests that last (streams, replies that nobody reads) must not keep others waiting.

use std::time::{Duration, Instant};

use crate::mux::Link;

/// Beyond these, who comes waits for a request to end.
const MOST: usize = 8;

#[derive(Default)]
pub(crate) struct Links(Vec<Standing>);

struct Standing {
    link: Link,
    since: Instant,
}

impl Links {
    /// One that takes a request now, else one that will; `None`: none stands.
    pub(crate) fn pick(&self) -> Option<&Link> {
        let mut standing = self.standing();
        standing
            .find(|link| link.has_room())
            .or_else(|| self.standing().next())
    }

    /// Are all full, and may there be one more?
    pub(crate) fn wants_more(&self) -> bool {
        self.standing().count() < MOST && self.standing().all(Link::is_full)
    }

    /// One more. It takes the place of those that are not full, and of those that leave.
    pub(crate) fn add(&mut self, link: Link, now: Instant) {
        self.keep(|standing| !standing.link.is_leaving() && standing.link.is_full());
        self.0.push(Standing { link, since: now });
    }

    /// Has those leave that nobody has used for `idle`, or that stand for longer than `life`, and forgets
    /// those that do.
    pub(crate) fn tidy(&mut self, idle: Duration, life: Duration, now: Instant) {
        self.keep(|standing| {
            let unused = standing.link.idle_since();
            let is_idle = unused.is_some_and(|at| now.saturating_duration_since(at) > idle);
            let is_old = now.saturating_duration_since(standing.since) > life;
            !is_idle && !is_old && !standing.link.is_leaving()
        });
    }

    /// Forgets those that leave.
    pub(crate) fn drop_leaving(&mut self) {
        self.keep(|standing| !standing.link.is_leaving());
    }

    /// Of the quickest that stands, if it is known of any.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.standing().filter_map(Link::round_trip).min()
    }

    /// Does none stand?
    pub(crate) fn is_empty(&self) -> bool {
        self.standing().next().is_none()
    }

    /// No new streams on any; those that run may finish.
    pub(crate) fn drain(&self) {
        self.0.iter().for_each(|standing| standing.link.drain());
    }

    fn standing(&self) -> impl Iterator<Item = &Link> {
        self.0
            .iter()
            .map(|standing| &standing.link)
            .filter(|link| !link.is_leaving())
    }

    /// The others end when the streams that run on them have ended.
    fn keep(&mut self, kept: impl Fn(&Standing) -> bool) {
        self.0.retain(|standing| {
            let stays = kept(standing);
            if !stays {
                standing.link.drain();
            }
            stays
        });
    }
}
