//! What every cluster says of the mesh, asked at once.

use std::cmp::Ordering;

use isthmus_api::{ObjectList, StatusView, collection};
use isthmus_identity::{Certificates, Validity};
use isthmus_model::Kind;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::api_client::{ApiClient, ApiError, clients, nobody_answers};
use crate::failure::{Failure, Result};
use crate::setting::Setting;
use crate::status::STATUS_PATH;

/// What one cluster has answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) view: StatusView,
    /// Every object of config, as this cluster has it.
    pub(crate) objects: Vec<Value>,
    /// Every object that belongs to this cluster itself.
    pub(crate) own: Vec<Value>,
    /// Of its control plane, its cluster and the mesh.
    pub(crate) certificates: Vec<Validity>,
}

/// What all of them have.
#[derive(Debug)]
pub(crate) struct Survey {
    /// In the order of their names.
    pub(crate) answers: Vec<Answered>,
    /// Clusters that do not answer, and why.
    pub(crate) silent: Vec<(String, String)>,
}

/// Asks every cluster that the home knows, or the one that `--cluster` names.
///
/// Errors: no cluster answers, or one refuses.
pub(crate) async fn survey(setting: &Setting) -> Result<Survey> {
    let mut asked = JoinSet::new();
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        asked.spawn(async move {
            let answered = ask(&mut client).await;
            (client.cluster, answered)
        });
    }
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    while let Some(asked) = asked.join_next().await {
        let (cluster, answered) = asked.map_err(|error| {
            Failure::failed("bug", "a cluster could not be asked").caused_by(&error)
        })?;
        match answered {
            Ok(answered) => answers.push(answered),
            Err(error @ ApiError::Unreachable { .. }) => {
                silent.push((cluster.to_string(), error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if answers.is_empty() {
        let causes = silent.into_iter().map(|(_, cause)| cause);
        return Err(nobody_answers(causes.collect()));
    }
    answers.sort_by(by_name);
    silent.sort();
    Ok(Survey { answers, silent })
}

fn by_name(a: &Answered, b: &Answered) -> Ordering {
    a.view.cluster.cmp(&b.view.cluster)
}

/// Everything that a cluster's API says of the mesh.
async fn ask(client: &mut ApiClient) -> Result<Answered, ApiError> {
    let view = client.get(STATUS_PATH).await?;
    let mut objects = Vec::new();
    // Workloads are facts, not config: the view counts them.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Workload) {
        let list: ObjectList = client.get(&collection(kind, None)).await?;
        objects.extend(list.items);
    }
    let mut own = Vec::new();
    client.origin = Some(client.cluster.clone());
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_clusters()) {
        // A version that knows none has none.
        let list: Option<ObjectList> = client.find_as(&collection(kind, None)).await?;
        own.extend(list.into_iter().flat_map(|list| list.items));
    }
    client.origin = None;
    let certificates = client.chain().map(Certificates::validity);
    Ok(Answered {
        view,
        objects,
        own,
        certificates: certificates.into_iter().flatten().collect(),
    })
}
