//! The group of control planes that accepts config: who leads it, and the one order of what it decides.
//!
//! Votes, terms and the replication of the log are the library's (`raft`); here is what surrounds it:
//! members have names, everything lies in the control plane's own store and goes there in the same
//! commit as the ledgers, and only what this module writes is ever read from a peer. A machine like
//! the core that owns it: messages and ticks in, decisions and messages out; it never waits. A cluster
//! alone is a group of one.

mod log;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use isthmus_model::{ClusterName, MAX_VOTERS};
use isthmus_replica::{Decision, LedgerHead, LedgerName};
use isthmus_wire::proto;
use isthmus_wire::proto::raft_message::Kind;
use isthmus_wire::proto::voting::Part;
use isthmus_world::{Batch, Chance, SeededChance, Store};
use raft::prelude::{ConfChange, ConfChangeType, Config, Entry, EntryType, Message, RawNode};
use raft::{ProgressState, SnapshotStatus, StateRole};

use crate::open_error::OpenError;
use log::{Log, Membership};
use message::id_of;

/// Ticks, of 100 ms each, between two words of a leader.
const HEARTBEAT: usize = 3;
/// Ticks within which a leader must hear a majority, and for which others are told that there is one.
const LEASE: usize = 10;
/// Ticks without a leader's word after which a member asks to lead: in the order of their names half a
/// second apart, so that two do not ask at once where they are 300 ms apart, and a little by chance.
const PATIENCE: usize = 14;
const APART: usize = 5;
const BY_CHANCE: u64 = 3;
const LONGEST: usize = PATIENCE + APART * 2 * MAX_VOTERS;
/// Ticks for which a dismissed member goes on answering.
const LINGERING: usize = 100;
/// Ticks after which a member that was told to follow the ledgers is told again where they stand.
const REMIND: u64 = 10;
const MESSAGE_BYTES: u64 = 256 * 1024;
const MESSAGES_AT_ONCE: usize = 16;
/// Of entries that are not committed; more is refused.
const UNCOMMITTED_BYTES: u64 = 64 * 1024 * 1024;

/// A member's side of the group.
pub(crate) struct Group {
    own: ClusterName,
    node: RawNode<Log>,
    names: BTreeMap<u64, ClusterName>,
    chance: SeededChance,
    /// How much longer than its turn this member waits, in ticks.
    by_chance: usize,
    role: StateRole,
    ticks: u64,
    /// Ticks since whoever leads was heard.
    silent: usize,
    outbox: Vec<(ClusterName, proto::AuthorityFrame)>,
    /// The store does not take what this member must remember: it says nothing until it does.
    stalled: bool,
    /// It takes part no more.
    broken: Option<Broken>,
    /// The first of the last ticks at which a leader knew more of this new member's log than there is.
    doubted: Option<u64>,
}

/// Why a member cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it was a member of the authority before, and its store has lost what it knew then")]
    LogLost,
    #[error("its store was restored from a backup of {0}, and has lost what it knew since")]
    Restored(String),
    #[error("a decision of the authority is not understood: {0}")]
    NotUnderstood(String),
    #[error("a decision of the authority does not fit what is here: {0}")]
    OutOfOrder(String),
    #[error("the machine that counts votes has failed, see the log")]
    Failed,
}

/// What a message asks of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    /// The log does not reach back to where this member is: it must follow the ledgers first.
    Follow,
}

/// What is to be done now, in this order.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The copies of the ledgers become what this member decides about.
    pub(crate) take_over: Option<Vec<(LedgerName, LedgerHead)>>,
    pub(crate) decided: Vec<Decided>,
    /// Up to here everything is decided.
    pub(crate) upto: u64,
    /// This cluster decides no more.
    pub(crate) dismissed: bool,
}

/// An entry that is decided.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) place: Place,
    pub(crate) decision: Decision,
}

/// Where a proposal stands in the log. It is decided when an entry of the same term is, there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) cluster: ClusterName,
    pub(crate) votes: bool,
    /// Entries of the log that it is not known to have; `None`: this cluster does not lead.
    pub(crate) lacks: Option<u64>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("role", &self.role)
            .field("term", &self.term())
            .field("log", self.node.store())
            .finish_non_exhaustive()
    }
}

impl Group {
    /// A group of one, which is known by `group`. Both numbers are 64 random bits.
    pub(crate) fn found(own: ClusterName, group: u64, seed: u64) -> Self {
        let log = Log::founded(group, own.clone());
        Self::with(own, log, seed)
    }

    /// Of a group that made this cluster a member, which knows nothing yet.
    pub(crate) fn join(own: ClusterName, group: u64, seed: u64) -> Self {
        Self::with(own, Log::empty(group), seed)
    }

    /// As an earlier process left it; `None`: this cluster is no member.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(crate) fn load(
        own: ClusterName,
        store: &dyn Store,
        seed: u64,
    ) -> Result<Option<Self>, OpenError> {
        let log = Log::load(store)?;
        Ok(log.map(|log| Self::with(own, log, seed)))
    }

    fn with(own: ClusterName, log: Log, seed: u64) -> Self {
        let chance = SeededChance::new(seed);
        let config = Config {
            id: id_of(&own),
            election_tick: LEASE,
            heartbeat_tick: HEARTBEAT,
            min_election_tick: LEASE,
            max_election_tick: LONGEST,
            applied: log.applied(),
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_AT_ONCE,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            ..Config::default()
        };
        let membership = log.membership();
        let members = membership.voters.iter().chain(&membership.learners);
        let names = members.map(|name| (id_of(name), name.clone())).collect();
        let alone = membership.voters.iter().eq([&own]);
        let logger = slog::Logger::root(ToTracing, slog::o!());
        let node = RawNode::new(&config, log, &logger);
        let mut group = Self {
            own,
            node: node.expect("the settings are constant, and what was loaded was checked"),
            names,
            chance,
            by_chance: 0,
            role: StateRole::Follower,
            ticks: 0,
            silent: 0,
            outbox: Vec::new(),
            stalled: false,
            broken: None,
            doubted: None,
        };
        group.settle();
        if alone {
            group.drive(|node| drop(node.campaign()));
        }
        group
    }

    // ---- What it is

    pub(crate) fn id(&self) -> u64 {
        self.membership().group
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(crate) fn leads(&self) -> bool {
        self.is_sound() && self.is_member() && self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn is_member(&self) -> bool {
        self.has(&self.own)
    }

    pub(crate) fn has(&self, cluster: &ClusterName) -> bool {
        self.voters().contains(cluster) || self.learners().contains(cluster)
    }

    /// It was dismissed, and nobody can need its vote any more to find out: who has not heard yet that it
    /// is decided counts on it still.
    pub(crate) fn may_go(&self) -> bool {
        if self.is_member() || self.is_new() {
            return false;
        }
        if self.node.raft.state != StateRole::Leader {
            return self.silent > LINGERING;
        }
        let applied = self.node.store().applied();
        let knows = |voter: &&ClusterName| {
            let progress = self.node.raft.prs().get(id_of(voter));
            progress.is_some_and(|progress| progress.committed_index >= applied)
        };
        2 * self.voters().iter().filter(knows).count() > self.voters().len()
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leader(&self) -> Option<&ClusterName> {
        let leader = self.node.raft.leader_id;
        self.names.get(&leader).filter(|_| self.is_sound())
    }

    /// Nobody who leads was heard for so long that somebody should.
    pub(crate) fn is_forlorn(&self) -> bool {
        self.silent > LONGEST
    }

    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// What stands in the log and the ledgers do not have, in order. Some of it may never be decided.
    pub(crate) fn ahead(&self) -> impl Iterator<Item = Decision> {
        let decisions = self.node.store().ahead();
        decisions.filter_map(|data| isthmus_wire::decode_decision(data).ok())
    }

    pub(crate) fn voters(&self) -> &BTreeSet<ClusterName> {
        &self.membership().voters
    }

    pub(crate) fn learners(&self) -> &BTreeSet<ClusterName> {
        &self.membership().learners
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let last = self.node.raft.raft_log.last_index();
        let members = self.voters().iter().chain(self.learners());
        members
            .map(|cluster| {
                let progress = self.node.raft.prs().get(id_of(cluster));
                let matched = progress.filter(|_| self.leads());
                Member {
                    cluster: cluster.clone(),
                    votes: self.voters().contains(cluster),
                    lacks: matched.map(|progress| last.saturating_sub(progress.matched)),
                }
            })
            .collect()
    }

    fn membership(&self) -> &Membership {
        self.node.store().membership()
    }

    /// It has been made a member and was told nothing yet.
    fn is_new(&self) -> bool {
        self.membership().voters.is_empty()
    }

    fn is_sound(&self) -> bool {
        self.broken.is_none() && !self.stalled
    }

    // ---- What happens to it

    pub(crate) fn on_tick(&mut self) {
        let leads = self.is_sound() && self.node.raft.state == StateRole::Leader;
        self.silent = if leads { 0 } else { self.silent + 1 };
        if !self.is_sound() {
            return;
        }
        self.ticks += 1;
        let reminds = self.ticks.is_multiple_of(REMIND) && self.leads();
        self.drive(|node| {
            node.tick();
            if reminds {
                let lagging: Vec<_> = (node.raft.prs().iter())
                    .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
                    .map(|(id, _)| *id)
                    .collect();
                for id in lagging {
                    node.report_snapshot(id, SnapshotStatus::Failure);
                }
            }
        });
    }

    /// A message of a member, whose certificate said who it is. `reaches`: do the copies of the ledgers
    /// stand there, or further?
    pub(crate) fn on_frame(
        &mut self,
        from: &ClusterName,
        frame: proto::AuthorityFrame,
        reaches: impl FnOnce(&[(LedgerName, LedgerHead)]) -> bool,
    ) -> Heard {
        if !self.is_sound() || frame.group != self.id() {
            return Heard::Nothing;
        }
        let Some(message) = frame.message else {
            return Heard::Nothing;
        };
        let message = *message;
        let kind = message.kind();
        let is_leader = matches!(kind, Kind::Append | Kind::Heartbeat | Kind::Snapshot);
        if self.is_new() && !is_leader {
            return Heard::Nothing; // It might have voted before its store was lost: it does not vote.
        }
        if is_leader {
            self.silent = 0;
        }
        self.names.insert(id_of(from), from.clone());
        let Some(message) = message::from_wire(message, id_of(from), id_of(&self.own)) else {
            return Heard::Nothing;
        };
        self.on_message(kind, message, reaches)
    }

    fn on_message(
        &mut self,
        kind: Kind,
        message: Message,
        reaches: impl FnOnce(&[(LedgerName, LedgerHead)]) -> bool,
    ) -> Heard {
        let is_current = message.term >= self.term();
        let last = self.node.raft.raft_log.last_index();
        if kind == Kind::Heartbeat && is_current && message.commit > last {
            // A leader names no entry that this member did not say it has. It may be of a time before this
            // one left, and joined again.
            let since = *self.doubted.get_or_insert(self.ticks);
            if !self.is_new() || self.ticks - since > LONGEST as u64 {
                self.broken = Some(Broken::LogLost);
            }
            return Heard::Nothing;
        }
        if kind == Kind::Heartbeat && is_current {
            self.doubted = None;
        }
        if self.doubted.is_some() {
            return Heard::Nothing;
        }
        if kind == Kind::Snapshot && is_current {
            let heads = message::contents(message.get_snapshot()).and_then(heads);
            let Some(heads) = heads else {
                return Heard::Nothing;
            };
            let is_news = message.get_snapshot().get_metadata().index > self.node.store().applied();
            if is_news && !reaches(&heads) {
                return Heard::Follow;
            }
        }
        if kind == Kind::Appended && self.decides_more(&message) {
            return Heard::Nothing;
        }
        // Errors say that the message is of somebody unknown or too late.
        self.drive(|node| drop(node.step(message)));
        Heard::Nothing
    }

    /// Would a leader that is dismissed decide more by this? It still tells others what is decided; at more
    /// than that the library stops, and who leads next decides it.
    fn decides_more(&self, appended: &Message) -> bool {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || self.is_member() || appended.reject {
            return false;
        }
        let has = |voter: &ClusterName| {
            let id = id_of(voter);
            let matched = raft.prs().get(id).map_or(0, |progress| progress.matched);
            if id == appended.from {
                matched.max(appended.index)
            } else {
                matched
            }
        };
        let mut matched: Vec<_> = self.voters().iter().map(has).collect();
        matched.sort_unstable_by(|a, b| b.cmp(a));
        let by_most = matched.get(matched.len() / 2);
        by_most.is_some_and(|index| *index > raft.raft_log.committed)
    }

    /// The decision stands in the log, where the group may come to agree on it. `None`: this cluster does
    /// not lead, or is about to lead no more.
    pub(crate) fn propose(&mut self, decision: &Decision) -> Option<Place> {
        if !self.can_propose() {
            return None;
        }
        let data = isthmus_wire::encode_decision(decision);
        let mut done = false;
        self.drive(|node| done = node.propose(Vec::new(), data).is_ok());
        done.then(|| Place {
            index: self.node.raft.raft_log.last_index(),
            term: self.term(),
        })
    }

    pub(crate) fn can_propose(&self) -> bool {
        self.leads() && self.node.raft.lead_transferee.is_none()
    }

    /// A cluster's part changes, if nobody else's does right now.
    pub(crate) fn change(&mut self, cluster: &ClusterName, part: Part) {
        if !self.can_propose() || self.node.raft.has_pending_conf() {
            return;
        }
        let voting = proto::Voting {
            cluster: cluster.to_string(),
            part: part.into(),
        };
        let change = conf_change(id_of(cluster), part);
        let context = isthmus_wire::encode_voting(&voting);
        self.drive(|node| {
            drop(change.map(|change| node.propose_conf_change(context, change)));
        });
    }

    /// Has it everything that is decided?
    pub(crate) fn is_abreast(&self, cluster: &ClusterName) -> bool {
        let progress = self.node.raft.prs().get(id_of(cluster));
        let decided = self.node.raft.raft_log.committed;
        progress.is_some_and(|progress| progress.matched >= decided)
    }

    /// Asks the voter to lead. Until it does, or a while has passed, nothing can be proposed.
    pub(crate) fn transfer(&mut self, to: &ClusterName) {
        let id = id_of(to);
        self.drive(|node| node.transfer_leader(id));
    }

    /// The cluster was not reached.
    pub(crate) fn on_unreachable(&mut self, cluster: &ClusterName) {
        let id = id_of(cluster);
        self.drive(|node| node.report_unreachable(id));
    }

    // ---- What it asks for

    /// What has been decided, of the next step. Tell `done` before asking again.
    pub(crate) fn work(&mut self) -> Option<Work> {
        if !self.is_sound() || !self.node.has_ready() {
            return None;
        }
        let mut work = Work::default();
        let mut failed = None;
        let mut messages = Vec::new();
        self.drive(|node| failed = step(node, &mut work, &mut messages).err());
        if failed.is_some() {
            self.broken = failed;
            return None;
        }
        let membership = self.node.store().membership().clone();
        for name in membership.voters.iter().chain(&membership.learners) {
            self.names.insert(id_of(name), name.clone());
        }
        for message in messages {
            let to = self.names.get(&message.to).cloned();
            let message = message::to_wire(message);
            if let (Some(to), Some(message)) = (to, message) {
                let frame = self.frame(message);
                self.outbox.push((to, frame));
            }
        }
        work.dismissed = !self.is_new() && !self.is_member();
        Some(work)
    }

    /// The ledgers have what `work` gave, and stand there. `None`: they are copies of others' and will have
    /// it from them; after a restart it is given again.
    pub(crate) fn done(&mut self, upto: u64, heads: Option<Vec<(LedgerName, LedgerHead)>>) {
        if let Some(heads) = heads {
            self.node.mut_store().set_applied(upto, heads);
        }
    }

    /// What `work` gave cannot be done: this member takes part no more.
    pub(crate) fn give_up(&mut self, why: Broken) {
        self.broken = Some(why);
    }

    /// What must be saved, in one commit with the ledgers.
    pub(crate) fn unsaved(&self) -> Option<Batch> {
        let is_sound = self.broken.is_none();
        is_sound.then(|| self.node.store().unsaved()).flatten()
    }

    /// It is saved: gives what is to be sent now.
    pub(crate) fn on_saved(&mut self) -> Vec<(ClusterName, proto::AuthorityFrame)> {
        if self.broken.is_some() {
            self.outbox.clear();
        }
        self.stalled = false;
        self.node.mut_store().saved();
        std::mem::take(&mut self.outbox)
    }

    /// It was not: nothing happens until it is.
    pub(crate) fn on_not_saved(&mut self) {
        self.stalled = true;
    }

    /// Takes what it knows out of the store: this cluster is no member any more.
    pub(crate) fn erase(&self, batch: &mut Batch) {
        self.node.store().erase(batch);
    }

    fn frame(&self, message: proto::RaftMessage) -> proto::AuthorityFrame {
        proto::AuthorityFrame {
            group: self.id(),
            message: Some(Box::new(message)),
        }
    }

    /// Does something with the library. It stops the process where it finds that it contradicts itself; a
    /// control plane that serves on without a vote is better.
    fn drive(&mut self, act: impl FnOnce(&mut RawNode<Log>)) {
        if catch_unwind(AssertUnwindSafe(|| act(&mut self.node))).is_err() {
            self.broken = Some(Broken::Failed);
            return;
        }
        self.settle();
    }

    /// The library draws chance by itself; in a simulation only `world` may.
    fn settle(&mut self) {
        let role = self.node.raft.state;
        if role != self.role {
            self.role = role;
            let drawn = self.chance.below(BY_CHANCE);
            self.by_chance = usize::try_from(drawn).unwrap_or_default();
        }
        let turn = self.voters().iter().position(|voter| *voter == self.own);
        let patience = PATIENCE + APART * turn.unwrap_or_default() + self.by_chance;
        let patience = patience.min(LONGEST - 1);
        self.node.raft.set_randomized_election_timeout(patience);
    }
}

/// One step of the library: keeps what it must remember, and gives what is decided.
fn step(
    node: &mut RawNode<Log>,
    work: &mut Work,
    messages: &mut Vec<Message>,
) -> Result<(), Broken> {
    let mut ready = node.ready();
    if !ready.snapshot().is_empty() {
        let contents = message::contents(ready.snapshot());
        let (membership, heads) = contents
            .and_then(|contents| {
                let group = node.store().membership().group;
                let membership = Membership::read(group, &contents.voters, &contents.learners)?;
                Some((membership, heads(contents)?))
            })
            .ok_or_else(|| Broken::NotUnderstood("where the log begins".to_owned()))?;
        let metadata = ready.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        node.mut_store().restart(index, term, membership);
        work.take_over = Some(heads);
        work.upto = index;
    }
    node.mut_store().append(ready.take_entries());
    if let Some(hard) = ready.hs() {
        node.mut_store().set_hard(hard.clone());
    }
    messages.extend(ready.take_messages());
    messages.extend(ready.take_persisted_messages());
    decide(node, ready.take_committed_entries(), work)?;
    let mut light = node.advance(ready);
    if let Some(commit) = light.commit_index() {
        node.mut_store().set_commit(commit);
    }
    messages.extend(light.take_messages());
    decide(node, light.take_committed_entries(), work)?;
    node.advance_apply();
    Ok(())
}

fn decide(node: &mut RawNode<Log>, entries: Vec<Entry>, work: &mut Work) -> Result<(), Broken> {
    for entry in entries {
        work.upto = entry.index;
        if entry.entry_type != EntryType::EntryNormal {
            change_members(node, &entry)?;
            continue;
        }
        let place = Place {
            index: entry.index,
            term: entry.term,
        };
        let decision = isthmus_wire::decode_decision(&entry.data);
        let decision = decision.map_err(|error| Broken::NotUnderstood(error.to_string()))?;
        work.decided.push(Decided { place, decision });
    }
    Ok(())
}

fn change_members(node: &mut RawNode<Log>, entry: &Entry) -> Result<(), Broken> {
    let unclear = || Broken::NotUnderstood("a change of its members".to_owned());
    let voting = isthmus_wire::decode_voting(&entry.context).ok_or_else(unclear)?;
    let cluster: ClusterName = voting.cluster.parse().map_err(|_| unclear())?;
    let change = conf_change(id_of(&cluster), voting.part()).ok_or_else(unclear)?;
    if node.apply_conf_change(&change).is_err() {
        return Ok(()); // The last voter stays, whoever says otherwise.
    }
    let mut membership = node.store().membership().clone();
    membership.voters.remove(&cluster);
    membership.learners.remove(&cluster);
    match voting.part() {
        Part::Votes => membership.voters.insert(cluster),
        Part::Learns => membership.learners.insert(cluster),
        Part::Leaves | Part::Unspecified => false,
    };
    node.mut_store().set_membership(membership);
    Ok(())
}

fn conf_change(id: u64, part: Part) -> Option<ConfChange> {
    let kind = match part {
        Part::Votes => ConfChangeType::AddNode,
        Part::Learns => ConfChangeType::AddLearnerNode,
        Part::Leaves => ConfChangeType::RemoveNode,
        Part::Unspecified => return None,
    };
    let mut change = ConfChange::default();
    change.set_change_type(kind);
    change.node_id = id;
    Some(change)
}

fn heads(contents: proto::RaftSnapshot) -> Option<Vec<(LedgerName, LedgerHead)>> {
    let heads = contents.ledgers.into_iter();
    heads.map(|head| isthmus_wire::to_head(head).ok()).collect()
}

/// What the library has to say goes where everything goes.
struct ToTracing;

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        if record.level().is_at_least(slog::Level::Error) {
            tracing::error!("{}", record.msg());
        } else {
            tracing::debug!("{}", record.msg());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
