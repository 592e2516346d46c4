//! All control planes are away for as long as certificates last, and longer: nobody notices until they end, and then
//! nobody is believed any more. A day is a minute.

use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::mesh::Mesh;
use isthmus_lab::point::Point;
use isthmus_lab::trouble::{Result, Trouble};

use super::callers::{Called, beside, first_answers};
use super::{Arguments, CLUSTERS, mesh_with, whole};

/// How long certificates of processes are valid, in the place of 24 hours.
const LIFETIME: Duration = Duration::from_mins(1);
/// As long as a day without the hour after which they are renewed.
const SPARED: Duration = Duration::from_millis(57_500);
/// A workload that hangs in the meantime: one of two of its cluster.
const HANGS: (&str, &str) = (CLUSTERS[0], "payment-2");
const HANGS_BEFORE: Duration = Duration::from_secs(4);
const HANGS_AFTER: Duration = Duration::from_secs(15);
const HANGS_FOR: Duration = Duration::from_secs(10);
/// A caller waits for so long at most for one that has not been ejected yet.
const EJECTED: Duration = Duration::from_secs(2);

pub(crate) fn expiry(_: &Arguments) -> Result<Vec<Point>> {
    let lifetime = format!("leafLifetime: {}s\n", LIFETIME.as_secs());
    mesh_with(
        &[("up.yaml", "clusters:\n", &format!("{lifetime}clusters:\n"))],
        |mesh| {
            whole(mesh)?;
            first_answers(mesh)?;
            // A gateway that has never carried a service cannot ask for it while its control plane is away.
            beside(mesh, || hang(mesh, HANGS_BEFORE))?;
            whole(mesh)?;
            let (spared, called) = beside(mesh, || outlast(mesh))?;
            let within = |called: &Called| {
                called
                    .failures
                    .iter()
                    .filter(|(at, _)| *at < spared)
                    .count()
            };
            let failed = called.iter().map(|(_, called)| within(called)).sum();
            for (cluster, called) in &called {
                for (at, failure) in called.failures.iter().take(3) {
                    eprintln!("{cluster} after {at:?}: {failure}");
                }
            }
            let calls = called.iter().map(|(_, called)| called.calls).sum();
            let slowest = called.iter().map(|(_, called)| called.slowest).max();
            let mut points = vec![
                Point::none(
                    format!(
                        "GETs that failed in {} s without control planes",
                        spared.as_secs()
                    ),
                    failed,
                    calls,
                ),
                Point::at_most(
                    "the slowest of them, while a workload hung",
                    slowest.unwrap_or_default(),
                    EJECTED,
                ),
            ];
            points.extend(called.iter().map(|(cluster, called)| ends(cluster, called)));
            Ok(points)
        },
    )
}

/// Gives how long nobody should have noticed, since callers began.
fn outlast(mesh: &Mesh) -> Result<Duration> {
    let first = Instant::now();
    // Renewed at half of so short a life, some would be near their end.
    mesh.isthmus(&["rotate", "start", "leaves"])?.expect(0)?;
    mesh.isthmus(&["control", "kill", "--all"])?.expect(0)?;
    let killed = Instant::now();
    sleep(HANGS_AFTER);
    hang(mesh, HANGS_FOR)?;
    let end = killed + LIFETIME + Duration::from_secs(15);
    sleep(end.saturating_duration_since(Instant::now()));
    let spared = killed + SPARED;
    spared
        .checked_duration_since(first)
        .ok_or_else(|| Trouble("time went back".to_owned()))
}

fn hang(mesh: &Mesh, time: Duration) -> Result<()> {
    let _paused = mesh.process(HANGS.0, HANGS.1)?.pause()?;
    sleep(time);
    Ok(())
}

/// Certificates have ended by the end: the last answers say so.
fn ends(cluster: &str, called: &Called) -> Point {
    let last = called.failures.last();
    let last = last.map_or("it is still believed", |(_, failure)| failure);
    // Status and reason.
    let told = last.split_once(':').map_or(last, |(told, _)| told);
    Point {
        held: told == "503 no-identity",
        what: format!("what {cluster} answers when certificates have ended"),
        measured: told.to_owned(),
        bound: "503 no-identity".to_owned(),
    }
}
