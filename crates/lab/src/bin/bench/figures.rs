//! From what was counted to figures: per run, and over all rounds.
//!
//! Pure: it measures nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_lab::trouble::{Result, ensure};

use crate::client::Measured;
use crate::paths::{Usage, WAYS, Way};

/// One run on one way. Times are microseconds, processor time is per request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) requests_per_second: f64,
    /// All proxies and gateways on the way.
    pub(crate) proxies: f64,
    pub(crate) program: f64,
    pub(crate) client: f64,
    pub(crate) relay: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// What else the machine did, in percent of one processor.
    pub(crate) others_percent: f64,
}

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

/// All rounds of one way with one number of connections.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) connections: usize,
    pub(crate) way: &'static Way,
    pub(crate) figures: [Spread; 8],
    /// How many times the direct way's, run in the same round: requests per second, processor time
    /// of client, program and proxies together, p50.
    pub(crate) against_direct: [Spread; 3],
}

type Figure = fn(&Run) -> f64;

/// Names as they stand in JSON, in the order of [`Row::figures`].
pub(crate) const FIGURES: [(&str, Figure); 8] = [
    ("requestsPerSecond", |run| run.requests_per_second),
    ("proxiesCpuMicros", |run| run.proxies),
    ("programCpuMicros", |run| run.program),
    ("clientCpuMicros", |run| run.client),
    ("relayCpuMicros", |run| run.relay),
    ("p50Micros", |run| run.p50),
    ("p99Micros", |run| run.p99),
    ("othersPercent", |run| run.others_percent),
];

/// The same for [`Row::against_direct`].
pub(crate) const RATIOS: [(&str, Figure); 3] = [
    ("requestsPerSecond", |run| run.requests_per_second),
    ("cpu", |run| run.client + run.program + run.proxies),
    ("p50", |run| run.p50),
];

/// Whoever handles a request takes longer than this for it; who takes less has not seen it.
const LEAST_MICROS: f64 = 1.0;

impl Run {
    /// Errors: nothing was answered, or something that stands on the way was not used.
    pub(crate) fn of(way: &Way, measured: &Measured<Usage>) -> Result<Self> {
        let requests = measured.latency.len();
        ensure(requests > 0, || "there was no reply".to_owned())?;
        let requests = count(requests);
        let (before, after) = (&measured.before, &measured.after);
        let spent = |before: Duration, after: Duration| micros(after.saturating_sub(before));
        let each: Vec<f64> = before
            .proxies
            .iter()
            .zip(&after.proxies)
            .map(|(before, after)| spent(*before, *after) / requests)
            .collect();
        let program = spent(before.program, after.program);
        let client = spent(before.client, after.client);
        let relay = spent(before.relay, after.relay);
        let on_the_way = each.iter().copied().chain([program / requests]);
        let relayed = way.crosses.then_some(relay / requests);
        ensure(
            on_the_way.chain(relayed).all(|used| used >= LEAST_MICROS),
            || format!("not all processes on the way were used: {before:?}, {after:?}"),
        )?;
        // Not `sum`: of nothing, that is minus zero.
        let proxies = each.iter().fold(0.0, |sum, each| sum + each);
        let known = proxies * requests + program + client + relay;
        let others = spent(before.machine, after.machine) - known;
        let took = micros(measured.took);
        let latency = |share| count(measured.latency.value_at_quantile(share)) / 1000.0;
        Ok(Self {
            requests_per_second: requests / took * 1_000_000.0,
            proxies,
            program: program / requests,
            client: client / requests,
            relay: relay / requests,
            p50: latency(0.5),
            p99: latency(0.99),
            others_percent: (100.0 * others / took).max(0.0),
        })
    }
}

impl Spread {
    /// Of an even number of values the median is the mean of the middle two; of none it is zero.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(values.len() / 2)),
            lowest: at(0),
            highest: at(last),
        }
    }
}

/// Runs of all rounds in the order of [`WAYS`], by number of connections.
pub(crate) type Runs = BTreeMap<usize, Vec<[Run; WAYS.len()]>>;

/// A row per number of connections and way.
pub(crate) fn rows(runs: &Runs) -> Vec<Row> {
    let row = |connections: usize, rounds: &[[Run; WAYS.len()]], index: usize| Row {
        connections,
        way: &WAYS[index],
        figures: FIGURES.map(|(_, figure)| {
            Spread::of(rounds.iter().map(|ways| figure(&ways[index])).collect())
        }),
        against_direct: RATIOS.map(|(_, figure)| {
            let ratio = |ways: &[Run; WAYS.len()]| figure(&ways[index]) / figure(&ways[0]);
            Spread::of(rounds.iter().map(ratio).collect())
        }),
    };
    let ways = |(connections, rounds): (&usize, &Vec<_>)| {
        (0..WAYS.len())
            .map(|index| row(*connections, rounds, index))
            .collect::<Vec<_>>()
    };
    runs.iter().flat_map(ways).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000_000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no run has so many requests or nanoseconds"
)]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn usage(proxies: &[u64], [program, client, relay, machine]: [u64; 4]) -> Usage {
        Usage {
            proxies: proxies.iter().copied().map(Duration::from_millis).collect(),
            program: Duration::from_millis(program),
            client: Duration::from_millis(client),
            relay: Duration::from_millis(relay),
            machine: Duration::from_millis(machine),
        }
    }

    fn measured(before: Usage, after: Usage) -> Measured<Usage> {
        let mut latency = Histogram::new(3).unwrap();
        latency.record_n(100_000, 990).unwrap();
        latency.record_n(500_000, 10).unwrap();
        latency.record_n(900_000, 1).unwrap();
        Measured {
            latency,
            took: Duration::from_secs(2),
            before,
            after,
        }
    }

    #[test]
    fn a_run_is_counted_per_request() {
        let before = usage(&[10, 20, 30], [40, 50, 60, 1000]);
        let after = usage(&[1011, 1021, 1031], [2042, 3053, 4064, 14_411]);
        let cross_cluster = &WAYS[3];
        let run = Run::of(cross_cluster, &measured(before, after)).unwrap();
        let expect = Run {
            requests_per_second: 500.5,
            proxies: 3000.0,
            program: 2000.0,
            client: 3000.0,
            relay: 4000.0,
            p50: 100.0,
            p99: 500.0,
            // Of the machine's 13.411 s, 12.012 s are known; the rest was used within 2 s.
            others_percent: 69.95,
        };
        for (name, figure) in FIGURES {
            let (found, expect) = (figure(&run), figure(&expect));
            assert!((found - expect).abs() < expect / 1000.0, "{name}: {found}");
        }
    }

    #[test]
    fn who_stands_on_the_way_was_used() {
        let nothing = usage(&[0, 0, 0], [0; 4]);
        let all = usage(&[9, 9, 9], [9; 4]);
        let run = |way: usize, after: Usage| Run::of(&WAYS[way], &measured(nothing.clone(), after));
        assert!(run(3, all.clone()).is_ok());
        for missing in [
            usage(&[9, 0, 9], [9; 4]),
            usage(&[9, 9, 9], [0, 9, 9, 9]),
            usage(&[9, 9, 9], [9, 9, 0, 9]),
        ] {
            assert!(run(3, missing).is_err());
        }
        let without_relay = usage(&[9, 9], [9, 9, 0, 9]);
        assert!(run(2, without_relay).is_ok());
        let mut silent = measured(nothing, all);
        silent.latency.reset();
        assert!(Run::of(&WAYS[0], &silent).is_err());
    }

    #[test]
    fn medians_and_spreads() {
        for (values, expect) in [
            (&[][..], (0.0, 0.0, 0.0)),
            (&[3.0], (3.0, 3.0, 3.0)),
            (&[4.0, 1.0], (2.5, 1.0, 4.0)),
            (&[9.0, 1.0, 2.0], (2.0, 1.0, 9.0)),
        ] {
            let (median, lowest, highest) = expect;
            let expect = Spread {
                median,
                lowest,
                highest,
            };
            assert_eq!(Spread::of(values.to_vec()), expect);
        }
    }

    /// What changes from round to round for all alike, changes no ratio.
    #[test]
    fn ratios_are_of_one_round() {
        let run = |scale: f64| Run {
            requests_per_second: scale,
            proxies: scale,
            program: scale,
            client: scale,
            relay: scale,
            p50: scale,
            p99: scale,
            others_percent: 0.0,
        };
        let round = |scale: f64| [1.0, 2.0, 3.0, 4.0].map(|way| run(way * scale));
        let rows = rows(&BTreeMap::from([(16, vec![round(1.0), round(10.0)])]));
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[2].connections, rows[2].way.name), (16, "pair"));
        let three = Spread::of(vec![3.0]);
        assert_eq!(rows[2].against_direct, [three; 3]);
        assert_eq!(rows[2].figures[0], Spread::of(vec![3.0, 30.0]));
    }
}
