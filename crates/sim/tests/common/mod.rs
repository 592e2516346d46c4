//! A mesh of three clusters with a few services.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_api::{VoterPart, VoterView};
use isthmus_control::{Verb, Write};
use isthmus_model::{Kind, Origin, ResourceKey};
use isthmus_sim::Sim;
use serde_json::{Value, json};

pub(crate) const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];
pub(crate) const SERVICES: [&str; 4] = ["cart", "catalog", "payment", "frontend"];

pub(crate) fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        origin: Origin::Mesh,
        kind,
        namespace: kind.namespaced().then(|| "shop".parse().unwrap()),
        name: name.parse().unwrap(),
    }
}

pub(crate) fn write(verb: Verb, kind: Kind, name: &str, spec: &Value) -> Write {
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": {"name": name},
        "spec": spec,
    });
    if kind.namespaced() {
        object["metadata"]["namespace"] = json!("shop");
    }
    Write {
        author: "sim".to_owned(),
        verb,
        key: key(kind, name),
        object: (verb != Verb::Delete).then_some(object),
        dry_run: false,
    }
}

pub(crate) fn ports(port: u64) -> Value {
    json!({"ports": [{"name": "http", "port": port}]})
}

/// Declares the clusters and the services, and lets the clusters find each other.
pub(crate) fn founded(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &CLUSTERS);
    for (number, name) in CLUSTERS.iter().enumerate() {
        let spec = json!({"region": name, "control": format!("127.0.{number}.1:15012")});
        let id = sim.write(0, write(Verb::Create, Kind::Cluster, name, &spec));
        assert_eq!(sim.answer(0, id).unwrap().0, 201);
    }
    for name in SERVICES {
        let id = sim.write(0, write(Verb::Create, Kind::Service, name, &ports(80)));
        assert_eq!(sim.answer(0, id).unwrap().0, 201);
    }
    sim.run_for(Duration::from_secs(10));
    sim
}

/// As `founded`; all three accept config together.
pub(crate) fn founded_with_voters(seed: u64) -> Sim {
    let mut sim = founded(seed);
    let id = sim.write(0, vote(Verb::Create, &CLUSTERS));
    sim.run_for(Duration::from_secs(10));
    assert_eq!(sim.answer(0, id).unwrap().0, 201);
    assert_eq!(
        voters(&mut sim),
        BTreeSet::from(CLUSTERS.map(str::to_owned))
    );
    sim
}

pub(crate) fn vote(verb: Verb, clusters: &[&str]) -> Write {
    let spec = json!({"trustDomain": "sim.mesh", "voters": clusters});
    write(verb, Kind::Mesh, "sim", &spec)
}

/// Who votes, as whoever leads says.
pub(crate) fn voters(sim: &mut Sim) -> BTreeSet<String> {
    let views = (0..CLUSTERS.len()).filter_map(|site| sim.authority(site));
    let views: Vec<_> = views
        .filter(|view| view.leader.as_ref() == Some(&view.cluster))
        .collect();
    let [view] = &views[..] else {
        panic!("not one leads: {views:?}");
    };
    let votes = |voter: &&VoterView| voter.part == VoterPart::Votes;
    view.voters
        .iter()
        .filter(votes)
        .map(|voter| voter.cluster.clone())
        .collect()
}
