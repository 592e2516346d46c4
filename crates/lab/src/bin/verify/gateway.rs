//! One of the two gateways of a cluster is slow, and not dead: it is stopped most of the time, for less
//! than what a session takes for death, so that it adds about 200 ms. What goes through it must find the
//! other one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use isthmus_lab::mesh::Mesh;
use isthmus_lab::processes::Process;
use isthmus_lab::series::Counts;
use isthmus_lab::trouble::{Result, Trouble};

use super::emulated::{on_emulated, order, show};
use super::{Arguments, CLUSTERS, Point};

/// Of `crates/lab/meshes`.
const MESH: &str = "overload";
const HOME: &str = CLUSTERS[0];
/// It comes through the gateways of the other cluster, and one that does not.
const FAR: [(&str, &str); 1] = [(CLUSTERS[1], "caller-1")];
const NEAR: [(&str, &str); 1] = [(HOME, "caller-1")];
/// Of the 200 that the four workloads can serve.
const RATE: f64 = 60.0;
const CALM: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(15);
/// How long it is stopped, and how long it may run then.
const STOPPED: Duration = Duration::from_millis(400);
const RUNS: Duration = Duration::from_millis(40);
/// By when it harms nobody any more.
const NOTICED: Duration = Duration::from_secs(3);
/// How much slower the slowest twentieth may be than in calm times: some tunnels through it are looked
/// at again now and then.
const SLOWER: f64 = 1.5;

pub(crate) fn gateway(arguments: &Arguments) -> Result<Vec<Point>> {
    let callers = [FAR[0], NEAR[0]];
    on_emulated(MESH, &[], &callers, |mesh| endure(arguments, mesh))
}

fn endure(arguments: &Arguments, mesh: &Mesh) -> Result<Vec<Point>> {
    let gateway = mesh.process(HOME, "gateway-1")?;
    let begin = |name: &str, callers: &[(&str, &str)]| {
        order(arguments, mesh, name, callers, vec![(CALM + SLOW, RATE)])?.start()
    };
    let far = begin("far", &FAR)?;
    let near = begin("near", &NEAR)?;
    far.sleep_until(CALM);
    let over = AtomicBool::new(false);
    let (far, near) = thread::scope(|scope| {
        let slow = scope.spawn(|| hinder(&gateway, &over));
        let calls = far.finish().and_then(|far| Ok((far, near.finish()?)));
        over.store(true, Ordering::Relaxed);
        let hindered = slow.join();
        hindered.map_err(|_| Trouble("what hinders the gateway broke down".to_owned()))??;
        calls
    })?;
    show(arguments, "far", &far);
    show(arguments, "near", &near);
    let mut points = Vec::new();
    for (who, calls) in [
        ("from another cluster", &far),
        ("from its own cluster", &near),
    ] {
        let calm = Counts::within(calls, NOTICED, CALM);
        let first = Counts::within(calls, CALM, CALM + NOTICED);
        let then = Counts::within(calls, CALM + NOTICED, CALM + SLOW);
        eprintln!(
            "{who}: p95 {} ms, then {} ms, then {} ms",
            calm.quantile(95).as_millis(),
            first.quantile(95).as_millis(),
            then.quantile(95).as_millis()
        );
        let all = Counts::of(calls);
        points.push(Point::none(
            format!("a slow gateway of two: requests {who} that failed"),
            all.failures(),
            all.sent,
        ));
        points.push(Point::at_most(
            format!(
                "a slow gateway of two: 95th percentile {who}, from {} s on",
                NOTICED.as_secs()
            ),
            then.quantile(95),
            calm.quantile(95).mul_f64(SLOWER),
        ));
    }
    Ok(points)
}

/// Stops the process again and again until it is over.
fn hinder(process: &Process, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let paused = process.pause()?;
        thread::sleep(STOPPED);
        drop(paused);
        thread::sleep(RUNS);
    }
    Ok(())
}
