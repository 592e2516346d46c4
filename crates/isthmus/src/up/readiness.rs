//! Is everything that was declared healthy, and seen so from every cluster? Pure.

use std::collections::BTreeMap;

use isthmus_api::{Contact, StatusView};
use isthmus_model::ClusterName;

use super::fleet::Stage;
use super::plan::Plan;
use super::planned::PlannedCluster;

/// What each cluster's control plane said last.
pub(crate) type Views = BTreeMap<ClusterName, StatusView>;

/// What is still missing, one sentence each; empty: the mesh is ready.
pub(crate) fn missing(plan: &Plan, views: &Views) -> Vec<String> {
    let mut missing = Vec::new();
    for cluster in &plan.clusters {
        match views.get(&cluster.name) {
            None => missing.push(format!(
                "{}: its control plane does not answer",
                cluster.name
            )),
            Some(view) => {
                missing.extend(own_processes(plan, cluster, view));
                for other in &plan.clusters {
                    missing.extend(seen(plan, cluster, other, view));
                }
            }
        }
    }
    missing
}

/// Does `cluster` see every gateway and every healthy program of a service that it should?
pub(crate) fn sees_all(plan: &Plan, cluster: &PlannedCluster, view: &StatusView) -> bool {
    let mut others = plan.clusters.iter();
    others.all(|other| seen(plan, cluster, other, view).is_empty())
}

/// Processes of a cluster that have not reached its control plane.
fn own_processes(plan: &Plan, cluster: &PlannedCluster, view: &StatusView) -> Vec<String> {
    let connected = |name: &str| {
        view.proxies
            .iter()
            .any(|proxy| proxy.connected && proxy.process == name)
    };
    let own = plan
        .processes
        .iter()
        .filter(|process| process.cluster == cluster.name && process.stage != Stage::Control);
    own.filter(|process| !connected(&process.name))
        .map(|process| format!("{} is not connected", process.full_name()))
        .collect()
}

/// What `cluster` does not see yet of `other`.
fn seen(
    plan: &Plan,
    cluster: &PlannedCluster,
    other: &PlannedCluster,
    view: &StatusView,
) -> Vec<String> {
    let name = &cluster.name;
    let Some(status) = view
        .clusters
        .iter()
        .find(|each| each.name == other.name.as_str())
    else {
        return vec![format!("{name} does not know {}", other.name)];
    };
    if !matches!(status.contact, Contact::Own | Contact::Live) {
        return vec![format!("{name} does not hear from {}", other.name)];
    }
    let mut missing = Vec::new();
    let gateways = status
        .gateways
        .iter()
        .filter(|gateway| gateway.healthy)
        .count();
    if gateways < other.gateways {
        missing.push(format!(
            "{name} sees {gateways} of {} gateways of {}",
            other.gateways, other.name
        ));
    }
    let mut services: Vec<_> = plan
        .processes
        .iter()
        .filter(|process| process.cluster == other.name)
        .filter_map(|process| process.service.as_ref())
        .collect();
    services.sort();
    services.dedup();
    for service in services {
        let status = view
            .services
            .iter()
            .find(|each| each.name == service.to_string());
        let exported = status.is_some_and(|status| status.exported);
        if cluster.name != other.name && !exported {
            continue;
        }
        let share = status.and_then(|status| {
            status
                .clusters
                .iter()
                .find(|share| share.cluster == other.name.as_str())
        });
        let healthy = share.map_or(0, |share| share.healthy as usize);
        let wanted = plan.copies(&other.name, service);
        if healthy < wanted {
            missing.push(format!(
                "{name} sees {healthy} of {wanted} {service} in {}",
                other.name
            ));
        }
    }
    missing
}

#[cfg(test)]
pub(crate) mod tests {
    use isthmus_api::{
        AuthorityStatus, ClusterStatus, GatewayStatus, ProxyStatus, ServiceShare, ServiceStatus,
    };

    use super::super::plan::tests::plan;
    use super::*;

    type Damage = fn(&mut StatusView);

    /// A view in which everything planned is there.
    pub(crate) fn view(plan: &Plan, of: &PlannedCluster) -> StatusView {
        let cluster = |each: &PlannedCluster| ClusterStatus {
            name: each.name.to_string(),
            region: each.name.to_string(),
            contact: if each.name == of.name {
                Contact::Own
            } else {
                Contact::Live
            },
            age_ms: Some(0),
            rtt_ms: None,
            behind: None,
            traffic: isthmus_model::ALL_TRAFFIC,
            gateways: (0..each.gateways)
                .map(|index| GatewayStatus {
                    name: format!("gateway-{index}"),
                    address: String::new(),
                    healthy: true,
                })
                .collect(),
        };
        let service = |name: &str, count| ServiceStatus {
            name: name.to_owned(),
            exported: true,
            clusters: vec![ServiceShare {
                cluster: "us-west".to_owned(),
                healthy: count,
                total: count,
            }],
        };
        let own = plan
            .processes
            .iter()
            .filter(|process| process.cluster == of.name);
        StatusView {
            mesh: "shop".to_owned(),
            trust_domain: "shop.example".to_owned(),
            cluster: of.name.to_string(),
            version: "0".to_owned(),
            position: 1,
            authority: AuthorityStatus {
                cluster: None,
                lost_vote: None,
                reachable: true,
            },
            certificates: Vec::new(),
            held: Vec::new(),
            clusters: plan.clusters.iter().map(cluster).collect(),
            services: vec![service("shop/frontend", 2), service("shop/payment", 2)],
            proxies: own
                .map(|process| ProxyStatus {
                    process: process.name.clone(),
                    identity: String::new(),
                    admission: None,
                    connected: true,
                    position: 1,
                    rejected: vec![],
                })
                .collect(),
        }
    }

    pub(crate) fn views(plan: &Plan) -> Views {
        plan.clusters
            .iter()
            .map(|each| (each.name.clone(), view(plan, each)))
            .collect()
    }

    #[test]
    fn ready_is_when_every_cluster_sees_everything() {
        let plan = plan();
        let ready = views(&plan);
        assert_eq!(missing(&plan, &ready), Vec::<String>::new());
        let eu = &plan.clusters[1].name;
        let broken: [(&str, Damage); 5] = [
            ("eu-central does not hear from us-west", |view| {
                view.clusters[0].contact = Contact::Stale;
            }),
            ("eu-central sees 0 of 1 gateways of us-west", |view| {
                view.clusters[0].gateways.clear();
            }),
            ("eu-central sees 1 of 2 shop/payment in us-west", |view| {
                view.services[1].clusters[0].healthy = 1;
            }),
            ("eu-central/gateway-2 is not connected", |view| {
                view.proxies[2].connected = false;
            }),
            ("eu-central does not know us-west", |view| {
                view.clusters.remove(0);
            }),
        ];
        for (expect, change) in broken {
            let mut views = ready.clone();
            change(views.get_mut(eu).unwrap());
            assert_eq!(missing(&plan, &views), [expect]);
        }
        let mut views = ready.clone();
        views.get_mut(eu).unwrap().services[0].exported = false;
        views.get_mut(eu).unwrap().services[0].clusters.clear();
        assert!(
            missing(&plan, &views).is_empty(),
            "what is not exported need not be seen"
        );
        views.remove(eu);
        assert_eq!(
            missing(&plan, &views),
            ["eu-central: its control plane does not answer"]
        );
    }
}
