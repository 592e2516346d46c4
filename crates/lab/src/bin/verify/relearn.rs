//! A limit that was learnt and is wrong by a factor of two, either way: programs that silently can do twice as
//! much, and half of that again, while more comes than they can serve.

use std::time::Duration;

use isthmus_lab::mesh::Mesh;
use isthmus_lab::open_loop::Call;
use isthmus_lab::series::Counts;
use isthmus_lab::trouble::Result;

use super::emulated::{Emulated, WORKLOAD_RATE, on_emulated, order, show};
use super::{Arguments, CLUSTERS, Point};

/// Of `crates/lab/meshes`.
const MESH: &str = "overload";
const HOME: &str = CLUSTERS[0];
const CALLERS: [(&str, &str); 2] = [(HOME, "caller-1"), (CLUSTERS[1], "caller-1")];
const WORKLOADS: usize = 2;
const RATE: f64 = 2.0 * WORKLOAD_RATE;
/// By when it is right again.
const RIGHT: Duration = Duration::from_secs(5);
const GOODPUT: f64 = 0.9;

/// What it is like, how many workers there are, and what they can serve, as a multiple of [`RATE`].
const STAGES: [(&str, usize, f64); 3] = [
    ("as it began", 5, 1.0),
    ("twice the workers", 10, 2.0),
    ("half of them again", 5, 1.0),
];
const STAGE: Duration = Duration::from_secs(12);
/// Of what comes, at any time.
const LOAD: f64 = 2.5;

pub(crate) fn relearn(arguments: &Arguments) -> Result<Vec<Point>> {
    let few = format!("copies: {WORKLOADS}");
    on_emulated(MESH, &[("copies: 4", &few)], &CALLERS, |mesh| {
        tell(arguments, mesh)
    })
}

fn tell(arguments: &Arguments, mesh: &Mesh) -> Result<Vec<Point>> {
    let programs = Emulated::of(mesh, HOME, WORKLOADS)?;
    let length = STAGE * u32::try_from(STAGES.len()).unwrap_or(u32::MAX);
    let phases = vec![(length, LOAD * RATE)];
    let load = order(arguments, mesh, "relearn", &CALLERS, phases)?.start()?;
    let mut at = Duration::ZERO;
    for (_, workers, _) in STAGES {
        load.sleep_until(at);
        programs.change(&format!("concurrency={workers}"))?;
        at += STAGE;
    }
    let calls = load.finish()?;
    show(arguments, "relearn", &calls);
    eprintln!("failed: {:?}", Counts::of(&calls).failed);
    let mut points = Vec::new();
    let mut from = Duration::ZERO;
    for (what, _, part) in STAGES {
        let counts = Counts::within(&calls, from + RIGHT, from + STAGE);
        let goodput = rate(counts.ok, STAGE.saturating_sub(RIGHT));
        let least = GOODPUT * part * RATE;
        points.push(Point {
            held: goodput >= least,
            what: format!("{what}: served, from {} s on", RIGHT.as_secs()),
            measured: format!("{goodput:.0}/s"),
            bound: format!("at least {least:.0}/s of {:.0}/s", part * RATE),
        });
        from += STAGE;
    }
    let odd: Vec<&Call> = calls
        .iter()
        .filter(|call| {
            call.failure()
                .is_some_and(|failure| failure != "overloaded")
        })
        .collect();
    for call in &odd {
        eprintln!("{}", call.told());
    }
    points.push(Point::none(
        "failed otherwise than by being turned away",
        odd.len(),
        calls.len(),
    ));
    Ok(points)
}

#[expect(clippy::cast_precision_loss, reason = "some thousand")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
