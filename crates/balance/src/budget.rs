//! How much retries may add: the retry budget of one called service.
//!
//! Ordinary retries draw on it: at most a percentage of requests, shrunk by the share of this
//! workload's own inbound requests that are themselves retries, so that a chain of services does not
//! multiply. The percentage holds in *every* second, not on average: of the requests that began in any
//! time of a second or longer, no more are retried. So there is no reserve that quiet times could fill
//! and the first moment of an overload burn. A retry is counted when its request began, not when it is
//! made: what came then is what it may be a part of. (Of a time that is not over, what has come so far
//! counts, from a second ago at least.)
//!
//! Traffic may be so thin that a percentage of it is nothing. Then one retry in a second is allowed, and
//! beyond that a few that break no percentage but of nothing. However dense it is, as many are allowed
//! within ten seconds, and be it at once, from a cluster that keeps failing to another that has room: it
//! takes some failures until it is clear that it is out. Who was told that there is too much to do gets
//! none of those few: a thousand callers with a request a second each are a crowd, too.
//!
//! What moves does not draw on it. When a cluster dies, everything in flight to it fails at one instant,
//! which can be more than any percentage, although nothing is amplified: each of these requests
//! reaches a living cluster once. There are three such retries.
//!
//! - The first of its request, after its connection was lost, to a place that works: nothing more can
//!   be sent on that connection, so only what was on it moves.
//! - The first of its request, if the place that failed is *out* by now (breaker open, or workload
//!   ejected), and the next is another place that works and turns hardly anybody away. This is bounded
//!   without a number, too: what is out gets one probe at a time, so only what was in flight when it
//!   went out can escape; and when every place is in trouble, there is no escape.
//! - No program has seen the request, as it was turned away or the program was not there, and another
//!   cluster turns hardly anybody away (one in ten at most: any does near its capacity, in a chance
//!   crowd): that cluster does not have it twice.

use std::time::Instant;

use isthmus_model::Percent;

use crate::constants::{
    BUDGET_FLOOR_PER_SECOND, BUDGET_SLOT, BUDGET_SLOTS, BUDGET_SLOTS_SHORTEST, BUDGET_USED,
};

/// What the whole window of thin traffic may add.
const FLOOR: u64 = BUDGET_FLOOR_PER_SECOND as u64 * (BUDGET_SLOTS / BUDGET_SLOTS_SHORTEST) as u64;

/// What retries of one called service may add.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    window: Window,
    inbound_retry_share: f64,
    /// What is left over of the last requests that were said to be one that is asked again.
    owed: f64,
}

/// How much of what this workload is asked is asked again: counts the requests that it serves.
#[derive(Debug, Clone)]
pub struct Inbound {
    window: Window,
    last_retry: Option<Instant>,
}

/// What a retry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// Something went wrong, or takes long.
    Failure,
    /// The same, and the retry goes from a cluster that keeps failing to another that has room.
    Relieved,
    /// The far side has more to do than it can: only the percentage counts.
    Shed,
}

/// The last ten seconds, in slots of a tenth.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    began: Instant,
    slots: [Slot; BUDGET_SLOTS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Slot {
    /// Which one since the beginning it is.
    number: u64,
    requests: u32,
    retries: u32,
}

/// Requests and retries of some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl Inbound {
    pub fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now),
            last_retry: None,
        }
    }

    /// A request has come; `is_retry`: its caller has tried before.
    pub fn on_request(&mut self, is_retry: bool, now: Instant) {
        if is_retry {
            self.last_retry = Some(now);
        }
        let slot = self.window.slot(now);
        slot.requests = slot.requests.saturating_add(1);
        slot.retries = slot.retries.saturating_add(u32::from(is_retry));
    }

    /// The part, 0.0 to 1.0, of the requests of the last second that are retries, or of the last ten, if
    /// that is more: calm times before do not hide a storm. In traffic so thin that the floor of the
    /// budgets covers it, a few retries say little and count little.
    pub fn retry_share(&self, now: Instant) -> f64 {
        // Asked for with every request, and seldom is there anything to add up.
        let number = |at| self.window.number(at);
        let remembers = |at: Instant| number(at) + BUDGET_SLOTS as u64 > number(now);
        if !self.last_retry.is_some_and(remembers) {
            return 0.0;
        }
        let spans = [BUDGET_SLOTS_SHORTEST, BUDGET_SLOTS];
        let shares = spans.map(|count| self.window.latest(count, now).retry_share());
        shares.into_iter().fold(0.0, f64::max)
    }
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now),
            inbound_retry_share: 0.0,
            owed: 0.0,
        }
    }

    /// A request begins (its first try, not a retry). True: it counts as one that is asked again, as so
    /// many do as there are retries among what this workload is asked. Which of them came of a retry only
    /// the program knows; so whom it calls learns how many did, and whom that one calls, too.
    pub fn on_request(&mut self, now: Instant) -> bool {
        let slot = self.window.slot(now);
        slot.requests = slot.requests.saturating_add(1);
        self.owed += self.inbound_retry_share;
        let is_again = self.owed >= 1.0;
        self.owed -= f64::from(u8::from(is_again));
        is_again
    }

    /// The part, 0.0 to 1.0, of the requests that this workload was sent which are retries. Values
    /// outside are clamped; NaN is ignored.
    pub fn set_inbound_retry_share(&mut self, share: f64) {
        if !share.is_nan() {
            self.inbound_retry_share = share.clamp(0.0, 1.0);
        }
    }

    /// Takes one retry of a request that began at `asked` out of the budget; false: there is none
    /// left.
    pub fn withdraw(
        &mut self,
        percent: Percent,
        retried: Retried,
        asked: Instant,
        now: Instant,
    ) -> bool {
        let allowed = self.allows(percent, retried, asked, now);
        if allowed {
            let number = self.window.number_of(asked, now);
            let slot = self.window.slot_at(number);
            slot.retries = slot.retries.saturating_add(1);
        }
        allowed
    }

    /// May a request that began at `asked` be retried now?
    pub fn allows(&self, percent: Percent, retried: Retried, asked: Instant, now: Instant) -> bool {
        let share = self.share(percent);
        if share <= 0.0 {
            return false;
        }
        let recent = self.window.recent(now);
        let floor = scale(FLOOR, share / (BUDGET_USED * percent.fraction()));
        let is_thin = scale(recent.requests, share) < floor;
        match retried {
            Retried::Failure | Retried::Relieved if is_thin => return recent.retries < floor,
            Retried::Relieved if recent.retries < floor => return true,
            Retried::Failure | Retried::Relieved | Retried::Shed => {}
        }
        // One is always a whole one, but not in every second for ever.
        let fits = |counts: Counts| counts.retries < scale(counts.requests, share).max(1);
        fits(recent) && self.window.each_around(asked, now, fits)
    }

    /// What part of the requests may be retried: what those that were retried on the way here have left
    /// of the percentage of the rest, 0.0 at least. With it, all retries of a chain together are the
    /// percentage of what entered it.
    pub fn share(&self, percent: Percent) -> f64 {
        let percent = BUDGET_USED * percent.fraction();
        let retried = self.inbound_retry_share;
        (percent * (1.0 - retried) - retried).max(0.0)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            slots: [Slot::default(); BUDGET_SLOTS],
        }
    }

    fn recent(&self, now: Instant) -> Counts {
        self.latest(BUDGET_SLOTS, now)
    }

    /// Of the latest so many slots, the one that has just begun among them.
    fn latest(&self, count: usize, now: Instant) -> Counts {
        let current = self.number(now);
        let first = (current + 1).saturating_sub(count as u64);
        (first..=current).fold(Counts::default(), |sum, number| {
            sum.with(self.slots[index(number)].if_number(number))
        })
    }

    /// Is it so in every time that `asked` belongs to, that is past, and that is as long as the shortest
    /// or less than twice that? Every longer one is made of such.
    fn each_around(&self, asked: Instant, now: Instant, is_so: impl Fn(Counts) -> bool) -> bool {
        const SHORTEST: u64 = BUDGET_SLOTS_SHORTEST as u64;
        const LONGEST: u64 = 2 * SHORTEST - 1;
        let (at, current) = (self.number_of(asked, now), self.number(now));
        (at.saturating_sub(LONGEST - 1)..=at).all(|first| {
            let mut sum = Counts::default();
            (first..=current.min(first + LONGEST - 1)).all(|last| {
                sum = sum.with(self.slots[index(last)].if_number(last));
                let counts = last >= at && last - first + 1 >= SHORTEST;
                !counts || is_so(sum)
            })
        })
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        self.slot_at(self.number(now))
    }

    fn slot_at(&mut self, number: u64) -> &mut Slot {
        let slot = &mut self.slots[index(number)];
        *slot = slot.if_number(number);
        slot
    }

    /// Of the slot in which a request that began at `asked` is counted: the oldest, if it takes
    /// longer than any is remembered.
    fn number_of(&self, asked: Instant, now: Instant) -> u64 {
        let oldest = self.number(now).saturating_sub(BUDGET_SLOTS as u64 - 1);
        self.number(asked).clamp(oldest, self.number(now))
    }

    fn number(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.began);
        u64::try_from(passed.as_nanos() / BUDGET_SLOT.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Slot {
    /// What it counts, if it is this one; else nothing, as it is a past one.
    fn if_number(self, number: u64) -> Self {
        if self.number == number {
            self
        } else {
            Self {
                number,
                ..Self::default()
            }
        }
    }
}

impl Counts {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of ten seconds are far below 2^53"
    )]
    fn retry_share(self) -> f64 {
        self.retries as f64 / self.requests.max(FLOOR) as f64
    }

    fn with(self, slot: Slot) -> Self {
        Self {
            requests: self.requests + u64::from(slot.requests),
            retries: self.retries + u64::from(slot.retries),
        }
    }
}

/// Where a slot is kept.
fn index(number: u64) -> usize {
    usize::try_from(number % BUDGET_SLOTS as u64).expect("less than the number of slots")
}

/// `count` times `factor` (0.0 to 1.0), rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of ten seconds are far below 2^53, and the factor is not negative"
)]
fn scale(count: u64, factor: f64) -> u64 {
    // A fifth of a hundred is twenty, whatever binary fractions make of it.
    (count as f64 * factor + 1e-9) as u64
}

#[cfg(test)]
mod tests;
