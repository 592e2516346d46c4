//! `isthmus revoke`: a process or a whole cluster that nobody is to believe any more.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::{AuthorityView, RevocationView, RevocationsView, RevokeRequest, object};
use isthmus_model::{ClusterName, Kind};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api_client::{ApiClient, ApiError, clients, connect, nobody_answers};
use crate::args::RevokeArgs;
use crate::authority;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, table};
use crate::setting::Setting;
use crate::signer::Signer;

const PATH: &str = "/mesh/v1/revocations";
/// How long the others are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) async fn revoke(setting: &Setting, args: &RevokeArgs) -> Result<ExitCode> {
    match args {
        RevokeArgs::Process { of, reason } => {
            let (cluster, process) = parse(of, "a process")?;
            let request = RevokeRequest {
                process: Some(process),
                admission: None,
                reason: reason.clone(),
            };
            one(setting, of, &cluster, &request).await
        }
        RevokeArgs::Admission { of, reason } => {
            let (cluster, admission) = parse(of, "an admission")?;
            let request = RevokeRequest {
                process: None,
                admission: Some(admission.to_lowercase()),
                reason: reason.clone(),
            };
            one(setting, of, &cluster, &request).await
        }
        RevokeArgs::Cluster { name } => whole(setting, name).await,
        RevokeArgs::List => list(setting).await,
    }
}

/// `CLUSTER/NAME`.
fn parse(text: &str, what: &str) -> Result<(ClusterName, String)> {
    let wrong = |cause: String| {
        Failure::usage("bad-name", format!("{text:?} does not name {what}"))
            .cause(cause)
            .next("write the cluster and the name, such as us-west/frontend-1")
    };
    let (cluster, name) = text
        .split_once('/')
        .filter(|(_, name)| !name.is_empty())
        .ok_or_else(|| wrong("it is no pair".to_owned()))?;
    let cluster = cluster.parse();
    let cluster = cluster.map_err(|error| wrong(format!("the cluster: {error}")))?;
    Ok((cluster, name.to_owned()))
}

/// Who has heard of it.
struct Heard {
    known: Vec<String>,
    /// With the reason.
    silent: Vec<String>,
    after: Duration,
}

/// Revokes one process of a cluster, by that cluster.
async fn one(
    setting: &Setting,
    of: &str,
    cluster: &ClusterName,
    request: &RevokeRequest,
) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut client = connect(&setting.home, Some(cluster)).await?;
    let revoked: RevocationView = client.post(PATH, &json!(request)).await?;
    let others = clients(&setting.home, None)?;
    let knows = async |client: &mut ApiClient| {
        let view: RevocationsView = client.get(PATH).await?;
        let mut all = view.revocations.iter();
        let is_same = |one: &RevocationView| {
            one.cluster == revoked.cluster && one.admission == revoked.admission
        };
        Ok(all.any(is_same))
    };
    let heard = wait_for(others, begin, knows).await;
    let what = format!("{of} (admission {})", revoked.admission);
    let mut value = json!({"cluster": revoked.cluster, "admission": revoked.admission});
    if let Some(process) = &revoked.process {
        value["process"] = json!(process);
    }
    tell(setting, &what, "refuse it", value, &heard)
}

/// Revokes a cluster, by the others.
async fn whole(setting: &Setting, name: &ClusterName) -> Result<ExitCode> {
    let begin = Instant::now();
    let others = || -> Result<Vec<ApiClient>> {
        let mut others = clients(&setting.home, None)?;
        others.retain(|client| client.cluster != *name);
        Ok(others)
    };
    let mut errors = Vec::new();
    let mut found = None;
    for mut client in others()? {
        match client.connect().await {
            Ok(()) => {
                found = Some(client);
                break;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    let Some(mut client) = found else {
        return Err(nobody_answers(errors).next(format!("{name} itself is not asked")));
    };
    let signer = Signer::with_key_of(&setting.home)?;
    let path = object(Kind::Cluster, None, name.as_str());
    find(&mut client, &signer, name, &path).await?;
    let view: AuthorityView = client.get(authority::PATH).await?;
    if (view.voters.iter()).any(|voter| voter.cluster == name.as_str()) {
        if setting.format.is_none() {
            eprintln!("{name} votes on config: its vote is taken first");
        }
        authority::change(&mut client, setting, name, false).await?;
    }
    let change = write(&mut client, &signer, name, &path).await?;
    let has_heard = async |client: &mut ApiClient| {
        Ok(client
            .find(&path)
            .await?
            .is_some_and(|one| is_revoked(&one)))
    };
    let heard = wait_for(others()?, begin, has_heard).await;
    let value = json!({"cluster": name.as_str()});
    let exit = tell(
        setting,
        &format!("cluster {name}"),
        "refuse it",
        value,
        &heard,
    )?;
    if let Some(change) = change.filter(|_| setting.format.is_none()) {
        output::print(&format!("  `isthmus undo {change}` takes it back\n"))?;
    }
    Ok(exit)
}

/// Errors: there is no such cluster, or what it may must not be signed.
async fn find(
    client: &mut ApiClient,
    signer: &Signer,
    name: &ClusterName,
    path: &str,
) -> Result<Value> {
    let Some(current) = client.find(path).await? else {
        let what = format!("the mesh has no cluster {name}");
        return Err(Failure::failed("no-such-cluster", what).next(
            "`isthmus get clusters` lists all; one that somebody has deleted is revoked by applying a Cluster with \
             `revoked: true`",
        ));
    };
    signer.check_repeats(&current, &format!("Cluster/{name}"))?;
    Ok(current)
}

/// The change that revokes it; `None`: it was revoked before.
async fn write(
    client: &mut ApiClient,
    signer: &Signer,
    name: &ClusterName,
    path: &str,
) -> Result<Option<String>> {
    let current = find(client, signer, name, path).await?;
    if is_revoked(&current) {
        return Ok(None);
    }
    let mut wanted = current.clone();
    wanted["spec"]["revoked"] = json!(true);
    let written = client
        .put(path, &signer.sign(wanted, Some(&current))?)
        .await?;
    let change = written["metadata"]["resourceVersion"].as_str();
    Ok(change.map(str::to_owned))
}

/// Is it, as the cluster says that was asked? An object alone may say anything.
fn is_revoked(cluster: &Value) -> bool {
    let mut conditions = cluster["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let accepted = conditions.any(|one| one["type"] == "Accepted" && one["status"] == "True");
    accepted && cluster["spec"]["revoked"] == true
}

/// Asks each until it knows.
async fn wait_for(
    all: Vec<ApiClient>,
    begin: Instant,
    has_heard: impl AsyncFn(&mut ApiClient) -> Result<bool, ApiError>,
) -> Heard {
    let deadline = begin + PATIENCE;
    let (mut known, mut silent) = (Vec::new(), Vec::new());
    let mut waiting: Vec<_> = all
        .into_iter()
        .map(|client| (client, String::new()))
        .collect();
    let mut last = begin;
    while !waiting.is_empty() {
        let mut next = Vec::new();
        for (mut client, _) in waiting {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(AGAIN);
            let said = match tokio::time::timeout(left, has_heard(&mut client)).await {
                Ok(Ok(true)) => {
                    known.push(client.cluster.to_string());
                    last = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => format!("{} has not heard of it yet", client.cluster),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{} does not answer", client.cluster),
            };
            next.push((client, said));
        }
        if Instant::now() >= deadline {
            silent.extend(next.into_iter().map(|(_, said)| said));
            break;
        }
        waiting = next;
        sleep(AGAIN).await;
    }
    Heard {
        known,
        silent,
        after: last - begin,
    }
}

fn tell(
    setting: &Setting,
    what: &str,
    know: &str,
    mut value: Value,
    heard: &Heard,
) -> Result<ExitCode> {
    let Heard {
        known,
        silent,
        after,
    } = heard;
    let text = match setting.format {
        Some(format) => {
            value["known"] = json!(known);
            value["silent"] = json!(silent);
            output::structured(&value, format)
        }
        None => {
            let mut text = format!("{what} is revoked\n");
            if !known.is_empty() {
                let after = after.as_secs_f64();
                let _ = writeln!(text, "  {} {know}, after {after:.1} s", known.join(", "));
            }
            text
        }
    };
    output::print(&text)?;
    for silent in silent {
        eprintln!("{silent}: it learns of it when it hears of the others again");
    }
    Ok(if silent.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
}

/// Each cluster knows most of its own.
async fn list(setting: &Setting) -> Result<ExitCode> {
    let (mut found, mut silent, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        match client.get::<RevocationsView>(PATH).await {
            Ok(view) => {
                answered.push(view.cluster);
                found.extend(view.revocations);
            }
            Err(error @ ApiError::Unreachable { .. }) => silent.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    if answered.is_empty() {
        return Err(nobody_answers(silent));
    }
    // What a cluster says of itself, which has its time, comes before what others know.
    found.sort_by(|a, b| {
        (&a.cluster, &a.admission, &b.time).cmp(&(&b.cluster, &b.admission, &a.time))
    });
    found.dedup_by(|a, b| (&a.cluster, &a.admission) == (&b.cluster, &b.admission));
    let text = match setting.format {
        Some(format) => output::structured(
            &json!({"revocations": found, "unreachable": silent}),
            format,
        ),
        None if found.is_empty() => "nothing is revoked\n".to_owned(),
        None => {
            let rows = found.into_iter().map(|one| {
                let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                [
                    one.cluster,
                    one.admission,
                    known(one.process),
                    known(one.author),
                    known(one.time),
                    known(one.until),
                    known(one.reason),
                ]
            });
            let head = [
                "CLUSTER",
                "ADMISSION",
                "PROCESS",
                "BY",
                "SINCE",
                "UNTIL",
                "REASON",
            ];
            table(&head, rows)
        }
    };
    output::print(&text)?;
    for silent in &silent {
        eprintln!("not asked: {silent}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_with_its_cluster() {
        let (cluster, name) = parse("us-west/frontend-1", "a process").unwrap();
        assert_eq!((cluster.as_str(), &*name), ("us-west", "frontend-1"));
        for text in ["", "us-west", "us-west/", "/a", "US/a"] {
            assert_eq!(
                parse(text, "a process").unwrap_err().code,
                "bad-name",
                "{text}"
            );
        }
    }
}
