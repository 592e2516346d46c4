//! Views under `/mesh/v1`.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use isthmus_api::{
    Failure, HistoryRequest, ReleaseRequest, ResetRequest, RevokeRequest, TokenReply, TokenRequest,
    TransferRequest,
};
use isthmus_identity::{JoinToken, TokenGrant, TokenId, TokenSecret};
use isthmus_model::{Identity, Origin, Position};

use super::resources::origin;
use super::{Author, Refusal, Shared, respond};
use crate::core::{Answer, HistoryQuery, Request, Selection};

/// Changes in one answer, unless the request says otherwise.
const CHANGES: usize = 50;
const MOST_CHANGES: usize = 500;

const TOKEN_LIFETIME: u64 = 60 * 60;
/// A token is for a process that starts soon.
const LONGEST_TOKEN_LIFETIME: u64 = 30 * 24 * 60 * 60;

pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) async fn status(State(api): Shared) -> Result<Response, Refusal> {
    Ok(respond(api.hub.ask(Request::Status).await?))
}

/// Whose control planes accept config, and who leads them.
pub(super) async fn authority(State(api): Shared) -> Result<Response, Refusal> {
    Ok(respond(api.hub.ask(Request::Authority).await?))
}

/// Another voter is to lead.
pub(super) async fn transfer(
    State(api): Shared,
    request: Body<TransferRequest>,
) -> Result<Response, Refusal> {
    let to = field("cluster", &body(request)?.cluster)?;
    Ok(respond(api.hub.ask(Request::Transfer(to)).await?))
}

/// The authority is to begin anew here.
pub(super) async fn reset(
    State(api): Shared,
    request: Body<ResetRequest>,
) -> Result<Response, Refusal> {
    let request = body(request)?;
    Ok(respond(api.hub.ask(Request::Reset(request)).await?))
}

/// Processes that were revoked.
pub(super) async fn revocations(State(api): Shared) -> Result<Response, Refusal> {
    Ok(respond(api.hub.ask(Request::Revocations).await?))
}

/// A process of this cluster is to be one no more.
pub(super) async fn revoke(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
    request: Body<RevokeRequest>,
) -> Result<Response, Refusal> {
    let request = body(request)?;
    Ok(respond(
        api.hub.ask(Request::Revoke { author, request }).await?,
    ))
}

/// What this cluster holds of its members is to be taken for gone.
pub(super) async fn release(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
    request: Body<ReleaseRequest>,
) -> Result<Response, Refusal> {
    let request = body(request)?;
    tracing::info!(%author, service = request.service, "held members are let go");
    Ok(respond(api.hub.ask(Request::Release(request)).await?))
}

/// The changes of config that were accepted, newest first.
pub(super) async fn history(
    State(api): Shared,
    uri: Uri,
    request: Result<Query<HistoryRequest>, QueryRejection>,
) -> Result<Response, Refusal> {
    let (origin, _) = origin(uri.path())?;
    let Query(request) = request.map_err(|error| Failure::bad_request(error.body_text()))?;
    let limit = request.limit.unwrap_or(CHANGES);
    if limit == 0 || limit > MOST_CHANGES {
        let message = format!("limit is 1 to {MOST_CHANGES}, not {limit}");
        return Err(Failure::bad_request(message).into());
    }
    let query = HistoryQuery {
        selection: objects(origin.clone(), &request)?,
        origin,
        before: request.before.map(Position),
        limit,
        records: request.records.unwrap_or_default(),
        rejected: request.rejected.unwrap_or_default(),
    };
    Ok(respond(api.hub.ask(Request::History(query)).await?))
}

/// The objects whose history is asked for; `None`: all.
fn objects(origin: Origin, request: &HistoryRequest) -> Result<Option<Selection>, Failure> {
    let (namespace, name) = (&request.namespace, &request.name);
    let Some(kind) = &request.kind else {
        if namespace.is_some() || name.is_some() {
            return Err(Failure::bad_request("namespace and name go with a kind"));
        }
        return Ok(None);
    };
    let namespace = namespace.as_deref().map(|text| field("namespace", text));
    let name = name.as_deref().map(|text| field("name", text));
    Ok(Some(Selection {
        origin,
        kind: field("kind", kind)?,
        namespace: namespace.transpose()?,
        name: name.transpose()?,
    }))
}

/// Makes a join token for one process of this cluster.
pub(super) async fn tokens(
    State(api): Shared,
    request: Body<TokenRequest>,
) -> Result<Response, Refusal> {
    let request = body(request)?;
    let lifetime = request.lifetime_seconds.unwrap_or(TOKEN_LIFETIME);
    if lifetime == 0 || lifetime > LONGEST_TOKEN_LIFETIME {
        let message = format!("lifetimeSeconds is 1 to {LONGEST_TOKEN_LIFETIME}, not {lifetime}");
        return Err(Failure::invalid(message).into());
    }
    let grant = TokenGrant {
        cluster: api.config.cluster.clone(),
        namespace: field("namespace", &request.namespace)?,
        account: field("account", &request.account)?,
        service: request
            .service
            .as_deref()
            .map(|name| field("service", name))
            .transpose()?,
    };
    let identity = Identity {
        trust_domain: api.config.trust_domain.clone(),
        namespace: grant.namespace.clone(),
        account: grant.account.clone(),
    };
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id)
        .and_then(|()| getrandom::fill(&mut secret))
        .map_err(|error| Failure::internal(format!("no token can be made: {error}")))?;
    let issuing = api.issuer.load();
    let Some(root) = issuing.authority.bundle().fingerprints().next() else {
        return Err(Failure::internal("the mesh has no root").into());
    };
    let token = JoinToken::new(
        root,
        vec![api.control],
        TokenId(id),
        TokenSecret::new(secret),
    )
    .map_err(|error| Failure::internal(error.to_string()))?;
    let expires = SystemTime::now() + Duration::from_secs(lifetime);
    let record = token.record(grant, expires);
    match api.hub.ask(Request::AddToken(record)).await? {
        Answer::Done => {
            let reply = TokenReply {
                token: token.to_text().to_string(),
                cluster: api.config.cluster.to_string(),
                identity: identity.to_string(),
                lifetime_seconds: lifetime,
            };
            Ok((http::StatusCode::CREATED, Json(reply)).into_response())
        }
        other => Ok(respond(other)),
    }
}

pub(super) fn body<T>(request: Body<T>) -> Result<T, Failure> {
    match request {
        Ok(Json(request)) => Ok(request),
        Err(error) => Err(Failure::bad_request(error.body_text())),
    }
}

pub(super) fn field<T>(field: &str, text: &str) -> Result<T, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| Failure::invalid(format!("{field}: {text:?}: {error}")))
}
