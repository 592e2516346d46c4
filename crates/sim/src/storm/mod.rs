//! A storm over a mesh: writes, changes of health, cuts, crashes, full disks and wrong clocks, all
//! drawn from one seed, and the invariants that hold through all of it.

mod deed;
mod invariant;
mod many;
mod own;
mod witness;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use isthmus_control::{Verb, Write};
use isthmus_model::{Health, Kind, ServiceName};
use isthmus_world::{Chance, SeededChance, VirtualStore};
use serde_json::json;

use crate::shop::{self, CLUSTERS, SERVICES, ports, vote, write};
use crate::{LinkState, Sim, Skew, Workload};
use deed::Deed;
pub use invariant::{Broken, Invariant};
pub use many::{Tally, storms};
use own::Own;
use witness::{Pending, Seen, Witness};

/// How long it takes at most until everything is well again.
const CALM: Duration = Duration::from_mins(1);
/// The last of the services is never deleted: what is known of it must never vanish.
const LASTING: usize = SERVICES.len() - 1;

/// What to let loose.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    pub seed: u64,
    /// Rounds of deeds, up to two seconds apart.
    pub steps: usize,
    /// Something that must not go unnoticed.
    pub sabotage: Option<Sabotage>,
    /// Should every message that arrives go into the outcome's digest?
    pub digest: bool,
}

/// A mesh that is broken on purpose: a test of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks acknowledge what they have not saved.
    LostSync,
    /// The API forgets what a write depends on.
    LostCondition,
}

/// What was done, and when.
#[derive(Debug)]
pub struct Moment {
    pub step: usize,
    /// Since the mesh was made.
    pub at: Duration,
    /// For people.
    pub what: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    /// Rounds that were made.
    pub steps: usize,
    /// Writes that were answered with 2xx.
    pub accepted: usize,
    /// How often an invariant was looked at.
    pub checks: u64,
    /// Of every message that arrived, if that was asked for.
    pub digest: Option<u64>,
    /// The first that did not hold, and the round after which it was seen.
    pub broken: Option<(usize, Broken)>,
}

impl Storm {
    /// Lets it pass, or stops at the first invariant that does not hold.
    pub fn run(&self, watch: &mut dyn FnMut(&Moment)) -> Outcome {
        let mut outcome = Outcome {
            seed: self.seed,
            steps: 0,
            accepted: 0,
            checks: 0,
            digest: None,
            broken: None,
        };
        // Whatever it was doing is thrown away with it.
        let passed = catch_unwind(AssertUnwindSafe(|| self.pass(&mut outcome, watch)));
        let broken = match passed {
            Ok(passed) => passed.err(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let what = text.unwrap_or("it did not say why").to_owned();
                Some(Broken::new(Invariant::Alive, what))
            }
        };
        outcome.broken = broken.map(|broken| (outcome.steps, broken));
        outcome
    }

    fn pass(&self, outcome: &mut Outcome, watch: &mut dyn FnMut(&Moment)) -> Result<(), Broken> {
        let mut weather = Weather::new(self)?;
        let passed = weather.pass(self.steps, &mut outcome.steps, watch);
        outcome.accepted = weather.witness.accepted() + weather.own.accepted();
        outcome.checks = weather.witness.checks() + weather.own.checks();
        outcome.digest = weather.sim.digest();
        passed
    }
}

/// One cluster loses its disk, and is restored from a backup. Only where so many vote, always the same, that it is a
/// minority: what others accepted goes on, and what it promised is not counted on.
#[derive(Default)]
struct Loss {
    site: usize,
    /// The rounds of its backup and of its loss; `None`: there is none.
    rounds: Option<(usize, usize)>,
    kept: Option<(VirtualStore, Seen)>,
}

/// A storm that goes on.
struct Weather {
    sim: Sim,
    /// What is done, apart from what the mesh does: both go on the same when the other changes.
    chance: SeededChance,
    clusters: usize,
    /// Do clusters come into the authority and leave it?
    voters_change: bool,
    sabotage: Option<Sabotage>,
    witness: Witness,
    own: Own,
    loss: Loss,
    /// By cluster, service and number: what its proxy said last.
    truth: BTreeMap<(usize, &'static str, u8), Health>,
}

impl Weather {
    fn new(storm: &Storm) -> Result<Self, Broken> {
        let mut chance = SeededChance::new(storm.seed);
        let clusters = [3, 3, 3, 4, 5][index(&mut chance, 5)];
        let founding = |what| Broken::new(Invariant::Accepts, what);
        let mut sim = shop::found(chance.draw(), clusters).map_err(founding)?;
        if storm.digest {
            sim.keep_digest();
        }
        let mut weather = Self {
            sim,
            clusters,
            voters_change: false,
            sabotage: storm.sabotage,
            witness: Witness::new(clusters),
            own: Own::default(),
            loss: Loss::default(),
            truth: BTreeMap::new(),
            chance,
        };
        weather.set_clocks();
        weather.set_authority(storm.steps)?;
        if storm.sabotage == Some(Sabotage::LostSync) {
            weather.sim.lie();
        }
        Ok(weather)
    }

    /// In half of the storms no two clocks agree.
    fn set_clocks(&mut self) {
        if self.chance.below(2) == 0 {
            for site in 0..self.clusters {
                let mut draw = |limit| i32::try_from(self.chance.below(limit)).unwrap_or(0);
                let skew = Skew {
                    rate: draw(20_001) - 10_000,
                    ahead: draw(1_201) - 600,
                };
                self.sim.set_skew(site, skew);
            }
        }
    }

    /// In some storms the founder accepts config alone, in most others do so with it.
    fn set_authority(&mut self, steps: usize) -> Result<(), Broken> {
        let kind = self.chance.below(5);
        if kind == 0 {
            return Ok(());
        }
        self.voters_change = kind > 2;
        if !self.voters_change && steps > 1 {
            let backup = index(&mut self.chance, steps - 1);
            let later = 1 + index(&mut self.chance, steps - 1 - backup);
            self.loss.site = self.site();
            self.loss.rounds = Some((backup, backup + later));
        }
        let id = (self.sim).write(0, vote(Verb::Create, &CLUSTERS[..self.clusters]));
        self.sim.run_for(Duration::from_secs(20));
        let answer = self.sim.answer(0, id);
        match answer {
            Some((201, _)) => self.witness.look_at_voters(&mut self.sim),
            other => {
                let what = format!("who is to vote was answered with {other:?}");
                Err(Broken::new(Invariant::Accepts, what))
            }
        }
    }

    fn pass(
        &mut self,
        steps: usize,
        done: &mut usize,
        watch: &mut dyn FnMut(&Moment),
    ) -> Result<(), Broken> {
        for step in 0..steps {
            *done = step + 1;
            for deed in self.draw(step) {
                watch(&Moment {
                    step,
                    at: self.sim.elapsed(),
                    what: deed.to_string(),
                });
                self.carry_out(deed)?;
            }
            let longest = [200, 2_000][index(&mut self.chance, 2)];
            let pause = Duration::from_millis(self.chance.below(longest));
            self.sim.run_for(pause);
            self.look(step)?;
        }
        watch(&Moment {
            step: steps,
            at: self.sim.elapsed(),
            what: "everything is mended".to_owned(),
        });
        self.heal();
        if let Some(site) = self.witness.restored() {
            self.give_vote(site)?;
        }
        self.look(steps)?;
        self.write_in_calm(steps)?;
        self.witness.look_back(&mut self.sim, &self.truth)?;
        self.own.look_back(&mut self.sim, self.clusters)
    }

    fn look(&mut self, step: usize) -> Result<(), Broken> {
        self.witness.look(&mut self.sim, step)?;
        self.own.look(&mut self.sim, self.clusters)
    }

    fn site(&mut self) -> usize {
        index(&mut self.chance, self.clusters)
    }

    /// What happens next.
    fn draw(&mut self, step: usize) -> Vec<Deed> {
        let mut deeds = vec![self.draw_write(step), self.draw_report()];
        deeds.extend(self.draw_own_write(step));
        deeds.extend(self.draw_fault());
        match self.chance.below(16) {
            0 | 1 if self.voters_change => {
                let chosen = self.chance.draw();
                let mut clusters: Vec<_> = (0..self.clusters)
                    .filter(|site| chosen & 1 << site != 0)
                    .collect();
                if clusters.is_empty() {
                    clusters.push(self.site());
                }
                let site = self.site();
                deeds.push(Deed::Vote { site, clusters });
            }
            2 => {
                let (site, to) = (self.site(), self.site());
                deeds.push(Deed::Transfer { site, to });
            }
            _ => {}
        }
        let Loss { site, rounds, .. } = self.loss;
        match rounds {
            Some((backup, _)) if step == backup && self.sim.is_running(site) => {
                deeds.push(Deed::Backup { site });
            }
            Some((_, loss)) if step == loss && self.loss.kept.is_some() => {
                deeds.push(Deed::Restore { site });
            }
            _ => {}
        }
        deeds
    }

    fn draw_write(&mut self, step: usize) -> Deed {
        let (site, service) = (self.site(), index(&mut self.chance, SERVICES.len()));
        let verb = match self.chance.below(8) {
            0 if service != LASTING => Verb::Delete,
            1 => Verb::Create,
            _ => Verb::Update,
        };
        let is_conditional = verb == Verb::Update && self.chance.below(3) == 0;
        Deed::Write {
            site,
            verb,
            service: SERVICES[service],
            port: 1000 + step,
            is_conditional,
        }
    }

    /// Most is decided where it belongs.
    fn draw_own_write(&mut self, step: usize) -> Option<Deed> {
        let of = self.site();
        let site = match self.chance.below(4) {
            0 => self.site(),
            1 => of,
            _ => return None,
        };
        let number = 1000 + step;
        Some(Deed::Own { site, of, number })
    }

    fn draw_report(&mut self) -> Deed {
        let site = self.site();
        let service = SERVICES[index(&mut self.chance, SERVICES.len())];
        let number = [1, 2, 3][index(&mut self.chance, 3)];
        let health = match self.chance.below(3) {
            0 => Health::Unhealthy,
            _ => Health::Healthy,
        };
        Deed::Report {
            site,
            service,
            number,
            health,
        }
    }

    /// Makes something go wrong, or right again.
    fn draw_fault(&mut self) -> Option<Deed> {
        let (what, a, b) = (self.chance.below(20), self.site(), self.site());
        let is_odd = self.chance.below(2) == 0;
        let link = |state| (a != b).then_some(Deed::Link { a, b, state });
        match what {
            0 => link(LinkState::Cut),
            1 => link(LinkState::BlackHole),
            2 => link(LinkState::DeafAt(a)),
            3..=8 => link(LinkState::Up),
            9 | 10 if self.sim.is_running(a) => Some(Deed::Crash {
                site: a,
                in_commit: is_odd,
            }),
            9..=15 if !self.sim.is_running(a) => Some(Deed::Start { site: a }),
            16 if self.sim.is_running(a) => Some(Deed::Blink { site: a }),
            17 | 18 => Some(Deed::Disk {
                site: a,
                is_full: is_odd,
            }),
            _ => None,
        }
    }

    fn carry_out(&mut self, deed: Deed) -> Result<(), Broken> {
        match deed {
            Deed::Own { site, of, number } => self.own.write(&mut self.sim, site, of, number)?,
            Deed::Write {
                site,
                verb,
                service,
                port,
                is_conditional,
            } => self.write(site, verb, service, port, is_conditional),
            Deed::Report {
                site,
                service,
                number,
                health,
            } => {
                self.truth.insert((site, service, number), health);
                if let Ok(service) = ServiceName::new("shop", service) {
                    let workload = Workload {
                        service,
                        number,
                        health,
                    };
                    self.sim.report(site, workload);
                }
            }
            Deed::Link { a, b, state } => self.sim.set_link(a, b, state),
            Deed::Crash { site, in_commit } => self.sim.crash(site, in_commit),
            Deed::Start { site } => self.start(site),
            Deed::Blink { site } => {
                self.sim.crash(site, false);
                self.start(site);
            }
            Deed::Disk { site, is_full } => {
                self.sim.set_full(site, is_full);
                self.witness.on_disk(site, is_full);
                self.own.on_disk(site, is_full);
            }
            Deed::Backup { site } => {
                self.loss.kept = Some((self.sim.backup(site), self.witness.seen_by(site)));
            }
            Deed::Restore { site } => {
                if let Some((disk, seen)) = self.loss.kept.take() {
                    self.sim.crash(site, false);
                    self.sim.restore(site, disk);
                    self.witness.on_restored(site, seen);
                    self.own.on_restored(site);
                    self.start(site);
                }
            }
            Deed::Vote { site, clusters } => {
                let names: Vec<_> = clusters.iter().map(|site| CLUSTERS[*site]).collect();
                self.sim.write(site, vote(Verb::Update, &names));
            }
            Deed::Transfer { site, to } => drop(self.sim.transfer(site, to)),
        }
        Ok(())
    }

    fn start(&mut self, site: usize) {
        self.witness.on_start(site, self.sim.is_full(site));
        self.own.on_start(site, self.sim.is_full(site));
        self.sim.start(site);
    }

    fn write(
        &mut self,
        site: usize,
        verb: Verb,
        service: &'static str,
        port: usize,
        is_conditional: bool,
    ) {
        let mut write = write(verb, Kind::Service, service, &ports(port as u64));
        let base = is_conditional.then(|| self.condition(site, service, &mut write));
        let id = self.sim.write(site, write);
        self.witness.await_answer(Pending {
            site,
            id,
            service,
            verb,
            port,
            base: base.flatten(),
        });
    }

    /// The write is to hold only for what the cluster shows now. Gives the version of that.
    fn condition(&mut self, site: usize, service: &str, write: &mut Write) -> Option<u64> {
        let shown = self.sim.list(site, Kind::Service);
        let shown = shown.iter().find(|shown| witness::is_named(shown, service));
        let base = witness::version(shown?)?;
        if let Some(object) = &mut write.object
            && self.sabotage != Some(Sabotage::LostCondition)
        {
            object["metadata"]["resourceVersion"] = json!(base.to_string());
        }
        Some(base)
    }

    fn heal(&mut self) {
        for a in 0..self.clusters {
            for b in a + 1..self.clusters {
                self.sim.set_link(a, b, LinkState::Up);
            }
        }
        for site in 0..self.clusters {
            self.sim.set_full(site, false);
            if self.sim.is_running(site) {
                self.sim.crash(site, false); // Whoever was to die in a commit dies now.
            }
            self.start(site);
        }
        self.sim.run_for(CALM);
    }

    /// Who was restored gets a new vote.
    fn give_vote(&mut self, site: usize) -> Result<(), Broken> {
        let all = &CLUSTERS[..self.clusters];
        let others: Vec<_> = all
            .iter()
            .copied()
            .filter(|name| *name != CLUSTERS[site])
            .collect();
        for voters in [&others[..], all] {
            let id = self.sim.write(0, vote(Verb::Update, voters));
            self.sim.run_for(CALM / 3);
            let answer = self.sim.answer(0, id);
            if !matches!(answer, Some((200, _))) {
                let what = format!("who is to vote was answered with {answer:?}");
                return Err(Broken::new(Invariant::Accepts, what));
            }
        }
        self.witness.on_new_vote(&mut self.sim, site)
    }

    /// Every cluster is asked for a change when all is well.
    fn write_in_calm(&mut self, step: usize) -> Result<(), Broken> {
        let mut asked = Vec::new();
        for site in 0..self.clusters {
            let spec = ports((2000 + step + site) as u64);
            let write = write(Verb::Update, Kind::Service, SERVICES[LASTING], &spec);
            asked.push((site, self.sim.write(site, write)));
        }
        self.sim.run_for(Duration::from_secs(2));
        self.witness.look_at_answers(&mut self.sim, asked)
    }
}

fn index(chance: &mut SeededChance, limit: usize) -> usize {
    usize::try_from(chance.below(limit as u64)).unwrap_or(0)
}
