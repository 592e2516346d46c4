//! Config that ten write at once through three clusters, while these and the links between them fail.

use std::time::Duration;

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::ordeal::Ordeal;
use isthmus_lab::point::Point;
use isthmus_lab::trouble::{Result, ensure, wait_for};

use super::{Arguments, CLUSTERS, on_mesh, vote, whole};

/// Whoever is away for longer has missed more than records are kept of.
const LONGEST: Duration = Duration::from_secs(8);
/// From the end of whatever was wrong until a write is accepted, and until all have the same.
const RECOVERED: Duration = Duration::from_secs(10);
const CONVERGED: Duration = Duration::from_secs(5);

pub(crate) fn config(arguments: &Arguments) -> Result<Vec<Point>> {
    let ordeal = Ordeal {
        seed: arguments.seed,
        faults: arguments.faults,
        longest: LONGEST,
        writes: arguments.writes,
    };
    on_mesh(|mesh| {
        vote(mesh)?;
        let mut number = 0;
        let outcome = ordeal.run(mesh, &CLUSTERS, |fault| {
            number += 1;
            eprintln!("{number:>3} of {}: {fault}", ordeal.faults);
        })?;
        for violation in outcome.violations.iter().take(20) {
            eprintln!("{violation}");
        }
        whole(mesh)?;
        let behind = wait_for("all proxies to have the last change", PATIENCE, || {
            behind(mesh)
        })?;
        let slowest = outcome.recovered.iter().max().copied().unwrap_or_default();
        Ok(vec![
            Point::none(
                format!(
                    "violations: of {} writes {} accepted, {} refused, {} unknown; {} faults; {} changes, told {} times, \
                     {} watches begun anew, {} writes shown late",
                    outcome.tried,
                    outcome.accepted,
                    outcome.refused,
                    outcome.unknown,
                    outcome.recovered.len(),
                    outcome.changes,
                    outcome.events,
                    outcome.relisted,
                    outcome.late,
                ),
                outcome.violations.len(),
                outcome.accepted,
            ),
            Point::at_most(
                "from the end of a fault until a write is accepted, slowest",
                slowest,
                RECOVERED,
            ),
            Point::at_most(
                "until all clusters have the same",
                outcome.converged,
                CONVERGED,
            ),
            Point::none("proxies without the last change", behind.0, behind.1),
        ])
    })
}

/// How many proxies are behind, of how many.
///
/// Errors: some are.
fn behind(mesh: &Mesh) -> Result<(usize, usize)> {
    let mut of = 0;
    for cluster in CLUSTERS {
        let status = mesh.json(&["--cluster", cluster, "status"])?;
        for proxy in status["proxies"].as_array().into_iter().flatten() {
            of += 1;
            let is_current = proxy["position"] == status["position"];
            ensure(
                is_current && proxy["rejected"] == serde_json::json!([]),
                || format!("{cluster} at {} has {proxy}", status["position"]),
            )?;
        }
    }
    Ok((0, of))
}
