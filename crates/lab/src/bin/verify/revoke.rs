//! A caller, a workload and a cluster are revoked while requests run over warm sessions: how long anybody goes
//! on believing them.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, Trouble, ensure, wait_for};

use super::load::{Load, Loaded, Request};
use super::{Arguments, CLUSTERS, Point, on_quiet_mesh, whole};

/// GETs a second to each service.
const RATE: u32 = 200;
/// From the command to the last request that is still answered.
const BOUND: Duration = Duration::from_secs(5);
/// How long each state is held: more than that.
const HOLD: Duration = Duration::from_secs(7);

pub(crate) fn revoke(_: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        for cluster in &CLUSTERS[1..] {
            mesh.isthmus(&["authority", "add", cluster])?.expect(0)?;
        }
        whole(mesh)?;
        // Its calls end in its own cluster.
        let near = Load::start(mesh, "payment", "GET", RATE)?;
        let caller = wait_for("the caller to be connected", PATIENCE, || caller(mesh))?;
        // Its calls go to another one: payment runs everywhere, catalog in the other two.
        let far = Load::start(mesh, "catalog", "GET", RATE)?;
        sleep(HOLD);

        let begin = SystemTime::now();
        let caller = format!("{}/{caller}", CLUSTERS[0]);
        mesh.isthmus(&["revoke", "process", &caller])?.expect(0)?;
        sleep(HOLD);
        let near = near.finish()?;
        let mut points = vec![last(
            "from the revocation of a caller to the last request of its that is answered",
            &near,
            begin,
            |_| true,
        )?];

        let begin = SystemTime::now();
        let workload = format!("{}/catalog-1", CLUSTERS[1]);
        mesh.isthmus(&["revoke", "process", &workload])?.expect(0)?;
        sleep(HOLD);
        let alone = SystemTime::now();
        mesh.isthmus(&["revoke", "cluster", CLUSTERS[2]])?
            .expect(0)?;
        sleep(HOLD);
        let far = far.finish()?;
        let by = |cluster: &'static str| {
            move |request: &Request| request.cluster.as_deref() == Some(cluster)
        };
        points.push(last(
            "from the revocation of a workload to the last request that it answers",
            &far,
            begin,
            by(CLUSTERS[1]),
        )?);
        let until = alone.duration_since(far.started()).unwrap_or_default();
        let meanwhile = far.requests.iter().filter(|request| request.due < until);
        let failed = meanwhile.clone().filter(|request| request.failed.is_some());
        points.push(Point::none(
            "GETs that failed while another cluster could answer",
            failed.count(),
            meanwhile.count(),
        ));
        points.push(last(
            "from the removal of a cluster that votes to the last request that it answers",
            &far,
            alone,
            by(CLUSTERS[2]),
        )?);
        Ok(points)
    })
}

/// The load's own proxy, as its control plane lists it.
fn caller(mesh: &Mesh) -> Result<String> {
    let status = mesh.json(&["--cluster", CLUSTERS[0], "status"])?;
    let mut proxies = status["proxies"].as_array().into_iter().flatten();
    let is_load = |identity: &str| identity.ends_with("/sa/load");
    let found = proxies.find(|proxy| proxy["identity"].as_str().is_some_and(is_load));
    let name = found.and_then(|proxy| proxy["process"].as_str());
    let name =
        name.ok_or_else(|| Trouble(format!("no proxy of a load in {}", status["proxies"])))?;
    Ok(name.to_owned())
}

/// How long after `begin` the last request was due that was answered and is meant; there were some before.
fn last(
    what: &str,
    loaded: &Loaded,
    begin: SystemTime,
    is_meant: impl Fn(&Request) -> bool,
) -> Result<Point> {
    let begin = begin.duration_since(loaded.started()).unwrap_or_default();
    let answered = loaded.requests.iter();
    let answered = answered.filter(|request| request.failed.is_none() && is_meant(request));
    let (before, after): (Vec<_>, Vec<_>) = answered.partition(|request| request.due < begin);
    ensure(!before.is_empty(), || {
        format!("{what}: none was answered before")
    })?;
    let end = loaded.requests.iter().map(|request| request.due).max();
    ensure(end.is_some_and(|end| end > begin + BOUND), || {
        format!("{what}: no request was due at the end of the bound")
    })?;
    let last = after
        .iter()
        .map(|request| request.due.saturating_sub(begin));
    let last = last.max();
    Ok(Point::at_most(what, last.unwrap_or_default(), BOUND))
}
