//! Three clusters under writes, health changes, cuts, black holes and crashes: nothing accepted is
//! lost, older never replaces newer, and all agree in the end.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isthmus_control::{RequestId, Verb};
use isthmus_model::{Health, Kind, ServiceName};
use isthmus_sim::{LinkState, Sim, Workload};
use isthmus_world::Chance;
use serde_json::Value;

use common::{CLUSTERS, SERVICES, founded, founded_with_voters, ports, vote, voters, write};

const STEPS: usize = 150;
const SEEDS: u64 = 60;
/// Of those where voters come and go.
const SEEDS_OF_VOTERS: u64 = 200;

/// A write whose answer is awaited.
struct Pending {
    site: usize,
    id: RequestId,
    name: String,
    verb: Verb,
}

/// What was promised and seen so far.
#[derive(Default)]
struct Witness {
    pending: Vec<Pending>,
    /// By service: the last accepted version, and its object; `None`: deleted.
    accepted: BTreeMap<String, (u64, Option<Value>)>,
    /// Services that a write without a clear answer may have deleted.
    doubtful_deletes: BTreeSet<String>,
    /// By cluster and service: the last version that was shown.
    shown: BTreeMap<(usize, String), u64>,
    count: usize,
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

impl Witness {
    fn write(&mut self, sim: &mut Sim, step: usize) {
        let site = usize::try_from(sim.chance().below(3)).unwrap();
        let name = SERVICES[usize::try_from(sim.chance().below(4)).unwrap()];
        let verb = match sim.chance().below(8) {
            0 => Verb::Delete,
            1 | 2 => Verb::Create,
            _ => Verb::Update,
        };
        let spec = ports(1000 + u64::try_from(step).unwrap());
        let id = sim.write(site, write(verb, Kind::Service, name, &spec));
        self.pending.push(Pending {
            site,
            id,
            name: name.to_owned(),
            verb,
        });
    }

    /// Remembers what was promised.
    fn collect(&mut self, sim: &mut Sim) {
        for pending in std::mem::take(&mut self.pending) {
            match sim.answer(pending.site, pending.id) {
                None => self.pending.push(pending),
                Some((code, body)) if code < 300 => {
                    self.count += 1;
                    let version = version(&body);
                    let object = (pending.verb != Verb::Delete).then_some(body);
                    let known = self.accepted.entry(pending.name).or_default();
                    if version > known.0 {
                        *known = (version, object);
                    }
                }
                // Not known: it may have happened.
                Some((500 | 504, _)) if pending.verb == Verb::Delete => {
                    self.doubtful_deletes.insert(pending.name);
                }
                Some(_) => {} // Nothing was promised.
            }
        }
    }

    /// What any cluster shows may be old, but never older than what it showed before.
    fn watch(&mut self, sim: &mut Sim) {
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            for object in sim.list(site, Kind::Service) {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                let version = version(&object);
                let last = self.shown.entry((site, name)).or_default();
                assert!(
                    *last <= version,
                    "{cluster} went back from {last}: {object}"
                );
                *last = version;
            }
        }
    }

    /// Everything promised is there, unless something newer is.
    fn check_kept(&self, services: &[Value]) {
        for (name, (promised, object)) in &self.accepted {
            let found = services
                .iter()
                .find(|found| found["metadata"]["name"] == **name);
            match (object, found) {
                (_, Some(found)) if version(found) > *promised => {}
                (Some(object), Some(found)) if version(found) == *promised => {
                    assert_eq!(found["spec"], object["spec"], "{name}@{promised}");
                }
                (None, None) => {}
                // Deleted by a write whose answer was lost.
                (Some(_), None) => assert!(self.may_be_deleted(name), "{name}@{promised} is lost"),
                (_, Some(found)) => panic!("{name}@{promised} was replaced by older {found}"),
            }
        }
    }

    fn may_be_deleted(&self, name: &str) -> bool {
        let waiting = |pending: &Pending| pending.verb == Verb::Delete && pending.name == name;
        self.doubtful_deletes.contains(name) || self.pending.iter().any(waiting)
    }
}

/// Makes something go wrong, or right again.
fn disturb(sim: &mut Sim) {
    let mut draw = |limit| usize::try_from(sim.chance().below(limit)).unwrap();
    let (what, a, b, in_commit) = (draw(10), draw(3), draw(3), draw(2) == 0);
    match what {
        0 if a != b => sim.set_link(a, b, LinkState::Cut),
        1 if a != b => sim.set_link(a, b, LinkState::BlackHole),
        2..=4 if a != b => sim.set_link(a, b, LinkState::Up),
        5 if sim.is_running(a) => sim.crash(a, in_commit),
        6..=8 if !sim.is_running(a) => sim.start(a),
        _ => {}
    }
}

fn report(sim: &mut Sim, truth: &mut BTreeMap<(usize, &'static str, u8), Health>) {
    let site = usize::try_from(sim.chance().below(3)).unwrap();
    let service = SERVICES[usize::try_from(sim.chance().below(4)).unwrap()];
    let number = u8::try_from(sim.chance().below(3)).unwrap() + 1;
    let health = match sim.chance().below(3) {
        0 => Health::Unhealthy,
        _ => Health::Healthy,
    };
    truth.insert((site, service, number), health);
    let service = ServiceName::new("shop", service).unwrap();
    sim.report(
        site,
        Workload {
            service,
            number,
            health,
        },
    );
}

fn heal(sim: &mut Sim) {
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        sim.set_link(a, b, LinkState::Up);
    }
    for site in 0..CLUSTERS.len() {
        if sim.is_running(site) {
            sim.crash(site, false); // Whoever was to die in a commit dies now.
        }
        sim.start(site);
    }
    sim.run_for(Duration::from_mins(1));
}

/// Name, version and spec: what must be the same everywhere.
fn essence(services: &[Value]) -> Vec<(String, u64, Value)> {
    let essence = |service: &Value| {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        (name, version(service), service["spec"].clone())
    };
    services.iter().map(essence).collect()
}

#[test]
fn three_clusters_converge_through_a_cut_and_a_crash() {
    let mut accepted = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut sim = founded(seed);
        let mut witness = Witness::default();
        let mut truth = BTreeMap::new();
        for step in 0..STEPS {
            witness.write(&mut sim, step);
            report(&mut sim, &mut truth);
            disturb(&mut sim);
            let pause = sim.chance().below(2_000);
            sim.run_for(Duration::from_millis(pause));
            witness.collect(&mut sim);
            witness.watch(&mut sim);
        }
        heal(&mut sim);
        witness.collect(&mut sim);
        witness.watch(&mut sim);

        let west = sim.list(0, Kind::Service);
        witness.check_kept(&west);
        accepted += witness.count;
        for (site, cluster) in CLUSTERS.iter().enumerate().skip(1) {
            let found = sim.list(site, Kind::Service);
            assert_eq!(essence(&found), essence(&west), "{cluster}");
        }
        check_facts(&mut sim, &truth, &essence(&west));
    }
    assert!(
        accepted > 500,
        "only {accepted} writes were accepted: the test shows little"
    );
}

/// Every cluster knows how many healthy workloads every cluster has.
fn check_facts(
    sim: &mut Sim,
    truth: &BTreeMap<(usize, &'static str, u8), Health>,
    declared: &[(String, u64, Value)],
) {
    let mut expected = BTreeMap::new();
    for ((site, service, _), health) in truth {
        if declared.iter().any(|(name, _, _)| name == service) {
            let place = (format!("shop/{service}"), CLUSTERS[*site].to_owned());
            let count: &mut (u32, u32) = expected.entry(place).or_default();
            count.0 += u32::from(*health == Health::Healthy);
            count.1 += 1;
        }
    }
    for (site, name) in CLUSTERS.iter().enumerate() {
        let status = sim.status(site).unwrap();
        let mut found = BTreeMap::new();
        for service in status.services {
            for share in service.clusters {
                let place = (service.name.clone(), share.cluster);
                found.insert(place, (share.healthy, share.total));
            }
        }
        assert_eq!(found, expected, "as {name} knows it");
    }
}

/// Some clusters are to vote from now on.
fn change_voters(sim: &mut Sim) {
    let mut draw = |limit| usize::try_from(sim.chance().below(limit)).unwrap();
    let (site, chosen) = (draw(3), draw(7) + 1);
    let clusters: Vec<_> = (0..3)
        .filter(|number| chosen & 1 << number != 0)
        .map(|number| CLUSTERS[number])
        .collect();
    sim.write(site, vote(Verb::Update, &clusters));
}

/// Which change stands at which position is the same wherever it is known.
fn check_one_history(sim: &mut Sim) {
    let mut known = BTreeMap::new();
    for (site, cluster) in CLUSTERS.iter().enumerate() {
        for change in sim.history(site) {
            let hash = known.entry(change.position).or_insert(change.hash.clone());
            assert_eq!(
                *hash, change.hash,
                "{cluster} has another change at {}",
                change.position
            );
        }
    }
}

#[test]
fn voters_agree_whatever_becomes_of_any_of_them() {
    let mut accepted = 0;
    for seed in 0..SEEDS_OF_VOTERS {
        println!("seed {seed}");
        let mut sim = founded_with_voters(seed);
        let mut witness = Witness::default();
        for step in 0..STEPS {
            witness.write(&mut sim, step);
            disturb(&mut sim);
            match sim.chance().below(20) {
                0 => change_voters(&mut sim),
                1 => drop(sim.transfer(step % 3, step / 3 % 3)),
                _ => {}
            }
            let pause = sim.chance().below(2_000);
            sim.run_for(Duration::from_millis(pause));
            witness.collect(&mut sim);
            witness.watch(&mut sim);
        }
        check_one_history(&mut sim);
        heal(&mut sim);
        witness.collect(&mut sim);
        witness.watch(&mut sim);
        check_one_history(&mut sim);

        let first = sim.list(0, Kind::Service);
        witness.check_kept(&first);
        accepted += witness.count;
        for (site, cluster) in CLUSTERS.iter().enumerate().skip(1) {
            let found = sim.list(site, Kind::Service);
            assert_eq!(essence(&found), essence(&first), "{cluster}");
        }
        let mesh = &sim.list(0, Kind::Mesh)[0];
        let wanted: BTreeSet<String> =
            serde_json::from_value(mesh["spec"]["voters"].clone()).unwrap();
        assert_eq!(voters(&mut sim), wanted);
    }
    assert!(
        accepted > 2000,
        "only {accepted} writes were accepted: the test shows little"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut sim = founded_with_voters(7);
        let mut witness = Witness::default();
        for step in 0..30 {
            witness.write(&mut sim, step);
            disturb(&mut sim);
            sim.run_for(Duration::from_millis(700));
        }
        (0..CLUSTERS.len())
            .map(|site| essence(&sim.list(site, Kind::Service)))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
