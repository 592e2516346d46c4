//! `isthmus status`: the mesh as one cluster sees it.

use std::fmt::Write as _;
use std::process::ExitCode;

use isthmus_api::{ClusterStatus, Contact, ServiceStatus, StatusView};

use crate::api_client::connect;
use crate::failure::Result;
use crate::output::{self, last_seen, table};
use crate::setting::Setting;

/// Where a control plane shows the mesh.
pub(crate) const STATUS_PATH: &str = "/mesh/v1/status";

pub(crate) async fn status(setting: &Setting) -> Result<ExitCode> {
    let mut client = connect(&setting.home, setting.cluster.as_ref()).await?;
    let view: StatusView = client.get(STATUS_PATH).await?;
    let text = match setting.format {
        Some(format) => output::structured(&view, format),
        None => render(&view),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render(view: &StatusView) -> String {
    let StatusView {
        mesh,
        trust_domain,
        cluster,
        version,
        position,
        ..
    } = view;
    let authority = match (&view.authority.cluster, view.authority.reachable) {
        (Some(name), true) => name.clone(),
        (Some(name), false) => format!("{name} (cannot be reached: config cannot be changed here)"),
        (None, _) => "has nobody who leads: config cannot be changed here".to_owned(),
    };
    let mut text = format!(
        "mesh {mesh}, trust domain {trust_domain}\nseen from {cluster} (isthmus {version}), config position \
         {position}, authority {authority}\n"
    );
    let mut section = |table: String| {
        if !table.is_empty() {
            // Writing into a string cannot fail.
            let _ = write!(text, "\n{table}");
        }
    };
    section(cluster_table(&view.clusters));
    let services = view.services.iter().map(|service| {
        [
            service.name.clone(),
            yes_no(service.exported),
            shares(service),
        ]
    });
    section(table(&["SERVICE", "EXPORTED", "HEALTHY/TOTAL"], services));
    let held = view.held.iter().map(|of| {
        let seconds = |millis: u64| format!("{} s", millis / 1000);
        [
            of.group.clone(),
            format!("{} of {}", of.held, of.total),
            seconds(of.held_ms),
            seconds(of.left_ms),
        ]
    });
    section(table(&["HELD", "MISSED", "FOR", "GONE IN"], held));
    let proxies = view.proxies.iter().map(|proxy| {
        let connected = if proxy.connected {
            "connected"
        } else {
            "not connected"
        };
        let rejected = match proxy.rejected.as_slice() {
            [] => "-".to_owned(),
            rejected => rejected.join("; "),
        };
        [
            proxy.process.clone(),
            connected.to_owned(),
            proxy.position.to_string(),
            proxy.identity.clone(),
            rejected,
        ]
    });
    section(table(
        &["PROXY", "STATE", "POSITION", "IDENTITY", "REJECTED"],
        proxies,
    ));
    text
}

/// Clusters as the one that was asked sees them.
pub(crate) fn cluster_table<'c>(clusters: impl IntoIterator<Item = &'c ClusterStatus>) -> String {
    table(
        &["CLUSTER", "REGION", "CONTACT", "RTT", "TRAFFIC", "GATEWAYS"],
        clusters.into_iter().map(cluster_row),
    )
}

fn cluster_row(cluster: &ClusterStatus) -> [String; 6] {
    let rtt = cluster
        .rtt_ms
        .map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms"));
    let healthy = cluster
        .gateways
        .iter()
        .filter(|gateway| gateway.healthy)
        .count();
    [
        cluster.name.clone(),
        cluster.region.clone(),
        format!(
            "{}{}",
            contact(cluster.contact, cluster.age_ms),
            behind(cluster)
        ),
        rtt,
        format!("{} %", cluster.traffic),
        format!("{healthy}/{}", cluster.gateways.len()),
    ]
}

fn behind(cluster: &ClusterStatus) -> String {
    let Some(behind) = &cluster.behind else {
        return String::new();
    };
    let seconds = behind.stuck_ms / 1000;
    format!(", saves none of {} changes for {seconds} s", behind.changes)
}

/// What is known of the way to a cluster.
pub(crate) fn contact(contact: Contact, age_ms: Option<u64>) -> String {
    match contact {
        Contact::Own => "own".to_owned(),
        Contact::Live => "live".to_owned(),
        Contact::Stale => format!("stale, {}", last_seen(age_ms)),
        Contact::Lost => format!("unreachable, {}", last_seen(age_ms)),
        Contact::Never => "not seen since start".to_owned(),
    }
}

fn shares(service: &ServiceStatus) -> String {
    let shares = service.clusters.iter();
    let shares = shares.map(|share| format!("{} {}/{}", share.cluster, share.healthy, share.total));
    let text: Vec<String> = shares.collect();
    if text.is_empty() {
        "nowhere".to_owned()
    } else {
        text.join(", ")
    }
}

fn yes_no(yes: bool) -> String {
    if yes {
        "yes".to_owned()
    } else {
        "no".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_does_not_answer_is_listed_with_its_age() {
        let view: StatusView = serde_json::from_value(serde_json::json!({
            "mesh": "shop", "trustDomain": "shop.example", "cluster": "us-west", "version": "0.1.0", "position": 7,
            "authority": {"cluster": "us-west", "reachable": true},
            "clusters": [
                {"name": "eu-central", "region": "eu", "contact": "lost", "ageMs": 4200, "rttMs": 140.25, "gateways":
                    [{"name": "gateway-1", "address": "127.1.2.2:15008", "healthy": false}]},
                {"name": "us-west", "region": "us", "contact": "own", "ageMs": 0, "rttMs": null, "traffic": 40, "gateways": []},
            ],
            "services": [{"name": "shop/cart", "exported": true, "clusters":
                [{"cluster": "us-west", "healthy": 1, "total": 2}]}],
            "proxies": [],
            "held": [{"group": "shop/cart", "held": 3, "total": 4, "heldMs": 2500, "leftMs": 297_500}],
        }))
        .unwrap();
        assert_eq!(
            render(&view),
            "mesh shop, trust domain shop.example\n\
             seen from us-west (isthmus 0.1.0), config position 7, authority us-west\n\n\
             CLUSTER     REGION  CONTACT                         RTT       TRAFFIC  GATEWAYS\n\
             eu-central  eu      unreachable, last seen 4 s ago  140.2 ms  100 %    0/1\n\
             us-west     us      own                             -         40 %     0/0\n\n\
             SERVICE    EXPORTED  HEALTHY/TOTAL\n\
             shop/cart  yes       us-west 1/2\n\n\
             HELD       MISSED  FOR  GONE IN\n\
             shop/cart  3 of 4  2 s  297 s\n"
        );
    }
}
