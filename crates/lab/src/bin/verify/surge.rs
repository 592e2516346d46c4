//! A service in three clusters, each of a known capacity, and what its callers do when one of them is
//! not enough: more load than it can serve, work that silently takes longer, workers that go away.
//!
//! Only what the nearest cluster cannot serve may go elsewhere, no request may fail, and what goes
//! elsewhere must not swing.

use std::time::Duration;

use isthmus_lab::mesh::Mesh;
use isthmus_lab::open_loop::{Call, Running};
use isthmus_lab::series::{Counts, turns};
use isthmus_lab::trouble::Result;

use super::emulated::{Emulated, WORKLOAD_RATE, on_emulated, order, show};
use super::{Arguments, CLUSTERS, Point};

/// Of `crates/lab/meshes`.
const MESH: &str = "surge";
const HOME: &str = CLUSTERS[0];
const WORKLOADS: usize = 2;
const CLUSTER_RATE: f64 = 2.0 * WORKLOAD_RATE;
const CALLERS: [(&str, &str); 2] = [(HOME, "caller-1"), (HOME, "caller-2")];
/// How much of the other clusters' capacity their own callers use.
const RESIDENTS: f64 = 0.5;
/// How long a share may take to follow.
const SETTLES: Duration = Duration::from_secs(5);
/// What is counted together.
const STEP: Duration = Duration::from_secs(2);
/// Of how many points a movement is no noise; the simulation has the same.
const MOVES: f64 = 0.12;
const MOST_TURNS: usize = 2;
/// How far from what has to spill.
const OFF: f64 = 0.05;
/// How much of a cluster is of use; the simulation has the same.
const USABLE: f64 = 0.97;

/// A time in which nothing changes.
#[derive(Debug, Clone, Copy)]
struct Stage {
    what: &'static str,
    length: u64,
    /// Of the caller's cluster, as multiples of its capacity in calm times.
    load: f64,
    /// Workers of each workload, and milliseconds that one takes.
    concurrency: usize,
    service: u64,
}

const CALM: Stage = Stage {
    what: "calm",
    length: 10,
    load: 0.6,
    concurrency: 5,
    service: 100,
};

/// The stories, one after the other on one mesh.
const STORIES: [(&str, &[Stage]); 3] = [
    (
        "surge",
        &[
            CALM,
            Stage {
                what: "1.45 of the capacity",
                length: 30,
                load: 1.45,
                ..CALM
            },
            Stage {
                what: "after the surge",
                ..CALM
            },
        ],
    ),
    (
        "slowdown",
        &[
            Stage { load: 0.7, ..CALM },
            Stage {
                what: "silently 1.9 times slower",
                length: 20,
                load: 0.7,
                service: 190,
                ..CALM
            },
            Stage {
                what: "after the slowdown",
                load: 0.7,
                ..CALM
            },
        ],
    ),
    (
        "capacity",
        &[
            Stage { load: 0.8, ..CALM },
            Stage {
                what: "60 % of the capacity",
                length: 20,
                load: 0.8,
                concurrency: 3,
                ..CALM
            },
            Stage {
                what: "no capacity",
                length: 15,
                load: 0.8,
                concurrency: 0,
                ..CALM
            },
            Stage {
                what: "all of the capacity again",
                length: 20,
                load: 0.8,
                ..CALM
            },
        ],
    ),
];

impl Stage {
    fn length(&self) -> Duration {
        Duration::from_secs(self.length)
    }

    /// What part of the load the cluster cannot serve.
    #[expect(clippy::cast_precision_loss, reason = "a few workers")]
    fn overflow(&self) -> f64 {
        let workers = self.concurrency as f64 / CALM.concurrency as f64;
        let capacity = workers * CALM.service as f64 / self.service as f64;
        (1.0 - USABLE * capacity / self.load).max(0.0)
    }
}

pub(crate) fn surge(arguments: &Arguments) -> Result<Vec<Point>> {
    let residents = CLUSTERS[1..].iter().map(|cluster| (*cluster, "caller-1"));
    let callers: Vec<(&str, &str)> = CALLERS.into_iter().chain(residents).collect();
    on_emulated(MESH, &[], &callers, |mesh| {
        let mut points = Vec::new();
        for (name, stages) in STORIES {
            points.extend(tell(arguments, mesh, name, stages)?);
        }
        Ok(points)
    })
}

fn tell(arguments: &Arguments, mesh: &Mesh, name: &str, stages: &[Stage]) -> Result<Vec<Point>> {
    let home = Emulated::of(mesh, HOME, WORKLOADS)?;
    let begin = |callers: &[(&str, &str)], phases: Vec<(Duration, f64)>| {
        let name = format!("{name}-{}", callers[0].0);
        order(arguments, mesh, &name, callers, phases)?.start()
    };
    let length = stages.iter().map(Stage::length).sum::<Duration>();
    let loads = stages
        .iter()
        .map(|stage| (stage.length(), stage.load * CLUSTER_RATE));
    let own = begin(&CALLERS, loads.collect())?;
    let residents: Vec<Running> = CLUSTERS[1..]
        .iter()
        .map(|cluster| {
            begin(
                &[(*cluster, "caller-1")],
                vec![(length, RESIDENTS * CLUSTER_RATE)],
            )
        })
        .collect::<Result<_>>()?;
    let mut at = Duration::ZERO;
    for stage in stages {
        own.sleep_until(at);
        home.change(&format!(
            "concurrency={}&service={}",
            stage.concurrency, stage.service
        ))?;
        at += stage.length();
    }
    let own = own.finish()?;
    show(arguments, &format!("{name} {HOME}"), &own);
    let mut all = own.clone();
    for (resident, cluster) in residents.into_iter().zip(&CLUSTERS[1..]) {
        let calls = resident.finish()?;
        show(arguments, &format!("{name} {cluster}"), &calls);
        all.extend(calls);
    }
    Ok(points(name, stages, &own, &all))
}

fn points(name: &str, stages: &[Stage], own: &[Call], all: &[Call]) -> Vec<Point> {
    let counts = Counts::of(all);
    if counts.failures() > 0 {
        eprintln!("{name}: failed: {:?}", counts.failed);
    }
    let mut points = vec![Point::none(
        format!("{name}: requests that failed, of all callers"),
        counts.failures(),
        counts.sent,
    )];
    let mut from = Duration::ZERO;
    for (index, stage) in stages.iter().enumerate() {
        let to = from + stage.length();
        let overflow = stage.overflow();
        if overflow > 0.0 {
            points.push(follows(name, stage, own, (from + SETTLES, to)));
            points.push(steady(name, stage, own, (from + SETTLES, to)));
        } else if index == 0 {
            // Nothing is known yet in its first seconds.
            points.push(follows(name, stage, own, (from + SETTLES, to)));
        } else {
            points.push(back(name, stage, own, (from, to)));
        }
        let during = Counts::within(own, from, to);
        eprintln!(
            "{name}: {}: p50 {} ms, p99 {} ms",
            stage.what,
            during.quantile(50).as_millis(),
            during.quantile(99).as_millis()
        );
        from = to;
    }
    points
}

/// What spills is what the cluster cannot serve.
fn follows(name: &str, stage: &Stage, own: &[Call], (from, to): (Duration, Duration)) -> Point {
    let (spilled, overflow) = (
        Counts::within(own, from, to).spilled(HOME),
        stage.overflow(),
    );
    Point {
        held: (spilled - overflow).abs() <= OFF,
        what: format!("{name}: {}: share that is served elsewhere", stage.what),
        measured: format!("{:.1} %", 100.0 * spilled),
        bound: format!(
            "{:.1} % and at most {:.0} points off",
            100.0 * overflow,
            100.0 * OFF
        ),
    }
}

/// That share does not swing.
fn steady(name: &str, stage: &Stage, own: &[Call], (from, to): (Duration, Duration)) -> Point {
    let shares = shares(own, from, to);
    let turns = turns(&shares, MOVES);
    Point {
        held: turns <= MOST_TURNS && shares.len() > MOST_TURNS,
        what: format!(
            "{name}: {}: turns of that share by {:.0} points",
            stage.what,
            100.0 * MOVES
        ),
        measured: format!("{turns} in {} s", to.saturating_sub(from).as_secs()),
        bound: format!("at most {MOST_TURNS}"),
    }
}

/// How long it takes until nothing is served elsewhere any more.
fn back(name: &str, stage: &Stage, own: &[Call], (from, to): (Duration, Duration)) -> Point {
    let shares = shares(own, from, to);
    let last = shares.iter().rposition(|share| *share > OFF);
    let steps = last.map_or(0, |last| last + 1);
    let time = STEP * u32::try_from(steps).unwrap_or(u32::MAX);
    let bound = if name == "capacity" {
        SLOW_START
    } else {
        SETTLES
    } + STEP;
    Point::at_most(
        format!("{name}: {}: until all are served near again", stage.what),
        time,
        bound,
    )
}

/// A cluster that returns gets its share back over this time.
const SLOW_START: Duration = Duration::from_secs(10);

fn shares(own: &[Call], from: Duration, to: Duration) -> Vec<f64> {
    let mut shares = Vec::new();
    let mut at = from;
    while at + STEP <= to {
        shares.push(Counts::within(own, at, at + STEP).spilled(HOME));
        at += STEP;
    }
    shares
}
