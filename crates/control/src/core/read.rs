//! Reads: objects, lists and watches. Config comes from this cluster's own copy; single workloads
//! of other clusters are asked for live, and a cluster that does not answer is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use isthmus_api::{Failure, ListMeta, ObjectList, ResourcePath, UnreachableCluster};
use isthmus_manifest::{ServerMetadata, workload_object};
use isthmus_model::{ClusterName, Kind, Origin, Position, ResourceKey, Workload};
use isthmus_wire::proto;
use isthmus_wire::proto::peer_question::Question;
use isthmus_world::Store;
use serde_json::Value;

use super::answer::Answer;
use super::questions::{Asked, GatherId};
use super::watch::{Compacted, FORGOTTEN, Selection, WatchEvent};
use super::{Action, Core, RequestId};

/// How long another cluster may take to list its workloads.
const INQUIRY: Duration = Duration::from_secs(1);

/// Lists that wait for other clusters.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    next: u64,
    open: BTreeMap<GatherId, Gather>,
}

#[derive(Debug)]
struct Gather {
    id: RequestId,
    selection: Selection,
    items: Vec<Value>,
    waiting: BTreeSet<ClusterName>,
    silent: BTreeSet<ClusterName>,
    deadline: Instant,
}

impl<S: Store> Core<S> {
    pub(super) fn on_read(&mut self, id: RequestId, selection: Selection, now: Instant) {
        if let Err(failure) = self.check_origin(&selection.origin, selection.kind) {
            return self.answer(id, failure.into());
        }
        if selection.kind == Kind::Workload {
            return self.gather_workloads(id, selection, now);
        }
        let items = self.select(&selection);
        let answer = self.read_answer(&selection, items, Vec::new());
        self.answer(id, answer);
    }

    /// One object or a list, as was asked.
    fn read_answer(
        &self,
        selection: &Selection,
        mut items: Vec<Value>,
        unreachable: Vec<UnreachableCluster>,
    ) -> Answer {
        if let Some(name) = &selection.name {
            if let Some(body) = items.pop() {
                return Answer::Json { code: 200, body };
            }
            let place = match &selection.namespace {
                Some(namespace) => format!("{}/{namespace}/{name}", selection.kind),
                None => format!("{}/{name}", selection.kind),
            };
            let silent: Vec<_> = unreachable
                .into_iter()
                .map(|silent| silent.cluster)
                .collect();
            if silent.is_empty() {
                return Failure::not_found(format!("there is no {place}")).into();
            }
            let silent = silent.join(", ");
            let message = format!("there is no {place} here, and {silent} cannot be asked");
            return Failure::unavailable(message).into();
        }
        Answer::view(&ObjectList {
            kind: format!("{}List", selection.kind),
            api_version: selection.kind.api_version(),
            metadata: ListMeta {
                resource_version: self.position_of(&selection.origin).to_string(),
            },
            items,
            unreachable,
        })
    }

    fn select(&mut self, selection: &Selection) -> Vec<Value> {
        let selected = |key: &&ResourceKey| selection.contains(key);
        let keys: Vec<_> = self.objects.keys().filter(selected).cloned().collect();
        keys.iter().filter_map(|key| self.show(key)).collect()
    }

    /// The object as the API shows it.
    pub(super) fn show(&mut self, key: &ResourceKey) -> Option<Value> {
        let conditions = self.conditions(key)?;
        let (position, stored) = self.objects.get(key)?;
        let mut object = stored.show_of(&key.origin, *position);
        object["status"]["conditions"] = conditions;
        Some(object)
    }

    // ---- Workloads

    fn gather_workloads(&mut self, id: RequestId, selection: Selection, now: Instant) {
        let items = self.own_workloads(&selection);
        let found = selection.name.is_some() && !items.is_empty();
        let others: Vec<_> = (self.index.declared().clusters())
            .map(|cluster| cluster.name.clone())
            .filter(|name| *name != self.settings.cluster && !found)
            .collect();
        self.gathers.next += 1;
        let gather = GatherId(self.gathers.next);
        let deadline = now + INQUIRY;
        let (waiting, silent): (BTreeSet<_>, BTreeSet<_>) = others
            .into_iter()
            .partition(|name| self.peers.session_of(name).is_some());
        let path = path_of(&selection);
        let open = Gather {
            id,
            selection,
            items,
            waiting: waiting.clone(),
            silent,
            deadline,
        };
        self.gathers.open.insert(gather, open);
        for cluster in waiting {
            if let Some(session) = self.peers.session_of(&cluster) {
                let inquiry = proto::Inquiry {
                    author: String::new(),
                    path: path.clone(),
                };
                let asked = Asked::Inquiry { gather, cluster };
                self.ask(session, Question::Inquiry(inquiry), asked, deadline);
            }
        }
        self.finish_gather(gather, now);
    }

    /// Another cluster's part has come.
    pub(super) fn on_part(
        &mut self,
        gather: GatherId,
        cluster: ClusterName,
        code: u16,
        body: &Value,
        now: Instant,
    ) {
        if let Some(open) = self.gathers.open.get_mut(&gather) {
            open.waiting.remove(&cluster);
            match body.get("items").and_then(Value::as_array) {
                Some(items) if code == 200 => open.items.extend(items.iter().cloned()),
                _ => {
                    open.silent.insert(cluster);
                }
            }
        }
        self.finish_gather(gather, now);
    }

    pub(super) fn on_silent(&mut self, gather: GatherId, cluster: &ClusterName, now: Instant) {
        if let Some(open) = self.gathers.open.get_mut(&gather)
            && open.waiting.remove(cluster)
        {
            open.silent.insert(cluster.clone());
        }
        self.finish_gather(gather, now);
    }

    /// Answers when nobody is waited for.
    fn finish_gather(&mut self, gather: GatherId, now: Instant) {
        let open = &mut self.gathers.open;
        if !open
            .get(&gather)
            .is_some_and(|open| open.waiting.is_empty())
        {
            return;
        }
        let Some(done) = open.remove(&gather) else {
            return;
        };
        let mut items = done.items;
        items.sort_by_cached_key(|item| {
            let field = |field: &str| item["metadata"][field].as_str().map(str::to_owned);
            (field("namespace"), field("name"))
        });
        let unreachable = done
            .silent
            .iter()
            .map(|cluster| self.unreachable(cluster, now));
        let unreachable = unreachable.collect();
        let answer = self.read_answer(&done.selection, items, unreachable);
        self.answer(done.id, answer);
    }

    fn unreachable(&self, cluster: &ClusterName, now: Instant) -> UnreachableCluster {
        let (_, age) = self.replica.contact(cluster, now);
        UnreachableCluster {
            cluster: cluster.to_string(),
            last_seen_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// What another cluster asked for, of this cluster's own.
    pub(super) fn own_part(&self, path: &str) -> Answer {
        let selection = ResourcePath::parse(path);
        let selection = selection.and_then(|path| self::selection(Origin::Mesh, &path).ok());
        match selection {
            Some(selection) if selection.kind == Kind::Workload => {
                let items = self.own_workloads(&selection);
                let all = Selection {
                    name: None,
                    ..selection
                };
                self.read_answer(&all, items, Vec::new())
            }
            _ => Failure::not_found(format!("{path} is not asked of another cluster")).into(),
        }
    }

    fn own_workloads(&self, selection: &Selection) -> Vec<Value> {
        let selected = |workload: &&Workload| {
            let namespace = selection.namespace.as_ref();
            namespace.is_none_or(|namespace| *namespace == workload.service.namespace)
                && (selection.name.as_ref())
                    .is_none_or(|name| name.as_str() == workload.handle.as_str())
        };
        let workloads = self.index.workloads().filter(selected);
        workloads
            .map(|workload| workload_object(workload, &ServerMetadata::default()))
            .collect()
    }

    // ---- Watches

    pub(super) fn on_watch(
        &mut self,
        id: RequestId,
        selection: Selection,
        since: Option<Position>,
    ) {
        if let Err(failure) = self.check_origin(&selection.origin, selection.kind) {
            return self.answer(id, failure.into());
        }
        if selection.kind == Kind::Workload {
            let message = "workloads cannot be watched yet: list them again";
            let failure = Failure::new(405, "MethodNotAllowed", message);
            return self.answer(id, failure.into());
        }
        let (kind, origin) = (selection.kind, selection.origin.clone());
        let from = since.unwrap_or_else(|| self.position_of(&origin));
        let missed = match since {
            Some(since) => self.watches.resume(id, selection, since),
            None => {
                let present = self.select(&selection).into_iter();
                self.watches.begin(id, selection, from);
                let added = |object| WatchEvent {
                    kind: "ADDED",
                    object,
                };
                Ok(present.map(added).collect())
            }
        };
        match missed {
            Err(Compacted) => {
                self.answer(id, Failure::new(410, "Expired", FORGOTTEN).into());
            }
            Ok(events) => {
                self.answer(id, Answer::Watching);
                let end = WatchEvent::bookmark(kind, self.watches.told(&origin).max(from));
                for event in events.into_iter().chain([end]) {
                    self.actions.push(Action::Watch { id, event });
                }
            }
        }
    }

    pub(super) fn on_gather_timeouts(&mut self, now: Instant) {
        let gathers = self.gathers.open.iter();
        let late: Vec<_> = gathers
            .filter(|(_, open)| open.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for gather in late {
            if let Some(open) = self.gathers.open.get_mut(&gather) {
                open.silent.append(&mut open.waiting);
            }
            self.finish_gather(gather, now);
        }
    }
}

/// What a path asks for.
///
/// Errors: a namespace or a name that nothing can have.
pub(crate) fn selection(origin: Origin, path: &ResourcePath) -> Result<Selection, Failure> {
    let bad = |what: &str, text: &str, error: &dyn std::fmt::Display| {
        Failure::bad_request(format!("{text:?} is not {what}: {error}"))
    };
    let namespace = path.namespace.as_deref().map(|text| {
        text.parse()
            .map_err(|error| bad("a namespace", text, &error))
    });
    let name = path
        .name
        .as_deref()
        .map(|text| text.parse().map_err(|error| bad("a name", text, &error)));
    Ok(Selection {
        origin,
        kind: path.kind,
        namespace: namespace.transpose()?,
        name: name.transpose()?,
    })
}

fn path_of(selection: &Selection) -> String {
    let namespace = selection
        .namespace
        .as_ref()
        .map(isthmus_model::Namespace::as_str);
    match (&selection.name, namespace) {
        (Some(name), Some(_)) => isthmus_api::object(selection.kind, namespace, name.as_str()),
        _ => isthmus_api::collection(selection.kind, namespace),
    }
}
