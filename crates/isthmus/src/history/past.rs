//! `isthmus diff --at`: config as it was at a moment, against config as it is.

use std::collections::BTreeMap;
use std::process::ExitCode;

use isthmus_api::{ChangeView, HistoryRequest};
use isthmus_model::ClusterName;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Changes, caught_up};
use crate::config::parse_span;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::resources::{difference, paint, same};
use crate::setting::Setting;

/// An object that is not what it was.
#[derive(Debug, PartialEq)]
struct Changed {
    then: Option<Value>,
    now: Option<Value>,
}

pub(crate) async fn diff_at(setting: &Setting, at: &str) -> Result<ExitCode> {
    let at = moment(at, Timestamp::now())?;
    let mut client = setting.connect().await?;
    let cluster = client.cluster.clone();
    caught_up(&mut client, 0).await?;
    let request = HistoryRequest {
        limit: Some(super::AT_ONCE),
        ..HistoryRequest::default()
    };
    let mut changes = Changes::new(&mut client, request);
    let mut since: Vec<ChangeView> = Vec::new();
    let mut reached = false;
    while let Some(change) = changes.next().await? {
        let after = match since.last() {
            Some(after) => after.position,
            None => changes.position.unwrap_or_default().saturating_add(1),
        };
        all_readable(&changes.unreadable)?;
        without_gap(&cluster, change.position, after)?;
        if time_of(&change)? <= at {
            reached = true;
            break;
        }
        since.push(change);
    }
    all_readable(&changes.unreadable)?;
    // Where nothing was ever decided, nothing was different.
    if !reached && changes.position != Some(0) {
        begins_later(&cluster, since.last(), at)?;
    }
    let objects = since_then(since);
    let text = match setting.format {
        Some(format) => {
            let items = objects.iter().map(|(object, changed)| {
                json!({"object": object, "then": changed.then, "now": changed.now})
            });
            let items: Vec<Value> = items.collect();
            output::structured(&json!({"at": at.to_string(), "differences": items}), format)
        }
        None => objects
            .iter()
            .map(|(object, changed)| render(object, changed, setting.color))
            .collect(),
    };
    output::print(&text)?;
    Ok(if objects.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
}

/// A moment as people write it: RFC 3339, or how long ago.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = parse_span(text).ok();
    let ago = ago.and_then(|ago| SignedDuration::try_from(ago).ok());
    ago.and_then(|ago| now.checked_sub(ago).ok())
        .ok_or_else(|| {
            let what = format!("--at {text:?} is neither a time nor how long ago");
            Failure::usage("bad-time", what)
                .next("write it as 2026-11-23T10:00:00Z, or as 90s, 10m or 2h for so long ago")
        })
}

fn time_of(change: &ChangeView) -> Result<Timestamp> {
    change.time.parse().map_err(|error: jiff::Error| {
        let what = format!("the time of change {} is not one", change.position);
        Failure::failed("bad-answer", what).caused_by(&error)
    })
}

/// All changes were later. That is the whole answer if the first of them founded the mesh.
///
/// Errors: what was before the oldest is not known here.
fn begins_later(cluster: &ClusterName, oldest: Option<&ChangeView>, at: Timestamp) -> Result<()> {
    let what = match oldest {
        Some(oldest) if oldest.position <= 1 => return Ok(()),
        Some(oldest) => format!(
            "the history that {cluster} has begins with change {} at {}, after {at}",
            oldest.position, oldest.time
        ),
        None => format!("{cluster} has no history yet"),
    };
    Err(Failure::failed("unknown-past", what)
        .next("--cluster asks another cluster; the authority knows most"))
}

fn all_readable(unreadable: &[String]) -> Result<()> {
    let Some(first) = unreadable.first() else {
        return Ok(());
    };
    let what = "the history has changes that this version cannot read";
    Err(Failure::failed("unreadable-history", what)
        .cause(first.clone())
        .next("use the version of isthmus that wrote them"))
}

/// Errors: what stands between two changes has no record.
fn without_gap(cluster: &ClusterName, position: u64, after: u64) -> Result<()> {
    if position.saturating_add(1) >= after {
        return Ok(());
    }
    let (from, to) = (position + 1, after - 1);
    let what = format!("{cluster} has no record of the changes from {from} to {to}");
    Err(Failure::failed("unknown-past", what).next(
        "another cluster may have them: name it with --cluster; a version without history keeps none",
    ))
}

/// By object: before the first of its changes, and after the last. `changes`: newest first.
fn since_then(changes: Vec<ChangeView>) -> BTreeMap<String, Changed> {
    let mut objects: BTreeMap<String, Changed> = BTreeMap::new();
    for change in changes {
        let object = change.object();
        let ChangeView { before, after, .. } = change;
        objects
            .entry(object)
            .and_modify(|changed| changed.then.clone_from(&before))
            .or_insert(Changed {
                then: before,
                now: after,
            });
    }
    objects.retain(|_, changed| match (&changed.then, &changed.now) {
        (Some(then), Some(now)) => !same(then, now),
        (None, None) => false,
        _ => true,
    });
    objects
}

fn render(object: &str, changed: &Changed, color: bool) -> String {
    let what = match changed {
        Changed { then: None, .. } => "was created since",
        Changed { now: None, .. } => "was deleted since",
        _ => "was changed since",
    };
    let lines = difference(changed.then.as_ref(), changed.now.as_ref());
    format!("{object} {what}\n{}", paint(&lines, color))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(position: u64, name: &str, before: Option<u32>, after: Option<u32>) -> ChangeView {
        let object = |value: u32| json!({"spec": {"a": value}});
        serde_json::from_value(json!({
            "position": position, "time": "2026-11-23T10:00:00.000Z", "author": "ada",
            "cluster": "us-west", "verb": "update", "kind": "Service", "namespace": "shop",
            "name": name, "before": before.map(object), "after": after.map(object), "hash": "",
            "previous": null,
        }))
        .unwrap()
    }

    #[test]
    fn times_are_moments_or_ages() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        for (text, expect) in [
            ("2026-11-23T09:30:00Z", Some("2026-11-23T09:30:00Z")),
            ("2026-11-23T11:30:00+02:00", Some("2026-11-23T09:30:00Z")),
            ("30m", Some("2026-11-23T09:30:00Z")),
            ("1h30m", Some("2026-11-23T08:30:00Z")),
            ("yesterday", None),
            ("-5m", None),
            ("", None),
        ] {
            let found = moment(text, now).ok().map(|at| at.to_string());
            assert_eq!(found.as_deref(), expect, "{text:?}");
        }
    }

    #[test]
    fn of_many_changes_the_first_before_and_the_last_after_count() {
        let changed = since_then(vec![
            change(9, "back", Some(2), Some(1)),
            change(8, "gone", Some(1), None),
            change(7, "new", Some(1), Some(2)),
            change(6, "fleeting", Some(1), None),
            change(5, "back", Some(1), Some(2)),
            change(4, "new", None, Some(1)),
            change(3, "fleeting", None, Some(1)),
        ]);
        let objects: Vec<&str> = changed.keys().map(String::as_str).collect();
        assert_eq!(objects, ["Service/shop/gone", "Service/shop/new"]);
        let shown: String = changed
            .iter()
            .map(|(object, changed)| render(object, changed, false))
            .collect();
        assert_eq!(
            shown,
            "Service/shop/gone was deleted since\n- spec:\n-   a: 1\n\
             Service/shop/new was created since\n+ spec:\n+   a: 2\n"
        );
    }

    #[test]
    fn a_past_that_is_not_known_is_not_made_up() {
        let cluster: ClusterName = "us-west".parse().unwrap();
        let at = Timestamp::UNIX_EPOCH;
        let begins =
            |position| begins_later(&cluster, Some(&change(position, "x", None, None)), at);
        assert!(begins(1).is_ok(), "the mesh was founded then");
        assert_eq!(begins(2).unwrap_err().code, "unknown-past");
        assert_eq!(
            begins_later(&cluster, None, at).unwrap_err().code,
            "unknown-past"
        );
        // Two records of one position, one below another, one missing.
        assert!(without_gap(&cluster, 7, 7).is_ok());
        assert!(without_gap(&cluster, 7, 8).is_ok());
        assert_eq!(
            without_gap(&cluster, 7, 9).unwrap_err().what,
            "us-west has no record of the changes from 8 to 8"
        );
    }
}
