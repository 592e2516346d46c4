//! What is said while it goes on, and in the end.

use std::fmt::Write as _;
use std::time::Duration;

use isthmus_lab::traffic::{Count, Counts, Episode, Executed, Kind};
use isthmus_lab::trouble::{During, Result};
use serde_json::{Value, json};

use super::watch::Found;

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) minutes: u64,
    pub(crate) rate: u32,
    pub(crate) counts: Counts,
    pub(crate) executed: Executed,
    /// What could not be done to the mesh, or from which it did not become whole.
    pub(crate) troubles: Vec<String>,
    pub(crate) panics: Vec<String>,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) found: Found,
}

/// One promise.
struct Point {
    what: &'static str,
    misses: u64,
    of: u64,
    /// The first of them.
    first: Vec<String>,
}

/// Misses of a point that are printed.
const SHOWN: usize = 10;

/// A line of progress.
pub(crate) fn line(at: Duration, recent: &Counts, all: &Counts, (mesh, own): (f64, f64)) -> String {
    let mut line = format!("{:5} s", at.as_secs());
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_stream()) {
        let count = recent.of(kind);
        let (middle, late) = (count.quantile(0.5), count.quantile(0.99));
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "  {} {} {}/{} ms",
            kind.name(),
            count.good,
            middle.as_millis(),
            late.as_millis()
        );
    }
    let open = |kind| {
        let Count {
            begun,
            good,
            failed,
            lost,
            cut_off,
            ..
        } = all.of(kind);
        begun.saturating_sub(good + failed + lost + cut_off)
    };
    let streams = Kind::ALL.into_iter().filter(|kind| kind.is_stream());
    let streams: Vec<String> = streams.map(|kind| open(kind).to_string()).collect();
    let every = |_| true;
    let _ = write!(
        line,
        "  streams {}  failed {} lost {} cut off {}  cpu {:.2} + {:.2}",
        streams.join("+"),
        all.sum(every, |count| count.failed),
        all.sum(every, |count| count.lost),
        all.sum(every, |count| count.cut_off),
        mesh,
        own,
    );
    line
}

impl Report {
    /// Prints everything; true: every promise was kept.
    pub(crate) fn print(&self, as_json: bool) -> Result<bool> {
        let points = self.points();
        let held = points.iter().all(Point::held);
        if as_json {
            let text = serde_json::to_string_pretty(&self.json(&points));
            println!("{}", text.during(|| "the report".to_owned())?);
            return Ok(held);
        }
        println!(
            "{:12} {:>9} {:>9} {:>7} {:>7} {:>8} {:>9} {:>9}",
            "PROTOCOL", "BEGUN", "GOOD", "FAILED", "LOST", "CUT OFF", "P50", "P99"
        );
        for (kind, count) in &self.counts.kinds {
            println!(
                "{:12} {:>9} {:>9} {:>7} {:>7} {:>8} {:>6} ms {:>6} ms",
                kind.name(),
                count.begun,
                count.good,
                count.failed,
                count.lost,
                count.cut_off,
                count.quantile(0.5).as_millis(),
                count.quantile(0.99).as_millis(),
            );
        }
        for (name, (memory, growth)) in &self.found.memory {
            println!("{name}: {} KiB, {:+} KiB", memory >> 10, growth / 1024);
        }
        for point in &points {
            let held = if point.held() { "ok  " } else { "MISS" };
            println!("{held}  {}: {} of {}", point.what, point.misses, point.of);
            for first in &point.first {
                println!("      {first}");
            }
        }
        for failure in &self.counts.failures {
            println!("failed: {failure}");
        }
        println!("seed {}", self.seed);
        Ok(held)
    }

    fn points(&self) -> Vec<Point> {
        let Self { counts, found, .. } = self;
        let some = |list: &[String]| list.iter().take(SHOWN).cloned().collect::<Vec<_>>();
        let of_kinds = |what, which: fn(Kind) -> bool| Point {
            what,
            misses: counts.sum(which, |count| count.failed),
            of: counts.sum(which, |count| count.begun),
            first: Vec::new(),
        };
        let listed = |what, list: &[String], of| Point {
            what,
            misses: list.len() as u64,
            of,
            first: some(list),
        };
        let once = |kind: Kind| !kind.is_stream() && !kind.is_idempotent();
        let answered = counts.sum(once, |count| count.good);
        let judged = found.judged as u64;
        let seen = found.seen as u64;
        vec![
            of_kinds(
                "requests that may be repeated and failed",
                Kind::is_idempotent,
            ),
            of_kinds("other requests that failed without a fault", once),
            of_kinds("streams that ended without a reason", Kind::is_stream),
            listed(
                "requests that were executed twice",
                &self.executed.twice,
                self.executed.requests,
            ),
            Point {
                what: "requests that were answered and not executed",
                misses: answered.saturating_sub(self.executed.requests),
                of: answered,
                first: Vec::new(),
            },
            listed("processes whose memory grew", &found.grown, judged),
            listed("processes whose descriptors grew", &found.leaking, judged),
            listed("processes that ended by themselves", &found.ended, seen),
            listed("panics", &self.panics, seen),
            listed(
                "restarts, faults and arrivals that went wrong",
                &self.troubles,
                self.episodes.len() as u64,
            ),
        ]
    }

    fn json(&self, points: &[Point]) -> Value {
        let kinds = self.counts.kinds.iter().map(|(kind, count)| {
            json!({
                "kind": kind.name(), "begun": count.begun, "good": count.good,
                "failed": count.failed, "lostToFaults": count.lost, "cutOff": count.cut_off,
                "p50Ms": count.quantile(0.5).as_secs_f64() * 1e3,
                "p99Ms": count.quantile(0.99).as_secs_f64() * 1e3,
            })
        });
        let points = points.iter().map(|point| {
            json!({
                "what": point.what, "held": point.held(), "misses": point.misses,
                "of": point.of, "first": point.first,
            })
        });
        let memory = self.found.memory.iter().map(
            |(name, (bytes, growth))| json!({"process": name, "bytes": bytes, "growth": growth}),
        );
        let episodes: Vec<&str> = self
            .episodes
            .iter()
            .map(|each| each.what.as_str())
            .collect();
        json!({
            "seed": self.seed, "minutes": self.minutes, "rate": self.rate,
            "protocols": kinds.collect::<Vec<_>>(), "points": points.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(), "episodes": episodes,
            "failures": self.counts.failures,
        })
    }
}

impl Point {
    /// Nothing of nothing proves nothing.
    fn held(&self) -> bool {
        self.misses == 0 && self.of > 0
    }
}
