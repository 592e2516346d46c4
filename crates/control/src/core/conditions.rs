//! Conditions of objects: accepted, resolved, programmed on how many proxies. Computed when read;
//! they speak of the cluster that answers.

use std::collections::BTreeMap;

use isthmus_manifest::{Finding, Severity, check_references};
use isthmus_model::{Kind, Origin, Position, Resource, ResourceKey, TrafficPolicy};
use isthmus_route::settings;
use isthmus_world::Store;
use serde_json::{Value, json};

use super::Core;
use super::objects::Stored;
use super::publishing::Programmed;
use crate::time::rfc3339;

/// What references lead nowhere, as of a position.
#[derive(Debug, Default)]
pub(super) struct Findings {
    at: Option<Position>,
    by_key: BTreeMap<ResourceKey, Vec<Finding>>,
}

impl Findings {
    /// Something was written.
    pub(super) fn forget(&mut self) {
        self.at = None;
    }
}

impl<S: Store> Core<S> {
    /// `None` when there is no such object.
    pub(super) fn conditions(&mut self, key: &ResourceKey) -> Option<Value> {
        self.refresh_findings();
        let (_, stored) = self.objects.get(key)?;
        let mut conditions = vec![self.accepted(key, stored), self.resolved(key, stored)];
        conditions.extend(self.effective(key, stored));
        let appearances = self.index.appearances(key);
        if !appearances.is_empty() {
            let programmed = self.publishing.programmed(&appearances);
            conditions.push(self.programmed(stored, &programmed));
        }
        if key.kind == Kind::Cluster && key.name.as_str() == self.settings.cluster.as_str() {
            conditions.push(self.certified(stored));
        }
        Some(Value::Array(conditions))
    }

    fn refresh_findings(&mut self) {
        let position = self.position();
        if self.findings.at == Some(position) {
            return;
        }
        let mut by_origin: BTreeMap<Origin, Vec<_>> = BTreeMap::new();
        for (key, resource) in self.index.declared().all() {
            let of_origin = by_origin.entry(key.origin.clone()).or_default();
            of_origin.push((key, resource));
        }
        let of_mesh = by_origin.remove(&Origin::Mesh).unwrap_or_default();
        let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut note = |finding: Finding| {
            by_key.entry(finding.key.clone()).or_default().push(finding);
        };
        check_references(&of_mesh).into_iter().for_each(&mut note);
        // What belongs to a cluster names what is the mesh's or its own.
        for (origin, own) in by_origin {
            let all = [&of_mesh[..], &own].concat();
            let found = check_references(&all).into_iter();
            found
                .filter(|found| found.key.origin == origin)
                .for_each(&mut note);
        }
        self.findings = Findings {
            at: Some(position),
            by_key,
        };
    }

    fn accepted(&self, key: &ResourceKey, stored: &Stored) -> Value {
        match (self.unreadable.get(key), self.charter.refused(key)) {
            (None, None) => condition(stored, "Accepted", true, "Accepted", "it is valid"),
            (None, Some(why)) => {
                let instead = if self.charter.is_bound(key) {
                    "what was signed before goes on to hold in the place of what it says now"
                } else {
                    "it has no effect"
                };
                let message =
                    format!("{why}; {instead}; `isthmus apply` signs it where the mesh key is");
                condition(stored, "Accepted", false, why.reason(), &message)
            }
            (Some(reason), _) => {
                let message = format!(
                    "this version of isthmus cannot read it, what it said before stays in force: \
                     {reason}"
                );
                condition(stored, "Accepted", false, "NotUnderstood", &message)
            }
        }
    }

    fn resolved(&self, key: &ResourceKey, stored: &Stored) -> Value {
        let findings = self
            .findings
            .by_key
            .get(key)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let dangling = findings
            .iter()
            .any(|finding| finding.severity == Severity::Error);
        let messages: Vec<_> = findings.iter().map(finding_text).collect();
        let (reason, message) = match (dangling, messages.is_empty()) {
            (true, _) => ("RefNotFound", messages.join("; ")),
            (false, false) => ("ResolvedRefs", messages.join("; ")),
            (false, true) => ("ResolvedRefs", "all that it names exists".to_owned()),
        };
        condition(stored, "ResolvedRefs", !dangling, reason, &message)
    }

    /// Does what a policy sets hold here, or is it said otherwise by one that is enforced?
    fn effective(&self, key: &ResourceKey, stored: &Stored) -> Option<Value> {
        let declared = self.index.declared();
        let Resource::TrafficPolicy(policy) = declared.bound(key)? else {
            return None;
        };
        let all: Vec<_> = declared.policies().collect();
        let overruled = settings::overruled(policy, &all);
        let by = |(field, by): &(&str, &TrafficPolicy)| {
            let of = by.origin.cluster().map(|cluster| format!(" of {cluster}"));
            let (namespace, name, of) = (&by.namespace, &by.name, of.unwrap_or_default());
            format!("{field} is enforced by TrafficPolicy {namespace}/{name}{of}")
        };
        let by: Vec<_> = overruled.iter().map(by).collect();
        let (reason, message) = if by.is_empty() {
            (
                "Effective",
                "nothing that it sets is enforced otherwise".to_owned(),
            )
        } else {
            ("Overruled", by.join("; "))
        };
        Some(condition(
            stored,
            "Effective",
            by.is_empty(),
            reason,
            &message,
        ))
    }

    fn programmed(&self, stored: &Stored, programmed: &Programmed) -> Value {
        let Programmed {
            wanting,
            using,
            rejecting,
        } = programmed;
        let cluster = &self.settings.cluster;
        let rejections = rejecting.iter();
        let rejections: String = rejections
            .flat_map(|(process, reason)| ["; ", process, " rejects it: ", reason])
            .collect();
        let message = format!("on {using} of {wanting} proxies of {cluster}{rejections}");
        let reason = match (rejecting.is_empty(), using == wanting) {
            (false, _) => "Rejected",
            (true, true) => "Programmed",
            (true, false) => "Pending",
        };
        condition(stored, "Programmed", using == wanting, reason, &message)
    }
}

impl<S: Store> Core<S> {
    /// Only a cluster itself knows by which certificates it lives.
    fn certified(&self, stored: &Stored) -> Value {
        let certificates = self.certificate_status(self.now.wall);
        let ending = certificates
            .iter()
            .filter(|certificate| certificate.ends_soon);
        let ending: Vec<_> = ending
            .map(|certificate| {
                let ends = rfc3339(certificate.not_after.saturating_mul(1000));
                format!("that of the {} ends at {ends}", certificate.name)
            })
            .collect();
        let (reason, message) = if ending.is_empty() {
            ("Lasting", "none of its certificates ends soon".to_owned())
        } else {
            ("EndsSoon", ending.join("; "))
        };
        condition(
            stored,
            "CertificatesLast",
            ending.is_empty(),
            reason,
            &message,
        )
    }
}

fn finding_text(finding: &Finding) -> String {
    let hint = finding
        .hint
        .as_ref()
        .map(|hint| format!("; {hint}"))
        .unwrap_or_default();
    format!("{}: {}{hint}", finding.path, finding.message)
}

fn condition(stored: &Stored, kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "observedGeneration": stored.generation,
        "lastTransitionTime": rfc3339(stored.changed),
    })
}
