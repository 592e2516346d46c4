//! Tables: after these changes this is in these topics, and exactly this was touched.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_model::{
    AppProtocol, Backend, Egress, Health, Identity, LabelKey, Link, Mesh, Origin, PathMatch, Reach,
    Route, RouteMatch, RouteRule, Service, ServicePort, Target, TrafficPolicy,
};
use isthmus_wire::ClusterView;

use super::fact::BadFact;
use super::*;

fn service_name(name: &str) -> ServiceName {
    ServiceName::new("shop", name).unwrap()
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, host], 15008))
}

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        origin: Origin::Mesh,
        kind,
        namespace: kind.namespaced().then(|| "shop".parse().unwrap()),
        name: name.parse().unwrap(),
    }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.parse().unwrap(),
        region: name.parse().unwrap(),
        zone: None,
        coordinates: None,
        jurisdiction: None,
        control: address(1),
        namespaces: None,
        revoked: None,
        traffic: isthmus_model::ALL_TRAFFIC,
    }
}

fn subset(version: &str) -> Subset {
    let key: LabelKey = "version".parse().unwrap();
    Subset([(key, Arc::from(version))].into())
}

fn service(name: &str) -> Change {
    config(
        Kind::Service,
        name,
        Resource::Service(Service {
            name: service_name(name),
            ports: vec![ServicePort {
                name: None,
                port: 80,
                target_port: 8080,
                protocol: AppProtocol::Http1,
            }],
            accounts: vec![name.parse().unwrap()],
            exported: false,
        }),
    )
}

fn export(name: &str) -> Change {
    let resource = Resource::ServiceExport(service_name(name));
    config(Kind::ServiceExport, name, resource)
}

/// Splits a service's requests over versions of itself.
fn route(parent: &str, versions: &[&str]) -> Change {
    let backend = |version: &&str| Backend {
        service: service_name(parent),
        port: None,
        subset: subset(version),
        weight: 1,
    };
    let route = Route {
        origin: Origin::Mesh,
        namespace: "shop".parse().unwrap(),
        name: "split".parse().unwrap(),
        parents: vec![(service_name(parent), None)],
        rules: vec![RouteRule {
            name: None,
            matches: vec![RouteMatch {
                path: PathMatch::Prefix(String::new()),
                method: None,
                headers: Vec::new(),
            }],
            backends: versions.iter().map(backend).collect(),
            request_timeout: None,
            backend_timeout: None,
        }],
    };
    config(Kind::HttpRoute, "split", Resource::HttpRoute(route))
}

fn policy(name: &str, target: Target) -> Change {
    let policy = TrafficPolicy {
        retry_attempts: Some(1),
        ..TrafficPolicy::empty("shop".parse().unwrap(), name.parse().unwrap(), vec![target])
    };
    config(Kind::TrafficPolicy, name, Resource::TrafficPolicy(policy))
}

fn config(kind: Kind, name: &str, resource: Resource) -> Change {
    Change::Config {
        key: key(kind, name),
        resource: Some(resource),
    }
}

fn gone(kind: Kind, name: &str) -> Change {
    Change::Config {
        key: key(kind, name),
        resource: None,
    }
}

fn workload(service: &str, handle: &str, version: &str, health: Health) -> Change {
    Change::Workload {
        handle: Handle::new(handle),
        workload: Some(Workload {
            handle: Handle::new(handle),
            service: service_name(service),
            cluster: "west".parse().unwrap(),
            identity: Identity {
                trust_domain: "shop.mesh".parse().unwrap(),
                namespace: "shop".parse().unwrap(),
                account: service.parse().unwrap(),
            },
            address: address(9),
            zone: None,
            labels: subset(version).0,
            health,
        }),
    }
}

fn share(from: &str, service: &str, healthy: u32) -> Change {
    let fact = Fact::Share(Share {
        cluster: from.parse().unwrap(),
        service: service_name(service),
        subset: Subset::default(),
        healthy,
        total: 3,
    });
    foreign(from, fact)
}

fn foreign_gateway(from: &str, host: u8) -> Change {
    let fact = Fact::Gateway(Gateway {
        name: "gateway-1".to_owned(),
        address: address(host),
        healthy: true,
    });
    foreign(from, fact)
}

fn foreign(from: &str, fact: Fact) -> Change {
    Change::Fact {
        cluster: from.parse().unwrap(),
        key: fact.key(),
        fact: Some(fact),
    }
}

fn mesh(egress: Egress) -> Change {
    let mesh = Mesh {
        name: "shop".parse().unwrap(),
        trust_domain: "shop.mesh".parse().unwrap(),
        egress,
        voters: std::collections::BTreeSet::new(),
        removals: isthmus_model::Removals::default(),
    };
    config(Kind::Mesh, "shop", Resource::Mesh(mesh))
}

/// Two clusters, an exported cart, a payment that is not.
fn shop() -> Index {
    let mut index = Index::new("west".parse().unwrap());
    for change in [
        mesh(Egress::Deny),
        config(Kind::Cluster, "west", Resource::Cluster(cluster("west"))),
        config(Kind::Cluster, "east", Resource::Cluster(cluster("east"))),
        service("cart"),
        export("cart"),
        service("payment"),
    ] {
        index.apply(change);
    }
    index
}

fn names(index: &Index, topic: &str) -> Vec<String> {
    let resources = index.resources(&topic.parse().unwrap());
    resources
        .iter()
        .map(|resource| resource.name.to_string())
        .collect()
}

fn body(index: &Index, topic: &str, name: &str) -> Body {
    let resources = index.resources(&topic.parse().unwrap());
    let resource = resources
        .iter()
        .find(|resource| resource.name.as_str() == name);
    Body::decode(&resource.unwrap().body).unwrap()
}

fn touched(index: &mut Index, change: Change) -> (Vec<String>, Vec<String>) {
    let touched = index.apply(change);
    let topics = touched.topics.iter().map(ToString::to_string).collect();
    let fact = |(key, value): (&String, &Option<Bytes>)| match value {
        Some(_) => key.clone(),
        None => format!("-{key}"),
    };
    (topics, touched.facts.iter().map(fact).collect())
}

#[test]
fn each_change_touches_exactly_what_shows_it() {
    const CART: &str = "service/shop/cart";
    const PAYMENT: &str = "service/shop/payment";
    let link = |a: &str, b: &str| Link {
        between: (a.parse().unwrap(), b.parse().unwrap()),
        rtt: None,
        reach: Vec::new(),
    };
    let healthy = Health::Healthy;
    let contact = |age| Change::Contact {
        cluster: "east".parse().unwrap(),
        contact: Contact {
            rtt: None,
            age: Duration::from_secs(age),
        },
    };
    let whole = |service: &str| format!("share/shop/{service}/*");
    let part = |sign: &str, service: &str, version: &str| {
        format!("{sign}share/shop/{service}/version={version}")
    };
    let mut index = shop();
    let steps: Vec<(&str, Change, Vec<&str>, Vec<String>)> = vec![
        ("same again", service("cart"), vec![], vec![]),
        ("not declared", export("ghost"), vec![], vec![]),
        ("as denied", mesh(Egress::Deny), vec![], vec![]),
        ("egress", mesh(Egress::Allow), vec!["mesh"], vec![]),
        ("route", route("cart", &["v1"]), vec![CART], vec![]),
        (
            "runs here",
            workload("cart", "c1", "v1", healthy),
            vec![CART],
            vec![whole("cart"), part("", "cart", "v1")],
        ),
        (
            "same health",
            workload("cart", "c1", "v1", healthy),
            vec![],
            vec![],
        ),
        (
            "another subset",
            route("cart", &["v1", "v2"]),
            vec![CART],
            vec![part("", "cart", "v2")],
        ),
        (
            "fewer subsets",
            route("cart", &["v2"]),
            vec![CART],
            vec![part("-", "cart", "v1")],
        ),
        (
            "route moves",
            route("payment", &["v2"]),
            vec![CART, PAYMENT],
            vec![part("-", "cart", "v2")],
        ),
        (
            "mesh policy",
            policy("a", Target::Mesh),
            vec![CART, PAYMENT],
            vec![],
        ),
        (
            "narrower",
            policy("a", Target::Service(service_name("cart"))),
            vec![CART, PAYMENT],
            vec![],
        ),
        (
            "by namespace",
            policy("b", Target::Namespace("other".parse().unwrap())),
            vec![],
            vec![],
        ),
        (
            "by route",
            policy(
                "b",
                Target::Route {
                    namespace: "shop".parse().unwrap(),
                    name: "split".parse().unwrap(),
                },
            ),
            vec![PAYMENT],
            vec![],
        ),
        (
            "foreign share",
            share("east", "cart", 2),
            vec![CART],
            vec![],
        ),
        (
            "not exported",
            share("east", "payment", 2),
            vec![PAYMENT],
            vec![],
        ),
        ("not declared", share("moon", "cart", 2), vec![], vec![]),
        (
            "foreign gateway",
            foreign_gateway("east", 7),
            vec!["mesh"],
            vec![],
        ),
        ("older", contact(3), vec!["mesh"], vec![]),
        ("as old", contact(3), vec![], vec![]),
        (
            "own link",
            config(Kind::Link, "w-e", Resource::Link(link("west", "east"))),
            vec!["mesh"],
            vec![],
        ),
        (
            "others' link",
            config(Kind::Link, "e-m", Resource::Link(link("east", "moon"))),
            vec![],
            vec![],
        ),
        (
            "namespace",
            config(
                Kind::Namespace,
                "shop",
                Resource::Namespace("shop".parse().unwrap()),
            ),
            vec![],
            vec![],
        ),
        (
            "cluster goes",
            gone(Kind::Cluster, "east"),
            vec!["mesh", CART, PAYMENT],
            vec![],
        ),
        (
            "service goes",
            gone(Kind::Service, "cart"),
            vec![CART],
            vec![],
        ),
        (
            "workload of none",
            workload("cart", "c1", "v1", Health::Draining),
            vec![],
            vec![whole("cart")],
        ),
        (
            "workload goes",
            Change::Workload {
                handle: Handle::new("c1"),
                workload: None,
            },
            vec![],
            vec![format!("-{}", whole("cart"))],
        ),
    ];
    for (what, change, topics, facts) in steps {
        let (found_topics, found_facts) = touched(&mut index, change);
        assert_eq!(found_topics, topics, "{what}");
        assert_eq!(found_facts, facts, "{what}");
    }
}

#[test]
fn a_service_topic_holds_all_that_concerns_the_service() {
    let mut index = shop();
    for change in [
        route("cart", &["v1"]),
        policy("a", Target::Mesh),
        policy("b", Target::Service(service_name("payment"))),
        workload("cart", "c1", "v1", Health::Healthy),
        workload("cart", "c2", "v2", Health::Starting),
        share("east", "cart", 2),
        share("east", "payment", 2),
    ] {
        index.apply(change);
    }
    assert_eq!(
        names(&index, "service/shop/cart"),
        [
            "service",
            "route/shop/split",
            "policy/shop/a",
            "workload/c1",
            "workload/c2",
            "share/east/*"
        ]
    );
    assert_eq!(
        names(&index, "service/shop/payment"),
        ["service", "policy/shop/a", "policy/shop/b", "share/east/*"],
        "what is not exported is known to run elsewhere, and barred"
    );
    assert_eq!(names(&index, "service/shop/ghost"), [""; 0]);
    assert!(matches!(
        body(&index, "service/shop/cart", "service"),
        Body::Service(Service { exported: true, .. })
    ));
    let counts: Vec<_> = (index.own_facts().iter())
        .map(|(key, value)| match Fact::read(&index.own, key, value) {
            Ok(Fact::Share(share)) => (key.as_str(), share.healthy, share.total),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        counts,
        [
            ("share/shop/cart/*", 1, 2),
            ("share/shop/cart/version=v1", 1, 1)
        ]
    );
}

#[test]
fn gateways_are_shown_under_the_addresses_that_are_dialled() {
    let mut index = shop();
    index.apply(foreign_gateway("east", 7));
    let link = Link {
        between: ("east".parse().unwrap(), "west".parse().unwrap()),
        rtt: Some(Duration::from_millis(140)),
        reach: vec![
            Reach {
                from: "west".parse().unwrap(),
                address: address(7),
                via: address(70),
            },
            Reach {
                from: "east".parse().unwrap(),
                address: address(7),
                via: address(71),
            },
        ],
    };
    index.apply(config(Kind::Link, "w-e", Resource::Link(link)));
    let view = |index: &Index| match body(index, "mesh", "cluster/east") {
        Body::Cluster(view) => view,
        other => panic!("{other:?}"),
    };
    let ClusterView { gateways, rtt, .. } = view(&index);
    assert_eq!(gateways[0].address, address(70));
    assert_eq!(rtt, Some(Duration::from_millis(140)), "declared");
    index.apply(Change::Contact {
        cluster: "east".parse().unwrap(),
        contact: Contact {
            rtt: Some(Duration::from_millis(150)),
            age: Duration::from_secs(3),
        },
    });
    let ClusterView { rtt, age, .. } = view(&index);
    assert_eq!(rtt, Some(Duration::from_millis(150)), "measured");
    assert_eq!(age, Duration::from_secs(3));
}

#[test]
fn the_same_content_has_the_same_version() {
    let (a, mut b) = (shop(), shop());
    let versions = |index: &Index| -> Vec<_> {
        let resources = index.resources(&Topic::Mesh);
        resources.iter().map(|resource| resource.version).collect()
    };
    assert_eq!(versions(&a), versions(&b));
    b.apply(foreign_gateway("east", 7));
    assert_ne!(versions(&a), versions(&b));
}

#[test]
fn a_cluster_speaks_only_about_itself() {
    let share = |cluster: &str| {
        Fact::Share(Share {
            cluster: cluster.parse().unwrap(),
            service: service_name("cart"),
            subset: Subset::default(),
            healthy: 1,
            total: 1,
        })
    };
    let east: ClusterName = "east".parse().unwrap();
    let Fact::Share(own) = share("east") else {
        unreachable!()
    };
    let Fact::Share(others) = share("west") else {
        unreachable!()
    };
    let (own, others) = (Body::Share(own).encode(), Body::Share(others).encode());
    let key = share("east").key();
    assert_eq!(Fact::read(&east, &key, &own), Ok(share("east")));
    assert!(matches!(
        Fact::read(&east, &key, &others),
        Err(BadFact::Foreign(_))
    ));
    assert!(matches!(
        Fact::read(&east, "share/shop/x/*", &own),
        Err(BadFact::Key(_))
    ));
    assert!(matches!(
        Fact::read(&east, &key, b"\xff"),
        Err(BadFact::Body(_))
    ));
}
