//! From what clusters say to findings. Pure: instants are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use isthmus_api::{ClusterStatus, Contact, HeldStatus, ServiceStatus, StatusView};
use isthmus_identity::{Validity, ends_soon};
use serde_json::Value;

use super::finding::{Code, Finding};
use crate::output::{field, last_seen};
use crate::resources::conditions;
use crate::survey::Answered;

/// All findings, in no order; some are said by several clusters.
pub(super) fn judge(answers: &[Answered], now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for answered in answers {
        let view = &answered.view;
        findings.extend(view.clusters.iter().filter_map(|of| contact(view, of)));
        findings.extend(view.clusters.iter().filter_map(|of| behind(view, of)));
        findings.extend(view.held.iter().map(|of| held(view, of)));
        findings.extend(authority(view));
        findings.extend(vote(view));
        findings.extend(proxies(view));
        findings.extend(certificates(answered, now));
    }
    findings.extend(gateways(answers));
    findings.extend(services(answers));
    findings.extend(objects(answers));
    findings
}

fn contact(view: &StatusView, of: &ClusterStatus) -> Option<Finding> {
    let (code, what) = match of.contact {
        Contact::Own | Contact::Live => return None,
        Contact::Stale => (Code::ClusterStale, "what is known of it is old"),
        Contact::Lost => (Code::ClusterLost, "it is not heard of any more"),
        Contact::Never => (Code::ClusterLost, "it is declared and not heard of"),
    };
    Some(Finding {
        code,
        subject: format!("cluster {}", of.name),
        clusters: vec![view.cluster.clone()],
        what: what.to_owned(),
        causes: vec![format!(
            "the control plane of {} says: {}",
            view.cluster,
            last_seen(of.age_ms)
        )],
        fix: format!(
            "see `isthmus logs {}/control`; if it runs, look at the link",
            of.name
        ),
    })
}

fn behind(view: &StatusView, of: &ClusterStatus) -> Option<Finding> {
    let behind = of.behind.as_ref()?;
    let stuck = Duration::from_millis(behind.stuck_ms).as_secs();
    Some(Finding {
        code: Code::ClusterBehind,
        subject: format!("cluster {}", of.name),
        clusters: vec![view.cluster.clone()],
        what: "it is heard, and saves nothing of what it is told".to_owned(),
        causes: vec![format!(
            "the control plane of {} says: {} changes of {} for {stuck} s",
            view.cluster, behind.changes, behind.ledger
        )],
        fix: format!(
            "look at its disk, and see `isthmus logs {}/control`",
            of.name
        ),
    })
}

fn held(view: &StatusView, of: &HeldStatus) -> Finding {
    let (cluster, group) = (&view.cluster, &of.group);
    let (subject, what) = match group.as_str() {
        "gateways" => (format!("gateways of {cluster}"), "--gateways"),
        service => (format!("service {service}"), service),
    };
    let (seconds, left) = (of.held_ms / 1000, of.left_ms / 1000);
    Finding {
        code: Code::RemovalHeld,
        subject,
        clusters: vec![cluster.clone()],
        what: "too many are missed at once: they are shown as they were".to_owned(),
        causes: vec![format!(
            "the control plane of {cluster} has not heard {} of {} for {seconds} s, and they are not known to be gone",
            of.held, of.total
        )],
        fix: format!(
            "see whether the control plane of {cluster} reaches them; in {left} s they are taken for gone, or at once by \
             `isthmus release {what} --cluster {cluster}`"
        ),
    }
}

fn authority(view: &StatusView) -> Option<Finding> {
    if view.authority.reachable {
        return None;
    }
    let name = view.authority.cluster.as_deref();
    Some(Finding {
        code: Code::AuthorityUnreachable,
        subject: format!("cluster {}", view.cluster),
        clusters: vec![view.cluster.clone()],
        what: "config cannot be changed here".to_owned(),
        causes: vec![match name {
            Some(name) => format!("it does not reach the authority, cluster {name}"),
            None => "it does not know the authority yet".to_owned(),
        }],
        fix: format!(
            "traffic goes on as it is; bring back the control plane of {} or the link to it",
            name.unwrap_or("the founding cluster")
        ),
    })
}

fn vote(view: &StatusView) -> Option<Finding> {
    let (lost, cluster) = (view.authority.lost_vote.clone()?, &view.cluster);
    Some(Finding {
        code: Code::VoteLost,
        subject: format!("cluster {cluster}"),
        clusters: vec![cluster.clone()],
        what: "it has no vote on config any more, and others may count on it".to_owned(),
        causes: vec![lost],
        fix: format!(
            "`isthmus authority remove {cluster}` and `isthmus authority add {cluster}` give it a new one; if nobody \
             else votes, `isthmus authority reset --cluster {cluster} --accept-loss` does"
        ),
    })
}

fn proxies(view: &StatusView) -> impl Iterator<Item = Finding> {
    view.proxies.iter().flat_map(|proxy| {
        let finding = |code, what: &str, cause, fix| Finding {
            code,
            subject: format!("proxy {}/{}", view.cluster, proxy.process),
            clusters: Vec::new(),
            what: what.to_owned(),
            causes: vec![cause],
            fix,
        };
        let log = format!("see `isthmus logs {}/{}`", view.cluster, proxy.process);
        let gone = (!proxy.connected).then(|| {
            finding(
                Code::ProxyNotConnected,
                "it is not connected to its control plane",
                "it has ended, or cannot reach the control plane; its last view stays in force"
                    .to_owned(),
                log.clone(),
            )
        });
        let rejects = (!proxy.rejected.is_empty()).then(|| {
            finding(
                Code::ProxyRejects,
                "it rejects part of its config and keeps what it had of it",
                proxy.rejected.join("\n"),
                format!("upgrade it if it is older than the control plane; {log}"),
            )
        });
        gone.into_iter().chain(rejects)
    })
}

fn certificates(answered: &Answered, now: SystemTime) -> Vec<Finding> {
    let cluster = &answered.view.cluster;
    let names = [
        (
            format!("cluster {cluster}"),
            "its control plane's certificate",
            format!("it renews itself: see `isthmus logs {cluster}/control` why it has not"),
        ),
        (
            format!("cluster {cluster}"),
            "the cluster's certificate",
            format!("have it signed anew: `isthmus rotate start intermediate --cluster {cluster}`"),
        ),
        (
            "mesh".to_owned(),
            "the mesh root",
            "have those who hold the mesh key plan its replacement now".to_owned(),
        ),
    ];
    let ending = |((subject, what, fix), (from, until)): ((String, &str, String), &Validity)| {
        let life = until.duration_since(*from).unwrap_or_default();
        let left = until.duration_since(now).unwrap_or_default();
        ends_soon((*from, *until), now).then(|| Finding {
            code: Code::CertificateExpiring,
            subject,
            clusters: Vec::new(),
            what: format!("{what} ends in {}", span(left)),
            causes: vec![format!("it was made for {}", span(life))],
            fix,
        })
    };
    let shown = names.into_iter().zip(&answered.certificates);
    shown.filter_map(ending).collect()
}

/// In the largest unit that is not rough.
fn span(length: Duration) -> String {
    match length.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 2 * 3600 => format!("{} min", seconds / 60),
        seconds if seconds < 2 * 86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Gateways as their own clusters see them, else as anybody who answers does.
fn gateways(answers: &[Answered]) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, &ClusterStatus> = BTreeMap::new();
    for answered in answers {
        for cluster in &answered.view.clusters {
            if cluster.contact == Contact::Own {
                seen.insert(&cluster.name, cluster);
            } else {
                seen.entry(&cluster.name).or_insert(cluster);
            }
        }
    }
    // A mesh of one cluster needs none.
    let has_others = seen.len() > 1;
    let mut findings = Vec::new();
    for cluster in seen.into_values() {
        let finding = |subject: String, what: &str, cause: String| Finding {
            code: Code::GatewayUnhealthy,
            subject,
            clusters: Vec::new(),
            what: what.to_owned(),
            causes: vec![cause],
            fix: format!("see `isthmus logs {}`", cluster.name),
        };
        if has_others && cluster.gateways.is_empty() && cluster.contact != Contact::Never {
            findings.push(finding(
                format!("cluster {}", cluster.name),
                "it has no gateway: nobody elsewhere reaches its services",
                "none is registered".to_owned(),
            ));
        }
        for gateway in cluster.gateways.iter().filter(|gateway| !gateway.healthy) {
            findings.push(finding(
                format!("gateway {}/{}", cluster.name, gateway.name),
                "it is not healthy",
                format!(
                    "it drains, or has lost its control plane (at {})",
                    gateway.address
                ),
            ));
        }
    }
    findings
}

/// The command that shows the service `namespace/name`.
fn describe(service: &str) -> String {
    match service.split_once('/') {
        Some((namespace, name)) => format!("`isthmus describe service/{name} -n {namespace}`"),
        None => format!("`isthmus describe service/{service}`"),
    }
}

/// Services by the widest view: shares of a cluster as that cluster sees them, where it answers.
fn services(answers: &[Answered]) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, BTreeMap<&str, (u32, u32)>> = BTreeMap::new();
    for answered in answers {
        let own = &answered.view.cluster;
        for ServiceStatus { name, clusters, .. } in &answered.view.services {
            let shares = seen.entry(name).or_default();
            for share in clusters {
                let counts = (share.healthy, share.total);
                if share.cluster == *own {
                    shares.insert(&share.cluster, counts);
                } else {
                    shares.entry(&share.cluster).or_insert(counts);
                }
            }
        }
    }
    let mut findings = Vec::new();
    for (name, shares) in seen {
        let finding = |code, clusters: &[&str], what: &str, cause| Finding {
            code,
            subject: format!("service {name}"),
            clusters: clusters.iter().map(|&name| name.to_owned()).collect(),
            what: what.to_owned(),
            causes: vec![cause],
            fix: format!("see {}, and the logs of its programs", describe(name)),
        };
        if shares.values().all(|(healthy, _)| *healthy == 0) {
            let total: u32 = shares.values().map(|(_, total)| total).sum();
            let cause = match total {
                0 => "it has no workload in any cluster".to_owned(),
                total => format!("none of its {total} workloads passes its health check"),
            };
            findings.push(finding(
                Code::ServiceDown,
                &[],
                "nobody can serve it",
                cause,
            ));
            continue;
        }
        for (cluster, (healthy, total)) in shares {
            if healthy == 0 && total > 0 {
                let cause = format!("none of its {total} workloads there passes its health check");
                let what = "this cluster does not serve it; others do";
                findings.push(finding(
                    Code::ServiceUnhealthyInCluster,
                    &[cluster],
                    what,
                    cause,
                ));
            }
        }
    }
    findings
}

/// Conditions that do not hold. Whether proxies use an object is a matter of each cluster; the rest
/// is the same everywhere.
fn objects(answers: &[Answered]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for answered in answers {
        for object in answered.objects.iter().chain(&answered.own) {
            for condition in conditions(object) {
                if condition["status"] == "False" {
                    findings.extend(failed_condition(&answered.view.cluster, object, condition));
                }
            }
        }
    }
    findings
}

fn failed_condition(cluster: &str, object: &Value, condition: &Value) -> Option<Finding> {
    let kind = field(object, "/kind").to_lowercase();
    let name = field(object, "/metadata/name");
    let (place, option) = match field(object, "/metadata/namespace").as_str() {
        "-" => (name.clone(), String::new()),
        namespace => (format!("{namespace}/{name}"), format!(" -n {namespace}")),
    };
    let (subject, option) = match object.pointer("/status/origin").and_then(Value::as_str) {
        None => (format!("{kind} {place}"), option),
        Some(origin) => (
            format!("{kind} {place} of {origin}"),
            format!("{option} --origin {origin}"),
        ),
    };
    let (code, clusters, what) = match condition["type"].as_str()? {
        "Accepted" => (Code::NotAccepted, Vec::new(), "it is not in force"),
        "ResolvedRefs" => (
            Code::RefsNotResolved,
            Vec::new(),
            "it names what does not exist",
        ),
        "Programmed" => (
            Code::NotProgrammed,
            vec![cluster.to_owned()],
            "not all proxies that need it use it",
        ),
        "Effective" => (
            Code::PolicyOverruled,
            vec![cluster.to_owned()],
            "not all that it sets holds",
        ),
        _ => return None,
    };
    Some(Finding {
        code,
        subject,
        clusters,
        what: what.to_owned(),
        causes: vec![format!(
            "{}: {}",
            field(condition, "/reason"),
            field(condition, "/message")
        )],
        fix: format!("see `isthmus describe {kind}/{name}{option}`; correct it and apply it again"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::merged;
    use isthmus_api::BehindStatus;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    /// A mesh of two clusters in which all is well, as `cluster` sees it.
    fn well(cluster: &str) -> Answered {
        let contact = |name: &str| if name == cluster { "own" } else { "live" };
        let gateway = json!([{"name": "gateway-1", "address": "127.1.1.2:15008", "healthy": true}]);
        let view = json!({
            "mesh": "shop", "trustDomain": "shop.example", "cluster": cluster, "version": "0.1.0",
            "position": 7, "authority": {"cluster": "a", "reachable": true},
            "clusters": [
                {"name": "a", "region": "r", "contact": contact("a"), "ageMs": 9, "rttMs": null,
                 "gateways": gateway},
                {"name": "b", "region": "r", "contact": contact("b"), "ageMs": 9, "rttMs": null,
                 "gateways": gateway}],
            "services": [{"name": "shop/cart", "exported": true, "clusters": [
                {"cluster": "a", "healthy": 1, "total": 2}, {"cluster": "b", "healthy": 1, "total": 1}]}],
            "proxies": [{"process": "cart-1", "identity": "spiffe://shop.example/ns/shop/sa/cart",
                         "connected": true, "position": 7, "rejected": []}],
        });
        let route = json!({
            "kind": "HTTPRoute", "metadata": {"name": "cart", "namespace": "shop"},
            "status": {"parents": [{"conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""},
                {"type": "Programmed", "status": "True", "reason": "Programmed", "message": ""}]}]},
        });
        Answered {
            view: serde_json::from_value(view).unwrap(),
            objects: vec![route],
            own: Vec::new(),
            certificates: [DAY, DAY * 365, DAY * 3650]
                .map(|life| (now() - life / 2, now() + life / 2))
                .to_vec(),
        }
    }

    /// Findings as `code subject (cluster)`.
    fn found(answers: &[Answered]) -> Vec<String> {
        let text = |finding: Finding| {
            let clusters = match finding.clusters.as_slice() {
                [] => String::new(),
                clusters => format!(" ({})", clusters.join(" ")),
            };
            format!("{} {}{clusters}", finding.code.text(), finding.subject)
        };
        merged(judge(answers, now()))
            .into_iter()
            .map(text)
            .collect()
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        assert_eq!(found(&[well("a"), well("b")]), [""; 0]);
    }

    #[test]
    fn everything_that_is_wrong_is_found_once() {
        type Break = fn(&mut Answered);
        let cases: [(Break, &[&str]); 15] = [
            (
                |a| a.view.clusters[1].contact = Contact::Lost,
                &["cluster-lost cluster b (a)"],
            ),
            (
                |a| a.view.clusters[1].contact = Contact::Stale,
                &["cluster-stale cluster b (a)"],
            ),
            (
                |a| {
                    a.view.clusters[1].behind = Some(BehindStatus {
                        ledger: "facts/a".to_owned(),
                        changes: 7,
                        stuck_ms: 12_000,
                    });
                },
                &["cluster-behind cluster b (a)"],
            ),
            (
                |a| a.view.authority.reachable = false,
                &["authority-unreachable cluster a (a)"],
            ),
            (
                |a| a.view.authority.lost_vote = Some("it was restored".to_owned()),
                &["vote-lost cluster a (a)"],
            ),
            (
                |a| a.view.clusters[0].gateways[0].healthy = false,
                &["gateway-unhealthy gateway a/gateway-1"],
            ),
            (
                |a| a.view.clusters[0].gateways.clear(),
                &["gateway-unhealthy cluster a"],
            ),
            // What a thinks of b's gateways does not count while b itself answers.
            (|a| a.view.clusters[1].gateways.clear(), &[]),
            (
                |a| a.view.services[0].clusters[0].healthy = 0,
                &["service-unhealthy-in-cluster service shop/cart (a)"],
            ),
            (
                |a| a.view.proxies[0].connected = false,
                &["proxy-not-connected proxy a/cart-1"],
            ),
            (
                |a| {
                    a.view.proxies[0]
                        .rejected
                        .push("service shop/x: why".to_owned());
                },
                &["proxy-rejects proxy a/cart-1"],
            ),
            (
                |a| {
                    a.objects[0]["status"]["parents"][0]["conditions"][1]["status"] =
                        "False".into();
                },
                &["not-programmed httproute shop/cart (a)"],
            ),
            (
                |a| {
                    a.own.push(json!({
                        "kind": "TrafficPolicy", "metadata": {"name": "slow", "namespace": "shop"},
                        "status": {"origin": "a", "conditions": [
                            {"type": "Effective", "status": "False", "reason": "Overruled", "message": ""}]},
                    }));
                },
                &["policy-overruled trafficpolicy shop/slow of a (a)"],
            ),
            (
                |a| a.certificates[0].1 = now() + Duration::from_hours(2),
                &["certificate-expiring cluster a"],
            ),
            (
                |a| a.certificates[2].1 = now() + DAY * 59,
                &["certificate-expiring mesh"],
            ),
        ];
        for (index, (harm, expect)) in cases.into_iter().enumerate() {
            let mut one = well("a");
            harm(&mut one);
            assert_eq!(found(&[one, well("b")]), expect, "case {index}");
        }
    }

    #[test]
    fn what_all_clusters_say_of_the_mesh_is_said_once() {
        let both = [well("a"), well("b")].map(|mut answered| {
            let conditions = &mut answered.objects[0]["status"]["parents"][0]["conditions"];
            conditions[0]["status"] = "False".into();
            conditions[1]["status"] = "False".into();
            for share in &mut answered.view.services[0].clusters {
                share.healthy = 0;
            }
            answered
        });
        assert_eq!(
            found(&both),
            [
                "service-down service shop/cart",
                "not-accepted httproute shop/cart",
                "not-programmed httproute shop/cart (a b)"
            ]
        );
    }
}
