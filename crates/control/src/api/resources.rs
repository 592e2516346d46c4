//! Resources: get, list, watch, create, update, delete.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use isthmus_api::{Failure, ResourcePath};
use isthmus_model::{Origin, Position, ResourceKey};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::{Author, Refusal, Shared, respond};
use crate::core::{Answer, Request, Selection, Verb, WatchEvent, Write, kinds, selection};
use crate::hub::WatchStream;

/// Query parameters that mean something here; others are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Parameters {
    #[serde(default)]
    watch: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    dry_run: Option<String>,
    /// Bookmarks are always sent.
    #[serde(default, rename = "allowWatchBookmarks")]
    _bookmarks: Option<String>,
    /// The connection is kept for as long as the client keeps it.
    #[serde(default, rename = "timeoutSeconds")]
    _timeout: Option<String>,
    /// Named by `kubectl`, without effect here.
    #[serde(default, rename = "fieldManager")]
    _manager: Option<String>,
    #[serde(default, rename = "fieldValidation")]
    _validation: Option<String>,
    #[serde(default, rename = "limit")]
    _limit: Option<String>,
}

/// Everything under `/api` and `/apis`.
pub(super) async fn any(
    State(api): Shared,
    Extension(Author(author)): Extension<Author>,
    method: Method,
    uri: Uri,
    query: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Refusal> {
    let (origin, path) = origin(uri.path())?;
    let Some(path) = ResourcePath::parse(path) else {
        let message = format!(
            "no kind is served at {}; the kinds are {}",
            uri.path(),
            kinds()
        );
        return Err(Failure::not_found(message).into());
    };
    let Query(parameters) = query.map_err(|error| Failure::bad_request(error.body_text()))?;
    let body = body.map_err(|error| match error.status().as_u16() {
        413 => Failure::new(413, "RequestEntityTooLarge", "an object has at most 1 MiB"),
        _ => Failure::bad_request(error.body_text()),
    })?;
    let selection = selection(origin, &path)?;
    if method == Method::GET {
        return read(&api.hub, selection, &parameters).await;
    }
    let write = write(&method, selection, &parameters, &body, author)?;
    Ok(respond(api.hub.ask(Request::Write(write)).await?))
}

/// To whom belongs what the path names, and the rest of the path.
pub(super) fn origin(path: &str) -> Result<(Origin, &str), Failure> {
    let Some((cluster, path)) = isthmus_api::cluster_of(path) else {
        return Ok((Origin::Mesh, path));
    };
    let cluster = cluster.parse().map_err(|error| {
        Failure::bad_request(format!("{cluster:?} is not the name of a cluster: {error}"))
    })?;
    Ok((Origin::Cluster(cluster), path))
}

async fn read(
    hub: &crate::hub::Hub,
    selection: Selection,
    parameters: &Parameters,
) -> Result<Response, Refusal> {
    if !is_true(parameters.watch.as_deref()) {
        return Ok(respond(hub.ask(Request::Read(selection)).await?));
    }
    // 0 means "any", as in Kubernetes: what there is comes first.
    let since = parameters
        .resource_version
        .as_deref()
        .filter(|text| !matches!(*text, "" | "0"));
    let since = since.map(position).transpose()?;
    let (answer, stream) = hub.watch(Request::Watch { selection, since }).await?;
    match answer {
        Answer::Watching => Ok(lines(stream)),
        other => Ok(respond(other)),
    }
}

/// One JSON object a line, for as long as somebody reads.
fn lines(stream: WatchStream) -> Response {
    let line = |event: WatchEvent| Ok::<_, Infallible>(format!("{}\n", event.to_json()));
    let body = Body::from_stream(stream.map(line));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn write(
    method: &Method,
    selection: Selection,
    parameters: &Parameters,
    body: &Bytes,
    author: String,
) -> Result<Write, Failure> {
    let verb = match (method, &selection.name) {
        (&Method::POST, None) => Verb::Create,
        (&Method::PUT, Some(_)) => Verb::Update,
        (&Method::DELETE, Some(_)) => Verb::Delete,
        _ => {
            let message = format!(
                "{method} does not go with this path: POST creates in a collection, PUT and \
                 DELETE take an object's own path"
            );
            return Err(Failure::new(405, "MethodNotAllowed", message));
        }
    };
    let dry_run = match parameters.dry_run.as_deref() {
        None => false,
        Some("All") => true,
        Some(other) => {
            let message = format!("dryRun={other} is not known; `All` is");
            return Err(Failure::bad_request(message));
        }
    };
    let (object, dry_run) = match verb {
        Verb::Delete => {
            let (object, only_tried) = delete_options(body)?;
            (object, dry_run || only_tried)
        }
        Verb::Create | Verb::Update => (Some(object(body, &selection)?), dry_run),
    };
    let name = match (&selection.name, &object) {
        (Some(name), _) => name.clone(),
        (None, object) => name_of(object.as_ref())?,
    };
    let (kind, namespace) = (selection.kind, selection.namespace);
    if kind.namespaced() && namespace.is_none() {
        return Err(Failure::bad_request(format!(
            "{kind} objects live in a namespace: write them under \
             {}",
            isthmus_api::collection(kind, Some("<namespace>"))
        )));
    }
    Ok(Write {
        author,
        verb,
        key: ResourceKey {
            origin: selection.origin,
            kind,
            namespace,
            name,
        },
        object,
        dry_run,
    })
}

/// Of Kubernetes' DeleteOptions, what has an effect here: `preconditions.resourceVersion`, as an object of
/// that version, and whether `dryRun` says that it is only tried.
fn delete_options(body: &Bytes) -> Result<(Option<Value>, bool), Failure> {
    if body.is_empty() {
        return Ok((None, false));
    }
    let options: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))?;
    if options.pointer("/preconditions/uid").is_some() {
        let message = "preconditions.uid is not known here; preconditions.resourceVersion is";
        return Err(Failure::bad_request(message));
    }
    let version = options.pointer("/preconditions/resourceVersion");
    let object = version.map(|version| json!({"metadata": {"resourceVersion": version}}));
    match options.get("dryRun") {
        None => Ok((object, false)),
        Some(all) if *all == json!(["All"]) => Ok((object, true)),
        Some(other) => {
            let message = format!("dryRun {other} is not known; [\"All\"] is");
            Err(Failure::bad_request(message))
        }
    }
}

/// The body, in the namespace of the path unless it says otherwise.
fn object(body: &Bytes, selection: &Selection) -> Result<Value, Failure> {
    let mut object: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))?;
    if let Some(namespace) = &selection.namespace
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata
            .entry("namespace")
            .or_insert_with(|| json!(namespace.as_str()));
    }
    Ok(object)
}

fn name_of(object: Option<&Value>) -> Result<isthmus_model::ObjectName, Failure> {
    let name = object.and_then(|object| object["metadata"]["name"].as_str());
    let name = name.ok_or_else(|| Failure::invalid("metadata.name is missing"))?;
    name.parse().map_err(|error| {
        Failure::invalid(format!("metadata.name: {name:?} is not a name: {error}"))
    })
}

fn position(text: &str) -> Result<Position, Failure> {
    text.parse().map(Position).map_err(|_| {
        Failure::bad_request(format!(
            "resourceVersion {text:?} is not one that this API gave out"
        ))
    })
}

fn is_true(parameter: Option<&str>) -> bool {
    matches!(parameter, Some("true" | "1"))
}
