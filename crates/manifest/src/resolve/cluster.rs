//! Mesh, Cluster and Link.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use isthmus_model::{
    ALL_TRAFFIC, Cluster, ClusterName, Egress, Link, MAX_VOTERS, Mesh, NameError, Namespace, Reach,
    Removals, Resource,
};

use super::{bounded_duration, maybe_duration, own_name, percent, socket, spec};
use crate::kinds::{
    ClusterSpec, Coordinates, EgressName, LinkSpec, MeshSpec, ReachSpec, RemovalsSpec,
};
use crate::problem::{Problems, quoted};
use crate::{FieldPath, Object};

pub(super) fn mesh(object: &Object, mesh: &MeshSpec, problems: &mut Problems) -> Option<Resource> {
    let name = own_name(object, "a mesh name", problems);
    let path = spec().field("trustDomain");
    let trust_domain = problems.name(&path, "a trust domain", &mesh.trust_domain);
    Some(Resource::Mesh(Mesh {
        name: name?,
        trust_domain: trust_domain?,
        egress: mesh.egress.map_or_else(Egress::default, egress),
        voters: (mesh.voters.as_deref())
            .map_or_else(BTreeSet::new, |names| voters(names, problems)),
        removals: (mesh.removals.as_ref())
            .map_or_else(Removals::default, |spec| removals(spec, problems)),
    }))
}

/// Between the time that a restart takes and that after which nobody remembers.
const HOLD_FOR: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_hours(24);

fn removals(written: &RemovalsSpec, problems: &mut Problems) -> Removals {
    let path = spec().field("removals");
    let default = Removals::default();
    let above = percent(written.hold_above, &path.field("holdAbove"), problems);
    let path = path.field("holdFor");
    let hold_for = bounded_duration(
        written.hold_for.as_ref(),
        *HOLD_FOR.start(),
        &path,
        problems,
    );
    if hold_for.is_some_and(|hold_for| hold_for > *HOLD_FOR.end()) {
        let text = written.hold_for.as_deref().map(quoted).unwrap_or_default();
        problems.add(&path, format!("{text} is too long: 24h is the most"));
    }
    Removals {
        hold_above: above.unwrap_or(default.hold_above),
        hold_for: hold_for.unwrap_or(default.hold_for),
    }
}

fn voters(names: &[String], problems: &mut Problems) -> BTreeSet<ClusterName> {
    let path = spec().field("voters");
    if names.is_empty() {
        problems.add_hint(&path, "it names no cluster", "leave it out, or name one");
    }
    if names.len() > MAX_VOTERS {
        let message = format!("{} clusters: {MAX_VOTERS} can vote at most", names.len());
        problems.add(&path, message);
    }
    each_once(names, &path, "a cluster name", problems)
        .into_iter()
        .collect()
}

fn egress(name: EgressName) -> Egress {
    match name {
        EgressName::Deny => Egress::Deny,
        EgressName::Allow => Egress::Allow,
    }
}

pub(super) fn cluster(
    object: &Object,
    cluster: &ClusterSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let name = own_name(object, "a cluster name", problems);
    let region = problems.name(&spec().field("region"), "a region", &cluster.region);
    for (field, text) in [
        ("zone", &cluster.zone),
        ("jurisdiction", &cluster.jurisdiction),
    ] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            problems.add_hint(&spec().field(field), "it is empty", "leave it out");
        }
    }
    let control_path = spec().field("control");
    let control = match &cluster.control {
        Some(text) => socket(text, &control_path, problems),
        None => {
            problems.add_hint(
                &control_path,
                "the field `control` is missing",
                "name the control plane's address; `isthmus up` does it by itself",
            );
            None
        }
    };
    let coordinates = cluster
        .coordinates
        .as_ref()
        .map(|at| coordinates(at, problems));
    let namespaces = cluster
        .namespaces
        .as_ref()
        .map(|names| namespaces(names, problems));
    let traffic = cluster.traffic.unwrap_or(ALL_TRAFFIC);
    if traffic > ALL_TRAFFIC {
        let message = format!("{traffic} percent: it must be from 0 to {ALL_TRAFFIC}");
        problems.add(&spec().field("traffic"), message);
    }
    Some(Resource::Cluster(Cluster {
        name: name?,
        region: region?,
        zone: cluster.zone.clone(),
        coordinates,
        jurisdiction: cluster.jurisdiction.clone(),
        control: control?,
        namespaces,
        revoked: cluster.revoked,
        traffic,
    }))
}

fn coordinates(at: &Coordinates, problems: &mut Problems) -> (f64, f64) {
    let path = spec().field("coordinates");
    for (field, value, limit) in [
        ("latitude", at.latitude, 90.0),
        ("longitude", at.longitude, 180.0),
    ] {
        if !(-limit..=limit).contains(&value) {
            let message = format!("{value} degrees: it must be from -{limit} to {limit}");
            problems.add(&path.field(field), message);
        }
    }
    (at.latitude, at.longitude)
}

fn namespaces(names: &[String], problems: &mut Problems) -> Vec<Namespace> {
    each_once(names, &spec().field("namespaces"), "a namespace", problems)
}

fn each_once<T>(names: &[String], path: &FieldPath, what: &str, problems: &mut Problems) -> Vec<T>
where
    T: FromStr<Err = NameError> + PartialEq,
{
    let mut found: Vec<T> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = path.index(index);
        match problems.name(&path, what, name) {
            Some(resolved) if found.contains(&resolved) => {
                problems.add(&path, format!("{} is named twice", quoted(name)));
            }
            Some(name) => found.push(name),
            None => {}
        }
    }
    found
}

pub(super) fn link(_: &Object, link: &LinkSpec, problems: &mut Problems) -> Option<Resource> {
    let between = between(&link.between, problems);
    let rtt = maybe_duration(link.rtt.as_ref(), &spec().field("rtt"), problems);
    let mut reach: Vec<Reach> = Vec::new();
    for (index, written) in link.reach.iter().enumerate() {
        let path = spec().field("reach").index(index);
        let Some(resolved) = one_reach(written, between.as_ref(), &path, problems) else {
            continue;
        };
        let same = |other: &Reach| other.from == resolved.from && other.address == resolved.address;
        if reach.iter().any(same) {
            problems.add(
                &path.field("address"),
                format!(
                    "{} already has a way to {}",
                    quoted(&written.from),
                    quoted(&written.address)
                ),
            );
        }
        reach.push(resolved);
    }
    Some(Resource::Link(Link {
        between: between?,
        rtt,
        reach,
    }))
}

fn between(names: &[String], problems: &mut Problems) -> Option<(ClusterName, ClusterName)> {
    let path = spec().field("between");
    let mut name = |index: usize| -> Option<ClusterName> {
        problems.name(&path.index(index), "a cluster name", &names[index])
    };
    if names.len() != 2 {
        let message = format!("a link is between two clusters, {} are named", names.len());
        problems.add(&path, message);
        return None;
    }
    let (one, other) = (name(0), name(1));
    let (one, other) = (one?, other?);
    if one == other {
        let message = format!(
            "a link needs two clusters, and both are {}",
            quoted(&names[0])
        );
        problems.add(&path, message);
        return None;
    }
    Some((one, other))
}

fn one_reach(
    reach: &ReachSpec,
    between: Option<&(ClusterName, ClusterName)>,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Reach> {
    let from: Option<ClusterName> =
        problems.name(&path.field("from"), "a cluster name", &reach.from);
    if let (Some(from), Some((one, other))) = (&from, between)
        && from != one
        && from != other
    {
        let message = format!("{} is not one of the two clusters", quoted(&reach.from));
        problems.add_hint(
            &path.field("from"),
            message,
            format!("write `{one}` or `{other}`"),
        );
    }
    let address = socket(&reach.address, &path.field("address"), problems);
    let via = socket(&reach.via, &path.field("via"), problems);
    Some(Reach {
        from: from?,
        address: address?,
        via: via?,
    })
}
