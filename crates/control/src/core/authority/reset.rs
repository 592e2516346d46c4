//! The authority begun anew in one cluster, when most of those who voted are lost: by the word of whoever
//! holds the mesh key, which every cluster checks for itself.

use std::collections::BTreeSet;

use isthmus_api::{Failure, RESET_PURPOSE, ResetRequest, ResetStatement};
use isthmus_identity::{BadStatement, TrustBundle};
use isthmus_model::{ClusterName, NameError, Position};
use isthmus_replica::{Epoch, Mark};
use isthmus_wire::proto;
use isthmus_world::{Chance, Store, StoreError, Table};
use serde::{Deserialize, Serialize};

use crate::authority::Group;
use crate::core::answer::{Held, ReplyTo};
use crate::core::{Action, Core, Notice, Now, PeerSessionId};
use crate::hex::unhex;
use crate::open_error::OpenError;

const TABLE: Table = Table::new("authority");
const KEY: &[u8] = b"reset";
/// The first byte of the record.
const FORMAT: u8 = 1;

/// So that there are epochs for all of them.
const MOST: u64 = (1 << 12) - 1;

/// A statement that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::core) struct Reset {
    statement: ResetStatement,
    cluster: ClusterName,
    /// As it was signed, for others to check.
    signed: proto::SignedReset,
    /// What this cluster was told of the authority up to here was told by those who are overruled.
    overruled: Epoch,
}

#[derive(Serialize, Deserialize)]
struct Record {
    statement: Vec<u8>,
    signature: Vec<u8>,
    overruled: u64,
}

/// Why a statement is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::core) enum ResetError {
    #[error(transparent)]
    Signature(#[from] BadStatement),
    #[error("it is not a statement that this version understands: {0}")]
    Statement(String),
    #[error("an authority begins anew {MOST} times at most, not {0}")]
    Number(u64),
    #[error("it names cluster {name:?}: {error}")]
    Cluster { name: String, error: NameError },
}

impl Reset {
    /// Errors: it is not signed with the mesh key, or not understood.
    fn check(trust: &TrustBundle, signed: &proto::SignedReset) -> Result<Self, ResetError> {
        trust.check_statement(RESET_PURPOSE, &signed.statement, &signed.signature)?;
        let statement: ResetStatement = serde_json::from_slice(&signed.statement)
            .map_err(|error| ResetError::Statement(error.to_string()))?;
        if statement.number > MOST {
            return Err(ResetError::Number(statement.number));
        }
        let cluster = statement.cluster.parse();
        let cluster = cluster.map_err(|error| ResetError::Cluster {
            name: statement.cluster.clone(),
            error,
        })?;
        Ok(Self {
            statement,
            cluster,
            signed: signed.clone(),
            overruled: Epoch::default(),
        })
    }

    /// `None`: there never was one.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(in crate::core) fn load(store: &dyn Store) -> Result<Option<Self>, OpenError> {
        let Some(record) = store.read(TABLE, KEY)? else {
            return Ok(None);
        };
        let record = OpenError::check_format(TABLE, FORMAT, &record)?;
        let damaged = || OpenError::damaged(TABLE);
        let record: Record = serde_json::from_slice(record).map_err(|_| damaged())?;
        let statement: ResetStatement =
            serde_json::from_slice(&record.statement).map_err(|_| damaged())?;
        Ok(Some(Self {
            cluster: statement.cluster.parse().map_err(|_| damaged())?,
            statement,
            signed: proto::SignedReset {
                statement: record.statement.into(),
                signature: record.signature.into(),
            },
            overruled: Epoch(record.overruled),
        }))
    }

    fn record(&self) -> Vec<u8> {
        let record = Record {
            statement: self.signed.statement.to_vec(),
            signature: self.signed.signature.to_vec(),
            overruled: self.overruled.0,
        };
        let mut bytes = vec![FORMAT];
        // Bytes and numbers always are JSON.
        bytes.extend(serde_json::to_vec(&record).unwrap_or_default());
        bytes
    }

    pub(in crate::core) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    pub(in crate::core) fn number(&self) -> u64 {
        self.statement.number
    }

    /// Epochs of it are above all that come of one before: more than anybody counts to between two. Of two with
    /// one number, those of the one that counts are above the other's.
    fn first_epoch(&self) -> Epoch {
        let ResetStatement { number, group, .. } = self.statement;
        Epoch((number << 20 | group >> 44) << 32)
    }

    pub(super) fn group(&self) -> u64 {
        self.statement.group
    }

    fn is_after(&self, known: Option<&Self>) -> bool {
        let order = |reset: &Self| (reset.statement.number, reset.statement.group);
        known.is_none_or(|known| order(self) > order(known))
    }
}

impl<S: Store> Core<S> {
    /// What a hello says of it.
    pub(in crate::core) fn known_reset(&self) -> Option<proto::SignedReset> {
        let saved = self.authority.reset.as_ref();
        let saved = saved.filter(|_| !self.authority.is_reset_unsaved);
        saved.map(|reset| reset.signed.clone())
    }

    /// Was this told by those who are overruled?
    pub(in crate::core) fn is_overruled(&self, told: Mark) -> bool {
        let reset = self.authority.reset.as_ref();
        reset.is_some_and(|reset| told.epoch <= reset.overruled)
    }

    /// An operator says that this cluster accepts config alone from now on.
    pub(in crate::core) fn on_reset(
        &mut self,
        reply_to: ReplyTo,
        request: &ResetRequest,
        now: Now,
    ) {
        match self.judge_reset(request, now) {
            Ok(reset) => {
                if let Err(error) = self.begin_anew(reset) {
                    let failure = Failure::internal(error.to_string());
                    return self.reply(reply_to, failure.into());
                }
                let answer = self.authority_answer(now.monotonic);
                self.hold(reply_to, Held::Ready(answer));
            }
            Err(failure) => self.reply(reply_to, failure.into()),
        }
    }

    fn judge_reset(&self, request: &ResetRequest, now: Now) -> Result<Reset, Failure> {
        let signature = unhex(&request.signature)
            .ok_or_else(|| Failure::bad_request("signature is not hexadecimal"))?;
        let signed = proto::SignedReset {
            statement: request.statement.clone().into(),
            signature: signature.into(),
        };
        let reset = Reset::check(&self.settings.trust, &signed).map_err(|error| match error {
            ResetError::Signature(_) => Failure::forbidden(error.to_string()),
            _ => Failure::invalid(error.to_string()),
        })?;
        let conflict = |message: String| Failure::new(409, "Conflict", message);
        let (own, named) = (&self.settings.cluster, &reset.cluster);
        if named != own {
            let message = format!("the statement is for cluster {named}, this is {own}");
            return Err(Failure::invalid(message));
        }
        let known = self.authority.reset.as_ref().map_or(0, Reset::number);
        if reset.number() != known + 1 {
            let number = reset.number();
            let message = format!(
                "the authority began anew {known} times, as {own} knows, the statement is number {number}"
            );
            return Err(conflict(message));
        }
        let here = self.position().0;
        if here != reset.statement.position {
            let signed = reset.statement.position;
            let message = format!("{own} stands at {here}, the statement says {signed}");
            return Err(conflict(message));
        }
        let leader = self.authority.group.as_ref().and_then(Group::leader);
        let leads = |cluster: &ClusterName| cluster == own || self.is_heard(cluster, now.monotonic);
        if let Some(leader) = leader.filter(|leader| leads(leader)) {
            let message = format!("{leader} leads the authority: there is nothing to begin anew");
            return Err(conflict(message));
        }
        let members = self.authority.clusters.iter();
        let known = self.replica.authority_mark();
        let told = (self.authority.told.iter()).filter(|(_, at)| *at > known);
        let told = told.flat_map(|(told, _)| told);
        let mut others = members.chain(told).filter(|member| *member != own);
        if !self.decides()
            && let Some(member) = others.find(|member| self.is_heard(member, now.monotonic))
        {
            let message = format!("{member} votes and is heard: begin anew there");
            return Err(conflict(message));
        }
        Ok(reset)
    }

    /// Accepts config alone, with what it has.
    ///
    /// Errors: the store cannot be read; nothing has changed.
    fn begin_anew(&mut self, reset: Reset) -> Result<(), StoreError> {
        let own = self.settings.cluster.clone();
        // A copy of the history may be ahead of that of config.
        let rejected = self.reject_beyond(self.position())?;
        let (group, first) = (reset.statement.group, reset.first_epoch());
        self.leave_group();
        self.forget_restored();
        self.keep_reset(reset, rejected);
        let seed = self.chance.draw();
        self.authority.group = Some(Group::found(own.clone(), group, seed));
        let outputs = self.replica.begin_anew(first);
        self.perform(outputs);
        self.set_authority(BTreeSet::from([own]));
        Ok(())
    }

    /// A peer says that the authority began anew.
    pub(in crate::core) fn on_reset_told(
        &mut self,
        session: PeerSessionId,
        signed: &proto::SignedReset,
    ) {
        let Some(cluster) = self.peers.cluster_of(session).cloned() else {
            return;
        };
        let known = self.authority.reset.as_ref();
        if known.is_some_and(|known| known.signed == *signed) {
            return self.believe_configured(&cluster);
        }
        let reset = match Reset::check(&self.settings.trust, signed) {
            Ok(reset) => reset,
            Err(error) => {
                let reason = error.to_string();
                let notice = Notice::BadReset { cluster, reason };
                return self.actions.push(Action::Notice(notice));
            }
        };
        if !reset.is_after(known) {
            return;
        }
        let group = self.authority.group.as_ref().map(Group::id);
        if group == Some(reset.statement.group) {
            return self.keep_reset(reset, 0); // It came back to who began.
        }
        if let Err(error) = self.follow_anew(reset) {
            // It is told again with the next hello.
            let error = error.to_string();
            return self
                .actions
                .push(Action::Notice(Notice::StoreFailed { error }));
        }
        self.believe_configured(&cluster);
    }

    /// Goes on without what is beyond, as a follower of whoever began.
    ///
    /// Errors: the store cannot be read; nothing has changed.
    fn follow_anew(&mut self, mut reset: Reset) -> Result<(), StoreError> {
        // Two may have begun at once, and this cluster have followed the other one.
        let known = self.authority.reset.as_ref();
        let rival = known.filter(|known| known.number() == reset.number());
        let position = rival.map_or(reset.statement.position, |rival| {
            reset.statement.position.min(rival.statement.position)
        });
        let rejected = self.reject_beyond(Position(position))?;
        reset.overruled = self.replica.authority_mark().epoch;
        self.leave_group();
        let cluster = reset.cluster.clone();
        self.keep_reset(reset, rejected);
        if cluster != self.settings.cluster {
            self.set_authority(BTreeSet::from([cluster]));
        }
        Ok(())
    }

    /// A cluster that knows of the authority only that it began anew may be told who it is now by the one that
    /// it is configured to follow, which knows the same: whoever began may be gone since.
    fn believe_configured(&mut self, peer: &ClusterName) {
        let mark = self.replica.authority_mark();
        let knows_more = mark != Mark::default() && !self.is_overruled(mark);
        let is_it = *peer == self.settings.authority && self.authority.group.is_none();
        if is_it && !knows_more && !self.authority.clusters.contains(peer) {
            let mut clusters = self.authority.clusters.clone();
            clusters.insert(peer.clone());
            self.set_authority(clusters);
        }
    }

    fn keep_reset(&mut self, reset: Reset, rejected: usize) {
        let authority = &mut self.authority;
        authority.told = None;
        authority.missed.clear();
        authority.broken = None;
        authority.retires = false;
        (authority.begun, authority.decided) = (0, 0);
        self.pending.put(TABLE, KEY, reset.record());
        let cluster = reset.cluster.clone();
        self.authority.reset = Some(reset);
        self.authority.is_reset_unsaved = true;
        let notice = Notice::Reset { cluster, rejected };
        self.actions.push(Action::Notice(notice));
    }
}
