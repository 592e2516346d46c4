//! GETs, one after the other, from the frontend of each cluster while something goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, trouble, wait_for};

use super::CLUSTERS;

/// Runs in every cluster.
const URL: &str = "http://payment.shop.mesh/";
const CALLER: &str = "frontend-1";

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct Called {
    pub(crate) calls: usize,
    /// Those that were not answered with 200: when, since the first, and with what.
    pub(crate) failures: Vec<(Duration, String)>,
    pub(crate) slowest: Duration,
}

/// Waits until each has been answered once: what is called is known from then on.
pub(crate) fn first_answers(mesh: &Mesh) -> Result<()> {
    CLUSTERS.iter().try_for_each(|cluster| {
        let proxy = mesh.outbound(cluster, CALLER)?;
        wait_for("a first answer", PATIENCE, || {
            http::get(proxy, URL, &[])?.expect(200).map(drop)
        })
    })
}

/// Calls until `act` is over.
pub(crate) fn beside<T>(
    mesh: &Mesh,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<(&'static str, Called)>)> {
    let over = AtomicBool::new(false);
    scope(|scope| {
        let callers = CLUSTERS.map(|cluster| {
            let over = &over;
            (cluster, scope.spawn(move || call(mesh, cluster, over)))
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for (cluster, caller) in callers {
            let called = caller
                .join()
                .unwrap_or_else(|_| trouble("a caller panicked"));
            all.push((cluster, called?));
        }
        Ok((done?, all))
    })
}

fn call(mesh: &Mesh, cluster: &str, over: &AtomicBool) -> Result<Called> {
    let proxy = mesh.outbound(cluster, CALLER)?;
    let mut called = Called::default();
    let first = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let failure = match http::get(proxy, URL, &[]) {
            Ok(reply) if reply.status == 200 => None,
            Ok(reply) => Some(format!(
                "{} {}: {}",
                reply.status,
                reply.refusal().unwrap_or("-"),
                reply.text().trim()
            )),
            Err(trouble) => Some(trouble.to_string()),
        };
        called.calls += 1;
        called.slowest = called.slowest.max(begun.elapsed());
        let at = begun.duration_since(first);
        called.failures.extend(failure.map(|failure| (at, failure)));
        // Some hundred a second are enough.
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(called)
}
