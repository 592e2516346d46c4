//! What is said of the authority: who it is, and why a change is not accepted.

use std::time::Instant;

use isthmus_api::{AuthorityView, Failure, VoterPart, VoterView};
use isthmus_model::ClusterName;
use isthmus_wire::proto;
use isthmus_wire::proto::peer_question::Question;
use isthmus_world::Store;

use super::{PATIENCE, Reset};
use crate::authority::Group;
use crate::core::answer::{Answer, ReplyTo};
use crate::core::questions::Asked;
use crate::core::{Core, Now};

impl<S: Store> Core<S> {
    /// Puts a question to whoever leads, whose answer is the answer.
    pub(in crate::core) fn ask_leader(&mut self, reply_to: ReplyTo, question: Question, now: Now) {
        let Some((session, _)) = self.way_to_authority(now.monotonic) else {
            let failure = self.authority_unreachable(now.monotonic);
            return self.reply(reply_to, failure.into());
        };
        let asked = Asked::OfLeader { reply_to };
        self.ask(session, question, asked, now.monotonic + PATIENCE);
    }

    /// As whoever leads sees it, or else as this cluster does; one that lost its vote says so itself.
    pub(in crate::core) fn on_show_authority(&mut self, reply_to: ReplyTo, now: Now) {
        let is_question = matches!(reply_to, ReplyTo::Peer(..));
        let leads = self.authority.group.as_ref().is_some_and(Group::leads);
        let knows = leads || self.lost_vote().is_some();
        if knows || is_question || self.way_to_authority(now.monotonic).is_none() {
            let answer = self.authority_answer(now.monotonic);
            return self.reply(reply_to, answer);
        }
        self.ask_leader(reply_to, Question::Authority(proto::AuthorityQuery {}), now);
    }

    pub(in crate::core) fn authority_answer(&self, now: Instant) -> Answer {
        let own = &self.settings.cluster;
        let authority = &self.authority;
        let group = authority.group.as_ref();
        let leader = group.and_then(Group::leader);
        let members = group.map(Group::members).unwrap_or_default();
        let voter = |cluster: &ClusterName, part, lacks| {
            let (contact, age) = self.contact_of(cluster, now);
            VoterView {
                cluster: cluster.to_string(),
                part,
                leads: leader == Some(cluster),
                contact,
                age_ms: age,
                lacks,
            }
        };
        let mut voters: Vec<VoterView> = members
            .iter()
            .map(|member| {
                let is_wanted =
                    authority.wanted.is_empty() || authority.wanted.contains(&member.cluster);
                let part = match (member.votes, is_wanted) {
                    (true, true) => VoterPart::Votes,
                    (false, true) => VoterPart::Joins,
                    (_, false) => VoterPart::Leaves,
                };
                voter(&member.cluster, part, member.lacks)
            })
            .collect();
        if members.is_empty() {
            let known = authority.clusters.iter();
            voters.extend(known.map(|cluster| voter(cluster, VoterPart::Votes, None)));
        }
        for cluster in &authority.wanted {
            let name = cluster.as_str();
            if voters.iter().all(|voter| voter.cluster != name) {
                voters.push(voter(cluster, VoterPart::Joins, None));
            }
        }
        voters.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        let accepts = self.may_judge() || self.way_to_authority(now).is_some();
        Answer::view(&AuthorityView {
            cluster: own.to_string(),
            leader: leader.map(ToString::to_string),
            term: group.map(Group::term),
            position: self.position().0,
            reason: self
                .lost_vote()
                .or_else(|| (!accepts).then(|| self.missing_voters(now))),
            accepts,
            resets: authority.reset.as_ref().map_or(0, Reset::number),
            voters,
        })
    }

    pub(in crate::core) fn authority_unreachable(&self, now: Instant) -> Failure {
        Failure::unavailable(format!(
            "{}; the mesh serves on, config writes wait for it",
            self.missing_voters(now)
        ))
    }

    /// Who of the authority is not heard here.
    pub(in crate::core) fn missing_voters(&self, now: Instant) -> String {
        let own = &self.settings.cluster;
        let voters = match &self.authority.group {
            Some(group) if !group.voters().is_empty() => group.voters(),
            _ => &self.authority.clusters,
        };
        let seen = |cluster: &ClusterName| match self.replica.contact(cluster, now) {
            (_, Some(age)) => format!("last seen {} s ago", age.as_secs()),
            (_, None) => "not seen since this control plane started".to_owned(),
        };
        let silent: Vec<_> = (voters.iter())
            .filter(|cluster| *cluster != own && !self.is_heard(cluster, now))
            .collect();
        if let ([only], 1) = (&silent[..], voters.len()) {
            return format!("authority {only} unreachable, {}", seen(only));
        }
        let named: Vec<_> = silent
            .iter()
            .map(|cluster| format!("{cluster} ({})", seen(cluster)))
            .collect();
        if voters.iter().eq([own])
            && let Some(lost) = self.lost_vote()
        {
            format!(
                "{own} alone is the authority, and {lost}: `isthmus authority reset --accept-loss` goes on with \
                 what there is"
            )
        } else if silent.is_empty() {
            "nobody leads the authority at the moment".to_owned()
        } else if 2 * silent.len() < voters.len() {
            format!(
                "nobody leads the authority at the moment, without {}",
                named.join(", ")
            )
        } else {
            format!(
                "the authority has no majority: of its {} voters, {own} does not reach {}",
                voters.len(),
                named.join(", ")
            )
        }
    }
}
