//! Objects as the API stores them: the JSON that somebody wrote, with its head checked.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use isthmus_model::{Kind, LabelKey, Labels, Namespace, ObjectName, Origin, Resource, ResourceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::decode::{Decoded, decode};
use crate::problem::{Problems, did_you_mean, quoted};
use crate::{FieldPath, Problem, standard};

/// An object whose `apiVersion`, `kind` and `metadata` are valid. `spec` may still be wrong:
/// [`crate::resolve`] reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    json: Map<String, Value>,
    kind: Kind,
    metadata: Metadata,
}

/// What `metadata` says. Fields that only Kubernetes itself needs stay in the JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub name: ObjectName,
    /// `Some` exactly when the kind is namespaced.
    pub namespace: Option<Namespace>,
    pub labels: Labels,
    pub annotations: BTreeMap<String, String>,
    pub resource_version: Option<String>,
    pub generation: Option<u64>,
    pub uid: Option<String>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
}

impl Object {
    /// Checks the head of `json`. A namespaced object that names no namespace is put into
    /// `namespace`.
    ///
    /// Errors: everything that is wrong with the head; `spec` is not looked at.
    pub fn new(json: Value, namespace: Option<&Namespace>) -> Result<Self, Vec<Problem>> {
        match Self::read(json, namespace) {
            (Some(object), problems) if problems.is_empty() => Ok(object),
            (_, problems) => Err(problems),
        }
    }

    /// As [`Object::new`], with an object for whoever wants to look at the `spec` of one whose head is
    /// wrong, as long as its kind is known.
    pub(crate) fn read(json: Value, namespace: Option<&Namespace>) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Problems::default();
        let object = object(json, namespace, &mut problems);
        (object, problems.into_vec())
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All of it, as written.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    pub fn into_json(self) -> Value {
        Value::Object(self.json)
    }

    /// Sets `spec.<field>`, for what is known only when a mesh starts, such as addresses.
    pub fn set_spec(&mut self, field: &str, value: Value) {
        let spec = self
            .json
            .entry("spec")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(spec) = spec {
            spec.insert(field.to_owned(), value);
        }
    }

    /// `spec`, an empty object when it is left out or null.
    pub(crate) fn spec(&self) -> Value {
        match self.json.get("spec") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(spec) => spec.clone(),
        }
    }

    /// The key under which the object is kept: workloads belong to their cluster, all else to the
    /// mesh, unless whoever writes it says otherwise.
    pub fn key(&self, resource: &Resource) -> ResourceKey {
        let origin = match resource {
            Resource::Workload(workload) => Origin::Cluster(workload.cluster.clone()),
            _ => Origin::Mesh,
        };
        ResourceKey {
            origin,
            kind: self.kind,
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }
}

fn object(json: Value, fallback: Option<&Namespace>, problems: &mut Problems) -> Option<Object> {
    let root = FieldPath::root();
    let Value::Object(mut json) = json else {
        problems.add_hint(
            &root,
            "this is not a resource",
            "a resource is an object with apiVersion, kind and metadata",
        );
        return None;
    };
    let kind = kind(&json, problems);
    unknown_fields(&json, problems);
    let metadata = metadata(&json, kind, fallback, problems);
    let kind = kind?;
    // What stands in for a wrong one is kept by nobody: there are problems.
    let metadata = metadata.or_else(|| stand_in(kind))?;
    if let (Some(namespace), Some(Value::Object(written))) =
        (&metadata.namespace, json.get_mut("metadata"))
    {
        written.insert("namespace".to_owned(), namespace.as_str().into());
    }
    Some(Object {
        json,
        kind,
        metadata,
    })
}

fn stand_in(kind: Kind) -> Option<Metadata> {
    let namespace = || Namespace::new("default").ok();
    Some(Metadata {
        name: ObjectName::new("unnamed").ok()?,
        namespace: kind.namespaced().then(namespace).flatten(),
        labels: Labels::new(),
        annotations: BTreeMap::new(),
        resource_version: None,
        generation: None,
        uid: None,
        creation_timestamp: None,
    })
}

fn unknown_fields(json: &Map<String, Value>, problems: &mut Problems) {
    const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in json.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
        let hint = did_you_mean(name, FIELDS)
            .unwrap_or_else(|| format!("the fields here are {}", FIELDS.join(", ")));
        let problem = Problem::new(FieldPath::root().field(name), "unknown field");
        problems.push(problem.of_key().hint(hint));
    }
}

/// The kind that `apiVersion` and `kind` name together.
fn kind(json: &Map<String, Value>, problems: &mut Problems) -> Option<Kind> {
    let version = text(json, "apiVersion", problems);
    let name = text(json, "kind", problems)?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let names = Kind::ALL.map(Kind::name);
        let hint = did_you_mean(name, names)
            .unwrap_or_else(|| format!("the kinds are {}", names.join(", ")));
        let message = format!("there is no kind {}", quoted(name));
        problems.add_hint(&FieldPath::root().field("kind"), message, hint);
        return None;
    };
    let expected = kind.api_version();
    match version {
        Some(version) if version != expected => {
            problems.add_hint(
                &FieldPath::root().field("apiVersion"),
                format!("kind {kind} is not in {}", quoted(version)),
                format!("write `{expected}`"),
            );
            None
        }
        Some(_) => Some(kind),
        None => None,
    }
}

fn text<'a>(json: &'a Map<String, Value>, field: &str, problems: &mut Problems) -> Option<&'a str> {
    match json.get(field) {
        Some(Value::String(text)) => Some(text),
        None | Some(Value::Null) => {
            problems.add(
                &FieldPath::root(),
                format!("the field `{field}` is missing"),
            );
            None
        }
        Some(_) => {
            problems.add(&FieldPath::root().field(field), "expected text");
            None
        }
    }
}

fn metadata(
    json: &Map<String, Value>,
    kind: Option<Kind>,
    fallback: Option<&Namespace>,
    problems: &mut Problems,
) -> Option<Metadata> {
    let path = FieldPath::root().field("metadata");
    let Some(written) = json.get("metadata") else {
        problems.add(&FieldPath::root(), "the field `metadata` is missing");
        return None;
    };
    let Decoded {
        value: meta,
        dropped,
    } = decode::<ObjectMeta>(written, &path, problems)?;
    standard::refuse_unsupported(written, &path, standard::METADATA, problems);

    let mut found = Problems::default();
    let name = match &meta.name {
        Some(name) => found.name(&path.field("name"), "a name", name),
        None => {
            found.add(&path.field("name"), "every object needs a name");
            None
        }
    };
    let namespace = kind
        .map(|kind| namespace(&meta, kind, fallback, &path))
        .transpose();
    let namespace = namespace.map_err(|problem| found.push(problem)).ok();
    let labels = labels(&meta, &path.field("labels"), &mut found);
    let generation = meta.generation.map(u64::try_from).transpose();
    if generation.is_err() {
        found.add(&path.field("generation"), "it counts from 1");
    }
    dropped.report(found, problems);
    let timestamp = written.get("creationTimestamp").and_then(Value::as_str);
    Some(Metadata {
        name: name?,
        namespace: namespace??,
        labels,
        annotations: meta.annotations.unwrap_or_default(),
        resource_version: meta.resource_version,
        generation: generation.ok()?,
        uid: meta.uid,
        creation_timestamp: timestamp.map(str::to_owned),
    })
}

/// The namespace that the object lives in, by what is written, its kind and the fallback.
fn namespace(
    meta: &ObjectMeta,
    kind: Kind,
    fallback: Option<&Namespace>,
    metadata: &FieldPath,
) -> Result<Option<Namespace>, Problem> {
    let path = metadata.field("namespace");
    match (&meta.namespace, kind.namespaced()) {
        (None, false) => Ok(None),
        (Some(_), false) => {
            let problem = Problem::new(path, format!("kind {kind} lives in no namespace"));
            Err(problem.of_key().hint("leave it out"))
        }
        (Some(text), true) => Namespace::new(text).map(Some).map_err(|error| {
            let message = format!("{} is not a namespace: {error}", quoted(text));
            Problem::new(path, message)
        }),
        (None, true) => fallback.cloned().map(Some).ok_or_else(|| {
            let message = format!("kind {kind} lives in a namespace, and none is named");
            let hint = "add `namespace:`, or name one on the command line with `-n`";
            Problem::new(path, message).hint(hint)
        }),
    }
}

fn labels(meta: &ObjectMeta, path: &FieldPath, problems: &mut Problems) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in meta.labels.iter().flatten() {
        match label(key, value) {
            Ok((key, value)) => {
                labels.insert(key, value);
            }
            Err(message) => problems.add(&path.field(key), message),
        }
    }
    labels
}

/// A label by the rules of Kubernetes: the value is empty, or at most 63 letters, digits, `-`, `_`
/// and `.` with a letter or digit at both ends.
///
/// Errors: a sentence.
pub(crate) fn label(key: &str, value: &str) -> Result<(LabelKey, Arc<str>), String> {
    let key = LabelKey::from_str(key)
        .map_err(|error| format!("{} is not the key of a label: {error}", quoted(key)))?;
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let edge = |c: char| c.is_ascii_alphanumeric();
    let valid = value.is_empty()
        || (value.len() <= 63
            && value.chars().all(inner)
            && value.starts_with(edge)
            && value.ends_with(edge));
    if valid {
        return Ok((key, value.into()));
    }
    Err(format!(
        "{} is not the value of a label: at most 63 letters, digits, '-', '_' and '.', \
             with a letter or a digit at both ends",
        quoted(value)
    ))
}
