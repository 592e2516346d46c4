//! What valid resources mean, field by field.

use std::time::Duration;

use isthmus_manifest::{
    Object, ServerMetadata, cluster_object, parse_files, parse_object, workload_object,
};
use isthmus_model::{
    AccountName, Algorithm, AppProtocol, Cluster, Egress, Handle, HashOn, Health, HealthCheck,
    HealthProbe, LocalityOrder, Namespace, ObjectName, Origin, PathMatch, Percent, Resource,
    RetryOn, ServiceName, Target, TrafficPolicy, Workload,
};

fn resource(text: &str) -> Resource {
    let (mut parsed, problems) = parse_files(&[("f", text)], None);
    assert_eq!(problems, [], "{text}");
    parsed.remove(0).resource
}

fn policy(spec: &str) -> TrafficPolicy {
    let text = format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, \
         namespace: shop}}\nspec:\n  targetRefs: [{{kind: Mesh, name: m}}]\n  {spec}\n"
    );
    match resource(&text) {
        Resource::TrafficPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// A policy for the mesh that sets nothing.
fn nothing() -> TrafficPolicy {
    TrafficPolicy::empty(
        Namespace::new("shop").expect("a namespace"),
        ObjectName::new("p").expect("a name"),
        vec![Target::Mesh],
    )
}

#[test]
fn a_mesh_lets_nothing_out_that_does_not_say_so() {
    for (spec, expect) in [
        ("", Egress::Deny),
        ("  egress: Deny\n", Egress::Deny),
        ("  egress: Allow\n", Egress::Allow),
    ] {
        let text = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec:\n  \
             trustDomain: m.mesh\n{spec}"
        );
        match resource(&text) {
            Resource::Mesh(mesh) => assert_eq!(mesh.egress, expect, "{spec}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mesh_says_when_who_is_missed_is_held() {
    for (spec, above, seconds) in [
        ("", 50, 300),
        ("removals: {}", 50, 300),
        ("removals: {holdAbove: 100}", 100, 300),
        ("removals: {holdAbove: 0, holdFor: 24h}", 0, 86_400),
        ("removals: {holdFor: 10s}", 50, 10),
    ] {
        let text = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec:\n  \
             trustDomain: m.mesh\n  {spec}\n"
        );
        let Resource::Mesh(mesh) = resource(&text) else {
            panic!("{text}");
        };
        let removals = mesh.removals;
        assert_eq!(removals.hold_above.value(), above, "{spec}");
        assert_eq!(removals.hold_for, Duration::from_secs(seconds), "{spec}");
    }
}

#[test]
fn each_field_of_a_policy_sets_that_and_nothing_else() {
    type Set = fn(&mut TrafficPolicy);
    let cases: [(&str, Set); 27] = [
        ("retry:", |_| {}),
        ("loadBalancing: {algorithm: PeakEWMA}", |p| {
            p.algorithm = Some(Algorithm::PeakEwma);
        }),
        ("loadBalancing: {algorithm: RoundRobin}", |p| {
            p.algorithm = Some(Algorithm::RoundRobin);
        }),
        ("loadBalancing: {algorithm: LeastRequest}", |p| {
            p.algorithm = Some(Algorithm::LeastRequest);
        }),
        ("loadBalancing: {algorithm: RingHash}", |p| {
            p.algorithm = Some(Algorithm::RingHash);
        }),
        ("loadBalancing: {algorithm: Maglev}", |p| {
            p.algorithm = Some(Algorithm::Maglev);
        }),
        ("loadBalancing: {hashOn: {header: X-User}}", |p| {
            p.hash_on = "x-user".parse().map(HashOn::Header).ok();
        }),
        ("loadBalancing: {hashOn: {cookie: Session}}", |p| {
            let name = "Session".parse().unwrap();
            p.hash_on = Some(HashOn::Cookie { name, ttl: None });
        }),
        (
            "loadBalancing: {hashOn: {cookie: s, cookieTtl: 1h30m}}",
            |p| {
                let (name, ttl) = ("s".parse().unwrap(), Some(Duration::from_mins(90)));
                p.hash_on = Some(HashOn::Cookie { name, ttl });
            },
        ),
        ("loadBalancing: {hashOn: {source: {}}}", |p| {
            p.hash_on = Some(HashOn::Source);
        }),
        ("locality: {order: Nearest}", |p| {
            p.locality_order = Some(LocalityOrder::Nearest);
        }),
        ("locality: {order: LocalOnly}", |p| {
            p.locality_order = Some(LocalityOrder::LocalOnly);
        }),
        ("retry: {attempts: 0}", |p| p.retry_attempts = Some(0)),
        ("retry: {hedge: true}", |p| p.hedge = Some(true)),
        ("retry: {budgetPercent: 100}", |p| {
            p.retry_budget = Percent::new(100).ok();
        }),
        (
            "retry: {on: [ConnectFailure, Refused, Reset, GatewayError, Unavailable]}",
            |p| {
                p.retry_on = Some(vec![
                    RetryOn::ConnectFailure,
                    RetryOn::Refused,
                    RetryOn::Reset,
                    RetryOn::GatewayError,
                    RetryOn::Unavailable,
                ]);
            },
        ),
        ("timeout: {request: 1h30m}", |p| {
            p.request_timeout = Some(Duration::from_mins(90));
        }),
        ("timeout: {perTry: 0s}", |p| {
            p.per_try_timeout = Some(Duration::ZERO);
        }),
        ("timeout: {connect: 500ms}", |p| {
            p.connect_timeout = Some(Duration::from_millis(500));
        }),
        ("timeout: {idle: 0s}", |p| {
            p.idle_timeout = Some(Duration::ZERO);
        }),
        ("limits: {connections: 1}", |p| p.max_connections = Some(1)),
        ("limits: {pending: 2}", |p| p.max_pending = Some(2)),
        ("limits: {requests: 3}", |p| p.max_requests = Some(3)),
        ("outlier: {consecutiveErrors: 7}", |p| {
            p.consecutive_errors = Some(7);
        }),
        ("outlier: {baseEjection: 1m}", |p| {
            p.base_ejection = Some(Duration::from_mins(1));
        }),
        ("outlier: {maxEjectedPercent: 0}", |p| {
            p.max_ejected = Percent::new(0).ok();
        }),
        ("outlier: {panicPercent: 30}", |p| {
            p.panic = Percent::new(30).ok();
        }),
    ];
    for (spec, set) in cases {
        let mut expect = nothing();
        set(&mut expect);
        assert_eq!(policy(spec), expect, "{spec}");
    }
}

#[test]
fn each_way_to_check_health() {
    let check = |probe, interval, timeout| HealthCheck {
        probe,
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
    };
    let http = HealthProbe::Http {
        path: "/healthz".to_owned(),
    };
    let grpc = |service: &str| HealthProbe::Grpc {
        service: service.to_owned(),
    };
    for (spec, expect) in [
        ("{http: {path: /healthz}, interval: 2s}", check(http, 2, 1)),
        ("{tcp: {}, timeout: 3s}", check(HealthProbe::Tcp, 1, 3)),
        ("{grpc: {}}", check(grpc(""), 1, 1)),
        (
            "{grpc: {service: shop.Cart}}",
            check(grpc("shop.Cart"), 1, 1),
        ),
    ] {
        let found = policy(&format!("healthCheck: {spec}"));
        let expect = TrafficPolicy {
            health_check: Some(expect),
            ..nothing()
        };
        assert_eq!(found, expect, "{spec}");
    }
}

#[test]
fn targets() {
    let text = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, \
                namespace: shop}\nspec:\n  targetRefs:\n  - {group: mesh.isthmus.dev, kind: Mesh, \
                name: m}\n  - {group: '', kind: Namespace, name: other}\n  - {kind: Service, name: \
                cart}\n  - {kind: Service, name: cart, namespace: other}\n  - {group: \
                gateway.networking.k8s.io, kind: HTTPRoute, name: a.b}\n";
    let Resource::TrafficPolicy(policy) = resource(text) else {
        panic!("no policy");
    };
    let expect = [
        Target::Mesh,
        Target::Namespace(Namespace::new("other").unwrap()),
        Target::Service(ServiceName::new("shop", "cart").unwrap()),
        Target::Service(ServiceName::new("other", "cart").unwrap()),
        Target::Route {
            namespace: Namespace::new("shop").unwrap(),
            name: ObjectName::new("a.b").unwrap(),
        },
    ];
    assert_eq!(policy.targets, expect);
}

#[test]
fn ports_and_accounts() {
    use AppProtocol::{Http1, Http2, Tcp, Undeclared};
    for (port, target, protocol) in [
        ("port: 80", 80, Undeclared),
        ("port: 80, name: web", 80, Undeclared),
        ("port: 80, name: tcp-web", 80, Tcp),
        ("port: 80, appProtocol: web", 80, Tcp),
        ("port: 80, name: http", 80, Http1),
        ("port: 80, name: http-web", 80, Http1),
        ("port: 443, name: https", 443, Tcp),
        ("port: 80, name: http2", 80, Http2),
        ("port: 80, name: grpc-web", 80, Http1),
        ("port: 80, name: grpc-api", 80, Http2),
        ("port: 80, name: grpcs", 80, Undeclared),
        ("port: 80, appProtocol: grpc", 80, Http2),
        ("port: 80, appProtocol: kubernetes.io/h2c", 80, Http2),
        ("port: 80, appProtocol: kubernetes.io/ws", 80, Http1),
        ("port: 80, name: grpc, appProtocol: tcp", 80, Tcp),
        ("port: 80, name: http, appProtocol: redis", 80, Tcp),
        (
            "port: 80, name: x, appProtocol: http, targetPort: 8080",
            8080,
            Http1,
        ),
        ("port: 80, protocol: TCP", 80, Undeclared),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec: \
             {{ports: [{{{port}}}]}}\n"
        );
        let Resource::Service(service) = resource(&text) else {
            panic!("no service");
        };
        let found = &service.ports[0];
        assert_eq!(
            (found.target_port, found.protocol),
            (target, protocol),
            "{port}"
        );
        assert_eq!(service.accounts[0].as_str(), "cart");
        assert!(!service.exported);
    }
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\n  \
                annotations: {mesh.isthmus.dev/service-accounts: 'a, b,a'}\nspec: {ports: [{port: \
                1}]}\n";
    let Resource::Service(service) = resource(text) else {
        panic!("no service");
    };
    let accounts: Vec<&str> = service.accounts.iter().map(AccountName::as_str).collect();
    assert_eq!(accounts, ["a", "b"]);
}

/// What `kubectl get -o yaml` prints of a Service can be applied again.
#[test]
fn a_service_from_kubernetes_is_read() {
    resource(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\n  uid: \
         1b4d\n  resourceVersion: '7'\n  generation: 2\n  creationTimestamp: \
         '2026-01-02T03:04:05Z'\n  managedFields: []\nspec:\n  clusterIP: 10.0.0.1\n  clusterIPs: \
         [10.0.0.1]\n  internalTrafficPolicy: Cluster\n  ipFamilies: [IPv4]\n  ipFamilyPolicy: \
         SingleStack\n  ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080}]\n  \
         selector: {app: cart}\n  sessionAffinity: None\n  type: ClusterIP\nstatus:\n  \
         loadBalancer: {}\n",
    );
}

#[test]
fn routes() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, \
                namespace: shop}\nspec:\n  parentRefs: [{kind: Service, name: cart, port: 80}]\n  \
                rules:\n  - name: one\n    matches:\n    - path: {type: Exact, value: /a/}\n      \
                method: GET\n      headers: [{name: X-Canary, value: 'Yes'}]\n    - path: {value: \
                /a/}\n    - path: {type: PathPrefix, value: /}\n    timeouts: {request: 10s, \
                backendRequest: 2s}\n    backendRefs:\n    - {name: cart, port: 81, weight: 0}\n    \
                - {group: mesh.isthmus.dev, kind: ServiceSubset, name: 'cart:app.io/v=2,tier=gold'}\n  \
                - {}\n";
    let Resource::HttpRoute(route) = resource(text) else {
        panic!("no route");
    };
    let cart = ServiceName::new("shop", "cart").unwrap();
    assert_eq!(route.parents, [(cart.clone(), Some(80))]);
    let [one, two] = &route.rules[..] else {
        panic!("{:?}", route.rules);
    };
    let paths: Vec<&PathMatch> = one.matches.iter().map(|it| &it.path).collect();
    let expect = [
        &PathMatch::Exact("/a/".to_owned()),
        &PathMatch::Prefix("/a".to_owned()),
        &PathMatch::Prefix(String::new()),
    ];
    assert_eq!(paths, expect);
    assert_eq!(one.matches[0].method.as_ref().map(|it| &*it.0), Some("GET"));
    assert_eq!(one.matches[0].headers[0].name.as_str(), "x-canary");
    assert_eq!(one.matches[0].headers[0].value, "Yes");
    assert_eq!(one.request_timeout, Some(Duration::from_secs(10)));
    assert_eq!(one.backend_timeout, Some(Duration::from_secs(2)));
    assert_eq!(
        (one.backends[0].port, one.backends[0].weight),
        (Some(81), 0)
    );
    assert!(one.backends[0].subset.is_all());
    assert_eq!((one.backends[1].port, one.backends[1].weight), (None, 1));
    assert_eq!(one.backends[1].service, cart);
    assert_eq!(one.backends[1].subset.to_string(), "app.io/v=2,tier=gold");
    assert_eq!(two.matches, one.matches[2..]);
    assert_eq!(two.backends, []);
}

fn server() -> ServerMetadata {
    ServerMetadata {
        resource_version: Some("12".to_owned()),
        generation: Some(3),
        uid: Some("u".to_owned()),
        creation_timestamp: Some("2026-01-02T03:04:05Z".to_owned()),
    }
}

#[test]
fn generated_objects_read_back_as_they_were() {
    let workload = Workload {
        handle: Handle::new("cart-7f"),
        service: ServiceName::new("shop", "cart").unwrap(),
        cluster: "us-west".parse().unwrap(),
        identity: match "spiffe://a.mesh/ns/shop/sa/cart".parse() {
            Ok(isthmus_model::SpiffeId::Workload(identity)) => identity,
            other => panic!("{other:?}"),
        },
        address: "127.0.0.9:15008".parse().unwrap(),
        zone: Some("a".to_owned()),
        labels: [("version".parse().unwrap(), "v2".into())].into(),
        health: Health::Draining,
    };
    let object = workload_object(&workload, &server());
    let (key, resource) = parse_object(object).unwrap();
    assert_eq!(resource, Resource::Workload(workload));
    assert_eq!(key.origin, Origin::Cluster("us-west".parse().unwrap()));

    let cluster = Cluster {
        name: "us-west".parse().unwrap(),
        region: "us".parse().unwrap(),
        zone: None,
        coordinates: Some((45.5, -122.5)),
        jurisdiction: Some("US".to_owned()),
        control: "[::1]:15012".parse().unwrap(),
        namespaces: Some(vec![]),
        revoked: Some(true),
        traffic: 40,
    };
    let object = Object::new(cluster_object(&cluster, &server()), None).unwrap();
    let resource = isthmus_manifest::resolve(&object).unwrap();
    assert_eq!(resource, Resource::Cluster(cluster));
    assert_eq!(object.key(&resource).origin, Origin::Mesh);
    let metadata = object.metadata();
    assert_eq!(metadata.resource_version.as_deref(), Some("12"));
    assert_eq!(metadata.generation, Some(3));
    assert_eq!(metadata.uid.as_deref(), Some("u"));
    assert_eq!(
        metadata.creation_timestamp.as_deref(),
        Some("2026-01-02T03:04:05Z")
    );
}
