//! Who votes: config says who is to, and whoever leads brings the group there.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use isthmus_api::Failure;
use isthmus_model::{ClusterName, NameError, Position};
use isthmus_replica::{Change, DecidedWrite, Decision, Expect, LedgerName, Mark};
use isthmus_wire::proto;
use isthmus_wire::proto::peer_question::Question;
use isthmus_wire::proto::voting::Part;
use isthmus_world::Store;

use super::{Authority, PATIENCE, Transfer};
use crate::authority::Group;
use crate::core::answer::ReplyTo;
use crate::core::objects::{decode, encode};
use crate::core::{Core, Now};

/// The only key of its ledger: names, in order.
const MEMBERS: &[u8] = b"members";

/// Errors: it is no record of names.
fn members(record: &[u8]) -> Result<BTreeSet<ClusterName>, String> {
    let names: Vec<String> = decode(record).map_err(|error| error.to_string())?;
    let names = names.iter().map(|name| name.parse());
    names
        .collect::<Result<_, _>>()
        .map_err(|error: NameError| error.to_string())
}

impl<S: Store> Core<S> {
    /// Who is of the authority is in a ledger of its own: config says who is to be.
    pub(in crate::core) fn on_authority_entries(&mut self) {
        if !self.decides() && self.is_overruled(self.replica.authority_mark()) {
            return;
        }
        match self.recorded_members() {
            Ok(members) if !members.is_empty() => {
                self.hear_members(members.iter().map(ClusterName::as_str));
                self.set_authority(members);
                // Known before or not, from now on it is recorded: others weigh it by where that stands.
                let outputs = self.replica.announce();
                self.perform(outputs);
            }
            Ok(_) => {}
            Err(error) => {
                let key = Bytes::from_static(MEMBERS);
                self.bad_entry(&LedgerName::Authority, &key, error);
            }
        }
    }

    fn recorded_members(&self) -> Result<BTreeSet<ClusterName>, String> {
        let record = self.replica.find(&LedgerName::Authority, MEMBERS);
        record.map_or_else(|| Ok(BTreeSet::new()), |(_, record)| members(record))
    }

    /// Who is of the authority by the newest record that stands in this member's log, and where it is to stand.
    fn members_ahead(&self, group: &Group) -> Option<(BTreeSet<ClusterName>, Mark)> {
        let mut epoch = self.replica.authority_mark().epoch;
        let mut newest = None;
        for decision in group.ahead() {
            epoch = decision.epoch.unwrap_or(epoch);
            let of_authority = |write: &DecidedWrite| write.ledger == LedgerName::Authority;
            for write in decision.writes.into_iter().filter(of_authority) {
                let position = write.position;
                let record = write.entries.into_iter().find(|(key, _)| key == MEMBERS);
                let record = record.and_then(|(_, record)| members(&record?).ok());
                newest = record
                    .map(|found| (found, Mark { epoch, position }))
                    .or(newest);
            }
        }
        newest
    }

    /// One that is believed to be of the authority says who is.
    pub(in crate::core) fn on_authority_told(&mut self, clusters: BTreeSet<ClusterName>, at: Mark) {
        self.hear_members(clusters.iter().map(ClusterName::as_str));
        if self.authority.group.is_none() {
            self.set_authority(clusters);
        } else if self.position() == Position(0) && self.decides() {
            // It founded a mesh that there is: its store was lost.
            self.leave_group();
            self.replica.forget_shared();
            self.set_authority(clusters);
        } else if !(self.authority.told.iter()).any(|(_, known)| *known > at) {
            // Not everybody who tells has heard the latest.
            self.authority.told = Some((clusters, at));
        }
    }

    /// Whoever was away while the group changed hears of it from others only.
    fn notice_dismissal(&mut self) {
        let Some(group) = &self.authority.group else {
            return;
        };
        let own = &self.settings.cluster;
        let is_replaced = group.broken().is_some() && !self.authority.clusters.contains(own);
        if group.may_go() || is_replaced {
            return self.leave_group();
        }
        if !group.is_forlorn() {
            return;
        }
        // The ledgers may be further than the log: they were copies for a while. Or the log is, and says that this
        // cluster was added: then it may count already, and must not go because it was not there before.
        let recorded = (
            self.authority.clusters.clone(),
            self.replica.authority_mark(),
        );
        let ahead = self.members_ahead(group);
        let known = ahead.filter(|(_, at)| *at > recorded.1).unwrap_or(recorded);
        let told = self.authority.told.take();
        let newest = told.into_iter().chain([known]).max_by_key(|(_, at)| *at);
        if let Some((clusters, _)) = newest {
            if !clusters.contains(&self.settings.cluster) {
                self.leave_group();
            }
            // Also of one that still votes everybody may have left whom it would believe.
            self.set_authority(clusters);
        }
    }

    pub(in crate::core) fn set_authority(&mut self, clusters: BTreeSet<ClusterName>) {
        self.authority.clusters.clone_from(&clusters);
        let outputs = self.replica.set_authority(clusters);
        self.perform(outputs);
    }

    /// Those who follow know whom to believe. True when they are to be told.
    fn record_members(&mut self) -> bool {
        let Some(group) = &self.authority.group else {
            return false;
        };
        if self.authority.proposes(&LedgerName::Authority) {
            return true;
        }
        let members: BTreeSet<_> = group.voters() | group.learners();
        if self.recorded_members().as_ref() == Ok(&members) {
            return false;
        }
        let names: Vec<_> = members.iter().map(ToString::to_string).collect();
        let change = Change {
            key: Bytes::from_static(MEMBERS),
            value: Some(encode(&names)),
            expect: Expect::Anything,
        };
        let writes = self
            .replica
            .propose(vec![(LedgerName::Authority, vec![change])]);
        if let Ok(writes) = writes {
            let epoch = None;
            self.propose_decision(Decision { epoch, writes }, None);
        }
        true
    }

    pub(in crate::core) fn on_authority_tick(&mut self, now: Instant) {
        if let Some(group) = &mut self.authority.group {
            group.on_tick();
        }
        self.notice_dismissal();
        self.take_back(&[]);
        self.tend_members();
        self.finish_transfers(now);
        let (late, waiting) = std::mem::take(&mut self.authority.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|waiting| waiting.deadline <= now);
        self.authority.waiting = waiting;
        for waiting in late {
            self.give_up(waiting, now);
        }
        let mut unanswered = Vec::new();
        for proposed in self.authority.proposed.values_mut() {
            if proposed.deadline <= now {
                unanswered.extend(proposed.reply.take());
            }
        }
        for (reply_to, _) in unanswered {
            let message = format!(
                "{}; it is not known whether the change will be accepted: look before you repeat it",
                self.missing_voters(now)
            );
            self.reply(reply_to, Failure::new(504, "Timeout", message).into());
        }
        self.pursue();
    }

    /// Brings the group to what config says, a step at a time.
    fn tend_members(&mut self) {
        if !self.may_judge() || self.record_members() {
            return;
        }
        let wanted = &self.authority.wanted;
        let Some(group) = &self.authority.group else {
            return;
        };
        if wanted.is_empty() {
            return;
        }
        let (voters, learners) = (group.voters(), group.learners());
        let own = &self.settings.cluster;
        let now = self.now.monotonic;
        let is_here = |name: &ClusterName| {
            *name == *own || (self.is_heard(name, now) && self.replica.can_share(name))
        };
        let is_ready = |name: &&ClusterName| is_here(name) && group.is_abreast(name);
        let is_new = |name: &&ClusterName| !group.has(name) && is_here(name);
        let leaves = |name: &&ClusterName| !wanted.contains(*name) && *name != own;
        // While somebody joins, only those leave who are gone: the others make up the majority until then.
        let joins = wanted.iter().any(|name| !voters.contains(name));
        let goes = |name: &&ClusterName| leaves(name) && !(joins && is_here(name));
        let change = (wanted.iter().find(is_new).map(|name| (name, Part::Learns)))
            .or_else(|| {
                learners
                    .iter()
                    .find(leaves)
                    .map(|name| (name, Part::Leaves))
            })
            .or_else(|| {
                learners
                    .iter()
                    .find(is_ready)
                    .map(|name| (name, Part::Votes))
            })
            .or_else(|| voters.iter().find(goes).map(|name| (name, Part::Leaves)));
        let change = change.map(|(name, part)| (name.clone(), part));
        let is_last = change.is_none() && !joins && !wanted.contains(own);
        let next = voters.intersection(wanted).find(is_ready);
        let next = next.filter(|_| is_last).cloned();
        let Some(group) = &mut self.authority.group else {
            return;
        };
        if let Some((name, part)) = change {
            group.change(&name, part);
        } else if let Some(next) = next {
            group.transfer(&next);
        }
    }

    /// Does the cluster vote on config, or is it to?
    pub(in crate::core) fn is_voter(&self, cluster: &str) -> bool {
        let Authority { wanted, group, .. } = &self.authority;
        let mut voters = group.iter().flat_map(Group::voters).chain(wanted);
        voters.any(|voter| voter.as_str() == cluster)
    }

    /// Asks a voter to lead.
    pub(in crate::core) fn on_transfer(&mut self, reply_to: ReplyTo, to: &ClusterName, now: Now) {
        let Some(group) = self.authority.group.as_mut().filter(|group| group.leads()) else {
            if matches!(reply_to, ReplyTo::Peer(..)) {
                let failure = self.authority_unreachable(now.monotonic);
                return self.reply(reply_to, failure.into());
            }
            let transfer = proto::Transfer {
                cluster: to.to_string(),
            };
            return self.ask_leader(reply_to, Question::Transfer(transfer), now);
        };
        if !group.voters().contains(to) {
            let voters: Vec<_> = group.voters().iter().map(ToString::to_string).collect();
            let message = format!("{to} does not vote, {} do", voters.join(", "));
            return self.reply(reply_to, Failure::invalid(message).into());
        }
        group.transfer(to);
        let deadline = now.monotonic + PATIENCE;
        let to = to.clone();
        self.authority.transfers.push(Transfer {
            reply_to,
            to,
            deadline,
        });
        self.finish_transfers(now.monotonic);
    }

    fn finish_transfers(&mut self, now: Instant) {
        let leader = self
            .authority
            .group
            .as_ref()
            .and_then(Group::leader)
            .cloned();
        for transfer in std::mem::take(&mut self.authority.transfers) {
            if leader.as_ref() == Some(&transfer.to) {
                let answer = self.authority_answer(now);
                self.reply(transfer.reply_to, answer);
            } else if transfer.deadline <= now {
                let message = format!("{} did not take the lead", transfer.to);
                let failure = Failure::new(504, "Timeout", message);
                self.reply(transfer.reply_to, failure.into());
            } else {
                self.authority.transfers.push(transfer);
            }
        }
    }
}
