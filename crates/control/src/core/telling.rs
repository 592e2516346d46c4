//! What those who watch config are told: every change that was accepted, once, in the order of positions.
//!
//! A cluster that catches up gets the last version of each object, and the records of all changes beside it. Watches
//! follow the records: nobody learns that an object is gone and there again from its being another one. Where records
//! do not lead to what is shown, whoever watches lists again.

use std::time::{Duration, Instant};

use isthmus_model::{Origin, Position, ResourceKey};
use isthmus_replica::LedgerName;
use isthmus_world::Store;

use super::history::{Record, ledger_place};
use super::objects::{Stored, decode, resource_key};
use super::origin::history_of;
use super::watch::{Changed, Version, WatchEvent};
use super::{Action, Core};

/// The records of changes that are shown have come by then, or do not come: they travel side by side.
const RECORDS: Duration = Duration::from_secs(5);

/// What comes next of an origin.
enum Next {
    Change(Box<(ResourceKey, Version, Version)>),
    /// Of a kind that this version does not know, which nobody can watch here.
    Unknown,
    /// The record of it is not here yet.
    NotYet,
    /// It will not come.
    Gone,
}

impl<S: Store> Core<S> {
    /// The object was so until now.
    pub(super) fn keep_version(&mut self, origin: &Origin, key: &ResourceKey, version: Version) {
        if let Some(tale) = self.watches.tale(origin) {
            tale.then.entry(key.clone()).or_insert(version);
        }
    }

    /// Tells whoever watches of all changes that are shown by now and whose records are here.
    pub(super) fn tell_of_changes(&mut self, origin: &Origin) {
        let shown = self.position_of(origin);
        loop {
            let Some(tale) = self.watches.tale(origin) else {
                return;
            };
            let told = tale.told;
            if told == shown {
                tale.waits = None;
                let then = std::mem::take(&mut tale.then);
                let is_shown = |(key, version): (&ResourceKey, &Version)| {
                    version.as_ref() == self.objects.get(key)
                };
                // Else it changed in a way that was not told of.
                if !then.iter().all(is_shown) {
                    self.list_again(origin, shown);
                }
                return;
            }
            match self.next_change(origin, told, shown) {
                Next::Change(change) => {
                    let (key, before, after) = *change;
                    let position = told.next();
                    if let Some(tale) = self.watches.tale(origin) {
                        tale.waits = None;
                        tale.then.insert(key.clone(), after.clone());
                    }
                    let show = |(_, stored): (Position, Stored)| stored.show_of(origin, position);
                    let (kind, object) = match (before, after) {
                        (None, after) => ("ADDED", after),
                        (Some(_), Some(after)) => ("MODIFIED", Some(after)),
                        (before, None) => ("DELETED", before),
                    };
                    let object = object.map(show).unwrap_or_default();
                    let event = WatchEvent { kind, object };
                    let changed = Changed {
                        position,
                        key,
                        event,
                    };
                    for (id, event) in self.watches.on_changed(changed) {
                        self.actions.push(Action::Watch { id, event });
                    }
                }
                Next::Unknown => {
                    if let Some(tale) = self.watches.tale(origin) {
                        tale.waits = None;
                        tale.told = told.next();
                    }
                }
                Next::NotYet => {
                    let now = self.now.monotonic;
                    if let Some(tale) = self.watches.tale(origin) {
                        tale.waits.get_or_insert(now);
                    }
                    return;
                }
                Next::Gone => return self.list_again(origin, shown),
            }
        }
    }

    /// The change after `told`, of which everything up to `shown` is shown.
    fn next_change(&mut self, origin: &Origin, told: Position, shown: Position) -> Next {
        let (name, position) = (history_of(origin), told.next());
        if position > shown {
            return Next::Gone; // What is shown is older than what was told.
        }
        let Some((_, record)) = self.replica.find(&name, &ledger_place(position.0)) else {
            return if self.is_recorded_beyond(&name, position) {
                Next::Gone
            } else {
                Next::NotYet
            };
        };
        let Ok(record) = decode::<Record>(record) else {
            return Next::Gone;
        };
        let key = match resource_key(record.key.as_bytes()) {
            Err(_) => return Next::Unknown,
            Ok(key) if key.origin != *origin => return Next::Gone,
            Ok(key) => key,
        };
        let present = self.objects.get(&key);
        let tale = self.watches.tale(origin);
        let then = tale.and_then(|tale| tale.then.get(&key).cloned());
        // Nobody has changed it since.
        let before = then.unwrap_or_else(|| present.cloned());
        let after = match record.after {
            None => None,
            // This is the last version of it.
            Some(_) if present.is_some_and(|(at, _)| *at == position) => present.cloned(),
            Some(object) => {
                let earlier = before.as_ref().map(|(_, stored)| stored);
                let (author, time) = (&record.author, record.time);
                let stored = Stored::after(earlier, &key, object, author, time);
                stored.map(|stored| (position, stored))
            }
        };
        if before.is_none() && after.is_none() {
            return Next::Gone;
        }
        Next::Change(Box::new((key, before, after)))
    }

    /// Records come in the order of positions: is one beyond that here?
    fn is_recorded_beyond(&self, history: &LedgerName, position: Position) -> bool {
        let records = self.replica.entries(history);
        let newest = records.last().map(|(place, _, _)| place.as_ref());
        newest.is_some_and(|newest| newest > ledger_place(position.0).as_ref())
    }

    fn list_again(&mut self, origin: &Origin, shown: Position) {
        for id in self.watches.forget(origin, shown) {
            let event = WatchEvent::expired();
            self.actions.push(Action::Watch { id, event });
            self.actions.push(Action::EndWatch { id });
        }
    }

    /// Nobody waits for ever for a record that does not come.
    pub(super) fn give_up_records(&mut self, now: Instant) {
        for origin in self.watches.waiting_since(now.checked_sub(RECORDS)) {
            let shown = self.position_of(&origin);
            self.list_again(&origin, shown);
        }
    }
}
