//! A second try before the first has failed: against the few replies that are far slower than most.
//!
//! A request that has waited for longer than 95 % of replies take is sent once more, to another
//! workload, and the first reply wins (Dean and Barroso, "The tail at scale", 2013). That is at most
//! about one request in twenty more; it draws on the budget of retries besides, and does not happen
//! where the destination is busy: there it would add to what makes replies slow.

use std::time::{Duration, Instant};

use isthmus_model::Percent;

use crate::budget::{Budget, Retried};
use crate::constants::{HEDGE_FLOOR, HEDGE_SAMPLES, HEDGE_SHARE, HEDGE_STEP, HEDGE_UTILISATION};

/// When requests to one destination are hedged: what their latency has been so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hedging {
    /// Seconds that 95 % of replies stay below.
    slow: Option<f64>,
    /// The first replies, until there are enough to say.
    first: Vec<f64>,
}

/// What a hedge needs to know of its request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedgeable {
    /// Executing it twice does no harm.
    pub idempotent: bool,
    /// All of its body can be sent again.
    pub body_held: bool,
    /// When its first try was sent.
    pub sent: Instant,
    /// It has been hedged.
    pub hedged: bool,
}

/// Why there is no second try, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHedge {
    NotIdempotent,
    BodyNotHeld,
    /// Once is enough.
    Hedged,
    /// Too few replies have come to know what is slow.
    Unknown,
    /// The destination is busy, or does not say how busy it is.
    Busy,
    /// Not before this instant.
    NotYet(Instant),
    BudgetSpent,
}

impl Hedging {
    /// The first byte of a good reply came after `took`.
    ///
    /// The quantile is followed by steps (Robbins and Monro 1951): up by 0.95 steps for a reply that
    /// is slower, down by 0.05 for one that is not, so that it rests where one in twenty is slower.
    pub fn observe(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        let Some(slow) = self.slow else {
            self.first.push(took);
            if self.first.len() >= HEDGE_SAMPLES {
                self.first.sort_by(f64::total_cmp);
                let above = self.first.len() / 20;
                let mark = self.first[self.first.len() - 1 - above];
                self.slow = Some(mark.max(HEDGE_FLOOR.as_secs_f64()));
                self.first = Vec::new();
            }
            return;
        };
        let step = slow * HEDGE_STEP;
        let moved = if took > slow {
            step * HEDGE_SHARE
        } else {
            -step * (1.0 - HEDGE_SHARE)
        };
        self.slow = Some((slow + moved).max(HEDGE_FLOOR.as_secs_f64()));
    }

    /// After how long a request is hedged; `None`: too few replies are known.
    pub fn after(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.slow?).ok()
    }

    /// When [`Hedging::hedge`] is worth asking; `None`: never for this request.
    pub fn next_timeout(&self, request: &Hedgeable) -> Option<Instant> {
        let may = request.idempotent && request.body_held && !request.hedged;
        request.sent.checked_add(self.after().filter(|_| may)?)
    }

    /// May the request be sent once more, now? Takes it out of the budget if so. `utilisation`: of
    /// the destination, as its replies say; `None`: they do not.
    pub fn hedge(
        &self,
        request: &Hedgeable,
        utilisation: Option<f64>,
        budget: &mut Budget,
        percent: Percent,
        now: Instant,
    ) -> Result<(), NoHedge> {
        if !request.idempotent {
            return Err(NoHedge::NotIdempotent);
        }
        if !request.body_held {
            return Err(NoHedge::BodyNotHeld);
        }
        if request.hedged {
            return Err(NoHedge::Hedged);
        }
        let at = self.next_timeout(request).ok_or(NoHedge::Unknown)?;
        if now < at {
            return Err(NoHedge::NotYet(at));
        }
        if !utilisation.is_some_and(|utilisation| utilisation < HEDGE_UTILISATION) {
            return Err(NoHedge::Busy);
        }
        if !budget.withdraw(percent, Retried::Failure, request.sent, now) {
            return Err(NoHedge::BudgetSpent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// As if of a distribution in which every `nth` of 100 takes `nth` ms.
    fn learnt(scale: u32) -> Hedging {
        let mut hedging = Hedging::default();
        for count in 0..4000u32 {
            hedging.observe(scale * (1 + count * 37 % 100) * MS);
        }
        hedging
    }

    #[test]
    fn what_one_reply_in_twenty_is_slower_than_is_learnt_and_learnt_anew() {
        let mut hedging = learnt(1);
        let after = |hedging: &Hedging| hedging.after().unwrap().as_millis();
        assert!((88..=99).contains(&after(&hedging)), "{}", after(&hedging));
        for count in 0..2000u32 {
            hedging.observe(3 * (1 + count * 37 % 100) * MS);
        }
        assert!(
            (264..=300).contains(&after(&hedging)),
            "{}",
            after(&hedging)
        );
        let mut young = Hedging::default();
        (1..HEDGE_SAMPLES).for_each(|_| young.observe(MS));
        assert_eq!(young.after(), None);
        young.observe(MS);
        assert!(young.after().is_some());
    }

    #[test]
    fn every_condition_holds_it_back() {
        let (hedging, sent) = (learnt(1), Instant::now());
        let (five, none) = (Percent::new(5).unwrap(), Percent::new(0).unwrap());
        let plain = Hedgeable {
            idempotent: true,
            body_held: true,
            sent,
            hedged: false,
        };
        let at = sent + hedging.after().unwrap();
        let early = at.checked_sub(MS).unwrap();
        let unknown = Hedging::default();
        for (hedging, request, utilisation, percent, now, expect) in [
            (&hedging, plain, Some(0.59), five, at, Ok(())),
            (
                &hedging,
                plain,
                Some(0.59),
                five,
                early,
                Err(NoHedge::NotYet(at)),
            ),
            (&hedging, plain, Some(0.6), five, at, Err(NoHedge::Busy)),
            (&hedging, plain, None, five, at, Err(NoHedge::Busy)),
            (
                &hedging,
                plain,
                Some(f64::NAN),
                five,
                at,
                Err(NoHedge::Busy),
            ),
            (
                &hedging,
                plain,
                Some(0.1),
                none,
                at,
                Err(NoHedge::BudgetSpent),
            ),
            (&unknown, plain, Some(0.1), five, at, Err(NoHedge::Unknown)),
            (
                &hedging,
                Hedgeable {
                    idempotent: false,
                    ..plain
                },
                Some(0.1),
                five,
                at,
                Err(NoHedge::NotIdempotent),
            ),
            (
                &hedging,
                Hedgeable {
                    body_held: false,
                    ..plain
                },
                Some(0.1),
                five,
                at,
                Err(NoHedge::BodyNotHeld),
            ),
            (
                &hedging,
                Hedgeable {
                    hedged: true,
                    ..plain
                },
                Some(0.1),
                five,
                at,
                Err(NoHedge::Hedged),
            ),
        ] {
            let mut budget = Budget::new(sent);
            let said = hedging.hedge(&request, utilisation, &mut budget, percent, now);
            assert_eq!(said, expect, "{request:?} {utilisation:?}");
        }
    }

    #[test]
    fn hedges_stay_within_the_budget() {
        let (hedging, sent) = (learnt(1), Instant::now());
        let mut budget = Budget::new(sent);
        for _ in 0..1000 {
            budget.on_request(sent);
        }
        let request = Hedgeable {
            idempotent: true,
            body_held: true,
            sent,
            hedged: false,
        };
        let (now, percent) = (sent + 100 * MS, Percent::new(5).unwrap());
        let mut hedge = || hedging.hedge(&request, Some(0.2), &mut budget, percent, now);
        assert_eq!((0..99).filter(|_| hedge().is_ok()).count(), 49);
        assert_eq!(hedge(), Err(NoHedge::BudgetSpent));
    }

    /// Nineteen of twenty replies take 10 ms, the twentieth takes 500 ms, but not elsewhere.
    #[test]
    fn the_slow_twentieth_is_answered_soon() {
        let (mut hedging, mut now) = (Hedging::default(), Instant::now());
        let (mut budget, percent) = (Budget::new(now), Percent::new(20).unwrap());
        let (mut hedges, mut slow) = (0, 0);
        for count in 0..5000u32 {
            now += 5 * MS;
            budget.on_request(now);
            let request = Hedgeable {
                idempotent: true,
                body_held: true,
                sent: now,
                hedged: false,
            };
            let took = if count % 25 == 0 {
                500 * MS
            } else {
                (8 + count % 5) * MS
            };
            let at = hedging.next_timeout(&request).filter(|at| *at < now + took);
            let second = at.filter(|at| {
                hedging
                    .hedge(&request, Some(0.3), &mut budget, percent, *at)
                    .is_ok()
            });
            let answered = second.map_or(took, |at| (at + 10 * MS - now).min(took));
            hedges += u32::from(second.is_some());
            slow += u32::from(count > 500 && answered > 50 * MS);
            hedging.observe(answered);
        }
        assert!(slow < 10, "{slow} of 4,500 were slow in spite of it");
        assert!(
            (180..=400).contains(&hedges),
            "{hedges} of 5,000 were hedged"
        );
    }
}
