//! What proxies and control planes of release 0.1.0 tell each other, byte by byte, and that this
//! version reads and writes the same. The files are never written anew.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod peers;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use isthmus_model::{
    AppProtocol, Cluster, Gateway, Handle, Health, Identity, Service, ServiceName, ServicePort,
    Share, Subset, Workload,
};
use isthmus_wire::proto::{self, from_proxy, to_proxy};
use isthmus_wire::{Body, ClusterView};
use prost::Message as _;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1.0");
    let text = std::fs::read_to_string(path.join(format!("{name}.hex"))).unwrap();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn bodies() -> Vec<(&'static str, Body)> {
    let cart = ServiceName::new("shop", "cart").unwrap();
    let gateway = Gateway {
        name: "gateway-1".to_owned(),
        address: "127.1.2.3:15008".parse().unwrap(),
        healthy: true,
    };
    let cluster = ClusterView {
        cluster: Cluster {
            name: "us-west".parse().unwrap(),
            region: "us".parse().unwrap(),
            zone: Some("a".to_owned()),
            coordinates: Some((1.5, -2.0)),
            jurisdiction: Some("US".to_owned()),
            control: "127.1.2.1:15012".parse().unwrap(),
            namespaces: Some(vec![cart.namespace.clone()]),
            revoked: None,
            traffic: isthmus_model::ALL_TRAFFIC,
        },
        gateways: vec![gateway],
        rtt: Some(Duration::from_micros(1_500)),
        age: Duration::from_millis(7),
        revoked: BTreeSet::new(),
    };
    let service = Service {
        name: cart.clone(),
        ports: vec![ServicePort {
            name: Some("tcp".parse().unwrap()),
            port: 80,
            target_port: 8080,
            protocol: AppProtocol::Http1,
        }],
        accounts: vec!["cart".parse().unwrap()],
        exported: true,
    };
    let workload = Workload {
        handle: Handle::new("cart-0123456789ab"),
        service: cart.clone(),
        cluster: "us-west".parse().unwrap(),
        identity: Identity {
            trust_domain: "shop.mesh".parse().unwrap(),
            namespace: cart.namespace.clone(),
            account: "cart".parse().unwrap(),
        },
        address: "127.1.2.10:15008".parse().unwrap(),
        zone: Some("a".to_owned()),
        labels: [("version".parse().unwrap(), "v2".into())].into(),
        health: Health::Draining,
    };
    let share = Share {
        cluster: "us-west".parse().unwrap(),
        service: cart,
        subset: Subset::default(),
        healthy: 1,
        total: 2,
    };
    vec![
        ("body-cluster", Body::Cluster(cluster)),
        ("body-service", Body::Service(service)),
        ("body-workload", Body::Workload(workload)),
        ("body-share", Body::Share(share)),
    ]
}

#[test]
fn bodies_are_those_of_the_release() {
    for (name, body) in bodies() {
        assert_eq!(body.encode(), golden(name), "{name}");
        assert_eq!(Body::decode(&golden(name)).unwrap(), body, "{name}");
    }
}

#[test]
fn the_conversation_is_that_of_the_release() {
    let hello = proto::FromProxy {
        message: Some(from_proxy::Message::Hello(proto::Hello {
            version: "0.1.0".to_owned(),
            features: vec!["one".to_owned()],
            process: "cart-1".to_owned(),
            topics: vec!["mesh".to_owned(), "service/shop/cart".to_owned()],
            number: 3,
            ..Default::default()
        })),
    };
    let leaving = proto::FromProxy {
        message: Some(from_proxy::Message::Leaving(proto::Leaving {})),
    };
    for (name, message) in [("from-proxy-hello", hello), ("from-proxy-leaving", leaving)] {
        assert_eq!(message.encode_to_vec(), golden(name), "{name}");
        let read = proto::FromProxy::decode(golden(name).as_slice()).unwrap();
        assert_eq!(read, message, "{name}");
    }
    let welcome = proto::ToProxy {
        message: Some(to_proxy::Message::Welcome(proto::Welcome {
            version: "0.1.0".to_owned(),
            features: Vec::new(),
            cluster: "us-west".to_owned(),
        })),
    };
    assert_eq!(welcome.encode_to_vec(), golden("to-proxy-welcome"));
    let read = proto::ToProxy::decode(golden("to-proxy-welcome").as_slice());
    assert_eq!(read.unwrap(), welcome);
}
