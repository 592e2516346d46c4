//! The mesh, its clusters and their gateways.

use std::collections::BTreeSet;

use std::time::Duration;

use isthmus_model::{ALL_TRAFFIC, Admission, Cluster, Egress, Gateway, Mesh, Namespace, Removals};

use crate::body::{BodyError, ClusterView};
use crate::field::{Parsed, all, micros, millis, parse, parse_all, strings, text};
use crate::proto;

impl From<&Mesh> for proto::Mesh {
    fn from(mesh: &Mesh) -> Self {
        Self {
            name: mesh.name.to_string(),
            trust_domain: mesh.trust_domain.to_string(),
            allows_egress: mesh.egress == Egress::Allow,
        }
    }
}

impl TryFrom<proto::Mesh> for Mesh {
    type Error = BodyError;

    fn try_from(mesh: proto::Mesh) -> Parsed<Self> {
        Ok(Self {
            name: parse("mesh.name", &mesh.name)?,
            trust_domain: parse("mesh.trust_domain", &mesh.trust_domain)?,
            voters: BTreeSet::new(), // Proxies ask their own control plane.
            removals: Removals::default(),
            egress: if mesh.allows_egress {
                Egress::Allow
            } else {
                Egress::Deny
            },
        })
    }
}

impl From<&ClusterView> for proto::Cluster {
    fn from(view: &ClusterView) -> Self {
        let cluster = &view.cluster;
        Self {
            name: cluster.name.to_string(),
            region: cluster.region.to_string(),
            zone: cluster.zone.clone().unwrap_or_default(),
            all_namespaces: cluster.namespaces.is_none(),
            namespaces: strings(cluster.namespaces.iter().flatten()),
            gateways: view.gateways.iter().map(Into::into).collect(),
            rtt_us: view.rtt.map_or(0, micros),
            age_ms: millis(view.age),
            control: cluster.control.to_string(),
            jurisdiction: cluster.jurisdiction.clone().unwrap_or_default(),
            latitude: cluster.coordinates.map(|(latitude, _)| latitude),
            longitude: cluster.coordinates.map(|(_, longitude)| longitude),
            withheld: u32::from(ALL_TRAFFIC.saturating_sub(cluster.traffic)),
            revoked: view.revoked.iter().copied().map(number).collect(),
        }
    }
}

impl TryFrom<proto::Cluster> for ClusterView {
    type Error = BodyError;

    fn try_from(cluster: proto::Cluster) -> Parsed<Self> {
        let namespaces = parse_all::<Namespace>("cluster.namespaces", &cluster.namespaces)?;
        Ok(Self {
            cluster: Cluster {
                name: parse("cluster.name", &cluster.name)?,
                region: parse("cluster.region", &cluster.region)?,
                zone: text(cluster.zone),
                coordinates: coordinates(cluster.latitude, cluster.longitude)?,
                jurisdiction: text(cluster.jurisdiction),
                control: parse("cluster.control", &cluster.control)?,
                namespaces: (!cluster.all_namespaces).then_some(namespaces),
                revoked: None,
                traffic: traffic(cluster.withheld)?,
            },
            gateways: all(cluster.gateways)?,
            rtt: (cluster.rtt_us != 0).then(|| Duration::from_micros(cluster.rtt_us)),
            age: Duration::from_millis(cluster.age_ms),
            revoked: cluster.revoked.into_iter().map(admission).collect(),
        })
    }
}

fn number(Admission(id): Admission) -> u64 {
    u64::from_be_bytes(id)
}

fn admission(number: u64) -> Admission {
    Admission(number.to_be_bytes())
}

impl From<&Admission> for proto::Revocation {
    fn from(admission: &Admission) -> Self {
        Self {
            admission: number(*admission),
        }
    }
}

impl From<proto::Revocation> for Admission {
    fn from(revocation: proto::Revocation) -> Self {
        admission(revocation.admission)
    }
}

fn traffic(withheld: u32) -> Parsed<u8> {
    let withheld = u8::try_from(withheld).ok();
    let traffic = withheld.and_then(|withheld| ALL_TRAFFIC.checked_sub(withheld));
    traffic.ok_or_else(|| BodyError::field("cluster.withheld", "more than everything"))
}

/// Degrees that can be compared and computed with: no NaN, nothing infinite.
fn coordinates(latitude: Option<f64>, longitude: Option<f64>) -> Parsed<Option<(f64, f64)>> {
    match latitude.zip(longitude) {
        Some((latitude, longitude)) if !(latitude.is_finite() && longitude.is_finite()) => {
            let reason = "latitude and longitude are finite numbers";
            Err(BodyError::field("cluster.coordinates", reason))
        }
        both => Ok(both),
    }
}

impl From<&Gateway> for proto::Gateway {
    fn from(gateway: &Gateway) -> Self {
        Self {
            name: gateway.name.clone(),
            address: gateway.address.to_string(),
            healthy: gateway.healthy,
        }
    }
}

impl TryFrom<proto::Gateway> for Gateway {
    type Error = BodyError;

    fn try_from(gateway: proto::Gateway) -> Parsed<Self> {
        Ok(Self {
            name: gateway.name,
            address: parse("gateway.address", &gateway.address)?,
            healthy: gateway.healthy,
        })
    }
}
