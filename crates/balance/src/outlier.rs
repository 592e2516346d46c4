//! Passive ejection: a workload that keeps failing takes no traffic for a while.

use std::time::{Duration, Instant};

use isthmus_model::OutlierSettings;

use crate::constants::{EJECTION_LONGEST, EJECTION_MEMORY};
use crate::outcome::Evidence;
use crate::ramp::Ramp;

/// Why and for how long a workload is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row that did it.
    pub errors: u32,
    /// Ejections within memory, this one included.
    pub count: u32,
    pub remaining: Duration,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outlier {
    consecutive: u32,
    last: Option<Ejected>,
}

#[derive(Debug, Clone, PartialEq)]
struct Ejected {
    until: Instant,
    errors: u32,
    count: u32,
}

impl Outlier {
    pub(crate) fn ejection(&self, now: Instant) -> Option<Ejection> {
        let last = self.last.as_ref().filter(|last| now < last.until)?;
        Some(Ejection {
            errors: last.errors,
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

    /// Counts the end of a try; true if it should be ejected. What ends during an ejection began
    /// before it and says nothing new.
    pub(crate) fn observe(
        &mut self,
        evidence: Evidence,
        settings: &OutlierSettings,
        now: Instant,
    ) -> bool {
        if self.ejection(now).is_some() {
            return false;
        }
        match evidence {
            Evidence::Neutral => return false,
            Evidence::Success => self.consecutive = 0,
            Evidence::Failure => self.consecutive = self.consecutive.saturating_add(1),
        }
        settings.consecutive_errors > 0 && self.consecutive >= settings.consecutive_errors
    }

    /// The first ejection lasts `base_ejection`, each further one that much longer.
    pub(crate) fn eject(&mut self, settings: &OutlierSettings, now: Instant) {
        let remembered =
            |last: &&Ejected| now.saturating_duration_since(last.until) < EJECTION_MEMORY;
        let before = self.last.as_ref().filter(remembered);
        let count = before.map_or(0, |last| last.count).saturating_add(1);
        let length = settings.base_ejection.saturating_mul(count);
        self.last = Some(Ejected {
            until: now + length.min(EJECTION_LONGEST),
            errors: self.consecutive,
            count,
        });
        self.consecutive = 0;
    }
}

/// May one more of `present` workloads be out when `out` are? Never the only one; at least one of
/// several unless the percentage is 0.
pub(crate) fn has_room(settings: &OutlierSettings, present: usize, out: usize) -> bool {
    let percent = usize::from(settings.max_ejected.value());
    let most = (present.saturating_mul(percent) / 100).max(usize::from(percent > 0));
    present > 1 && out < most
}
