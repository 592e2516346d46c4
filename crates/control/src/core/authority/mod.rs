//! This cluster's part in the authority: what it proposes, what is decided, who else votes.
//!
//! The ledgers of config and history are written by the group's decisions alone. Whoever leads judges
//! writes against everything that it proposed before, decided or not, and proposes what the ledgers
//! become; what is decided is the same everywhere, to the byte. Who votes is config (`voters` of the
//! Mesh); whoever leads brings the group there, one cluster at a time.

mod members;
mod reset;
mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use isthmus_api::Failure;
use isthmus_model::{ClusterName, Position};
use isthmus_replica::{Change, DecidedWrite, Decision, LedgerName, Mark, WriteError};
use isthmus_wire::proto;
use isthmus_wire::proto::peer_frame::Frame;
use isthmus_world::{Batch, Chance, Store};

use super::answer::{Answer, Held, ReplyTo};
use super::restored::Restored;
use super::write::Submitted;
use super::{Action, Core, Notice, Now, PeerSessionId};
use crate::authority::{Broken, Decided, Group, Heard, Place, Work};
pub(in crate::core) use reset::Reset;

/// How long a write waits for whoever leads, and for its decision.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_FOR_OTHERS: Duration = Duration::from_secs(4);
/// When whoever leads is asked again.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Authority {
    /// `None`: this cluster is no member.
    group: Option<Group>,
    /// Whose control planes accept config, as this cluster knows it.
    clusters: BTreeSet<ClusterName>,
    /// Whose are to, says config; empty: it says nothing.
    pub(super) wanted: BTreeSet<ClusterName>,
    /// What another one said of them, and where it stands with that.
    told: Option<(BTreeSet<ClusterName>, Mark)>,
    /// Writes that wait for somebody who leads.
    waiting: Vec<Waiting>,
    /// By index in the log.
    proposed: BTreeMap<u64, Proposed>,
    transfers: Vec<Transfer>,
    /// The term that was last begun, and the one whose epoch is decided.
    begun: u64,
    decided: u64,
    /// What was told of.
    broken: Option<Broken>,
    /// Decided while the ledgers were copies: they reach there before this cluster decides again.
    missed: BTreeMap<LedgerName, Position>,
    /// The ledgers are to be copies once all is saved.
    retires: bool,
    /// The last time that the authority began anew.
    reset: Option<Reset>,
    /// It is not saved, so nobody is told.
    is_reset_unsaved: bool,
    /// This cluster alone was the group when something was saved last: all that is not saved since is its own word.
    was_alone: bool,
    pub(super) restored: Option<Restored>,
    /// Writes that were asked for here.
    asked: u64,
}

#[derive(Debug)]
struct Waiting {
    asked: Submitted,
    deadline: Instant,
    /// Before this nothing is done with it.
    not_before: Instant,
    /// What whoever was asked last had to say.
    said: Option<Answer>,
}

#[derive(Debug)]
struct Proposed {
    term: u64,
    writes: Vec<DecidedWrite>,
    /// The ledgers have it as a proposal.
    is_staged: bool,
    reply: Option<(ReplyTo, Held)>,
    /// What is asked was accepted before, if that is decided.
    is_in_doubt: bool,
    deadline: Instant,
}

#[derive(Debug)]
struct Transfer {
    reply_to: ReplyTo,
    to: ClusterName,
    deadline: Instant,
}

impl Authority {
    pub(super) fn new(
        own: &ClusterName,
        group: Option<Group>,
        clusters: BTreeSet<ClusterName>,
        reset: Option<Reset>,
    ) -> Self {
        let mut authority = Self {
            reset,
            is_reset_unsaved: false,
            was_alone: false,
            restored: None,
            asked: 0,
            group,
            clusters,
            wanted: BTreeSet::new(),
            told: None,
            waiting: Vec::new(),
            proposed: BTreeMap::new(),
            transfers: Vec::new(),
            begun: 0,
            decided: 0,
            broken: None,
            missed: BTreeMap::new(),
            retires: false,
        };
        authority.was_alone = authority.is_alone(own);
        authority
    }

    pub(super) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    pub(super) fn clusters(&self) -> &BTreeSet<ClusterName> {
        &self.clusters
    }

    /// This cluster alone is the group.
    fn is_alone(&self, own: &ClusterName) -> bool {
        let group = self.group.as_ref();
        group.is_none_or(|group| group.voters().iter().eq([own]) && group.learners().is_empty())
    }

    /// A change of the ledger waits for its decision.
    fn proposes(&self, ledger: &LedgerName) -> bool {
        let mut writes = (self.proposed.values()).flat_map(|proposed| &proposed.writes);
        writes.any(|write| write.ledger == *ledger)
    }

    /// It leads, and everything that was decided before has been given to it.
    fn leads(&self) -> bool {
        let leads = |group: &Group| group.can_propose() && group.term() == self.decided;
        self.group.as_ref().is_some_and(leads)
            && self.proposed.values().all(|proposed| proposed.is_staged)
    }
}

impl<S: Store> Core<S> {
    // ---- Writes

    /// Carries a write to whoever leads, and its answer back.
    pub(super) fn submit(&mut self, asked: Submitted, now: Now) {
        // Whoever asked over another cluster hears that it was in vain while it still waits.
        let patience = match asked.reply_to {
            ReplyTo::Request(_) => PATIENCE,
            ReplyTo::Peer(..) => PATIENCE_FOR_OTHERS,
        };
        self.authority.waiting.push(Waiting {
            asked,
            deadline: now.monotonic + patience,
            not_before: now.monotonic,
            said: None,
        });
        self.pursue();
    }

    /// A name for a write that is asked for here, which no other one has: this process drew the first part.
    pub(super) fn next_request(&mut self) -> String {
        self.authority.asked += 1;
        format!("{:016x}.{}", self.settings.seed, self.authority.asked)
    }

    /// Whoever was asked did not accept it, or is gone: asks whoever leads next.
    pub(super) fn submit_again(
        &mut self,
        asked: Submitted,
        deadline: Instant,
        said: Option<Answer>,
    ) {
        self.authority.waiting.push(Waiting {
            asked,
            deadline,
            not_before: self.now.monotonic + AGAIN,
            said,
        });
    }

    /// Nobody accepted it in time.
    fn give_up(&mut self, waiting: Waiting, now: Instant) {
        let Waiting { asked, said, .. } = waiting;
        let answer = if asked.is_in_doubt {
            let key = &asked.write.key;
            let message = format!(
                "{}; it is not known whether the change was accepted: look at {key} before you repeat it",
                self.missing_voters(now)
            );
            Failure::new(504, "Timeout", message).into()
        } else {
            said.unwrap_or_else(|| self.authority_unreachable(now).into())
        };
        self.reply(asked.reply_to, answer);
    }

    /// Does with writes that wait what can be done.
    fn pursue(&mut self) {
        let now = self.now;
        for waiting in std::mem::take(&mut self.authority.waiting) {
            let (asked, deadline) = (&waiting.asked, waiting.deadline);
            if now.monotonic < waiting.not_before {
                self.authority.waiting.push(waiting);
                continue;
            }
            if self.may_judge() {
                self.judge_and_propose(waiting.asked, now);
                continue;
            }
            let is_member = self.decides();
            match self.way_to_authority(now.monotonic) {
                Some((session, _)) if !asked.is_relayed => {
                    self.forward(session, waiting.asked, deadline);
                }
                // Whoever is no member and hears none has nobody to wait for.
                None if !is_member && !asked.is_relayed && !asked.is_in_doubt => {
                    self.give_up(waiting, now.monotonic);
                }
                _ => self.authority.waiting.push(waiting),
            }
        }
    }

    /// The stream to whoever leads, or to a member, which will know.
    pub(super) fn way_to_authority(&self, now: Instant) -> Option<(PeerSessionId, ClusterName)> {
        let way = |cluster: &ClusterName| {
            let session = self.peers.session_of(cluster)?;
            let heard = self.is_heard(cluster, now);
            heard.then(|| (session, cluster.clone()))
        };
        match &self.authority.group {
            Some(group) if self.decides() => {
                let leader = group.leader()?;
                way(leader)
            }
            _ => self.authority.clusters.iter().find_map(way),
        }
    }

    /// The ledgers would become this. It is answered when it is decided, and saved here.
    ///
    /// Errors: as for `Replica::propose`, of the writes.
    pub(super) fn propose(
        &mut self,
        writes: Vec<(LedgerName, Vec<Change>)>,
        reply_to: ReplyTo,
        held: Held,
    ) -> Result<(), WriteError> {
        let writes = self.replica.propose(writes)?;
        let decision = Decision {
            epoch: None,
            writes,
        };
        self.propose_decision(decision, Some((reply_to, held)));
        Ok(())
    }

    /// What was accepted before is said when everything up to now is decided.
    pub(super) fn propose_in_doubt(&mut self, reply_to: ReplyTo, held: Held) {
        let group = self.authority.group.as_mut();
        let place = group.and_then(|group| group.propose(&Decision::default()));
        let reply = (reply_to, held);
        let Some(place) = place else {
            return self.leave_reply_open(Some(&reply));
        };
        self.await_decision(place, Vec::new(), Some(reply), true);
    }

    pub(super) fn propose_decision(&mut self, decision: Decision, reply: Option<(ReplyTo, Held)>) {
        let group = self.authority.group.as_mut();
        let place = group.and_then(|group| group.propose(&decision));
        let Some(place) = place else {
            // Too much waits for its decision already.
            self.discard_proposals();
            if let Some((reply_to, _)) = reply {
                let message = "too many changes wait for the authority's voters: try again";
                self.reply(reply_to, Failure::unavailable(message).into());
            }
            return;
        };
        self.await_decision(place, decision.writes, reply, false);
    }

    fn await_decision(
        &mut self,
        Place { index, term }: Place,
        writes: Vec<DecidedWrite>,
        reply: Option<(ReplyTo, Held)>,
        is_in_doubt: bool,
    ) {
        let proposed = Proposed {
            term,
            writes,
            is_staged: true,
            reply,
            is_in_doubt,
            deadline: self.now.monotonic + PATIENCE,
        };
        self.authority.proposed.insert(index, proposed);
    }

    /// What was proposed may still be decided, by whoever leads now; nothing is judged by it until then.
    fn discard_proposals(&mut self) {
        self.replica.discard_proposals();
        for proposed in self.authority.proposed.values_mut() {
            proposed.is_staged = false;
        }
    }

    // ---- Decisions

    /// Takes in what the group has decided, until there is nothing more; all of it is saved next.
    pub(super) fn take_decisions(&mut self) {
        loop {
            let Some(group) = &mut self.authority.group else {
                return;
            };
            if let Some(work) = group.work() {
                self.take_work(work);
                continue;
            }
            if !self.begin_term() {
                break;
            }
        }
        let broken = self
            .authority
            .group
            .as_ref()
            .and_then(Group::broken)
            .cloned();
        if broken != self.authority.broken {
            self.authority.broken.clone_from(&broken);
            if let Some(broken) = broken {
                let reason = broken.to_string();
                self.authority.retires = true; // It follows those who go on.
                self.actions
                    .push(Action::Notice(Notice::VoteLost { reason }));
            }
        }
    }

    fn take_work(&mut self, work: Work) {
        let Work {
            take_over,
            decided,
            upto,
            dismissed,
        } = work;
        if let Some(heads) = take_over {
            // What of it was decided is not told.
            self.leave_open(upto);
            self.authority.missed.clear();
            let outputs = self.replica.take_over(heads);
            self.perform(outputs);
        }
        self.take_back(&decided);
        for Decided { place, decision } in &decided {
            if decision.epoch.is_some() {
                self.authority.decided = self.authority.decided.max(place.term);
            }
        }
        let decides = self.decides();
        if decides {
            for decided in decided {
                self.take_decision(decided);
            }
            self.give_up_proposals(upto);
        } else {
            // It follows the others, and has it from them.
            let writes = (decided.into_iter()).flat_map(|decided| decided.decision.writes);
            let missed = writes.map(|write| (write.ledger, write.position));
            self.authority.missed.extend(missed);
            self.leave_open(upto);
        }
        let heads = decides.then(|| self.replica.heads());
        if let Some(group) = &mut self.authority.group {
            group.done(upto, heads);
        }
        self.authority.retires |= dismissed;
    }

    /// A member that followed the others for a while decides again, if it has everything before `decided`.
    pub(super) fn take_back(&mut self, decided: &[Decided]) {
        let is_sound = |group: &Group| group.is_member() && group.broken().is_none();
        let is_member = self.authority.group.as_ref().is_some_and(is_sound);
        let missed = &self.authority.missed;
        if !is_member || self.decides() || (missed.is_empty() && decided.is_empty()) {
            return;
        }
        let has = |(ledger, position): (&LedgerName, &Position)| {
            let copy = self.replica.copy(ledger);
            copy.is_some_and(|copy| copy.mark().position >= *position)
        };
        let writes = |decided: &&Decided| !decided.decision.writes.is_empty();
        let next = decided.iter().find(writes);
        let precedes = next.is_none_or(|next| self.replica.precedes(&next.decision));
        if missed.iter().all(has) && precedes {
            self.authority.missed.clear();
            let outputs = self.replica.take_over(self.replica.copied_heads());
            self.perform(outputs);
        }
    }

    /// Everything that was decided before is in the ledgers, so that new writes can be judged.
    fn may_judge(&self) -> bool {
        self.decides() && self.authority.leads()
    }

    /// Are the ledgers of config written by what this cluster decides with others?
    pub(super) fn decides(&self) -> bool {
        self.replica.ledger(&LedgerName::Config).is_some()
    }

    fn take_decision(&mut self, decided: Decided) {
        let Decided { place, decision } = decided;
        let proposed = self.authority.proposed.remove(&place.index);
        let begins = decision.epoch.is_some();
        let (own, other) = match proposed {
            Some(proposed) if proposed.term == place.term => (Some(proposed), None),
            other => (None, other),
        };
        if let Some(other) = other {
            self.refuse_proposal(&other);
        }
        let taken = match &own {
            Some(own) if own.is_staged && !begins => {
                self.replica.agree(&own.writes);
                Ok(true)
            }
            _ => self.replica.decide(decision),
        };
        match taken {
            Ok(true) => self.held.extend(own.and_then(|own| own.reply)),
            Ok(false) => self.leave_reply_open(own.and_then(|own| own.reply).as_ref()),
            Err(error) => {
                self.leave_reply_open(own.and_then(|own| own.reply).as_ref());
                if let Some(group) = &mut self.authority.group {
                    group.give_up(Broken::OutOfOrder(error.to_string()));
                }
            }
        }
    }

    /// Proposals up to this index that others' decisions took the place of.
    fn give_up_proposals(&mut self, upto: u64) {
        let later = self.authority.proposed.split_off(&upto.saturating_add(1));
        let void = std::mem::replace(&mut self.authority.proposed, later);
        for proposed in void.values() {
            self.refuse_proposal(proposed);
        }
    }

    /// Of proposals up to this index it is not known here whether they were decided.
    fn leave_open(&mut self, upto: u64) {
        let later = self.authority.proposed.split_off(&upto.saturating_add(1));
        let open = std::mem::replace(&mut self.authority.proposed, later);
        for proposed in open.into_values() {
            self.leave_reply_open(proposed.reply.as_ref());
        }
    }

    fn leave_reply_open(&mut self, reply: Option<&(ReplyTo, Held)>) {
        if let Some((reply_to, _)) = reply {
            let message = "it is not known here whether the authority accepted the change: look before \
                           you repeat it";
            let failure = Failure::new(504, "Timeout", message);
            self.reply(*reply_to, failure.into());
        }
    }

    fn refuse_proposal(&mut self, void: &Proposed) {
        if void.is_in_doubt {
            return self.leave_reply_open(void.reply.as_ref());
        }
        if let Some((reply_to, _)) = &void.reply {
            let reply_to = *reply_to;
            let message =
                "another cluster took the lead, and the change was not accepted: try again";
            self.reply(reply_to, Failure::unavailable(message).into());
        }
    }

    /// A new leader begins an epoch before it judges: then it knows everything that was decided.
    /// True when there is more to do.
    fn begin_term(&mut self) -> bool {
        let Some(group) = &self.authority.group else {
            return false;
        };
        let (leads, term) = (group.leads(), group.term());
        self.replica
            .set_leads(leads && self.authority.decided == term);
        if !leads {
            if self.authority.proposed.values().any(|each| each.is_staged) {
                self.discard_proposals();
            }
            self.pursue();
            return false;
        }
        let can_propose = self.authority.group().is_some_and(Group::can_propose);
        if self.authority.begun < term && can_propose {
            self.authority.begun = term;
            let epoch = self.replica.next_epoch();
            let writes = Vec::new();
            self.propose_decision(Decision { epoch, writes }, None);
            return true;
        }
        let waited = self.authority.waiting.len();
        self.pursue();
        self.authority.waiting.len() < waited
    }

    // ---- What is saved, and said

    pub(super) fn unsaved_votes(&self) -> Option<Batch> {
        self.authority.group.as_ref()?.unsaved()
    }

    pub(super) fn on_votes_saved(&mut self) {
        if std::mem::take(&mut self.authority.is_reset_unsaved) {
            let outputs = self.replica.announce();
            self.perform(outputs);
        }
        self.authority.was_alone = self.authority.is_alone(&self.settings.cluster);
        let Some(group) = &mut self.authority.group else {
            return;
        };
        for (to, frame) in group.on_saved() {
            match self.peers.session_of(&to) {
                Some(session) if self.replica.can_share(&to) => {
                    self.send_to_peer(session, Frame::Authority(frame));
                }
                _ => {
                    if let Some(group) = &mut self.authority.group {
                        group.on_unreachable(&to);
                    }
                }
            }
        }
    }

    /// `true`: nobody else can have heard of what was not saved.
    pub(super) fn on_votes_not_saved(&mut self, error: &str) -> bool {
        // Whoever is left alone by what could not be saved has agreed on it with those who left.
        let authority = &self.authority;
        let alone = authority.was_alone && authority.is_alone(&self.settings.cluster);
        if !alone && let Some(group) = &mut self.authority.group {
            group.on_not_saved();
        }
        let mut refused: Vec<_> = std::mem::take(&mut self.held)
            .into_iter()
            .map(|(reply_to, _)| reply_to)
            .collect();
        if self.authority.group.is_some() {
            let waiting = std::mem::take(&mut self.authority.waiting);
            refused.extend(waiting.into_iter().map(|waiting| waiting.asked.reply_to));
        }
        self.refuse(refused, error);
        alone
    }

    pub(super) fn on_authority_frame(
        &mut self,
        session: PeerSessionId,
        frame: proto::AuthorityFrame,
    ) {
        let Some(from) = self.peers.cluster_of(session).cloned() else {
            return;
        };
        let Authority {
            group,
            clusters,
            wanted,
            told,
            reset,
            restored,
            ..
        } = &self.authority;
        // Who was away may not know yet who became a member meanwhile.
        let is_told = || (told.as_ref()).is_some_and(|(told, _)| told.contains(&from));
        let is_believed = || clusters.contains(&from) || is_told();
        // Late words of a group that this cluster has left for another.
        let is_past = (reset.as_ref()).is_some_and(|reset| reset.group() != frame.group);
        match group {
            Some(group) if group.has(&from) || is_believed() => {}
            None if is_past => return,
            // It may be counted on for what it does not know.
            None if restored.is_some() => return,
            None if wanted.contains(&self.settings.cluster) && is_believed() => {
                let (own, seed) = (self.settings.cluster.clone(), self.chance.draw());
                self.authority.group = Some(Group::join(own, frame.group, seed));
            }
            _ => return,
        }
        let replica = &self.replica;
        let reaches = |heads: &[_]| replica.reaches(heads);
        let heard =
            (self.authority.group.as_mut()).map(|group| group.on_frame(&from, frame, reaches));
        if let Some(Heard::Follow) = heard {
            // It was away for too long: it follows like anybody, and then goes on. Everybody whom it would
            // follow may have left meanwhile.
            if !self.authority.clusters.contains(&from)
                && let Some((clusters, _)) = self.authority.told.take()
            {
                self.set_authority(clusters);
            }
            if self.decides() {
                self.hand_back();
            }
        }
    }

    /// This cluster votes no more: it follows those who do.
    pub(super) fn leave_group(&mut self) {
        if let Some(group) = self.authority.group.take() {
            group.erase(&mut self.pending);
        }
        self.hand_back();
    }

    /// Follows the others from now on.
    fn hand_back(&mut self) {
        self.leave_open(u64::MAX);
        if self.decides() {
            let outputs = self.replica.hand_back();
            self.perform(outputs);
        }
    }

    /// Whoever decides no more hands the ledgers back when all that was decided is saved.
    pub(super) fn retire(&mut self) {
        if std::mem::take(&mut self.authority.retires) {
            self.hand_back();
        }
    }
}
