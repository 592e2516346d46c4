//! A workload that comes into the mesh and leaves it again, as anybody's would: by `isthmus run`.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use isthmus_lab::mesh::PATIENCE;
use isthmus_lab::processes::Process;
use isthmus_lab::traffic::Scene;
use isthmus_lab::traffic::program::HTTP1;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, trouble, wait_for};

/// One more workload of `near` in west. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Guest(Child);

impl Guest {
    /// Starts `program` and waits until its cluster knows one workload more, all of them healthy.
    pub(crate) fn come(scene: &Scene, program: &Path) -> Result<Self> {
        let before = workloads(scene)?.1;
        let address = address(scene)?.to_string();
        let log = scene.mesh.home().join("logs/guest.log");
        let during = || log.display().to_string();
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.during(during)?;
        let errors = output.try_clone().during(during)?;
        let mut command = scene.mesh.command(&["run", "--cluster", "west"]);
        command
            .args(["--service", "soak/near", "--port", &HTTP1.to_string()])
            .args(["--program-address", &address, "--"])
            .arg(program)
            .args(["serve", "--address", &address, "--journal"])
            .arg(&scene.journal)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let mut guest = Self(command.spawn().during(|| "isthmus run".to_owned())?);
        wait_for("a workload to have come", PATIENCE, || {
            let ended = guest.0.try_wait().during(|| "isthmus run".to_owned())?;
            ensure(ended.is_none(), || format!("it has ended: {ended:?}"))?;
            let (healthy, all) = workloads(scene)?;
            ensure(all == before + 1 && healthy == all, || {
                format!("{healthy} of {all} are healthy, {before} were there before")
            })
        })?;
        Ok(guest)
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) fn leave(mut self) -> Result<()> {
        Process::with_id(self.0.id())?.terminate()?;
        wait_for("a workload to have left", 2 * PATIENCE, || {
            let ended = self.0.try_wait().during(|| "isthmus run".to_owned())?;
            ended.ok_or_else(|| Trouble("it still runs".to_owned()))
        })
        .map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has left, or something has failed and nobody wants it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many workloads of `near` its cluster sees healthy, and how many at all.
fn workloads(scene: &Scene) -> Result<(u64, u64)> {
    let status = scene.mesh.json(&["--cluster", "west", "status"])?;
    let mut services = status["services"].as_array().into_iter().flatten();
    let near = services.find(|service| service["name"] == "soak/near" || service["name"] == "near");
    let shares = near.and_then(|near| near["clusters"].as_array());
    let mut shares = shares.into_iter().flatten();
    let west = shares.find(|share| share["cluster"] == "west");
    let number = |name| west.and_then(|share| share[name].as_u64());
    match (number("healthy"), number("total")) {
        (Some(healthy), Some(total)) => Ok((healthy, total)),
        _ => trouble(format!("no workloads of near in {status}")),
    }
}

/// An address of the mesh that none of its processes has.
fn address(scene: &Scene) -> Result<IpAddr> {
    match scene.mesh.address("west", "near-1")? {
        IpAddr::V4(taken) => {
            let [a, b, c, _] = taken.octets();
            Ok(IpAddr::from([a, b, c, 240]))
        }
        IpAddr::V6(_) => trouble("`up` gives IPv4 addresses"),
    }
}
