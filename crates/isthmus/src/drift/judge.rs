//! From what clusters say to what they do not have in common. Pure.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_api::{Contact, StatusView};
use serde::Serialize;
use serde_json::Value;

use crate::output::{field, last_seen};
use crate::resources::{conditions, same};
use crate::survey::Answered;

/// Everything that is not the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Drift {
    pub(super) objects: Vec<ObjectDrift>,
    pub(super) counts: Vec<CountDrift>,
}

/// A cluster's object is not what the cluster has that knows most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectDrift {
    /// `kind namespace/name`.
    pub(super) object: String,
    pub(super) cluster: String,
    /// The change that it has, and the newest; `None`: no such object.
    pub(super) has: Option<u64>,
    pub(super) newest: Option<u64>,
    pub(super) why: String,
}

/// A cluster counts another one's workloads otherwise than that one does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CountDrift {
    pub(super) service: String,
    /// Whose workloads they are.
    pub(super) of: String,
    pub(super) cluster: String,
    /// `healthy/total`, as `cluster` has it and as `of` says itself.
    pub(super) has: String,
    pub(super) says: String,
    pub(super) why: String,
}

impl Drift {
    pub(super) fn is_none(&self) -> bool {
        self.objects.is_empty() && self.counts.is_empty()
    }
}

pub(super) fn judge(answers: &[Answered]) -> Drift {
    // Of two that stand at one position, the one that is heard of first is as good as the other.
    let Some(newest) = answers.iter().rev().max_by_key(|one| one.view.position) else {
        return Drift::default();
    };
    let others = answers
        .iter()
        .filter(|one| one.view.cluster != newest.view.cluster);
    Drift {
        objects: others.flat_map(|other| objects(other, newest)).collect(),
        counts: answers.iter().flat_map(|of| counts(of, answers)).collect(),
    }
}

fn objects(of: &Answered, newest: &Answered) -> Vec<ObjectDrift> {
    let (mine, theirs) = (by_name(of), by_name(newest));
    let names: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
    let drift = |name: &String| {
        let (mine, theirs) = (mine.get(name), theirs.get(name));
        let why = why(&of.view, mine.copied(), &newest.view, theirs.copied())?;
        Some(ObjectDrift {
            object: name.clone(),
            cluster: of.view.cluster.clone(),
            has: mine.and_then(|object| change(object)),
            newest: theirs.and_then(|object| change(object)),
            why,
        })
    };
    names.into_iter().filter_map(drift).collect()
}

/// `None`: it is the same.
fn why(
    view: &StatusView,
    mine: Option<&Value>,
    newest: &StatusView,
    theirs: Option<&Value>,
) -> Option<String> {
    let (has, there) = (mine.and_then(change), theirs.and_then(change));
    let is_same = match (mine, theirs) {
        (Some(mine), Some(theirs)) => has == there && same(mine, theirs),
        (mine, theirs) => mine.is_none() && theirs.is_none(),
    };
    if is_same {
        let (mine, theirs) = (refused(mine?), refused(theirs?));
        return match (mine, theirs) {
            (Some(mine), None) => Some(format!("it is not in force there: {mine}")),
            (None, Some(theirs)) => Some(format!(
                "it is in force there, in {} not: {theirs}",
                newest.cluster
            )),
            _ => None,
        };
    }
    if view.position < newest.position {
        let behind = newest.position - view.position;
        let contact = newest
            .authority
            .cluster
            .as_deref()
            .unwrap_or(&newest.cluster);
        return Some(format!(
            "{} lacks {}, {}",
            view.cluster,
            match behind {
                1 => "the last change".to_owned(),
                behind => format!("the last {behind} changes"),
            },
            heard(view, contact)
        ));
    }
    Some(format!(
        "both stand at change {}: one of them was not written by the authority that the other follows; \
         compare `isthmus history` in both",
        view.position
    ))
}

fn counts(of: &Answered, answers: &[Answered]) -> Vec<CountDrift> {
    let owner = &of.view.cluster;
    let mut found = Vec::new();
    let own = shares(&of.view, owner);
    for other in answers.iter().filter(|other| other.view.cluster != *owner) {
        let seen = shares(&other.view, owner);
        let services: BTreeSet<_> = own.keys().chain(seen.keys()).collect();
        for service in services {
            let (has, says) = (seen.get(service), own.get(service));
            let none = (0, 0);
            if has.unwrap_or(&none) != says.unwrap_or(&none) {
                let text = |counts: Option<&(u32, u32)>| {
                    let (healthy, total) = counts.unwrap_or(&none);
                    format!("{healthy}/{total}")
                };
                found.push(CountDrift {
                    service: (*service).to_owned(),
                    of: owner.clone(),
                    cluster: other.view.cluster.clone(),
                    has: text(has),
                    says: text(says),
                    why: format!("{}, {}", other.view.cluster, heard(&other.view, owner)),
                });
            }
        }
    }
    found
}

/// By service that all clusters know: healthy and total workloads of a cluster, as the view has them.
fn shares<'v>(view: &'v StatusView, of: &str) -> BTreeMap<&'v str, (u32, u32)> {
    let exported = view.services.iter().filter(|service| service.exported);
    exported
        .filter_map(|service| {
            let mut shares = service.clusters.iter();
            let share = shares.find(|share| share.cluster == of)?;
            Some((service.name.as_str(), (share.healthy, share.total)))
        })
        .collect()
}

/// How the cluster hears another one.
fn heard(view: &StatusView, cluster: &str) -> String {
    let mut clusters = view.clusters.iter();
    let Some(of) = clusters.find(|each| each.name == cluster) else {
        return format!("which knows no cluster {cluster}");
    };
    match of.contact {
        Contact::Own => "and votes itself".to_owned(),
        Contact::Live => {
            format!("which hears {cluster}: it is on its way, or not taken in; see its log")
        }
        Contact::Stale | Contact::Lost | Contact::Never => {
            format!("which does not hear {cluster}, {}", last_seen(of.age_ms))
        }
    }
}

fn by_name(answered: &Answered) -> BTreeMap<String, &Value> {
    let named = |object| {
        let kind = field(object, "/kind");
        let name = field(object, "/metadata/name");
        let name = match field(object, "/metadata/namespace").as_str() {
            "-" => name,
            namespace => format!("{namespace}/{name}"),
        };
        (format!("{kind} {name}"), object)
    };
    answered.objects.iter().map(named).collect()
}

fn change(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Why it is not in force, by the cluster's own word.
fn refused(object: &Value) -> Option<String> {
    let mut conditions = conditions(object).into_iter();
    let accepted = conditions.find(|one| one["type"] == "Accepted" && one["status"] == "False");
    accepted.map(|condition| field(condition, "/message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A mesh of two clusters as `cluster` sees it.
    fn answered(cluster: &str, position: u64) -> Answered {
        let contact = |name: &str| if name == cluster { "own" } else { "live" };
        let clusters = ["a", "b"].map(|name| {
            json!({"name": name, "region": "r", "contact": contact(name), "ageMs": 12_000, "rttMs": null,
                   "gateways": []})
        });
        let view = json!({
            "mesh": "shop", "trustDomain": "shop.example", "cluster": cluster, "version": "0.1.0",
            "position": position, "authority": {"cluster": "a", "reachable": true}, "clusters": clusters,
            "services": [{"name": "shop/cart", "exported": true, "clusters": [
                {"cluster": "a", "healthy": 1, "total": 2}, {"cluster": "b", "healthy": 1, "total": 1}]}],
            "proxies": [],
        });
        Answered {
            view: serde_json::from_value(view).unwrap(),
            objects: vec![object(5, 80)],
            own: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn object(version: u64, port: u64) -> Value {
        json!({
            "kind": "Service", "spec": {"ports": [{"port": port}]},
            "metadata": {"name": "cart", "namespace": "shop", "resourceVersion": version.to_string()},
        })
    }

    fn whys(answers: &[Answered]) -> Vec<String> {
        let drift = judge(answers);
        let objects = drift
            .objects
            .iter()
            .map(|one| format!("{}: {}", one.object, one.why));
        let counts = drift.counts.iter();
        let counts = counts.map(|one| format!("{} of {} by {}", one.service, one.of, one.cluster));
        objects.chain(counts).collect()
    }

    #[test]
    fn what_is_the_same_everywhere_is_no_difference() {
        assert_eq!(whys(&[answered("a", 7), answered("b", 7)]), [""; 0]);
        assert_eq!(
            whys(&[answered("a", 9), answered("b", 7)]),
            [""; 0],
            "but a position"
        );
        assert_eq!(whys(&[answered("a", 7)]), [""; 0]);
    }

    #[test]
    fn each_difference_has_its_reason() {
        type Change = fn(&mut Answered, &mut Answered);
        let cases: [(Change, &str); 8] = [
            (
                |a, _| {
                    a.view.position = 9;
                    a.objects[0] = object(9, 81);
                },
                "Service shop/cart: b lacks the last 2 changes, which hears a: it is on its way",
            ),
            (
                |a, b| {
                    a.view.position = 9;
                    a.objects.clear();
                    b.view.clusters[0].contact = Contact::Stale;
                },
                "Service shop/cart: b lacks the last 2 changes, which does not hear a, last seen 12 s ago",
            ),
            (
                |a, _| {
                    a.view.position = 8;
                    let mut more = object(8, 80);
                    more["metadata"]["name"] = json!("more");
                    a.objects.push(more);
                },
                "Service shop/more: b lacks the last change, which",
            ),
            (
                |_, b| b.objects[0] = object(5, 81),
                "Service shop/cart: both stand at change 7",
            ),
            (
                |_, b| b.objects[0] = object(6, 80),
                "Service shop/cart: both stand at change 7",
            ),
            (
                |_, b| {
                    b.objects[0]["status"]["conditions"] = json!([
                        {"type": "Accepted", "status": "False", "reason": "NotUnderstood", "message": "too new"}]);
                },
                "Service shop/cart: it is not in force there: too new",
            ),
            (
                |a, _| {
                    a.objects[0]["status"]["conditions"] = json!([
                        {"type": "Accepted", "status": "False", "reason": "Unsigned", "message": "unsigned"}]);
                },
                "Service shop/cart: it is in force there, in a not: unsigned",
            ),
            (
                |_, b| b.view.services[0].clusters[0].healthy = 2,
                "shop/cart of a by b",
            ),
        ];
        for (index, (change, expect)) in cases.into_iter().enumerate() {
            let (mut a, mut b) = (answered("a", 7), answered("b", 7));
            change(&mut a, &mut b);
            let found = whys(&[a, b]);
            assert_eq!(found.len(), 1, "case {index}: {found:?}");
            assert!(found[0].starts_with(expect), "case {index}: {found:?}");
        }
    }

    #[test]
    fn a_service_that_is_known_nowhere_else_counts_as_none() {
        let (mut a, b) = (answered("a", 7), answered("b", 7));
        a.view.services[0].clusters.pop();
        let drift = judge(&[a, b]);
        let [one] = &drift.counts[..] else {
            panic!("{drift:?}");
        };
        assert_eq!((&*one.of, &*one.has, &*one.says), ("b", "0/0", "1/1"));
        assert_eq!(
            one.why,
            "a, which hears b: it is on its way, or not taken in; see its log"
        );
    }
}
