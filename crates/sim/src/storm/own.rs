//! What clusters decided for themselves alone, and whether it still holds.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_control::{RequestId, Verb, Write};
use isthmus_model::{Kind, Origin};
use serde_json::{Value, json};

use super::invariant::{Broken, Invariant};
use super::witness::version;
use crate::Sim;
use crate::shop::{CLUSTERS, write};

/// Each cluster has one of its own.
const POLICY: &str = "own";

/// Version and spec of what a cluster was told, or has shown.
type Told = (u64, Value);

#[derive(Debug, Default)]
pub(super) struct Own {
    checks: u64,
    /// Where it was asked, whose it is to be, and the number of the request.
    pending: Vec<(usize, usize, RequestId)>,
    /// By whose it is: the newest that was accepted.
    accepted: BTreeMap<usize, Told>,
    /// By who shows it and whose it is: the last version.
    shown: BTreeMap<(usize, usize), u64>,
    /// Whose disk is full, and may forget what it shows.
    full: BTreeSet<usize>,
    /// Whose disk was lost, and with it what it alone had decided since its backup.
    restored: Option<usize>,
}

impl Own {
    pub(super) fn checks(&self) -> u64 {
        self.checks
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Asks a cluster for a change of what belongs to `of`. Nobody else is needed for what is its own.
    pub(super) fn write(
        &mut self,
        sim: &mut Sim,
        site: usize,
        of: usize,
        number: usize,
    ) -> Result<(), Broken> {
        let verb = match shown_by(sim, site, of) {
            Some(_) => Verb::Update,
            None => Verb::Create,
        };
        let id = sim.write(site, change(verb, of, number));
        self.pending.push((site, of, id));
        let must_answer = site == of && sim.is_running(site) && !self.full.contains(&site);
        if must_answer {
            self.collect(sim);
            let answered = self.pending.iter().all(|(.., pending)| *pending != id);
            let newest = self.accepted.get(&of).map(|(_, spec)| spec.clone());
            let holds = answered && newest == Some(spec(number));
            self.check(Invariant::Accepts, holds, || {
                format!("{} did not decide for itself: {newest:?}", CLUSTERS[site])
            })?;
        }
        Ok(())
    }

    fn collect(&mut self, sim: &mut Sim) {
        for (site, of, id) in std::mem::take(&mut self.pending) {
            match sim.answer(site, id) {
                None => self.pending.push((site, of, id)),
                Some((code, body)) if code < 300 => {
                    let told = (version(&body).unwrap_or_default(), body["spec"].clone());
                    let newest = self.accepted.get(&of).map(|(version, _)| *version);
                    if newest < Some(told.0) {
                        self.accepted.insert(of, told);
                    }
                }
                Some(_) => {} // Nothing was promised.
            }
        }
    }

    pub(super) fn on_disk(&mut self, site: usize, is_full: bool) {
        if is_full {
            self.full.insert(site);
        }
    }

    pub(super) fn on_start(&mut self, site: usize, is_full: bool) {
        if self.full.contains(&site) {
            self.shown
                .retain(|(shows, of), _| *shows != site || *of == site);
        }
        if !is_full {
            self.full.remove(&site);
        }
    }

    pub(super) fn on_restored(&mut self, site: usize) {
        self.restored = Some(site);
        self.accepted.remove(&site);
        self.pending
            .retain(|(asked, of, _)| *of != site && *asked != site);
        self.shown
            .retain(|(shows, of), _| *shows != site && *of != site);
    }

    /// After each round.
    pub(super) fn look(&mut self, sim: &mut Sim, clusters: usize) -> Result<(), Broken> {
        self.collect(sim);
        for (site, shows) in CLUSTERS.iter().enumerate().take(clusters) {
            let restored = self.restored;
            for of in (0..clusters).filter(|of| restored != Some(*of)) {
                let Some((found, _)) = shown_by(sim, site, of) else {
                    continue;
                };
                let last = self.shown.insert((site, of), found);
                let holds = last.is_none_or(|last| last <= found);
                self.check(Invariant::NeverOlder, holds, || {
                    let of = CLUSTERS[of];
                    format!("{shows} went back to {of}'s own@{found} from {last:?}")
                })?;
            }
        }
        Ok(())
    }

    /// When all is well again.
    pub(super) fn look_back(&mut self, sim: &mut Sim, clusters: usize) -> Result<(), Broken> {
        self.collect(sim);
        for (of, name) in CLUSTERS.iter().enumerate().take(clusters) {
            let own = shown_by(sim, of, of);
            if let Some((promised, spec)) = self.accepted.get(&of).cloned() {
                let holds = own.as_ref().is_some_and(|(found, shown)| {
                    *found > promised || *found == promised && *shown == spec
                });
                self.check(Invariant::NothingLost, holds, || {
                    format!("{name} accepted its own@{promised} as {spec}, and there is {own:?}")
                })?;
            }
            // One that was restored and has decided nothing takes nothing from those who remember what it had.
            let is_silent = self.restored == Some(of) && own.is_none();
            for site in (0..clusters).filter(|_| !is_silent) {
                let found = shown_by(sim, site, of);
                self.check(Invariant::Agreement, found == own, || {
                    let site = CLUSTERS[site];
                    format!("{site} has {found:?} of {name}, which has {own:?}")
                })?;
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Broken> {
        self.checks += 1;
        if holds {
            Ok(())
        } else {
            Err(Broken::new(invariant, what()))
        }
    }
}

fn origin(of: usize) -> Origin {
    CLUSTERS[of].parse().ok().into()
}

fn spec(number: usize) -> Value {
    json!({
        "targetRefs": [{"kind": "Mesh", "name": "sim"}],
        "timeout": {"request": format!("{number}ms")},
    })
}

fn change(verb: Verb, of: usize, number: usize) -> Write {
    let mut write = write(verb, Kind::TrafficPolicy, POLICY, &spec(number));
    write.key.origin = origin(of);
    write
}

/// What `site` shows of what belongs to `of`.
fn shown_by(sim: &mut Sim, site: usize, of: usize) -> Option<Told> {
    let found = sim.list_of(site, origin(of), Kind::TrafficPolicy);
    let found = found.first()?;
    Some((version(found)?, found["spec"].clone()))
}
