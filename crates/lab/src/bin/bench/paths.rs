//! The mesh of the measurement, the four ways to the program, and the processes that stand on them.

use std::time::Duration;

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, wait_for};

use crate::client::{self, Load, Target};
use crate::machine::{self, Split};

/// A way from the client to a program.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// Cluster and process whose outbound half the client calls; `None`: it calls the program.
    caller: Option<(&'static str, &'static str)>,
    host: &'static str,
    /// Proxies and gateways on the way, that of the program last.
    proxies: &'static [(&'static str, &'static str)],
    /// Does it cross the relay between the clusters?
    pub(crate) crosses: bool,
}

const CALLER: (&str, &str) = ("near", "caller-1");
const NEAR: (&str, &str) = ("near", "near-1");
const GATEWAY: (&str, &str) = ("far", "gateway-1");
const FAR: (&str, &str) = ("far", "far-1");
/// Where each program listens.
const PROGRAM_PORT: u16 = 8080;

/// The first one is what the others are compared with.
pub(crate) const WAYS: [Way; 4] = [
    Way {
        name: "direct",
        what: "client → program",
        caller: None,
        host: "near.bench.mesh",
        proxies: &[],
        crosses: false,
    },
    Way {
        name: "one proxy",
        what: "client → proxy of the program's own workload → program: a workload that calls its own service, so \
               that one process is caller's and callee's proxy. No way through the mesh goes without mutual TLS: \
               here it is spoken between the two halves of that process",
        caller: Some(NEAR),
        host: "near.bench.mesh",
        proxies: &[NEAR],
        crosses: false,
    },
    Way {
        name: "pair",
        what: "client → caller's proxy → mutual TLS → callee's proxy → program, in one cluster",
        caller: Some(CALLER),
        host: "near.bench.mesh",
        proxies: &[CALLER, NEAR],
        crosses: false,
    },
    Way {
        name: "cross-cluster",
        what: "client → caller's proxy → relay → gateway of the other cluster → callee's proxy → program: mutual \
               TLS between the proxies inside mutual TLS to the gateway",
        caller: Some(CALLER),
        host: "far.bench.mesh",
        proxies: &[CALLER, GATEWAY, FAR],
        crosses: true,
    },
];

/// A way in a mesh that runs.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) way: &'static Way,
    pub(crate) target: Target,
    proxies: Vec<Process>,
    program: Process,
    /// This process.
    client: Process,
    /// `up`: it carries what goes between clusters, and stands for a network that is none.
    relay: Process,
}

/// Processor time that was used until a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of each proxy and gateway on the way.
    pub(crate) proxies: Vec<Duration>,
    pub(crate) program: Duration,
    pub(crate) client: Duration,
    pub(crate) relay: Duration,
    /// The whole machine.
    pub(crate) machine: Duration,
}

/// Starts the mesh on the processor that is for it, and its programs on the other.
pub(crate) fn start(split: Option<Split>) -> Result<Mesh> {
    let own = own_file()?;
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let mut mesh = Mesh::of(&own.with_file_name("isthmus"), &files)?;
    mesh.edit("up.yaml", "BENCH", &own.display().to_string())?;
    if let Some(split) = split {
        machine::keep_to(split.mesh)?;
    }
    mesh.up(&[])?;
    for cluster in ["near", "far"] {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))?;
    }
    if let Some(split) = split {
        machine::keep_to(split.load)?;
        for workload in [NEAR, FAR] {
            machine::keep_process_to(&program(&mesh, workload)?, split.load)?;
        }
    }
    Ok(mesh)
}

/// All ways, each of which has answered.
pub(crate) fn find(mesh: &Mesh) -> Result<Vec<Path>> {
    let look = Load {
        connections: 1,
        warm_up: Duration::from_millis(200),
        duration: Duration::ZERO,
    };
    let paths: Vec<Path> = WAYS
        .iter()
        .map(|way| Path::of(mesh, way))
        .collect::<Result<_>>()?;
    for path in &paths {
        wait_for(&format!("answers, {}", path.way.name), PATIENCE, || {
            client::run(&path.target, look, || Ok(())).map(drop)
        })?;
    }
    Ok(paths)
}

impl Way {
    /// Is there no proxy on it?
    pub(crate) fn is_direct(&self) -> bool {
        self.proxies.is_empty()
    }
}

impl Path {
    fn of(mesh: &Mesh, way: &'static Way) -> Result<Self> {
        let callee = way.proxies.last().copied().unwrap_or(NEAR);
        let address = match way.caller {
            Some((cluster, process)) => mesh.outbound(cluster, process)?,
            None => (mesh.address(callee.0, callee.1)?, PROGRAM_PORT).into(),
        };
        let proxies = way.proxies.iter();
        let proxies = proxies.map(|(cluster, process)| mesh.process(cluster, process));
        Ok(Self {
            way,
            target: Target::new(address, way.host),
            proxies: proxies.collect::<Result<_>>()?,
            program: program(mesh, callee)?,
            client: Process::with_id(std::process::id())?,
            relay: mesh.supervisor()?,
        })
    }

    /// What has been used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            proxies: self
                .proxies
                .iter()
                .map(Process::cpu)
                .collect::<Result<_>>()?,
            program: self.program.cpu()?,
            client: self.client.cpu()?,
            relay: self.relay.cpu()?,
            machine: machine::busy()?,
        })
    }
}

/// The program beside a workload's proxy: this one in another role.
fn program(mesh: &Mesh, (cluster, workload): (&str, &str)) -> Result<Process> {
    let own = own_file()?.display().to_string();
    let family = mesh.process(cluster, workload)?.family()?;
    let mut processes = family.into_iter();
    processes
        .find(|process| process.command.first() == Some(&own))
        .ok_or_else(|| Trouble(format!("{cluster}/{workload} has no program")))
}

fn own_file() -> Result<std::path::PathBuf> {
    std::env::current_exe().during(|| "finding this program's own file".to_owned())
}
