//! Backups of the store, and what a cluster does that was brought back from one.
//!
//! What was promised since the backup was taken is not in it: a vote, an entry of the authority's log. So
//! each backup says of itself that it is one, and a cluster that starts from it has no vote until it gets a
//! new one.

use std::time::SystemTime;

use isthmus_api::Failure;
use isthmus_replica::LedgerName;
use isthmus_wire::proto;
use isthmus_world::{Batch, Store, Table};
use serde::{Deserialize, Serialize};

use super::answer::Backup;
use super::{Action, Answer, Core, Notice, Now, PeerSessionId, RequestId};
use crate::authority::{Broken, Group};
use crate::open_error::OpenError;
use crate::time::{rfc3339, unix_millis};

const TABLE: Table = Table::new("restored");
const KEY: &[u8] = b"backup";
/// The first byte of the record.
const FORMAT: u8 = 1;

/// This store came from a backup, and it is not known yet that no promise was lost with that.
#[derive(Debug, Clone)]
pub(super) struct Restored {
    /// Milliseconds since 1970.
    taken: u64,
    /// Who is of the authority said since then that this cluster is not.
    is_out: bool,
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
        let is_out = false;
        Ok(Some(Self { taken, is_out }))
    }

    fn taken(&self) -> String {
        rfc3339(self.taken)
    }

    /// What a member of the authority says that started so.
    pub(super) fn broken(&self) -> Broken {
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
        self.tokens.leave_out_unused(&mut more);
        let answer = match self.store.image(&more) {
            Ok(image) => Answer::Backup(Backup {
                image: image.into(),
                position: self.position(),
                taken,
            }),
            Err(error) => Failure::internal(error.to_string()).into(),
        };
        self.answer(id, answer);
    }

    /// Starts from a backup, when everything else is loaded.
    pub(super) fn begin_restored(&mut self, restored: Restored) {
        let taken = restored.taken();
        self.actions
            .push(Action::Notice(Notice::Restored { taken }));
        self.authority.restored = Some(restored);
    }

    /// Somebody of the authority says who is.
    pub(super) fn hear_members<'a>(&mut self, mut members: impl Iterator<Item = &'a str>) {
        if let Some(restored) = &mut self.authority.restored {
            let own = self.settings.cluster.as_str();
            restored.is_out = !members.any(|member| member == own);
        }
    }

    /// One that decides itself has greeted.
    pub(super) fn hear_hello(&mut self, session: PeerSessionId, hello: &proto::PeerHello) {
        let from = self.peers.cluster_of(session);
        let is_of_it = from.is_some_and(|from| self.authority.clusters().contains(from));
        let config = LedgerName::Config.to_string();
        if is_of_it && hello.offers.contains(&config) {
            self.hear_members(hello.authority.iter().map(String::as_str));
        }
    }

    /// A cluster that is not of the authority has promised nothing.
    pub(super) fn settle_restored(&mut self) {
        let is_out = |restored: &Restored| restored.is_out;
        if self.authority.group().is_none() && self.authority.restored.as_ref().is_some_and(is_out)
        {
            self.forget_restored();
        }
    }

    /// What it promised before does not count any more.
    pub(super) fn forget_restored(&mut self) {
        if self.authority.restored.take().is_some() {
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
