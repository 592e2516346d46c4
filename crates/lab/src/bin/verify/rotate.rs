//! Clusters get new keys, processes new certificates and the mesh new roots, again and again, while requests run and
//! processes restart.

use std::time::{Duration, Instant};

use isthmus_lab::mesh::Mesh;
use isthmus_lab::trouble::{Result, ensure};

use super::load::Load;
use super::{Arguments, CLUSTERS, Point, on_quiet_mesh, whole};

/// GETs a second to each service.
const RATE: u32 = 200;
/// From the command until all three clusters issue by new keys and all their processes have certificates of these.
const BOUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 20;
/// From one root to the next: five of these seconds are what connections have to leave the old one.
const ROOT_BOUND: Duration = Duration::from_secs(15);
const ROOTS: usize = 4;
/// Processes whose successor shakes hands anew, with what the rotation before has left.
const RESTARTED: [[&str; 3]; 4] = [
    ["gateway", "restart", "us-west/gateway-1"],
    ["proxy", "restart", "eu-central/catalog-1"],
    ["gateway", "restart", "ap-south/gateway-2"],
    ["proxy", "restart", "us-west/payment-1"],
];
/// Why a handshake is refused, as `isthmus_tls_refused_total` says.
const REFUSED: &str = "isthmus_tls_refused_total";
const SHAKEN: &str = "isthmus_tls_handshakes_total";

pub(crate) fn rotate(_: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        let loads = ["payment", "catalog"].map(|service| Load::start(mesh, service, "GET", RATE));
        let mut slowest = Duration::ZERO;
        for round in 0..ROUNDS {
            let begin = Instant::now();
            mesh.isthmus(&["rotate", "start", "intermediate"])?
                .expect(0)?;
            slowest = slowest.max(begin.elapsed());
            mesh.isthmus(&RESTARTED[round % RESTARTED.len()])?
                .expect(0)?;
        }
        let mut slowest_root = Duration::ZERO;
        for round in 0..ROOTS {
            let begin = Instant::now();
            for verb in [&["rotate", "start", "root"][..], &["rotate", "finish"]] {
                mesh.isthmus(verb)?.expect(0)?;
            }
            slowest_root = slowest_root.max(begin.elapsed());
            mesh.isthmus(&RESTARTED[round % RESTARTED.len()])?
                .expect(0)?;
        }
        whole(mesh)?;
        let mut points = vec![
            Point::at_most(
                format!("the slowest of {ROUNDS} rotations of all keys and certificates of a mesh"),
                slowest,
                BOUND,
            ),
            Point::at_most(
                format!("the slowest of {ROOTS} rotations of its root, from start to finish"),
                slowest_root,
                ROOT_BOUND,
            ),
        ];
        for load in loads {
            let loaded = load?.finish()?;
            let failed = loaded.requests.iter();
            let failed = failed.filter(|request| request.failed.is_some()).count();
            let what = "GETs that failed meanwhile";
            points.push(Point::none(what, failed, loaded.requests.len()));
        }
        let (refused, shaken) = handshakes(mesh)?;
        points.push(Point::none("handshakes that were refused", refused, shaken));
        Ok(points)
    })
}

/// Of the proxies and gateways that run now: refused ones, and all.
fn handshakes(mesh: &Mesh) -> Result<(usize, usize)> {
    let (mut refused, mut shaken) = (0, 0);
    for (cluster, process, _) in mesh.running()? {
        if process == "control" {
            continue;
        }
        let of = (&*cluster, &*process);
        refused += count(mesh.metric(of, REFUSED, &[])?);
        shaken += count(mesh.metric(of, SHAKEN, &[])?);
    }
    ensure(shaken > 0, || {
        format!("nobody has shaken hands in {}", CLUSTERS.join(", "))
    })?;
    Ok((refused, shaken + refused))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and small"
)]
fn count(counter: f64) -> usize {
    counter as usize
}
