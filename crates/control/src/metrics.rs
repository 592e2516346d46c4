//! Metrics and health, 15020: plain HTTP, for whoever watches this process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isthmus_api::{Contact, StatusView};
use isthmus_telemetry::{MetricName, names};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::core::{Answer, Request};
use crate::hub::Hub;

/// The media type of OpenMetrics text.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(hub)
}

async fn ready(State(hub): State<Arc<Hub>>) -> Response {
    match hub.ask(Request::Status).await {
        Ok(_) => "ok\n".into_response(),
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
    }
}

async fn metrics(State(hub): State<Arc<Hub>>) -> Response {
    let view = match hub.ask(Request::Status).await {
        Ok(Answer::Json { body, .. }) => serde_json::from_value(body).ok(),
        _ => None,
    };
    match view.map(|view| text(&view)) {
        Some(Ok(text)) => ([(CONTENT_TYPE, METRICS)], text).into_response(),
        Some(Err(std::fmt::Error)) | None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// What the status says, in numbers.
fn text(view: &StatusView) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let connected = view.proxies.iter().filter(|proxy| proxy.connected);
    let rejected = view.proxies.iter().map(|proxy| proxy.rejected.len() as u64);
    for (name, value) in [
        (names::CONFIG_POSITION, view.position),
        (names::PROXIES_CONNECTED, connected.count() as u64),
        (names::RESOURCES_REJECTED, rejected.sum()),
        (names::AUTHORITY_REACHABLE, view.authority.reachable.into()),
        (names::VOTE_LOST, view.authority.lost_vote.is_some().into()),
    ] {
        register(&mut registry, &name, gauge(value));
    }
    let contacts = Labelled::<2>::default();
    let behind = Labelled::<1>::default();
    let (silent, rtt) = (Seconds::default(), Seconds::default());
    for cluster in &view.clusters {
        if cluster.contact == Contact::Own {
            continue;
        }
        let label = || [("cluster", cluster.name.clone())];
        for (state, contact) in STATES {
            let [name] = label();
            let labels = [name, ("state", state.to_owned())];
            let is_it = contact == cluster.contact;
            contacts.get_or_create(&labels).set(is_it.into());
        }
        let changes = cluster.behind.as_ref().map_or(0, |behind| behind.changes);
        behind.get_or_create(&label()).set(signed(changes));
        if let Some(age) = cluster.age_ms {
            let age = Duration::from_millis(age).as_secs_f64();
            silent.get_or_create(&label()).set(age);
        }
        if let Some(milliseconds) = cluster.rtt_ms {
            rtt.get_or_create(&label()).set(milliseconds / 1000.0);
        }
    }
    register(&mut registry, &names::CLUSTER_CONTACT, contacts);
    register(&mut registry, &names::CLUSTER_SILENT, silent);
    register(&mut registry, &names::CLUSTER_RTT, rtt);
    register(&mut registry, &names::CLUSTER_BEHIND, behind);
    let held = Labelled::<1>::default();
    for of in &view.held {
        let label = [("group", of.group.clone())];
        held.get_or_create(&label).set(signed(of.held as u64));
    }
    register(&mut registry, &names::REMOVALS_HELD, held);
    let expiry = Labelled::<1>::default();
    for certificate in &view.certificates {
        let label = [("certificate", certificate.name.clone())];
        expiry
            .get_or_create(&label)
            .set(signed(certificate.not_after));
    }
    register(&mut registry, &names::CERTIFICATE_EXPIRY, expiry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

type Labelled<const N: usize> = Family<[(&'static str, String); N], Gauge>;
type Seconds = Family<[(&'static str, String); 1], Gauge<f64, AtomicU64>>;

const STATES: [(&str, Contact); 4] = [
    ("live", Contact::Live),
    ("stale", Contact::Stale),
    ("lost", Contact::Lost),
    ("never", Contact::Never),
];

fn register(registry: &mut Registry, name: &MetricName, metric: impl Metric) {
    registry.register(name.name, name.help, metric);
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(signed(value));
    gauge
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use isthmus_telemetry::CONTROL_METRICS;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_status_says_is_counted_under_documented_names() {
        let view = json!({
            "mesh": "shop", "trustDomain": "shop.example", "cluster": "a", "version": "0.1.0", "position": 7,
            "authority": {"cluster": "a", "reachable": true, "lostVote": "it was restored"},
            "clusters": [
                {"name": "a", "region": "r", "contact": "own", "ageMs": null, "rttMs": null, "gateways": []},
                {"name": "b", "region": "r", "contact": "stale", "ageMs": 3500, "rttMs": 80.0, "gateways": [],
                 "behind": {"ledger": "facts/a", "changes": 12, "stuckMs": 11000}},
                {"name": "c", "region": "r", "contact": "never", "ageMs": null, "rttMs": null, "gateways": []}],
            "services": [],
            "proxies": [{"process": "x", "identity": "y", "connected": true, "position": 7, "rejected": ["a", "b"]}],
            "certificates": [{"name": "root", "notBefore": 1, "notAfter": 1_900_000_000, "endsSoon": false}],
            "held": [{"group": "shop/cart", "held": 3, "total": 4, "heldMs": 1, "leftMs": 1}],
        });
        let text = text(&serde_json::from_value(view).unwrap()).unwrap();
        for line in [
            "isthmus_config_position 7",
            "isthmus_proxies_connected 1",
            "isthmus_resources_rejected 2",
            "isthmus_authority_reachable 1",
            "isthmus_vote_lost 1",
            "isthmus_cluster_contact{cluster=\"b\",state=\"live\"} 0",
            "isthmus_cluster_contact{cluster=\"b\",state=\"stale\"} 1",
            "isthmus_cluster_contact{cluster=\"c\",state=\"never\"} 1",
            "isthmus_cluster_silent_seconds{cluster=\"b\"} 3.5",
            "isthmus_cluster_rtt_seconds{cluster=\"b\"} 0.08",
            "isthmus_cluster_changes_behind{cluster=\"b\"} 12",
            "isthmus_cluster_changes_behind{cluster=\"c\"} 0",
            "isthmus_removals_held{group=\"shop/cart\"} 3",
            "isthmus_certificate_expiry_timestamp_seconds{certificate=\"root\"} 1900000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("cluster=\"a\""), "{text}");
        assert!(!text.contains("silent_seconds{cluster=\"c\""), "{text}");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let found: Vec<_> = types.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(found, CONTROL_METRICS.map(|metric| metric.name));
    }
}
