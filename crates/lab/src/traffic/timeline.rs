//! What was done to the mesh, and when: what a failure is held against.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What somebody does to the mesh may do to traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Nothing may be lost: a control plane goes, a workload comes.
    None,
    /// Nothing may be lost while it is done; what is still open when a process has drained is cut.
    Drain,
    /// As [`Harm::Drain`], but what is still open is cut before the process has left.
    Leave,
    /// What is not idempotent, and streams, may be lost to it.
    Break,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    pub what: String,
    pub harm: Harm,
    /// The processes that it was done to, as `cluster/process`.
    pub on: Vec<String>,
    pub begun: Instant,
    /// `None`: it goes on.
    pub ended: Option<Instant>,
}

/// Everything that was done so far.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Episode>>);

/// An episode that goes on until this is dropped.
#[derive(Debug)]
#[must_use = "the episode is over when this is dropped"]
pub struct GoingOn<'a> {
    timeline: &'a Timeline,
    place: usize,
}

/// What a process that has a successor gives its connections (`drainLimit`, its default).
pub const DRAIN: Duration = Duration::from_secs(30);
/// How long the effects of a fault may be felt after it is over.
const AFTERMATH: Duration = Duration::from_secs(10);
/// Clocks of timers: a deadline may be kept so much too early, and be noticed so much later.
const EARLY: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(7);
/// Who is cut notices with its next message.
const NOTICED: Duration = Duration::from_secs(3);
/// Episodes so long ago are not told any more.
const RECENT: Duration = Duration::from_secs(40);

impl Timeline {
    pub fn begin(&self, what: impl Into<String>, harm: Harm, on: &[String]) -> GoingOn<'_> {
        let mut episodes = self.lock();
        episodes.push(Episode {
            what: what.into(),
            harm,
            on: on.to_vec(),
            begun: Instant::now(),
            ended: None,
        });
        let place = episodes.len() - 1;
        GoingOn {
            timeline: self,
            place,
        }
    }

    /// May a fault have broken what went on from `from` to `to`? Says which one.
    pub fn fault(&self, from: Instant, to: Instant) -> Option<String> {
        let episodes = self.lock();
        let found = episodes.iter().rev().find(|each| each.breaks(from, to));
        found.map(|each| each.what.clone())
    }

    /// May what ended at `at` have been cut by the deadline of a drain? Says which one.
    pub fn deadline(&self, at: Instant) -> Option<String> {
        let episodes = self.lock();
        let found = episodes.iter().rev().find(|each| each.cuts_off(at));
        found.map(|each| each.what.clone())
    }

    /// When the first drain after `from` began.
    pub fn first_drain_since(&self, from: Instant) -> Option<Instant> {
        let episodes = self.lock();
        let drains = episodes.iter().filter(|each| each.harm == Harm::Drain);
        drains.map(|each| each.begun).find(|begun| *begun >= from)
    }

    /// What was being done at that moment, and shortly before.
    pub fn around(&self, at: Instant) -> String {
        let episodes = self.lock();
        let recent = episodes.iter().filter(|each| {
            let over = each.ended.is_some_and(|ended| ended + RECENT < at);
            each.begun <= at && !over
        });
        let told = recent.map(|each| {
            let seconds = |since: Instant| at.saturating_duration_since(since).as_secs_f64();
            match each.ended {
                Some(ended) if ended <= at => {
                    let (begun, ended) = (seconds(each.begun), seconds(ended));
                    format!("{} ({begun:.1} to {ended:.1} s before)", each.what)
                }
                _ => format!("{} (for {:.1} s)", each.what, seconds(each.begun)),
            }
        });
        let told = told.collect::<Vec<_>>().join("; ");
        if told.is_empty() {
            "nothing".to_owned()
        } else {
            told
        }
    }

    pub fn episodes(&self) -> Vec<Episode> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Episode>> {
        // A panic elsewhere leaves whole episodes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GoingOn<'_> {
    fn drop(&mut self) {
        if let Some(episode) = self.timeline.lock().get_mut(self.place) {
            episode.ended = Some(Instant::now());
        }
    }
}

impl Episode {
    fn breaks(&self, from: Instant, to: Instant) -> bool {
        let felt = self.ended.is_none_or(|ended| from <= ended + AFTERMATH);
        self.harm == Harm::Break && self.begun <= to && felt
    }

    fn cuts_off(&self, at: Instant) -> bool {
        let before = |limit| self.ended.is_none_or(|ended| at <= ended + limit);
        match self.harm {
            Harm::Drain => self.begun + DRAIN <= at + EARLY && before(DRAIN + LATE),
            Harm::Leave => self.begun <= at && before(NOTICED),
            Harm::None | Harm::Break => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fault_excuses_is_near_it_and_what_a_drain_cuts_is_late() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let at = |seconds: u32| begun + second * seconds;
        let episode = |harm, ended: u32| Episode {
            what: String::new(),
            harm,
            on: Vec::new(),
            begun: at(100),
            ended: Some(at(ended)),
        };
        let fault = episode(Harm::Break, 105);
        for (from, to, expect) in [
            (90, 99, false),
            (90, 100, true),
            (115, 116, true),
            (116, 117, false),
        ] {
            assert_eq!(fault.breaks(at(from), at(to)), expect, "{from} to {to}");
        }
        let drain = episode(Harm::Drain, 102);
        for (when, expect) in [
            (101, false),
            (128, false),
            (129, true),
            (139, true),
            (140, false),
        ] {
            assert_eq!(drain.cuts_off(at(when)), expect, "{when}");
        }
        assert!(!drain.breaks(at(100), at(101)) && !fault.cuts_off(at(131)));
        let leaving = episode(Harm::Leave, 105);
        for (when, expect) in [(99, false), (100, true), (108, true), (109, false)] {
            assert_eq!(leaving.cuts_off(at(when)), expect, "{when}");
        }
    }

    #[test]
    fn an_episode_goes_on_until_it_is_dropped() {
        let timeline = Timeline::default();
        let start = Instant::now();
        let going_on = timeline.begin("a gateway is killed", Harm::Break, &[]);
        let later = Instant::now() + Duration::from_hours(1);
        assert!(timeline.fault(later, later).is_some());
        assert!(timeline.around(later).contains("a gateway is killed (for"));
        drop(going_on);
        assert_eq!(timeline.fault(later, later), None);
        assert!(timeline.fault(start, later).is_some());
        assert_eq!(timeline.around(later), "nothing");
    }
}
