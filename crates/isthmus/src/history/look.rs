//! `isthmus history`: the changes as a table, newest first.

use std::process::ExitCode;

use isthmus_api::{ChangeView, HistoryRequest};
use isthmus_model::Namespace;
use serde_json::{Map, Value, json};

use super::Changes;
use crate::api_client::{ApiError, nobody_answers};
use crate::args::HistoryArgs;
use crate::failure::{Failure, Result};
use crate::output::{self, table};
use crate::resources::{ObjectRef, difference, essence, paint};
use crate::setting::Setting;

/// Fields of one change that the table names.
const FIELDS: usize = 2;
/// Characters of a list of names that it shows.
const LIST: usize = 48;

pub(crate) async fn history(setting: &Setting, args: &HistoryArgs) -> Result<ExitCode> {
    let request = request(setting, args)?;
    if args.rejected {
        return rejected(setting, args, request).await;
    }
    let namespace = request.namespace.clone();
    let mut client = setting.connect().await?;
    let cluster = client.cluster.clone();
    let mut changes = Changes::new(&mut client, request);
    let mut found = Vec::new();
    while found.len() < args.limit
        && let Some(change) = changes.next().await?
    {
        found.push(change);
    }
    let more = found.len() == args.limit && changes.next().await?.is_some();
    let text = match setting.format {
        Some(format) => {
            let told = json!({
                "cluster": cluster.to_string(),
                "changes": found,
                "more": more,
                "unreadable": changes.unreadable,
            });
            output::structured(&told, format)
        }
        None if found.is_empty() => {
            let of = match (&args.object, &namespace) {
                (Some(object), Some(namespace)) => format!("{object} in namespace {namespace}"),
                (Some(object), None) => object.clone(),
                (None, _) => "config".to_owned(),
            };
            format!("no change of {of} is known in {cluster}\n")
        }
        None => shown(setting, args, &found),
    };
    output::print(&text)?;
    if setting.format.is_none() {
        for unreadable in &changes.unreadable {
            eprintln!("{unreadable}");
        }
        if more {
            eprintln!("older ones are left out: --limit shows more");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each cluster keeps what it had: what any of them kept, newest first.
async fn rejected(
    setting: &Setting,
    args: &HistoryArgs,
    request: HistoryRequest,
) -> Result<ExitCode> {
    let request = HistoryRequest {
        rejected: Some(true),
        ..request
    };
    let (mut found, mut unreadable, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    let mut answered = 0;
    for mut client in setting.clients()? {
        let cluster = client.cluster.clone();
        let mut changes = Changes::new(&mut client, request.clone());
        let mut kept = 0;
        let done = loop {
            match changes.next().await {
                Ok(Some(change)) if kept < args.limit => {
                    kept += 1;
                    found.push(change);
                }
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        unreadable.append(&mut changes.unreadable);
        match done {
            Ok(()) => answered += 1,
            Err(error @ ApiError::Unreachable { .. }) => silent.push(format!("{cluster}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    if answered == 0 {
        return Err(nobody_answers(silent));
    }
    found.sort_by(|a, b| (b.position, &b.hash).cmp(&(a.position, &a.hash)));
    found.dedup_by(|a, b| a.hash == b.hash);
    found.truncate(args.limit);
    let text = match setting.format {
        Some(format) => {
            let told = json!({"changes": found, "unreachable": silent, "unreadable": unreadable});
            return output::print(&output::structured(&told, format)).map(|()| ExitCode::SUCCESS);
        }
        None if found.is_empty() => "no change is void\n".to_owned(),
        None => shown(setting, args, &found),
    };
    output::print(&text)?;
    for silent in &silent {
        eprintln!("not asked: {silent}");
    }
    for unreadable in &unreadable {
        eprintln!("{unreadable}");
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(setting: &Setting, args: &HistoryArgs, changes: &[ChangeView]) -> String {
    if !args.diff {
        return rows(changes);
    }
    let details = changes.iter().map(|change| detail(change, setting.color));
    details.collect::<Vec<_>>().join("\n")
}

fn request(setting: &Setting, args: &HistoryArgs) -> Result<HistoryRequest> {
    let limit = Some(args.limit.min(super::AT_ONCE));
    let Some(text) = &args.object else {
        return Ok(HistoryRequest {
            limit,
            ..HistoryRequest::default()
        });
    };
    let reference = ObjectRef::parse(text, &setting.namespace)?;
    if args.all_namespaces && reference.name.is_some() {
        return Err(Failure::usage(
            "bad-object",
            "one object is in one namespace: -A does not fit",
        ));
    }
    let namespace = reference
        .namespace
        .as_ref()
        .filter(|_| !args.all_namespaces);
    Ok(HistoryRequest {
        kind: Some(reference.kind.name().to_owned()),
        namespace: namespace.map(Namespace::to_string),
        name: reference.name.as_ref().map(ToString::to_string),
        limit,
        ..HistoryRequest::default()
    })
}

fn rows(changes: &[ChangeView]) -> String {
    let rows = changes.iter().map(|change| {
        [
            change.position.to_string(),
            seconds(&change.time),
            change.author.clone(),
            change.cluster.clone(),
            change.verb.clone(),
            change.object(),
            summary(change),
        ]
    });
    table(
        &[
            "CHANGE", "TIME", "AUTHOR", "THROUGH", "VERB", "OBJECT", "WHAT",
        ],
        rows,
    )
}

/// Without its milliseconds, which only order what has positions anyway.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

fn detail(change: &ChangeView, color: bool) -> String {
    let ChangeView {
        position,
        time,
        author,
        cluster,
        verb,
        ..
    } = change;
    let head = format!(
        "change {position}: {verb} {} by {author} through {cluster}, {time}\n",
        change.object()
    );
    let lines = difference(change.before.as_ref(), change.after.as_ref());
    head + &paint(&lines, color)
}

/// Which fields are different, and how, in one line.
fn summary(change: &ChangeView) -> String {
    let (Some(before), Some(after)) = (&change.before, &change.after) else {
        return String::new();
    };
    let mut fields = Vec::new();
    compare("", &essence(before), &essence(after), &mut fields);
    let more = fields.len().saturating_sub(FIELDS);
    fields.truncate(FIELDS);
    let text = fields.join(", ");
    match more {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Each smallest part that differs, by its path.
fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let part = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&path, &part(old), &part(new), fields);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{index}]"), old, new, fields);
            }
        }
        _ => fields.push(format!("{path}: {} → {}", short(before), short(after))),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if text.chars().count() <= 24 => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let names = items.iter().filter_map(Value::as_str).collect::<Vec<_>>();
            let text = names.join(", ");
            if text.chars().count() > LIST {
                return "…".to_owned();
            }
            format!("[{text}]")
        }
        Value::String(_) | Value::Object(_) | Value::Array(_) => "…".to_owned(),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: Option<Value>, after: Option<Value>) -> ChangeView {
        ChangeView {
            position: 42,
            time: "2026-11-23T10:00:00.123Z".to_owned(),
            author: "ada".to_owned(),
            cluster: "us-west".to_owned(),
            verb: "update".to_owned(),
            kind: "HTTPRoute".to_owned(),
            namespace: Some("shop".to_owned()),
            name: "cart".to_owned(),
            origin: None,
            before,
            after,
            hash: String::new(),
            previous: None,
            record: None,
        }
    }

    #[test]
    fn a_change_is_a_row_that_says_what_is_different() {
        let weights = |a: u32, b: u32| {
            json!({"metadata": {"name": "cart", "labels": {"a": "x"}},
                   "spec": {"rules": [{"weight": a}, {"weight": b, "name": "n"}]}})
        };
        assert_eq!(
            rows(&[change(Some(weights(90, 10)), Some(weights(50, 10)))]),
            "CHANGE  TIME                  AUTHOR  THROUGH  VERB    OBJECT               WHAT\n\
             42      2026-11-23T10:00:00Z  ada     us-west  update  HTTPRoute/shop/cart  \
             spec.rules[0].weight: 90 → 50\n"
        );
    }

    #[test]
    fn a_short_list_of_names_is_shown() {
        let before = json!({"spec": {"voters": ["us-west"]}});
        let after = json!({"spec": {"voters": ["eu-central", "us-west"]}});
        assert_eq!(
            summary(&change(Some(before), Some(after))),
            "spec.voters: [us-west] → [eu-central, us-west]"
        );
    }

    #[test]
    fn what_is_long_or_many_is_left_out_of_the_row() {
        let before = json!({"spec": {"a": 1, "b": "x".repeat(30), "c": [1], "d": true}});
        let after = json!({"spec": {"a": 2, "b": "y", "c": [1, 2]}});
        assert_eq!(
            summary(&change(Some(before), Some(after))),
            "spec.a: 1 → 2, spec.b: … → y and 2 more"
        );
        assert_eq!(summary(&change(None, Some(json!({"spec": {"a": 1}})))), "");
    }

    #[test]
    fn a_change_in_detail_has_its_lines() {
        let deleted = change(Some(json!({"spec": {"a": 1}})), None);
        assert_eq!(
            detail(&deleted, false),
            "change 42: update HTTPRoute/shop/cart by ada through us-west, \
             2026-11-23T10:00:00.123Z\n- spec:\n-   a: 1\n"
        );
    }
}
