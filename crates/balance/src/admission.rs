//! Which requests a workload takes now, which wait, and which are turned away at once.
//!
//! The limit is learnt as the valve's is (see [`crate::limit`]): what is in service at once by
//! Little's law, and only while latency says that requests queue in the program. What is above it
//! waits here instead, where it can be ordered, where it can be seen to be too late, and where
//! turning it away costs nothing.
//!
//! The queue is short and adaptive (after Facebook's "Fail at scale", 2015). In a burst it is first
//! come, first served, and may last a while. When it has not been empty for a time it is a standing
//! queue, which helps nobody: then the newest goes first, as it has the most time left, and nobody
//! waits long. So goodput stays at the capacity however great the overload, and comes back as soon
//! as that is over: nothing is left that nobody waits for any more.
//!
//! That is for callers in a hurry. Who has seconds to spare may wait for some of them: to a batch of a
//! thousand calls without a deadline, a second of waiting is nothing, and a refusal is a failure.
//!
//! Served first, and so turned away last: high priority, its retries, normal and low priority, their
//! retries.

use std::time::{Duration, Instant};

use crate::constants::{
    BURST_LASTS, GUESTS_PRESSED, LONGER_THAN_USUAL, PRESSED, QUEUE_BURST, QUEUE_HIGH, QUEUE_HURRY,
    QUEUE_LONGEST, QUEUE_SHORTEST, QUEUE_SPARE, QUEUE_STANDING, QUEUE_UNPROVEN, RETRY_AFTER,
    ROOM_UTILISATION, STRETCH, SURGE_LEAST, UTILISATION_OVER,
};
use crate::limit::{Held, Load, Room, Siblings};

mod proven;
mod queue;

use proven::Proven;
use queue::{Queue, Waiting};

/// How much a request matters to those who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Importance {
    High,
    Normal,
    Low,
}

/// The callee's side of one workload: one per service and port that its program serves.
#[derive(Debug, Default)]
pub struct Admission {
    load: Load,
    proven: Proven,
    queue: Queue,
    /// Some wait because the program holds all that it can, not only because it has not shown yet how much
    /// that is.
    is_pressed: bool,
    /// Tickets that have been given out.
    tickets: u64,
    /// Smoothed, and as of when.
    utilisation: Option<(f64, Instant)>,
}

/// What becomes of a request that arrives.
#[derive(Debug)]
pub enum Arrival {
    Admitted(Admitted),
    /// It waits: [`Admission::finish`] or [`Admission::on_timeout`] will name it.
    Queued(Ticket),
    Shed(Shed),
}

/// A request that may go to the program. Invariant: every one is given back to
/// [`Admission::finish`], however it ends; else it counts as in service for ever.
#[derive(Debug)]
#[must_use = "give it back to Admission::finish when the request ends"]
pub struct Admitted {
    held: Held,
    began: Instant,
    /// So many were in the program then, this one included.
    among: u32,
}

/// Names a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A request is turned away: no program has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    pub reason: ShedReason,
    /// When it might be taken; asking earlier only adds load.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// Its time is over, or would be before its turn came.
    TooLate,
    /// More wait than are useful, and this one matters least.
    QueueFull,
    /// It has waited for as long as is useful.
    WaitedLong,
}

/// What becomes of a request that waited.
#[derive(Debug)]
pub enum Turn {
    Go(Ticket, Admitted),
    Shed(Ticket, Shed),
}

/// How an admitted request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The first byte of a good reply is here.
    Replied,
    /// The program failed, or the caller went away: this says nothing of how long work takes.
    Otherwise,
}

impl ShedReason {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLate => "too-late",
            Self::QueueFull => "queue-full",
            Self::WaitedLong => "waited-long",
        }
    }
}

impl Ticket {
    /// As a number, such as a key.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl Admission {
    /// A request arrives. `attempt`: 0 for a first try. `remaining`: until its caller gives up.
    pub fn arrive(
        &mut self,
        importance: Importance,
        attempt: u32,
        remaining: Option<Duration>,
        now: Instant,
    ) -> Arrival {
        if remaining.is_some_and(|left| left.is_zero()) {
            return Arrival::Shed(self.shed(ShedReason::TooLate, now));
        }
        self.feel(now);
        if self.queue.is_empty() && self.has_room(now) {
            return Arrival::Admitted(self.admit(now));
        }
        let rank = rank(importance, attempt);
        let ahead = self.queue.ahead_of(rank);
        let needs = self.expected_wait(ahead) + self.takes(now);
        if remaining.is_some_and(|left| left < needs) {
            return Arrival::Shed(self.shed(ShedReason::TooLate, now));
        }
        let spare = spare(remaining);
        if self.queue.len() >= self.longest(importance, spare, now) && !self.queue.give_way(rank) {
            return Arrival::Shed(self.shed(ShedReason::QueueFull, now));
        }
        let useful = self.useful_wait(importance, now).max(spare);
        let patience = remaining.map_or(useful, |left| useful.min(left));
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.queue.push(
            Waiting {
                ticket,
                came: now,
                rank,
                until: now + patience,
                urgent: now + patience / 4,
                deadline: remaining.and_then(|left| now.checked_add(left)),
            },
            now,
        );
        Arrival::Queued(ticket)
    }

    /// A request has ended, or its reply has begun: who is next, and who need not wait any more.
    pub fn finish(&mut self, admitted: Admitted, served: Served, now: Instant) -> Vec<Turn> {
        let Admitted {
            mut held,
            began,
            among,
        } = admitted;
        match served {
            Served::Replied => {
                self.load.replied(&mut held, None, now);
                let took = now.saturating_duration_since(began);
                if let Some(calm) = self.load.calm() {
                    self.proven.replied(among, took, calm, now);
                }
            }
            Served::Otherwise => self.load.dropped(&mut held, now),
        }
        self.measure(now);
        self.advance(now)
    }

    /// A request that waited has gone away.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.queue.remove(ticket);
    }

    /// When [`Admission::on_timeout`] has something to say: `now` if it has already.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let end = self.queue.next_end(now)?;
        if !self.queue.is_empty() && self.has_room(now) {
            return Some(now);
        }
        let Some((_, left)) = self.load.asking(now) else {
            return Some(end);
        };
        // There may be room without anybody's leaving.
        let urgent = self.queue.urgent().filter(|at| *at > now);
        Some(end.min(now + left).min(urgent.unwrap_or(end)))
    }

    /// Who has waited for too long, and whose turn has come meanwhile.
    pub fn on_timeout(&mut self, now: Instant) -> Vec<Turn> {
        self.advance(now)
    }

    /// The share of the capacity that is in use, 0.0 to 1.0: what replies tell their callers. The
    /// capacity is known only once it is reached; until then this stays below what turns guests
    /// away, and it goes to 1.0 while requests wait.
    pub fn utilisation(&self, now: Instant) -> f64 {
        let in_use = self.in_use(now);
        self.utilisation.map_or(in_use, |(known, at)| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            let kept = (-passed / UTILISATION_OVER.as_secs_f64()).exp();
            known * kept + in_use * (1.0 - kept)
        })
    }

    /// Requests that the program works on.
    pub fn in_service(&self) -> u32 {
        self.load.waiting()
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn admit(&mut self, now: Instant) -> Admitted {
        self.measure(now);
        Admitted {
            held: self.load.begin(WHOLE, now),
            began: now,
            among: self.load.waiting(),
        }
    }

    /// Gives out what room there is, and ends what waits in vain.
    fn advance(&mut self, now: Instant) -> Vec<Turn> {
        self.feel(now);
        let mut turns = Vec::new();
        for ticket in self.queue.gave_way() {
            turns.push(Turn::Shed(ticket, self.shed(ShedReason::QueueFull, now)));
        }
        while let Some(waiting) = self.queue.take_ended(now) {
            let late = waiting.deadline.is_some_and(|deadline| deadline <= now);
            let reason = if late {
                ShedReason::TooLate
            } else {
                ShedReason::WaitedLong
            };
            turns.push(Turn::Shed(waiting.ticket, self.shed(reason, now)));
        }
        while !self.queue.is_empty() && self.has_room(now) {
            let Some(waiting) = self.queue.take_next(self.burst(), now) else {
                break;
            };
            let done = now + self.takes(now);
            turns.push(
                if waiting.deadline.is_some_and(|deadline| deadline < done) {
                    Turn::Shed(waiting.ticket, self.shed(ShedReason::TooLate, now))
                } else {
                    Turn::Go(waiting.ticket, self.admit(now))
                },
            );
        }
        turns
    }

    /// Sees whether the program holds all that it can. As long as any wait, that needs no further proof.
    fn feel(&mut self, now: Instant) {
        let waited = self.is_pressed && !self.queue.is_empty();
        self.is_pressed = waited || self.load.is_full(WHOLE, now);
    }

    /// May one more go to the program?
    fn has_room(&self, now: Instant) -> bool {
        let held = f64::from(self.load.waiting());
        let usual = self.load.usual_limit(WHOLE, Siblings::none());
        let proven = self.proven.at(now);
        if !self.is_pressed {
            return held < usual.max(proven).max(SURGE_LEAST);
        }
        if self.queue.is_empty() {
            return false;
        }
        if self.load.asking(now).is_some() {
            let urgent = self.queue.urgent().is_some_and(|at| at <= now);
            return held < if urgent { usual } else { self.limit(now) };
        }
        let calm = self.load.inflation(WHOLE, now) < GUESTS_PRESSED;
        held < (usual * if calm { STRETCH } else { 1.0 }).max(proven)
    }

    fn limit(&self, now: Instant) -> f64 {
        self.load.limit(WHOLE, Siblings::none(), now)
    }

    /// More must not wait.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "limits are positive and far below 2^32; the cast saturates"
    )]
    fn longest(&self, importance: Importance, spare: Duration, now: Instant) -> usize {
        if importance == Importance::High || spare > QUEUE_BURST {
            return QUEUE_LONGEST;
        }
        if !self.is_pressed {
            return QUEUE_UNPROVEN;
        }
        ((2.0 * self.limit(now)) as usize).clamp(QUEUE_SHORTEST, QUEUE_LONGEST)
    }

    /// How long one may wait that comes now. What matters most waits for as long as it can.
    fn useful_wait(&self, importance: Importance, now: Instant) -> Duration {
        if importance == Importance::High {
            return QUEUE_HIGH;
        }
        let wait = if self.is_pressed && self.is_standing(now) {
            QUEUE_STANDING.max(self.service())
        } else {
            self.burst()
        };
        wait + self.wait_for_answer(now)
    }

    /// How much longer one waits who would not have to if the limit were not lowered for a moment: a
    /// question is no reason to turn anybody away.
    fn wait_for_answer(&self, now: Instant) -> Duration {
        let asking = self.load.asking(now);
        asking.map_or(Duration::ZERO, |(since, left)| {
            let for_it = self.queue.since().is_none_or(|at| at >= since);
            if for_it { left } else { Duration::ZERO }
        })
    }

    /// How long a burst lasts.
    fn burst(&self) -> Duration {
        QUEUE_BURST.max(BURST_LASTS * self.service())
    }

    fn is_standing(&self, now: Instant) -> bool {
        self.queue.is_standing(self.burst(), now)
    }

    /// How long a request may take that goes to the program now; zero if nothing is known.
    fn takes(&self, now: Instant) -> Duration {
        let seconds = LONGER_THAN_USUAL * self.load.predicted(now).unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
    }

    /// How long a request takes when nothing queues; zero if nothing is known.
    fn service(&self) -> Duration {
        Duration::try_from_secs_f64(self.load.base().unwrap_or(0.0)).unwrap_or(Duration::ZERO)
    }

    /// Until so many have gone to the program; zero if nothing is known. It goes as fast as it went of
    /// late, or as those go that the program works on: it may not have had to be fast.
    #[expect(clippy::cast_precision_loss, reason = "a queue is short")]
    fn expected_wait(&self, ahead: usize) -> Duration {
        let working = f64::from(self.load.waiting());
        let within = self.load.calm().map(|calm| working / (PRESSED * calm));
        let rate = self.load.rate().into_iter().chain(within).reduce(f64::max);
        let rate = rate.filter(|rate| *rate > 0.0);
        let wait = rate.map_or(0.0, |rate| ahead as f64 / rate);
        Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)
    }

    fn shed(&self, reason: ShedReason, now: Instant) -> Shed {
        let queue = self.expected_wait(self.queue.len());
        let standing = self.is_standing(now);
        Shed {
            reason,
            retry_after: if standing {
                2 * RETRY_AFTER
            } else {
                RETRY_AFTER
            } + queue,
        }
    }

    fn measure(&mut self, now: Instant) {
        self.utilisation = Some((self.utilisation(now), now));
    }

    /// Below the capacity, what is proven is all that is known of it, and it may be much more: so
    /// only latency can say that the capacity is near.
    fn in_use(&self, now: Instant) -> f64 {
        if !self.queue.is_empty() {
            return 1.0;
        }
        let proven = self.load.concurrency().unwrap_or(f64::INFINITY);
        let part = (f64::from(self.load.waiting()) / proven).min(ROOM_UTILISATION);
        let near = (self.load.inflation(WHOLE, now) - 1.0) / (PRESSED - 1.0);
        part + (1.0 - part) * near.clamp(0.0, 1.0)
    }
}

/// What a caller can wait without being the worse for it.
fn spare(remaining: Option<Duration>) -> Duration {
    remaining.map_or(QUEUE_SPARE, |left| {
        (left.saturating_sub(QUEUE_HURRY) / 5).min(QUEUE_SPARE)
    })
}

/// A workload is one, here, and local.
const WHOLE: Room = Room {
    workloads: 1.0,
    rtt: 0.0,
    local: true,
};

/// The order of service.
fn rank(importance: Importance, attempt: u32) -> u8 {
    match (importance, attempt) {
        (Importance::High, 0) => 0,
        (Importance::High, _) => 1,
        (Importance::Normal, 0) => 2,
        (Importance::Low, 0) => 3,
        (Importance::Normal, _) => 4,
        (Importance::Low, _) => 5,
    }
}

#[cfg(test)]
mod tests;
