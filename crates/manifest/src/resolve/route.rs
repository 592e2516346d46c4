//! HTTPRoute, bound to services (Gateway API, GEP-1324).

use std::collections::BTreeSet;

use gateway_api::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesMatches,
    HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType, HttpRouteRulesTimeouts, HttpRouteSpec,
};
use isthmus_model::{
    Backend, HeaderMatch, Labels, Method, Namespace, Origin, PathMatch, Resource, Route,
    RouteMatch, RouteRule, ServiceLabel, ServiceName, Subset,
};

use super::{maybe_duration, port, spec};
use crate::object::label;
use crate::problem::{Problems, quoted};
use crate::{FieldPath, Object};

/// Largest weight of a backend (Gateway API, BackendRef).
const HEAVIEST: i32 = 1_000_000;
/// Group and kind of a backend that is a part of a service (docs/decisions/0003).
const SUBSET_GROUP: &str = "mesh.isthmus.dev";
const SUBSET_KIND: &str = "ServiceSubset";

pub(super) fn route(
    object: &Object,
    route: &HttpRouteSpec,
    problems: &mut Problems,
) -> Option<Resource> {
    let namespace = object.metadata().namespace.clone()?;
    let parents = parents(
        route.parent_refs.as_deref().unwrap_or_default(),
        &namespace,
        problems,
    );
    let written = route.rules.as_deref().unwrap_or_default();
    let path = spec().field("rules");
    if written.is_empty() {
        problems.add(&path, "a route needs at least one rule");
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, one) in written.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = one
            .name
            .as_ref()
            .filter(|name| !names.insert(name.as_str()))
        {
            problems.add(
                &path.field("name"),
                format!("two rules are called {}", quoted(name)),
            );
        }
        rules.push(rule(one, &namespace, &path, problems));
    }
    Some(Resource::HttpRoute(Route {
        origin: Origin::Mesh,
        name: object.metadata().name.clone(),
        namespace,
        parents,
        rules,
    }))
}

fn parents(
    written: &[HttpRouteParentRefs],
    namespace: &Namespace,
    problems: &mut Problems,
) -> Vec<(ServiceName, Option<u16>)> {
    let path = spec().field("parentRefs");
    if written.is_empty() {
        problems.add_hint(
            &path,
            "a route needs a parent",
            "name the service whose requests it routes",
        );
    }
    let mut parents = Vec::new();
    for (index, one) in written.iter().enumerate() {
        let path = path.index(index);
        match parent(one, namespace, &path, problems) {
            Some(parent) if parents.contains(&parent) => {
                problems.add(&path, "this parent is named twice");
            }
            Some(parent) => parents.push(parent),
            None => {}
        }
    }
    parents
}

fn parent(
    written: &HttpRouteParentRefs,
    namespace: &Namespace,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<(ServiceName, Option<u16>)> {
    match (written.group.as_deref(), written.kind.as_deref()) {
        (None | Some(""), Some("Service")) => {}
        (Some(group), Some("Service")) => {
            let message = format!("kind Service is not in group {}", quoted(group));
            problems.add_hint(&path.field("group"), message, "write `group: \"\"`");
        }
        (_, kind) => {
            let message = match kind {
                Some(kind) => format!("parents of kind {} are not supported yet", quoted(kind)),
                None => "without `kind` this is a Gateway, which is not supported yet".to_owned(),
            };
            problems.add_hint(&path.field("kind"), message, "write `kind: Service`");
            return None;
        }
    }
    let local = is_local(written.namespace.as_deref(), namespace);
    if !local {
        let message = "routes for services of another namespace are not supported yet";
        problems.add(&path.field("namespace"), message);
    }
    let name = problems.name(&path.field("name"), "a service name", &written.name);
    let port = match written.port {
        Some(number) => Some(port(number, &path.field("port"), problems)?),
        None => None,
    };
    let namespace = namespace.clone();
    Some((
        ServiceName {
            namespace,
            name: name?,
        },
        port,
    ))
}

fn is_local(written: Option<&str>, namespace: &Namespace) -> bool {
    written.is_none_or(|written| written == namespace.as_str())
}

fn rule(
    written: &HttpRouteRules,
    namespace: &Namespace,
    path: &FieldPath,
    problems: &mut Problems,
) -> RouteRule {
    let mut matches = Vec::new();
    for (index, one) in written.matches.iter().flatten().enumerate() {
        matches.extend(one_match(
            one,
            &path.field("matches").index(index),
            problems,
        ));
    }
    if written.matches.as_ref().is_none_or(Vec::is_empty) {
        matches.push(RouteMatch {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: Vec::new(),
        });
    }
    let mut backends = Vec::new();
    for (index, one) in written.backend_refs.iter().flatten().enumerate() {
        let path = path.field("backendRefs").index(index);
        backends.extend(backend(one, namespace, &path, problems));
    }
    let none = HttpRouteRulesTimeouts::default();
    let timeouts = written.timeouts.as_ref().unwrap_or(&none);
    let timeouts_path = path.field("timeouts");
    let whole = maybe_duration(
        timeouts.request.as_ref(),
        &timeouts_path.field("request"),
        problems,
    );
    let try_path = timeouts_path.field("backendRequest");
    let one_try = maybe_duration(timeouts.backend_request.as_ref(), &try_path, problems);
    if let (Some(whole), Some(one_try)) = (whole, one_try)
        && !whole.is_zero()
        && one_try > whole
    {
        problems.add(
            &try_path,
            "one try may not take longer than the whole request",
        );
    }
    RouteRule {
        name: written.name.clone(),
        matches,
        backends,
        request_timeout: whole,
        backend_timeout: one_try,
    }
}

fn one_match(
    written: &HttpRouteRulesMatches,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<RouteMatch> {
    let matched_path = match &written.path {
        Some(written) => path_match(written, &path.field("path"), problems),
        None => Some(PathMatch::Prefix(String::new())),
    };
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (index, one) in written.headers.iter().flatten().enumerate() {
        let path = path.field("headers").index(index);
        match header(one, &path, problems) {
            Some(header) if headers.iter().any(|other| other.name == header.name) => {
                let message = format!("the header {} is named twice", quoted(&one.name));
                problems.add(&path.field("name"), message);
            }
            Some(header) => headers.push(header),
            None => {}
        }
    }
    // The crate's enum of methods has no names of its own but those it is written with.
    let method = written.method.as_ref().map(serde_json::to_value);
    let method = method.and_then(|json| Some(Method(json.ok()?.as_str()?.into())));
    Some(RouteMatch {
        path: matched_path?,
        method,
        headers,
    })
}

fn path_match(
    written: &HttpRouteRulesMatchesPath,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<PathMatch> {
    let value = written.value.as_deref().unwrap_or("/");
    if let Some(rule) = broken_path_rule(value) {
        let message = format!("{} is not a path to match: {rule}", quoted(value));
        problems.add(&path.field("value"), message);
        return None;
    }
    match written.r#type {
        Some(HttpRouteRulesMatchesPathType::Exact) => Some(PathMatch::Exact(value.to_owned())),
        None | Some(HttpRouteRulesMatchesPathType::PathPrefix) => {
            Some(PathMatch::Prefix(value.trim_end_matches('/').to_owned()))
        }
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            problems.add_hint(
                &path.field("type"),
                "regular expressions are not supported yet",
                "use `Exact` or `PathPrefix`",
            );
            None
        }
    }
}

/// The rules of the Gateway API (HTTPPathMatch): what could be read in two ways never matches.
fn broken_path_rule(value: &str) -> Option<&'static str> {
    let lower = value.to_ascii_lowercase();
    let has = |part| lower.contains(part);
    if !value.starts_with('/') {
        Some("it must begin with `/`")
    } else if value.len() > 1024 {
        Some("it is longer than 1024 bytes")
    } else if has("//") || has("/./") || has("/../") || has("%2f") || has("#") {
        Some("it may not contain `//`, `/./`, `/../`, `%2f` or `#`")
    } else if value.ends_with("/.") || value.ends_with("/..") {
        Some("it may not end in `/.` or `/..`")
    } else if !value.chars().all(|c| c.is_ascii_graphic()) {
        Some("blanks and letters beyond ASCII must be percent-encoded")
    } else {
        None
    }
}

fn header(
    written: &HttpRouteRulesMatchesHeaders,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    if let Some(HttpRouteRulesMatchesHeadersType::RegularExpression) = written.r#type {
        problems.add_hint(
            &path.field("type"),
            "regular expressions are not supported yet",
            "use `Exact`",
        );
    }
    let value_path = path.field("value");
    if written.value.is_empty() || written.value.len() > 4096 {
        problems.add(&value_path, "the value of a header has 1 to 4096 bytes");
    } else if written.value.chars().any(char::is_control) {
        problems.add(
            &value_path,
            "the value of a header holds no control characters",
        );
    }
    let lower = written.name.to_ascii_lowercase();
    Some(HeaderMatch {
        name: problems.name(&path.field("name"), "a header name", &lower)?,
        value: written.value.clone(),
    })
}

fn backend(
    written: &HttpRouteRulesBackendRefs,
    namespace: &Namespace,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<Backend> {
    if !is_local(written.namespace.as_deref(), namespace) {
        problems.add(
            &path.field("namespace"),
            "backends in another namespace need a ReferenceGrant, which is not supported yet",
        );
    }
    let port_path = path.field("port");
    let named = match backend_kind(written, path, problems)? {
        BackendKind::Service => {
            if written.port.is_none() {
                problems.add_hint(
                    &port_path,
                    "a Service backend needs a port",
                    "add `port:` with one of the service's ports",
                );
            }
            let name = problems.name(&path.field("name"), "a service name", &written.name);
            name.map(|name| (name, Subset::default()))
        }
        BackendKind::Subset => subset(&written.name, &path.field("name"), problems),
    };
    let port = match written.port {
        Some(number) => Some(port(number, &port_path, problems)?),
        None => None,
    };
    let weight = written.weight.unwrap_or(1);
    let weight = u32::try_from(weight).ok().filter(|_| weight <= HEAVIEST);
    if weight.is_none() {
        problems.add(
            &path.field("weight"),
            format!("weights are 0 to {HEAVIEST}"),
        );
    }
    let (name, subset) = named?;
    Some(Backend {
        service: ServiceName {
            namespace: namespace.clone(),
            name,
        },
        port,
        subset,
        weight: weight?,
    })
}

enum BackendKind {
    Service,
    Subset,
}

fn backend_kind(
    written: &HttpRouteRulesBackendRefs,
    path: &FieldPath,
    problems: &mut Problems,
) -> Option<BackendKind> {
    let group = written.group.as_deref().unwrap_or_default();
    let kind = written.kind.as_deref().unwrap_or("Service");
    match (group, kind) {
        ("", "Service") => Some(BackendKind::Service),
        (SUBSET_GROUP, SUBSET_KIND) => Some(BackendKind::Subset),
        (_, SUBSET_KIND) => {
            let message = format!("kind {SUBSET_KIND} is not in group {}", quoted(group));
            let hint = format!("write `group: {SUBSET_GROUP}`");
            problems.add_hint(&path.field("group"), message, hint);
            None
        }
        _ => {
            let message = format!(
                "backends of group {} and kind {} are not supported yet",
                quoted(group),
                quoted(kind)
            );
            let hint = "use `kind: Service`, or `kind: ServiceSubset` of group `mesh.isthmus.dev`";
            problems.add_hint(&path.field("kind"), message, hint);
            None
        }
    }
}

/// `<service>:<label>=<value>[,<label>=<value>…]`.
fn subset(text: &str, path: &FieldPath, problems: &mut Problems) -> Option<(ServiceLabel, Subset)> {
    let selector = text
        .split_once(':')
        .filter(|(_, labels)| !labels.is_empty());
    let Some((service, written)) = selector else {
        problems.add_hint(
            path,
            format!("{} names no part of a service", quoted(text)),
            "write the service and the labels of its workloads, such as `payment:version=v2`",
        );
        return None;
    };
    let mut labels = Labels::new();
    for one in written.split(',') {
        let label = match one.split_once('=') {
            Some((key, value)) => label(key, value),
            None => Err(format!("{} is not `<label>=<value>`", quoted(one))),
        };
        match label {
            Ok((key, value)) if !labels.contains_key(&key) => {
                labels.insert(key, value);
            }
            Ok((key, _)) => {
                problems.add(path, format!("the label `{key}` is named twice"));
                return None;
            }
            Err(message) => {
                problems.add(path, message);
                return None;
            }
        }
    }
    let service = problems.name(path, "a service name", service)?;
    Some((service, Subset(labels)))
}
