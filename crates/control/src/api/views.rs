//! Views under `/mesh/v1`.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use isthmus_api::{ExplainRequest, Failure, TokenReply, TokenRequest};
use isthmus_identity::{JoinToken, TokenGrant, TokenId, TokenSecret};
use isthmus_model::{Identity, ServiceName};
use isthmus_wire::proto;

use super::{Refusal, Shared, respond};
use crate::core::{Answer, Request};

const TOKEN_LIFETIME: u64 = 60 * 60;
/// A token is for a process that starts soon.
const LONGEST_TOKEN_LIFETIME: u64 = 30 * 24 * 60 * 60;
/// How long a proxy may think about an explanation.
const EXPLAIN: Duration = Duration::from_secs(2);

type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) async fn status(State(api): Shared) -> Result<Response, Refusal> {
    Ok(respond(api.hub.ask(Request::Status).await?))
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
        cluster: api.cluster.clone(),
        namespace: field("namespace", &request.namespace)?,
        account: field("account", &request.account)?,
        service: request
            .service
            .as_deref()
            .map(|name| field("service", name))
            .transpose()?,
    };
    let identity = Identity {
        trust_domain: api.trust_domain.clone(),
        namespace: grant.namespace.clone(),
        account: grant.account.clone(),
    };
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id)
        .and_then(|()| getrandom::fill(&mut secret))
        .map_err(|error| Failure::internal(format!("no token can be made: {error}")))?;
    let token = JoinToken::new(
        api.root,
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
                cluster: api.cluster.to_string(),
                identity: identity.to_string(),
                lifetime_seconds: lifetime,
            };
            Ok((http::StatusCode::CREATED, Json(reply)).into_response())
        }
        other => Ok(respond(other)),
    }
}

/// Asks a proxy of the calling service what it would do.
pub(super) async fn explain(
    State(api): Shared,
    request: Body<ExplainRequest>,
) -> Result<Response, Refusal> {
    let request = body(request)?;
    let source: ServiceName = field("source", &request.source)?;
    let service: ServiceName = field("service", &request.service)?;
    let connections = match api.hub.ask(Request::FindProxies(source.clone())).await? {
        Answer::Proxies(connections) => connections,
        other => return Ok(respond(other)),
    };
    let question = question(&service, &request);
    let asked = |connection| {
        let question = proto::question::Question::Explain(question.clone());
        api.hub.question(connection, question)
    };
    let Some(answer) = connections.into_iter().find_map(asked) else {
        let message = format!(
            "no proxy of {source} is connected to {}: name a source that runs there, or ask \
             another cluster",
            api.cluster
        );
        return Err(Failure::not_found(message).into());
    };
    let Ok(Ok(answer)) = tokio::time::timeout(EXPLAIN, answer).await else {
        let message = format!("the proxy of {source} did not answer in time");
        return Err(Failure::new(504, "Timeout", message).into());
    };
    if !answer.error.is_empty() {
        return Err(Failure::invalid(answer.error).into());
    }
    let view = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::internal(format!("the proxy's answer: {error}")))?;
    Ok(super::json(200, &view))
}

fn question(service: &ServiceName, request: &ExplainRequest) -> proto::Explain {
    let header = |header: &isthmus_api::HeaderPair| proto::HeaderMatch {
        name: header.name.clone(),
        value: header.value.clone(),
    };
    proto::Explain {
        namespace: service.namespace.to_string(),
        service: service.name.to_string(),
        port: request.port.map_or(0, u32::from),
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers.iter().map(header).collect(),
    }
}

fn body<T>(request: Body<T>) -> Result<T, Failure> {
    match request {
        Ok(Json(request)) => Ok(request),
        Err(error) => Err(Failure::bad_request(error.body_text())),
    }
}

fn field<T>(field: &str, text: &str) -> Result<T, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| Failure::invalid(format!("{field}: {text:?}: {error}")))
}
