//! Who is heard and does not get on: the other clusters with what is written here, and this cluster with
//! its certificates.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use isthmus_api::{BehindStatus, CertificateStatus};
use isthmus_identity::{Validity, ends_soon};
use isthmus_model::ClusterName;
use isthmus_replica::{Behind, STUCK_AFTER};
use isthmus_world::Store;

use super::{Action, Core, Notice};
use crate::time::unix_millis;

/// A certificate that this cluster lives by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    pub name: &'static str,
    pub validity: Validity,
}

impl<S: Store> Core<S> {
    /// Of a cluster that is heard; `None`: it gets on.
    pub(super) fn stuck(&self, cluster: &ClusterName, now: Instant) -> Option<Behind> {
        let behind = self.replica.behind(cluster, now)?;
        (self.is_heard(cluster, now) && behind.stuck >= STUCK_AFTER).then_some(behind)
    }

    pub(super) fn behind_status(
        &self,
        cluster: &ClusterName,
        now: Instant,
    ) -> Option<BehindStatus> {
        let behind = self.stuck(cluster, now)?;
        Some(BehindStatus {
            ledger: behind.ledger.to_string(),
            changes: behind.changes,
            stuck_ms: u64::try_from(behind.stuck.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Tells once of each that gets stuck, and of each that gets on again.
    pub(super) fn watch_followers(&mut self, now: Instant) {
        let others = self.index.declared().clusters();
        let stuck: BTreeSet<_> = others
            .map(|cluster| &cluster.name)
            // Whoever is not heard has not got on.
            .filter(|name| {
                self.stuck(name, now).is_some()
                    || self.stuck.contains(*name) && !self.is_heard(name, now)
            })
            .cloned()
            .collect();
        let declared = self.index.declared();
        let changed = stuck.symmetric_difference(&self.stuck);
        for cluster in changed.filter(|name| declared.cluster(name).is_some()) {
            let is_stuck = stuck.contains(cluster);
            let cluster = cluster.clone();
            let notice = Notice::Behind { cluster, is_stuck };
            self.actions.push(Action::Notice(notice));
        }
        self.stuck = stuck;
    }

    pub(super) fn certificate_status(&self, now: SystemTime) -> Vec<CertificateStatus> {
        let status = |certificate: &OwnCertificate| {
            let OwnCertificate { name, validity } = certificate;
            CertificateStatus {
                name: (*name).to_owned(),
                not_before: unix_millis(validity.0) / 1000,
                not_after: unix_millis(validity.1) / 1000,
                ends_soon: ends_soon(*validity, now),
            }
        };
        self.certificates.iter().map(status).collect()
    }
}
