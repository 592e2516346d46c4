//! etcd: three members, one in each cluster, whose raft goes through the mesh.

use std::net::SocketAddr;
use std::process::Command;

use isthmus_lab::mesh::PATIENCE;
use isthmus_lab::trouble::{Result, ensure, wait_for};

use super::{Scene, succeed};

const CLUSTERS: [&str; 3] = ["west", "east", "south"];
const CLIENT_PORT: u16 = 2379;
/// A port of the program in west that leads to the member in east.
const EAST_PORT: u16 = 2389;
const WRITES: usize = 50;

/// Talks to the member at `address`, directly.
fn etcdctl(address: SocketAddr, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=http://{address}"))
        .arg("--command-timeout=5s")
        .args(arguments);
    for name in ["HTTP_PROXY", "http_proxy"] {
        command.env_remove(name);
    }
    Ok(succeed(&mut command)?.out.trim().to_owned())
}

/// The member in `cluster`, without the mesh.
fn member(scene: &Scene, cluster: &str) -> Result<SocketAddr> {
    let address = scene.mesh.address(cluster, &format!("etcd-{cluster}-1"))?;
    Ok((address, CLIENT_PORT).into())
}

fn read(scene: &Scene, cluster: &str, key: &str) -> Result<String> {
    let get = ["get", "--print-value-only", key];
    etcdctl(member(scene, cluster)?, &get)
}

/// Writes through the member in `cluster`, each key once.
fn write(scene: &Scene, cluster: &str, prefix: &str) -> Result<()> {
    let address = member(scene, cluster)?;
    for number in 0..WRITES {
        let said = etcdctl(address, &["put", &format!("{prefix}-{number}"), cluster])?;
        ensure(said == "OK", || said)?;
    }
    Ok(())
}

/// Does every member of `clusters` have what was written?
fn all_have(scene: &Scene, clusters: &[&str], prefix: &str) -> Result<()> {
    for cluster in clusters {
        let keys = etcdctl(
            member(scene, cluster)?,
            &["get", "--prefix", "--keys-only", &format!("{prefix}-")],
        )?;
        let count = keys.lines().filter(|line| !line.is_empty()).count();
        ensure(count == WRITES, || format!("{cluster} has {count}"))?;
    }
    Ok(())
}

pub(crate) fn quorum(scene: &Scene) -> Result<String> {
    wait_for("a leader", PATIENCE, || {
        etcdctl(member(scene, "west")?, &["put", "first", "one"])
    })?;
    for cluster in CLUSTERS {
        write(scene, cluster, cluster)?;
        wait_for("every member to have it", PATIENCE, || {
            all_have(scene, &CLUSTERS, cluster)
        })?;
    }
    Ok(format!("{WRITES} writes through each member, read at each"))
}

pub(crate) fn client(scene: &Scene) -> Result<String> {
    let local = scene.local(EAST_PORT)?;
    let said = etcdctl(local, &["get", "--print-value-only", "south-7"])?;
    ensure(said == "south", || said)?;
    Ok("gRPC in plain TCP".to_owned())
}

pub(crate) fn loss(scene: &Scene) -> Result<String> {
    scene
        .mesh
        .isthmus(&["cluster", "kill", "south"])?
        .expect(0)?;
    // The leader may have been there.
    wait_for("a leader", PATIENCE, || {
        etcdctl(member(scene, "west")?, &["put", "again", "one"])
    })?;
    for cluster in ["west", "east"] {
        write(scene, cluster, &format!("without-{cluster}"))?;
        all_have(scene, &[cluster], &format!("without-{cluster}"))?;
    }
    Ok(format!("{WRITES} writes through each of the other two"))
}

pub(crate) fn catches_up(scene: &Scene) -> Result<String> {
    scene
        .mesh
        .isthmus(&["cluster", "start", "south"])?
        .expect(0)?;
    wait_for("the member to catch up", 2 * PATIENCE, || {
        all_have(scene, &["south"], "without-west")?;
        let said = read(scene, "south", "without-east-9")?;
        ensure(said == "east", || said)
    })?;
    Ok("it has what was written meanwhile".to_owned())
}
