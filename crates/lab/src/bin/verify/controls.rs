//! All control planes are killed under load, and a proxy is restarted while they are away.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, ensure, wait_for};

use super::load::{Load, Loaded};
use super::{Arguments, CLUSTERS, Point, on_quiet_mesh, whole};

/// GETs a second to each service.
const RATE: u32 = 200;
/// How long each state is held.
const HOLD: Duration = Duration::from_secs(6);
/// In one of the two clusters that run catalog, the nearer to the caller: its only workload there.
const RESTARTED: (&str, &str) = (CLUSTERS[1], "catalog-1");
/// After a restart the cluster gets its share back within the slow start.
const RETURNED: Duration = Duration::from_secs(14);
const LAST: Duration = Duration::from_secs(3);

pub(crate) fn controls(_: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        let services = ["catalog", "payment"];
        let loads: Vec<Load> = services
            .iter()
            .map(|service| Load::start(mesh, service, "GET", RATE))
            .collect::<Result<_>>()?;
        sleep(HOLD);
        mesh.isthmus(&["control", "kill", "--all"])?.expect(0)?;
        sleep(HOLD);
        mesh.isthmus(&["status"])?.expect(4)?;
        restart(mesh)?;
        sleep(RETURNED);
        let before_return = SystemTime::now() - LAST;
        mesh.isthmus(&["control", "start", "--all"])?.expect(0)?;
        whole(mesh)?;
        sleep(HOLD);
        let mut points = Vec::new();
        for (service, load) in services.iter().zip(loads) {
            let loaded = load.finish()?;
            points.push(without_failure(service, &loaded));
            if *service == "catalog" {
                points.push(serves_again(&loaded, before_return));
            }
        }
        Ok(points)
    })
}

/// Kills a proxy; whoever runs it starts it again, and there is nobody to ask but its snapshot.
fn restart(mesh: &Mesh) -> Result<()> {
    let (cluster, name) = RESTARTED;
    let before = mesh.process(cluster, name)?;
    before.kill()?;
    wait_for("a proxy to be started again", PATIENCE, || {
        let now = mesh.process(cluster, name)?;
        ensure(now.pid != before.pid, || "it is the old one".to_owned())
    })
}

fn without_failure(service: &str, loaded: &Loaded) -> Point {
    let failures = loaded.failures();
    for failure in failures.iter().take(10) {
        eprintln!("{failure}");
    }
    Point::none(
        format!("GETs to shop/{service} that failed while all control planes were away"),
        failures.len(),
        loaded.requests.len(),
    )
}

fn serves_again(loaded: &Loaded, from: SystemTime) -> Point {
    let (cluster, name) = RESTARTED;
    let served = loaded.served(from, LAST);
    let count = served.get(cluster).copied().unwrap_or(0);
    Point {
        held: count > 0,
        what: format!(
            "requests that {cluster}/{name} served from its snapshot in {} s, no control plane there",
            LAST.as_secs()
        ),
        measured: format!("{count}"),
        bound: "some".to_owned(),
    }
}
