//! The other control planes: their ledgers, their answers, how far away they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_api::Failure;
use isthmus_model::{ClusterName, ResourceKey};
use isthmus_replica::{LedgerName, Output};
use isthmus_wire::proto::peer_frame::Frame;
use isthmus_wire::proto::peer_question::Question;
use isthmus_wire::{PeerIncoming, proto};
use isthmus_world::Store;

use super::answer::{Answer, ReplyTo};
use super::objects::{Stored, resource_key};
use super::read::{GatherId, Gathers};
use super::watch::{Changed, WatchEvent};
use super::{Action, Core, Dialling, Notice, Now, PeerSessionId, Target};
use crate::index::{self, Change, Fact};

/// A session that stood for this long was one.
const LASTED: Duration = Duration::from_secs(10);
/// Without word from the authority for this long, the bootstrap addresses are tried again.
const AUTHORITY_LOST: Duration = Duration::from_secs(10);
/// Ages at which what proxies are told about a cluster changes, in seconds.
const AGE_STEPS: [u64; 9] = [3, 5, 10, 20, 30, 60, 300, 900, 3600];

/// Streams with other control planes, and what they were asked.
#[derive(Debug, Default)]
pub(super) struct Peers {
    sessions: BTreeMap<PeerSessionId, PeerSession>,
    asked: BTreeMap<u64, (PeerSessionId, Instant, Asked)>,
    questions: u64,
    /// Round trips to gateways that our proxies measured.
    measured: BTreeMap<ClusterName, Duration>,
    pub gathers: Gathers,
}

#[derive(Debug)]
struct PeerSession {
    cluster: ClusterName,
    target: Option<Target>,
    opened: Instant,
}

/// What a question is for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A forwarded write. `answered`: accepted at this position, our copy is not there yet.
    Commit {
        reply_to: ReplyTo,
        key: ResourceKey,
        answered: Option<(u64, Answer)>,
    },
    Inquiry {
        gather: GatherId,
        cluster: ClusterName,
    },
}

impl Peers {
    /// The newest stream with the cluster.
    pub(super) fn session_of(&self, cluster: &ClusterName) -> Option<PeerSessionId> {
        let mut sessions = self.sessions.iter().rev();
        sessions
            .find(|(_, session)| session.cluster == *cluster)
            .map(|(id, _)| *id)
    }

    pub(super) fn on_measured(&mut self, cluster: ClusterName, rtt: Duration) {
        let smoothed = self.measured.entry(cluster).or_insert(rtt);
        *smoothed = (smoothed.saturating_mul(7).saturating_add(rtt)) / 8;
    }
}

impl<S: Store> Core<S> {
    pub(super) fn on_peer_opened(
        &mut self,
        session: PeerSessionId,
        cluster: ClusterName,
        target: Option<Target>,
        now: Instant,
    ) {
        let peer = PeerSession {
            cluster: cluster.clone(),
            target,
            opened: now,
        };
        self.peers.sessions.insert(session, peer);
        let outputs = self.replica.on_connected(session, cluster, now);
        self.perform(outputs);
    }

    pub(super) fn on_peer_closed(&mut self, session: PeerSessionId, now: Instant) {
        let outputs = self.replica.on_disconnected(session);
        self.perform(outputs);
        self.forget_peer(session, now);
    }

    fn forget_peer(&mut self, session: PeerSessionId, now: Instant) {
        if let Some(peer) = self.peers.sessions.remove(&session)
            && let Some(target) = &peer.target
        {
            let lasted = now.saturating_duration_since(peer.opened) >= LASTED;
            self.dialling
                .on_ended(target, lasted, now, &mut self.chance);
        }
        let of_session = |_: &u64, asked: &mut (PeerSessionId, Instant, Asked)| asked.0 == session;
        let lost: Vec<_> = self.peers.asked.extract_if(.., of_session).collect();
        for (_, (_, _, asked)) in lost {
            self.on_unanswered(asked, now);
        }
    }

    pub(super) fn on_peer_frame(
        &mut self,
        session: PeerSessionId,
        frame: proto::PeerFrame,
        now: Now,
    ) {
        match PeerIncoming::try_from(frame) {
            Ok(PeerIncoming::Ledger(message)) => {
                let outputs = self.replica.on_message(session, message, now.monotonic);
                self.perform(outputs);
            }
            Ok(PeerIncoming::Question(question)) => self.on_question(session, question, now),
            Ok(PeerIncoming::Answer(answer)) => {
                self.on_peer_answer(session, &answer, now.monotonic);
            }
            Err(error) => {
                let reason = error.to_string();
                self.actions.push(Action::ClosePeer { session, reason });
            }
        }
    }

    /// Carries out what replication asks for.
    pub(super) fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { session, message } => self.actions.push(Action::ToPeer {
                    session,
                    frame: message.into(),
                }),
                Output::Close { session, reason } => {
                    let reason = reason.to_string();
                    self.actions.push(Action::ClosePeer { session, reason });
                }
                Output::Touched { ledger, keys } => self.on_entries(&ledger, keys),
                Output::SavedBy { .. } => {}
                Output::Outlived { ledger, peer, .. } => {
                    let ledger = ledger.to_string();
                    let cluster = peer;
                    self.actions
                        .push(Action::Notice(Notice::Outlived { ledger, cluster }));
                }
                Output::Contact { peer, contact } => {
                    let cluster = peer;
                    self.actions
                        .push(Action::Notice(Notice::Contact { cluster, contact }));
                }
            }
        }
    }

    /// These entries are different now; shows them.
    pub(super) fn on_entries(&mut self, ledger: &LedgerName, keys: Vec<Bytes>) {
        match ledger {
            LedgerName::Config => self.on_config_entries(keys),
            LedgerName::Facts(cluster) if *cluster != self.settings.cluster => {
                for key in keys {
                    self.on_fact_entry(ledger, cluster, &key);
                }
            }
            LedgerName::Facts(_) | LedgerName::FastFacts(_) => {}
        }
    }

    fn on_config_entries(&mut self, keys: Vec<Bytes>) {
        let was_known = !self.objects.is_empty() || self.is_authority();
        let end = self.position();
        let mut changes: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let entry = self.replica.find(&LedgerName::Config, &key);
                let entry = entry.map(|(position, record)| (position, record.clone()));
                (
                    entry.as_ref().map_or(end, |(position, _)| *position),
                    key,
                    entry,
                )
            })
            .collect();
        changes.sort_by_key(|(position, _, _)| *position);
        for (position, key, entry) in changes {
            let record = entry.map(|(_, record)| record);
            if let Err(reason) = self.on_config_entry(position, &key, record.as_ref()) {
                self.bad_entry(&LedgerName::Config, &key, reason);
            }
        }
        if !was_known {
            self.publishing.on_known(&self.index);
        }
        self.confirm_commits();
    }

    fn on_config_entry(
        &mut self,
        position: isthmus_model::Position,
        key: &Bytes,
        record: Option<&Bytes>,
    ) -> Result<(), String> {
        let key = resource_key(key).map_err(|error| error.to_string())?;
        let stored = record.map(|record| Stored::decode(record)).transpose();
        let stored = stored.map_err(|error| error.to_string())?;
        let object = stored.as_ref().map(|stored| stored.show(position));
        let before = self
            .objects
            .get(&key)
            .map(|(_, before)| before.show(position));
        let event = match (before.is_some(), object) {
            (false, Some(object)) => Some(("ADDED", object)),
            (true, Some(object)) => Some(("MODIFIED", object)),
            (true, None) => before.map(|before| ("DELETED", before)),
            (false, None) => None,
        };
        let written = stored.as_ref().map(|stored| stored.object.clone());
        match stored {
            Some(stored) => self.objects.insert(key.clone(), (position, stored)),
            None => self.objects.remove(&key),
        };
        if let Some((kind, object)) = event {
            self.tell_watchers(Changed {
                position,
                key: key.clone(),
                event: WatchEvent { kind, object },
            });
        }
        self.index_config(key, written)
    }

    /// What the object means goes into the index. One that this version cannot read is kept and
    /// shown as such; what it said before stays in force.
    fn index_config(
        &mut self,
        key: ResourceKey,
        object: Option<serde_json::Value>,
    ) -> Result<(), String> {
        self.unreadable.remove(&key);
        let resource = match object.map(isthmus_manifest::parse_object).transpose() {
            Ok(parsed) => parsed.map(|(_, resource)| resource),
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                let reason = problems.join("; ");
                self.unreadable.insert(key, reason.clone());
                return Err(reason);
            }
        };
        let touched = self.index.apply(Change::Config { key, resource });
        self.touched.merge(touched);
        Ok(())
    }

    fn tell_watchers(&mut self, changed: Changed) {
        for (id, event) in self.watches.on_changed(changed) {
            self.actions.push(Action::Watch { id, event });
        }
    }

    fn on_fact_entry(&mut self, ledger: &LedgerName, cluster: &ClusterName, key: &Bytes) {
        let value = self
            .replica
            .find(ledger, key)
            .map(|(_, value)| value.clone());
        let Ok(text) = std::str::from_utf8(key) else {
            return self.bad_entry(ledger, key, "its key is not text".to_owned());
        };
        let fact = match value
            .map(|value| Fact::read(cluster, text, &value))
            .transpose()
        {
            Ok(fact) => fact,
            Err(error) => return self.bad_entry(ledger, key, error.to_string()),
        };
        let (cluster, key) = (cluster.clone(), text.to_owned());
        let touched = self.index.apply(Change::Fact { cluster, key, fact });
        self.touched.merge(touched);
    }

    fn bad_entry(&mut self, ledger: &LedgerName, key: &Bytes, reason: String) {
        let (ledger, key) = (
            ledger.to_string(),
            String::from_utf8_lossy(key).into_owned(),
        );
        let notice = Notice::BadEntry {
            ledger,
            key,
            reason,
        };
        self.actions.push(Action::Notice(notice));
    }

    /// Puts own facts that changed into their ledger; all that differ after a failed save.
    pub(super) fn write_facts(&mut self) {
        let name = LedgerName::Facts(self.settings.cluster.clone());
        let mut changed = std::mem::take(&mut self.touched.facts);
        if std::mem::take(&mut self.facts_unsure) {
            changed.extend(self.differing_facts(&name));
        }
        let changes: Vec<_> = changed
            .into_iter()
            .map(|(key, value)| isthmus_replica::Change {
                key: key.into(),
                value,
                expect: isthmus_replica::Expect::Anything,
            })
            .collect();
        if changes.is_empty() {
            return;
        }
        match self.replica.write(&name, changes) {
            Ok(written) => self.perform(written.outputs),
            Err(error) => self.bad_entry(&name, &Bytes::new(), error.to_string()),
        }
    }

    fn differing_facts(&self, name: &LedgerName) -> BTreeMap<String, Option<Bytes>> {
        let facts = self.index.own_facts();
        let ledger = self.replica.ledger(name).into_iter();
        let kept: BTreeMap<_, _> = ledger
            .flat_map(isthmus_replica::Ledger::entries)
            .map(|(key, _, value)| (String::from_utf8_lossy(key).into_owned(), value))
            .collect();
        let gone = kept.keys().filter(|key| !facts.contains_key(*key));
        let gone = gone.map(|key| (key.clone(), None));
        let new = facts
            .iter()
            .filter(|(key, value)| kept.get(*key) != Some(value));
        let new = new.map(|(key, value)| (key.clone(), Some(value.clone())));
        gone.chain(new).collect()
    }

    // ---- How far away and how old

    /// Tells the index of round trips and ages that differ enough to matter.
    pub(super) fn refresh_contacts(&mut self, now: Instant) {
        let others: Vec<_> = (self.index.declared().clusters())
            .map(|cluster| cluster.name.clone())
            .filter(|name| *name != self.settings.cluster)
            .collect();
        for cluster in others {
            let before = self.index.contact(&cluster);
            let heartbeat = self.replica.rtt(&cluster).map(|rtt| rtt.smoothed);
            let rtt = self.peers.measured.get(&cluster).copied().or(heartbeat);
            let age = self.age_of(&cluster, now);
            let contact = index::Contact {
                rtt: settled(before.rtt, rtt),
                age,
            };
            let touched = self.index.apply(Change::Contact { cluster, contact });
            self.touched.merge(touched);
        }
    }

    /// How old what is known of a cluster is, in steps; zero while it is heard.
    fn age_of(&self, cluster: &ClusterName, now: Instant) -> Duration {
        let (_, age) = self.replica.contact(cluster, now);
        // Not heard since the start: what is known is older than this process.
        let age = age
            .unwrap_or_else(|| now.saturating_duration_since(self.started))
            .as_secs();
        let steps = AGE_STEPS.iter().rev();
        let step = steps.copied().find(|step| *step <= age);
        Duration::from_secs(step.unwrap_or(0))
    }

    // ---- Dialling

    /// Dials whom it is time to dial.
    pub(super) fn dial(&mut self, now: Instant) {
        let wanted = self.wanted_targets(now);
        let own = self.settings.cluster.clone();
        for target in Dialling::due(&mut self.dialling, &own, wanted, now) {
            match self.address_of(&target) {
                Some(address) => self.actions.push(Action::Dial { target, address }),
                None => self
                    .dialling
                    .on_ended(&target, false, now, &mut self.chance),
            }
        }
    }

    fn wanted_targets(&self, now: Instant) -> Vec<Target> {
        let clusters = self
            .index
            .declared()
            .clusters()
            .map(|cluster| cluster.name.clone());
        let missing = clusters
            .filter(|name| *name != self.settings.cluster && self.peers.session_of(name).is_none());
        let mut targets: Vec<_> = missing.map(Target::Cluster).collect();
        if self.needs_bootstrap(now) {
            targets.extend(
                self.settings
                    .bootstrap
                    .iter()
                    .copied()
                    .map(Target::Bootstrap),
            );
        }
        targets
    }

    /// Config does not say yet, or says it wrong, where the authority is.
    fn needs_bootstrap(&self, now: Instant) -> bool {
        let authority = &self.settings.authority;
        if self.is_authority() || self.peers.session_of(authority).is_some() {
            return false;
        }
        let silent = self.replica.contact(authority, now).1;
        let silent = silent.unwrap_or_else(|| now.saturating_duration_since(self.started));
        self.index.declared().cluster(authority).is_none() || silent >= AUTHORITY_LOST
    }

    fn address_of(&self, target: &Target) -> Option<SocketAddr> {
        match target {
            Target::Bootstrap(address) => Some(*address),
            Target::Cluster(name) => {
                let own = &self.settings.cluster;
                let address = self.index.declared().cluster(name)?.control;
                let link = self.index.declared().link_between(own, name);
                Some(link.map_or(address, |link| link.dial(own, address)))
            }
        }
    }

    // ---- Questions

    pub(super) fn ask(
        &mut self,
        session: PeerSessionId,
        question: Question,
        asked: Asked,
        deadline: Instant,
    ) {
        self.peers.questions += 1;
        let id = self.peers.questions;
        self.peers.asked.insert(id, (session, deadline, asked));
        let question = proto::PeerQuestion {
            id,
            question: Some(question),
        };
        self.send_to_peer(session, Frame::Question(question));
    }

    fn on_question(&mut self, session: PeerSessionId, question: proto::PeerQuestion, now: Now) {
        let reply_to = ReplyTo::Peer(session, question.id);
        match question.question {
            Some(Question::Commit(commit)) => self.on_commit(reply_to, &commit, now),
            Some(Question::Inquiry(inquiry)) => {
                let answer = self.own_part(&inquiry.path);
                self.reply(reply_to, answer);
            }
            None => {
                let failure = Failure::bad_request("this version does not know the question");
                self.reply(reply_to, failure.into());
            }
        }
    }

    fn on_peer_answer(&mut self, session: PeerSessionId, answer: &proto::PeerAnswer, now: Instant) {
        let Some((asked_session, deadline, asked)) = self.peers.asked.remove(&answer.id) else {
            return; // Too late: it was given up.
        };
        if asked_session != session {
            self.peers
                .asked
                .insert(answer.id, (asked_session, deadline, asked));
            return;
        }
        let code = u16::try_from(answer.status).unwrap_or(500);
        let body = serde_json::from_slice(&answer.body).unwrap_or_default();
        match asked {
            Asked::Commit { reply_to, key, .. } => {
                let accepted = accepted_at(code, &body);
                let answer_now = Answer::Json { code, body };
                let Some(position) = accepted else {
                    return self.reply(reply_to, answer_now);
                };
                let answered = Some((position, answer_now));
                let asked = Asked::Commit {
                    reply_to,
                    key,
                    answered,
                };
                self.peers
                    .asked
                    .insert(answer.id, (session, deadline, asked));
                self.confirm_commits();
            }
            Asked::Inquiry { gather, cluster } => self.on_part(gather, cluster, code, &body, now),
        }
    }

    /// Answers forwarded writes that our own copy shows now.
    fn confirm_commits(&mut self) {
        let here = self.position().0;
        let arrived = |_: &u64, (_, _, asked): &mut (PeerSessionId, Instant, Asked)| matches!(asked, Asked::Commit { answered: Some((at, _)), .. } if *at <= here);
        let confirmed: Vec<_> = self.peers.asked.extract_if(.., arrived).collect();
        for (_, (_, _, asked)) in confirmed {
            if let Asked::Commit {
                reply_to,
                key,
                answered: Some((_, Answer::Json { code, body })),
            } = asked
            {
                let body = self.show(&key).unwrap_or(body);
                self.reply(reply_to, Answer::Json { code, body });
            }
        }
    }

    pub(super) fn on_question_timeouts(&mut self, now: Instant) {
        let late = |_: &u64, asked: &mut (PeerSessionId, Instant, Asked)| asked.1 <= now;
        let late: Vec<_> = self.peers.asked.extract_if(.., late).collect();
        for (_, (_, _, asked)) in late {
            self.on_unanswered(asked, now);
        }
        self.on_gather_timeouts(now);
    }

    /// The stream ended or the time is over.
    fn on_unanswered(&mut self, asked: Asked, now: Instant) {
        match asked {
            // Accepted for certain; only our copy is behind.
            Asked::Commit {
                reply_to,
                answered: Some((_, answer)),
                ..
            } => self.reply(reply_to, answer),
            Asked::Commit { reply_to, key, .. } => {
                let authority = &self.settings.authority;
                let message = format!(
                    "authority {authority} did not answer, so it is not known whether it \
                     accepted the write: look at {key} before you repeat it"
                );
                self.reply(reply_to, Failure::new(504, "Timeout", message).into());
            }
            Asked::Inquiry { gather, cluster } => self.on_silent(gather, &cluster, now),
        }
    }
}

/// The position of an accepted write, which its answer says.
fn accepted_at(code: u16, body: &serde_json::Value) -> Option<u64> {
    let version = body.get("metadata")?.get("resourceVersion")?.as_str()?;
    (code < 300).then(|| version.parse().ok()).flatten()
}

/// A new measurement replaces the old one only when it differs by a tenth and by a millisecond:
/// every other change would be news for every proxy.
fn settled(before: Option<Duration>, measured: Option<Duration>) -> Option<Duration> {
    match (before, measured) {
        (Some(before), Some(measured)) => {
            let difference = before.abs_diff(measured);
            let matters = difference >= Duration::from_millis(1) && difference >= before / 10;
            Some(if matters { measured } else { before })
        }
        (before, measured) => measured.or(before),
    }
}
