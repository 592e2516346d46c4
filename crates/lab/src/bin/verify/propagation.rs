//! From the 2xx of a config write to the proxies that go by it.
//!
//! The write renames a rule of a route; a proxy has applied it when it says, of a request that it
//! really carries, that the rule of the new name matched. Each proxy is asked every few
//! milliseconds, so that what is measured is at most that much too long. The clock starts when the
//! command line prints that the object has changed, which it does when the API has answered.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::Mesh;
use isthmus_lab::trouble::{During, Result, Trouble, ensure};

use super::{AUTHORITY, Arguments, CLUSTERS, Point, on_quiet_mesh, quantile};

/// Runs in every cluster, so that asking is quick.
const URL: &str = "http://payment.shop.mesh/";
const TELL: &str = "x-isthmus-tell: 1";
const BETWEEN_ASKING: Duration = Duration::from_millis(2);
/// A write that is not seen after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_millis(250);
/// Round trips between the authority's cluster and each, as the example declares them.
const ROUND_TRIPS: [u64; 3] = [0, 140, 220];

/// A rule of this number was seen for the first time, by a proxy of the cluster of this index.
struct Seen {
    cluster: usize,
    rule: usize,
    at: Instant,
}

pub(crate) fn propagation(arguments: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        let proxies: Vec<SocketAddr> = CLUSTERS
            .iter()
            .map(|cluster| mesh.outbound(cluster, "frontend-1"))
            .collect::<Result<_>>()?;
        let (sender, seen) = channel();
        let done = AtomicBool::new(false);
        let mut times = scope(|scope| {
            for (cluster, &proxy) in proxies.iter().enumerate() {
                let (sender, done) = (sender.clone(), &done);
                scope.spawn(move || watch(cluster, proxy, done, &sender));
            }
            let times = write_all(mesh, arguments.writes, &seen);
            done.store(true, Ordering::Relaxed);
            times
        })?;
        let points = CLUSTERS.iter().zip(ROUND_TRIPS).zip(&mut times);
        Ok(points
            .map(|((cluster, round_trip), times)| {
                let median = quantile(times, 0.5).as_millis();
                let what = format!(
                    "p99 of {} writes, from 2xx in {AUTHORITY} to a proxy of {cluster} (median {median} ms)",
                    times.len()
                );
                let bound = BOUND + Duration::from_millis(round_trip);
                Point::at_most(what, quantile(times, 0.99), bound)
            })
            .collect())
    })
}

/// Asks a proxy again and again which rule it goes by, and tells each that is new.
fn watch(cluster: usize, proxy: SocketAddr, done: &AtomicBool, sender: &Sender<Seen>) {
    let mut newest = 0;
    while !done.load(Ordering::Relaxed) {
        let rule = http::get(proxy, URL, &[TELL]).ok().and_then(|reply| {
            let rule = reply.field("x-isthmus-rule")?.strip_prefix("rule-")?;
            rule.parse().ok()
        });
        let at = Instant::now();
        match rule {
            Some(rule) if rule > newest => {
                newest = rule;
                // Nobody listens any more: all has been seen.
                let _ = sender.send(Seen { cluster, rule, at });
            }
            _ => sleep(BETWEEN_ASKING),
        }
    }
}

/// The times of all writes, by cluster.
fn write_all(mesh: &Mesh, writes: usize, seen: &Receiver<Seen>) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::new(); CLUSTERS.len()];
    for rule in 1..=writes {
        let answered = write(mesh, rule)?;
        let mut missing = CLUSTERS.len();
        while missing > 0 {
            let next = seen.recv_timeout(LOST_AFTER);
            let next = next.during(|| format!("write {rule} is not seen by {missing} clusters"))?;
            if next.rule == rule {
                times[next.cluster].push(next.at.saturating_duration_since(answered));
                missing -= 1;
            }
        }
    }
    Ok(times)
}

/// Writes a rule of this number; when the API had answered.
fn write(mesh: &Mesh, rule: usize) -> Result<Instant> {
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: payment, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: payment}}]\n  rules:\n  \
         - name: rule-{rule}\n    backendRefs: [{{name: payment, port: 80}}]\n"
    );
    let path = mesh.write("route.yaml", &route)?;
    let mut command = mesh.command(&["--cluster", AUTHORITY, "apply", "-f"]);
    let mut child = command
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .during(|| "isthmus apply".to_owned())?;
    let output = child.stdout.take();
    let output = output.ok_or_else(|| Trouble("apply has no output".to_owned()))?;
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line);
    let answered = Instant::now();
    read.during(|| "isthmus apply".to_owned())?;
    let status = child.wait().during(|| "isthmus apply".to_owned())?;
    ensure(status.success() && line.contains("changed"), || {
        format!("write {rule}: {status}: {line}")
    })?;
    Ok(answered)
}
