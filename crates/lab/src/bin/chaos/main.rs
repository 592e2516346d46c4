//! `make chaos`: what the mesh survives, tried on real processes, again by a seed.
//!
//! A line per point, with its bound and what was measured; exit 1 if any is missed.

mod callers;
mod config;
mod expiry;
mod missed;
mod partitions;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::point::{Check, Point, go_through};
use isthmus_lab::trouble::{During, Result, wait_for};

/// Try what the mesh promises to survive.
#[derive(Debug, Parser)]
#[command(name = "chaos", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Only this; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = names())]
    only: Vec<String>,

    /// What goes wrong follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Writes of config that are tried while it does.
    #[arg(long, default_value_t = 100_000)]
    writes: usize,

    /// How often something goes wrong meanwhile.
    #[arg(long, default_value_t = 40)]
    faults: usize,
}

const CHECKS: [(&str, Check<Arguments>); 4] = [
    ("config", config::config),
    ("partitions", partitions::partitions),
    ("expiry", expiry::expiry),
    ("missed", missed::missed),
];

const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];

/// Clusters are ten times as near as in the example, so that more goes wrong in the middle of more.
const NEARER: [(&str, &str); 3] = [("140ms", "14ms"), ("220ms", "22ms"), ("120ms", "12ms")];

fn names() -> clap::builder::PossibleValuesParser {
    CHECKS.map(|(name, _)| name).into()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match go_through(&CHECKS, &arguments, &arguments.only) {
        0 => ExitCode::SUCCESS,
        missed => {
            let seed = arguments.seed;
            println!("{missed} missed; --seed {seed} goes through the same again");
            ExitCode::FAILURE
        }
    }
}

/// Runs `act` on the example's mesh, which makes no traffic of its own. Its logs are kept if a point is missed.
fn on_mesh(act: impl FnOnce(&Mesh) -> Result<Vec<Point>>) -> Result<Vec<Point>> {
    mesh_with(&[], act)
}

/// The same with changes of its files: the file, what stands there, and what is to.
fn mesh_with(
    edits: &[(&str, &str, &str)],
    act: impl FnOnce(&Mesh) -> Result<Vec<Point>>,
) -> Result<Vec<Point>> {
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/three-regions");
    let mut mesh = Mesh::of(&own.with_file_name("isthmus"), &example)?;
    for file in ["up.yaml", "mesh.yaml"] {
        for (long, short) in NEARER {
            mesh.edit(file, &format!("rtt: {long}"), &format!("rtt: {short}"))?;
        }
    }
    for (file, old, new) in edits {
        mesh.edit(file, old, new)?;
    }
    mesh.up(&["--quiet"])?;
    whole(&mesh)?;
    let points = act(&mesh)?;
    if points.iter().all(|point| point.held) {
        mesh.pass();
    }
    Ok(points)
}

/// All three accept config together.
fn vote(mesh: &Mesh) -> Result<()> {
    CLUSTERS[1..].iter().try_for_each(|cluster| {
        mesh.isthmus(&["authority", "add", cluster])?
            .expect(0)
            .map(drop)
    })
}

/// Waits until every cluster sees everything as it should be.
fn whole(mesh: &Mesh) -> Result<()> {
    CLUSTERS.iter().try_for_each(|cluster| {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))
    })
}
