//! Watches: who is told of changes of config, and the changes of late for those who resume.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use isthmus_api::Failure;
use isthmus_model::{Kind, Namespace, ObjectName, Origin, Position, ResourceKey};
use serde_json::{Value, json};

use super::RequestId;
use super::objects::Stored;

/// Changes that are remembered for watches that resume.
const HISTORY: usize = 4096;

/// Why a watch cannot begin where it is asked to, or go on.
pub(super) const FORGOTTEN: &str =
    "the changes since that resourceVersion are forgotten: list again";

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

/// What an object was, and where it last changed.
pub(super) type Version = Option<(Position, Stored)>;

#[derive(Debug, Default)]
pub(super) struct Watches {
    /// By origin: one that is busy costs those who watch others nothing.
    tales: BTreeMap<Origin, Tale>,
    watchers: BTreeMap<RequestId, Watcher>,
    /// Until then everything is read anew, and nothing of that is told.
    is_open: bool,
}

/// What was told of one origin.
#[derive(Debug, Default)]
pub(super) struct Tale {
    /// Every change up to here was.
    pub(super) told: Position,
    /// Objects that changed since, as they were there.
    pub(super) then: BTreeMap<ResourceKey, Version>,
    /// Since when the record of a change is missing that is shown already.
    pub(super) waits: Option<Instant>,
    history: VecDeque<Changed>,
    /// Changes up to here are forgotten.
    forgotten: Position,
}

#[derive(Debug)]
struct Watcher {
    selection: Selection,
    /// It knows everything up to here.
    since: Position,
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

    /// The last line of a watch that cannot go on.
    pub(super) fn expired() -> Self {
        let failure = Failure::new(410, "Expired", FORGOTTEN);
        Self {
            kind: "ERROR",
            object: json!(failure),
        }
    }

    pub fn to_json(&self) -> Value {
        json!({"type": self.kind, "object": self.object})
    }
}

impl Watches {
    /// Begins after a restart: nothing before these positions is remembered.
    pub(super) fn new(positions: BTreeMap<Origin, Position>) -> Self {
        let tale = |position| Tale {
            told: position,
            forgotten: position,
            ..Tale::default()
        };
        let tales = positions.into_iter();
        Self {
            tales: tales
                .map(|(origin, position)| (origin, tale(position)))
                .collect(),
            is_open: true,
            ..Self::default()
        }
    }

    /// `None`: nothing is told yet.
    pub(super) fn tale(&mut self, origin: &Origin) -> Option<&mut Tale> {
        if !self.is_open {
            return None;
        }
        Some(self.tales.entry(origin.clone()).or_default())
    }

    /// Origins of which a record has been missing since then, or longer.
    pub(super) fn waiting_since(&self, then: Option<Instant>) -> Vec<Origin> {
        let tales = self.tales.iter();
        let waiting = tales.filter(|(_, tale)| tale.waits.is_some_and(|since| Some(since) <= then));
        waiting.map(|(origin, _)| origin.clone()).collect()
    }

    pub(super) fn told(&self, origin: &Origin) -> Position {
        self.tales.get(origin).map_or(Position(0), |tale| tale.told)
    }

    /// Everything selected that changed after `since`, in order; later changes follow.
    pub(super) fn resume(
        &mut self,
        id: RequestId,
        selection: Selection,
        since: Position,
    ) -> Result<Vec<WatchEvent>, Compacted> {
        let tale = self.tales.get(&selection.origin);
        if tale.is_some_and(|tale| since < tale.forgotten) {
            return Err(Compacted);
        }
        let selected =
            |changed: &&Changed| changed.position > since && selection.contains(&changed.key);
        let history = tale.into_iter().flat_map(|tale| &tale.history);
        let missed = history
            .filter(selected)
            .map(|changed| changed.event.clone());
        let missed = missed.collect();
        self.begin(id, selection, since);
        Ok(missed)
    }

    /// From there on.
    pub(super) fn begin(&mut self, id: RequestId, selection: Selection, since: Position) {
        self.watchers.insert(id, Watcher { selection, since });
    }

    pub(super) fn end(&mut self, id: RequestId) {
        self.watchers.remove(&id);
    }

    /// Remembers the change and says who is to be told.
    pub(super) fn on_changed(&mut self, changed: Changed) -> Vec<(RequestId, WatchEvent)> {
        let told = self
            .watchers
            .iter()
            .filter(|(_, watcher)| {
                watcher.since < changed.position && watcher.selection.contains(&changed.key)
            })
            .map(|(id, _)| (*id, changed.event.clone()))
            .collect();
        let tale = self.tales.entry(changed.key.origin.clone()).or_default();
        tale.told = changed.position;
        tale.history.push_back(changed);
        if tale.history.len() > HISTORY
            && let Some(oldest) = tale.history.pop_front()
        {
            tale.forgotten = oldest.position;
        }
        told
    }

    /// Nobody can be told what led to what stands at `position`: gives those who have to list again.
    pub(super) fn forget(&mut self, origin: &Origin, position: Position) -> Vec<RequestId> {
        let tale = Tale {
            told: position,
            forgotten: position,
            ..Tale::default()
        };
        self.tales.insert(origin.clone(), tale);
        let is_of = |_: &RequestId, watcher: &mut Watcher| watcher.selection.origin == *origin;
        self.watchers
            .extract_if(.., is_of)
            .map(|(id, _)| id)
            .collect()
    }

    /// A bookmark for everybody who watches.
    pub(super) fn bookmarks(&self) -> Vec<(RequestId, WatchEvent)> {
        let bookmark = |(id, watcher): (&RequestId, &Watcher)| {
            let position = self.told(&watcher.selection.origin).max(watcher.since);
            (*id, WatchEvent::bookmark(watcher.selection.kind, position))
        };
        self.watchers.iter().map(bookmark).collect()
    }
}
