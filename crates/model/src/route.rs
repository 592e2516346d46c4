//! Routes: where a service's requests go (Gateway API HTTPRoute bound to a Service, GEP-1324).

use std::sync::Arc;
use std::time::Duration;

use crate::{HeaderName, Namespace, ObjectName, Origin, ServiceName, Subset};

/// HTTP request method (RFC 9110 section 9). Case matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(pub Arc<str>);

/// One HTTPRoute. Its rules hold for every service in `parents`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub origin: Origin,
    pub namespace: Namespace,
    pub name: ObjectName,
    /// Services it is bound to, with the port when only one is meant.
    pub parents: Vec<(ServiceName, Option<u16>)>,
    pub rules: Vec<RouteRule>,
}

/// The first rule that matches decides (order of precedence: Gateway API, HTTPRouteRule.matches).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    pub name: Option<String>,
    /// Any of these; never empty (a rule without matches matches `/`).
    pub matches: Vec<RouteMatch>,
    /// Empty: the rule answers 500, as the Gateway API asks for.
    pub backends: Vec<Backend>,
    /// Overall, from the first byte of the request to the last of the reply.
    pub request_timeout: Option<Duration>,
    /// One try.
    pub backend_timeout: Option<Duration>,
}

/// All parts must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub method: Option<Method>,
    pub headers: Vec<HeaderMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// Element-wise: `/a` matches `/a` and `/a/b`, not `/ab`. Kept without a trailing slash, so
    /// that `/` is the empty string.
    Prefix(String),
}

/// Exact value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: String,
}

/// A weighted destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub service: ServiceName,
    /// The port number that the destination is called on; `None`: its default port.
    pub port: Option<u16>,
    pub subset: Subset,
    /// Share of the rule's requests; 0 takes none.
    pub weight: u32,
}
