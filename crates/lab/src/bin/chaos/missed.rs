//! All workloads of a service in a cluster hang at once: they are missed and not taken for gone, and nobody notices.

use std::time::{Duration, Instant};

use isthmus_lab::mesh::Mesh;
use isthmus_lab::point::Point;
use isthmus_lab::trouble::{Result, ensure, wait_for};
use serde_json::Value;

use super::callers::{beside, first_answers};
use super::{Arguments, CLUSTERS, on_mesh, whole};

const CLUSTER: &str = CLUSTERS[0];
const SERVICE: &str = "shop/payment";
const HANG: [&str; 2] = ["payment-1", "payment-2"];
/// Connections that say nothing are given up after 30 s, and a grace of 3 s follows.
const MISSED: Duration = Duration::from_secs(40);
/// From the time that they go on until they are heard.
const RETURNED: Duration = Duration::from_secs(5);

pub(crate) fn missed(_: &Arguments) -> Result<Vec<Point>> {
    on_mesh(|mesh| {
        first_answers(mesh)?;
        let ((noticed, returned), called) = beside(mesh, || hang(mesh))?;
        let failures: Vec<_> = called
            .iter()
            .flat_map(|(_, called)| &called.failures)
            .collect();
        for failure in failures.iter().take(5) {
            eprintln!("{failure:?}");
        }
        let calls = called.iter().map(|(_, called)| called.calls).sum();
        whole(mesh)?;
        Ok(vec![
            Point::at_most(
                "until all workloads of a service in a cluster that hang are told of as held",
                noticed,
                MISSED,
            ),
            Point::none(
                "GETs to the service that failed meanwhile",
                failures.len(),
                calls,
            ),
            Point::at_most("from their going on until none is held", returned, RETURNED),
        ])
    })
}

/// How long it takes to notice, and to notice that they are back. At no time are they shown as gone.
fn hang(mesh: &Mesh) -> Result<(Duration, Duration)> {
    let paused: Vec<_> = HANG
        .iter()
        .map(|process| mesh.process(CLUSTER, process)?.pause())
        .collect::<Result<_>>()?;
    let begun = Instant::now();
    wait_for("them to be held", 2 * MISSED, || {
        let status = mesh.json(&["--cluster", CLUSTER, "status"])?;
        let held = status["held"].as_array().into_iter().flatten();
        let held = held.filter(|of| of["group"] == SERVICE && of["held"] == HANG.len());
        ensure(held.count() == 1, || format!("held: {}", status["held"]))?;
        for cluster in CLUSTERS {
            let healthy = healthy(&mesh.json(&["--cluster", cluster, "status"])?);
            ensure(healthy == Some(HANG.len() as u64), || {
                format!("{cluster} shows {healthy:?} of them")
            })?;
        }
        Ok(())
    })?;
    let noticed = begun.elapsed();
    mesh.isthmus(&["check"])?.expect(3)?;
    drop(paused);
    let begun = Instant::now();
    wait_for("them to be back", 2 * RETURNED, || {
        let status = mesh.json(&["--cluster", CLUSTER, "status"])?;
        ensure(status.get("held").is_none(), || {
            format!("held: {}", status["held"])
        })
    })?;
    Ok((noticed, begun.elapsed()))
}

/// How many of them a cluster takes for healthy.
fn healthy(status: &Value) -> Option<u64> {
    let mut services = status["services"].as_array()?.iter();
    let service = services.find(|service| service["name"] == SERVICE)?;
    let mut shares = service["clusters"].as_array()?.iter();
    let share = shares.find(|share| share["cluster"] == CLUSTER)?;
    share["healthy"].as_u64()
}
