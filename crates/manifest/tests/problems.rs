//! What a user is told: every problem of a file at once, each with its exact place.

use isthmus_manifest::{parse_files, parse_object};
use isthmus_model::Namespace;

/// Everything said about `text`, as the user sees it.
fn shown(text: &str) -> Vec<String> {
    let (_, problems) = parse_files(&[("f", text)], None);
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(text: &str, expect: &[&str]) {
    let shown = shown(text);
    assert_eq!(shown, expect, "\n{}\n{text}", shown.join("\n"));
}

/// A Service of the namespace shop with this `spec`, which begins on line 4.
fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec:\n{spec}"
    )
}

/// An HTTPRoute with this `spec`, which begins on line 5.
fn route(spec: &str) -> String {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n";
    format!("{head}metadata: {{name: cart, namespace: shop}}\nspec:\n{spec}")
}

/// The same with a valid parent and these `rules`, which begin on line 7.
fn rules(rules: &str) -> String {
    route(&format!(
        "  parentRefs: [{{group: '', kind: Service, name: cart}}]\n  rules:\n{rules}"
    ))
}

/// An object of our own group in this namespace with this `spec`, which begins on line 5.
fn own(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec:\n{spec}"
    )
}

#[test]
fn syntax() {
    for (text, expect) in [
        (
            "a: [1, 2\nb: 3\n",
            vec!["f:2:2: illegal placement of ':' indicator"],
        ),
        (
            "a: 1\n b: 2\n",
            vec!["f:2:3: mapping values are not allowed in this context"],
        ),
        (
            "a: \"x\n",
            vec!["f:2:1: invalid indentation in multiline quoted scalar"],
        ),
        (
            "# head\n---\n# more\n---\na: *nope\n",
            vec!["f:5:4: reference to unknown value"],
        ),
        (
            "a: .nan\n",
            vec!["f:1:4: value `.nan` is not a finite number"],
        ),
        ("? [a]\n: b\n", vec!["f:1:3: expected string scalar"]),
        (
            "a: &a [*a]\n",
            vec!["f:1:8: Recursive reference not allowed here"],
        ),
        (&"[".repeat(70), vec!["f:1:65: recursion limit exceeded"]),
        (
            &format!("a: {}", "x".repeat(1 << 20)),
            vec!["f:1:1: the document has 1048579 bytes, 1048576 are allowed"],
        ),
    ] {
        check(text, &expect);
    }
}

#[test]
fn one_bad_document_hides_nothing_in_the_others() {
    let text = "kind: [\n---\napiVersion: v1\nkind: Servise\nmetadata: {name: a}\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  name: b\nspek: 1\n";
    check(
        text,
        &[
            "f:1:7: unclosed bracket '['",
            "f:4:7: kind: there is no kind `Servise`; did you mean `Service`?",
            "f:11:3: duplicate mapping key: name not allowed here",
            "f:12:1: spek: unknown field; did you mean `spec`?",
        ],
    );
}

#[test]
fn a_wrong_head_hides_nothing_in_the_spec() {
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: A_b, namespace: n}\nspec:\n  selctor: {}\n  \
         ports: [{port: 70000}]\n",
        &[
            "f:3:18: metadata.name: `A_b` is not a name: 'A' is not allowed, only a-z, 0-9, '-' and '.'",
            "f:5:3: spec.selctor: unknown field; did you mean `selector`?",
            "f:6:18: spec.ports[0].port: 70000 is not a port: ports are 1 to 65535",
        ],
    );
}

#[test]
fn heads() {
    for (text, expect) in [
        (
            "just text",
            vec![
                "f:1:1: this is not a resource; a resource is an object with apiVersion, kind and \
                 metadata",
            ],
        ),
        (
            "# c\nkind: 5\n",
            vec![
                "f:2:1: the field `apiVersion` is missing",
                "f:2:1: the field `metadata` is missing",
                "f:2:7: kind: expected text",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: A b, lables: {}}\n",
            vec![
                "f:2:7: kind: there is no kind `Pod`; the kinds are Mesh, Cluster, Link, \
                 Namespace, Service, ServiceExport, HTTPRoute, TrafficPolicy, Workload",
                "f:3:18: metadata.name: `A b` is not a name: 'A' is not allowed, only a-z, 0-9, \
                 '-' and '.'",
                "f:3:23: metadata.lables: unknown field; did you mean `labels`?",
            ],
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {}\n",
            vec![
                "f:1:13: apiVersion: kind HTTPRoute is not in `gateway.networking.k8s.io/v1beta1`; \
                 write `gateway.networking.k8s.io/v1`",
                "f:3:1: metadata.name: every object needs a name",
            ],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  namespace: y\n",
            vec!["f:5:3: metadata.namespace: kind Namespace lives in no namespace; leave it out"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n    version: 1.10\n    \
             a/b/c: x\n    good: -x\n  ownerReferences:\n  - {apiVersion: v1, kind: A, name: b, uid: c}\n",
            vec![
                "f:6:14: metadata.labels.version: expected text, found the number 1.1; put it in \
                 quotes",
                "f:7:12: metadata.labels[\"a/b/c\"]: `a/b/c` is not the key of a label: '/' is not \
                 allowed, only letters, digits, '.', '_' and '-'",
                "f:8:11: metadata.labels.good: `-x` is not the value of a label: at most 63 \
                 letters, digits, '-', '_' and '.', with a letter or a digit at both ends",
                "f:9:3: metadata.ownerReferences: this field is not supported yet",
            ],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 1}]}\n",
            vec![
                "f:3:1: metadata.namespace: kind Service lives in a namespace, and none is named; \
                 add `namespace:`, or name one on the command line with `-n`",
            ],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, annotations: \
             {mesh.isthmus.dev/service-accounts: a}}\n",
            vec![
                "f:3:35: metadata.annotations[\"mesh.isthmus.dev/service-accounts\"]: kind \
                 Namespace has no such annotation",
            ],
        ),
    ] {
        check(text, &expect);
    }
}

#[test]
fn duplicates_name_the_first() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n";
    let (parsed, problems) = parse_files(&[("a", namespace), ("b", namespace)], None);
    assert_eq!(parsed.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "b:4:9: metadata.name: Namespace `shop` is declared twice; the first is at a:4"
    );
}

#[test]
fn services() {
    for (spec, expect) in [
        (
            "  ports: []\n",
            vec!["f:5:3: spec.ports: a service needs at least one port"],
        ),
        (
            "  ports:\n  - port: 0\n    nodePort: 30000\n  - {name: a, port: 80, targetPort: http}\n  \
             - {name: a, port: 80, protocol: UDP}\n  type: NodePort\n  clusterIP: None\n",
            vec![
                "f:6:5: spec.ports[0].name: every port needs a name when there are several",
                "f:6:11: spec.ports[0].port: 0 is not a port: ports are 1 to 65535",
                "f:7:5: spec.ports[0].nodePort: this field is not supported yet",
                "f:8:37: spec.ports[1].targetPort: named target ports such as `http` are not \
                 supported yet; write the number",
                "f:9:12: spec.ports[2].name: two ports are called `a`",
                "f:9:21: spec.ports[2].port: port 80 is declared twice",
                "f:9:35: spec.ports[2].protocol: `UDP` is not supported yet; only `TCP` is",
                "f:10:9: spec.type: `NodePort` is not supported yet; only `ClusterIP` is",
                "f:11:14: spec.clusterIP: headless services are not supported yet",
            ],
        ),
        // The items before and after a broken one keep their numbers and are still checked.
        (
            "  ports:\n  - {port: eighty, name: a}\n  - port: 70000\n    name: b\n    prot: TCP\n",
            vec![
                "f:6:12: spec.ports[0].port: expected a whole number, found the text `eighty`",
                "f:7:11: spec.ports[1].port: 70000 is not a port: ports are 1 to 65535",
                "f:9:5: spec.ports[1].prot: unknown field; did you mean `port`?",
            ],
        ),
        (
            "  - a\n",
            vec!["f:4:1: spec: expected an object, found a list"],
        ),
    ] {
        check(&service(spec), &expect);
    }
}

#[test]
fn routes() {
    for (text, expect) in [
        (
            route("  parentRefs: []\n  hostnames: [a.b]\n"),
            vec![
                "f:4:1: spec.rules: a route needs at least one rule",
                "f:5:3: spec.parentRefs: a route needs a parent; name the service whose requests \
                 it routes",
                "f:6:3: spec.hostnames: this field is not supported yet",
            ],
        ),
        (
            route(
                "  parentRefs:\n  - name: gateway\n  - {kind: Service, name: a, group: core}\n  \
                 - {kind: Service, name: a.b, namespace: other}\n  - {kind: Service, name: a}\n  \
                 - {kind: Service, name: a, group: ''}\n  rules: [{}]\n",
            ),
            vec![
                "f:6:5: spec.parentRefs[0].kind: without `kind` this is a Gateway, which is not \
                 supported yet; write `kind: Service`",
                "f:7:37: spec.parentRefs[1].group: kind Service is not in group `core`; write \
                 `group: \"\"`",
                "f:8:27: spec.parentRefs[2].name: `a.b` is not a service name: '.' is not \
                 allowed, only a-z, 0-9 and '-'",
                "f:8:43: spec.parentRefs[2].namespace: routes for services of another namespace \
                 are not supported yet",
                "f:9:5: spec.parentRefs[3]: this parent is named twice",
                "f:10:5: spec.parentRefs[4]: this parent is named twice",
            ],
        ),
        (
            rules(
                "  - backendRef:\n    - {name: cart, port: 80}\n  - filters: [{type: URLRewrite}]\n",
            ),
            vec![
                "f:7:5: spec.rules[0].backendRef: unknown field; did you mean `backendRefs`?",
                "f:9:5: spec.rules[1].filters: this field is not supported yet",
            ],
        ),
        (
            rules(
                "  - matches:\n    - path: {type: RegularExpression, value: /a}\n    \
                 - path: {type: Exakt, value: /a}\n    - path: {value: a}\n    \
                 - path: {value: /a/../b}\n    - method: FETCH\n    \
                 - queryParams: [{name: a, value: b}]\n    - headers:\n      \
                 - {name: 'x y', value: a}\n      - {name: A, value: a}\n      \
                 - {name: a, value: ''}\n",
            ),
            vec![
                "f:8:20: spec.rules[0].matches[0].path.type: regular expressions are not supported \
                 yet; use `Exact` or `PathPrefix`",
                "f:9:20: spec.rules[0].matches[1].path.type: `Exakt` is none of Exact, PathPrefix, \
                 RegularExpression; did you mean `Exact`?",
                "f:10:21: spec.rules[0].matches[2].path.value: `a` is not a path to match: it must \
                 begin with `/`",
                "f:11:21: spec.rules[0].matches[3].path.value: `/a/../b` is not a path to match: \
                 it may not contain `//`, `/./`, `/../`, `%2f` or `#`",
                "f:12:15: spec.rules[0].matches[4].method: `FETCH` is none of GET, HEAD, POST, \
                 PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH",
                "f:13:7: spec.rules[0].matches[5].queryParams: this field is not supported yet",
                "f:15:16: spec.rules[0].matches[6].headers[0].name: `x y` is not a header name: \
                 ' ' is not allowed, only lower-case token characters (RFC 9110)",
                "f:17:16: spec.rules[0].matches[6].headers[2].name: the header `a` is named twice",
                "f:17:26: spec.rules[0].matches[6].headers[2].value: the value of a header has 1 \
                 to 4096 bytes",
            ],
        ),
    ] {
        check(&text, &expect);
    }
}

#[test]
fn backends_and_timeouts() {
    check(
        &rules(
            "  - name: a\n    timeouts: {request: 1s, backendRequest: 2s}\n    backendRefs:\n    \
                 - {name: cart}\n    - {name: cart, port: 80, weight: -1}\n    \
                 - {kind: ServiceSubset, name: 'cart:v=1'}\n    \
                 - {kind: ServiceSubset, group: mesh.isthmus.dev, name: cart}\n    \
                 - {kind: ServiceSubset, group: mesh.isthmus.dev, name: 'cart:v=1,w'}\n    \
                 - {kind: ServiceSubset, group: mesh.isthmus.dev, name: 'cart:v=1,v=2'}\n    \
                 - {kind: Bucket, group: x, name: cart}\n    \
                 - {name: cart, namespace: b, port: 80}\n    - {port: 80}\n  - name: a\n    \
                 timeouts: {request: 10}\n",
        ),
        &[
            "f:8:45: spec.rules[0].timeouts.backendRequest: one try may not take longer than \
                 the whole request",
            "f:10:7: spec.rules[0].backendRefs[0].port: a Service backend needs a port; add \
                 `port:` with one of the service's ports",
            "f:11:38: spec.rules[0].backendRefs[1].weight: weights are 0 to 1000000",
            "f:12:7: spec.rules[0].backendRefs[2].group: kind ServiceSubset is not in group `\"\"`; write `group: mesh.isthmus.dev`",
            "f:13:60: spec.rules[0].backendRefs[3].name: `cart` names no part of a service; \
                 write the service and the labels of its workloads, such as `payment:version=v2`",
            "f:14:60: spec.rules[0].backendRefs[4].name: `w` is not `<label>=<value>`",
            "f:15:60: spec.rules[0].backendRefs[5].name: the label `v` is named twice",
            "f:16:14: spec.rules[0].backendRefs[6].kind: backends of group `x` and kind \
                 `Bucket` are not supported yet; use `kind: Service`, or `kind: ServiceSubset` of \
                 group `mesh.isthmus.dev`",
            "f:17:31: spec.rules[0].backendRefs[7].namespace: backends in another namespace \
                 need a ReferenceGrant, which is not supported yet",
            "f:18:7: spec.rules[0].backendRefs[8]: the field `name` is missing",
            "f:19:11: spec.rules[1].name: two rules are called `a`",
            "f:20:25: spec.rules[1].timeouts.request: expected text, found the number 10; put \
                 it in quotes",
        ],
    );
}

#[test]
fn clusters_and_links() {
    for (text, expect) in [
        (
            own("Mesh", "name: m", "  trustDomain: Shop\n"),
            vec![
                "f:5:16: spec.trustDomain: `Shop` is not a trust domain: 'S' is not allowed, only a-z, \
             0-9, '-' and '.'",
            ],
        ),
        (
            own(
                "Mesh",
                "name: m",
                "  trustDomain: m.mesh\n  egress: allow\n",
            ),
            vec!["f:6:11: spec.egress: `allow` is none of Deny, Allow; did you mean `Allow`?"],
        ),
        (
            own(
                "Mesh",
                "name: m",
                "  trustDomain: m.mesh\n  removals: {holdAbove: 101, holdFor: 9s}\n",
            ),
            vec![
                "f:6:25: spec.removals.holdAbove: 101 is above 100 percent",
                "f:6:39: spec.removals.holdFor: `9s` is too short: 10s is the least",
            ],
        ),
        (
            own(
                "Mesh",
                "name: m",
                "  trustDomain: m.mesh\n  removals: {holdFor: 25h}\n",
            ),
            vec!["f:6:23: spec.removals.holdFor: `25h` is too long: 24h is the most"],
        ),
        (
            own(
                "Cluster",
                "name: a.b",
                "  regoin: us\n  control: localhost:15012\n  coordinates: {latitude: 91, \
                 longitude: 181}\n  namespaces: [a, B, a]\n  zone: ''\n",
            ),
            vec![
                "f:4:1: spec: the field `region` is missing",
                "f:5:3: spec.regoin: unknown field; did you mean `region`?",
            ],
        ),
        (
            own(
                "Cluster",
                "name: a.b",
                "  region: us\n  control: localhost:15012\n  coordinates: {latitude: 91, \
                 longitude: 181}\n  namespaces: [a, B, a]\n  zone: ''\n",
            ),
            vec![
                "f:3:18: metadata.name: `a.b` is not a cluster name: '.' is not allowed, only a-z, \
                 0-9 and '-'",
                "f:6:12: spec.control: `localhost:15012` is not an IP address with a port; write \
                 `10.0.0.1:15012` or `[2001:db8::1]:15012`",
                "f:7:27: spec.coordinates.latitude: 91 degrees: it must be from -90 to 90",
                "f:7:42: spec.coordinates.longitude: 181 degrees: it must be from -180 to 180",
                "f:8:19: spec.namespaces[1]: `B` is not a namespace: 'B' is not allowed, only a-z, \
                 0-9 and '-'",
                "f:8:22: spec.namespaces[2]: `a` is named twice",
                "f:9:9: spec.zone: it is empty; leave it out",
            ],
        ),
        (
            own(
                "Link",
                "name: l",
                "  between: [a, a]\n  rtt: 140 ms\n  reach:\n  - {from: c, address: '1.2.3.4:0', \
                 via: '1.2.3.4:5'}\n",
            ),
            vec![
                "f:5:3: spec.between: a link needs two clusters, and both are `a`",
                "f:6:8: spec.rtt: `140 ms` is not a duration; write `500ms`, `10s` or `1h30m`",
                "f:8:24: spec.reach[0].address: `1.2.3.4:0` is not an IP address with a port; \
                 write `10.0.0.1:15012` or `[2001:db8::1]:15012`",
            ],
        ),
        (
            own(
                "Link",
                "name: l",
                "  between: [a, b]\n  reach:\n  - {from: c, address: '1.2.3.4:5', via: \
                 '1.2.3.4:5'}\n  - {from: a, address: '1.2.3.4:5', via: '1.2.3.4:6'}\n  - {from: \
                 a, address: '1.2.3.4:5', via: '1.2.3.4:7'}\n",
            ),
            vec![
                "f:7:12: spec.reach[0].from: `c` is not one of the two clusters; write `a` or `b`",
                "f:9:24: spec.reach[2].address: `a` already has a way to `1.2.3.4:5`",
            ],
        ),
    ] {
        check(&text, &expect);
    }
}

#[test]
fn policies() {
    let text = own(
        "TrafficPolicy",
        "name: p, namespace: shop",
        "  targetRefs:\n  - {kind: Mesh, name: m, namespace: x}\n  - {kind: Servise, name: a}\n  \
         - {kind: Service, name: a}\n  - {kind: Service, name: a, namespace: shop}\n  \
         - {group: core, kind: Namespace, name: a}\n  loadBalancing: {algorithm: PeakEwma}\n  \
         locality: {order: Local}\n  retry: {attempts: 11, budgetPercent: 101, on: [Reset, \
         Reset]}\n  timeout: {request: 1s, perTry: 2s, connect: 0s}\n  outlier: \
         {consecutiveErrors: -1, baseEjection: 1m30, maxEjectedPercent: 1.5}\n  healthCheck: \
         {interval: 1ms, http: {path: healthz}, tcp: {}}\n  limits: {requests: 0, \
         pending: -1}\n",
    );
    check(
        &text,
        &[
            "f:6:27: spec.targetRefs[0].namespace: kind Mesh lives in no namespace; leave it out",
            "f:7:12: spec.targetRefs[1].kind: `Servise` is none of Mesh, Namespace, Service, \
             HTTPRoute; did you mean `Service`?",
            "f:9:5: spec.targetRefs[3]: this target is named twice",
            "f:10:13: spec.targetRefs[4].group: kind Namespace is not in group `core`; write \
             `group: \"\"`",
            "f:11:30: spec.loadBalancing.algorithm: `PeakEwma` is none of PeakEWMA, RoundRobin, \
             LeastRequest, RingHash, Maglev; did you mean `PeakEWMA`?",
            "f:12:21: spec.locality.order: `Local` is none of Nearest, LocalOnly; did you mean \
             `LocalOnly`?",
            "f:13:21: spec.retry.attempts: 11 attempts are too many: 10 is the most",
            "f:13:40: spec.retry.budgetPercent: 101 is above 100 percent",
            "f:13:57: spec.retry.on[1]: this reason is named twice",
            "f:14:34: spec.timeout.perTry: one try may not take longer than the whole request",
            "f:14:47: spec.timeout.connect: `0s` is too short: 1ms is the least",
            "f:15:32: spec.outlier.consecutiveErrors: expected a whole number from 0 to \
             4294967295, found the number -1",
            "f:15:50: spec.outlier.baseEjection: `1m30` is not a duration; write `500ms`, `10s` or \
             `1h30m`",
            "f:15:75: spec.outlier.maxEjectedPercent: expected a whole number, 0 or more, found \
             the number 1.5",
            "f:16:3: spec.healthCheck: a health check is made in exactly one way; write `http: \
             {path: /healthz}`, `grpc: {}` or `tcp: {}`",
            "f:16:27: spec.healthCheck.interval: `1ms` is too short: 100ms is the least",
            "f:17:22: spec.limits.requests: nothing would ever pass; to keep callers out, write an \
             AuthorizationPolicy",
            "f:17:34: spec.limits.pending: expected a whole number from 0 to 4294967295, found the \
             number -1",
        ],
    );
}

#[test]
fn what_is_hashed() {
    for (written, expect) in [
        (
            "{}",
            "f:6:19: spec.loadBalancing.hashOn: a request is hashed on exactly one thing; write \
             `header: x-user`, `cookie: session` or `source: {}`",
        ),
        (
            "{header: a, cookie: b}",
            "f:6:19: spec.loadBalancing.hashOn: a request is hashed on exactly one thing; write \
             `header: x-user`, `cookie: session` or `source: {}`",
        ),
        (
            "{header: a b}",
            "f:6:36: spec.loadBalancing.hashOn.header: `a b` is not a header name: ' ' is not \
             allowed, only lower-case token characters (RFC 9110)",
        ),
        (
            "{header: a, cookieTtl: 1h}",
            "f:6:50: spec.loadBalancing.hashOn.cookieTtl: only a `cookie` has one",
        ),
        (
            "{cookie: a=b}",
            "f:6:36: spec.loadBalancing.hashOn.cookie: `a=b` is not a cookie name: '=' is not \
             allowed, only token characters (RFC 9110)",
        ),
    ] {
        let spec = format!(
            "  targetRefs: [{{kind: Mesh, name: m}}]\n  loadBalancing: {{hashOn: {written}}}\n"
        );
        check(
            &own("TrafficPolicy", "name: p, namespace: shop", &spec),
            &[expect],
        );
    }
}

#[test]
fn objects_without_a_file_have_paths_only() {
    let json = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"ports": [{"port": 80, "targetPort": 0}, 7]},
    });
    let problems = parse_object(json).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "spec.ports[1]: expected an object, found the number 7",
            "spec.ports[0].targetPort: 0 is not a port: ports are 1 to 65535",
        ]
    );
}

#[test]
fn a_namespace_of_the_command_line_is_written_into_the_object() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";
    let namespace = Namespace::new("shop").unwrap();
    let (parsed, problems) = parse_files(&[("f", text)], Some(&namespace));
    assert_eq!(problems, []);
    assert_eq!(parsed[0].key.to_string(), "Service/shop/a");
    let json = parsed[0].document.object.json();
    assert_eq!(json["metadata"]["namespace"], "shop");
}

#[test]
fn a_list_stands_for_its_items() {
    let item =
        |name| format!("- {{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n");
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}",
        item("a"),
        item("B")
    );
    let (parsed, problems) = parse_files(&[("f", &text)], None);
    assert_eq!(parsed.len(), 1);
    let place = problems[0].place.as_ref().unwrap();
    assert_eq!((place.line, place.column), (5, 54));
}
