//! The resource files of `examples/` are read as a user would have them read.

use std::time::Duration;

use isthmus_manifest::{Document, Parsed, check_references, parse_files, read_files};
use isthmus_model::{Backend, HealthProbe, Kind, Resource, ServiceName};

const FILES: [(&str, &str); 3] = [
    (
        "mesh.yaml",
        include_str!("../../../examples/three-regions/mesh.yaml"),
    ),
    (
        "shop.yaml",
        include_str!("../../../examples/three-regions/shop.yaml"),
    ),
    (
        "routes.yaml",
        include_str!("../../../examples/three-regions/routes.yaml"),
    ),
];

/// What `isthmus up` does: fill in the addresses, then resolve.
fn three_regions() -> Vec<Parsed> {
    let (documents, problems) = read_files(&FILES, None);
    assert_eq!(problems, []);
    let complete = |mut document: Document| {
        if document.object.kind() == Kind::Cluster {
            document
                .object
                .set_spec("control", "127.77.1.1:15012".into());
        }
        document.resolve().expect("the examples are valid")
    };
    documents.into_iter().map(complete).collect()
}

#[test]
fn three_regions_is_valid() {
    let parsed = three_regions();
    let count = |kind| parsed.iter().filter(|one| one.key.kind == kind).count();
    for (kind, expect) in [
        (Kind::Mesh, 1),
        (Kind::Cluster, 3),
        (Kind::Link, 3),
        (Kind::Namespace, 1),
        (Kind::Service, 5),
        (Kind::ServiceExport, 5),
        (Kind::HttpRoute, 1),
        (Kind::TrafficPolicy, 2),
    ] {
        assert_eq!(count(kind), expect, "{kind}");
    }
    let mut rtts = Vec::new();
    for one in &parsed {
        match &one.resource {
            Resource::Link(link) => rtts.push(link.rtt.unwrap()),
            Resource::HttpRoute(route) => {
                let payment = ServiceName::new("shop", "payment").unwrap();
                assert_eq!(route.parents, [(payment, None)]);
                let shares = |backend: &Backend| (backend.subset.to_string(), backend.weight);
                let split: Vec<_> = route.rules[1].backends.iter().map(shares).collect();
                let expect = [("version=v1".to_owned(), 90), ("version=v2".to_owned(), 10)];
                assert_eq!(split, expect);
            }
            Resource::TrafficPolicy(policy) if policy.name.as_str() == "redis" => {
                assert_eq!(
                    policy.health_check.as_ref().unwrap().probe,
                    HealthProbe::Tcp
                );
            }
            _ => {}
        }
    }
    assert_eq!(rtts, [140, 220, 120].map(Duration::from_millis));
}

#[test]
fn nothing_in_three_regions_dangles() {
    let all: Vec<_> = three_regions()
        .into_iter()
        .map(|one| (one.key, one.resource))
        .collect();
    assert_eq!(check_references(&all), []);
}

#[test]
fn without_addresses_each_cluster_says_what_it_lacks() {
    let (_, problems) = parse_files(&FILES, None);
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let message = "spec.control: the field `control` is missing; name the control plane's \
                   address; `isthmus up` does it by itself";
    let expect = [16, 26, 36].map(|line| format!("mesh.yaml:{line}:1: {message}"));
    assert_eq!(shown, expect);
}
