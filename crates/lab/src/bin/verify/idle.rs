//! How fast a mesh is there, and what it takes while nobody uses it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::trouble::Result;

use super::{Arguments, Point, mesh, on_quiet_mesh, whole};

const READY_WITHIN: Duration = Duration::from_secs(5);
/// What a start leaves behind (connections being made, pools being filled) is over by then.
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(30);
/// Of one core.
const IDLE_PERCENT: f64 = 10.0;
const PROXY_MIB: u64 = 25;

/// From the command to ready: at first, and again from what was kept.
pub(crate) fn start(_: &Arguments) -> Result<Vec<Point>> {
    let mut mesh = mesh()?;
    // The files of the programs are read from disk once.
    mesh.up(&["--quiet"])?;
    mesh.down()?;
    let mut points = Vec::new();
    for traffic in [&[][..], &["--quiet"]] {
        let begun = Instant::now();
        mesh.up(traffic)?;
        let what = match traffic {
            [] => "a warm `up` is ready",
            _ => "a warm `up --quiet` is ready",
        };
        points.push(Point::at_most(what, begun.elapsed(), READY_WITHIN));
        mesh.down()?;
    }
    mesh.pass();
    Ok(points)
}

/// Processor time of all processes, and memory of each proxy.
pub(crate) fn idle(_: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        sleep(SETTLE);
        let used = || -> Result<Duration> {
            let family = mesh.supervisor()?.family()?;
            family
                .iter()
                .map(isthmus_lab::processes::Process::cpu)
                .sum()
        };
        let (begun, before) = (Instant::now(), used()?);
        sleep(WATCH);
        let spent = used()?.saturating_sub(before);
        let percent = 100.0 * spent.as_secs_f64() / begun.elapsed().as_secs_f64();
        let mut points = vec![Point {
            held: percent < IDLE_PERCENT,
            what: "processor time of all processes of an idle mesh".to_owned(),
            measured: format!("{percent:.1} % of one core"),
            bound: format!("less than {IDLE_PERCENT} %"),
        }];
        let mut largest = (0, String::new());
        let mut count = 0;
        for (cluster, name, process) in mesh.running()? {
            if name != "control" {
                count += 1;
                largest = largest.max((process.resident()?, format!("{cluster}/{name}")));
            }
        }
        let (bytes, name) = largest;
        points.push(Point {
            held: count > 0 && bytes <= PROXY_MIB << 20,
            what: format!("resident memory of the largest of {count} proxies, {name}"),
            measured: format!("{} KiB", bytes >> 10),
            bound: format!("at most {PROXY_MIB} MiB"),
        });
        Ok(points)
    })
}
