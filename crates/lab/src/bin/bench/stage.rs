//! Everything that runs while it is measured: the mesh, the peers and their program; and the
//! processes that stand on each way.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, wait_for};

use crate::certificates::{self, Certificate};
use crate::load::Load;
use crate::machine::{self, Split};
use crate::peers::{self, Kept, Pair};
use crate::plan::{Entrant, Passes, Peer, Who};

type Name = (&'static str, &'static str);

const CALLER: Name = ("near", "caller-1");
const NEAR: Name = ("near", "near-1");
const WIDE_CALLER: Name = ("near", "wide-caller-1");
const WIDE: Name = ("near", "wide-1");
const GATEWAY: Name = ("far", "gateway-1");
const FAR: Name = ("far", "far-1");

/// What runs. Ends with this value.
#[derive(Debug)]
pub(crate) struct Stage {
    mesh: Option<Mesh>,
    pairs: Vec<Pair>,
    program: Kept,
    /// Last: what is above uses it.
    folder: Folder,
}

/// Files of the peers.
#[derive(Debug)]
struct Folder(PathBuf);

/// A way from the client to a program.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    pub(crate) host: &'static str,
    /// Where clients may keep files.
    pub(crate) folder: PathBuf,
    /// Where the way ends at a proxy: who the client is to it.
    pub(crate) credentials: Credentials,
    /// Requests per second.
    pub(crate) half_load: u32,
    /// Of each proxy and gateway all processes.
    proxies: Vec<Vec<Process>>,
    program: Option<Process>,
    /// This process; its children are clients too.
    client: Process,
    /// `up`, where it carries what goes between clusters, and stands for a network that is none.
    relay: Option<Process>,
}

/// What a client of mutual TLS shows and speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) certificate: Certificate,
    pub(crate) protocol: &'static str,
    /// Does the server say something first?
    pub(crate) greets: bool,
}

/// Processor time that was used until a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// Of each proxy and gateway on the way.
    pub(crate) proxies: Vec<Duration>,
    /// Of the workers of each of the mesh's.
    pub(crate) workers: Vec<Vec<Duration>>,
    /// Where there is one on the way.
    pub(crate) program: Option<Duration>,
    pub(crate) client: Duration,
    pub(crate) relay: Option<Duration>,
    /// The whole machine.
    pub(crate) machine: Duration,
}

impl Stage {
    /// Starts whoever takes part, proxies on one processor and programs on the other.
    pub(crate) fn start(whos: &[Who], envoy: &Path, split: Option<Split>) -> Result<Self> {
        let own = own_file()?;
        let folder =
            Folder(std::env::temp_dir().join(format!("isthmus-bench-{}", std::process::id())));
        peers::prepare(&folder.0)?;
        peers::unused(peers::PROGRAM)?;
        let mut program = Command::new(&own);
        program.args(["program", "--listen", &peers::PROGRAM.to_string()]);
        let program = Kept::start(&program, &folder.0, split.map(|it| it.load))?;
        let mut wanted: Vec<Peer> = whos.iter().filter_map(|who| who.peer()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let pairs = wanted
            .into_iter()
            .map(|peer| Pair::start(peer, &folder.0, envoy, split))
            .collect::<Result<_>>()?;
        let takes_mesh = whos.iter().any(|who| who.peer().is_none());
        Ok(Self {
            mesh: takes_mesh.then(|| start_mesh(&own, split)).transpose()?,
            pairs,
            program,
            folder,
        })
    }

    /// The way that leads through an entrant, once it has answered as it should.
    pub(crate) fn way(&self, load: Load, entrant: &Entrant) -> Result<Way> {
        let way = match entrant.who.peer() {
            Some(peer) => self.peers_way(peer, entrant)?,
            None => self.mesh_way(entrant)?,
        };
        wait_for(
            &format!("answers of {}", entrant.who.name()),
            PATIENCE,
            || load.check(&way),
        )?;
        Ok(way)
    }

    fn peers_way(&self, peer: Peer, entrant: &Entrant) -> Result<Way> {
        let pair = self.pairs.iter().find(|pair| pair.peer == peer);
        let pair = pair.ok_or_else(|| Trouble(format!("{peer:?} does not run")))?;
        let [out, inward] = pair.proxies()?;
        let (address, proxies) = match entrant.passes {
            Passes::Caller => (peer.caller(), vec![out]),
            Passes::All => (peer.caller(), vec![out, inward]),
            Passes::Callee => (peer.callee(), vec![inward]),
        };
        let program = match entrant.passes {
            Passes::Caller | Passes::All => Some(self.own_program()?),
            Passes::Callee => None,
        };
        let tls = self.folder.0.join("tls");
        Ok(Way {
            address: (address, entrant.port).into(),
            host: entrant.host,
            folder: self.folder.0.clone(),
            credentials: Credentials {
                certificate: Certificate {
                    chain: tls.join("out.pem"),
                    key: tls.join("out.key"),
                },
                protocol: "h2",
                greets: false,
            },
            half_load: 0,
            proxies,
            program,
            client: Process::with_id(std::process::id())?,
            relay: None,
        })
    }

    /// The program of the peers, which to the mesh is outside of it.
    fn own_program(&self) -> Result<Process> {
        let program = self.program.family()?.into_iter().next();
        program.ok_or_else(|| Trouble("the program has ended".to_owned()))
    }

    fn mesh_way(&self, entrant: &Entrant) -> Result<Way> {
        let mesh = self.mesh.as_ref();
        let mesh = mesh.ok_or_else(|| Trouble("the mesh does not run".to_owned()))?;
        let (names, crosses) = match (entrant.who, entrant.passes) {
            (Who::IsthmusWide, _) => (&[WIDE_CALLER, WIDE][..], false),
            (Who::IsthmusCross, _) => (&[CALLER, GATEWAY, FAR][..], true),
            (_, Passes::Callee) => (&[NEAR][..], false),
            (_, Passes::Caller) => (&[CALLER][..], false),
            (_, Passes::All) => (&[CALLER, NEAR][..], false),
        };
        let proxies = names.iter();
        let proxies = proxies.map(|(cluster, name)| Ok(vec![mesh.process(cluster, name)?]));
        let first = names.first().copied().unwrap_or(CALLER);
        let last = names.last().copied().unwrap_or(NEAR);
        let program = match entrant.passes {
            Passes::Caller => self.own_program().map(Some),
            Passes::All => program(mesh, last).map(Some),
            Passes::Callee => Ok(None),
        };
        Ok(Way {
            address: (mesh.address(first.0, first.1)?, entrant.port).into(),
            host: entrant.host,
            folder: self.folder.0.clone(),
            credentials: Credentials {
                certificate: workload_certificate(mesh, &self.folder.0.join("tls"))?,
                protocol: "isthmus/1",
                greets: true,
            },
            half_load: 0,
            proxies: proxies.collect::<Result<_>>()?,
            program: program?,
            client: Process::with_id(std::process::id())?,
            relay: crosses.then(|| mesh.supervisor()).transpose()?,
        })
    }

    /// What says its version.
    pub(crate) fn versions(&self, envoy: &Path) -> Result<Vec<String>> {
        let mut versions = Vec::new();
        if let Some(mesh) = &self.mesh {
            let said = mesh.isthmus(&["--version"])?.expect(0)?;
            versions.push(said.out.trim().to_owned());
        }
        for pair in &self.pairs {
            versions.push(pair.peer.version(envoy)?);
        }
        Ok(versions)
    }

    /// What the mesh's proxies say of what they have refused so far.
    pub(crate) fn refusals(&self) -> String {
        let said = |&(cluster, process): &Name| {
            let admin = self.mesh.as_ref()?.admin(cluster, process).ok()?;
            let page = http::get(admin, "/metrics", &[]).ok()?.text();
            let is_refusal = |line: &&str| {
                line.starts_with("isthmus_requests_total") && !line.contains("refusal=\"\"")
            };
            let lines = page.lines().filter(is_refusal);
            Some(lines.fold(String::new(), |text, line| text + "  " + line + "\n"))
        };
        [CALLER, NEAR, WIDE_CALLER, WIDE, FAR]
            .iter()
            .filter_map(said)
            .collect()
    }

    /// All was measured: the mesh's logs are not needed.
    pub(crate) fn pass(self) {
        if let Some(mesh) = self.mesh {
            mesh.pass();
        }
    }
}

/// Starts the mesh on the processor that is for it, and its programs on the other.
fn start_mesh(own: &Path, split: Option<Split>) -> Result<Mesh> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/mesh");
    let mut mesh = Mesh::of(&own.with_file_name("isthmus"), &files)?;
    mesh.edit("up.yaml", "BENCH", &own.display().to_string())?;
    machine::on(split.map(|it| it.mesh), || mesh.up(&[]))?;
    for cluster in ["near", "far"] {
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole(cluster))?;
    }
    if let Some(split) = split {
        for workload in [NEAR, WIDE, FAR] {
            machine::keep_process_to(&program(&mesh, workload)?, split.load)?;
        }
    }
    Ok(mesh)
}

/// A certificate of the caller's account, issued as the cluster issues those of its workloads.
fn workload_certificate(mesh: &Mesh, folder: &Path) -> Result<Certificate> {
    let control = mesh.home().join("clusters").join(CALLER.0).join("control");
    let cluster = Certificate {
        chain: control.join("cluster.pem"),
        key: control.join("cluster.key"),
    };
    let name = "URI:spiffe://bench.mesh/ns/bench/sa/caller";
    let leaf = certificates::leaf(folder, &cluster, "caller", name)?;
    let read = |path: &Path| fs::read_to_string(path).during(|| path.display().to_string());
    let chain = folder.join("caller.chain");
    let text = read(&leaf.chain)? + &read(&cluster.chain)?;
    fs::write(&chain, text).during(|| chain.display().to_string())?;
    Ok(Certificate { chain, ..leaf })
}

impl Way {
    /// All processes of all proxies and gateways.
    pub(crate) fn all_proxies(&self) -> Vec<&Process> {
        self.proxies.iter().flatten().collect()
    }

    /// Bytes of memory of each proxy.
    pub(crate) fn resident(&self) -> Result<Vec<u64>> {
        let family = |processes: &Vec<Process>| {
            let each = processes.iter().map(Process::resident);
            each.sum::<Result<_>>()
        };
        self.proxies.iter().map(family).collect()
    }

    /// What has been used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let family =
            |processes: &Vec<Process>| processes.iter().map(Process::cpu).sum::<Result<_>>();
        let workers = self.all_proxies().into_iter().map(Process::workers_cpu);
        Ok(Usage {
            at: Instant::now(),
            workers: workers.collect::<Result<_>>()?,
            proxies: self.proxies.iter().map(family).collect::<Result<_>>()?,
            program: self.program.as_ref().map(Process::cpu).transpose()?,
            client: self.client.cpu()? + self.client.children_cpu()?,
            relay: self.relay.as_ref().map(Process::cpu).transpose()?,
            machine: machine::busy()?,
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing but what was made here is in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program beside a workload's proxy: this one in another role.
fn program(mesh: &Mesh, (cluster, workload): Name) -> Result<Process> {
    let own = own_file()?.display().to_string();
    let family = mesh.process(cluster, workload)?.family()?;
    let mut processes = family.into_iter();
    processes
        .find(|process| process.command.first() == Some(&own))
        .ok_or_else(|| Trouble(format!("{cluster}/{workload} has no program")))
}

fn own_file() -> Result<PathBuf> {
    std::env::current_exe().during(|| "finding this program's own file".to_owned())
}
