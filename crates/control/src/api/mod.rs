//! The API, 7443: resources by the Kubernetes API conventions, and views under `/mesh/v1`.
//!
//! Turns requests into questions to the core and answers into HTTP. Who asks is the name of the
//! bearer token; without one nothing is answered but health.

pub(crate) mod backup;
mod certificate;
mod explain;
mod resources;
mod views;

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use isthmus_api::Failure;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::sync::Semaphore;

use crate::config::{ApiToken, Config};
use crate::core::Answer;
use crate::hub::{Hub, Stopped};
use crate::issuer::Issuer;

/// Largest body that is read.
const BODY_LIMIT: usize = 1024 * 1024;

/// What the handlers need.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) hub: Arc<Hub>,
    pub(crate) config: Arc<Config>,
    pub(crate) issuer: Arc<Issuer>,
    /// Where processes of this cluster join.
    pub(crate) control: SocketAddr,
    /// One at a time.
    pub(crate) backups: Arc<Semaphore>,
}

type Shared = State<Arc<Api>>;

/// Who asks, proven by a bearer token.
#[derive(Debug, Clone)]
struct Author(String);

/// A `Failure` as an HTTP reply.
struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Self {
        Self(Failure::unavailable(stopped.to_string()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.0.code;
        json(code, &serde_json::to_value(self.0).unwrap_or_default())
    }
}

/// All routes of the API.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/api/{*path}", any(resources::any))
        .route("/apis/{*path}", any(resources::any))
        .route("/clusters/{cluster}/api/{*path}", any(resources::any))
        .route("/clusters/{cluster}/apis/{*path}", any(resources::any))
        .route("/mesh/v1/status", get(views::status))
        .route("/mesh/v1/authority", get(views::authority))
        .route("/mesh/v1/authority/leader", post(views::transfer))
        .route("/mesh/v1/authority/reset", post(views::reset))
        .route("/mesh/v1/backup", get(backup::backup))
        .route(
            "/mesh/v1/certificate",
            get(certificate::show).put(certificate::install),
        )
        .route(
            "/mesh/v1/certificate/request",
            post(certificate::request).delete(certificate::abort),
        )
        .route("/mesh/v1/certificate/renewals", post(certificate::renew))
        .route("/mesh/v1/roots", put(certificate::trust))
        .route("/mesh/v1/history", get(views::history))
        .route("/clusters/{cluster}/mesh/v1/history", get(views::history))
        .route(
            "/mesh/v1/revocations",
            get(views::revocations).post(views::revoke),
        )
        .route("/mesh/v1/removals/release", post(views::release))
        .route("/mesh/v1/tokens", post(views::tokens))
        .route("/mesh/v1/explain", post(explain::explain))
        .fallback(nothing)
        .layer(from_fn_with_state(api.clone(), authenticate))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(api.clone());
    let open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(api);
    open.merge(guarded)
}

async fn ready(State(api): Shared) -> Response {
    match api.hub.ask(crate::core::Request::Status).await {
        Ok(_) => "ok\n".into_response(),
        Err(stopped) => Refusal::from(stopped).into_response(),
    }
}

async fn nothing(request: Request) -> Refusal {
    Failure::not_found(format!("nothing is served at {}", request.uri().path())).into()
}

async fn authenticate(State(api): Shared, mut request: Request, next: Next) -> Response {
    match author(&api.config.api_tokens, &request) {
        Some(author) => {
            request.extensions_mut().insert(author);
            next.run(request).await
        }
        None => {
            let failure = Failure::unauthorized("a valid bearer token is needed");
            let mut reply = Refusal(failure).into_response();
            let scheme = http::HeaderValue::from_static("Bearer");
            reply.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            reply
        }
    }
}

/// The name of the token that the request bears. Every token is compared, in constant time.
fn author(tokens: &[ApiToken], request: &Request) -> Option<Author> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let hash = digest(&SHA256, token.trim().as_bytes());
    let mut found = None;
    for known in tokens {
        if verify_slices_are_equal(&known.sha256, hash.as_ref()).is_ok() {
            found = Some(Author(known.name.clone()));
        }
    }
    found
}

fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Json { code, body } => json(code, &body),
        other => {
            tracing::error!(?other, "an answer that fits no request");
            Refusal(Failure::internal("the answer does not fit the request")).into_response()
        }
    }
}

fn json(code: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        [(CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
