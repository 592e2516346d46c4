//! What was promised and seen so far, and whether it still holds.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_api::{VoterPart, VoterView};
use isthmus_control::{RequestId, Verb};
use isthmus_model::{Health, Kind};
use serde_json::Value;

use super::invariant::{Broken, Invariant};
use crate::Sim;
use crate::shop::{CLUSTERS, SERVICES};

/// Of the history of a cluster so many of the newest changes are looked at after a round.
const NEWEST: usize = 8;

/// A write whose answer is awaited.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) site: usize,
    pub(super) id: RequestId,
    pub(super) service: &'static str,
    pub(super) verb: Verb,
    /// No other write has it.
    pub(super) port: usize,
    /// The version that it depends on.
    pub(super) base: Option<u64>,
}

/// A write that was answered with 2xx.
#[derive(Debug)]
struct Accepted {
    version: u64,
    /// `None`: deleted.
    spec: Option<Value>,
    base: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    clusters: usize,
    checks: u64,
    pending: Vec<Pending>,
    /// By service, in the order of the answers.
    accepted: BTreeMap<&'static str, Vec<Accepted>>,
    /// Services that a write without a clear answer may have deleted.
    doubtful_deletes: BTreeSet<&'static str>,
    /// By cluster.
    seen: Vec<Seen>,
    /// Clusters whose disk is full: with what they had shown before. What they show since may be gone when
    /// they start again.
    full: BTreeMap<usize, Seen>,
    /// It has no vote until it gets a new one.
    restored: Option<usize>,
    /// By service and port: the one change that made it so.
    made: BTreeMap<(String, u64), u64>,
    /// By position: the hash of the change that stands there.
    history: BTreeMap<u64, String>,
    /// By term.
    leaders: BTreeMap<u64, String>,
}

/// What a cluster has shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// By service: the last version.
    versions: BTreeMap<String, u64>,
    /// In which clusters there are workloads of the service that is never deleted.
    places: BTreeSet<String>,
}

fn port(spec: &Value) -> u64 {
    spec["ports"][0]["port"].as_u64().unwrap_or_default()
}

pub(super) fn version(object: &Value) -> Option<u64> {
    let version = object["metadata"]["resourceVersion"].as_str();
    version?.parse().ok()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn is_named(object: &Value, service: &str) -> bool {
    name(object) == service
}

/// Name, version and spec: what must be the same everywhere.
fn essence(objects: &[Value]) -> Vec<(&str, Option<u64>, &Value)> {
    let essence = |object| (name(object), version(object), &object["spec"]);
    objects.iter().map(essence).collect()
}

impl Witness {
    pub(super) fn new(clusters: usize) -> Self {
        Self {
            clusters,
            seen: vec![Seen::default(); clusters],
            ..Self::default()
        }
    }

    fn clusters(&self) -> impl Iterator<Item = (usize, &'static str)> + use<> {
        CLUSTERS.into_iter().enumerate().take(self.clusters)
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.values().map(Vec::len).sum()
    }

    pub(super) fn checks(&self) -> u64 {
        self.checks
    }

    pub(super) fn await_answer(&mut self, pending: Pending) {
        self.pending.push(pending);
    }

    pub(super) fn on_disk(&mut self, site: usize, is_full: bool) {
        if is_full {
            let seen = &self.seen[site];
            self.full.entry(site).or_insert_with(|| seen.clone());
        }
    }

    /// What it had shown by now, and saved.
    pub(super) fn seen_by(&self, site: usize) -> Seen {
        self.full.get(&site).unwrap_or(&self.seen[site]).clone()
    }

    /// It starts with a backup from when it had shown this.
    pub(super) fn on_restored(&mut self, site: usize, seen: Seen) {
        if let Some(saved) = self.full.get_mut(&site) {
            saved.clone_from(&seen);
        }
        self.seen[site] = seen;
        self.restored = Some(site);
    }

    pub(super) fn restored(&self) -> Option<usize> {
        self.restored
    }

    /// It was removed from those who vote, and added again.
    pub(super) fn on_new_vote(&mut self, sim: &mut Sim, site: usize) -> Result<(), Broken> {
        let view = sim.authority(site);
        let reason = view.and_then(|view| view.reason);
        self.check(Invariant::KeepsVote, reason.is_none(), || {
            let (cluster, reason) = (CLUSTERS[site], reason.unwrap_or_default());
            format!("{cluster} got a new vote, and says: {reason}")
        })
    }

    /// It starts with what it could save.
    pub(super) fn on_start(&mut self, site: usize, is_full: bool) {
        if let Some(before) = self.full.get(&site) {
            self.seen[site].clone_from(before);
        }
        if !is_full {
            self.full.remove(&site);
        }
    }

    fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Broken> {
        self.checks += 1;
        if holds {
            return Ok(());
        }
        Err(Broken::new(invariant, what()))
    }

    /// After each round.
    pub(super) fn look(&mut self, sim: &mut Sim, step: usize) -> Result<(), Broken> {
        let shown: Vec<_> = (0..self.clusters)
            .map(|site| sim.list(site, Kind::Service))
            .collect();
        self.collect(sim)?;
        for (site, services) in shown.iter().enumerate() {
            self.look_at_versions(site, services)?;
        }
        for (site, cluster) in self.clusters() {
            let lost = sim.lost_vote(site).filter(|_| self.restored != Some(site));
            self.check(Invariant::KeepsVote, lost.is_none(), || {
                format!("{cluster} says: {}", lost.unwrap_or_default())
            })?;
        }
        // The costly ones take turns.
        let site = step % self.clusters;
        self.look_at_history(sim, site, NEWEST)?;
        self.look_at_leader(sim, site)?;
        self.look_at_facts(sim, site)
    }

    /// When all is well again.
    pub(super) fn look_back(
        &mut self,
        sim: &mut Sim,
        truth: &BTreeMap<(usize, &'static str, u8), Health>,
    ) -> Result<(), Broken> {
        for site in 0..self.clusters {
            self.look_at_history(sim, site, usize::MAX)?;
        }
        let services = sim.list(0, Kind::Service);
        self.look_for_accepted(&services)?;
        for (site, cluster) in self.clusters().skip(1) {
            let found = sim.list(site, Kind::Service);
            let same = essence(&found) == essence(&services);
            self.check(Invariant::Agreement, same, || {
                let (found, first) = (essence(&found), essence(&services));
                format!("{cluster} has {found:?}, {} {first:?}", CLUSTERS[0])
            })?;
        }
        for (site, cluster) in self.clusters() {
            let clusters = sim.status(site).map(|status| status.clusters);
            let mut behind = clusters.into_iter().flatten();
            let behind = behind.find_map(|other| Some((other.behind?, other.name)));
            self.check(Invariant::Agreement, behind.is_none(), || {
                format!("{cluster} waits for another one to save what it is told: {behind:?}")
            })?;
        }
        self.look_at_voters(sim)?;
        self.look_at_counts(sim, truth, &services)
    }

    /// Remembers what was promised.
    fn collect(&mut self, sim: &mut Sim) -> Result<(), Broken> {
        for pending in std::mem::take(&mut self.pending) {
            match sim.answer(pending.site, pending.id) {
                None => self.pending.push(pending),
                Some((code, body)) if code < 300 => {
                    let accepted = Accepted {
                        version: version(&body).unwrap_or_default(),
                        spec: (pending.verb != Verb::Delete).then(|| body["spec"].clone()),
                        base: pending.base,
                    };
                    self.check_update(pending.service, &accepted)?;
                    let answered = accepted.spec.as_ref().map(port);
                    let asked = answered.is_none_or(|answered| answered == pending.port as u64);
                    self.check(Invariant::Once, asked, || {
                        let Pending { service, port, .. } = &pending;
                        format!("{service}, port {port}, was answered with port {answered:?}")
                    })?;
                    let known = self.accepted.entry(pending.service).or_default();
                    known.push(accepted);
                }
                // Not known: it may have happened.
                Some((500 | 504, _)) if pending.verb == Verb::Delete => {
                    self.doubtful_deletes.insert(pending.service);
                }
                Some(_) => {} // Nothing was promised.
            }
        }
        Ok(())
    }

    /// Nothing was accepted between what a write depends on and that write.
    fn check_update(&mut self, service: &str, accepted: &Accepted) -> Result<(), Broken> {
        let known = self.accepted.get(service).into_iter().flatten();
        let lies_between = |base: Option<u64>, between: u64, version: u64| {
            base.is_some_and(|base| base < between && between < version)
        };
        let lost = known.into_iter().find_map(|known| {
            let overwritten = lies_between(accepted.base, known.version, accepted.version);
            let overwrites = lies_between(known.base, accepted.version, known.version);
            (overwritten || overwrites).then_some(known.version)
        });
        self.check(Invariant::NoLostUpdate, lost.is_none(), || {
            let Accepted { version, base, .. } = accepted;
            format!("{service}@{version} was made of {base:?}, and so was {lost:?}")
        })
    }

    /// What was asked in calm weather is accepted, and shown where it was asked.
    pub(super) fn look_at_answers(
        &mut self,
        sim: &mut Sim,
        asked: Vec<(usize, RequestId)>,
    ) -> Result<(), Broken> {
        for (site, id) in asked {
            let answer = sim.answer(site, id);
            let body = match &answer {
                Some((200, body)) => Some(body),
                _ => None,
            };
            let cluster = CLUSTERS[site];
            self.check(Invariant::Accepts, body.is_some(), || {
                format!("{cluster} answered {answer:?}")
            })?;
            let promised = body.and_then(version);
            let service = body.map(name).unwrap_or_default();
            let services = sim.list(site, Kind::Service);
            let found = services.iter().find(|found| is_named(found, service));
            let found = found.and_then(version);
            self.check(Invariant::ReadsOwnWrites, found >= promised, || {
                format!("{cluster} accepted {service}@{promised:?} and shows {found:?}")
            })?;
        }
        Ok(())
    }

    fn newest(&self, service: &str) -> Option<&Accepted> {
        let accepted = self.accepted.get(service)?;
        accepted.iter().max_by_key(|accepted| accepted.version)
    }

    fn may_be_deleted(&self, service: &str) -> bool {
        let waits = |pending: &Pending| pending.verb == Verb::Delete && pending.service == service;
        self.doubtful_deletes.contains(service) || self.pending.iter().any(waits)
    }

    fn look_at_versions(&mut self, site: usize, services: &[Value]) -> Result<(), Broken> {
        for object in services {
            let found = version(object).unwrap_or_default();
            let versions = &mut self.seen[site].versions;
            let last = versions.insert(name(object).to_owned(), found);
            let holds = last.is_none_or(|last| last <= found);
            self.check(Invariant::NeverOlder, holds, || {
                let (cluster, name) = (CLUSTERS[site], name(object));
                format!("{cluster} went back to {name}@{found} from {last:?}")
            })?;
        }
        Ok(())
    }

    /// Which change stands at which position.
    fn look_at_history(&mut self, sim: &mut Sim, site: usize, limit: usize) -> Result<(), Broken> {
        for change in sim.history(site, limit) {
            let spec = change.after.as_ref().map(|after| &after["spec"]);
            if let Some(spec) = spec.filter(|_| change.kind == "Service") {
                let made = self.made.entry((change.name.clone(), port(spec)));
                let made = *made.or_insert(change.position);
                self.check(Invariant::Once, made == change.position, || {
                    let (name, again) = (&change.name, change.position);
                    format!("{name} was made so at {made} and again at {again}")
                })?;
            }
            let known = self.history.entry(change.position);
            let known = known.or_insert_with(|| change.hash.clone()).clone();
            self.check(Invariant::OneHistory, known == change.hash, || {
                let (cluster, position) = (CLUSTERS[site], change.position);
                format!("{cluster} has another change at {position} than was seen before")
            })?;
        }
        Ok(())
    }

    fn look_at_leader(&mut self, sim: &mut Sim, site: usize) -> Result<(), Broken> {
        let Some(view) = sim.authority(site) else {
            return Ok(());
        };
        let (Some(term), Some(leader)) = (view.term, view.leader) else {
            return Ok(());
        };
        let known = self.leaders.entry(term).or_insert(leader.clone()).clone();
        self.check(Invariant::OneLeader, known == leader, || {
            format!("in term {term} {known} led, and {leader} does")
        })
    }

    /// What was known of a service that was never deleted, of any cluster, is known still.
    fn look_at_facts(&mut self, sim: &mut Sim, site: usize) -> Result<(), Broken> {
        let Some(status) = sim.status(site) else {
            return Ok(());
        };
        let lasting = format!("shop/{}", SERVICES[super::LASTING]);
        let service = status.services.into_iter().find(|one| one.name == lasting);
        let shares = service.into_iter().flat_map(|service| service.clusters);
        let found: BTreeSet<_> = shares
            .filter(|share| share.total > 0)
            .map(|share| share.cluster)
            .collect();
        let places = &mut self.seen[site].places;
        let missing = places.difference(&found).next().cloned();
        places.extend(found);
        self.check(Invariant::NeverEmpty, missing.is_none(), || {
            let (site, of) = (CLUSTERS[site], missing.unwrap_or_default());
            format!("{site} knows no workload of {lasting} in {of} any more")
        })
    }

    /// Everything promised is there, unless something newer is.
    fn look_for_accepted(&mut self, services: &[Value]) -> Result<(), Broken> {
        for service in SERVICES {
            let Some(newest) = self.newest(service) else {
                continue;
            };
            let promised = newest.version;
            let found = services.iter().find(|found| is_named(found, service));
            let holds = match (&newest.spec, found) {
                (_, Some(found)) if version(found) > Some(promised) => true,
                (Some(spec), Some(found)) => {
                    version(found) == Some(promised) && found["spec"] == *spec
                }
                (None, found) => found.is_none(),
                // Deleted by a write whose answer was lost.
                (Some(_), None) => self.may_be_deleted(service),
            };
            self.check(Invariant::NothingLost, holds, || {
                let found = found.map(|found| (version(found), &found["spec"]));
                format!("{service}@{promised} was accepted, and there is {found:?}")
            })?;
        }
        Ok(())
    }

    /// Those vote who are meant to, if config says who.
    pub(super) fn look_at_voters(&mut self, sim: &mut Sim) -> Result<(), Broken> {
        let mesh = sim.list(0, Kind::Mesh);
        let Some(wanted) = mesh.first().and_then(|mesh| mesh["spec"].get("voters")) else {
            return Ok(());
        };
        let wanted: BTreeSet<_> = (wanted.as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let views = (0..self.clusters).filter_map(|site| sim.authority(site));
        let leading: Vec<_> = views
            .filter(|view| view.leader.as_ref() == Some(&view.cluster))
            .collect();
        let votes = |voter: &&VoterView| voter.part == VoterPart::Votes;
        let found: Vec<BTreeSet<_>> = (leading.iter())
            .map(|view| view.voters.iter().filter(votes))
            .map(|voters| voters.map(|voter| voter.cluster.clone()).collect())
            .collect();
        self.check(Invariant::Voters, found == [wanted.clone()], || {
            format!("{wanted:?} are to vote; by those who lead these do: {found:?}")
        })
    }

    /// Every cluster knows how many workloads every cluster has, and how many are healthy.
    fn look_at_counts(
        &mut self,
        sim: &mut Sim,
        truth: &BTreeMap<(usize, &'static str, u8), Health>,
        declared: &[Value],
    ) -> Result<(), Broken> {
        let mut expected = BTreeMap::new();
        for ((site, service, _), health) in truth {
            if declared.iter().any(|one| is_named(one, service)) {
                let place = (format!("shop/{service}"), CLUSTERS[*site].to_owned());
                let (healthy, total): &mut (u32, u32) = expected.entry(place).or_default();
                *healthy += u32::from(*health == Health::Healthy);
                *total += 1;
            }
        }
        for (site, cluster) in self.clusters() {
            let mut found = BTreeMap::new();
            for service in sim
                .status(site)
                .into_iter()
                .flat_map(|status| status.services)
            {
                for share in service.clusters {
                    let place = (service.name.clone(), share.cluster);
                    found.insert(place, (share.healthy, share.total));
                }
            }
            self.check(Invariant::OneWriter, found == expected, || {
                format!("{cluster} knows {found:?}, and there are {expected:?}")
            })?;
        }
        Ok(())
    }
}
