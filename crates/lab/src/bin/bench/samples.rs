//! From what was counted to figures: per run, and over all rounds.
//!
//! Pure: it measures nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_lab::trouble::{Result, ensure};

use serde_json::{Value, json};

use crate::load::Done;
use crate::plan::{Entrant, Figure};
use crate::stage::Usage;

/// What is known of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// All proxies and gateways on the way, per unit, in microseconds.
    Cpu,
    /// Units per second.
    Rate,
    /// Microseconds.
    P50,
    P99,
    /// CPU per unit of others on the way, in microseconds.
    Program,
    Client,
    Relay,
    /// What else the machine did, in percent of one processor.
    Others,
    /// What the busiest worker of a proxy has of what its workers take, in percent; of the worst proxy.
    Busiest,
    /// Of the largest proxy on the way, in MiB.
    Resident,
    /// What it has grown by for each connection, in KiB.
    PerConnection,
}

/// One run.
pub(crate) type Sample = BTreeMap<Measure, f64>;

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
    pub(crate) figure: &'static Figure,
    pub(crate) connections: usize,
    pub(crate) entrant: Entrant,
    /// One of each round, in their order; of a run that failed it is empty.
    pub(crate) samples: Vec<Sample>,
}

/// Whoever handles a request takes longer than this for it; who takes less has not seen it.
const LEAST_MICROS: f64 = 1.0;

impl Measure {
    pub(crate) const ALL: [Self; 11] = [
        Self::Cpu,
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::Program,
        Self::Client,
        Self::Relay,
        Self::Others,
        Self::Busiest,
        Self::Resident,
        Self::PerConnection,
    ];

    /// As it stands in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "proxiesCpuMicros",
            Self::Rate => "perSecond",
            Self::P50 => "p50Micros",
            Self::P99 => "p99Micros",
            Self::Program => "programCpuMicros",
            Self::Client => "clientCpuMicros",
            Self::Relay => "relayCpuMicros",
            Self::Others => "othersPercent",
            Self::Busiest => "busiestWorkerPercent",
            Self::Resident => "residentMib",
            Self::PerConnection => "perConnectionKib",
        }
    }
}

/// Errors: something that stands on the way was not used.
pub(crate) fn sample(done: &Done, before: &Usage, after: &Usage) -> Result<Sample> {
    let spent = |before: Duration, after: Duration| micros(after.saturating_sub(before));
    let pairs = before.proxies.iter().zip(&after.proxies);
    let proxies: Vec<f64> = pairs
        .map(|(before, after)| spent(*before, *after))
        .collect();
    let maybe = |before: Option<Duration>, after: Option<Duration>| {
        before
            .zip(after)
            .map(|(before, after)| spent(before, after))
    };
    let program = maybe(before.program, after.program);
    let relay = maybe(before.relay, after.relay);
    let client = spent(before.client, after.client);
    let mut on_the_way = proxies.iter().copied().chain(program).chain(relay);
    ensure(
        on_the_way.all(|used| used / done.count >= LEAST_MICROS),
        || format!("not all processes on the way were used: {before:?}, {after:?}"),
    )?;
    // Not `sum`: of nothing, that is minus zero.
    let proxies = proxies.iter().fold(0.0, |sum, each| sum + each);
    let known = proxies + client + program.unwrap_or_default() + relay.unwrap_or_default();
    let others = spent(before.machine, after.machine) - known;
    let took = micros(after.at - before.at);
    let mut sample = Sample::from([
        (Measure::Cpu, proxies / done.count),
        (Measure::Rate, done.count / done.took.as_secs_f64()),
        (Measure::Client, client / done.count),
        (Measure::Others, (100.0 * others / took).max(0.0)),
    ]);
    sample.extend(done.p50.map(|p50| (Measure::P50, p50)));
    sample.extend(done.p99.map(|p99| (Measure::P99, p99)));
    sample.extend(program.map(|program| (Measure::Program, program / done.count)));
    sample.extend(relay.map(|relay| (Measure::Relay, relay / done.count)));
    let workers = before.workers.iter().zip(&after.workers);
    let busiest = workers.filter_map(|(before, after)| {
        let each = before.iter().zip(after);
        let each: Vec<f64> = each.map(|(before, after)| spent(*before, *after)).collect();
        busiest(&each)
    });
    let busiest = busiest.max_by(f64::total_cmp);
    sample.extend(busiest.map(|busiest| (Measure::Busiest, busiest)));
    Ok(sample)
}

/// The largest part of the sum, in percent. `None`: there is but one, or nothing.
fn busiest(each: &[f64]) -> Option<f64> {
    let all = each.iter().fold(0.0, |sum, each| sum + each);
    let most = each.iter().copied().fold(0.0, f64::max);
    (each.len() > 1 && all > 0.0).then_some(100.0 * most / all)
}

impl Spread {
    /// Of an even number of values the median is the mean of the middle two. `None`: of none.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        Some(Self {
            median: f64::midpoint(values[last / 2], values[values.len() / 2]),
            lowest: values[0],
            highest: values[last],
        })
    }

    pub(crate) fn json(self) -> Value {
        json!({"median": self.median, "lowest": self.lowest, "highest": self.highest})
    }
}

impl Row {
    /// For people.
    pub(crate) fn what(&self) -> String {
        let who = self.entrant.who.name();
        format!(
            "{}, {} connections, {who}",
            self.figure.name, self.connections
        )
    }

    /// Is the other of the same figure and number of connections?
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.figure.name == other.figure.name && self.connections == other.connections
    }

    /// `None`: it has no such measure.
    pub(crate) fn spread(&self, measure: Measure) -> Option<Spread> {
        let values = self.samples.iter();
        Spread::of(
            values
                .filter_map(|sample| sample.get(&measure).copied())
                .collect(),
        )
    }

    /// How many times `other`'s, of runs of the same round.
    pub(crate) fn times(&self, other: &Self, measure: Measure) -> Option<Spread> {
        let pairs = self.samples.iter().zip(&other.samples);
        let ratio =
            |(own, other): (&Sample, &Sample)| Some(own.get(&measure)? / other.get(&measure)?);
        Spread::of(pairs.filter_map(ratio).collect())
    }

    /// Rounds in which not every request was answered as it should be.
    pub(crate) fn failures(&self) -> usize {
        self.samples
            .iter()
            .filter(|sample| sample.is_empty())
            .count()
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000_000.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::plan::FIGURES;

    fn usage(at: Instant, proxies: &[u64], relay: Option<u64>, rest: [u64; 3]) -> Usage {
        let [program, client, machine] = rest.map(Duration::from_millis);
        Usage {
            at,
            proxies: proxies.iter().copied().map(Duration::from_millis).collect(),
            workers: vec![
                vec![Duration::from_millis(proxies[0])],
                vec![Duration::ZERO, Duration::from_millis(proxies[1])],
            ],
            program: Some(program),
            client,
            relay: relay.map(Duration::from_millis),
            machine,
        }
    }

    fn done() -> Done {
        Done {
            count: 1000.0,
            took: Duration::from_secs(2),
            p50: Some(100.0),
            p99: None,
        }
    }

    #[test]
    fn a_run_is_counted_per_request() {
        let begun = Instant::now();
        let before = usage(begun, &[10, 20, 30], Some(60), [40, 50, 1000]);
        let ended = begun + Duration::from_secs(2);
        let after = usage(ended, &[1010, 1020, 1030], Some(4060), [2040, 3050, 14_400]);
        let expect = Sample::from([
            (Measure::Cpu, 3000.0),
            (Measure::Rate, 500.0),
            (Measure::P50, 100.0),
            (Measure::Program, 2000.0),
            (Measure::Client, 3000.0),
            (Measure::Relay, 4000.0),
            // Of the second proxy; the first has but one worker.
            (Measure::Busiest, 100.0),
            // Of the machine's 13.4 s, 12 s are known; the rest was used within 2 s.
            (Measure::Others, 70.0),
        ]);
        let found = sample(&done(), &before, &after).unwrap();
        assert_eq!(found.len(), expect.len());
        for (measure, value) in expect {
            assert!(
                (found[&measure] - value).abs() < 0.001,
                "{measure:?}: {found:?}"
            );
        }
    }

    #[test]
    fn who_stands_on_the_way_was_used() {
        let at = Instant::now();
        let nothing = usage(at, &[0, 0], Some(0), [0, 0, 0]);
        let run = |proxies: &[u64], relay, program| {
            let after = usage(
                at + Duration::from_secs(1),
                proxies,
                relay,
                [program, 9, 99],
            );
            sample(&done(), &nothing, &after)
        };
        assert!(run(&[9, 9], Some(9), 9).is_ok());
        assert!(run(&[9, 9], None, 9).is_ok());
        assert!(run(&[9, 0], Some(9), 9).is_err());
        assert!(run(&[9, 9], Some(0), 9).is_err());
        assert!(run(&[9, 9], Some(9), 0).is_err());
    }

    #[test]
    fn one_worker_is_not_the_busiest() {
        assert_eq!(busiest(&[3.0]), None);
        assert_eq!(busiest(&[0.0, 0.0]), None);
        assert_eq!(busiest(&[1.0, 3.0]), Some(75.0));
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(Spread::of(vec![]), None);
        for (values, (median, lowest, highest)) in [
            (&[3.0][..], (3.0, 3.0, 3.0)),
            (&[4.0, 1.0], (2.5, 1.0, 4.0)),
            (&[9.0, 1.0, 2.0], (2.0, 1.0, 9.0)),
        ] {
            let expect = Spread {
                median,
                lowest,
                highest,
            };
            assert_eq!(Spread::of(values.to_vec()), Some(expect));
        }
    }

    #[test]
    fn runs_that_failed_are_counted_and_left_out() {
        let sample = |cpu| Sample::from([(Measure::Cpu, cpu)]);
        let row = |samples: &[Sample]| Row {
            figure: &FIGURES[0],
            connections: 1,
            entrant: FIGURES[0].entrants[0],
            samples: samples.to_vec(),
        };
        let (one, two) = (
            row(&[sample(1.0), sample(4.0)]),
            row(&[Sample::new(), sample(8.0)]),
        );
        assert_eq!((one.failures(), two.failures()), (0, 1));
        assert_eq!(two.spread(Measure::Cpu), Spread::of(vec![8.0]));
        assert_eq!(one.times(&two, Measure::Cpu), Spread::of(vec![0.5]));
    }

    /// What changes from round to round for all alike, changes no ratio.
    #[test]
    fn ratios_are_of_one_round() {
        let row = |values: [f64; 3]| Row {
            figure: &FIGURES[0],
            connections: 1,
            entrant: FIGURES[0].entrants[0],
            samples: values
                .map(|cpu| Sample::from([(Measure::Cpu, cpu)]))
                .to_vec(),
        };
        let times = row([2.0, 20.0, 200.0]).times(&row([4.0, 40.0, 400.0]), Measure::Cpu);
        assert_eq!(times, Spread::of(vec![0.5]));
        assert_eq!(row([1.0; 3]).times(&row([1.0; 3]), Measure::P50), None);
    }
}
