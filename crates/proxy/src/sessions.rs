//! Sessions with other proxies, judged again whenever what they were judged on changes: the mesh's
//! config, the trust bundle, or the time at which a certificate ends.
//!
//! A session that would not be accepted now is ended at once, with everything on it. One whose
//! certificate ends soon, or rests on a root that another one takes the place of, takes nothing new any
//! more, so that little is on it by then.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    Callee, TrustBundle, Unacceptable, accept_callee, accept_caller, accept_gateway,
};
use isthmus_model::{ClusterName, ServiceName};
use isthmus_telemetry::Metrics;

use crate::mux::Link;
use crate::tls::{Proven, TlsError};
use crate::view::{Known, View};

/// By which rule a peer was accepted.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    /// It opened the session: any workload whose cluster is granted its namespace.
    Caller,
    /// It was dialled as a workload of this service in this cluster.
    Callee {
        service: ServiceName,
        cluster: ClusterName,
    },
    /// It was dialled as a gateway of this cluster.
    Gateway(ClusterName),
}

/// All sessions of one worker.
#[derive(Default)]
pub(crate) struct Sessions(RefCell<Vec<Session>>);

struct Session {
    link: Link,
    proven: Proven,
    rule: Rule,
    /// When it takes nothing new any more; known from when it is first judged.
    leaves: Option<SystemTime>,
}

/// So long before the certificate of its peer ends a session leaves its place to one that rests on the
/// next certificate, which is there long before; one that began later, in the last quarter of the time
/// that it could have had.
const LEAVE_EARLY: Duration = Duration::from_mins(10);

/// Why a session ends that was accepted once.
#[derive(Debug, thiserror::Error)]
enum NoLonger {
    #[error(transparent)]
    Verified(#[from] TlsError),
    #[error(transparent)]
    Accepted(#[from] Unacceptable),
}

impl NoLonger {
    fn reason(&self) -> &'static str {
        match self {
            Self::Verified(error) => error.reason(),
            Self::Accepted(error) => error.reason(),
        }
    }
}

impl Sessions {
    /// Keeps an eye on a session for as long as it lasts.
    pub(crate) fn watch(&self, link: &Link, proven: Proven, rule: Rule) {
        self.0.borrow_mut().push(Session {
            link: link.clone(),
            proven,
            rule,
            leaves: None,
        });
    }

    /// How many there are, and how many of them take nothing new.
    #[cfg(test)]
    pub(crate) fn leaving(&self) -> (usize, usize) {
        let sessions = self.0.borrow();
        let leaving = sessions.iter().filter(|session| session.link.is_leaving());
        (sessions.len(), leaving.count())
    }

    /// Ends the sessions that would not be accepted now, and has those leave that will not be soon.
    /// Those that have ended are forgotten.
    pub(crate) fn judge(
        &self,
        view: &View,
        trust: &Arc<TrustBundle>,
        metrics: &Metrics,
        now: SystemTime,
    ) {
        self.0.borrow_mut().retain_mut(|session| {
            if session.link.is_closed() {
                return false;
            }
            match session.judge(view, trust, now) {
                Ok(()) => {
                    session.leave_in_time(now);
                    true
                }
                Err(error) => {
                    metrics.count_tls_refused(error.reason());
                    let peer = session.proven.peer();
                    tracing::warn!(%error, peer = %peer.id(), "a session was ended");
                    session.link.end();
                    false
                }
            }
        });
    }
}

impl Session {
    fn leave_in_time(&mut self, now: SystemTime) {
        let ends = self.proven.peer().not_after();
        let leaves = self.leaves.get_or_insert_with(|| {
            let left = ends.duration_since(now).unwrap_or_default();
            ends.checked_sub(LEAVE_EARLY.min(left / 4)).unwrap_or(now)
        });
        let is_late = now >= *leaves || self.proven.is_of_old_root();
        if is_late && !self.link.is_leaving() {
            self.link.drain();
        }
    }

    fn judge(
        &mut self,
        view: &View,
        trust: &Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<(), NoLonger> {
        let peer = self.proven.again(trust, now)?;
        let from = |name: &ClusterName| {
            let found = view.peer_cluster(name);
            found.ok_or_else(|| Unacceptable::UnknownCluster(name.clone()))
        };
        match &self.rule {
            Rule::Caller => {
                accept_caller(peer, |name| view.peer_cluster(name))?;
            }
            Rule::Gateway(cluster) => accept_gateway(peer, from(cluster)?)?,
            Rule::Callee { service, cluster } => {
                let Some(Known::Service(found)) = view.find(service) else {
                    // What is not known for now says nothing about whom the service runs as.
                    accept_caller(peer, |name| view.peer_cluster(name))?;
                    return Ok(());
                };
                let callee = Callee {
                    cluster: from(cluster)?,
                    namespace: &service.namespace,
                    accounts: &found.service.accounts,
                };
                accept_callee(peer, &callee)?;
            }
        }
        Ok(())
    }
}
