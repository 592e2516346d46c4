//! Routes: rules, what they match, and the backends they lead to.

use std::time::Duration;

use isthmus_model::{
    Backend, HeaderMatch, Method, PathMatch, Route, RouteMatch, RouteRule, ServiceName, Subset,
};

use crate::body::BodyError;
use crate::field::{
    Parsed, all, labels_in, labels_out, millis, optional, optional_port, origin_out, parse,
    service_name, text,
};
use crate::proto;

impl From<&Route> for proto::Route {
    fn from(route: &Route) -> Self {
        let parent = |(service, port): &(ServiceName, Option<u16>)| proto::Parent {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            port: port.map_or(0, u32::from),
        };
        Self {
            namespace: route.namespace.to_string(),
            name: route.name.to_string(),
            parents: route.parents.iter().map(parent).collect(),
            rules: route.rules.iter().map(Into::into).collect(),
            cluster: origin_out(&route.origin),
        }
    }
}

impl TryFrom<proto::Route> for Route {
    type Error = BodyError;

    fn try_from(route: proto::Route) -> Parsed<Self> {
        let parent = |parent: proto::Parent| {
            let service = service_name("route.parents", &parent.namespace, &parent.service)?;
            Ok((service, optional_port("route.parents.port", parent.port)?))
        };
        Ok(Self {
            namespace: parse("route.namespace", &route.namespace)?,
            name: parse("route.name", &route.name)?,
            parents: route
                .parents
                .into_iter()
                .map(parent)
                .collect::<Parsed<_>>()?,
            rules: all(route.rules)?,
            origin: optional("route.cluster", &route.cluster)?.into(),
        })
    }
}

impl From<&RouteRule> for proto::Rule {
    fn from(rule: &RouteRule) -> Self {
        Self {
            name: rule.name.clone().unwrap_or_default(),
            matches: rule.matches.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            request_timeout_ms: rule.request_timeout.map(millis),
            backend_timeout_ms: rule.backend_timeout.map(millis),
        }
    }
}

impl TryFrom<proto::Rule> for RouteRule {
    type Error = BodyError;

    fn try_from(rule: proto::Rule) -> Parsed<Self> {
        if rule.matches.is_empty() {
            return Err(BodyError::field(
                "rule.matches",
                "a rule has at least one match",
            ));
        }
        Ok(Self {
            name: text(rule.name),
            matches: all(rule.matches)?,
            backends: all(rule.backends)?,
            request_timeout: rule.request_timeout_ms.map(Duration::from_millis),
            backend_timeout: rule.backend_timeout_ms.map(Duration::from_millis),
        })
    }
}

impl From<&RouteMatch> for proto::Match {
    fn from(found: &RouteMatch) -> Self {
        let header = |header: &HeaderMatch| proto::HeaderMatch {
            name: header.name.to_string(),
            value: header.value.clone(),
        };
        Self {
            path: Some(match &found.path {
                PathMatch::Exact(path) => proto::r#match::Path::Exact(path.clone()),
                PathMatch::Prefix(path) => proto::r#match::Path::Prefix(path.clone()),
            }),
            method: found.method.as_ref().map(|method| method.0.to_string()),
            headers: found.headers.iter().map(header).collect(),
        }
    }
}

impl TryFrom<proto::Match> for RouteMatch {
    type Error = BodyError;

    fn try_from(found: proto::Match) -> Parsed<Self> {
        let header = |header: proto::HeaderMatch| {
            Ok(HeaderMatch {
                name: parse("match.headers", &header.name)?,
                value: header.value,
            })
        };
        Ok(Self {
            path: match found.path {
                Some(proto::r#match::Path::Exact(path)) => PathMatch::Exact(path),
                Some(proto::r#match::Path::Prefix(path)) => PathMatch::Prefix(path),
                None => return Err(BodyError::field("match.path", "not a known kind of match")),
            },
            method: found.method.map(|method| Method(method.into())),
            headers: found
                .headers
                .into_iter()
                .map(header)
                .collect::<Parsed<_>>()?,
        })
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            namespace: backend.service.namespace.to_string(),
            service: backend.service.name.to_string(),
            port: backend.port.map_or(0, u32::from),
            subset: labels_out(&backend.subset.0),
            weight: backend.weight,
        }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = BodyError;

    fn try_from(backend: proto::Backend) -> Parsed<Self> {
        Ok(Self {
            service: service_name("backend", &backend.namespace, &backend.service)?,
            port: optional_port("backend.port", backend.port)?,
            subset: Subset(labels_in("backend.subset", backend.subset)?),
            weight: backend.weight,
        })
    }
}
