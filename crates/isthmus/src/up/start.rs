//! Bringing a mesh up once its control planes run: resources into an empty store, tokens for
//! processes, one after the other admitted.

use std::sync::Arc;
use std::time::Duration;

use isthmus_api::{ObjectList, StatusView, collection};
use isthmus_model::Kind;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::event::{Event, Events, tell};
use super::fleet::{ProcessId, Stage};
use super::plan::Plan;
use super::planned::{API_PORT, PlannedCluster};
use super::readiness;
use crate::api_client::{ApiClient, ApiError, Credentials};
use crate::failure::{Failure, Result};
use crate::home::{self, Home};
use crate::resources::{Outcome, apply_one};
use crate::signer::Signer;
use crate::status::STATUS_PATH;
use crate::token;

/// How long a control plane may take to answer, and a cluster to learn what it needs.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);

/// Runs to its end beside the supervisor.
pub(crate) async fn bring_up(
    plan: Arc<Plan>,
    credentials: Credentials,
    apply: bool,
    home: Home,
    events: Events,
) {
    let outcome = match fill(&plan, &credentials, apply, &events, &home).await {
        Ok(position) => admit_all(&plan, &credentials, position, &events).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = outcome {
        tell(&events, Event::Failed(failure)).await;
    }
}

/// Writes the resources if the store is empty or it was asked for. The position all clusters must
/// have reached before their processes ask for anything.
async fn fill(
    plan: &Plan,
    credentials: &Credentials,
    apply: bool,
    events: &Events,
    home: &Home,
) -> Result<u64> {
    let mut client = client(&plan.clusters[0], credentials);
    wait_for(&mut client).await?;
    let meshes: ObjectList = client.get(&collection(Kind::Mesh, None)).await?;
    let first = meshes.items.is_empty();
    let signer = Signer::of(home);
    let mut differing = Vec::new();
    let mut written = 0usize;
    for parsed in &plan.resources {
        let object = parsed.document.object.clone().into_json();
        let dry_run = !(first || apply);
        let outcome = apply_one(&mut client, &signer, &parsed.key, object, dry_run).await;
        match outcome.map_err(|error| about(&parsed.key.to_string(), error))? {
            Outcome::Unchanged => {}
            _ if dry_run => differing.push(parsed.key.to_string()),
            _ => written += 1,
        }
    }
    if written > 0 {
        tell(events, Event::Note(format!("{written} resources written"))).await;
    }
    if !differing.is_empty() {
        let note = format!(
            "the files differ from the mesh in {}: `isthmus diff -f {}` shows how, `up --apply` writes \
             them",
            differing.join(", "),
            home.manifest().display()
        );
        tell(events, Event::Note(note)).await;
    }
    let view: StatusView = client.get(STATUS_PATH).await?;
    Ok(view.position)
}

fn about(object: &str, mut failure: Failure) -> Failure {
    failure.what = format!("{object}: {}", failure.what);
    failure
}

/// Clusters do not wait for each other: one that is cut off holds up nobody else.
async fn admit_all(
    plan: &Arc<Plan>,
    credentials: &Credentials,
    position: u64,
    events: &Events,
) -> Result<()> {
    let mut clusters = JoinSet::new();
    for index in 0..plan.clusters.len() {
        let (plan, credentials, events) = (plan.clone(), credentials.clone(), events.clone());
        clusters.spawn(async move {
            let cluster = &plan.clusters[index];
            let mut client = client(cluster, &credentials);
            wait_for(&mut client).await?;
            wait_for_position(&mut client, position).await?;
            let own = plan.processes.iter().enumerate().filter(|(_, process)| {
                process.cluster == cluster.name && process.stage != Stage::Control
            });
            let (callers, others): (Vec<_>, Vec<_>) =
                own.partition(|(_, process)| process.only_calls());
            for (id, _) in others {
                renew_token(&plan, id, &mut client).await?;
                tell(&events, Event::Admitted(id)).await;
            }
            if !callers.is_empty() {
                wait_for_services(&plan, cluster, &mut client).await;
            }
            for (id, _) in callers {
                renew_token(&plan, id, &mut client).await?;
                tell(&events, Event::Admitted(id)).await;
            }
            Ok(())
        });
    }
    while let Some(joined) = clusters.join_next().await {
        joined.unwrap_or_else(|error| {
            Err(Failure::failed("start", "a cluster could not be started").caused_by(&error))
        })?;
    }
    Ok(())
}

/// Puts a fresh join token where the process will look for it.
async fn renew_token(plan: &Plan, id: ProcessId, client: &mut ApiClient) -> Result<()> {
    let process = &plan.processes[id];
    let Some((request, path)) = &process.token else {
        return Ok(());
    };
    let reply = token::mint(client, request)
        .await
        .map_err(|error| about(&process.full_name(), error.into()))?;
    home::write_file(path, &(reply.token + "\n"))
}

/// Gives a process that is about to be started again a fresh token if its cluster can be asked; if
/// not, it has to come up with what it keeps in its state.
pub(crate) async fn admit_again(plan: Arc<Plan>, credentials: Credentials, ids: Vec<ProcessId>) {
    for id in ids {
        let cluster = plan
            .clusters
            .iter()
            .find(|each| each.name == plan.processes[id].cluster);
        if let Some(cluster) = cluster {
            let mut client = client(cluster, &credentials);
            // Best effort, see above.
            let _ = renew_token(&plan, id, &mut client).await;
        }
    }
}

pub(crate) fn client(cluster: &PlannedCluster, credentials: &Credentials) -> ApiClient {
    ApiClient::new(
        cluster.name.clone(),
        (cluster.control, API_PORT).into(),
        credentials,
    )
}

async fn wait_for(client: &mut ApiClient) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.connect().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                let next = format!("see `isthmus logs {}/control`", client.cluster);
                return Err(Failure::from(error).next(next));
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Programs that only call others start when their cluster sees those others healthy, and in any
/// case after [`PATIENCE`].
async fn wait_for_services(plan: &Plan, cluster: &PlannedCluster, client: &mut ApiClient) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let view: Result<StatusView, ApiError> = client.get(STATUS_PATH).await;
        if view.is_ok_and(|view| readiness::sees_all(plan, cluster, &view)) {
            return;
        }
        sleep(AGAIN).await;
    }
}

async fn wait_for_position(client: &mut ApiClient, position: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view: Result<StatusView, ApiError> = client.get(STATUS_PATH).await;
        match view {
            Ok(view) if view.position >= position => return Ok(()),
            Ok(view) if Instant::now() >= deadline => {
                let what = format!(
                    "cluster {} has not heard of the config: it is at position {}, the mesh at {position}",
                    client.cluster, view.position
                );
                let next = format!("see `isthmus logs {}/control`", client.cluster);
                return Err(Failure::failed("config-not-replicated", what).next(next));
            }
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            _ => sleep(AGAIN).await,
        }
    }
}
