//! Passive ejection: a workload that keeps failing, or that fails or takes longer far more often than
//! its siblings, takes no traffic for a while.
//!
//! A dead workload fails every time and is noticed after a few failures in a row. A grey one does
//! most of its work: only what its siblings do at the same time tells it from a service that is bad
//! everywhere, which ejecting would only make worse.

use std::time::{Duration, Instant};

use isthmus_model::OutlierSettings;

use crate::constants::{
    BUSY_KEPT, EJECTION_LONGEST, EJECTION_MEMORY, GREY_FAILURES, GREY_JUDGED, GREY_MARGIN,
    GREY_OVER, GREY_SAMPLES, GREY_SHARE, GREY_SIGMAS, GREY_TIMES,
};
use crate::outcome::{Evidence, Outcome};
use crate::ramp::Ramp;

/// Why and for how long a workload is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    pub cause: Cause,
    /// Ejections within memory, this one included.
    pub count: u32,
    pub remaining: Duration,
}

/// What a workload was ejected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// So many failures in a row.
    Failures(u32),
    /// Its share of failures is far above that of its siblings.
    SuccessRate,
    /// Its replies take far longer than those of its siblings.
    Latency,
}

impl Cause {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failures(_) => "failures",
            Self::SuccessRate => "success-rate",
            Self::Latency => "latency",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outlier {
    consecutive: u32,
    record: Record,
    judged: Option<Instant>,
    last: Option<Ejected>,
    /// When it last turned a request away.
    busy: Option<Instant>,
}

/// What became of the tries of the last seconds. What is older counts for less.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Record {
    replies: f64,
    failures: f64,
    /// Of the good replies.
    seconds: f64,
    at: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
struct Ejected {
    until: Instant,
    cause: Cause,
    count: u32,
}

impl Record {
    fn observe(&mut self, failed: bool, took: Duration, now: Instant) {
        *self = self.at(now);
        if failed {
            self.failures += 1.0;
        } else {
            self.replies += 1.0;
            self.seconds += took.as_secs_f64();
        }
    }

    /// As it counts now.
    fn at(self, now: Instant) -> Self {
        let passed = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let kept = (-passed.as_secs_f64() / GREY_OVER.as_secs_f64()).exp();
        Self {
            replies: self.replies * kept,
            failures: self.failures * kept,
            seconds: self.seconds * kept,
            at: Some(now),
        }
    }

    fn all(self) -> f64 {
        self.replies + self.failures
    }

    /// What this one does far worse than `siblings`, if anything.
    fn stands_out(self, siblings: &Siblings) -> Option<Cause> {
        let count = self.all();
        if count < GREY_SAMPLES || siblings.all < GREY_SAMPLES {
            return None;
        }
        let (own, theirs) = (self.failures / count, siblings.failures / siblings.all);
        let sigma = (theirs * (1.0 - theirs) / count).sqrt();
        let far = theirs + (GREY_SIGMAS * sigma).max(GREY_SHARE);
        if self.failures >= GREY_FAILURES && own > far {
            return Some(Cause::SuccessRate);
        }
        is_far(self.mean()?, siblings.typical?).then_some(Cause::Latency)
    }

    /// Seconds of a good reply; `None`: too few.
    fn mean(self) -> Option<f64> {
        (self.replies >= GREY_SAMPLES).then(|| self.seconds / self.replies)
    }
}

/// What became of the tries of several workloads.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Siblings {
    failures: f64,
    all: f64,
    /// The mean time of a good reply of the one in the middle, in seconds.
    typical: Option<f64>,
}

impl Siblings {
    pub(crate) fn of(records: impl Iterator<Item = Record>) -> Self {
        let mut siblings = Self::default();
        let mut means = Vec::new();
        for record in records {
            siblings.failures += record.failures;
            siblings.all += record.all();
            means.extend(record.mean());
        }
        let middle = means.len() / 2;
        if middle < means.len() {
            let (_, typical, _) = means.select_nth_unstable_by(middle, f64::total_cmp);
            siblings.typical = Some(*typical);
        }
        siblings
    }
}

/// Does this one take so much longer than is typical of its siblings that it should be left?
pub fn is_much_slower(own: Duration, typical: Duration) -> bool {
    is_far(own.as_secs_f64(), typical.as_secs_f64())
}

/// The same in seconds.
fn is_far(own: f64, typical: f64) -> bool {
    own > (GREY_TIMES * typical).max(typical + GREY_MARGIN.as_secs_f64())
}

impl Outlier {
    pub(crate) fn ejection(&self, now: Instant) -> Option<Ejection> {
        let last = self.last.as_ref().filter(|last| now < last.until)?;
        Some(Ejection {
            cause: last.cause,
            count: last.count,
            remaining: last.until.saturating_duration_since(now),
        })
    }

    /// The slow start after the last ejection.
    pub(crate) fn ramp(&self) -> Option<Ramp> {
        self.last.as_ref().map(|last| Ramp { since: last.until })
    }

    /// When it returns, if it is out.
    pub(crate) fn returns(&self, now: Instant) -> Option<Instant> {
        let until = self.last.as_ref()?.until;
        (now < until).then_some(until)
    }

    /// Counts the end of a try that took so long; says if it should be ejected. What ends during an
    /// ejection began before it and says nothing new. Who turns requests away is alive and busy: what
    /// it does not answer in time waits there, and would wait elsewhere if it were ejected.
    pub(crate) fn observe(
        &mut self,
        outcome: Outcome,
        took: Duration,
        settings: &OutlierSettings,
        now: Instant,
    ) -> Option<Cause> {
        if outcome == Outcome::Shed {
            self.busy = Some(now);
            self.consecutive = 0;
        }
        let is_late = outcome == Outcome::TimedOut && self.is_busy(now);
        if self.ejection(now).is_some() || is_late {
            return None;
        }
        let evidence = outcome.evidence();
        match evidence {
            Evidence::Neutral => return None,
            Evidence::Success => self.consecutive = 0,
            Evidence::Failure => self.consecutive = self.consecutive.saturating_add(1),
        }
        self.record
            .observe(evidence == Evidence::Failure, took, now);
        let most = settings.consecutive_errors;
        (most > 0 && self.consecutive >= most).then_some(Cause::Failures(self.consecutive))
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.busy
            .is_some_and(|at| now.saturating_duration_since(at) < BUSY_KEPT)
    }

    pub(crate) fn record(&self, now: Instant) -> Record {
        self.record.at(now)
    }

    /// Is it time to compare it with its siblings? From time to time only, and if there is something to
    /// compare, as there may be many.
    pub(crate) fn is_due(&self, settings: &OutlierSettings, now: Instant) -> bool {
        let passed = |at| now.saturating_duration_since(at) >= GREY_JUDGED;
        settings.consecutive_errors > 0
            && self.ejection(now).is_none()
            && self.judged.is_none_or(passed)
            && self.record.all() >= GREY_SAMPLES
    }

    /// Compares it with its siblings.
    pub(crate) fn judge(&mut self, siblings: &Siblings, now: Instant) -> Option<Cause> {
        self.judged = Some(now);
        self.record(now).stands_out(siblings)
    }

    /// The first ejection lasts `base_ejection`, each further one that much longer.
    pub(crate) fn eject(&mut self, cause: Cause, settings: &OutlierSettings, now: Instant) {
        let remembered =
            |last: &&Ejected| now.saturating_duration_since(last.until) < EJECTION_MEMORY;
        let before = self.last.as_ref().filter(remembered);
        let count = before.map_or(0, |last| last.count).saturating_add(1);
        let length = settings.base_ejection.saturating_mul(count);
        self.last = Some(Ejected {
            until: now + length.min(EJECTION_LONGEST),
            cause,
            count,
        });
        self.consecutive = 0;
        self.record = Record::default();
    }
}

/// May one more of `present` workloads be out when `out` are? Never the only one; at least one of
/// several unless the percentage is 0.
pub(crate) fn has_room(settings: &OutlierSettings, present: usize, out: usize) -> bool {
    let percent = usize::from(settings.max_ejected.value());
    let most = (present.saturating_mul(percent) / 100).max(usize::from(percent > 0));
    present > 1 && out < most
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::TrafficSettings;

    fn record(replies: f64, failures: f64, mean: f64) -> Record {
        Record {
            replies,
            failures,
            seconds: replies * mean,
            at: None,
        }
    }

    #[test]
    fn what_stands_out_is_more_than_chance_and_more_than_a_little() {
        let good = [record(1000.0, 0.0, 0.01); 3];
        let shaky = [record(950.0, 50.0, 0.01); 3];
        let few = [record(4.0, 0.0, 0.01)];
        for (own, siblings, expect) in [
            (record(1000.0, 0.0, 0.01), &good[..], None),
            // Surely worse, and not worth a thing.
            (record(1000.0, 10.0, 0.01), &good, None),
            (record(1000.0, 30.0, 0.01), &good, Some(Cause::SuccessRate)),
            // 5 % everywhere: 8 of 100 can be chance, 15 cannot.
            (record(92.0, 8.0, 0.01), &shaky, None),
            (record(85.0, 15.0, 0.01), &shaky, Some(Cause::SuccessRate)),
            (record(4.0, 0.0, 9.0), &good, None),
            (record(6.0, 0.0, 9.0), &good, Some(Cause::Latency)),
            (record(6.0, 0.0, 9.0), &few, None),
            (record(6.0, 0.0, 9.0), &[], None),
        ] {
            let siblings = Siblings::of(siblings.iter().copied());
            assert_eq!(own.stands_out(&siblings), expect, "{own:?}");
        }
        // One sibling that is bad itself hides nothing.
        let mixed = [record(100.0, 0.0, 9.0), good[0], good[1]];
        let own = record(100.0, 0.0, 0.5);
        let mixed = Siblings::of(mixed.into_iter());
        assert_eq!(own.stands_out(&mixed), Some(Cause::Latency));
    }

    #[test]
    fn what_was_before_an_ejection_is_forgotten() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        let settings = TrafficSettings::default().outlier;
        for _ in 0..4 {
            outlier.observe(Outcome::Reset, Duration::ZERO, &settings, now);
        }
        outlier.eject(Cause::SuccessRate, &settings, now);
        assert_eq!(
            outlier.record(now),
            Record {
                at: Some(now),
                ..Record::default()
            }
        );
    }

    /// All of a workload's queue is late at once when more comes than it can do. One that is silent is
    /// as dead as it was.
    #[test]
    fn who_turns_requests_away_is_not_ejected_for_what_is_late() {
        let settings = TrafficSettings::default().outlier;
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let late = |outlier: &mut Outlier, at: Instant| {
            let end = |_| outlier.observe(Outcome::TimedOut, second, &settings, at);
            (0..20).find_map(end)
        };
        let busy = |outlier: &mut Outlier, at: Instant| {
            outlier.observe(Outcome::Shed, Duration::ZERO, &settings, at)
        };
        let mut outlier = Outlier::default();
        assert_eq!(busy(&mut outlier, start), None);
        assert_eq!(late(&mut outlier, start + second / 2), None);
        let siblings = Siblings::of([record(1000.0, 0.0, 0.01); 3].into_iter());
        assert_eq!(outlier.judge(&siblings, start + second / 2), None);
        // It says nothing any more.
        assert_eq!(
            late(&mut outlier, start + 2 * second),
            Some(Cause::Failures(5))
        );
        // What fails otherwise is no queue.
        let mut outlier = Outlier::default();
        busy(&mut outlier, start);
        let broken = |_| outlier.observe(Outcome::Reset, Duration::ZERO, &settings, start);
        assert_eq!((0..9).find_map(broken), Some(Cause::Failures(5)));
    }
}
