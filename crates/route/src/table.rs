//! The routes of one service, compiled: per port, matches in order of precedence.

use std::cmp::Reverse;
use std::sync::Arc;

use isthmus_model::{HeaderMatch, Origin, PathMatch, Route, RouteMatch, Service, ServiceName};

use crate::Rule;

/// All routes of one service, by port. Immutable.
#[derive(Debug, Clone)]
pub struct RouteTable {
    ports: Vec<PortTable>,
}

/// A request as far as routing looks at it.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'r, H: ?Sized> {
    /// RFC 9110 section 9.1; case matters.
    pub method: &'r str,
    /// Without the query.
    pub path: &'r str,
    pub headers: &'r H,
}

/// The header fields of a request.
pub trait Headers {
    /// The value of every field line called `name` (given in lower case; names of fields match in
    /// any letter case), in order, without surrounding whitespace.
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]>;
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.iter()
            .filter(move |(field, _)| field.as_ref().eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }
}

/// What a request matched.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'t> {
    rule: &'t Arc<Rule>,
}

#[derive(Debug, Clone)]
struct PortTable {
    port: u16,
    /// Any HTTPRoute of the mesh; if not, `itself` takes every request that nothing else does.
    bound: bool,
    /// In order of precedence: the first that matches decides.
    entries: Vec<Entry>,
    itself: Arc<Rule>,
}

#[derive(Debug, Clone)]
struct Entry {
    path: PathMatch,
    method: Option<Arc<str>>,
    /// Distinct names.
    headers: Vec<HeaderMatch>,
    rule: Arc<Rule>,
}

impl RouteTable {
    /// Compiles the routes that are bound to `service`; others are skipped. HTTP routes bind only
    /// to ports that are read as HTTP.
    pub fn compile(service: &Service, routes: &[&Route]) -> Self {
        let mut sorted: Vec<&Route> = routes.to_vec();
        // Gateway API: alphabetical by "{namespace}/{name}", as one string. Those of the own cluster stand before.
        sorted.sort_by_cached_key(|route| {
            let name = format!("{}/{}", route.namespace, route.name);
            (route.origin == Origin::Mesh, name)
        });
        let ports = service
            .ports
            .iter()
            .map(|port| {
                let binds = |route: &&&Route| {
                    port.protocol.is_http() && binds(route, &service.name, port.port)
                };
                let bound: Vec<&Route> = sorted.iter().filter(binds).copied().collect();
                PortTable::compile(&service.name, port.port, &bound)
            })
            .collect();
        Self { ports }
    }

    /// The rule that decides on `request`, by the Gateway API's precedence (HTTPRouteRule.matches):
    /// exact path, longest prefix, method, most headers, route of the own cluster, route by name, place of
    /// the rule. What no rule of the own cluster's routes matches is decided on as if there were none.
    ///
    /// `None`: routes of the mesh are bound to the port and no rule matches (404), or the service has no
    /// such port. Allocates nothing.
    pub fn find<H: Headers + ?Sized>(
        &self,
        port: u16,
        request: &RequestView<'_, H>,
    ) -> Option<Matched<'_>> {
        let table = self.port(port)?;
        let entry = table.entries.iter().find(|entry| entry.matches(request));
        let itself = || (!table.bound).then_some(&table.itself);
        let rule = entry.map(|entry| &entry.rule).or_else(itself)?;
        Some(Matched { rule })
    }

    /// Where a connection goes whose bytes are not read as HTTP: to the service itself. `None`: the
    /// service has no such port.
    pub fn find_opaque(&self, port: u16) -> Option<Matched<'_>> {
        let table = self.port(port)?;
        Some(Matched {
            rule: &table.itself,
        })
    }

    /// Every rule of every route that is bound, once per match.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let entries = self.ports.iter().flat_map(|table| &table.entries);
        entries.map(|entry| &*entry.rule)
    }

    fn port(&self, port: u16) -> Option<&PortTable> {
        self.ports.iter().find(|table| table.port == port)
    }
}

impl<'t> Matched<'t> {
    pub fn rule(self) -> &'t Rule {
        self.rule
    }

    /// The rule, to keep beyond the view it was found in. Counts a reference, allocates nothing.
    pub fn to_shared(self) -> Arc<Rule> {
        self.rule.clone()
    }
}

impl PortTable {
    /// `routes` are bound to this port and in order of their names.
    fn compile(service: &ServiceName, port: u16, routes: &[&Route]) -> Self {
        let mut entries = Vec::new();
        for route in routes {
            for (index, rule) in route.rules.iter().enumerate() {
                let compiled = Arc::new(Rule::compile(route, index, rule));
                let entry = |matches| Entry::compile(matches, &compiled);
                entries.extend(rule.matches.iter().map(entry));
            }
        }
        // Stable: equal matches stay in order of route and rule.
        entries.sort_by_key(Entry::precedence);
        Self {
            port,
            bound: routes.iter().any(|route| route.origin == Origin::Mesh),
            entries,
            itself: Arc::new(Rule::itself(service, port)),
        }
    }
}

impl Entry {
    fn compile(matches: &RouteMatch, rule: &Arc<Rule>) -> Self {
        let mut headers: Vec<HeaderMatch> = Vec::with_capacity(matches.headers.len());
        for header in &matches.headers {
            // Gateway API: of several entries with one name only the first counts.
            if headers.iter().all(|known| known.name != header.name) {
                headers.push(header.clone());
            }
        }
        Self {
            path: matches.path.clone(),
            method: matches.method.as_ref().map(|method| method.0.clone()),
            headers,
            rule: rule.clone(),
        }
    }

    /// Smaller comes first.
    fn precedence(&self) -> impl Ord + use<> {
        let (exact, length) = match &self.path {
            PathMatch::Exact(_) => (true, 0),
            PathMatch::Prefix(prefix) => (false, prefix.chars().count()),
        };
        Reverse((exact, length, self.method.is_some(), self.headers.len()))
    }

    fn matches<H: Headers + ?Sized>(&self, request: &RequestView<'_, H>) -> bool {
        let path = match &self.path {
            PathMatch::Exact(exact) => request.path == exact,
            PathMatch::Prefix(prefix) => has_prefix(request.path, prefix),
        };
        let method = |method: &Arc<str>| **method == *request.method;
        let header = |header: &HeaderMatch| {
            combined_equals(
                request.headers.values(header.name.as_str()),
                header.value.as_bytes(),
            )
        };
        path && self.method.as_ref().is_none_or(method) && self.headers.iter().all(header)
    }
}

fn binds(route: &Route, service: &ServiceName, port: u16) -> bool {
    let here = |(parent, wanted): &(ServiceName, Option<u16>)| {
        parent == service && wanted.is_none_or(|wanted| wanted == port)
    };
    route.parents.iter().any(here)
}

/// Element-wise prefix. The empty prefix, written `/`, matches every path, `*` too.
fn has_prefix(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Is the field's value, its lines joined by commas (RFC 9110 section 5.2), `expected`? A field
/// that is absent equals nothing. Blanks after a joining comma do not matter.
fn combined_equals<'h>(mut values: impl Iterator<Item = &'h [u8]>, expected: &[u8]) -> bool {
    let Some(first) = values.next() else {
        return false;
    };
    let mut rest = expected.strip_prefix(first);
    for value in values {
        rest = rest
            .and_then(|rest| rest.strip_prefix(b","))
            .map(<[u8]>::trim_ascii_start)
            .and_then(|rest| rest.strip_prefix(value));
    }
    rest.is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::{
        AccountName, AppProtocol, Backend, HeaderName, Method, Namespace, ObjectName, RouteRule,
        ServicePort, Subset,
    };
    use proptest::prelude::*;

    fn port(number: u16, protocol: AppProtocol) -> ServicePort {
        ServicePort {
            name: None,
            port: number,
            target_port: number,
            protocol,
        }
    }

    fn cart() -> Service {
        Service {
            name: ServiceName::new("shop", "cart").unwrap(),
            ports: vec![
                port(80, AppProtocol::Http1),
                port(81, AppProtocol::Http1),
                port(6379, AppProtocol::Tcp),
            ],
            accounts: vec![AccountName::new("cart").unwrap()],
            exported: true,
        }
    }

    fn backend(name: &str, weight: u32) -> Backend {
        Backend {
            service: ServiceName::new("shop", name).unwrap(),
            port: None,
            subset: Subset::default(),
            weight,
        }
    }

    /// `=/a` is exact, `/a` a prefix; then method and headers: `/a GET x=1 y=2`.
    fn parse(text: &str) -> RouteMatch {
        let mut words = text.split(' ');
        let path = words.next().unwrap();
        let path = match path.strip_prefix('=') {
            Some(exact) => PathMatch::Exact(exact.to_owned()),
            None => PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
        };
        let (headers, methods): (Vec<&str>, Vec<&str>) = words.partition(|w| w.contains('='));
        let headers = headers.iter().map(|word| {
            let (name, value) = word.split_once('=').unwrap();
            HeaderMatch {
                name: HeaderName::new(name).unwrap(),
                value: value.to_owned(),
            }
        });
        RouteMatch {
            path,
            method: methods.first().map(|&method| Method(method.into())),
            headers: headers.collect(),
        }
    }

    /// Rules separated by `;`, alternatives within a rule by `|`.
    fn route(name: &str, port: Option<u16>, rules: &str) -> Route {
        let (namespace, name) = name.split_once('/').unwrap();
        let rule = |text: &str| RouteRule {
            name: None,
            matches: text.split('|').map(|one| parse(one.trim())).collect(),
            backends: vec![backend("cart", 1)],
            request_timeout: None,
            backend_timeout: None,
        };
        Route {
            origin: Origin::Mesh,
            namespace: Namespace::new(namespace).unwrap(),
            name: ObjectName::new(name).unwrap(),
            parents: vec![(cart().name, port)],
            rules: rules.split(';').map(|text| rule(text.trim())).collect(),
        }
    }

    /// `GET /path name=value…` against the table of `routes`, on `port`.
    fn found(routes: &[Route], port: u16, request: &str) -> String {
        let routes: Vec<&Route> = routes.iter().collect();
        let table = RouteTable::compile(&cart(), &routes);
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let headers: Vec<(&str, &str)> = words.map(|w| w.split_once('=').unwrap()).collect();
        let view = RequestView {
            method,
            path,
            headers: &headers[..],
        };
        match table.find(port, &view) {
            Some(matched) => matched.rule().to_string(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn precedence_is_the_gateway_apis() {
        for (rules, request, expect) in [
            // Exact outweighs any prefix, however long, and whatever else the prefix asks for.
            ("/a/b GET x=1; =/a/b", "GET /a/b x=1", 1),
            // Longest prefix by characters, not bytes: three characters outweigh two of four bytes.
            ("/; /a; /a/b", "GET /a/b/c", 2),
            ("/a/b; /a", "GET /a/c", 1),
            // A longer prefix outweighs method and headers.
            ("/a GET x=1 y=2; /a/b", "GET /a/b x=1 y=2", 1),
            // A method outweighs any number of headers.
            ("/a x=1 y=2; /a GET", "GET /a x=1 y=2", 1),
            // More headers outweigh fewer.
            ("/a x=1; /a x=1 y=2", "GET /a x=1 y=2", 1),
            // Equal: the first rule.
            ("/a x=1; /a y=2", "GET /a x=1 y=2", 0),
            // Each alternative of a rule has its own precedence.
            ("/a | =/z; /a/b", "GET /a/b", 1),
            ("/a | =/a/b; /a/b", "GET /a/b", 0),
        ] {
            let expect = format!("shop/r rule {expect}");
            let seen = found(&[route("shop/r", None, rules)], 80, request);
            assert_eq!(seen, expect, "{request} in {rules}");
        }
    }

    #[test]
    fn prefixes_are_counted_in_characters() {
        // No path has both prefixes, so the order of the entries themselves is looked at.
        let long = Entry::compile(&parse("/éé"), &Arc::new(Rule::itself(&cart().name, 80)));
        let short = Entry::compile(&parse("/abc"), &Arc::new(Rule::itself(&cart().name, 80)));
        assert!(short.precedence() < long.precedence());
    }

    #[test]
    fn routes_of_equal_precedence_go_by_name_as_one_string() {
        let routes = [
            route("shop/b", None, "/"),
            route("shop/a", None, "/"),
            route("shop-x/z", None, "/"),
        ];
        // '-' sorts before '/'.
        assert_eq!(found(&routes, 80, "GET /"), "shop-x/z rule 0");
        assert_eq!(found(&routes[..2], 80, "GET /"), "shop/a rule 0");
    }

    #[test]
    fn of_equal_matches_the_own_cluster_s_counts_and_what_it_leaves_out_is_as_without_it() {
        let own = |rules: &str| Route {
            origin: Origin::Cluster("us-west".parse().unwrap()),
            ..route("shop/z", None, rules)
        };
        let mesh = route("shop/a", None, "/a; /a/b");
        for (routes, request, expect) in [
            (
                vec![own("/a"), mesh.clone()],
                "GET /a",
                "shop/z@us-west rule 0",
            ),
            // A narrower match is narrower, whoever wrote it.
            (vec![own("/a"), mesh.clone()], "GET /a/b", "shop/a rule 1"),
            (vec![own("/c"), mesh.clone()], "GET /a", "shop/a rule 0"),
            (vec![own("/c"), mesh.clone()], "GET /d", "none"),
            (vec![own("/c")], "GET /c", "shop/z@us-west rule 0"),
            (vec![own("/c")], "GET /d", "default"),
        ] {
            assert_eq!(found(&routes, 80, request), expect, "{request}");
        }
    }

    #[test]
    fn paths_methods_and_headers_match_as_written() {
        for (rules, request, expect) in [
            ("/a", "GET /a", true),
            ("/a", "GET /a/", true),
            ("/a", "GET /a/b", true),
            ("/a", "GET /ab", false),
            ("/a", "GET /A", false),
            ("/a/", "GET /a", true),
            ("/", "GET /", true),
            ("/", "OPTIONS *", true),
            ("=/a", "GET /a", true),
            ("=/a", "GET /a/", false),
            ("/ GET", "GET /", true),
            ("/ GET", "get /", false),
            ("/ GET", "POST /", false),
            ("/ x-user=1", "GET / X-User=1", true),
            ("/ x-user=1", "GET / x-user=2", false),
            ("/ x-user=1", "GET /", false),
            ("/ x-user=1 y=2", "GET / x-user=1", false),
            // A repeated field is one field with a list of values.
            ("/ x=1", "GET / x=1 x=2", false),
            ("/ x=1,2", "GET / x=1 x=2", true),
            ("/ x=1,2", "GET / x=1,2", true),
            ("/ x=1,2", "GET / x=1 x=2 x=3", false),
            // The second entry with one name does not count.
            ("/ x=1 x=2", "GET / x=1", true),
            ("/ x=1 x=2", "GET / x=2", false),
        ] {
            let seen = found(&[route("shop/r", None, rules)], 80, request);
            let expect = if expect { "shop/r rule 0" } else { "none" };
            assert_eq!(seen, expect, "{request} in {rules}");
        }
    }

    #[test]
    fn a_service_without_routes_takes_its_requests_itself() {
        let on_80 = route("shop/r", Some(80), "=/only");
        let mut elsewhere = route("shop/r", None, "/");
        elsewhere.parents[0].0 = ServiceName::new("shop", "other").unwrap();
        for (routes, port, expect) in [
            (vec![], 80, "default"),
            (vec![elsewhere.clone()], 80, "default"),
            (vec![on_80.clone()], 80, "none"),
            (vec![on_80.clone()], 81, "default"),
            (vec![on_80.clone()], 82, "none"),
            // HTTP routes do not bind to ports that are not read as HTTP.
            (vec![route("shop/r", None, "=/only")], 6379, "default"),
        ] {
            assert_eq!(found(&routes, port, "GET /x"), expect, "{port}");
        }
        let table = RouteTable::compile(&cart(), &[&on_80]);
        let itself = table.find_opaque(80).unwrap().rule();
        assert_eq!(itself.pick_backend(7).unwrap().port, Some(80));
        assert_eq!(itself.pick_backend(7).unwrap().service, cart().name);
        assert!(table.find_opaque(9).is_none());
    }

    proptest! {
        /// The first of the sorted entries is what a plain reading of the specification finds.
        #[test]
        fn find_agrees_with_a_plain_reading(
            rules in proptest::collection::vec(
                ("(=/a|=/a/b|/|/a|/a/b)", "(| GET| PUT)", "(| x=1| y=1| x=1 y=1)"), 1..8),
            request in ("(GET|PUT)", "(/|/a|/a/b|/a/b/c|/ab)", "(| x=1| y=1| x=1 y=1)"),
        ) {
            let texts: Vec<String> = rules.iter().map(|(p, m, h)| format!("{p}{m}{h}")).collect();
            let request = format!("{} {}{}", request.0, request.1, request.2);
            let alone = |text: &String| found(&[route("shop/r", None, text)], 80, &request);
            let rank = |text: &str| {
                let one = parse(text);
                match one.path {
                    PathMatch::Exact(_) => (1, 0, one.method.is_some(), one.headers.len()),
                    PathMatch::Prefix(p) => (0, p.len(), one.method.is_some(), one.headers.len()),
                }
            };
            let best = texts.iter().enumerate()
                .filter(|(_, text)| alone(text) != "none")
                .max_by_key(|(index, text)| (rank(text), Reverse(*index)));
            let expect = best.map_or("none".to_owned(), |(index, _)| format!("shop/r rule {index}"));
            prop_assert_eq!(found(&[route("shop/r", None, &texts.join(";"))], 80, &request), expect);
        }
    }
}
