//! Metrics and health, 15020: plain HTTP, for whoever watches this process.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isthmus_api::{Contact, StatusView};

use crate::core::{Answer, Request};
use crate::hub::Hub;

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/ready", get(ready))
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
    match view {
        Some(view) => {
            const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, TYPE)], text(&view)).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// OpenMetrics text (RFC draft-ietf-opsawg-openmetrics).
fn text(view: &StatusView) -> String {
    let heard = |contact| !matches!(contact, Contact::Never | Contact::Lost | Contact::Stale);
    let mut text = String::new();
    gauge(
        &mut text,
        "isthmus_config_position",
        "Position of this cluster's copy of config.",
    );
    text.push_str(&format!("isthmus_config_position {}\n", view.position));
    gauge(
        &mut text,
        "isthmus_proxies_connected",
        "Proxies with an open stream.",
    );
    let connected = view.proxies.iter().filter(|proxy| proxy.connected).count();
    text.push_str(&format!("isthmus_proxies_connected {connected}\n"));
    gauge(
        &mut text,
        "isthmus_resources_rejected",
        "Resources that proxies reject.",
    );
    let rejected: usize = view.proxies.iter().map(|proxy| proxy.rejected.len()).sum();
    text.push_str(&format!("isthmus_resources_rejected {rejected}\n"));
    gauge(
        &mut text,
        "isthmus_authority_reachable",
        "1 when config can be written.",
    );
    let reachable = u8::from(view.authority.reachable);
    text.push_str(&format!("isthmus_authority_reachable {reachable}\n"));
    gauge(
        &mut text,
        "isthmus_cluster_heard",
        "1 when the other cluster is heard.",
    );
    for cluster in view
        .clusters
        .iter()
        .filter(|cluster| cluster.contact != Contact::Own)
    {
        let (name, heard) = (&cluster.name, u8::from(heard(cluster.contact)));
        text.push_str(&format!(
            "isthmus_cluster_heard{{cluster=\"{name}\"}} {heard}\n"
        ));
    }
    text.push_str("# EOF\n");
    text
}

fn gauge(text: &mut String, name: &str, help: &str) {
    text.push_str(&format!("# TYPE {name} gauge\n# HELP {name} {help}\n"));
}
