//! `make verify`: the timed points of acceptance, each with its bound and what was measured.
//!
//! Every check has a mesh of its own, most of them made of `examples/three-regions`, and looks at it
//! only as a user could. A line per point; exit 1 if any is missed. It takes a machine that is otherwise
//! idle: what is measured is wall-clock time.

mod abuse;
mod authority;
mod beside;
mod controls;
mod durability;
mod emulated;
mod gateway;
mod idle;
mod load;
mod losses;
mod memory;
mod overload;
mod propagation;
mod relearn;
mod restarts;
mod revoke;
mod rotate;
mod slow;
mod storm;
mod surge;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::point::{Check, go_through};
pub(crate) use isthmus_lab::point::{Point, seconds};
use isthmus_lab::trouble::{During, Result, wait_for};

/// Measure what the mesh promises about time.
#[derive(Debug, Parser)]
#[command(name = "verify", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Only this check; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = names())]
    only: Vec<String>,

    /// Runs under load in which each cluster is lost and returns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Config writes whose way to the proxies is timed.
    #[arg(long, default_value_t = 500)]
    writes: usize,

    /// Kills of a control plane that is being written to.
    #[arg(long, default_value_t = 200)]
    kills: usize,

    /// What requests arrive when, in the checks with emulated capacity, follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Print every second of the loads of these checks.
    #[arg(long)]
    series: bool,
}

const CHECKS: [(&str, Check<Arguments>); 19] = [
    ("start", idle::start),
    ("idle", idle::idle),
    ("propagation", propagation::propagation),
    ("catalog", losses::catalog),
    ("payment", losses::payment),
    ("restarts", restarts::restarts),
    ("slow", slow::slow),
    ("memory", memory::memory),
    ("surge", surge::surge),
    ("overload", overload::overload),
    ("relearn", relearn::relearn),
    ("gateway", gateway::gateway),
    ("abuse", abuse::abuse),
    ("storm", storm::storm),
    ("controls", controls::controls),
    ("durability", durability::durability),
    ("authority", authority::authority),
    ("revoke", revoke::revoke),
    ("rotate", rotate::rotate),
];

fn names() -> clap::builder::PossibleValuesParser {
    CHECKS.map(|(name, _)| name).into()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match go_through(&CHECKS, &arguments, &arguments.only) {
        0 => ExitCode::SUCCESS,
        missed => {
            println!("{missed} missed");
            ExitCode::FAILURE
        }
    }
}

pub(crate) const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];
/// The cluster whose control plane accepts config.
pub(crate) const AUTHORITY: &str = "us-west";

/// The mesh of the example, not started. The binary is the one beside this program.
pub(crate) fn mesh() -> Result<Mesh> {
    mesh_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/three-regions"))
}

/// A mesh of the files in `folder`.
pub(crate) fn mesh_of(folder: &Path) -> Result<Mesh> {
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    Mesh::of(&own.with_file_name("isthmus"), folder)
}

/// Runs `act` on a mesh that is up and makes no traffic of its own. Its logs are kept if a point
/// is missed.
pub(crate) fn on_quiet_mesh(act: impl FnOnce(&Mesh) -> Result<Vec<Point>>) -> Result<Vec<Point>> {
    let mut mesh = mesh()?;
    mesh.up(&["--quiet"])?;
    let points = act(&mesh)?;
    if points.iter().all(|point| point.held) {
        mesh.pass();
    }
    Ok(points)
}

/// Waits until every cluster sees everything as it should be.
pub(crate) fn whole(mesh: &Mesh) -> Result<()> {
    CLUSTERS.iter().try_for_each(|cluster| {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))
    })
}

/// The smallest of `times` that at least `share` of them are not longer than (nearest rank).
pub(crate) fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a count is a count"
    )]
    let rank = (times.len() as f64 * share).ceil() as usize;
    let index = rank.clamp(1, times.len().max(1)) - 1;
    times.get(index).copied().unwrap_or_default()
}

/// A file of a check, beside the logs and kept as they are.
pub(crate) fn scratch(mesh: &Mesh, name: &str) -> PathBuf {
    mesh.home().join("logs").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = |list: &[u64]| -> Vec<Duration> {
            list.iter().map(|&ms| Duration::from_millis(ms)).collect()
        };
        for (list, share, expect) in [
            (&[3, 1, 2][..], 0.5, 2),
            (&[3, 1, 2], 0.99, 3),
            (&[3, 1, 2], 0.0, 1),
            (&[], 0.5, 0),
        ] {
            let found = quantile(&mut times(list), share);
            assert_eq!(found, Duration::from_millis(expect), "{list:?} {share}");
        }
    }
}
