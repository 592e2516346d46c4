//! What is said about a whole set of resources.

use isthmus_manifest::{check_references, parse_files};

fn findings(text: &str) -> Vec<String> {
    let (parsed, problems) = parse_files(&[("f", text)], None);
    assert_eq!(problems, []);
    let all: Vec<_> = parsed
        .into_iter()
        .map(|one| (one.key, one.resource))
        .collect();
    check_references(&all)
        .iter()
        .map(ToString::to_string)
        .collect()
}

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
const CART: &str = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, \
                    spec: {ports: [{port: 80, appProtocol: http, name: http}, {port: 81, name: raw}]}}";

fn cluster(name: &str) -> String {
    format!(
        "{{apiVersion: mesh.isthmus.dev/v1alpha1, kind: Cluster, metadata: {{name: {name}}}, \
         spec: {{region: r, control: '127.0.0.1:1', namespaces: [shop]}}}}"
    )
}

fn own(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: mesh.isthmus.dev/v1alpha1, kind: {kind}, metadata: {{{metadata}}}, spec: \
         {{{spec}}}}}"
    )
}

fn route(spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, \
         namespace: shop}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn tables() {
    let export = "{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceExport, metadata: \
                  {name: card, namespace: shop}}"
        .to_owned();
    for (documents, expect) in [
        (vec![NAMESPACE.to_owned(), CART.to_owned()], vec![]),
        (
            vec![CART.to_owned()],
            vec!["warning: Service/shop/cart: metadata.namespace: there is no namespace `shop`"],
        ),
        (
            vec![NAMESPACE.to_owned(), CART.to_owned(), export],
            vec![
                "error: ServiceExport/shop/card: metadata.name: there is no service shop/card to \
                 export; did you mean `cart`?",
            ],
        ),
        (
            vec![
                NAMESPACE.to_owned(),
                CART.to_owned(),
                route(
                    "parentRefs: [{kind: Service, name: carts}, {kind: Service, name: cart, port: \
                     81}], rules: [{backendRefs: [{name: cart, port: 82}, {name: x, port: 1}]}, \
                     {}, {backendRefs: [{name: cart, port: 80, weight: 0}]}]",
                ),
            ],
            vec![
                "error: HTTPRoute/shop/r: spec.parentRefs[0].name: there is no service shop/carts; \
                 did you mean `cart`?",
                "warning: HTTPRoute/shop/r: spec.parentRefs[1].port: port 81 of shop/cart does not \
                 speak HTTP; set `appProtocol: http`",
                "error: HTTPRoute/shop/r: spec.rules[0].backendRefs[0].port: shop/cart has no port \
                 82; its ports are 80, 81",
                "error: HTTPRoute/shop/r: spec.rules[0].backendRefs[1].name: there is no service \
                 shop/x",
                "warning: HTTPRoute/shop/r: spec.rules[1].backendRefs: without backends every \
                 request of this rule is answered 500",
                "warning: HTTPRoute/shop/r: spec.rules[2].backendRefs: all weights are 0: every \
                 request of this rule is answered 500",
            ],
        ),
        (
            vec![
                NAMESPACE.to_owned(),
                CART.to_owned(),
                own(
                    "TrafficPolicy",
                    "name: p, namespace: shop",
                    "targetRefs: [{kind: Mesh, name: m}, {kind: Namespace, name: shops}, {kind: \
                     Service, name: cart}, {kind: Service, name: cat}, {kind: HTTPRoute, name: r}]",
                ),
            ],
            vec![
                "error: TrafficPolicy/shop/p: spec.targetRefs[1].name: there is no namespace \
                 `shops`; did you mean `shop`?",
                "error: TrafficPolicy/shop/p: spec.targetRefs[3].name: there is no service \
                 shop/cat; did you mean `cart`?",
                "error: TrafficPolicy/shop/p: spec.targetRefs[4].name: there is no HTTPRoute \
                 shop/r",
            ],
        ),
        (
            vec![
                cluster("a1"),
                cluster("b1"),
                cluster("c1"),
                own("Link", "name: l1", "between: [b1, a1]"),
                own("Link", "name: l2", "between: [a1, b1]"),
                own("Link", "name: l3", "between: [a1, c2]"),
                own("Mesh", "name: m1", "trustDomain: a.mesh"),
                own("Mesh", "name: m2", "trustDomain: b.mesh"),
                NAMESPACE.to_owned(),
            ],
            vec![
                "warning: Cluster/a1: metadata.name: there is no link to cluster `c1`; add a Link \
                 with `between: [a1, c1]`",
                "warning: Cluster/b1: metadata.name: there is no link to cluster `c1`; add a Link \
                 with `between: [b1, c1]`",
                "error: Link/l2: spec.between: Link/l1 is already between these clusters",
                "error: Link/l3: spec.between[1]: there is no cluster `c2`; did you mean `c1`?",
                "error: Mesh/m2: metadata.name: there is one mesh only, and it is `m1`",
            ],
        ),
    ] {
        let text = documents.join("\n---\n");
        assert_eq!(findings(&text), expect, "{text}");
    }
}
