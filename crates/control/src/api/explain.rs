//! `POST /mesh/v1/explain`: a proxy of the caller decides; whom it could reach in another cluster
//! without knowing it yet, that cluster is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use isthmus_api::{
    BackendView, ChoiceView, ExplainReply, ExplainRequest, Failure, ObjectList, Way, WorkloadView,
};
use isthmus_model::{Kind, Origin, ServiceName};
use isthmus_wire::proto;
use serde::Deserialize;

use super::views::{Body, body, field};
use super::{Api, Refusal, Shared, respond};
use crate::core::{Answer, Request, Selection};

/// How long the proxy may think: it may have to ask for a service that nobody has called before.
const PATIENCE: Duration = Duration::from_secs(3);

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
            api.config.cluster
        );
        return Err(Failure::not_found(message).into());
    };
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answer).await else {
        let message = format!("the proxy of {source} did not answer in time");
        return Err(Failure::new(504, "Timeout", message).into());
    };
    if !answer.error.is_empty() {
        return Err(Failure::invalid(answer.error).into());
    }
    let internal = |error: serde_json::Error| Failure::internal(format!("the answer: {error}"));
    let mut reply: ExplainReply = serde_json::from_slice(&answer.body).map_err(internal)?;
    for backend in &mut reply.backends {
        name_remote_workloads(&api, backend).await?;
    }
    Ok(super::json(
        200,
        &serde_json::to_value(reply).map_err(internal)?,
    ))
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

/// A tunnel leads to whom the other cluster's gateway picks, and only that cluster knows among whom.
async fn name_remote_workloads(api: &Api, backend: &mut BackendView) -> Result<(), Refusal> {
    if !backend.choices.iter().any(|choice| choice.opens_tunnel) {
        return Ok(());
    }
    let service: ServiceName = field("service", &backend.service)?;
    let workloads = Selection {
        origin: Origin::Mesh,
        kind: Kind::Workload,
        namespace: Some(service.namespace.clone()),
        name: None,
    };
    let Answer::Json { body, .. } = api.hub.ask(Request::Read(workloads)).await? else {
        return Err(Failure::internal("workloads were not listed").into());
    };
    let list: ObjectList = serde_json::from_value(body)
        .map_err(|error| Failure::internal(format!("the list of workloads: {error}")))?;
    for choice in &mut backend.choices {
        if choice.opens_tunnel {
            add_listed(choice, &service, &backend.subset, &list);
        }
    }
    Ok(())
}

fn add_listed(choice: &mut ChoiceView, service: &ServiceName, subset: &str, list: &ObjectList) {
    let listed = list.items.iter().filter_map(|item| {
        let workload = ListedWorkload::deserialize(item).ok()?;
        let belongs = Some(&workload.spec.cluster) == choice.cluster.as_ref()
            && workload.spec.service == service.name.as_str()
            && workload.status.health == "Healthy"
            && workload.metadata.is_of(subset);
        belongs.then_some(workload.metadata.name)
    });
    for handle in listed {
        // Of one that the proxy knows, it knows more.
        if choice.workloads.iter().all(|known| known.handle != handle) {
            choice.workloads.push(WorkloadView {
                handle,
                way: Way::NoTunnel,
                possible: true,
                latency_ms: None,
                in_flight: 0,
            });
        }
    }
    let mut silent = list.unreachable.iter();
    choice.unreachable = silent
        .find(|silent| Some(&silent.cluster) == choice.cluster.as_ref())
        .cloned();
}

/// What is read here of a Workload as the API shows it.
#[derive(Debug, Deserialize)]
struct ListedWorkload {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    service: String,
    cluster: String,
}

#[derive(Debug, Deserialize)]
struct Status {
    health: String,
}

impl Metadata {
    /// `subset` is written `version=v2,tier=gold`, or `*` for all.
    fn is_of(&self, subset: &str) -> bool {
        let has = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.labels.get(key).is_some_and(|label| label == value)
        };
        subset == "*" || subset.split(',').all(has)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn workload(name: &str, service: &str, cluster: &str, version: &str, health: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"version": version}},
            "spec": {"service": service, "cluster": cluster},
            "status": {"health": health},
        })
    }

    #[test]
    fn a_tunnel_can_lead_to_healthy_workloads_of_subset_and_cluster() {
        let list: ObjectList = serde_json::from_value(json!({
            "kind": "WorkloadList", "apiVersion": "x", "metadata": {"resourceVersion": "1"},
            "items": [
                workload("known", "cart", "east", "v1", "Healthy"),
                workload("new", "cart", "east", "v1", "Healthy"),
                workload("sick", "cart", "east", "v1", "Unhealthy"),
                workload("other-subset", "cart", "east", "v2", "Healthy"),
                workload("other-cluster", "cart", "south", "v1", "Healthy"),
                workload("other-service", "payment", "east", "v1", "Healthy"),
                {"metadata": {}},
            ],
            "unreachable": [{"cluster": "south", "lastSeenMs": 4000}],
        }))
        .unwrap();
        let choice = |cluster: &str| -> ChoiceView {
            serde_json::from_value(json!({
                "cluster": cluster, "reason": "nearest", "share": 1.0, "opensTunnel": true,
                "workloads": [{"handle": "known", "way": "tunnel", "possible": false,
                               "latencyMs": 2.0, "inFlight": 3}],
            }))
            .unwrap()
        };
        let service = ServiceName::new("shop", "cart").unwrap();
        let named = |cluster: &str, subset: &str| {
            let mut choice = choice(cluster);
            add_listed(&mut choice, &service, subset, &list);
            let show = |workload: &WorkloadView| {
                let WorkloadView {
                    handle,
                    way,
                    possible,
                    ..
                } = workload;
                format!("{handle} {way:?} {possible}")
            };
            let shown: Vec<String> = choice.workloads.iter().map(show).collect();
            (shown.join(", "), choice.unreachable)
        };
        let known = "known Tunnel false";
        let new = format!("{known}, new NoTunnel true");
        assert_eq!(named("east", "version=v1"), (new.clone(), None));
        assert_eq!(
            named("east", "*"),
            (format!("{new}, other-subset NoTunnel true"), None)
        );
        assert_eq!(
            named("east", "version=v1,tier=gold"),
            (known.to_owned(), None)
        );
        let (south, silent) = named("south", "version=v1");
        assert_eq!(south, format!("{known}, other-cluster NoTunnel true"));
        assert_eq!(silent, list.unreachable.first().cloned());
    }
}
