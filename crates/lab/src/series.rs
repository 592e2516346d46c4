//! What became of the requests of an open loop, counted: in all, by second, by cluster. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::open_loop::Call;

/// Requests that were due in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: usize,
    pub ok: usize,
    /// By reason.
    pub failed: BTreeMap<String, usize>,
    /// Of those that did not fail: which cluster served how many.
    pub served: BTreeMap<String, usize>,
    /// Of those that did not fail, the shortest first: a quick refusal would make others look fast.
    times: Vec<Duration>,
}

impl Counts {
    pub fn of<'c>(calls: impl IntoIterator<Item = &'c Call>) -> Self {
        let mut counts = Self::default();
        for call in calls {
            counts.sent += 1;
            if let Some(reason) = call.failure() {
                *counts.failed.entry(reason).or_default() += 1;
                continue;
            }
            counts.ok += 1;
            counts.times.push(call.took);
            let cluster = call.cluster().unwrap_or("unknown");
            *counts.served.entry(cluster.to_owned()).or_default() += 1;
        }
        counts.times.sort_unstable();
        counts
    }

    /// Of those that were due in this time.
    pub fn within(calls: &[Call], from: Duration, to: Duration) -> Self {
        Self::of(calls.iter().filter(|call| (from..to).contains(&call.due)))
    }

    pub fn failures(&self) -> usize {
        self.sent - self.ok
    }

    /// What part of those that were served was so by another cluster than `home`.
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    pub fn spilled(&self, home: &str) -> f64 {
        let own = self.served.get(home).copied().unwrap_or(0);
        (self.ok - own) as f64 / self.ok.max(1) as f64
    }

    /// The smallest time that `percent` of those that did not fail were not longer than.
    pub fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied().unwrap_or_default()
    }
}

/// How often the values turn after moving more than `least` from the last turning point.
pub fn turns(values: &[f64], least: f64) -> usize {
    let first = values.first().copied().unwrap_or_default();
    let (mut low, mut high) = (first, first);
    let (mut rising, mut count) = (None, 0);
    for value in values {
        (low, high) = (low.min(*value), high.max(*value));
        let (rose, fell) = (value - low > least, high - value > least);
        if (rose && rising != Some(true)) || (fell && rising != Some(false)) {
            count += usize::from(rising.is_some());
            rising = Some(rose);
            (low, high) = (*value, *value);
        }
    }
    count
}

/// A line for each second, for people: by whom requests were served and why others were not.
pub fn table(name: &str, calls: &[Call]) -> String {
    const SECOND: Duration = Duration::from_secs(1);
    let mut table = String::new();
    let mut at = Duration::ZERO;
    while calls.last().is_some_and(|last| at <= last.due) {
        let due = || {
            calls
                .iter()
                .filter(|call| (at..at + SECOND).contains(&call.due))
        };
        let counts = Counts::of(due());
        let (number, sent, ok) = (at.as_secs(), counts.sent, counts.ok);
        let [p50, p99] = [50, 99].map(|percent| counts.quantile(percent).as_millis());
        let by = tally(due().filter(|call| call.is_ok()).map(Call::place));
        let high = Counts::of(due().filter(|call| call.high));
        let high = if high.sent > 0 {
            let [p50, p99] = [50, 99].map(|percent| high.quantile(percent).as_millis());
            format!(
                "; high {} of {}, p50 {p50} ms, p99 {p99} ms",
                high.ok, high.sent
            )
        } else {
            String::new()
        };
        let failures = due().filter_map(|call| {
            let priority = if call.high { "high " } else { "" };
            Some(format!("{priority}{}", call.failure()?))
        });
        let failed = tally(failures);
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{name} {number:>3} s: sent {sent}, ok {ok}, p50 {p50} ms, p99 {p99} ms; {by}; {failed}{high}"
        );
        at += SECOND;
    }
    table
}

/// How often each occurs.
fn tally(names: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let each = counts
        .into_iter()
        .map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_loop::Reply;

    fn call(due: u64, took: u64, cluster: &str, refusal: Option<&str>) -> Call {
        let reply = Reply {
            status: 200,
            cluster: Some(cluster.to_owned()),
            refusal: refusal.map(str::to_owned),
            ..Reply::default()
        };
        Call {
            id: String::new(),
            due: Duration::from_millis(due),
            took: Duration::from_millis(took),
            high: false,
            reply: Ok(reply),
        }
    }

    #[test]
    fn requests_are_counted_when_they_were_due_and_by_whom_they_were_served() {
        let calls = [
            call(100, 30, "a", None),
            call(200, 10, "b", None),
            call(300, 20, "a", None),
            call(400, 1, "a", Some("overloaded")),
            call(1000, 10, "a", None),
        ];
        let counts = Counts::within(&calls, Duration::ZERO, Duration::from_secs(1));
        assert_eq!((counts.sent, counts.ok, counts.failures()), (4, 3, 1));
        assert_eq!(counts.failed["overloaded"], 1);
        assert!((counts.spilled("a") - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(counts.quantile(50).as_millis(), 20);
        assert_eq!(counts.quantile(99).as_millis(), 30);
        let table = table("x", &calls);
        let first = "x   0 s: sent 4, ok 3, p50 20 ms, p99 30 ms; a/- 2, b/- 1; overloaded 1\n";
        assert!(
            table.starts_with(first) && table.lines().count() == 2,
            "{table}"
        );
        assert_eq!(Counts::of([]).quantile(99), Duration::ZERO);
    }

    #[test]
    fn turning_points_are_counted() {
        for (values, expect) in [
            (&[30.0, 35.0, 28.0, 33.0][..], 0),
            (&[0.0, 20.0, 40.0, 60.0], 0),
            (&[0.0, 20.0, 5.0, 30.0, 31.0], 2),
            (&[], 0),
        ] {
            assert_eq!(turns(values, 12.0), expect, "{values:?}");
        }
    }
}
