//! Starting from what the store holds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_model::{Gateway, Workload};
use isthmus_replica::{LedgerName, Replica};
use isthmus_wire::Body;
use isthmus_world::{Batch, Chance, SeededChance, Store, Table};

use super::authority::{Authority, Reset};
use super::charter::Charter;
use super::members::{Member, MemberKey, Members};
use super::origin::origin_of;
use super::restored::Restored;
use super::{
    BOOKMARKS, Core, Dialling, Gathers, Generation, Now, Peers, Publishing, Questions, Revoked,
    Settings, Tokens, Watches, conditions, history,
};
use crate::authority::Group;
use crate::index::{Change, Index, Touched};
use crate::open_error::OpenError;

const MEMBERS: Table = Table::new("members");
/// The first byte of every record.
const FORMAT: u8 = 1;

impl<S: Store> Core<S> {
    /// Starts with what an earlier process left in the store, or with nothing.
    ///
    /// Errors: the store cannot be read, or what is in it is damaged or of a format that this
    /// version does not know. It is left as it is.
    pub fn open(settings: Settings, store: S, now: Now) -> Result<Self, OpenError> {
        let (own, founder) = (settings.cluster.clone(), settings.authority.clone());
        let mut chance = SeededChance::new(settings.seed);
        let seed = chance.draw();
        let mut group = Group::load(own.clone(), &store, seed)?;
        let reset = Reset::load(&store)?;
        let restored = Restored::load(&store)?;
        if let (Some(group), Some(restored)) = (&mut group, &restored) {
            group.give_up(restored.broken());
        }
        let knows_none = group.is_none() && reset.is_none() && restored.is_none();
        let founds = knows_none && own == founder;
        if founds {
            group = Some(Group::found(own.clone(), seed, seed));
        }
        let clusters = match (&group, &reset) {
            (Some(group), _) if !group.voters().is_empty() => group.voters().clone(),
            (_, Some(reset)) => BTreeSet::from([reset.cluster().clone()]),
            _ => BTreeSet::from([founder]),
        };
        // Whoever was made a member and knows nothing yet follows the others.
        let decides =
            (group.as_ref()).is_some_and(|group| group.is_member() && group.broken().is_none());
        let replica = Replica::load(
            own.clone(),
            clusters.clone(),
            decides,
            &store,
            chance.draw(),
            now.monotonic,
        )?;
        let is_new = replica.entries(&LedgerName::Config).is_empty();
        let charter = Charter::load(&store, is_new)?;
        let mut pending = Batch::new();
        let revoked = Revoked::load(&store, settings.leaf_lifetime, &mut pending)?;
        let mut core = Self {
            chance,
            authority: Authority::new(&own, group, clusters, reset),
            rejected: history::rejected(&store)?,
            now,
            index: Index::new(own.clone()),
            objects: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            charter,
            known_since: None,
            findings: conditions::Findings::default(),
            peers: Peers::default(),
            questions: Questions::default(),
            gathers: Gathers::default(),
            dialling: Dialling::default(),
            members: Members::default(),
            held_back: BTreeMap::new(),
            outlived: None,
            tokens: Tokens::load(&store)?,
            revoked,
            publishing: Publishing::default(),
            watches: Watches::default(),
            certificates: Vec::new(),
            generation: Generation::FIRST,
            stuck: BTreeSet::new(),
            pending,
            unarchived: Batch::new(),
            touched: Touched::default(),
            facts_unsure: true,
            held: Vec::new(),
            actions: Vec::new(),
            store_failing: false,
            next_bookmark: now.monotonic + BOOKMARKS,
            started: now.monotonic,
            replica,
            settings,
            store,
        };
        let ledgers: Vec<_> = core.replica.marks().into_keys().cloned().collect();
        for ledger in ledgers {
            let keys = core.keys(&ledger);
            core.on_entries(&ledger, keys);
        }
        core.charter.on_opened();
        if founds
            && !core
                .authority
                .clusters()
                .iter()
                .eq([&core.settings.cluster])
        {
            core.leave_group(); // It was of the authority, and is not any more.
        }
        core.restore_members(now)?;
        let revoked: Vec<_> = core.revoked.admissions().collect();
        for admission in revoked {
            core.apply_revocation(admission, true);
        }
        let origins = core.replica.marks().into_keys().filter_map(origin_of);
        let positions = origins.map(|origin| (origin.clone(), core.position_of(&origin)));
        core.watches = Watches::new(positions.collect());
        if let Some(restored) = restored {
            core.begin_restored(restored);
        }
        Ok(core)
    }

    fn keys(&self, ledger: &LedgerName) -> Vec<Bytes> {
        let entries = self.replica.entries(ledger).into_iter();
        entries.map(|(key, _, _)| key.clone()).collect()
    }

    fn restore_members(&mut self, now: Now) -> Result<(), OpenError> {
        for (_, record) in self.store.scan_prefix(MEMBERS, b"")? {
            let body = OpenError::check_format(MEMBERS, FORMAT, &record)?;
            let member = match Body::decode(body) {
                Ok(Body::Workload(workload)) => Member::Workload(workload),
                Ok(Body::Gateway(gateway)) => Member::Gateway(gateway),
                _ => return Err(OpenError::damaged(MEMBERS)),
            };
            let change = self.members.restore(member, now.monotonic);
            let touched = self.index.apply(change);
            self.touched.merge(touched);
        }
        Ok(())
    }

    /// Keeps what the change says for the next start.
    pub(super) fn save_member(&mut self, change: &Change) {
        let (key, body) = match change {
            Change::Workload { handle, workload } => (
                MemberKey::Workload(handle.clone()),
                workload
                    .clone()
                    .map(|workload: Workload| Body::Workload(workload)),
            ),
            Change::Gateway { name, gateway } => (
                MemberKey::Gateway(name.clone()),
                gateway
                    .clone()
                    .map(|gateway: Gateway| Body::Gateway(gateway)),
            ),
            Change::Config { .. }
            | Change::Fact { .. }
            | Change::Contact { .. }
            | Change::Revocation { .. } => return,
        };
        let key = match key {
            MemberKey::Workload(handle) => format!("workload/{handle}"),
            MemberKey::Gateway(name) => format!("gateway/{name}"),
        };
        match body {
            Some(body) => {
                let mut record = vec![FORMAT];
                record.extend(body.encode());
                self.pending.put(MEMBERS, key, record);
            }
            None => self.pending.delete(MEMBERS, key),
        }
    }
}
