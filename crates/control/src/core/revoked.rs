//! Processes that this cluster admitted and takes for its own no more.
//!
//! It gives them no certificate and tells them nothing; and it tells everybody not to believe the certificates
//! that they have. Who is revoked is a fact of this cluster, which no other one can take back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isthmus_api::{Failure, RevocationView, RevocationsView, RevokeRequest};
use isthmus_identity::TokenId;
use isthmus_model::{Admission, ClusterName};
use isthmus_world::{Batch, Store, Table};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Held, ReplyTo};
use super::members::MemberKey;
use super::objects::{decode, encode};
use super::{Action, Core, Now, RequestId, SessionId};
use crate::index::{Change, MOST_REVOKED};
use crate::open_error::OpenError;
use crate::time::{rfc3339, unix_millis};

const TABLE: Table = Table::new("revoked");
/// The key of the longest lifetime, in milliseconds.
const LONGEST: &[u8] = b"longest-lifetime";
/// Clocks of those who judge may be behind.
const SLACK: Duration = Duration::from_mins(10);

/// All of them.
#[derive(Debug)]
pub(super) struct Revoked {
    all: BTreeMap<Admission, Revocation>,
    /// The longest lifetime that certificates of this cluster ever had.
    longest: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Revocation {
    /// As it called itself; empty when it was not there.
    process: String,
    /// Who revoked it.
    author: String,
    reason: String,
    /// Milliseconds since 1970.
    since: u64,
    /// Likewise: by then its last certificate has ended.
    until: u64,
}

impl Revocation {
    fn view(&self, own: &ClusterName, admission: Admission) -> RevocationView {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        RevocationView {
            cluster: own.to_string(),
            admission: admission.to_string(),
            process: text(&self.process),
            author: text(&self.author),
            reason: text(&self.reason),
            time: Some(rfc3339(self.since)),
            until: Some(rfc3339(self.until)),
        }
    }
}

impl Revoked {
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(super) fn load(
        store: &impl Store,
        lifetime: Duration,
        batch: &mut Batch,
    ) -> Result<Self, OpenError> {
        let damaged = || OpenError::damaged(TABLE);
        let mut records = store.scan_prefix(TABLE, b"")?;
        let mut longest = Duration::ZERO;
        if let Some(at) = records.iter().position(|(key, _)| key == LONGEST) {
            let (_, record) = records.remove(at);
            longest = Duration::from_millis(decode(&record).map_err(|_| damaged())?);
        }
        if lifetime > longest {
            longest = lifetime;
            let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
            batch.put(TABLE, LONGEST, encode(&millis));
        }
        let read = |(key, record): (Vec<u8>, Vec<u8>)| {
            let id = key.try_into().map_err(|_| damaged())?;
            let revocation = decode(&record).map_err(|_| damaged())?;
            Ok::<_, OpenError>((Admission(id), revocation))
        };
        let all = records.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { all, longest })
    }

    pub(super) fn contains(&self, admission: Admission) -> bool {
        self.all.contains_key(&admission)
    }

    pub(super) fn admissions(&self) -> impl Iterator<Item = Admission> {
        self.all.keys().copied()
    }

    fn put(&mut self, admission: Admission, revocation: Revocation, batch: &mut Batch) {
        batch.put(
            TABLE,
            Bytes::copy_from_slice(&admission.0),
            encode(&revocation),
        );
        self.all.insert(admission, revocation);
    }

    /// Those whose certificates have all ended.
    fn take_ended(&mut self, now: u64, batch: &mut Batch) -> Vec<Admission> {
        let ended = self
            .all
            .extract_if(.., |_, revocation| revocation.until <= now);
        let ended: Vec<_> = ended.map(|(admission, _)| admission).collect();
        for admission in &ended {
            batch.delete(TABLE, Bytes::copy_from_slice(&admission.0));
        }
        ended
    }
}

impl<S: Store> Core<S> {
    pub(super) fn on_revoke(
        &mut self,
        id: RequestId,
        request: &RevokeRequest,
        author: String,
        now: Now,
    ) {
        match self.find_admission(request) {
            Err(failure) => self.answer(id, failure.into()),
            Ok((admission, _))
                if self.revoked.all.len() >= MOST_REVOKED && !self.revoked.contains(admission) =>
            {
                let cluster = &self.settings.cluster;
                let message =
                    format!("{cluster} has revoked {MOST_REVOKED} processes: revoke the cluster");
                self.answer(id, Failure::invalid(message).into());
            }
            Ok((admission, process)) => {
                let since = unix_millis(now.wall);
                let last = unix_millis(now.wall + self.revoked.longest + SLACK);
                let token = TokenId(admission.0);
                self.tokens.withdraw(token, &mut self.pending);
                let earlier = self.revoked.all.get(&admission).cloned();
                let revocation = earlier.unwrap_or_else(|| {
                    let revocation = Revocation {
                        process,
                        author,
                        reason: request.reason.clone().unwrap_or_default(),
                        since,
                        until: last,
                    };
                    self.revoked
                        .put(admission, revocation.clone(), &mut self.pending);
                    revocation
                });
                self.apply_revocation(admission, true);
                self.part_with_revoked(admission, now);
                let view = revocation.view(&self.settings.cluster, admission);
                // Nobody is told that it holds before it would outlast a restart.
                self.hold(ReplyTo::Request(id), Held::Ready(Answer::view(&view)));
            }
        }
    }

    /// Whom the request means, and how that calls itself.
    fn find_admission(&self, request: &RevokeRequest) -> Result<(Admission, String), Failure> {
        match (&request.process, &request.admission) {
            (Some(process), None) => self.admission_of(process),
            (None, Some(text)) => {
                let admission: Admission = text.parse().map_err(|error| {
                    Failure::bad_request(format!("admission {text:?}: {error}"))
                })?;
                let mut known = self.publishing.sessions().map(|(_, proxy)| proxy);
                let known = known.find(|proxy| proxy.admission == Some(admission));
                let process = known.map(|proxy| proxy.process.clone());
                Ok((admission, process.unwrap_or_default()))
            }
            _ => Err(Failure::bad_request(
                "name either a process or an admission",
            )),
        }
    }

    /// Of one that is connected, or was until lately.
    fn admission_of(&self, name: &str) -> Result<(Admission, String), Failure> {
        let is_member = |key: &MemberKey| match key {
            MemberKey::Workload(handle) => handle.as_str() == name,
            MemberKey::Gateway(gateway) => gateway == name,
        };
        let sessions = self.publishing.sessions();
        let connected = sessions.filter(|(session, proxy)| {
            proxy.process == name || self.members.of(*session).any(is_member)
        });
        let mut found: Vec<_> = connected.map(|(_, proxy)| proxy).collect();
        if found.is_empty() {
            let gone = self.publishing.gone();
            found.extend(gone.filter(|proxy| proxy.process == name));
        }
        let admissions: BTreeSet<_> = found.iter().map(|proxy| proxy.admission).collect();
        let process = found.first().map(|proxy| proxy.process.clone());
        match (Vec::from_iter(admissions).as_slice(), process) {
            ([Some(admission)], Some(process)) => Ok((*admission, process)),
            ([], _) | (_, None) => Err(Failure::not_found(format!(
                "no process {name} is connected to the control plane of {}: who is gone is revoked by its admission, \
                 the id of its join token",
                self.settings.cluster
            ))),
            (several, _) => {
                let ids = several.iter().flatten().map(ToString::to_string);
                Err(Failure::conflict(format!(
                    "several processes call themselves {name}: revoke one by its admission ({})",
                    ids.collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    pub(super) fn apply_revocation(&mut self, admission: Admission, is_revoked: bool) {
        let touched = self.index.apply(Change::Revocation {
            admission,
            is_revoked,
        });
        self.touched.merge(touched);
    }

    /// Ends its streams; what it stood for is gone, also if it is not heard now.
    fn part_with_revoked(&mut self, admission: Admission, now: Now) {
        let sessions = self.publishing.sessions();
        let its = sessions.filter(|(_, proxy)| proxy.admission == Some(admission));
        let its: Vec<_> = its.map(|(session, _)| session).collect();
        let changes = self.members.on_revoked(admission);
        self.apply_members(changes);
        for session in its {
            self.publishing.forget(session);
            self.publishing.close(session, now.monotonic);
            self.close_revoked(session);
        }
    }

    pub(super) fn close_revoked(&mut self, session: SessionId) {
        let reason = self.revoked_text();
        self.actions.push(Action::CloseProxy { session, reason });
    }

    /// What a revoked process is told.
    pub(super) fn revoked_text(&self) -> String {
        let cluster = &self.settings.cluster;
        format!(
            "{cluster} has revoked this process: it joins again with a new token, once what it kept (`state`) is removed"
        )
    }

    pub(super) fn forget_ended(&mut self, now: Now) {
        let ended = self
            .revoked
            .take_ended(unix_millis(now.wall), &mut self.pending);
        for admission in ended {
            self.apply_revocation(admission, false);
        }
    }

    /// Those of this cluster with what is known of them, and what others say.
    pub(super) fn revocations(&self) -> RevocationsView {
        let own = &self.settings.cluster;
        let of_own = self.revoked.all.iter();
        let of_own = of_own.map(|(admission, revocation)| revocation.view(own, *admission));
        let others = self
            .index
            .declared()
            .clusters()
            .map(|cluster| &cluster.name);
        let foreign = others.filter(|name| *name != own).flat_map(|name| {
            let admissions = self.index.revoked(name).into_iter();
            admissions.map(|admission| RevocationView {
                cluster: name.to_string(),
                admission: admission.to_string(),
                ..RevocationView::default()
            })
        });
        RevocationsView {
            cluster: own.to_string(),
            revocations: of_own.chain(foreign).collect(),
        }
    }
}
