//! Entries of ledgers into what is shown: config into objects, watches and the index; facts of other
//! clusters into the index; and own facts out of the index into their ledger.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_manifest::parse_object;
use isthmus_model::{ClusterName, Origin, Position, Resource, ResourceKey};
use isthmus_replica::LedgerName;
use isthmus_world::Store;
use serde_json::Value;

use super::objects::{Stored, resource_key};
use super::origin::config_of;
use super::{Action, Core, Notice};
use crate::index::{Change, Fact};

impl<S: Store> Core<S> {
    /// These entries are different now; shows them.
    pub(super) fn on_entries(&mut self, ledger: &LedgerName, keys: Vec<Bytes>) {
        match ledger {
            LedgerName::Config => self.on_config_entries(&Origin::Mesh, keys),
            LedgerName::History => self.on_history_entries(&Origin::Mesh, keys),
            LedgerName::ClusterConfig(cluster) => {
                self.on_config_entries(&Origin::Cluster(cluster.clone()), keys);
            }
            LedgerName::ClusterHistory(cluster) => {
                self.on_history_entries(&Origin::Cluster(cluster.clone()), keys);
            }
            LedgerName::Authority => self.on_authority_entries(),
            LedgerName::Facts(cluster) if *cluster != self.settings.cluster => {
                for key in keys {
                    self.on_fact_entry(ledger, cluster, &key);
                }
            }
            LedgerName::Facts(_) | LedgerName::FastFacts(_) => {}
        }
    }

    fn on_config_entries(&mut self, origin: &Origin, keys: Vec<Bytes>) {
        let name = config_of(origin);
        let mut changes: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let entry = self.replica.find(&name, &key);
                let entry = entry.map(|(position, record)| (position, record.clone()));
                (entry.as_ref().map(|(position, _)| *position), key, entry)
            })
            .collect();
        changes.sort_by_key(|(position, _, _)| *position);
        for (_, key, entry) in changes {
            if let Err(reason) = self.on_config_entry(origin, &key, entry) {
                self.bad_entry(&name, &key, reason);
            }
        }
        self.tell_of_changes(origin);
        self.part_with_revoked_clusters(self.now.monotonic);
        self.confirm_commits();
    }

    pub(super) fn on_config_entry(
        &mut self,
        origin: &Origin,
        key: &Bytes,
        entry: Option<(Position, Bytes)>,
    ) -> Result<(), String> {
        let key = resource_key(key).map_err(|error| error.to_string())?;
        let is_of_cluster = *origin != Origin::Mesh;
        if key.origin != *origin || is_of_cluster && !key.kind.is_of_clusters() {
            return Err("whoever writes this ledger has no say in it".to_owned());
        }
        self.findings.forget();
        let decode = |(position, record): (Position, Bytes)| {
            Stored::decode(&record).map(|stored| (position, stored))
        };
        let stored = entry.map(decode).transpose();
        let stored = stored.map_err(|error| error.to_string())?;
        let is_it = |(_, stored): &(Position, Stored)| {
            stored.object["kind"] == key.kind.name()
                && stored.object["metadata"]["name"] == key.name.as_str()
        };
        if is_of_cluster && !stored.as_ref().is_none_or(is_it) {
            return Err("it is not what its key says".to_owned());
        }
        let written = stored.as_ref().map(|(_, stored)| stored.object.clone());
        let before = match stored {
            Some(stored) => self.objects.insert(key.clone(), stored),
            None => self.objects.remove(&key),
        };
        self.keep_version(origin, &key, before);
        self.index_config(key, written)
    }

    /// What the object means goes into the index, on the terms that the mesh key signed. One that this
    /// version cannot read is kept and shown as such; what it said before stays in force.
    fn index_config(&mut self, key: ResourceKey, object: Option<Value>) -> Result<(), String> {
        self.unreadable.remove(&key);
        let resource = match object.map(|object| read(&key, object)).transpose() {
            Ok(resource) => resource,
            Err(reason) => {
                self.unreadable.insert(key, reason.clone());
                return Err(reason);
            }
        };
        let resource = match (resource, self.objects.get(&key)) {
            (Some(resource), Some((_, stored))) => {
                let trust = &self.settings.trust;
                self.charter.bind(trust, &key, &stored.object, resource)
            }
            _ => {
                self.charter.on_deleted(&key);
                None
            }
        };
        let unbound = self.charter.refused(&key).map(ToString::to_string);
        if let Some(Resource::Mesh(mesh)) = &resource {
            self.authority.wanted.clone_from(&mesh.voters);
        }
        let touched = self.index.apply(Change::Config { key, resource });
        self.touched.merge(touched);
        unbound.map_or(Ok(()), Err)
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

    pub(super) fn bad_entry(&mut self, ledger: &LedgerName, key: &Bytes, reason: String) {
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
        let mut facts = std::mem::take(&mut self.touched.facts);
        if std::mem::take(&mut self.facts_unsure) {
            facts.extend(self.differing_facts(&name));
        }
        let changes: Vec<_> = facts
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
}

/// What the object means; it must be the one that its key says.
fn read(key: &ResourceKey, object: Value) -> Result<Resource, String> {
    let (mut found, mut resource) = parse_object(object).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })?;
    found.origin.clone_from(&key.origin);
    if found != *key {
        return Err(format!("it is {found}, kept in the place of {key}"));
    }
    resource.set_origin(&key.origin);
    Ok(resource)
}
