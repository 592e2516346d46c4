//! The breaker of one (service, cluster): leaves a cluster that fails, and asks one request at a
//! time whether it is back.
//!
//! It judges the cluster, not single workloads: a failure counts only while no request that began
//! later has succeeded. So one dead workload, whose hanging requests all fail at one instant, does
//! not take its healthy siblings down with it; ejecting it is [`crate::Endpoints`]' work.

use std::time::{Duration, Instant};

use crate::constants::{
    BREAKER_CONSECUTIVE, BREAKER_FAILURES, BREAKER_OPEN, BREAKER_OPEN_LONGEST, BREAKER_SAMPLES,
    BREAKER_WEIGHT, SLOW_START, SUSPECT_CONSECUTIVE, SUSPECT_FAILURES,
};
use crate::outcome::Evidence;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Breaker {
    state: State,
    /// How long it was, or is, open.
    open_for: Duration,
    /// When it last closed after having been open.
    closed: Option<Instant>,
    /// Counts changes of state: what began before the last one says nothing about now.
    epoch: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Closed(Samples),
    Open {
        until: Instant,
        /// When the request began that is asking; `None`: nobody is.
        probe: Option<Instant>,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Samples {
    failures: f64,
    count: u32,
    consecutive: u32,
    /// The latest beginning of a request that succeeded.
    succeeded: Option<Instant>,
}

/// What a request meets at the breaker now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Closed,
    Open {
        remaining: Duration,
    },
    /// Open, and this request may ask.
    MayProbe,
    /// Open, and another request is asking.
    Probing,
}

/// A request that has passed; given back when it ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    began: Instant,
    epoch: u64,
    probe: bool,
}

/// What the end of a request changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Opened,
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed(Samples::default()),
            open_for: Duration::ZERO,
            closed: None,
            epoch: 0,
        }
    }
}

impl Breaker {
    pub(crate) fn gate(&self, now: Instant) -> Gate {
        match &self.state {
            State::Closed(_) => Gate::Closed,
            State::Open { until, .. } if now < *until => Gate::Open {
                remaining: until.saturating_duration_since(now),
            },
            State::Open { probe, .. } if is_asking(*probe, now) => Gate::Probing,
            State::Open { .. } => Gate::MayProbe,
        }
    }

    /// It is open, or on the way there: some in a row have failed, or some among others, which may have
    /// begun before.
    pub(crate) fn keeps_failing(&self) -> bool {
        match &self.state {
            State::Closed(samples) => {
                let in_a_row = samples.consecutive >= SUSPECT_CONSECUTIVE;
                in_a_row || samples.failures > SUSPECT_FAILURES
            }
            State::Open { .. } => true,
        }
    }

    /// A request sets out. It becomes the probe if one is due.
    pub(crate) fn begin(&mut self, now: Instant) -> Pass {
        let due = self.gate(now) == Gate::MayProbe;
        if let State::Open { probe, .. } = &mut self.state
            && due
        {
            *probe = Some(now);
        }
        Pass {
            began: now,
            epoch: self.epoch,
            probe: due,
        }
    }

    pub(crate) fn finish(&mut self, pass: &Pass, evidence: Evidence, now: Instant) -> Change {
        if pass.epoch != self.epoch {
            return Change::None;
        }
        match (&mut self.state, evidence) {
            (State::Closed(samples), _) => {
                samples.count(pass.began, evidence);
                if samples.are_too_bad() {
                    self.open(now);
                    return Change::Opened;
                }
                Change::None
            }
            // The probe, or a request that was sent because there was nowhere else: it serves.
            (State::Open { .. }, Evidence::Success) => {
                self.close(now);
                Change::Closed
            }
            (State::Open { .. }, Evidence::Failure) if pass.probe => {
                self.reopen(now);
                Change::None
            }
            (State::Open { probe, .. }, Evidence::Neutral)
                if pass.probe && *probe == Some(pass.began) =>
            {
                *probe = None;
                Change::None
            }
            (State::Open { .. }, _) => Change::None,
        }
    }

    /// Something else says that the cluster is back: the next request may ask at once.
    pub(crate) fn invite(&mut self, now: Instant) {
        if let State::Open { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// The way there works, as something other than a request has found out.
    pub(crate) fn reached(&mut self, now: Instant) -> Change {
        match self.state {
            State::Closed(_) => Change::None,
            State::Open { .. } => {
                self.close(now);
                Change::Closed
            }
        }
    }

    fn open(&mut self, now: Instant) {
        // Opening again before the slow start is over is the same trouble, not a new one.
        let relapse = self
            .closed
            .is_some_and(|closed| now.saturating_duration_since(closed) < SLOW_START);
        if relapse {
            self.reopen(now);
        } else {
            self.stay_open(BREAKER_OPEN, now);
        }
    }

    fn reopen(&mut self, now: Instant) {
        let longer = self.open_for.saturating_mul(2).min(BREAKER_OPEN_LONGEST);
        self.stay_open(longer.max(BREAKER_OPEN), now);
    }

    fn stay_open(&mut self, open_for: Duration, now: Instant) {
        self.open_for = open_for;
        self.epoch = self.epoch.wrapping_add(1);
        self.state = State::Open {
            until: now + open_for,
            probe: None,
        };
    }

    fn close(&mut self, now: Instant) {
        self.closed = Some(now);
        self.epoch = self.epoch.wrapping_add(1);
        self.state = State::Closed(Samples::default());
    }
}

/// A probe that never ends must not keep the breaker open for ever.
fn is_asking(probe: Option<Instant>, now: Instant) -> bool {
    probe.is_some_and(|began| now.saturating_duration_since(began) < BREAKER_OPEN_LONGEST)
}

impl Samples {
    fn count(&mut self, began: Instant, evidence: Evidence) {
        let failed = match evidence {
            Evidence::Neutral => return,
            Evidence::Success => {
                self.succeeded = self.succeeded.max(Some(began));
                self.consecutive = 0;
                0.0
            }
            Evidence::Failure if self.succeeded.is_some_and(|later| later > began) => return,
            Evidence::Failure => {
                self.consecutive = self.consecutive.saturating_add(1);
                1.0
            }
        };
        self.count = self.count.saturating_add(1);
        self.failures += BREAKER_WEIGHT * (failed - self.failures);
    }

    fn are_too_bad(&self) -> bool {
        let share = self.count >= BREAKER_SAMPLES && self.failures > BREAKER_FAILURES;
        share || self.consecutive >= BREAKER_CONSECUTIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs one request per letter, each taking no time: `s`uccess, `f`ailure, `n`eutral.
    fn run(breaker: &mut Breaker, letters: &str, now: Instant) {
        for letter in letters.chars() {
            let evidence = match letter {
                's' => Evidence::Success,
                'f' => Evidence::Failure,
                _ => Evidence::Neutral,
            };
            let pass = breaker.begin(now);
            breaker.finish(&pass, evidence, now);
        }
    }

    #[test]
    fn opens_on_five_in_a_row_or_on_most_of_many() {
        for (letters, open) in [
            ("", false),
            ("ffff", false),
            ("fffff", true),
            ("ffffsffff", false),
            ("ffnnffnf", true),
            // Four of five fail: the share passes one half with the eleventh sample, not before.
            ("ffffsffff", false),
            ("ffffsfffsff", true),
            ("fsfsfsfsfsfsfsfsfsfsfsfsfsfsfsfsfsfs", false),
            ("ssssssssssfffff", true),
        ] {
            let (mut breaker, now) = (Breaker::default(), Instant::now());
            run(&mut breaker, letters, now);
            assert_eq!(breaker.gate(now) != Gate::Closed, open, "{letters}");
            let suspect = open || letters.ends_with("ff");
            assert_eq!(breaker.keeps_failing(), suspect, "{letters}");
        }
    }

    #[test]
    fn what_began_before_the_trouble_does_not_hide_it() {
        for (letters, fails) in [("ffffs", true), ("fffs", false), ("ffffssss", false)] {
            let mut breaker = Breaker::default();
            run(&mut breaker, letters, Instant::now());
            assert_eq!(breaker.keeps_failing(), fails, "{letters}");
        }
    }

    #[test]
    fn one_request_at_a_time_asks_and_its_answer_decides() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        run(&mut breaker, "fffff", start);
        assert_eq!(
            breaker.gate(start),
            Gate::Open {
                remaining: BREAKER_OPEN
            }
        );
        let due = start + BREAKER_OPEN;
        assert_eq!(breaker.gate(due), Gate::MayProbe);
        let probe = breaker.begin(due);
        assert_eq!(breaker.gate(due), Gate::Probing);
        let forced = breaker.begin(due);
        breaker.finish(&forced, Evidence::Failure, due);
        assert_eq!(breaker.gate(due), Gate::Probing);
        assert_eq!(
            breaker.finish(&probe, Evidence::Success, due),
            Change::Closed
        );
        assert_eq!(breaker.gate(due), Gate::Closed);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_a_bound() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        run(&mut breaker, "fffff", now);
        for expect in [1, 2, 4, 8, 10, 10] {
            let expect = Duration::from_secs(expect);
            assert_eq!(breaker.gate(now), Gate::Open { remaining: expect });
            now += expect;
            run(&mut breaker, "f", now);
        }
        now += BREAKER_OPEN_LONGEST;
        run(&mut breaker, "s", now);
        // A relapse within the slow start goes on where it was, a later one begins anew.
        now += 9 * BREAKER_OPEN;
        run(&mut breaker, "fffff", now);
        assert_eq!(
            breaker.gate(now),
            Gate::Open {
                remaining: BREAKER_OPEN_LONGEST
            }
        );
        now += BREAKER_OPEN_LONGEST;
        run(&mut breaker, "s", now);
        now += SLOW_START;
        run(&mut breaker, "fffff", now);
        assert_eq!(
            breaker.gate(now),
            Gate::Open {
                remaining: BREAKER_OPEN
            }
        );
    }

    #[test]
    fn a_way_that_was_found_closes_it_and_a_relapse_goes_on() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.reached(start), Change::None);
        let late = breaker.begin(start);
        run(&mut breaker, "fffff", start);
        assert_eq!(breaker.reached(start + MS), Change::Closed);
        assert_eq!(breaker.gate(start + MS), Gate::Closed);
        // Of the time before, and so no relapse.
        breaker.finish(&late, Evidence::Failure, start + MS);
        run(&mut breaker, "ffff", start + MS);
        assert_eq!(breaker.gate(start + MS), Gate::Closed);
        run(&mut breaker, "f", start + MS);
        let remaining = 2 * BREAKER_OPEN;
        assert_eq!(breaker.gate(start + MS), Gate::Open { remaining });
    }

    #[test]
    fn what_began_before_the_change_says_nothing() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let late: Vec<Pass> = (0..20).map(|_| breaker.begin(start)).collect();
        run(&mut breaker, "fffff", start);
        let opened = breaker.clone();
        for pass in &late[..10] {
            breaker.finish(pass, Evidence::Failure, start + MS);
        }
        breaker.finish(&late[10], Evidence::Success, start + MS);
        assert_eq!(breaker, opened);
        let due = start + BREAKER_OPEN;
        run(&mut breaker, "s", due);
        for pass in &late[11..] {
            breaker.finish(pass, Evidence::Failure, due);
        }
        assert_eq!(breaker.gate(due), Gate::Closed);
    }

    #[test]
    fn a_dead_workload_does_not_open_while_its_sibling_serves() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let hanging: Vec<Pass> = (0..200).map(|_| breaker.begin(start)).collect();
        run(&mut breaker, "s", start + MS);
        for pass in &hanging {
            breaker.finish(pass, Evidence::Failure, start + 1500 * MS);
        }
        assert_eq!(breaker.gate(start + 1500 * MS), Gate::Closed);
    }

    #[test]
    fn a_success_closes_even_when_it_was_sent_for_want_of_a_choice() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        run(&mut breaker, "fffff", start);
        run(&mut breaker, "f", start + MS);
        assert_eq!(
            breaker.gate(start + MS),
            Gate::Open {
                remaining: 999 * MS
            }
        );
        run(&mut breaker, "s", start + MS);
        assert_eq!(breaker.gate(start + MS), Gate::Closed);
    }

    #[test]
    fn an_invitation_or_a_lost_probe_lets_the_next_one_ask() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        run(&mut breaker, "fffff", start);
        breaker.invite(start);
        assert_eq!(breaker.gate(start), Gate::MayProbe);
        run(&mut breaker, "n", start);
        assert_eq!(breaker.gate(start), Gate::MayProbe);
        let _never_finished = breaker.begin(start);
        assert_eq!(breaker.gate(start + 9 * BREAKER_OPEN), Gate::Probing);
        assert_eq!(breaker.gate(start + BREAKER_OPEN_LONGEST), Gate::MayProbe);
    }

    proptest! {
        /// Whatever happens, at most one probe runs, and an open breaker asks again in time.
        #[test]
        fn never_two_probes_and_never_stuck(steps in proptest::collection::vec((0u8..6, 0u64..1500), 1..120)) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            let mut running: Vec<Pass> = Vec::new();
            for (step, wait) in steps {
                now += Duration::from_millis(wait);
                match step {
                    0..=2 => running.push(breaker.begin(now)),
                    _ if running.is_empty() => {}
                    3 => { breaker.finish(&running.swap_remove(0), Evidence::Success, now); }
                    4 => { breaker.finish(&running.swap_remove(0), Evidence::Failure, now); }
                    _ => { breaker.finish(&running.swap_remove(0), Evidence::Neutral, now); }
                }
                let asking = |pass: &&Pass| {
                    pass.probe && pass.epoch == breaker.epoch && is_asking(Some(pass.began), now)
                };
                prop_assert!(running.iter().filter(asking).count() <= 1);
            }
            let later = now + BREAKER_OPEN_LONGEST;
            prop_assert!(matches!(breaker.gate(later), Gate::Closed | Gate::MayProbe));
        }
    }
}
