//! Bodies of resources: `model` values as bytes, and back.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::{
    Admission, Cluster, Gateway, Mesh, Route, Service, Share, TrafficPolicy, Workload,
};
use prost::Message;

use crate::proto;

/// Features that this build's reader has. A body that needs another one is rejected, alone.
pub const FEATURES: &[&str] = &[REVOCATION];

/// The reader refuses peers whose admission was revoked.
const REVOCATION: &str = "revocation";

/// A cluster as the proxies of one cluster see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// As declared.
    pub cluster: Cluster,
    /// Under the addresses that the reader dials.
    pub gateways: Vec<Gateway>,
    /// Measured, else declared.
    pub rtt: Option<Duration>,
    /// Since its facts were last confirmed; zero: live.
    pub age: Duration,
    /// Whom it admitted and takes for its own no more.
    pub revoked: BTreeSet<Admission>,
}

/// One resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Mesh(Mesh),
    Cluster(ClusterView),
    Service(Service),
    Route(Route),
    TrafficPolicy(TrafficPolicy),
    Workload(Workload),
    Share(Share),
    Gateway(Gateway),
    /// A cluster says that this process of its is none any more.
    Revocation(Admission),
}

/// Why bytes are not a usable body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("not a body: {0}")]
    Decode(String),
    #[error("needs the feature {0:?}, which this version lacks; upgrade this process")]
    Feature(String),
    #[error("holds nothing that this version knows; upgrade this process")]
    Empty,
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
}

impl BodyError {
    pub(crate) fn field(field: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Field {
            field,
            reason: reason.to_string(),
        }
    }
}

impl Body {
    pub fn encode(&self) -> Vec<u8> {
        proto::Body {
            needs: self.needs().map(str::to_owned).collect(),
            body: Some(self.into()),
        }
        .encode_to_vec()
    }

    /// Features without which a reader would let through what this refuses.
    fn needs(&self) -> impl Iterator<Item = &'static str> {
        let revokes = matches!(self, Self::Cluster(view) if !view.revoked.is_empty());
        revokes.then_some(REVOCATION).into_iter()
    }

    /// Errors: damaged bytes, a feature that this build lacks, or a field that breaks a rule of
    /// `model`.
    pub fn decode(bytes: &[u8]) -> Result<Self, BodyError> {
        let message =
            proto::Body::decode(bytes).map_err(|error| BodyError::Decode(error.to_string()))?;
        if let Some(lacking) = message
            .needs
            .iter()
            .find(|need| !FEATURES.contains(&need.as_str()))
        {
            return Err(BodyError::Feature(lacking.clone()));
        }
        message.body.ok_or(BodyError::Empty)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::{
        Algorithm, AppProtocol, Backend, Egress, Handle, HashOn, HeaderMatch, Health, HealthCheck,
        HealthProbe, Identity, LocalityOrder, Method, PathMatch, Percent, RetryOn, RouteMatch,
        RouteRule, ServiceName, ServicePort, Subset, Target,
    };
    use proptest::prelude::*;

    use super::*;

    /// One of each, with every field set.
    #[allow(clippy::too_many_lines)]
    fn bodies() -> Vec<Body> {
        let cart = ServiceName::new("shop", "cart").unwrap();
        let namespace = cart.namespace.clone();
        let labels = [("version".parse().unwrap(), "v2".into())];
        let gateway = Gateway {
            name: "gateway-1".to_owned(),
            address: "127.1.2.3:15008".parse().unwrap(),
            healthy: true,
        };
        let identity = Identity {
            trust_domain: "shop.mesh".parse().unwrap(),
            namespace: namespace.clone(),
            account: "cart".parse().unwrap(),
        };
        let targets = vec![
            Target::Mesh,
            Target::Namespace(namespace.clone()),
            Target::Service(cart.clone()),
            Target::Route {
                namespace: namespace.clone(),
                name: "split".parse().unwrap(),
            },
        ];
        vec![
            Body::Mesh(Mesh {
                name: "shop".parse().unwrap(),
                trust_domain: "shop.mesh".parse().unwrap(),
                egress: Egress::Allow,
                voters: BTreeSet::new(),
                removals: isthmus_model::Removals::default(),
            }),
            Body::Cluster(ClusterView {
                cluster: Cluster {
                    name: "us-west".parse().unwrap(),
                    region: "us".parse().unwrap(),
                    zone: Some("a".to_owned()),
                    coordinates: Some((1.5, -2.0)),
                    jurisdiction: Some("US".to_owned()),
                    control: "127.1.2.1:15012".parse().unwrap(),
                    namespaces: Some(vec![namespace.clone()]),
                    revoked: None,
                    traffic: 40,
                },
                gateways: vec![gateway.clone()],
                rtt: Some(Duration::from_micros(1_500)),
                age: Duration::from_millis(7),
                revoked: [Admission([1, 2, 3, 4, 5, 6, 7, 8])].into(),
            }),
            Body::Service(Service {
                name: cart.clone(),
                ports: vec![ServicePort {
                    name: Some("http".parse().unwrap()),
                    port: 80,
                    target_port: 8080,
                    protocol: AppProtocol::Http1,
                }],
                accounts: vec!["cart".parse().unwrap()],
                exported: true,
            }),
            Body::Route(Route {
                origin: Some("us-west".parse().unwrap()).into(),
                namespace: namespace.clone(),
                name: "split".parse().unwrap(),
                parents: vec![(cart.clone(), Some(80)), (cart.clone(), None)],
                rules: vec![RouteRule {
                    name: Some("canary".to_owned()),
                    matches: vec![RouteMatch {
                        path: PathMatch::Exact("/a".to_owned()),
                        method: Some(Method("GET".into())),
                        headers: vec![HeaderMatch {
                            name: "x-user".parse().unwrap(),
                            value: "1".to_owned(),
                        }],
                    }],
                    backends: vec![Backend {
                        service: cart.clone(),
                        port: Some(80),
                        subset: Subset(labels.clone().into()),
                        weight: 3,
                    }],
                    request_timeout: Some(Duration::from_secs(1)),
                    backend_timeout: Some(Duration::ZERO),
                }],
            }),
            Body::TrafficPolicy(TrafficPolicy {
                origin: Some("us-west".parse().unwrap()).into(),
                enforced: true,
                namespace,
                name: "all".parse().unwrap(),
                targets,
                algorithm: Some(Algorithm::Maglev),
                hash_on: Some(HashOn::Cookie {
                    name: "Cart".parse().unwrap(),
                    ttl: Some(Duration::ZERO),
                }),
                locality_order: Some(LocalityOrder::LocalOnly),
                retry_attempts: Some(0),
                retry_budget: Some(Percent::new(7).unwrap()),
                retry_on: Some(vec![RetryOn::Reset, RetryOn::Unavailable]),
                hedge: Some(true),
                request_timeout: Some(Duration::from_millis(1)),
                per_try_timeout: Some(Duration::from_millis(2)),
                connect_timeout: Some(Duration::from_millis(3)),
                idle_timeout: Some(Duration::from_millis(10)),
                max_connections: Some(11),
                max_pending: Some(12),
                max_requests: Some(13),
                panic: Some(Percent::new(14).unwrap()),
                consecutive_errors: Some(4),
                base_ejection: Some(Duration::from_millis(5)),
                max_ejected: Some(Percent::new(6).unwrap()),
                health_check: Some(HealthCheck {
                    probe: HealthProbe::Http {
                        path: "/healthz".to_owned(),
                    },
                    interval: Duration::from_millis(8),
                    timeout: Duration::from_millis(9),
                }),
            }),
            Body::Workload(Workload {
                handle: Handle::new("h1"),
                service: cart.clone(),
                cluster: "us-west".parse().unwrap(),
                identity,
                address: "127.1.2.3:15008".parse().unwrap(),
                zone: None,
                labels: labels.clone().into(),
                health: Health::Draining,
            }),
            Body::Share(Share {
                cluster: "us-west".parse().unwrap(),
                service: cart,
                subset: Subset(labels.into()),
                healthy: 1,
                total: 2,
            }),
            Body::Gateway(gateway),
            Body::Revocation(Admission([0xff; 8])),
        ]
    }

    #[test]
    fn every_body_round_trips() {
        for body in bodies() {
            assert_eq!(Body::decode(&body.encode()), Ok(body));
        }
    }

    #[test]
    fn a_body_that_needs_an_unknown_feature_is_rejected_by_name() {
        let body = proto::Body {
            needs: vec!["time-travel".to_owned()],
            body: Some((&bodies()[0]).into()),
        };
        assert_eq!(
            Body::decode(&body.encode_to_vec()),
            Err(BodyError::Feature("time-travel".to_owned()))
        );
    }

    #[test]
    fn a_mesh_whose_control_plane_says_nothing_of_egress_denies_it() {
        let older = proto::Mesh {
            name: "shop".to_owned(),
            trust_domain: "shop.mesh".to_owned(),
            ..Default::default()
        };
        let mesh = Mesh::try_from(older).unwrap();
        assert_eq!(mesh.egress, Egress::Deny);
    }

    #[test]
    fn a_broken_rule_names_its_field() {
        let mut share = proto::Share {
            healthy: 3,
            total: 2,
            ..Default::default()
        };
        share.cluster = "a".to_owned();
        let body = proto::Body {
            needs: vec![],
            body: Some(proto::body::Body::Share(share)),
        };
        let error = Body::decode(&body.encode_to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "share.healthy: is more than share.total");
    }

    #[test]
    fn coordinates_are_numbers() {
        let cluster = |latitude, longitude| {
            let Some(Body::Cluster(mut view)) = bodies().into_iter().nth(1) else {
                panic!("the second is a cluster");
            };
            view.cluster.coordinates = Some((latitude, longitude));
            Body::decode(&Body::Cluster(view).encode())
        };
        assert!(cluster(1.5, -2.0).is_ok());
        for (latitude, longitude) in [(f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            let error = cluster(latitude, longitude).unwrap_err();
            assert!(error.to_string().starts_with("cluster.coordinates: "));
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(which in 0usize..9, at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = bodies()[which].encode();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = Body::decode(&bytes);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Body::decode(&bytes);
        }
    }
}
