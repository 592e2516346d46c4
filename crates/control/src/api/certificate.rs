//! `/mesh/v1/certificate`: how the cluster's authority is replaced by one with a new key.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use isthmus_api::{CertificateView, Failure, NewCertificate, NewRoots};
use isthmus_identity::{RootFingerprint, TrustBundle};

use super::views::{Body, body};
use super::{Api, Author, Refusal, Shared, respond};
use crate::core::{Answer, Event, Generation, Request};
use crate::issuer::{Issuer, IssuerError};
use crate::time::{rfc3339, unix_millis};

impl From<IssuerError> for Refusal {
    fn from(error: IssuerError) -> Self {
        let message = error.to_string();
        Self(match error {
            IssuerError::NothingAsked | IssuerError::Installed => Failure::conflict(message),
            error if error.is_of_request() => Failure::invalid(message),
            _ => Failure::internal(message),
        })
    }
}

pub(super) async fn show(State(api): Shared) -> Result<Response, Refusal> {
    view(&api).await
}

/// Makes a new key, and the request for its certificate; the one that is there stays.
pub(super) async fn request(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
) -> Result<Response, Refusal> {
    change(&api, Issuer::request).await?;
    tracing::info!(
        author,
        "a certificate for a new key of this cluster is asked for"
    );
    view(&api).await
}

pub(super) async fn abort(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
) -> Result<Response, Refusal> {
    if change(&api, |issuer| issuer.abort(SystemTime::now())).await? {
        tracing::info!(
            author,
            "the certificate for a new key of this cluster is not asked for any more"
        );
    }
    view(&api).await
}

/// The signed certificate: the new key takes over.
pub(super) async fn install(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
    request: Body<NewCertificate>,
) -> Result<Response, Refusal> {
    let NewCertificate { chain } = body(request)?;
    let installed = move |issuer: &Issuer| issuer.install(&chain, SystemTime::now());
    let said = "this cluster issues by a new key: its processes renew their certificates";
    reissue(api, author, said, installed).await
}

/// Which roots are trusted from now on: all processes are told, with new certificates.
pub(super) async fn trust(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
    request: Body<NewRoots>,
) -> Result<Response, Refusal> {
    let said: NewRoots = body(request)?;
    let serial = said.serial;
    whole(async move {
        let (generation, trust) = change(&api, move |issuer| issuer.trust_in(&said)).await?;
        let roots = roots_of(&trust);
        tracing::info!(author, serial, ?roots, "these roots are trusted");
        api.hub.tell(Event::Trust { serial, trust }).await?;
        tell(&api, generation).await
    })
    .await
}

/// Has all processes renew.
pub(super) async fn renew(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
) -> Result<Response, Refusal> {
    let renewed = |issuer: &Issuer| Ok(issuer.renew_all(SystemTime::now()));
    let said = "the processes of this cluster renew their certificates";
    reissue(api, author, said, renewed).await
}

async fn reissue(
    api: Arc<Api>,
    author: String,
    said: &'static str,
    replaced: impl FnOnce(&Issuer) -> Result<Generation, IssuerError> + Send + 'static,
) -> Result<Response, Refusal> {
    whole(async move {
        let generation = change(&api, replaced).await?;
        tracing::info!(author, "{said}");
        tell(&api, generation).await
    })
    .await
}

async fn tell(api: &Api, generation: Generation) -> Result<Response, Refusal> {
    api.hub.tell(Event::Issuing(generation)).await?;
    view(api).await
}

fn roots_of(trust: &TrustBundle) -> Vec<String> {
    trust.fingerprints().map(|root| root.to_string()).collect()
}

/// Also when whoever asked for it does not wait for the end: what was changed is told.
async fn whole(
    change: impl Future<Output = Result<Response, Refusal>> + Send + 'static,
) -> Result<Response, Refusal> {
    let done = tokio::spawn(change).await;
    done.map_err(|error| {
        Failure::internal(format!("the certificate could not be changed: {error}"))
    })?
}

/// It writes files.
async fn change<T: Send + 'static>(
    api: &Api,
    change: impl FnOnce(&Issuer) -> Result<T, IssuerError> + Send + 'static,
) -> Result<T, Refusal> {
    let issuer = Arc::clone(&api.issuer);
    let done = tokio::task::spawn_blocking(move || change(&issuer)).await;
    let failed =
        |error| Failure::internal(format!("the certificate could not be changed: {error}"));
    Ok(done.map_err(failed)??)
}

async fn view(api: &Api) -> Result<Response, Refusal> {
    let renewals = match api.hub.ask(Request::Renewals).await? {
        Answer::Renewals(renewals) => renewals,
        other => return Ok(respond(other)),
    };
    let authority = api.issuer.load().authority.clone();
    let chain = authority.chain();
    let mut fingerprints = chain.as_slice().iter().map(RootFingerprint::of);
    let mut fingerprint = || (fingerprints.next()).map_or_else(String::new, |one| one.to_string());
    let (from, until) =
        (chain.validity().next()).unwrap_or((SystemTime::UNIX_EPOCH, authority.not_after()));
    let time = |time| rfc3339(unix_millis(time));
    let asked = |issuer: &Issuer| Ok((issuer.requested()?, issuer.serial()));
    let (request, serial) = change(api, asked).await?;
    let view = CertificateView {
        cluster: api.config.cluster.to_string(),
        fingerprint: fingerprint(),
        root: fingerprint(),
        not_before: time(from),
        not_after: time(until),
        trusted: roots_of(&api.issuer.trust().load()),
        serial,
        request,
        renewed: renewals.renewed,
        waiting: renewals.waiting,
    };
    Ok(axum::Json(view).into_response())
}
