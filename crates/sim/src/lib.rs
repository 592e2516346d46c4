//! Many clusters in one process, in virtual time: control planes on virtual disks, joined by a
//! network that delays, cuts and swallows.
//!
//! The same seed gives the same run, to the last message. Nothing here waits, opens a socket or
//! reads a clock; a run of minutes takes milliseconds.

mod network;
pub mod shop;
mod site;
mod storm;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use isthmus_api::{
    AuthorityView, ChangeView, HistoryView, RESET_PURPOSE, ResetRequest, ResetStatement, StatusView,
};
use isthmus_control::{Action, Event, HistoryQuery, Request, RequestId, Selection, Target, Write};
use isthmus_model::{ClusterName, Kind, Origin};
use isthmus_world::{Chance, Clock, SeededChance, Store, VirtualClock, VirtualStore};
use serde_json::Value;

pub use network::LinkState;
use network::{Delivery, Network};
use site::Site;
pub use site::{Skew, Workload};
pub use storm::{Broken, Invariant, Moment, Outcome, Sabotage, Storm, Tally, storms};

/// How often control planes are told that time has passed.
const TICK: Duration = Duration::from_millis(100);

/// A mesh of clusters.
#[derive(Debug)]
pub struct Sim {
    clock: VirtualClock,
    chance: SeededChance,
    network: Network,
    sites: Vec<Site>,
    next_tick: Duration,
    requests: u64,
    /// Of every message that arrived.
    digest: Option<DefaultHasher>,
}

impl Sim {
    /// Clusters with these names, all running, all reaching each other; the first one's control
    /// plane accepts config.
    pub fn new(seed: u64, names: &[&str]) -> Self {
        let clock = VirtualClock::new();
        let mut chance = SeededChance::new(seed);
        let authority = names.first().copied().unwrap_or_default();
        let sites = (names.iter().enumerate())
            .map(|(number, name)| Site::new(number, name, authority, chance.draw(), &clock))
            .collect();
        Self {
            network: Network::new(names.len()),
            sites,
            clock,
            chance,
            next_tick: Duration::ZERO,
            requests: 0,
            digest: None,
        }
    }

    /// Remembers from now on what arrives where, in one number.
    pub fn keep_digest(&mut self) {
        self.digest = Some(DefaultHasher::new());
    }

    /// The same for the same messages in the same order; `None`: nobody asked for it.
    pub fn digest(&self) -> Option<u64> {
        self.digest.as_ref().map(Hasher::finish)
    }

    /// True time since the mesh was made.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.sites.iter().map(|site| &site.name)
    }

    pub fn chance(&mut self) -> &mut SeededChance {
        &mut self.chance
    }

    /// Lets time pass, and everything happen that falls into it.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.clock.elapsed() + span;
        loop {
            let due = self.network.next_due().filter(|due| *due < self.next_tick);
            let next = due.unwrap_or(self.next_tick);
            if next > end {
                break;
            }
            self.clock.advance_to(next);
            match due {
                Some(_) => self.deliver(),
                None => {
                    self.next_tick += TICK;
                    for site in 0..self.sites.len() {
                        self.tell(site, Event::Tick);
                    }
                }
            }
        }
        self.clock.advance_to(end);
    }

    /// What becomes of the link between two clusters from now on.
    pub fn set_link(&mut self, a: usize, b: usize, state: LinkState) {
        let now = self.clock.elapsed();
        self.network.set_link(a, b, state, now, &mut self.chance);
    }

    /// The control plane of a cluster dies, and power with it. `in_commit`: when it next writes to its disk,
    /// which has the whole write afterwards or nothing of it.
    pub fn crash(&mut self, site: usize, in_commit: bool) {
        let draw = self.chance.draw();
        self.sites[site].crash(in_commit.then_some(draw));
        if !in_commit {
            let now = self.clock.elapsed();
            self.network.end_sessions_of(site, now, &mut self.chance);
        }
    }

    /// It starts again on the same disk, and its proxies return.
    pub fn start(&mut self, site: usize) {
        let seed = self.chance.draw();
        let actions = self.sites[site].start(seed, &self.clock);
        self.perform(site, actions);
    }

    /// How the cluster's clock differs from true time from now on.
    pub fn set_skew(&mut self, site: usize, skew: Skew) {
        self.sites[site].set_skew(skew);
    }

    /// From now on every disk acknowledges what it has not saved.
    pub fn lie(&mut self) {
        for site in &self.sites {
            site.disk().lie();
        }
    }

    /// From now on the cluster's disk is full, or is not any more.
    pub fn set_full(&mut self, site: usize, full: bool) {
        self.sites[site].set_full(full);
    }

    pub fn is_full(&self, site: usize) -> bool {
        self.sites[site].is_full()
    }

    /// A copy of the cluster's disk as it is now, of which nobody knows that it is one.
    pub fn copy_disk(&self, site: usize) -> VirtualStore {
        self.sites[site].disk().backup()
    }

    /// A backup of what the cluster has saved, as a disk to start from.
    pub fn backup(&self, site: usize) -> VirtualStore {
        let mut disk = self.copy_disk(site);
        let mark = isthmus_control::mark_backup(self.clock.wall());
        disk.commit(&mark).expect("this disk does not fail");
        disk
    }

    /// The cluster, whose control plane must be down, gets this disk.
    pub fn restore(&mut self, site: usize, disk: VirtualStore) {
        self.sites[site].set_disk(disk);
    }

    pub fn is_running(&self, site: usize) -> bool {
        self.sites[site].is_running()
    }

    /// A proxy of the cluster says this of its workload.
    pub fn report(&mut self, site: usize, workload: Workload) {
        let actions = self.sites[site].report(workload, &self.clock);
        self.perform(site, actions);
    }

    /// Asks the cluster's API for a write, signed with the mesh key where it must be; the answer comes with time.
    pub fn write(&mut self, site: usize, mut write: Write) -> RequestId {
        site::sign(&mut write, self.requests + 1);
        self.ask(site, Request::Write(write))
    }

    /// The answer to a request, once it was given: HTTP status and body.
    pub fn answer(&mut self, site: usize, id: RequestId) -> Option<(u16, Value)> {
        self.sites[site].answers.remove(&id)
    }

    /// All of the mesh's objects of a kind as the cluster's API shows them; empty while its control plane is down.
    pub fn list(&mut self, site: usize, kind: Kind) -> Vec<Value> {
        self.list_of(site, Origin::Mesh, kind)
    }

    /// As `list`, of what belongs to somebody.
    pub fn list_of(&mut self, site: usize, origin: Origin, kind: Kind) -> Vec<Value> {
        let selection = Selection {
            origin,
            kind,
            namespace: None,
            name: None,
        };
        let id = self.ask(site, Request::Read(selection));
        let answer = self.answer(site, id);
        let items = answer.and_then(|(_, list)| list.get("items").cloned());
        match items {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }
    }

    /// The mesh as the cluster sees it; `None` while its control plane is down.
    pub fn status(&mut self, site: usize) -> Option<StatusView> {
        let id = self.ask(site, Request::Status);
        let (_, body) = self.answer(site, id)?;
        serde_json::from_value(body).ok()
    }

    /// Whose control planes accept config, as the cluster's API says at once; `None` while it is down, or asks others.
    pub fn authority(&mut self, site: usize) -> Option<AuthorityView> {
        let id = self.ask(site, Request::Authority);
        let (_, body) = self.answer(site, id)?;
        serde_json::from_value(body).ok()
    }

    /// Why the cluster's control plane said, at any time, that it has no vote any more.
    pub fn lost_vote(&self, site: usize) -> Option<&str> {
        self.sites[site].lost_vote.as_deref()
    }

    /// Another voter is to lead; the answer comes with time.
    pub fn transfer(&mut self, site: usize, to: usize) -> RequestId {
        let to = self.sites[to].name.clone();
        self.ask(site, Request::Transfer(to))
    }

    /// The holder of the mesh key says that this cluster accepts config alone from now on, as the `number`th
    /// time that the authority begins anew; the answer comes with time.
    pub fn reset(&mut self, site: usize, number: u64, position: u64) -> RequestId {
        let statement = ResetStatement {
            number,
            cluster: self.sites[site].name.to_string(),
            position,
            group: self.chance.draw(),
            time: String::new(),
        };
        let statement = serde_json::to_string(&statement).unwrap_or_default();
        let signature = site::mesh_key().sign_statement(RESET_PURPOSE, statement.as_bytes());
        let signature = signature.unwrap_or_default();
        let digits = signature.iter().map(|byte| format!("{byte:02x}"));
        let request = ResetRequest {
            signature: digits.collect(),
            statement,
        };
        self.ask(site, Request::Reset(request))
    }

    /// The newest changes of config that the cluster has seen, newest first, as far as one answer goes.
    pub fn history(&mut self, site: usize, limit: usize) -> Vec<ChangeView> {
        self.changes(site, limit, false)
    }

    /// Those that were accepted and are void.
    pub fn rejected(&mut self, site: usize) -> Vec<ChangeView> {
        self.changes(site, usize::MAX, true)
    }

    fn changes(&mut self, site: usize, limit: usize, rejected: bool) -> Vec<ChangeView> {
        let query = HistoryQuery {
            limit,
            rejected,
            ..HistoryQuery::default()
        };
        let id = self.ask(site, Request::History(query));
        let answer = self.answer(site, id);
        let view = answer.and_then(|(_, body)| serde_json::from_value::<HistoryView>(body).ok());
        view.map(|view| view.changes).unwrap_or_default()
    }

    fn ask(&mut self, site: usize, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.tell(site, Event::Request { id, request });
        id
    }

    fn tell(&mut self, site: usize, event: Event) {
        let actions = self.sites[site].tell(event, &self.clock);
        if self.sites[site].has_lost_its_disk() {
            // Power failed in the middle of a commit: nothing that it did then got out.
            self.crash(site, false);
        } else {
            self.perform(site, actions);
        }
    }

    fn perform(&mut self, site: usize, actions: Vec<Action>) {
        let now = self.clock.elapsed();
        for action in actions {
            match action {
                Action::ToPeer { session, frame } => {
                    self.network
                        .send(session, site, frame, now, &mut self.chance);
                }
                Action::ClosePeer { session, .. } => {
                    self.network
                        .end_session(session, site, now, &mut self.chance);
                    self.tell(site, Event::PeerClosed { session });
                }
                Action::Dial { target, address } => {
                    let other = self.sites.iter().position(|site| site.address == address);
                    let from = (site, self.sites[site].life());
                    self.network
                        .dial(from, other, target, now, &mut self.chance);
                }
                other => self.sites[site].perform(other),
            }
        }
    }

    fn deliver(&mut self) {
        let Some(delivery) = self.network.take_due() else {
            return;
        };
        match delivery {
            Delivery::Frame { to, session, frame } => {
                if let Some(digest) = &mut self.digest {
                    (to, session, format!("{frame:?}")).hash(digest);
                }
                self.tell(to, Event::PeerMessage { session, frame });
            }
            Delivery::Ended { to, session } => self.tell(to, Event::PeerClosed { session }),
            // Whoever dialled has died since: nobody waits for it.
            Delivery::Dialled { from, life, .. } if self.sites[from].life() != life => {}
            Delivery::Dialled {
                from, to, target, ..
            } => self.connect(from, to, target),
        }
    }

    fn connect(&mut self, from: usize, to: Option<usize>, target: Target) {
        let reached = to.filter(|to| {
            let open = self.network.link(from, *to) == LinkState::Up;
            open && *to != from && self.sites[*to].is_running()
        });
        let Some(to) = reached else {
            return self.tell(from, Event::DialFailed { target });
        };
        let session = self.network.open_session(from, to);
        let opened = |cluster: &ClusterName, target| Event::PeerOpened {
            session,
            cluster: cluster.clone(),
            target,
        };
        let answered = opened(&self.sites[to].name, Some(target));
        let events = [answered, opened(&self.sites[from].name, None)];
        for (site, event) in [from, to].into_iter().zip(events) {
            self.tell(site, event);
        }
    }
}
