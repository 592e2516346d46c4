//! Metrics and health, 15020: plain HTTP, for whoever watches this process.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isthmus_api::{Contact, StatusView};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
    let mut registry = Registry::with_prefix("isthmus");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    let connected = view.proxies.iter().filter(|proxy| proxy.connected);
    let rejected = view.proxies.iter().map(|proxy| proxy.rejected.len() as u64);
    let position = "Position of this cluster's copy of config";
    gauge("config_position", position, view.position);
    gauge(
        "proxies_connected",
        "Proxies with an open stream",
        connected.count() as u64,
    );
    gauge(
        "resources_rejected",
        "Resources that proxies reject",
        rejected.sum(),
    );
    let writable = u64::from(view.authority.reachable);
    gauge(
        "authority_reachable",
        "1 when config can be written",
        writable,
    );
    let heard = Family::<[(&str, String); 1], Gauge>::default();
    for cluster in &view.clusters {
        if cluster.contact != Contact::Own {
            let label = [("cluster", cluster.name.clone())];
            heard
                .get_or_create(&label)
                .set((cluster.contact == Contact::Live).into());
        }
    }
    registry.register("cluster_heard", "1 while the other cluster is heard", heard);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
