//! Watches: who is told of changes of config, and the changes of late for those who resume.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::{Kind, Namespace, ObjectName, Origin, Position, ResourceKey};
use serde_json::{Value, json};

use super::RequestId;

/// Changes that are remembered for watches that resume.
const HISTORY: usize = 4096;

/// What a request is about: one object, or all of a kind, or all of a kind in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub origin: Origin,
    pub kind: Kind,
    pub namespace: Option<Namespace>,
    pub name: Option<ObjectName>,
}

/// One line of a watch's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// ADDED, MODIFIED, DELETED or BOOKMARK.
    pub kind: &'static str,
    pub object: Value,
}

/// A change of one object.
#[derive(Debug, Clone)]
pub(super) struct Changed {
    pub position: Position,
    pub key: ResourceKey,
    pub event: WatchEvent,
}

#[derive(Debug, Default)]
pub(super) struct Watches {
    /// By origin: one that is busy costs those who watch others nothing.
    history: BTreeMap<Origin, VecDeque<Changed>>,
    /// Changes up to here are forgotten, by origin: each counts its own.
    forgotten: BTreeMap<Origin, Position>,
    watchers: BTreeMap<RequestId, Selection>,
}

/// The changes since then are forgotten: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compacted;

impl Selection {
    pub fn contains(&self, key: &ResourceKey) -> bool {
        self.kind == key.kind
            && self.origin == key.origin
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| Some(namespace) == key.namespace.as_ref())
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }
}

impl WatchEvent {
    /// Nothing changed up to this position.
    pub(super) fn bookmark(kind: Kind, position: Position) -> Self {
        Self {
            kind: "BOOKMARK",
            object: json!({
                "apiVersion": kind.api_version(),
                "kind": kind.name(),
                "metadata": {"resourceVersion": position.to_string()},
            }),
        }
    }

    pub fn to_json(&self) -> Value {
        json!({"type": self.kind, "object": self.object})
    }
}

impl Watches {
    /// Begins after a restart: nothing before these positions is remembered.
    pub(super) fn new(forgotten: BTreeMap<Origin, Position>) -> Self {
        Self {
            forgotten,
            ..Self::default()
        }
    }

    /// Everything selected that changed after `since`, in order; later changes follow.
    pub(super) fn resume(
        &mut self,
        id: RequestId,
        selection: Selection,
        since: Position,
    ) -> Result<Vec<WatchEvent>, Compacted> {
        let forgotten = self.forgotten.get(&selection.origin);
        if forgotten.is_some_and(|forgotten| since < *forgotten) {
            return Err(Compacted);
        }
        let selected =
            |changed: &&Changed| changed.position > since && selection.contains(&changed.key);
        let history = self.history.get(&selection.origin).into_iter().flatten();
        let missed = history
            .filter(selected)
            .map(|changed| changed.event.clone());
        let missed = missed.collect();
        self.watchers.insert(id, selection);
        Ok(missed)
    }

    /// From now on.
    pub(super) fn begin(&mut self, id: RequestId, selection: Selection) {
        self.watchers.insert(id, selection);
    }

    pub(super) fn end(&mut self, id: RequestId) {
        self.watchers.remove(&id);
    }

    /// Remembers the change and says who is to be told.
    pub(super) fn on_changed(&mut self, changed: Changed) -> Vec<(RequestId, WatchEvent)> {
        let watchers = self.watchers.iter();
        let told = watchers
            .filter(|(_, selection)| selection.contains(&changed.key))
            .map(|(id, _)| (*id, changed.event.clone()))
            .collect();
        let origin = changed.key.origin.clone();
        let history = self.history.entry(origin).or_default();
        history.push_back(changed);
        if history.len() > HISTORY
            && let Some(oldest) = history.pop_front()
        {
            self.forgotten.insert(oldest.key.origin, oldest.position);
        }
        told
    }

    /// A bookmark for everybody who watches.
    pub(super) fn bookmarks(
        &self,
        position_of: impl Fn(&Origin) -> Position,
    ) -> Vec<(RequestId, WatchEvent)> {
        let watchers = self.watchers.iter();
        let bookmark = |(id, selection): (&RequestId, &Selection)| {
            let position = position_of(&selection.origin);
            (*id, WatchEvent::bookmark(selection.kind, position))
        };
        watchers.map(bookmark).collect()
    }
}
