//! What of the standard kinds Isthmus carries out.
//!
//! The types of standard kinds come from crates and hold more than is implemented. These lists say
//! what is; every other field that somebody sets is refused, so that nothing is silently left
//! undone. The reference is made from the same lists.

use serde_json::Value;

use crate::problem::Problems;
use crate::{FieldPath, Problem};

/// A field, with all that is below it: its path (`ports[].name`) and what it does.
pub(crate) type Supported = (&'static str, &'static str);

pub(crate) const METADATA: &[Supported] = &[
    ("name", "Required."),
    (
        "namespace",
        "Required for kinds that live in one, unless `-n` names it.",
    ),
    (
        "labels",
        "Free; the labels of a Workload choose its subset.",
    ),
    (
        "annotations",
        "Free, but for those that begin with `mesh.isthmus.dev/`.",
    ),
    (
        "resourceVersion",
        "Written by the API; a write that carries an old one conflicts.",
    ),
    ("generation", "Written by the API."),
    ("uid", "Written by the API."),
    ("creationTimestamp", "Written by the API."),
    (
        "managedFields",
        "Written by the API: who wrote this version, by the name of the token, and when.",
    ),
    ("selfLink", "Accepted from `kubectl`, without effect."),
];

pub(crate) const NAMESPACE: &[Supported] = &[(
    "finalizers",
    "Only `kubernetes`, which is always set there.",
)];

pub(crate) const SERVICE: &[Supported] = &[
    ("ports[].port", "What callers use: 1 to 65535, each once."),
    (
        "ports[].targetPort",
        "Number of the port that the program listens on. Default: `port`.",
    ),
    ("ports[].name", "Required when there are several."),
    (
        "ports[].appProtocol",
        "What the program speaks. `http`, `grpc-web`, `kubernetes.io/ws`: HTTP/1.1; `http2`, `grpc`, \
         `kubernetes.io/h2c`: HTTP/2 without TLS; anything else: bytes. Callers of either HTTP may \
         speak the other. Default: the port's name, up to its first hyphen, if it is one of those or \
         `tcp`, `tls`, `https`, `mongo`, `mysql`, `redis`. Of any other port it is not declared: what a \
         client says first is looked at for a few milliseconds.",
    ),
    ("ports[].protocol", "Only `TCP`."),
    ("type", "Only `ClusterIP`."),
    (
        "selector",
        "Used by Kubernetes only: elsewhere workloads name their service when they join.",
    ),
    ("clusterIP", "Used by Kubernetes only; `None` is refused."),
    ("clusterIPs", "Used by Kubernetes only."),
    ("ipFamilies", "Used by Kubernetes only."),
    ("ipFamilyPolicy", "Used by Kubernetes only."),
    ("sessionAffinity", "Only `None`."),
    ("internalTrafficPolicy", "Only `Cluster`."),
];

pub(crate) const HTTP_ROUTE: &[Supported] = &[
    (
        "parentRefs[].group",
        "`\"\"`, the default for `kind: Service`.",
    ),
    ("parentRefs[].kind", "`Service`."),
    (
        "parentRefs[].name",
        "The service whose requests are routed.",
    ),
    (
        "parentRefs[].namespace",
        "The route's own, which is the default.",
    ),
    (
        "parentRefs[].port",
        "Only requests to this port. Default: all ports.",
    ),
    ("rules[].name", "Shown by `explain`."),
    (
        "rules[].matches[].path.type",
        "`PathPrefix` (default) or `Exact`.",
    ),
    ("rules[].matches[].path.value", "Default: `/`."),
    ("rules[].matches[].method", "Default: any."),
    ("rules[].matches[].headers[].type", "`Exact`, the default."),
    ("rules[].matches[].headers[].name", "In any letter case."),
    (
        "rules[].matches[].headers[].value",
        "The whole value, letter case included.",
    ),
    (
        "rules[].backendRefs[].group",
        "`\"\"` (default), or `mesh.isthmus.dev` for a subset.",
    ),
    (
        "rules[].backendRefs[].kind",
        "`Service` (default) or `ServiceSubset`.",
    ),
    (
        "rules[].backendRefs[].name",
        "The service; for a `ServiceSubset` the service and the labels, such as \
         `payment:version=v2`.",
    ),
    (
        "rules[].backendRefs[].namespace",
        "The route's own, which is the default.",
    ),
    (
        "rules[].backendRefs[].port",
        "Required for a `Service`. Default for a subset: the port called `http`, else the first.",
    ),
    ("rules[].backendRefs[].weight", "0 to 1000000. Default: 1."),
    (
        "rules[].timeouts.request",
        "Until the whole reply, from the end of the request; of a stream (gRPC, server-sent events \
         and their like) until the reply begins; `0s`: none.",
    ),
    (
        "rules[].timeouts.backendRequest",
        "One try; `0s`: none. At most `request`.",
    ),
];

/// A problem for every field of `json`, which stands at `path`, that no entry of `supported`
/// allows. Runs after `decode`: what already has a problem gets no second one.
pub(crate) fn refuse_unsupported(
    json: &Value,
    path: &FieldPath,
    supported: &[Supported],
    problems: &mut Problems,
) {
    let known = problems.paths();
    let mut waiting = vec![(path.clone(), json)];
    while let Some((path_here, json)) = waiting.pop() {
        for (child, json) in children(&path_here, json) {
            let below = child.steps()[path.steps().len()..].iter().cloned();
            match support(&below.collect::<FieldPath>().pattern(), supported) {
                Support::Full => {}
                Support::Below => waiting.push((child, json)),
                Support::None if is_empty(json) || known.contains(&child) => {}
                Support::None => {
                    let problem = Problem::new(child, "this field is not supported yet");
                    problems.push(problem.of_key());
                }
            }
        }
    }
}

fn children<'a>(path: &FieldPath, json: &'a Value) -> Vec<(FieldPath, &'a Value)> {
    match json {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (path.field(name), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (path.index(index), item))
            .collect(),
        _ => Vec::new(),
    }
}

enum Support {
    Full,
    Below,
    None,
}

fn support(pattern: &str, supported: &[Supported]) -> Support {
    let below = |path: &str| {
        path.strip_prefix(pattern)
            .is_some_and(|rest| rest.starts_with(['.', '[']))
    };
    if supported.iter().any(|(path, _)| *path == pattern) {
        Support::Full
    } else if supported.iter().any(|(path, _)| below(path)) {
        Support::Below
    } else {
        Support::None
    }
}

fn is_empty(json: &Value) -> bool {
    match json {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
