//! Every gateway and every proxy has a successor, one after the other, under traffic of every
//! protocol: no request is lost, and streams are told and have their time.
//!
//! All restarts begin before the first process has drained: until then nothing excuses a stream that
//! ends.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use isthmus_lab::processes::Process;
use isthmus_lab::traffic::{
    Count, Counts, DRAIN, Harm, Kind, Plan, Scene, Timeline, Traffic, executed,
};
use isthmus_lab::trouble::{During, Result, ensure};

use super::{Arguments, Point, seconds};

/// Requests a second, of all protocols together. Where the machine cannot carry that beside the
/// clients, the next one: a machine that is full says nothing of restarts.
const RATES: [u32; 5] = [1_000, 700, 500, 300, 150];
/// Of all cores, for the mesh and its clients.
const BEARABLE: f64 = 0.6;
/// How long the machine is looked at.
const LOOK: Duration = Duration::from_secs(6);
/// Between two restarts.
const PAUSE: Duration = Duration::from_millis(900);
/// After the last one has drained.
const AFTER: Duration = Duration::from_secs(8);
/// Of certificates: none is renewed meanwhile.
const LIFETIME: &str = "24h";
/// Streams of each kind on each way.
const STREAMS: usize = 2;
/// Longer than the check: streams end when something else ends them.
const LIFE: Duration = Duration::from_hours(1);
/// None of the rates: the ids of what is tried first are others.
const SEED: u64 = 1;
/// Connections of HTTP/2 that the callers keep.
const CONNECTIONS: u64 = 4;

/// Requests that fail, and how long streams go on.
pub(crate) fn restarts(_: &Arguments) -> Result<Vec<Point>> {
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    let scene = Scene::start(&own.with_file_name(""), LIFETIME)?;
    let rate = bearable(&scene)?;
    let timeline = Arc::<Timeline>::default();
    let traffic = start(&scene, rate, SEED, &timeline)?;
    sleep(LOOK);
    let begun = Instant::now();
    let count = restart_all(&scene, &timeline)?;
    let took = begun.elapsed();
    sleep(DRAIN + AFTER);
    let counts = traffic.finish()?;
    for failure in &counts.failures {
        eprintln!("{failure}");
    }
    let mut points = points(&scene, &counts)?;
    points.push(Point {
        held: took < DRAIN,
        what: format!("{count} restarts at {rate} requests a second"),
        measured: seconds(took),
        bound: format!("less than {}", seconds(DRAIN)),
    });
    if points.iter().all(|point| point.held) {
        scene.mesh.pass();
    }
    Ok(points)
}

fn points(scene: &Scene, counts: &Counts) -> Result<Vec<Point>> {
    let unary = |kind: Kind| !kind.is_stream();
    let all = |which: fn(Kind) -> bool, part: fn(&Count) -> u64| -> usize {
        usize::try_from(counts.sum(which, part)).unwrap_or(usize::MAX)
    };
    let executed = executed(&scene.journal)?;
    let once = usize::try_from(executed.requests).unwrap_or(usize::MAX);
    let mut points: Vec<Point> = Kind::ALL
        .into_iter()
        .filter(|kind| unary(*kind))
        .map(|kind| {
            let count = counts.of(kind);
            let late = seconds(count.quantile(0.99));
            let what = format!("{} that failed (99th percentile {late})", kind.name());
            let [failed, begun] =
                [count.failed, count.begun].map(|n| usize::try_from(n).unwrap_or(1));
            Point::none(what, failed, begun)
        })
        .collect();
    points.push(Point::none(
        "requests that were executed twice",
        executed.twice.len(),
        once,
    ));
    points.push(Point::none(
        "streams that ended before a process had drained",
        all(Kind::is_stream, |count| count.failed),
        all(Kind::is_stream, |count| count.begun),
    ));
    let shortest = counts.outlived.iter().min().copied().unwrap_or_default();
    points.push(Point {
        held: shortest >= DRAIN,
        what: format!(
            "shortest time that one of {} streams went on after a restart",
            counts.outlived.len()
        ),
        measured: seconds(shortest),
        bound: format!("at least {}", seconds(DRAIN)),
    });
    points.push(Point {
        held: counts.told >= CONNECTIONS,
        what: "connections of HTTP/2 that were told by GOAWAY".to_owned(),
        measured: counts.told.to_string(),
        bound: format!("at least {CONNECTIONS}"),
    });
    Ok(points)
}

fn start(scene: &Scene, rate: u32, seed: u64, timeline: &Arc<Timeline>) -> Result<Traffic> {
    let plan = Plan {
        lanes: scene.lanes()?,
        rate,
        streams: STREAMS,
        life: (LIFE, LIFE),
        seed,
    };
    Traffic::start(plan, timeline.clone())
}

/// The highest rate that leaves room on this machine.
fn bearable(scene: &Scene) -> Result<u32> {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let mut last = 0;
    for rate in RATES {
        last = rate;
        let traffic = start(scene, rate, rate.into(), &Arc::default())?;
        // Connections are made in the first second.
        sleep(Duration::from_secs(1));
        let (begun, before) = (Instant::now(), used()?);
        sleep(LOOK);
        let spent = used()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "no machine has so many cores")]
        let share = spent.as_secs_f64() / begun.elapsed().as_secs_f64() / cores as f64;
        drop(traffic.finish()?);
        eprintln!(
            "{rate} requests a second take {:.0} % of the machine",
            100.0 * share
        );
        if share <= BEARABLE {
            break;
        }
    }
    Ok(last)
}

/// Processor time of this program and of the mesh, which is its child.
fn used() -> Result<Duration> {
    let family = Process::with_id(std::process::id())?.family()?;
    // One that has just ended has used nothing since.
    Ok(family.iter().filter_map(|each| each.cpu().ok()).sum())
}

/// Gateways first, then every proxy; answers how many.
fn restart_all(scene: &Scene, timeline: &Timeline) -> Result<usize> {
    let mut all: Vec<(&str, String)> = scene
        .mesh
        .running()?
        .into_iter()
        .filter(|(_, process, _)| process != "control")
        .map(|(cluster, process, _)| {
            let noun = if process.starts_with("gateway-") {
                "gateway"
            } else {
                "proxy"
            };
            (noun, format!("{cluster}/{process}"))
        })
        .collect();
    all.sort_unstable();
    ensure(!all.is_empty(), || "nothing serves".to_owned())?;
    for (noun, name) in &all {
        let on = [name.clone()];
        let restart = timeline.begin(format!("restart of {name}"), Harm::Drain, &on);
        scene.mesh.isthmus(&[noun, "restart", name])?.expect(0)?;
        drop(restart);
        sleep(PAUSE);
    }
    Ok(all.len())
}
