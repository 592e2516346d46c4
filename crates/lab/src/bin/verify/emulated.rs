//! Meshes whose programs have a known capacity ([`capacity`](../../capacity.rs)), and how to change it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::open_loop::{Call, Order};
use isthmus_lab::series::table;
use isthmus_lab::trouble::{Result, Trouble, wait_for};
use serde_json::Value;

use super::{Arguments, Point, mesh_of};

/// Requests per second that a workload of these meshes can serve: five workers, 100 ms each.
pub(crate) const WORKLOAD_RATE: f64 = 50.0;
const PORT: u16 = 8080;

/// The programs of one cluster.
pub(crate) struct Emulated(Vec<SocketAddr>);

impl Emulated {
    /// Of the workloads `work-1`, `work-2` and so on.
    pub(crate) fn of(mesh: &Mesh, cluster: &str, count: usize) -> Result<Self> {
        let program = |number| {
            let address = mesh.address(cluster, &format!("work-{number}"))?;
            Ok((address, PORT).into())
        };
        (1..=count).map(program).collect::<Result<_>>().map(Self)
    }

    /// Changes all of them, as `concurrency=3&service=190`.
    pub(crate) fn change(&self, how: &str) -> Result<()> {
        (0..self.0.len()).try_for_each(|index| self.change_one(index, how))
    }

    pub(crate) fn change_one(&self, index: usize, how: &str) -> Result<()> {
        self.ask(index, how).map(drop)
    }

    /// The most that ever waited in one of them.
    pub(crate) fn most_waiting(&self) -> Result<u64> {
        let mut most = 0;
        for index in 0..self.0.len() {
            most = most.max(self.ask(index, "")?["mostWaiting"].as_u64().unwrap_or(0));
        }
        Ok(most)
    }

    fn ask(&self, index: usize, how: &str) -> Result<Value> {
        let address = self.0.get(index);
        let address = *address.ok_or_else(|| Trouble(format!("no program {index}")))?;
        let url = format!("http://{address}/capacity?{how}");
        http::get(address, &url, &[])?.expect(200)?.json()
    }
}

/// Runs `act` on a mesh of `crates/lab/meshes` that is up and whole, and in which every caller has
/// been answered once.
pub(crate) fn on_emulated(
    name: &str,
    edits: &[(&str, &str)],
    callers: &[(&str, &str)],
    act: impl FnOnce(&Mesh) -> Result<Vec<Point>>,
) -> Result<Vec<Point>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("meshes");
    let mut mesh = mesh_of(&folder.join(name))?;
    for (old, new) in edits {
        mesh.edit("up.yaml", old, new)?;
    }
    mesh.up(&[])?;
    for (cluster, caller) in callers {
        let outbound = mesh.outbound(cluster, caller)?;
        wait_for("a caller to be answered", PATIENCE, || {
            http::get(outbound, &format!("http://{HOST}/"), &[])?.expect(200)
        })?;
    }
    let points = act(&mesh)?;
    if points.iter().all(|point| point.held) {
        mesh.pass();
    }
    Ok(points)
}

const HOST: &str = "work.load.mesh";

/// A load on the service of these meshes, by callers that take turns.
pub(crate) fn order(
    arguments: &Arguments,
    mesh: &Mesh,
    name: &str,
    callers: &[(&str, &str)],
    phases: Vec<(Duration, f64)>,
) -> Result<Order> {
    let outbound = callers
        .iter()
        .map(|(cluster, caller)| mesh.outbound(cluster, caller));
    let mixed = name.bytes().fold(arguments.seed, |mixed, byte| {
        mixed.wrapping_mul(31).wrapping_add(byte.into())
    });
    Ok(Order {
        name: name.to_owned(),
        callers: outbound.collect::<Result<_>>()?,
        host: HOST.to_owned(),
        phases,
        seed: mixed,
        high: None,
        // Longer than any timeout of the mesh: what is to be seen is what the mesh says.
        patience: Duration::from_secs(10),
    })
}

/// The first requests that failed, and every second of a load if that was asked for.
pub(crate) fn show(arguments: &Arguments, name: &str, calls: &[Call]) {
    for call in calls.iter().filter(|call| !call.is_ok()).take(10) {
        eprintln!("{}", call.told());
    }
    let lost = |call: &&Call| call.high && !call.is_ok();
    for call in calls.iter().filter(lost).take(10) {
        eprintln!("of high priority: {}", call.told());
    }
    if arguments.series {
        eprint!("{}", table(name, calls));
    }
}
