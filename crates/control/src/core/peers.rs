//! The other control planes: streams with them, when to dial them, how far away they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_model::ClusterName;
use isthmus_replica::{Contact, LedgerName, Output};
use isthmus_wire::proto::peer_frame::Frame;
use isthmus_wire::{PeerIncoming, proto};
use isthmus_world::Store;

use super::{Action, Core, Dialling, Notice, Now, PeerSessionId, Target};
use crate::index::{self, Change};

/// A session that stood for this long was one.
const LASTED: Duration = Duration::from_secs(10);
/// Without word from the authority for this long, the bootstrap addresses are tried again.
const AUTHORITY_LOST: Duration = Duration::from_secs(10);
/// Ages at which what proxies are told about a cluster changes, in seconds.
const AGE_STEPS: [u64; 9] = [3, 5, 10, 20, 30, 60, 300, 900, 3600];

/// Streams with other control planes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    sessions: BTreeMap<PeerSessionId, PeerSession>,
    /// Round trips to gateways that our proxies measured.
    measured: BTreeMap<ClusterName, Duration>,
}

#[derive(Debug)]
struct PeerSession {
    cluster: ClusterName,
    target: Option<Target>,
    opened: Instant,
}

impl Peers {
    /// The newest stream with the cluster.
    pub(super) fn session_of(&self, cluster: &ClusterName) -> Option<PeerSessionId> {
        let mut sessions = self.sessions.iter().rev();
        sessions
            .find(|(_, session)| session.cluster == *cluster)
            .map(|(id, _)| *id)
    }

    pub(super) fn cluster_of(&self, session: PeerSessionId) -> Option<&ClusterName> {
        self.sessions.get(&session).map(|session| &session.cluster)
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
        if self.charter.is_revoked(&cluster) {
            let reason = format!("cluster {cluster} was revoked");
            self.actions.push(Action::ClosePeer { session, reason });
            if let Some(target) = &target {
                let chance = &mut self.chance;
                self.dialling.on_ended(target, false, now, chance);
            }
            return;
        }
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

    /// Clusters that were revoked are not spoken with.
    pub(super) fn part_with_revoked_clusters(&mut self, now: Instant) {
        let (charter, sessions) = (&self.charter, self.peers.sessions.iter());
        let gone = sessions.filter(|(_, peer)| charter.is_revoked(&peer.cluster));
        let gone: Vec<_> = gone.map(|(id, peer)| (*id, peer.cluster.clone())).collect();
        for (session, cluster) in gone {
            let reason = format!("cluster {cluster} was revoked");
            self.actions.push(Action::ClosePeer { session, reason });
            self.on_peer_closed(session, now);
        }
    }

    fn forget_peer(&mut self, session: PeerSessionId, now: Instant) {
        if let Some(peer) = self.peers.sessions.remove(&session)
            && let Some(target) = &peer.target
        {
            let lasted = now.saturating_duration_since(peer.opened) >= LASTED;
            self.dialling
                .on_ended(target, lasted, now, &mut self.chance);
        }
        self.give_up_questions(session, now);
    }

    pub(super) fn on_peer_frame(
        &mut self,
        session: PeerSessionId,
        frame: proto::PeerFrame,
        now: Now,
    ) {
        if self.peers.cluster_of(session).is_none() {
            return; // It was closed here, or never taken.
        }
        if let Some(Frame::Hello(hello)) = &frame.frame {
            if let Some(reset) = &hello.reset {
                self.on_reset_told(session, reset);
            }
            self.hear_hello(session, hello);
        }
        match PeerIncoming::try_from(frame) {
            Ok(PeerIncoming::Ledger(message)) => {
                let outputs = self.replica.on_message(session, message, now.monotonic);
                self.perform(outputs);
            }
            Ok(PeerIncoming::Question(question)) => self.on_question(session, question, now),
            Ok(PeerIncoming::Answer(answer)) => {
                self.on_peer_answer(session, &answer, now.monotonic);
            }
            Ok(PeerIncoming::Authority(frame)) => self.on_authority_frame(session, frame),
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
                Output::Send { session, message } => {
                    let mut frame = proto::PeerFrame::from(message);
                    if let Some(Frame::Hello(hello)) = &mut frame.frame {
                        hello.reset = self.known_reset().map(Box::new);
                    }
                    self.actions.push(Action::ToPeer { session, frame });
                }
                Output::Close { session, reason } => {
                    let reason = reason.to_string();
                    self.actions.push(Action::ClosePeer { session, reason });
                }
                Output::Touched { ledger, keys } => self.on_entries(&ledger, keys),
                Output::Authority { clusters, at } => self.on_authority_told(clusters, at),
                Output::SavedBy { .. } => {}
                Output::Outlived {
                    ledger, peer, seen, ..
                } => {
                    if let LedgerName::Facts(_) = ledger {
                        // It resolves by itself.
                        let is_known = self.outlived.is_some();
                        self.outlived = self.outlived.max(Some(seen.epoch));
                        if is_known {
                            continue;
                        }
                    }
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

    /// Is the cluster's control plane heard now?
    pub(super) fn is_heard(&self, cluster: &ClusterName, now: Instant) -> bool {
        self.replica.contact(cluster, now).0 == Contact::Live
            && self.peers.session_of(cluster).is_some()
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
        let own = &self.settings.cluster;
        let clusters = self.authority.clusters();
        if clusters.contains(own)
            || clusters
                .iter()
                .any(|cluster| self.peers.session_of(cluster).is_some())
        {
            return false;
        }
        let is_declared = |cluster: &ClusterName| self.index.declared().cluster(cluster).is_some();
        let silent = clusters
            .iter()
            .filter_map(|cluster| self.replica.contact(cluster, now).1)
            .min();
        let silent = silent.unwrap_or_else(|| now.saturating_duration_since(self.started));
        !clusters.iter().any(is_declared) || silent >= AUTHORITY_LOST
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
