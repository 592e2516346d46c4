//! How many requests a cluster can hold of us, learnt from what came back of it.
//!
//! Little's law: what is in service at once is goodput times the time that service takes. The most
//! that was proven so, per workload, is the *concurrency* of a cluster as far as it is ours; it
//! stays the same when every request becomes slower, so a slower cluster is sent less without
//! anything having to be learnt first. The limit is a little above it, and it counts only while the
//! cluster is *pressed*: by what its replies say of their workload's utilisation where they do, else
//! by a latency above that of calm times, or by silence.
//!
//! How long service takes is what a reply took of which its workload says for how long the request had
//! waited before it. Where none say so, it is what replies take in calm times: such as are, or are made
//! for a moment by lowering the limit.
//!
//! Other callers are never asked. All see the same latency and utilisation, take the same steps, and
//! so what each learns is its own part of what they share.
//!
//! What is waited for is the first byte of the reply, so that streams and TCP connections, which
//! live on afterwards, fill no limit.

use std::time::{Duration, Instant};

use crate::constants::{
    ASK_AT, ASK_FOR, CALM, CALM_UTILISATION, CONCURRENCY_ASSUMED, CONCURRENCY_FLOOR,
    CONCURRENCY_HEADROOM, FAILURE_LATENCY, FULL, GUESTS_FULL, GUESTS_KEPT, GUESTS_PRESSED,
    LEARN_EVERY, PRESSED, PRESSED_ANYWAY, RATE_HEADROOM, RECENT_WEIGHT, SERVICE_FLOOR, SILENCE,
    UTILISATION_AGE, UTILISATION_WEIGHT,
};

mod begun;
mod learn;

use begun::Begun;

/// What one caller holds at one cluster and has learnt of it. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Load {
    /// Tries that wait for the first byte of their reply.
    waiting: u32,
    /// The last reply, or the first try after a time without any.
    heard: Option<Instant>,
    window: Option<Window>,
    /// When the last ones began.
    begun: Begun,
    /// Tries per second.
    rate: Option<f64>,
    /// The time to the first byte without a queue before the program, round trip included.
    base: Option<f64>,
    /// How many calm replies the base stands on, as far as that matters.
    base_from: u32,
    /// The same of the last few replies as they were; failures count as slow.
    recent: Option<f64>,
    /// The mean of the last window.
    steady: Option<f64>,
    utilisation: Option<(f64, Instant)>,
    /// Its replies say how long their requests have waited.
    tells_waiting: bool,
    /// Requests in service at once per workload.
    concurrency: Option<f64>,
    /// The most of that which was seen; fades slowly.
    proven: f64,
    asking: Option<Asking>,
}

/// Since the last step of learning.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    since: Instant,
    /// Until when `held` is counted.
    counted: Instant,
    /// Waiting tries times seconds.
    held: f64,
    begun: u32,
    all: Sum,
    /// Those that surely did not queue.
    calm: Sum,
    /// Those that say how long they waited, without that.
    served: Sum,
    failed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sum {
    seconds: f64,
    count: u32,
}

/// The last time that the limit was lowered for a moment, to see latency without a queue.
#[derive(Debug, Clone, PartialEq)]
struct Asking {
    since: Instant,
    /// Not again before this has passed.
    rest: Duration,
    /// It is over by then.
    most: Duration,
    answered: bool,
}

/// What facts say about a cluster, as far as it bears on its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Room {
    /// Workloads, those in their slow start in part.
    pub(crate) workloads: f64,
    /// Seconds; 0.0 in the own cluster and where it is unknown.
    pub(crate) rtt: f64,
    pub(crate) local: bool,
}

/// What is taken of a cluster that was never used: what is known of the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Siblings {
    concurrency: f64,
    /// Seconds in the workload.
    pub(crate) service: f64,
}

/// What a reply says of its workload.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Told {
    /// The share of its capacity that is in use, 0.0 to 1.0; what is outside is clamped, NaN ignored.
    pub utilisation: Option<f64>,
    /// How long the request had to wait before its program took it; more than its reply took: ignored.
    pub waited: Option<Duration>,
}

/// A try as the limit sees it, from its beginning to its first byte.
#[derive(Debug)]
pub(crate) struct Held {
    sent: Instant,
    calm: bool,
    stage: Stage,
    /// It was set aside for a while: what it waited for meanwhile is not part of its time.
    was_aside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For the first byte of the reply.
    Waits,
    Over,
    Failed,
}

impl Held {
    /// The way is found and the request goes out now: what it took to find it is not latency.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }
}

impl Load {
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// The calm latency in seconds.
    pub(crate) fn base(&self) -> Option<f64> {
        self.base
    }

    /// The same as far as it is known: in the beginning, the mean of what has come back.
    pub(crate) fn calm(&self) -> Option<f64> {
        let first = || self.window.as_ref()?.all.mean();
        self.base.or_else(first)
    }

    /// Tries per second.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// What one workload was found to work on at once.
    pub(crate) fn concurrency(&self) -> Option<f64> {
        self.concurrency
    }

    /// How many times as long as in calm times the last few replies took; 1.0 if nothing is known.
    pub(crate) fn inflation(&self, room: Room, now: Instant) -> f64 {
        let known = self.predicted(now).zip(self.base);
        known.map_or(1.0, |(expected, base)| inflation(expected, base, room))
    }

    pub(crate) fn begin(&mut self, room: Room, now: Instant) -> Held {
        self.learn_if_due(room, now);
        let calm = self.is_calm(room, now);
        let waiting = self.waiting;
        let window = self.window.get_or_insert_with(|| Window::new(now));
        window.hold(waiting, now);
        window.begun = window.begun.saturating_add(1);
        if waiting == 0 {
            self.heard = Some(now);
        }
        self.waiting = waiting.saturating_add(1);
        self.begun.add(self.overdue_after(room), now);
        Held {
            sent: now,
            calm,
            stage: Stage::Waits,
            was_aside: false,
        }
    }

    /// The first byte of a good reply is here; `waited`: as its workload says.
    pub(crate) fn replied(&mut self, held: &mut Held, waited: Option<Duration>, now: Instant) {
        if !self.release(held, now) {
            return;
        }
        self.heard = Some(now);
        let took = now.saturating_duration_since(held.sent).as_secs_f64();
        let utilisation = self.fresh_utilisation(now);
        let calm = held.calm && utilisation.is_none_or(|u| u < CALM_UTILISATION);
        // No request has waited for longer than its reply took: who says so says nothing.
        let waited = waited.map(|waited| waited.as_secs_f64());
        let waited = waited.filter(|waited| !held.was_aside && *waited <= took);
        if let Some(window) = &mut self.window {
            window.all.add(took);
            if let Some(waited) = waited {
                window.served.add(took - waited);
            }
            if calm {
                window.calm.add(took);
            }
        }
        self.recent = Some(blend(self.recent, took, RECENT_WEIGHT));
    }

    /// A reply says how busy its workload is, 0.0 to 1.0; that of the cluster is the mean of the
    /// last few.
    pub(crate) fn told(&mut self, utilisation: Option<f64>, now: Instant) {
        let Some(utilisation) = utilisation.filter(|u| !u.is_nan()) else {
            return;
        };
        let known = self.fresh_utilisation(now);
        let mean = blend(known, utilisation.clamp(0.0, 1.0), UTILISATION_WEIGHT);
        self.utilisation = Some((mean, now));
    }

    /// The try failed, by its reply or later. Errors count as latency, and what failed is no
    /// goodput: a cluster that fails fast has not become faster.
    pub(crate) fn failed(&mut self, held: &mut Held, now: Instant) {
        self.release(held, now);
        if std::mem::replace(&mut held.stage, Stage::Failed) == Stage::Failed {
            return;
        }
        let took = now.saturating_duration_since(held.sent);
        let cost = took.max(FAILURE_LATENCY).as_secs_f64();
        self.recent = Some(blend(self.recent, cost, RECENT_WEIGHT));
        if let Some(window) = &mut self.window {
            window.failed = window.failed.saturating_add(1);
        }
    }

    /// The try waits for its own sender: it counts for nothing, until it is taken up again.
    pub(crate) fn set_aside(&mut self, held: &mut Held, now: Instant) {
        if self.release(held, now)
            && let Some(window) = &mut self.window
        {
            window.begun = window.begun.saturating_sub(1);
        }
    }

    /// What the try was set aside for is over.
    pub(crate) fn take_up(&mut self, room: Room, now: Instant) -> Held {
        Held {
            was_aside: true,
            ..self.begin(room, now)
        }
    }

    /// The try ended and says nothing.
    pub(crate) fn dropped(&mut self, held: &mut Held, now: Instant) {
        self.release(held, now);
    }

    /// What the workloads of the cluster are assumed to hold at once, each, until it is learnt.
    pub(crate) fn assume(&mut self, concurrency: f64) {
        self.concurrency = Some(concurrency);
    }

    /// The utilisation that its replies tell, if they are fresh and that is what presses it.
    pub(crate) fn full(&self, room: Room, now: Instant) -> Option<f64> {
        let mark = if room.local { FULL } else { GUESTS_FULL };
        self.fresh_utilisation(now).filter(|u| *u > mark)
    }

    /// The limit, if the cluster is pressed and holds more of us.
    pub(crate) fn exceeded(&self, room: Room, siblings: Siblings, now: Instant) -> Option<u32> {
        let limit = self.limit(room, siblings, now);
        let over = f64::from(self.waiting) > limit && self.is_pressed(room, now);
        over.then(|| whole(limit))
    }

    /// What a request sent now is expected to take, in seconds; `None`: it was never measured.
    pub(crate) fn predicted(&self, now: Instant) -> Option<f64> {
        let base = self.base?;
        let age = self
            .heard
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let kept = (-age.as_secs_f64() / LEARN_EVERY.as_secs_f64()).exp();
        Some(base + (self.recent.unwrap_or(base) - base) * kept)
    }

    /// As [`Load::exceeded`], of a single workload, whose silence is nobody else's: also where as many
    /// are overdue as it works on.
    pub(crate) fn is_full(&self, room: Room, now: Instant) -> bool {
        let over = f64::from(self.waiting) > self.limit(room, Siblings::none(), now);
        over && (self.is_pressed(room, now) || self.is_overdue(room, now))
    }

    /// min(L1, L2) of the valve; see docs/decisions/0008.
    pub(crate) fn limit(&self, room: Room, siblings: Siblings, now: Instant) -> f64 {
        if self.is_asking(now) {
            let each = self.concurrency.unwrap_or(siblings.concurrency);
            return (ASK_AT * each * room.workloads).max(1.0);
        }
        self.usual_limit(room, siblings)
    }

    /// The limit while it is not lowered.
    pub(crate) fn usual_limit(&self, room: Room, siblings: Siblings) -> f64 {
        let each = self.concurrency.unwrap_or(siblings.concurrency);
        let concurrency = each * room.workloads;
        let on_the_way = self.rate.unwrap_or(0.0) * room.rtt;
        let full = CONCURRENCY_HEADROOM * concurrency + on_the_way;
        let Some((rate, base)) = self.rate.zip(self.base) else {
            return full.max(CONCURRENCY_FLOOR);
        };
        let offered = RATE_HEADROOM * rate * base;
        let burst = offered + 4.0 * offered.sqrt() + 4.0;
        let limit = full.min(burst);
        if room.local {
            return limit.max(CONCURRENCY_FLOOR);
        }
        let served = rate * service(base, room);
        let guests = GUESTS_KEPT * (on_the_way + served);
        limit.min(guests).max(CONCURRENCY_FLOOR)
    }

    fn is_pressed(&self, room: Room, now: Instant) -> bool {
        let base = self.base.unwrap_or(SILENCE.as_secs_f64());
        let silent = self.heard.is_some_and(|at| {
            let silence = now.saturating_duration_since(at).as_secs_f64();
            silence > (4.0 * base).max(SILENCE.as_secs_f64())
        });
        if silent || self.is_asking(now) {
            return true;
        }
        let inflated = |latency: Option<f64>, mark: f64| {
            latency.is_some_and(|latency| inflation(latency, base, room) > mark)
        };
        let expected = self.predicted(now);
        if self.fresh_utilisation(now).is_some() {
            // What is told may be wrong; what was waited for is not.
            return self.full(room, now).is_some() || inflated(expected, PRESSED_ANYWAY);
        }
        if room.local {
            return inflated(expected, PRESSED);
        }
        // Guests are so careful that the last few replies are too few to judge by.
        inflated(expected, GUESTS_PRESSED) && inflated(self.steady, GUESTS_PRESSED)
    }

    /// Little's law, before any of them is answered: more wait than have come in the time that they
    /// may take, and what is over is as much as all that is worked on.
    fn is_overdue(&self, room: Room, now: Instant) -> bool {
        let recent = self.begun.within(self.overdue_after(room), now);
        let worked_on = self.concurrency.unwrap_or(CONCURRENCY_ASSUMED) * room.workloads;
        f64::from(self.waiting.saturating_sub(recent)) > worked_on.max(CONCURRENCY_FLOOR)
    }

    /// What a try takes that queues.
    fn overdue_after(&self, room: Room) -> Duration {
        let base = self.base.unwrap_or(SILENCE.as_secs_f64());
        let seconds = room.rtt + PRESSED * service(base, room);
        Duration::try_from_secs_f64(seconds).unwrap_or(SILENCE)
    }

    /// Is a try that begins now sure not to queue?
    fn is_calm(&self, room: Room, now: Instant) -> bool {
        let on_the_way = self.rate.unwrap_or(0.0) * room.rtt;
        let each = self.concurrency.unwrap_or(CONCURRENCY_ASSUMED);
        let part = if self.is_asking(now) { ASK_AT } else { CALM };
        let calm = part * each * room.workloads + on_the_way;
        let room_left = f64::from(self.waiting) < calm;
        let settled = self.asking.as_ref().is_none_or(|asking| {
            let passed = now.saturating_duration_since(asking.since);
            !self.is_asking(now) || passed > ASK_FOR / 3
        });
        self.waiting == 0 || (room_left && settled)
    }

    fn fresh_utilisation(&self, now: Instant) -> Option<f64> {
        self.utilisation(UTILISATION_AGE, now)
    }

    /// What its replies have said of its utilisation, unless that is older than `age`.
    pub(crate) fn utilisation(&self, age: Duration, now: Instant) -> Option<f64> {
        let (utilisation, at) = self.utilisation?;
        (now.saturating_duration_since(at) < age).then_some(utilisation)
    }

    fn is_asking(&self, now: Instant) -> bool {
        self.asking(now).is_some()
    }

    /// Since when the limit is lowered to see latency without a queue, and for how long at most, if it
    /// is.
    pub(crate) fn asking(&self, now: Instant) -> Option<(Instant, Duration)> {
        let asking = self.asking.as_ref().filter(|asking| !asking.answered)?;
        let left = (asking.since + asking.most).saturating_duration_since(now);
        (!left.is_zero()).then_some((asking.since, left))
    }

    /// Ends the waiting of a try, once.
    fn release(&mut self, held: &mut Held, now: Instant) -> bool {
        if held.stage != Stage::Waits {
            return false;
        }
        held.stage = Stage::Over;
        if let Some(window) = &mut self.window {
            window.hold(self.waiting, now);
        }
        self.waiting = self.waiting.saturating_sub(1);
        true
    }
}

impl Siblings {
    /// There are no others.
    pub(crate) fn none() -> Self {
        Self {
            concurrency: CONCURRENCY_ASSUMED,
            service: 0.0,
        }
    }

    /// The means of what is known of all clusters of a destination.
    pub(crate) fn of<'l>(all: impl Iterator<Item = (&'l Load, Room)>) -> Self {
        let (mut concurrency, mut time) = (Sum::default(), Sum::default());
        for (load, room) in all {
            if let Some(learnt) = load.concurrency {
                concurrency.add(learnt);
            }
            if let Some(base) = load.base {
                time.add(service(base, room));
            }
        }
        Self {
            concurrency: concurrency.mean().unwrap_or(Self::none().concurrency),
            service: time.mean().unwrap_or(Self::none().service),
        }
    }
}

/// An exponentially weighted mean; the first sample counts in full.
fn blend(known: Option<f64>, sample: f64, weight: f64) -> f64 {
    known.map_or(sample, |known| known + weight * (sample - known))
}

/// What of a time to the first byte is spent in the workload.
fn service(latency: f64, room: Room) -> f64 {
    (latency - room.rtt).max(SERVICE_FLOOR.as_secs_f64())
}

/// How many times the calm service time `latency` has.
fn inflation(latency: f64, base: f64, room: Room) -> f64 {
    service(latency, room) / service(base, room)
}

/// Limits are shown as whole requests.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "limits are positive and far below 2^32; the cast saturates"
)]
fn whole(limit: f64) -> u32 {
    limit as u32
}

#[cfg(test)]
mod tests;
