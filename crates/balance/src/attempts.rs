//! The tries of one request: their deadlines, and what follows from how one ended.
//!
//! A request is *committed* when its first byte is handed out. Until then, and after the far side
//! has said that no program saw it (refused, drained), it has surely not been executed and may be
//! tried again whatever its method. A committed request whose end is unknown may be tried again only
//! if its method is idempotent and its body still held; otherwise it ends as `maybe-executed`, and
//! the caller must decide.
//!
//! `retry.attempts` counts tries of which something was sent. One that found no way (connection
//! refused, connection closing) costs nobody anything and does not use up the right to a retry, which
//! another place may need; such tries have a bound of their own.

use std::time::{Duration, Instant};

use isthmus_model::{Percent, RetryOn, TimeoutSettings, TrafficSettings};

use crate::budget::{Budget, Retried};
use crate::constants::{HELD_BYTES, MOST_UNSENT};
use crate::outcome::Outcome;

/// The machine of one request.
#[derive(Debug)]
pub struct Attempts {
    retries: u32,
    percent: Percent,
    on: Listed,
    timeouts: TimeoutSettings,
    repeatable: Repeatable,
    tells: Tells,
    /// All of the body that was sent can be sent again.
    body_held: bool,
    /// When the request came.
    asked: Instant,
    /// It counts as one that was asked before.
    again: bool,
    /// The end of the caller's own time, if it has said so.
    inherited: Option<Instant>,
    own: Own,
    /// Tries begun.
    tries: u32,
    /// Tries that have ended and of which something was sent: what `retry.attempts` counts.
    sent: u32,
    began: Instant,
    stage: Stage,
    /// Some try's end is unknown.
    maybe_executed: bool,
}

/// What may be tried again although a program may have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeatable {
    /// Its method is idempotent.
    Always,
    /// A reply of 503 stands for UNAVAILABLE, and the policy lists that.
    Unavailable,
    /// Only what no program has seen.
    Unseen,
}

/// Of which time the far side is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    All,
    /// Of the caller's own only.
    Inherited,
}

/// `timeout.request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// The request is still coming in: it begins when that ends.
    Waits,
    Ends(Option<Instant>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of this try has been handed out.
    Uncommitted,
    Committed,
    /// The application has got the first byte of the reply.
    Replying,
}

/// Proof that the machine knows that bytes go out. Only [`Attempts::commit`] makes one; what sends
/// the first byte asks for it.
#[derive(Debug)]
#[must_use = "hand it to what sends the first byte"]
pub struct Committed(());

/// What to do after a try has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Give the reply to the application.
    Deliver,
    /// Begin another try, away from there: see [`Attempts::avoid`].
    Retry,
    /// Answer with a refusal, or cut the reply if it has begun.
    GiveUp {
        reason: GiveUp,
        /// A program may have seen the request.
        maybe_executed: bool,
    },
}

/// What the next try stays away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Avoid {
    /// Where this try was; others of the same cluster may do. If there are none, as when no way
    /// into a remote cluster could be found: the whole cluster.
    Workload,
    /// The whole cluster: it did not answer in time, its less busy workload was too busy, or this is
    /// the last try.
    Cluster,
}

/// What is known of the place to which a retry would lead: whether the budget has to pay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// It is in the same cluster, or in one that is in trouble itself.
    None,
    /// It is in another cluster that has room, and the one that failed keeps failing.
    Room,
    /// The request would only move there, which adds no load to anything: see [`crate::Budget`].
    Moves,
}

/// Why there is no further try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// It may have been executed, and its method is not idempotent.
    MaybeExecuted,
    /// The reply has begun and cannot be completed.
    ReplyCut,
    /// What was sent of the body is not held any more.
    BodyNotHeld,
    /// The far side asked not to be tried again.
    RetryUnwanted,
    /// `retry.on` does not list this failure.
    NotListed,
    /// All tries are used up.
    AttemptsSpent,
    /// The retry budget is used up.
    BudgetSpent,
    DeadlinePassed,
    /// The application has gone away.
    Cancelled,
}

impl GiveUp {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::MaybeExecuted => "maybe-executed",
            Self::ReplyCut => "reply-cut",
            Self::BodyNotHeld => "body-not-held",
            Self::RetryUnwanted => "retry-unwanted",
            Self::NotListed => "not-listed",
            Self::AttemptsSpent => "attempts-spent",
            Self::BudgetSpent => "budget-spent",
            Self::DeadlinePassed => "deadline-passed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// RFC 9110 section 9.2.2. Methods are case-sensitive.
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

impl Attempts {
    /// A request begins. `inherited`: what was left of the caller's own deadline, if it said so.
    pub fn new(
        settings: &TrafficSettings,
        method: &str,
        inherited: Option<Duration>,
        now: Instant,
    ) -> Self {
        let timeouts = settings.timeout.clone();
        let ends = |length: Option<Duration>| length.and_then(|length| now.checked_add(length));
        Self {
            retries: settings.retry.attempts,
            percent: settings.retry.budget,
            on: Listed::new(&settings.retry.on),
            timeouts: timeouts.clone(),
            repeatable: if is_idempotent(method) {
                Repeatable::Always
            } else {
                Repeatable::Unseen
            },
            tells: Tells::All,
            body_held: true,
            asked: now,
            again: false,
            inherited: ends(inherited),
            own: Own::Ends(ends(set(timeouts.request))),
            tries: 0,
            sent: 0,
            began: now,
            stage: Stage::Uncommitted,
            maybe_executed: false,
        }
    }

    /// The request is a call of gRPC, whose end as UNAVAILABLE is told as a reply of 503. Its reply may be
    /// a stream, so that `timeout.request` is for its beginning, and nobody else's to hold it to.
    pub fn call(&mut self) {
        self.tells = Tells::Inherited;
        if self.repeatable == Repeatable::Unseen && self.on.contains(RetryOn::Unavailable) {
            self.repeatable = Repeatable::Unavailable;
        }
    }

    /// The request is still coming in, and how long that takes is its sender's business:
    /// `timeout.request` begins when [`Attempts::received`] is told.
    pub fn receive(&mut self) {
        self.own = Own::Waits;
    }

    /// All of the request is here.
    pub fn received(&mut self, now: Instant) {
        if self.own == Own::Waits {
            let length = set(self.timeouts.request);
            self.own = Own::Ends(length.and_then(|length| now.checked_add(length)));
        }
    }

    /// The reply has begun and is a stream, which lasts as long as it likes: only the caller's own
    /// deadline holds.
    pub fn stream(&mut self) {
        self.own = Own::Ends(None);
        self.timeouts.per_try = Duration::ZERO;
    }

    /// Its method says that executing it twice does no harm (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        self.repeatable == Repeatable::Always
    }

    /// When the request is over at the latest.
    fn ends(&self) -> Option<Instant> {
        let own = match self.own {
            Own::Waits => None,
            Own::Ends(end) => end,
        };
        own.into_iter().chain(self.inherited).min()
    }

    /// A try begins: it looks for a place and a connection.
    pub fn begin(&mut self, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        self.began = now;
        self.stage = Stage::Uncommitted;
    }

    /// The first byte of the request is about to go out.
    pub fn commit(&mut self) -> Committed {
        if self.stage == Stage::Uncommitted {
            self.stage = Stage::Committed;
        }
        Committed(())
    }

    /// Some of the body went out that is not kept, being longer than [`HELD_BYTES`].
    pub fn lose_body(&mut self) {
        self.body_held = false;
    }

    /// Tries begun so far; the first is 1.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The request counts as one that was asked before: see [`Budget::on_request`].
    pub fn again(&mut self) {
        self.again = true;
    }

    /// What the far side is told: 0 is the first try of what nobody has asked before.
    pub fn attempt(&self) -> u32 {
        let before = self.tries.saturating_sub(1);
        before.saturating_add(u32::from(self.again))
    }

    /// Should a reply of this length (`None`: unknown) be held until it is complete? Only while a
    /// cut reply could be made good by another try.
    pub fn holds_reply(&self, length: Option<u64>, now: Instant) -> bool {
        let short = length.is_some_and(|length| length <= HELD_BYTES);
        let repeatable = self.is_idempotent() && self.body_held && self.on.contains(RetryOn::Reset);
        let more = self.sent < self.retries && self.tries < self.most_tries();
        short && repeatable && more && !self.is_late(now)
    }

    /// The application gets the first byte of the reply: from here on there is no retry.
    pub fn begin_reply(&mut self) {
        self.stage = Stage::Replying;
    }

    /// When to ask [`Attempts::expired`] again.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ends = [self.ends(), self.try_ends(), self.connect_ends()];
        ends.into_iter().flatten().min()
    }

    /// What ends the running try now, if its time is over.
    pub fn expired(&self, now: Instant) -> Option<Outcome> {
        let over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        if over(self.ends()) || over(self.try_ends()) {
            Some(Outcome::TimedOut)
        } else if over(self.connect_ends()) {
            Some(Outcome::ConnectFailed)
        } else {
            None
        }
    }

    /// What is left of the request's time, to be told to the far side. `None`: no deadline.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let ends = match self.tells {
            Tells::All => self.ends(),
            Tells::Inherited => self.inherited,
        };
        Some(ends?.saturating_duration_since(now))
    }

    /// What a further try should stay away from, to be asked before [`Attempts::judge`], so that the next
    /// place can be picked and judged with. See also [`crate::Valve::leaves`].
    pub fn avoid(&self, outcome: Outcome) -> Avoid {
        // The less busy of two was too busy, so its siblings are hardly better; if there is no other
        // cluster, they are what is left.
        let is_no_place = matches!(outcome, Outcome::TimedOut | Outcome::Shed);
        let is_last = self.tries >= self.retries;
        if is_no_place || is_last {
            Avoid::Cluster
        } else {
            Avoid::Workload
        }
    }

    /// The running try has ended. The first retry that only moves the request does not draw on the budget,
    /// nor does any such of what no program has seen, nor one after a try of which nothing was sent.
    pub fn judge(
        &mut self,
        outcome: Outcome,
        relief: Relief,
        budget: &mut Budget,
        now: Instant,
    ) -> Verdict {
        let has_reply = matches!(outcome, Outcome::Replied { .. });
        if self.end_is_unknown(outcome) {
            self.maybe_executed = true;
        }
        if !self.is_unsent(outcome) {
            self.sent = self.sent.saturating_add(1);
        }
        let failure = match self.failure(outcome) {
            Failure::None => return Verdict::Deliver,
            Failure::Listed(on) => Some(on),
            Failure::Always => None,
        };
        match self.obstacle(outcome, failure, relief, budget, now) {
            None => Verdict::Retry,
            // A bad reply is a reply.
            Some(_) if has_reply => Verdict::Deliver,
            Some(reason) => Verdict::GiveUp {
                reason,
                maybe_executed: self.maybe_executed,
            },
        }
    }

    /// The first thing that forbids another try. The budget comes last: it is drawn on only by
    /// retries that happen.
    fn obstacle(
        &self,
        outcome: Outcome,
        failure: Option<RetryOn>,
        relief: Relief,
        budget: &mut Budget,
        now: Instant,
    ) -> Option<GiveUp> {
        let surely_unseen =
            !self.end_is_unknown(outcome) && !matches!(outcome, Outcome::Replied { .. });
        // What no program has seen has cost nobody anything: until it has been everywhere, it moves.
        let is_unseen = matches!(outcome, Outcome::Shed | Outcome::Refused { .. });
        let moves = relief == Relief::Moves && (self.sent == 1 || is_unseen);
        let is_free = self.is_unsent(outcome) || moves;
        let must_repeat_body = self.stage != Stage::Uncommitted;
        if outcome == Outcome::Cancelled {
            Some(GiveUp::Cancelled)
        } else if self.stage == Stage::Replying {
            Some(GiveUp::ReplyCut)
        } else if !surely_unseen && !self.is_idempotent() && failure != Some(RetryOn::Unavailable) {
            Some(GiveUp::MaybeExecuted)
        } else if must_repeat_body && !self.body_held {
            Some(GiveUp::BodyNotHeld)
        } else if is_unwanted(outcome) {
            Some(GiveUp::RetryUnwanted)
        } else if failure.is_some_and(|on| !self.on.contains(on)) {
            Some(GiveUp::NotListed)
        } else if self.sent > self.retries || self.tries >= self.most_tries() {
            Some(GiveUp::AttemptsSpent)
        } else if self.is_late(now) {
            Some(GiveUp::DeadlinePassed)
        } else if is_free
            || budget.withdraw(self.percent, retried(outcome, relief), self.asked, now)
        {
            None
        } else {
            Some(GiveUp::BudgetSpent)
        }
    }

    fn failure(&self, outcome: Outcome) -> Failure {
        match outcome {
            Outcome::Replied { status: 503, .. } if self.repeatable == Repeatable::Unavailable => {
                Failure::Listed(RetryOn::Unavailable)
            }
            Outcome::Replied {
                status: 502..=504, ..
            } => Failure::Listed(RetryOn::GatewayError),
            Outcome::Replied { .. } => Failure::None,
            Outcome::ConnectFailed => Failure::Listed(RetryOn::ConnectFailure),
            Outcome::Refused { .. } | Outcome::Shed => Failure::Listed(RetryOn::Refused),
            // Before anything was sent, a broken connection is one that could not be had.
            Outcome::Reset | Outcome::Lost | Outcome::TimedOut
                if self.stage == Stage::Uncommitted =>
            {
                Failure::Listed(RetryOn::ConnectFailure)
            }
            Outcome::Reset | Outcome::Lost | Outcome::TimedOut => Failure::Listed(RetryOn::Reset),
            Outcome::Drained | Outcome::Cancelled => Failure::Always,
        }
    }

    fn end_is_unknown(&self, outcome: Outcome) -> bool {
        let cut = matches!(
            outcome,
            Outcome::Reset | Outcome::Lost | Outcome::TimedOut | Outcome::Cancelled
        );
        cut && self.stage != Stage::Uncommitted
    }

    /// Nothing of the try has left this proxy, or nothing that anybody took: a further one adds no
    /// load to anything.
    fn is_unsent(&self, outcome: Outcome) -> bool {
        let replied = matches!(outcome, Outcome::Replied { .. });
        matches!(outcome, Outcome::ConnectFailed | Outcome::Drained)
            || (self.stage == Stage::Uncommitted && !replied)
    }

    /// All tries, of whatever kind: `retry.attempts` 0 switches every further one off.
    fn most_tries(&self) -> u32 {
        match self.retries {
            0 => 1,
            retries => retries.saturating_add(1 + MOST_UNSENT),
        }
    }

    fn is_late(&self, now: Instant) -> bool {
        self.ends().is_some_and(|end| end <= now)
    }

    fn try_ends(&self) -> Option<Instant> {
        self.began.checked_add(set(self.timeouts.per_try)?)
    }

    fn connect_ends(&self) -> Option<Instant> {
        let connecting = self.stage == Stage::Uncommitted && self.tries > 0;
        self.began
            .checked_add(set(self.timeouts.connect).filter(|_| connecting)?)
    }
}

/// `retry.on` as a set, so that a request's machine allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed(u8);

impl Listed {
    fn new(on: &[RetryOn]) -> Self {
        Self(on.iter().fold(0, |all, &one| all | Self::bit(one)))
    }

    fn contains(self, on: RetryOn) -> bool {
        self.0 & Self::bit(on) != 0
    }

    fn bit(on: RetryOn) -> u8 {
        match on {
            RetryOn::ConnectFailure => 1,
            RetryOn::Refused => 2,
            RetryOn::Reset => 4,
            RetryOn::GatewayError => 8,
            RetryOn::Unavailable => 16,
        }
    }
}

/// What `retry.on` calls a failure.
enum Failure {
    None,
    Listed(RetryOn),
    /// Nobody's fault and nobody's harm.
    Always,
}

fn is_unwanted(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Replied {
            retry_unwanted: true,
            ..
        } | Outcome::Refused {
            retry_unwanted: true
        }
    )
}

fn retried(outcome: Outcome, relief: Relief) -> Retried {
    match (outcome, relief) {
        (Outcome::Shed, _) => Retried::Shed,
        (_, Relief::None) => Retried::Failure,
        (_, Relief::Room | Relief::Moves) => Retried::Relieved,
    }
}

/// Zero is how "none" is written.
fn set(length: Duration) -> Option<Duration> {
    Some(length).filter(|length| !length.is_zero())
}

#[cfg(test)]
mod tests;
