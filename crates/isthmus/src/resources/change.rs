//! `isthmus apply`, `isthmus delete`, `isthmus diff`.

use std::process::ExitCode;

use isthmus_api::{ObjectList, collection, object};
use isthmus_manifest::{Parsed, check_parsed, parse_object};
use isthmus_model::{Kind, Namespace, Resource, ResourceKey};
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::{difference, paint, same};
use super::files;
use super::reference::ObjectRef;
use crate::api_client::{ApiClient, ApiError};
use crate::args::{ApplyArgs, DeleteArgs, DiffArgs};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::setting::Setting;
use crate::signer::{Signer, is_signed};

/// What became of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Created,
    Changed,
    Unchanged,
    Deleted,
    Failed,
}

impl Outcome {
    /// What a person is told of it.
    pub(crate) fn line(self, object: &str, dry_run: bool) -> String {
        let word = match (self, dry_run) {
            (Self::Created, true) => "would be created",
            (Self::Created, false) => "created",
            (Self::Changed, true) => "would be changed",
            (Self::Changed, false) => "changed",
            (Self::Unchanged, _) => "unchanged",
            (Self::Deleted, true) => "would be deleted",
            (Self::Deleted, false) => "deleted",
            (Self::Failed, _) => "failed",
        };
        format!("{object} {word}\n")
    }
}

/// One line of what a command did.
#[derive(Debug, Serialize)]
struct Done {
    object: String,
    outcome: Outcome,
}

pub(crate) async fn apply(setting: &Setting, args: &ApplyArgs) -> Result<ExitCode> {
    let sources = files::sources(&args.file)?;
    let parsed = files::parse(&sources, &setting.namespace)?;
    check_kinds(setting, &parsed)?;
    let mut client = setting.connect().await?;
    let dangling = check_parsed(&parsed, declared(&mut client).await?);
    let mut work = Work::new(setting, args.dry_run);
    let signer = Signer::of(&setting.home);
    for Parsed { document, key, .. } in parsed {
        let wanted = document.object.into_json();
        let outcome = apply_one(&mut client, &signer, &key, wanted, args.dry_run).await;
        work.note(setting.named(&key.to_string()), outcome)?;
    }
    let done = work.finish()?;
    // No reason to write nothing: what is named may be written later.
    match dangling[..] {
        [] => Ok(done),
        _ => Err(files::dangling_failure(&dangling, &sources, args.dry_run)),
    }
}

/// Only some kinds belong to clusters.
fn check_kinds(setting: &Setting, parsed: &[Parsed]) -> Result<()> {
    let wrong = parsed
        .iter()
        .find(|parsed| !parsed.key.kind.is_of_clusters());
    let (Some(origin), Some(wrong)) = (&setting.origin, wrong) else {
        return Ok(());
    };
    let what = format!(
        "--origin {origin}: {} can only belong to the mesh",
        wrong.key
    );
    let next = format!(
        "leave --origin out for it; {} may belong to a cluster",
        of_clusters()
    );
    Err(Failure::usage("not-of-a-cluster", what).next(next))
}

/// The kinds of which an object may belong to a cluster.
pub(super) fn of_clusters() -> String {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_of_clusters());
    let kinds: Vec<_> = kinds.map(Kind::plural).collect();
    kinds.join(" and ")
}

/// All config that what is written may refer to.
async fn declared(client: &mut ApiClient) -> Result<Vec<(ResourceKey, Resource)>, ApiError> {
    let mut declared = Vec::new();
    let origin = client.origin.clone();
    let origins = [None].into_iter().chain(origin.clone().map(Some));
    for asked in origins {
        client.origin.clone_from(&asked);
        // Workloads are facts: no config names one.
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Workload);
        for kind in kinds.filter(|kind| asked.is_none() || kind.is_of_clusters()) {
            let list: ObjectList = client.get(&collection(kind, None)).await?;
            // What another version wrote and this one cannot read is its control plane's to report.
            declared.extend(list.items.into_iter().flat_map(parse_object));
        }
    }
    client.origin = origin;
    Ok(declared)
}

/// Makes the mesh's object what `wanted` says. With `dry_run`, says only what would be done.
pub(crate) async fn apply_one(
    client: &mut ApiClient,
    signer: &Signer,
    key: &ResourceKey,
    wanted: Value,
    dry_run: bool,
) -> Result<Outcome> {
    let namespace = key.namespace.as_ref().map(Namespace::as_str);
    let path = object(key.kind, namespace, key.name.as_str());
    let current = client.find(&path).await?;
    let wanted = completed(signer, key, current.as_ref(), wanted, dry_run)?;
    let outcome = match &current {
        None => Outcome::Created,
        Some(current) if same(current, &wanted) => Outcome::Unchanged,
        Some(_) => Outcome::Changed,
    };
    match (outcome, current) {
        _ if dry_run => {}
        (Outcome::Changed, Some(current)) => {
            // Conditional on what was read: nobody's change is lost.
            client.put(&path, &replaced(current, wanted)).await?;
        }
        (Outcome::Created, _) => {
            let _: Value = client
                .post(&collection(key.kind, namespace), &wanted)
                .await?;
        }
        _ => {}
    }
    Ok(outcome)
}

/// What a file says of an object, with what it leaves to commands, and signed.
///
/// Errors: what the mesh has must not be signed.
fn completed(
    signer: &Signer,
    key: &ResourceKey,
    current: Option<&Value>,
    mut wanted: Value,
    dry_run: bool,
) -> Result<Value> {
    if let Some(current) = current {
        carry(&FREE, current, &mut wanted);
        // What was signed was signed whole.
        if !is_signed(&wanted) && carry(&BINDING, current, &mut wanted) && !dry_run {
            let what = format!("what {key} has and the file leaves out");
            signer.check_repeats(current, &what)?;
        }
    }
    signer.sign(wanted, current)
}

/// Fields that a file leaves to a command: a cluster that is being drained is not given its traffic back by who applies a
/// file that says nothing of it.
const FREE: [(Kind, &str); 1] = [(Kind::Cluster, "traffic")];
/// The same of what the mesh key signs: who was given a vote does not lose it, nor is one that was revoked taken back.
const BINDING: [(Kind, &str); 2] = [(Kind::Mesh, "voters"), (Kind::Cluster, "revoked")];

/// Takes over those of the fields that are left out. True: there were some.
fn carry(fields: &[(Kind, &str)], current: &Value, wanted: &mut Value) -> bool {
    let mut carried = false;
    for (kind, field) in fields {
        if current["kind"] == kind.name()
            && let Some(kept) = current["spec"].get(*field)
            && let Some(spec) = wanted["spec"].as_object_mut()
            && !spec.contains_key(*field)
        {
            spec.insert((*field).to_owned(), kept.clone());
            carried = true;
        }
    }
    carried
}

/// `current` with what a person writes taken from `wanted`.
pub(crate) fn replaced(mut current: Value, wanted: Value) -> Value {
    let Value::Object(mut wanted) = wanted else {
        return current;
    };
    for field in ["labels", "annotations"] {
        let value = wanted
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        current["metadata"][field] = value.cloned().unwrap_or_else(|| json!({}));
    }
    // Whoever names a version means that one: a newer one is a conflict.
    if let Some(version) = wanted
        .get("metadata")
        .and_then(|metadata| metadata.get("resourceVersion"))
    {
        current["metadata"]["resourceVersion"] = version.clone();
    }
    current["spec"] = wanted.remove("spec").unwrap_or_else(|| json!({}));
    if let Some(current) = current.as_object_mut() {
        current.remove("status");
    }
    current
}

pub(crate) async fn delete(setting: &Setting, args: &DeleteArgs) -> Result<ExitCode> {
    let mut targets = Vec::new();
    for text in &args.object {
        let (reference, name) = ObjectRef::parse_one(text, &setting.namespace)?;
        let shown = match &reference.namespace {
            Some(namespace) => format!("{}/{namespace}/{name}", reference.kind),
            None => format!("{}/{name}", reference.kind),
        };
        targets.push((shown, reference.path(&name)));
    }
    if !args.file.is_empty() {
        let parsed = files::parse(&files::sources(&args.file)?, &setting.namespace)?;
        check_kinds(setting, &parsed)?;
        // What refers to others goes before them.
        targets.extend(parsed.into_iter().rev().map(|Parsed { key, .. }| {
            let namespace = key.namespace.as_ref().map(Namespace::as_str);
            (
                key.to_string(),
                object(key.kind, namespace, key.name.as_str()),
            )
        }));
    }
    let mut client = setting.connect().await?;
    let mut work = Work::new(setting, false);
    for (shown, path) in targets {
        let deleted = client.delete(&path).await;
        work.note(
            setting.named(&shown),
            deleted.map(|_| Outcome::Deleted).map_err(Failure::from),
        )?;
    }
    work.finish()
}

pub(crate) async fn diff(setting: &Setting, args: &DiffArgs) -> Result<ExitCode> {
    let parsed = files::parse(&files::sources(&args.file)?, &setting.namespace)?;
    check_kinds(setting, &parsed)?;
    let mut client = setting.connect().await?;
    let signer = Signer::of(&setting.home);
    let mut differences = Vec::new();
    for Parsed { document, key, .. } in parsed {
        let namespace = key.namespace.as_ref().map(Namespace::as_str);
        let path = object(key.kind, namespace, key.name.as_str());
        let current = client.find(&path).await?;
        let wanted = document.object.into_json();
        let wanted = completed(&signer, &key, current.as_ref(), wanted, true)?;
        if current
            .as_ref()
            .is_none_or(|current| !same(current, &wanted))
        {
            differences.push((setting.named(&key.to_string()), current, wanted));
        }
    }
    let text = match setting.format {
        Some(format) => {
            let items = differences.iter().map(|(object, current, wanted)| {
                json!({"object": object, "mesh": current, "file": wanted})
            });
            output::structured(&json!({"differences": items.collect::<Vec<_>>()}), format)
        }
        None => differences
            .iter()
            .map(|each| render_difference(each, setting.color))
            .collect(),
    };
    output::print(&text)?;
    Ok(if differences.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
}

fn render_difference(
    (object, current, wanted): &(String, Option<Value>, Value),
    color: bool,
) -> String {
    let what = match current {
        None => "would be created",
        Some(_) => "would change",
    };
    let lines = difference(current.as_ref(), Some(wanted));
    format!("{object} {what}\n{}", paint(&lines, color))
}

/// What a command has done so far; objects that fail do not keep others from being tried.
struct Work<'a> {
    setting: &'a Setting,
    dry_run: bool,
    done: Vec<Done>,
    failed: Vec<(String, Failure)>,
}

impl<'a> Work<'a> {
    fn new(setting: &'a Setting, dry_run: bool) -> Self {
        Self {
            setting,
            dry_run,
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Errors: the mesh is gone; nothing more can be done.
    fn note(&mut self, object: String, outcome: Result<Outcome>) -> Result<()> {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
            Err(failure) => {
                self.failed.push((object.clone(), failure));
                Outcome::Failed
            }
        };
        if self.setting.format.is_none() && outcome != Outcome::Failed {
            output::print(&outcome.line(&object, self.dry_run))?;
        }
        self.done.push(Done { object, outcome });
        Ok(())
    }

    fn finish(self) -> Result<ExitCode> {
        if let Some(format) = self.setting.format {
            let value = json!({"dryRun": self.dry_run, "objects": self.done});
            output::print(&output::structured(&value, format))?;
        }
        let count = self.failed.len();
        let mut failed = self.failed.into_iter();
        let Some((object, mut failure)) = failed.next() else {
            return Ok(ExitCode::SUCCESS);
        };
        failure.what = format!("{object}: {}", failure.what);
        for (object, other) in failed {
            failure = failure.cause(format!("{object}: {}", other.what));
        }
        if count > 1 {
            failure = failure.next(format!("{count} objects failed, the others are done"));
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_does_not_name_is_left_to_commands() {
        let current =
            json!({"kind": "Cluster", "spec": {"region": "us", "traffic": 40, "revoked": true}});
        let carried = |fields: &[(Kind, &str)], current: &Value, spec: Value| {
            let mut wanted = json!({"kind": current["kind"], "spec": spec});
            let some = carry(fields, current, &mut wanted);
            (some, wanted["spec"].clone())
        };
        for (fields, spec, some, expect) in [
            (
                &FREE[..],
                json!({"region": "eu"}),
                true,
                json!({"region": "eu", "traffic": 40}),
            ),
            (
                &FREE,
                json!({"traffic": 100}),
                false,
                json!({"traffic": 100}),
            ),
            (
                &BINDING,
                json!({"region": "eu"}),
                true,
                json!({"region": "eu", "revoked": true}),
            ),
            (
                &BINDING,
                json!({"revoked": false}),
                false,
                json!({"revoked": false}),
            ),
        ] {
            assert_eq!(carried(fields, &current, spec), (some, expect));
        }
        let other = json!({"kind": "Service", "spec": {"traffic": 40}});
        assert_eq!(carried(&FREE, &other, json!({})), (false, json!({})));
        let mesh = json!({"kind": "Mesh", "spec": {"voters": ["us"], "traffic": 40}});
        assert_eq!(
            carried(&BINDING, &mesh, json!({"egress": "Deny"})),
            (true, json!({"egress": "Deny", "voters": ["us"]}))
        );
    }

    #[test]
    fn a_write_keeps_what_the_server_noted_and_is_conditional() {
        let current = json!({
            "metadata": {"name": "x", "resourceVersion": "7", "labels": {"old": "1"}},
            "spec": {"a": 1},
            "status": {"conditions": []},
        });
        let wanted =
            json!({"metadata": {"name": "x", "annotations": {"b": "c"}}, "spec": {"a": 2}});
        assert_eq!(
            replaced(current, wanted),
            json!({
                "metadata": {
                    "name": "x", "resourceVersion": "7", "labels": {}, "annotations": {"b": "c"},
                },
                "spec": {"a": 2},
            })
        );
    }
}
