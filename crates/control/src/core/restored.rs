//! Backups of the store, and what a cluster does that was brought back from one.
//!
//! What was promised since the backup was taken is not in it: a vote, an entry of the authority's log. So
//! each backup says of itself that it is one, and a cluster that starts from it has no vote until it gets a
//! new one.

use std::time::SystemTime;

use isthmus_api::Failure;
use isthmus_model::Position;
use isthmus_replica::{Epoch, Follower, Ledger, LedgerName, Mark};
use isthmus_wire::proto;
use isthmus_world::{Batch, Store, Table};
use serde::{Deserialize, Serialize};

use super::answer::Backup;
use super::tokens::Tokens;
use super::{Action, Answer, Core, Notice, Now, PeerSessionId, RequestId};
use crate::authority::{Broken, Group};
use crate::open_error::OpenError;
use crate::time::{rfc3339, unix_millis};

const TABLE: Table = Table::new("restored");
const KEY: &[u8] = b"backup";
/// The first byte of the record.
const FORMAT: u8 = 1;

/// This store came from a backup, and it is not known yet that no promise was lost with that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restored {
    /// Milliseconds since 1970.
    taken: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    taken: u64,
}

impl Restored {
    /// `None`: it did not come from a backup, or that does not matter any more.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(super) fn load(store: &dyn Store) -> Result<Option<Self>, OpenError> {
        let Some(record) = store.read(TABLE, KEY)? else {
            return Ok(None);
        };
        let record = OpenError::check_format(TABLE, FORMAT, &record)?;
        let Record { taken } =
            serde_json::from_slice(record).map_err(|_| OpenError::damaged(TABLE))?;
        Ok(Some(Self { taken }))
    }

    fn taken(self) -> String {
        rfc3339(self.taken)
    }

    /// What a member of the authority says that started so.
    pub(super) fn broken(self) -> Broken {
        Broken::Restored(self.taken())
    }
}

/// What makes a copy of a store one that a cluster knows for a backup when it starts from it.
pub fn mark_backup(taken: SystemTime) -> Batch {
    let taken = unix_millis(taken);
    let mut record = vec![FORMAT];
    // A number always is JSON.
    record.extend(serde_json::to_vec(&Record { taken }).unwrap_or_default());
    let mut batch = Batch::new();
    batch.put(TABLE, KEY, record);
    batch
}

impl<S: Store> Core<S> {
    /// Everything that is saved, except for tokens that may be used until somebody starts from it.
    pub(super) fn on_backup(&mut self, id: RequestId, now: Now) {
        let taken = now.wall;
        let mut more = mark_backup(taken);
        let image = Tokens::leave_out_unused(&self.store, &mut more)
            .and_then(|()| Ok(self.store.image(&more)?));
        let answer = match image {
            Ok(image) => Answer::Backup(Backup {
                image: image.into(),
                position: self.saved_position(),
                taken,
            }),
            Err(error) => Failure::internal(error.to_string()).into(),
        };
        self.answer(id, answer);
    }

    fn saved_position(&self) -> Position {
        let config = LedgerName::Config;
        let ledger = self.replica.ledger(&config).map(Ledger::mark);
        let copy = || self.replica.copy(&config).map(Follower::saved_mark);
        ledger.or_else(copy).unwrap_or_default().position
    }

    /// Starts from a backup, when everything else is loaded.
    pub(super) fn begin_restored(&mut self, restored: Restored) {
        let taken = restored.taken();
        self.actions
            .push(Action::Notice(Notice::Restored { taken }));
        self.authority.restored = Some(restored);
        self.replica.set_unsure(true);
    }

    /// One that decides itself has greeted. What it says of the authority counts unless this cluster knows better.
    pub(super) fn hear_hello(&mut self, session: PeerSessionId, hello: &proto::PeerHello) {
        let from = self.peers.cluster_of(session);
        let is_of_it = from.is_some_and(|from| self.authority.clusters().contains(from));
        let decides = hello.offers.contains(&LedgerName::Config.to_string());
        let at = hello.authority_at.unwrap_or_default();
        let at = Mark {
            epoch: Epoch(at.epoch),
            position: Position(at.position),
        };
        if is_of_it && decides && at >= self.replica.authority_mark() && !self.is_overruled(at) {
            self.hear_members(hello.authority.iter().map(String::as_str));
        }
    }

    /// Somebody of the authority says who is. A cluster that is not has promised nothing. Anybody may say so, and only
    /// those are believed whom the mesh key has named, as far as this cluster has heard.
    pub(super) fn hear_members<'a>(&mut self, members: impl Iterator<Item = &'a str>) {
        if self.authority.restored.is_none() {
            return;
        }
        let own = self.settings.cluster.as_str();
        let members: Vec<_> = members.collect();
        let wanted = &self.authority.wanted;
        let is_named = |member: &&str| {
            if wanted.is_empty() {
                *member == self.settings.authority.as_str()
            } else {
                wanted.iter().any(|wanted| wanted.as_str() == *member)
            }
        };
        if !members.contains(&own) && members.iter().all(is_named) {
            self.leave_group();
            self.forget_restored();
        }
    }

    /// What it promised before does not count any more.
    pub(super) fn forget_restored(&mut self) {
        if self.authority.restored.take().is_some() {
            self.replica.set_unsure(false);
            self.pending.delete(TABLE, KEY);
        }
    }

    /// Why this cluster has no vote, though others may count on it.
    pub(super) fn lost_vote(&self) -> Option<String> {
        if let Some(broken) = self.authority.group().and_then(Group::broken) {
            return Some(broken.to_string());
        }
        let restored = self.authority.restored.as_ref()?;
        let is_counted_on = self.authority.clusters().contains(&self.settings.cluster);
        is_counted_on.then(|| restored.broken().to_string())
    }
}
