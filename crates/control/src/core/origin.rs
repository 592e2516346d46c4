//! What belongs to the mesh is accepted by the mesh's authority; what belongs to one cluster, and binds only
//! that, by its own control plane, also while nobody else is heard. Others hold copies, and hand on writes.

use std::time::Duration;

use isthmus_api::Failure;
use isthmus_model::{ClusterName, Kind, Origin, Position};
use isthmus_replica::{Follower, Ledger, LedgerName};
use isthmus_world::Store;

use super::answer::ReplyTo;
use super::write::Submitted;
use super::{Core, Now};

/// How long another cluster may take to answer for its own config.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where config of this origin is kept.
pub(super) fn config_of(origin: &Origin) -> LedgerName {
    match origin {
        Origin::Mesh => LedgerName::Config,
        Origin::Cluster(cluster) => LedgerName::ClusterConfig(cluster.clone()),
    }
}

/// Of what origin the config is that is kept there.
pub(super) fn origin_of(ledger: &LedgerName) -> Option<Origin> {
    match ledger {
        LedgerName::Config => Some(Origin::Mesh),
        LedgerName::ClusterConfig(cluster) => Some(Origin::Cluster(cluster.clone())),
        _ => None,
    }
}

/// Where is kept how it came to be.
pub(super) fn history_of(origin: &Origin) -> LedgerName {
    match origin {
        Origin::Mesh => LedgerName::History,
        Origin::Cluster(cluster) => LedgerName::ClusterHistory(cluster.clone()),
    }
}

impl<S: Store> Core<S> {
    /// Where this cluster's copy of config of this origin stands.
    pub(super) fn position_of(&self, origin: &Origin) -> Position {
        let name = config_of(origin);
        let copy = || self.replica.copy(&name).map(Follower::mark);
        let ledger = self.replica.ledger(&name);
        let mark = ledger.map(Ledger::mark).or_else(copy);
        mark.unwrap_or_default().position
    }

    /// Where its next change will stand, saved or not what comes before it.
    pub(super) fn next_position_of(&self, origin: &Origin) -> Position {
        match self.replica.ledger(&config_of(origin)) {
            Some(ledger) => ledger.next_position(),
            None => self.position_of(origin).next(),
        }
    }

    /// May there be objects of this kind and origin?
    pub(super) fn check_origin(&self, origin: &Origin, kind: Kind) -> Result<(), Failure> {
        if *origin == Origin::Mesh {
            return Ok(());
        }
        if !kind.is_of_clusters() {
            let kinds: Vec<_> = Kind::ALL
                .into_iter()
                .filter(|kind| kind.is_of_clusters())
                .map(Kind::plural)
                .collect();
            return Err(Failure::not_found(format!(
                "no {kind} belongs to one cluster: only {} can",
                kinds.join(" and ")
            )));
        }
        self.check_cluster(origin)
    }

    /// Is there somebody to whom things of this origin can belong?
    pub(super) fn check_cluster(&self, origin: &Origin) -> Result<(), Failure> {
        let own = &self.settings.cluster;
        match origin {
            Origin::Cluster(cluster)
                if cluster != own && self.index.declared().cluster(cluster).is_none() =>
            {
                let message = format!("the mesh has no cluster {cluster}, as far as {own} knows");
                Err(Failure::not_found(message))
            }
            _ => Ok(()),
        }
    }

    /// Carries a write to the cluster that it is for, and its answer back.
    pub(super) fn submit_to(&mut self, cluster: &ClusterName, asked: Submitted, now: Now) {
        if *cluster == self.settings.cluster {
            // Accepted when it is saved here.
            return self.judge_and_stage(asked, now);
        }
        let key = &asked.write.key;
        if let Err(failure) = self.check_origin(&key.origin, key.kind) {
            return self.reply(asked.reply_to, failure.into());
        }
        let is_handed_on = matches!(asked.reply_to, ReplyTo::Peer(..));
        let session = self.peers.session_of(cluster);
        let session = session.filter(|_| self.is_heard(cluster, now.monotonic));
        match session {
            Some(session) if !is_handed_on => {
                self.forward(session, asked, now.monotonic + PATIENCE);
            }
            _ => {
                let own = &self.settings.cluster;
                let message = format!(
                    "{} belongs to cluster {cluster}, which {own} does not hear: ask the API of {cluster}",
                    asked.write.key
                );
                self.reply(asked.reply_to, Failure::unavailable(message).into());
            }
        }
    }
}
