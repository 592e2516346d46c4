//! Who waits, in what order, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Ticket;
use crate::constants::QUEUE_HIGH;

/// How many ranks there are.
const RANKS: usize = 6;
/// High priority, its retries included.
const HIGH: u8 = 1;

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) came: Instant,
    /// 0 is served first; below [`RANKS`].
    pub(super) rank: u8,
    /// It is turned away then.
    pub(super) until: Instant,
    /// It has waited for a quarter of that then.
    pub(super) urgent: Instant,
    /// Its caller has gone then.
    pub(super) deadline: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By rank and age: tickets are given out in order.
    waiting: BTreeMap<(u8, Ticket), Waiting>,
    /// How many there are of each rank.
    counts: [usize; RANKS],
    ends: BTreeSet<(Instant, u8, Ticket)>,
    /// Turned away for one that matters more, and not told yet.
    gave_way: Vec<Ticket>,
    /// Since when it was never empty.
    since: Option<Instant>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Since when it was never empty.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// It has not been empty for longer than a `burst` takes.
    pub(super) fn is_standing(&self, burst: Duration, now: Instant) -> bool {
        lasts(self.since, burst, now)
    }

    /// When one of those that matter most has waited for so long that it cannot wait for what a lowered
    /// limit is to show.
    pub(super) fn urgent(&self) -> Option<Instant> {
        let first = self.waiting.values().next()?;
        (first.rank <= HIGH).then_some(first.urgent)
    }

    /// How many are served before one of this rank that comes now.
    pub(super) fn ahead_of(&self, rank: u8) -> usize {
        self.counts[..=usize::from(rank)].iter().sum()
    }

    pub(super) fn push(&mut self, waiting: Waiting, now: Instant) {
        self.since.get_or_insert(now);
        let Waiting {
            ticket,
            rank,
            until,
            ..
        } = waiting;
        self.counts[usize::from(rank)] += 1;
        self.ends.insert((until, rank, ticket));
        self.waiting.insert((rank, ticket), waiting);
    }

    /// Makes way for one of `rank`: the oldest of those that matter least, if they matter less.
    pub(super) fn give_way(&mut self, rank: u8) -> bool {
        let Some(least) = self.waiting.keys().next_back().map(|(least, _)| *least) else {
            return false;
        };
        let oldest = self.waiting.range((least, Ticket(0))..).next();
        let Some(ticket) = oldest
            .map(|((_, ticket), _)| *ticket)
            .filter(|_| least > rank)
        else {
            return false;
        };
        self.take((least, ticket));
        self.gave_way.push(ticket);
        true
    }

    pub(super) fn gave_way(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.gave_way)
    }

    /// The next to be served: of the lowest rank the oldest, or the newest of a standing queue. What
    /// matters most is judged by how long the oldest of it has waited: as long as all of it can be served
    /// soon, none is left for one that came after it.
    pub(super) fn take_next(&mut self, burst: Duration, now: Instant) -> Option<Waiting> {
        let (rank, oldest) = *self.waiting.keys().next()?;
        let newest = || self.waiting.range(..(rank + 1, Ticket(0))).next_back();
        let stands = if rank <= HIGH {
            let oldest = self.waiting.get(&(rank, oldest));
            lasts(oldest.map(|oldest| oldest.came), QUEUE_HIGH / 2, now)
        } else {
            self.is_standing(burst, now)
        };
        let ticket = if stands {
            newest().map_or(oldest, |((_, ticket), _)| *ticket)
        } else {
            oldest
        };
        self.take((rank, ticket))
    }

    /// One that need not wait any more.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<Waiting> {
        let (until, rank, ticket) = *self.ends.first()?;
        (until <= now).then(|| self.take((rank, ticket)))?
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        let key = self.waiting.keys().find(|(_, waiting)| *waiting == ticket);
        if let Some(key) = key.copied() {
            self.take(key);
        }
        self.gave_way.retain(|gone| *gone != ticket);
    }

    /// When somebody has waited for long enough; at once for those who gave way.
    pub(super) fn next_end(&self, now: Instant) -> Option<Instant> {
        let first = self.ends.first().map(|(until, ..)| *until);
        if self.gave_way.is_empty() {
            first
        } else {
            Some(now)
        }
    }

    fn take(&mut self, key: (u8, Ticket)) -> Option<Waiting> {
        let waiting = self.waiting.remove(&key)?;
        self.counts[usize::from(key.0)] -= 1;
        self.ends.remove(&(waiting.until, key.0, key.1));
        if self.waiting.is_empty() {
            self.since = None;
        }
        Some(waiting)
    }
}

/// It has not been empty for longer than that.
fn lasts(since: Option<Instant>, length: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) > length)
}
