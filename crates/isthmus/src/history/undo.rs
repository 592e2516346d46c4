//! `isthmus undo`: makes an object what it was before a change, by a write like any other.

use std::process::ExitCode;

use isthmus_api::{ChangeView, HistoryRequest, collection, object};
use isthmus_model::Kind;
use serde_json::{Value, json};

use super::{Changes, caught_up};
use crate::api_client::ApiClient;
use crate::args::UndoArgs;
use crate::failure::{Failure, Result};
use crate::output;
use crate::resources::{Outcome, difference, paint, replaced, same};
use crate::setting::Setting;
use crate::signer::Signer;

pub(crate) async fn undo(setting: &Setting, args: &UndoArgs) -> Result<ExitCode> {
    let mut client = setting.connect().await?;
    caught_up(&mut client, args.change).await?;
    let change = find(&mut client, args.change).await?;
    let kind: Kind = change.kind.parse().map_err(|_| {
        let what = format!(
            "change {} is of a kind that this version does not know",
            change.position
        );
        Failure::failed("unknown-kind", what).next("use the version of isthmus that wrote it")
    })?;
    let namespace = change.namespace.as_deref();
    let path = object(kind, namespace, &change.name);
    let current = client.find(&path).await?;
    // The records may be behind the objects: what counts is the object.
    if !args.force {
        let later = later(&mut client, &change).await?;
        if !later.is_empty() || !is_as_made(&change, current.as_ref()) {
            return Err(changed_again(&change, &later));
        }
    }
    let signer = Signer::of(&setting.home);
    let before = change.before.clone();
    if let Some(before) = &before {
        let what = format!("{} before change {}", change.object(), change.position);
        signer.check_repeats(before, &what)?;
    }
    // What was revoked is taken back by saying so only.
    let before = before.map(|mut before| {
        let is_revoked = current
            .as_ref()
            .is_some_and(|now| now["spec"]["revoked"] == true);
        if is_revoked && before["spec"]["revoked"].is_null() {
            before["spec"]["revoked"] = json!(false);
        }
        before
    });
    let before = before
        .map(|before| signer.sign(before, current.as_ref()))
        .transpose()?;
    let shown = difference(current.as_ref(), before.as_ref());
    let outcome = outcome(current.as_ref(), before.as_ref());
    if !args.dry_run {
        match (outcome, current, before) {
            (Outcome::Created, _, Some(before)) => {
                let _: Value = client.post(&collection(kind, namespace), &before).await?;
            }
            (Outcome::Changed, Some(current), Some(before)) => {
                client.put(&path, &replaced(current, before)).await?;
            }
            (Outcome::Deleted, Some(current), None) => {
                // Conditional on what was looked at: nobody's change is lost.
                let version = &current["metadata"]["resourceVersion"];
                let options = json!({
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "preconditions": {"resourceVersion": version},
                });
                client.delete_if(&path, &options).await?;
            }
            _ => {}
        }
    }
    let text = match setting.format {
        Some(format) => {
            let done = json!({
                "dryRun": args.dry_run,
                "undone": change.position,
                "objects": [{"object": setting.named(&change.object()), "outcome": outcome}],
            });
            output::structured(&done, format)
        }
        None => {
            let line = outcome.line(&setting.named(&change.object()), args.dry_run);
            line + &paint(&shown, setting.color)
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn outcome(current: Option<&Value>, before: Option<&Value>) -> Outcome {
    match (current, before) {
        (None, None) => Outcome::Unchanged,
        (None, Some(_)) => Outcome::Created,
        (Some(_), None) => Outcome::Deleted,
        (Some(current), Some(before)) if same(current, before) => Outcome::Unchanged,
        (Some(_), Some(_)) => Outcome::Changed,
    }
}

/// Is the object what the change made it?
fn is_as_made(change: &ChangeView, current: Option<&Value>) -> bool {
    let version = current.map(|current| current["metadata"]["resourceVersion"].as_str());
    match (version, &change.after) {
        (Some(version), Some(_)) => version == Some(&change.position.to_string()),
        (None, None) => true,
        _ => false,
    }
}

/// Errors: there is no such change, or the asked cluster does not know it.
async fn find(client: &mut ApiClient, position: u64) -> Result<ChangeView> {
    let cluster = client.cluster.clone();
    let request = HistoryRequest {
        before: position.checked_add(1),
        limit: Some(1),
        ..HistoryRequest::default()
    };
    let mut changes = Changes::new(client, request);
    let mut found = Vec::new();
    while let Some(change) = changes.next().await?
        && change.position == position
    {
        found.push(change);
    }
    let unreadable = changes.unreadable;
    let mut failure = match (found.pop(), &found[..]) {
        (Some(change), []) => return Ok(change),
        (Some(_), _) => {
            let what = format!("cluster {cluster} knows several changes {position}");
            Failure::failed("ambiguous-change", what)
                .cause("who accepted it was restored from a backup and has used the number again")
                .next("write the object as it was with `isthmus apply`; `isthmus history --diff` shows it")
        }
        (None, _) => {
            let what = format!("cluster {cluster} knows no change {position}");
            Failure::failed("no-such-change", what)
                .next("`isthmus history` lists them; --cluster asks another cluster")
        }
    };
    let about = format!("change {position}: ");
    failure
        .causes
        .extend(unreadable.into_iter().filter(|one| one.starts_with(&about)));
    Err(failure)
}

/// Changes of the same object after this one, newest first.
async fn later(client: &mut ApiClient, change: &ChangeView) -> Result<Vec<ChangeView>> {
    let request = HistoryRequest {
        kind: Some(change.kind.clone()),
        namespace: change.namespace.clone(),
        name: Some(change.name.clone()),
        limit: Some(super::AT_ONCE),
        ..HistoryRequest::default()
    };
    let mut changes = Changes::new(client, request);
    let mut later = Vec::new();
    while let Some(found) = changes.next().await? {
        if found.position <= change.position {
            break;
        }
        later.push(found);
    }
    Ok(later)
}

fn changed_again(change: &ChangeView, later: &[ChangeView]) -> Failure {
    let (object, position) = (change.object(), change.position);
    let what = format!("{object} was changed again after change {position}");
    let mut failure = Failure::failed("changed-again", what);
    for later in later.iter().take(3) {
        let ChangeView {
            position,
            author,
            time,
            verb,
            ..
        } = later;
        failure = failure.cause(format!("change {position}: {verb} by {author}, {time}"));
    }
    if let Some(newest) = later.first() {
        let first = format!(
            "undo change {} first, if that is what you want",
            newest.position
        );
        failure = failure.next(first);
    }
    failure.next(format!(
        "`isthmus undo {position} --force` makes it what it was before change {position}, and \
             undoes the later ones with it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_change_made_is_undone_by_itself() {
        let change = |after: Option<Value>| -> ChangeView {
            serde_json::from_value(json!({
                "position": 42, "time": "", "author": "", "cluster": "", "verb": "", "kind": "Service",
                "namespace": "shop", "name": "cart", "before": null, "after": after, "hash": "",
                "previous": null,
            }))
            .unwrap()
        };
        let at = |version: &str| json!({"metadata": {"resourceVersion": version}});
        let (made, deleted) = (change(Some(json!({}))), change(None));
        for (change, current, expect) in [
            (&made, Some(at("42")), true),
            (&made, Some(at("43")), false),
            (&made, None, false),
            (&deleted, None, true),
            (&deleted, Some(at("43")), false),
        ] {
            assert_eq!(is_as_made(change, current.as_ref()), expect, "{current:?}");
        }
    }

    #[test]
    fn what_undoing_does_follows_from_what_there_is_and_was() {
        let (one, two) = (json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}));
        for (current, before, expect) in [
            (None, None, Outcome::Unchanged),
            (None, Some(&one), Outcome::Created),
            (Some(&one), None, Outcome::Deleted),
            (Some(&one), Some(&one), Outcome::Unchanged),
            (Some(&two), Some(&one), Outcome::Changed),
        ] {
            assert_eq!(outcome(current, before), expect, "{current:?} {before:?}");
        }
    }
}
