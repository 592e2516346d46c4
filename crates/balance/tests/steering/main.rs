//! The valve against what others do: five stories, five seeds each, the same arrivals and work for
//! every policy. `cargo test -p isthmus-balance --test steering -- --nocapture` prints the table of
//! docs/decisions/0008.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of requests, and nanoseconds of a minute"
)]

mod chance;
mod policies;
mod story;
mod world;

use policies::Policy;
use story::{Inputs, Layout, Story};
use world::{Request, World};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// How long after a change the spilled share may take to follow.
const SETTLES: f64 = 5.0;

const TOLD: Inputs = Inputs {
    utilisation: true,
    guarded: false,
    noise: 0.0,
    lost: 0.0,
    assumed: None,
};

/// As it is in a mesh: what tells callers how busy a workload is, is what guards it.
const GUARDED: Inputs = Inputs {
    guarded: true,
    ..TOLD
};

const WIDE: Layout = Layout {
    workloads: 4,
    workers: 4,
    callers: [4; 3],
};

/// As `verify --only surge` has it on real processes.
const NARROW: Layout = Layout {
    workloads: 2,
    workers: 5,
    callers: [2, 1, 1],
};

/// Nothing happens in it.
const CALM: Story = Story {
    name: "calm",
    layout: WIDE,
    service: 0.020,
    patience: 50.0,
    calm: [0.6, 0.5, 0.5],
    trouble: [0.6, 0.5, 0.5],
    slower: 1.0,
    workers: WIDE.workers,
    outage: false,
    begins: 15.0,
    ends: 35.0,
    length: 45.0,
};
const SURGE: Story = Story {
    name: "surge to 1.45",
    trouble: [1.45, 0.5, 0.5],
    ..CALM
};
const SLOWDOWN: Story = Story {
    name: "1.9x slower",
    calm: [0.7, 0.5, 0.5],
    trouble: [0.7, 0.5, 0.5],
    slower: 1.9,
    ..CALM
};
const HALVED: Story = Story {
    name: "half the workers",
    calm: [0.7, 0.5, 0.5],
    trouble: [0.7, 0.5, 0.5],
    workers: WIDE.workers / 2,
    ..CALM
};
const OUTAGE: Story = Story {
    name: "outage, return",
    calm: [0.55, 0.55, 0.55],
    trouble: [0.55, 0.55, 0.55],
    outage: true,
    ends: 30.0,
    length: 50.0,
    ..CALM
};
const TWIN: Story = Story {
    name: "twin surge, 90 %",
    calm: [0.6, 0.6, 0.3],
    trouble: [1.2, 1.2, 0.3],
    ..CALM
};

/// What came of one story with one policy, over all seeds.
struct Results(Vec<Vec<Request>>, Story);

impl Results {
    fn of(policy: Policy, story: &Story, inputs: Inputs) -> Self {
        let run = |seed: &u64| World::run(policy, story, inputs, *seed);
        Self(SEEDS.iter().map(run).collect(), story.clone())
    }

    /// Requests of all seeds that began during the trouble or just after it.
    fn troubled(&self) -> impl Iterator<Item = &Request> {
        let within = self.1.begins..self.1.ends + SETTLES;
        let all = self.0.iter().flatten();
        all.filter(move |request| within.contains(&request.began))
    }

    fn failed(&self) -> usize {
        self.troubled().filter(|r| r.served.is_none()).count()
    }

    /// Mean and 99th percentile in milliseconds, and errors in percent.
    fn figures(&self) -> (f64, f64, f64) {
        let served = self.troubled().filter(|r| r.served.is_some());
        let mut times: Vec<f64> = served.map(|r| (r.ended - r.began) * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let failed = self.failed() as f64 / (times.len() + self.failed()) as f64;
        (mean, times[times.len() * 99 / 100], 100.0 * failed)
    }

    /// What part of `us`'s requests was served elsewhere between these seconds, in percent.
    fn spilled(requests: &[Request], from: f64, to: f64) -> f64 {
        let own = |r: &&Request| r.from == 0 && (from..to).contains(&r.began);
        let elsewhere = |r: &&Request| r.served.is_some_and(|cluster| cluster != 0);
        let all = requests.iter().filter(own).count().max(1);
        let spilled = requests.iter().filter(own).filter(elsewhere).count();
        100.0 * spilled as f64 / all as f64
    }

    /// For each seed, once settled.
    fn settled(&self) -> Vec<f64> {
        let (from, to) = (self.1.begins + SETTLES, self.1.ends);
        let share = |requests: &Vec<Request>| Self::spilled(requests, from, to);
        self.0.iter().map(share).collect()
    }

    /// How often the spilled share turned by more than 12 points, seen in steps of two seconds: the
    /// most of all seeds.
    fn turns(&self) -> usize {
        let (first, last) = (self.1.begins + SETTLES, self.1.ends);
        let steps = || {
            (0..)
                .map(|n| first + 2.0 * f64::from(n))
                .take_while(|at| at + 2.0 <= last)
        };
        let of = |requests: &Vec<Request>| {
            let shares: Vec<f64> = steps()
                .map(|at| Self::spilled(requests, at, at + 2.0))
                .collect();
            turns(&shares, 12.0)
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }
}

/// Changes of direction after moving more than `least` from the last turning point.
fn turns(values: &[f64], least: f64) -> usize {
    let (mut low, mut high) = (values[0], values[0]);
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

#[test]
fn turning_points_are_counted() {
    assert_eq!(turns(&[30.0, 35.0, 28.0, 33.0], 12.0), 0);
    assert_eq!(turns(&[0.0, 20.0, 40.0, 60.0], 12.0), 0);
    assert_eq!(turns(&[0.0, 20.0, 5.0, 30.0, 31.0], 12.0), 2);
}

/// What part of such a load, as a multiple of its capacity, a cluster cannot serve when it may be
/// used to 97 %; in percent.
fn overflow(load: f64) -> f64 {
    100.0 * (1.0 - 0.97 / load)
}

/// What spills is what the cluster cannot serve, within five points, without swinging.
fn follows(what: &str, results: &Results, demanded: f64) {
    for spilled in results.settled() {
        let off = (spilled - demanded).abs();
        assert!(
            off <= 5.0,
            "{what}: {spilled:.1} % instead of {demanded:.1} %"
        );
    }
    let turns = results.turns();
    assert!(turns <= 2, "{what}: {turns} turns");
}

#[test]
fn the_valve_is_quicker_and_loses_nothing() {
    println!("mean / p99 in ms, errors, and what `us` spilled once settled");
    for (story, demanded) in [
        (SURGE, Some(overflow(1.45))),
        (SLOWDOWN, Some(overflow(1.9 * 0.7))),
        (HALVED, Some(overflow(0.7 / 0.5))),
        (OUTAGE, None),
        (TWIN, None),
    ] {
        let [locality, everywhere, valve, told] = [
            (Policy::LocalityFailover, Inputs::default()),
            (Policy::EverywhereEwma, Inputs::default()),
            (Policy::Valve, Inputs::default()),
            (Policy::Valve, TOLD),
        ]
        .map(|(policy, inputs)| Results::of(policy, &story, inputs));
        print!("| {} ", story.name);
        for results in [&locality, &everywhere, &valve, &told] {
            let (mean, p99, failed) = results.figures();
            let settled = results.settled();
            let spilled = settled.iter().sum::<f64>() / settled.len() as f64;
            print!("| {mean:.0}/{p99:.0}, {failed:.2} %, {spilled:.0} % ");
        }
        println!(
            "| {} |",
            demanded.map_or("-".to_owned(), |share| format!("{share:.0} %"))
        );
        for (how, results) in [("by latency", &valve), ("told", &told)] {
            let what = format!("{}, {how}", story.name);
            let mean = results.figures().0;
            // Where all clusters are nearly full there is little to win.
            let part = if demanded.is_some() { 0.9 } else { 1.0 };
            assert!(mean < part * everywhere.figures().0, "{what}: {mean:.1}");
            assert!(mean < 0.7 * locality.figures().0, "{what}: {mean:.1}");
            assert_eq!(results.failed(), 0, "{what}");
            if let Some(demanded) = demanded {
                follows(&what, results, demanded);
            }
        }
    }
}

#[test]
fn nothing_spills_in_calm_times() {
    for inputs in [Inputs::default(), TOLD] {
        let calm = Story {
            calm: [0.8, 0.5, 0.5],
            trouble: [0.8, 0.5, 0.5],
            ..CALM
        };
        for spilled in Results::of(Policy::Valve, &calm, inputs).settled() {
            assert!(spilled <= 1.0, "{spilled:.1} %");
        }
    }
}

/// A surge right after the beginning, before anything is learnt: each of four callers can have one
/// of the four workers of a workload.
#[test]
fn a_wrong_assumption_is_corrected_within_seconds() {
    let early = Story {
        begins: 1.0,
        ends: 21.0,
        length: 22.0,
        ..SURGE
    };
    for assumed in [0.5, 2.0] {
        for inputs in [Inputs::default(), TOLD] {
            let inputs = Inputs {
                assumed: Some(assumed),
                ..inputs
            };
            let results = Results::of(Policy::Valve, &early, inputs);
            let what = format!("{assumed} assumed");
            assert_eq!(results.failed(), 0, "{what}");
            follows(&what, &results, overflow(1.45));
        }
    }
}

#[test]
fn noise_and_missing_inputs_do_no_harm() {
    for (story, load) in [(SURGE, 1.45), (SLOWDOWN, 1.9 * 0.7), (HALVED, 0.7 / 0.5)] {
        let inputs = Inputs {
            noise: 0.1,
            lost: 0.02,
            ..TOLD
        };
        let results = Results::of(Policy::Valve, &story, inputs);
        let (mean, p99, _) = results.figures();
        println!("| {}, noise | {mean:.0}/{p99:.0} |", story.name);
        assert_eq!(results.failed(), 0, "{}", story.name);
        follows(story.name, &results, overflow(load));
    }
}

/// As `verify --only surge` has it on real processes.
const FEW: Story = Story {
    layout: NARROW,
    service: 0.100,
    patience: 20.0,
    workers: NARROW.workers,
    ..CALM
};

/// What is asked of stories of which the gates of the workloads are a part.
struct Asked {
    /// Of the requests of all seeds, so many may fail.
    failed: usize,
    /// How far what spills may be off, in points.
    off: f64,
    turns: usize,
}

fn guarded(name: &'static str, story: &Story, demanded: f64, asked: &Asked) {
    let results = Results::of(Policy::Valve, story, GUARDED);
    let (mean, p99, _) = results.figures();
    let all = results.troubled().count();
    let shed: usize = results.troubled().map(|r| r.shed).sum();
    let (failed, turns) = (results.failed(), results.turns());
    let settled = results.settled();
    let what = format!("{}, {name}", story.name);
    println!(
        "| {what} | {mean:.0}/{p99:.0}, {failed} of {all} failed, {shed} turned away \
        | {settled:.1?} % of {demanded:.0} % | {turns} turns |"
    );
    assert!(failed <= asked.failed, "{what}: {failed} failed");
    assert!(turns <= asked.turns, "{what}: {turns} turns");
    for spilled in settled {
        let off = (spilled - demanded).abs();
        assert!(off <= asked.off, "{what}: {spilled:.1} %");
    }
}

/// The gate of a workload has a limit of its own, and says how busy it is and how long one waits in its own
/// way.
#[test]
fn what_spills_is_the_same_where_workloads_guard_themselves() {
    for (story, load) in [(SURGE, 1.45), (SLOWDOWN, 1.9 * 0.7), (HALVED, 0.7 / 0.5)] {
        // Where work takes long, a second has few replies, and what is known is late.
        for (service, what, turns) in [(0.020, "20 ms, guarded", 2), (0.100, "100 ms, guarded", 3)]
        {
            let story = Story {
                service,
                ..story.clone()
            };
            // One in ten thousand may find every cluster busy that it tries.
            let asked = Asked {
                failed: 10,
                off: 6.0,
                turns,
            };
            guarded(what, &story, overflow(load), &asked);
        }
    }
}

/// Two workloads of five workers, and few callers: what one of them knows is late and not sure, and a
/// crowd is soon too much. When a whole cluster answers 503, the others are used to nine tenths.
#[test]
fn few_callers_of_few_workers_lose_nothing_either() {
    let troubled = |name, load, workers| Story {
        name,
        calm: [load, 0.5, 0.5],
        trouble: [load, 0.5, 0.5],
        workers,
        ..FEW
    };
    let surge = Story {
        name: "surge to 1.45",
        trouble: [1.45, 0.5, 0.5],
        ..FEW
    };
    let slowdown = Story {
        slower: 1.9,
        ..troubled("1.9x slower", 0.7, NARROW.workers)
    };
    let fewer = troubled("60 % of the workers", 0.8, 3);
    let none = troubled("no workers", 0.8, 0);
    for (story, demanded, failed, turns) in [
        (surge, overflow(1.45), 0, 2),
        (slowdown, overflow(1.9 * 0.7), 0, 4),
        (fewer, overflow(0.8 / 0.6), 0, 2),
        (none, 100.0, 10, 2),
    ] {
        let asked = Asked {
            failed,
            off: 6.5,
            turns,
        };
        guarded("few", &story, demanded, &asked);
    }
}
