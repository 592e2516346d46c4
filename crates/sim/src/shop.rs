//! What simulated meshes consist of: clusters with names, and the services of a small shop.

use std::time::Duration;

use isthmus_control::{Verb, Write};
use isthmus_model::{Kind, Origin, ResourceKey};
use serde_json::{Value, json};

use crate::Sim;

pub const CLUSTERS: [&str; 5] = ["us-west", "eu-central", "ap-south", "us-east", "sa-east"];
pub const SERVICES: [&str; 4] = ["cart", "catalog", "payment", "frontend"];
const NAMESPACE: &str = "shop";

/// A write of one of the mesh's own objects, or of one in the shop's namespace.
///
/// Panics: the name is no label of RFC 1123.
#[expect(clippy::expect_used, reason = "names of a simulation are literals")]
pub fn write(verb: Verb, kind: Kind, name: &str, spec: &Value) -> Write {
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": {"name": name},
        "spec": spec,
    });
    if kind.namespaced() {
        object["metadata"]["namespace"] = json!(NAMESPACE);
    }
    let namespace = || NAMESPACE.parse().expect("a literal label");
    Write {
        author: "sim".to_owned(),
        verb,
        key: ResourceKey {
            origin: Origin::Mesh,
            kind,
            namespace: kind.namespaced().then(namespace),
            name: name.parse().expect("a literal label"),
        },
        object: (verb != Verb::Delete).then_some(object),
        dry_run: false,
    }
}

/// The spec of a service with one port.
pub fn ports(port: u64) -> Value {
    json!({"ports": [{"name": "http", "port": port}]})
}

/// These clusters are to accept config together.
pub fn vote(verb: Verb, clusters: &[&str]) -> Write {
    let spec = json!({"trustDomain": "sim.mesh", "voters": clusters});
    write(verb, Kind::Mesh, "sim", &spec)
}

/// A mesh of that many of the clusters, which know each other and the services.
///
/// Errors: what the first cluster answered, when it was no 201.
pub fn found(seed: u64, clusters: usize) -> Result<Sim, String> {
    let names = &CLUSTERS[..clusters.min(CLUSTERS.len())];
    let mut sim = Sim::new(seed, names);
    let declare = |(number, name): (usize, &&str)| {
        let spec = json!({"region": name, "control": format!("127.0.{number}.1:15012")});
        write(Verb::Create, Kind::Cluster, name, &spec)
    };
    let services = SERVICES.map(|name| write(Verb::Create, Kind::Service, name, &ports(80)));
    let clusters: Vec<_> = names.iter().enumerate().map(declare).collect();
    for write in clusters.into_iter().chain(services) {
        let id = sim.write(0, write);
        match sim.answer(0, id) {
            Some((201, _)) => {}
            other => return Err(format!("the founding cluster answered {other:?}")),
        }
    }
    sim.run_for(Duration::from_secs(10));
    Ok(sim)
}
