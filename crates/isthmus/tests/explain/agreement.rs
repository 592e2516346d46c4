//! Compares what was explained with what the reply told.

use isthmus_lab::http::Reply;
use isthmus_lab::trouble::{Result, Trouble, ensure, trouble};
use serde_json::Value;

/// What came true of what was explained, for counting: the reason of the choice or of the refusal.
pub(crate) struct Agreed {
    pub(crate) reason: String,
    /// A workload has served it.
    pub(crate) served: bool,
}

/// Errors: what of the reply was not explained so.
pub(crate) fn check(explained: &Value, reply: &Reply) -> Result<Agreed> {
    for (name, field) in [("route", "x-isthmus-route"), ("rule", "x-isthmus-rule")] {
        same(name, text(&explained[name]), reply.field(field))?;
    }
    if let Some(reason) = text(&explained["refusal"]["reason"]) {
        same("refusal", Some(reason), reply.refusal())?;
        same("backend", None, reply.field("x-isthmus-backend"))?;
        return Ok(Agreed {
            reason: reason.to_owned(),
            served: false,
        });
    }
    let backend = drawn(explained, reply)?;
    let expected: Vec<String> = list(&backend["candidates"]).iter().map(candidate).collect();
    let expected = expected.join(", ");
    same(
        "candidates",
        Some(&expected),
        reply.field("x-isthmus-candidates"),
    )?;

    let choices = list(&backend["choices"]);
    let cluster = reply.field("x-isthmus-cluster");
    let reason = reply.field("x-isthmus-reason");
    let is_it =
        |choice: &&Value| text(&choice["cluster"]) == cluster && text(&choice["reason"]) == reason;
    let chosen = choices
        .iter()
        .find(is_it)
        .ok_or_else(|| Trouble(format!("went to {cluster:?} because of {reason:?}")))?;
    let agreed = |served| Agreed {
        reason: reason.unwrap_or_default().to_owned(),
        served,
    };
    if let Some(refusal) = text(&backend["refusal"]["reason"]) {
        same("refusal", Some(refusal), reply.refusal())?;
        return Ok(agreed(false));
    }
    // The explained choice is that of the first try.
    same("refusal", None, reply.refusal())?;
    same("attempts", Some("1"), reply.field("x-isthmus-attempts"))?;
    let workload = reply.field("x-isthmus-workload");
    let possible = possible_workloads(chosen);
    ensure(
        workload.is_some_and(|handle| possible.contains(&handle)),
        || format!("workload {workload:?} is none of {possible:?}"),
    )?;
    Ok(agreed(true))
}

/// The backend that the request was drawn for, which must be one that can be drawn.
fn drawn<'e>(explained: &'e Value, reply: &Reply) -> Result<&'e Value> {
    let told = reply.field("x-isthmus-backend").unwrap_or_default();
    let name = |backend: &Value| {
        let (service, subset) = (text(&backend["service"]), text(&backend["subset"]));
        match (service.unwrap_or_default(), subset.unwrap_or_default()) {
            (service, "*") => service.to_owned(),
            (service, subset) => format!("{service}:{subset}"),
        }
    };
    let can_be = |backend: &&Value| backend["weight"] != 0 && name(backend) == told;
    let found = list(&explained["backends"]).iter().find(can_be);
    found.ok_or_else(|| Trouble(format!("drawn was backend {told:?}")))
}

/// A candidate as it is told: `eu-central 0/1 no-healthy-workload stale`.
fn candidate(candidate: &Value) -> String {
    let cluster = text(&candidate["cluster"]).unwrap_or_default();
    let mut told = format!("{cluster} {}/{}", candidate["healthy"], candidate["total"]);
    let stale = (candidate["stale"] == true).then_some("stale");
    for word in text(&candidate["whyNot"]).into_iter().chain(stale) {
        told = told + " " + word;
    }
    told
}

pub(crate) fn possible_workloads(choice: &Value) -> Vec<&str> {
    let workloads = list(&choice["workloads"]).iter();
    let possible = workloads.filter(|workload| workload["possible"] == true);
    possible
        .filter_map(|workload| text(&workload["handle"]))
        .collect()
}

/// What holds for as long as nothing happens: no times, no measurements.
pub(crate) fn lasting(explained: &Value) -> Value {
    let mut lasting = explained.clone();
    for backend in parts(&mut lasting["backends"]) {
        for candidate in parts(&mut backend["candidates"]) {
            forget(candidate, &["rttMs", "ageMs"]);
        }
        for choice in parts(&mut backend["choices"]) {
            forget(choice, &["share", "opensTunnel"]);
            for workload in parts(&mut choice["workloads"]) {
                forget(workload, &["latencyMs", "inFlight", "way"]);
            }
            parts(&mut choice["workloads"]).sort_by_key(|workload| workload["handle"].to_string());
        }
    }
    lasting
}

fn forget(object: &mut Value, fields: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn parts(value: &mut Value) -> &mut [Value] {
    value.as_array_mut().map_or(&mut [], Vec::as_mut_slice)
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn same(what: &str, explained: Option<&str>, told: Option<&str>) -> Result<()> {
    if explained == told {
        return Ok(());
    }
    trouble(format!(
        "{what}: explained was {explained:?}, told is {told:?}"
    ))
}
