//! What became of everything that was asked: counted by kind, and the first failures in full.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::timeline::Timeline;
use crate::trouble::Trouble;

/// How something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1 on connections that are kept.
    Get1,
    /// HTTP/1.1, a connection for each.
    New1,
    Post1,
    Get2,
    Post2,
    /// A call of gRPC.
    Call,
    /// A line over a TCP connection of its own.
    Line,
    /// gRPC in both directions.
    Chat,
    /// A tunnel after an Upgrade of HTTP/1.1.
    Tunnel,
    /// A TCP connection that stays.
    Session,
}

/// Why an exchange failed, as its client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// What the mesh says, if it was the mesh that ended it.
    pub refusal: Option<String>,
}

/// What became of all of one kind.
#[derive(Debug, Clone)]
pub struct Count {
    pub begun: u64,
    pub good: u64,
    /// Nothing excuses them.
    pub failed: u64,
    /// Not idempotent, or a stream, and lost to a fault.
    pub lost: u64,
    /// Streams that were open when a process had drained.
    pub cut_off: u64,
    /// From when it was due to the end of its answer, in microseconds; of a stream, one message.
    pub latency: Histogram<u64>,
}

/// Counts by kind.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub kinds: BTreeMap<Kind, Count>,
    /// The first failures, as people read them.
    pub failures: Vec<String>,
    /// Connections of HTTP/2 on which the other side has said that it leaves.
    pub told: u64,
    /// How long streams lived from the beginning of the first restart that they saw to their end,
    /// if they did not end by themselves.
    pub outlived: Vec<Duration>,
}

/// Counts that are being made.
#[derive(Debug, Default)]
pub struct Tally {
    all: Mutex<Counts>,
    /// Since somebody has last looked.
    recent: Mutex<Counts>,
}

/// Failures that are kept in full.
const KEPT: usize = 40;
const LONGEST: u64 = 120_000_000;

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Get1,
        Self::New1,
        Self::Post1,
        Self::Get2,
        Self::Post2,
        Self::Call,
        Self::Line,
        Self::Chat,
        Self::Tunnel,
        Self::Session,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get1 => "http1-get",
            Self::New1 => "http1-new",
            Self::Post1 => "http1-post",
            Self::Get2 => "http2-get",
            Self::Post2 => "http2-post",
            Self::Call => "grpc",
            Self::Line => "tcp-line",
            Self::Chat => "grpc-stream",
            Self::Tunnel => "upgrade",
            Self::Session => "tcp-session",
        }
    }

    pub fn is_stream(self) -> bool {
        matches!(self, Self::Chat | Self::Tunnel | Self::Session)
    }

    /// May it be executed twice?
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get1 | Self::New1 | Self::Get2)
    }
}

impl Failure {
    pub fn new(why: impl Into<String>) -> Self {
        let (why, refusal) = (why.into(), None);
        Self { why, refusal }
    }

    pub fn into_trouble(self) -> Trouble {
        let refusal = self.refusal.as_deref().unwrap_or("none");
        Trouble(format!("{} (refusal: {refusal})", self.why))
    }
}

impl Count {
    fn new() -> Self {
        Self {
            begun: 0,
            good: 0,
            failed: 0,
            lost: 0,
            cut_off: 0,
            latency: Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are good"),
        }
    }

    /// That a quantile of them did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(share))
    }
}

impl Counts {
    pub fn of(&self, kind: Kind) -> Count {
        self.kinds.get(&kind).cloned().unwrap_or_else(Count::new)
    }

    /// What `part` says of each kind, added up over those that `which` accepts.
    pub fn sum(&self, which: impl Fn(Kind) -> bool, part: impl Fn(&Count) -> u64) -> u64 {
        let kinds = self.kinds.iter().filter(|(kind, _)| which(**kind));
        kinds.map(|(_, count)| part(count)).sum()
    }

    fn kind(&mut self, kind: Kind) -> &mut Count {
        self.kinds.entry(kind).or_insert_with(Count::new)
    }
}

impl Tally {
    /// All so far.
    pub fn all(&self) -> Counts {
        lock(&self.all).clone()
    }

    /// What has happened since this was last asked.
    pub fn recent(&self) -> Counts {
        std::mem::take(&mut *lock(&self.recent))
    }

    pub(crate) fn begun(&self, kind: Kind) {
        self.both(|counts| counts.kind(kind).begun += 1);
    }

    pub(crate) fn good(&self, kind: Kind) {
        self.both(|counts| counts.kind(kind).good += 1);
    }

    pub(crate) fn told(&self) {
        self.both(|counts| counts.told += 1);
    }

    pub(crate) fn took(&self, kind: Kind, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        self.both(|counts| counts.kind(kind).latency.saturating_record(micros));
    }

    /// Puts a failure down to what excuses it, if anything does.
    pub(crate) fn failed(
        &self,
        timeline: &Timeline,
        kind: Kind,
        id: &str,
        from: Instant,
        failure: &Failure,
    ) {
        let now = Instant::now();
        let fault = timeline.fault(from, now).filter(|_| !kind.is_idempotent());
        let deadline = timeline.deadline(now).filter(|_| kind.is_stream());
        if fault.is_some() {
            return self.both(|counts| counts.kind(kind).lost += 1);
        }
        if deadline.is_some() {
            return self.both(|counts| counts.kind(kind).cut_off += 1);
        }
        let refusal = failure.refusal.as_deref().unwrap_or("none");
        let text = format!(
            "{id}: {} (refusal: {refusal}) after {:.3} s; meanwhile: {}",
            failure.why,
            now.saturating_duration_since(from).as_secs_f64(),
            timeline.around(now),
        );
        self.both(|counts| {
            counts.kind(kind).failed += 1;
            if counts.failures.len() < KEPT {
                counts.failures.push(text.clone());
            }
        });
    }

    /// A stream that was open at a restart was ended from the other side so long after it began.
    pub(crate) fn outlived(&self, time: Duration) {
        self.both(|counts| counts.outlived.push(time));
    }

    fn both(&self, note: impl Fn(&mut Counts)) {
        note(&mut lock(&self.all));
        note(&mut lock(&self.recent));
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // A panic elsewhere leaves whole numbers.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::timeline::Harm;
    use super::*;

    #[test]
    fn a_fault_excuses_what_may_not_be_repeated_and_nothing_else() {
        let (tally, timeline) = (Tally::default(), Timeline::default());
        let failure = Failure::new("status 502");
        let from = Instant::now();
        let all = [Kind::Get1, Kind::Post1, Kind::Chat];
        let fail = |kind| tally.failed(&timeline, kind, "an id", from, &failure);
        all.into_iter().for_each(fail);
        let failed =
            |counts: &Counts| all.map(|kind| (counts.of(kind).failed, counts.of(kind).lost));
        assert_eq!(failed(&tally.recent()), [(1, 0); 3]);
        let fault = timeline.begin("a link is cut", Harm::Break, &[]);
        all.into_iter().for_each(fail);
        drop(fault);
        let counts = tally.all();
        assert_eq!(failed(&counts), [(2, 0), (1, 1), (1, 1)]);
        assert_eq!(failed(&tally.recent()), [(1, 0), (0, 1), (0, 1)]);
        assert_eq!(counts.sum(Kind::is_idempotent, |count| count.failed), 2);
        assert!(counts.failures[3].contains("meanwhile: a link is cut (for"));
    }
}
