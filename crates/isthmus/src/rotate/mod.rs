//! `isthmus rotate`: keys and certificates in the place of others while everything runs.
//!
//! What has been done is known by the clusters, not here: whoever starts a rotation again, from anywhere, goes on
//! where it was interrupted.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use isthmus_api::{CertificateView, NewCertificate};
use isthmus_identity::{CLUSTER_LIFETIME, CertificateRequest, MeshKey};
use isthmus_model::ClusterName;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::api_client::{ApiClient, ApiError, clients, nobody_answers};
use crate::args::{RotateArgs, RotateStartArgs, Rotated};
use crate::failure::{Exit, Failure, Result};
use crate::mesh_key;
use crate::output::{self, table};
use crate::setting::Setting;

const PATH: &str = "/mesh/v1/certificate";
const REQUEST: &str = "/mesh/v1/certificate/request";
const RENEWALS: &str = "/mesh/v1/certificate/renewals";
const AGAIN: Duration = Duration::from_millis(100);
/// How often people are told who is waited for.
const WORD: Duration = Duration::from_secs(2);
/// Digits of a fingerprint that people are shown.
const DIGITS: usize = 16;

pub(crate) async fn rotate(setting: &Setting, args: &RotateArgs) -> Result<ExitCode> {
    match args {
        RotateArgs::Start(args) if args.what == Rotated::Root => root::start(setting, args).await,
        RotateArgs::Start(args) => start(setting, args).await,
        RotateArgs::Status => status(setting).await,
        RotateArgs::Finish(args) => root::finish(setting, args.timeout).await,
        RotateArgs::Abort(args) if mesh_key::next(&setting.home)?.is_some() => {
            root::abort(setting, args.timeout).await
        }
        RotateArgs::Abort(_) => abort(setting).await,
    }
}

mod root;

async fn start(setting: &Setting, args: &RotateStartArgs) -> Result<ExitCode> {
    if args.key_file.is_some() {
        let what = "--key-file says where the key of a new root is written: `rotate start root`";
        return Err(Failure::usage("no-root", what));
    }
    let mut all = views(setting).await?;
    let signing = match args.what {
        Rotated::Intermediate => {
            let keys = (
                mesh_key::read(&setting.home)?,
                mesh_key::next(&setting.home)?,
            );
            all = asked(setting, all).await?;
            Some(keys)
        }
        Rotated::Leaves | Rotated::Root => None,
    };
    let mut done = Vec::new();
    for (mut client, before) in all {
        let changed = match (&signing, &before.request) {
            (Some((present, next)), Some(request)) => {
                // A cluster that issues by the next root already does not go back.
                let is_next = |key: &&MeshKey| fingerprint(key) == before.root;
                let key = next.as_ref().filter(is_next).unwrap_or(present);
                install(&mut client, key, request).await?;
                "issues by a new key"
            }
            _ => {
                let renewed = client.post::<CertificateView>(RENEWALS, &json!({})).await;
                renewed.map_err(|error| refused(error, &client.cluster))?;
                "issues new certificates"
            }
        };
        let after = wait(setting, &mut client, Instant::now() + args.wait.timeout).await?;
        if setting.format.is_none() {
            output::print(&format!(
                "{}: {changed} (valid until {}), and {}\n",
                after.cluster,
                after.not_after,
                progress(&after)
            ))?;
        }
        let is_late = !after.waiting.is_empty();
        done.push(after);
        if is_late {
            tell(setting, &done)?;
            eprintln!(
                "no further cluster was begun with: `isthmus rotate status` shows when all have renewed, \
                 `isthmus rotate start` goes on"
            );
            return Ok(Exit::Findings.into());
        }
    }
    tell(setting, &done)?;
    Ok(ExitCode::SUCCESS)
}

/// All that the home knows, and how they stand. Who is away would be forgotten: all are there, or nothing begins.
async fn views(setting: &Setting) -> Result<Vec<(ApiClient, CertificateView)>> {
    let mut all = Vec::new();
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        let view = view(&mut client).await?;
        all.push((client, view));
    }
    Ok(all)
}

/// The cluster issues by its new key, signed with this mesh key.
async fn install(client: &mut ApiClient, key: &MeshKey, request: &str) -> Result<()> {
    let new = sign(key, &client.cluster, request)?;
    let installed = client.put(PATH, &json!(new)).await;
    installed.map_err(|error| refused(error, &client.cluster))?;
    Ok(())
}

fn fingerprint(key: &MeshKey) -> String {
    let mut roots = key.bundle().fingerprints();
    roots
        .next()
        .map_or_else(String::new, |root| root.to_string())
}

/// For a program, all at once and at the end.
fn tell(setting: &Setting, done: &[CertificateView]) -> Result<()> {
    match setting.format {
        Some(format) => output::print(&output::structured(&json!({"clusters": done}), format)),
        None => Ok(()),
    }
}

/// Those that are to have a new key, with their requests: where some were asked for already, these alone.
async fn asked(
    setting: &Setting,
    all: Vec<(ApiClient, CertificateView)>,
) -> Result<Vec<(ApiClient, CertificateView)>> {
    let (begun, mut rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(_, view)| view.request.is_some());
    if !begun.is_empty() {
        if setting.format.is_none() {
            let names = |all: &[(ApiClient, CertificateView)]| {
                let names = all.iter().map(|(client, _)| client.cluster.as_str());
                names.collect::<Vec<_>>().join(", ")
            };
            eprintln!("going on with what was begun: {}", names(&begun));
            if !rest.is_empty() {
                let rest = names(&rest);
                eprintln!("{rest}: as before, or done; started once more, it is about all again");
            }
        }
        return Ok(begun);
    }
    for (client, view) in &mut rest {
        let asked = client.post(REQUEST, &json!({})).await;
        *view = asked.map_err(|error| refused(error, &client.cluster))?;
    }
    Ok(rest)
}

fn sign(key: &MeshKey, cluster: &ClusterName, request: &str) -> Result<NewCertificate> {
    let failed = |cause: String| {
        let what = format!("the certificate of {cluster} cannot be signed");
        Failure::failed("not-signed", what).cause(cause)
    };
    let request =
        CertificateRequest::from_pem(request).map_err(|error| failed(error.to_string()))?;
    let now = SystemTime::now();
    let chain = key.sign_cluster(&request, cluster, now, CLUSTER_LIFETIME);
    let chain = chain.map_err(|error| failed(error.to_string()))?.to_pem();
    Ok(NewCertificate { chain })
}

/// Until all of the cluster's processes have renewed, or `deadline`.
async fn wait(
    setting: &Setting,
    client: &mut ApiClient,
    deadline: Instant,
) -> Result<CertificateView> {
    let mut word = Instant::now() + WORD;
    loop {
        let is_late = Instant::now() >= deadline;
        let view = match client.get::<CertificateView>(PATH).await {
            Ok(view) => view,
            // As while it starts anew.
            Err(ApiError::Unreachable { .. }) if !is_late => {
                sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(refused(error, &client.cluster)),
        };
        if view.waiting.is_empty() || is_late {
            return Ok(view);
        }
        if setting.format.is_none() && Instant::now() >= word {
            word += WORD;
            eprintln!("{}: {}", view.cluster, progress(&view));
        }
        sleep(AGAIN).await;
    }
}

fn progress(view: &CertificateView) -> String {
    let CertificateView {
        renewed, waiting, ..
    } = view;
    match waiting.as_slice() {
        [] => format!("all {renewed} processes hold certificates of it"),
        [first] => format!(
            "{renewed} of {} processes have renewed, not {first}",
            renewed + 1
        ),
        [first, rest @ ..] => format!(
            "{renewed} of {} processes have renewed, not {first} and {} others",
            renewed + waiting.len(),
            rest.len()
        ),
    }
}

/// Errors: it does not answer, or is of a version that knows nothing of this.
async fn view(client: &mut ApiClient) -> Result<CertificateView> {
    let view = client.get(PATH).await;
    view.map_err(|error| refused(error, &client.cluster))
}

fn refused(error: ApiError, cluster: &ClusterName) -> Failure {
    match error {
        ApiError::Refused(failure) if failure.code == 404 => {
            let what = format!("the control plane of {cluster} is of a version that cannot rotate");
            Failure::failed("too-old", what).next("upgrade it first")
        }
        error @ ApiError::Unreachable { .. } => Failure::from(error)
            .next("name another cluster with --cluster: each is rotated for itself"),
        error => error.into(),
    }
}

async fn status(setting: &Setting) -> Result<ExitCode> {
    let (mut views, mut silent) = (Vec::new(), Vec::new());
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        match client.get::<CertificateView>(PATH).await {
            Ok(view) => views.push(view),
            Err(error @ ApiError::Unreachable { .. }) => silent.push(error.to_string()),
            Err(error) => return Err(refused(error, &client.cluster)),
        }
    }
    if views.is_empty() {
        return Err(nobody_answers(silent));
    }
    let text = match setting.format {
        Some(format) => {
            output::structured(&json!({"clusters": views, "unreachable": silent}), format)
        }
        None => {
            let rows = views.iter().map(|view| {
                [
                    view.cluster.clone(),
                    view.fingerprint.chars().take(DIGITS).collect(),
                    view.root.chars().take(DIGITS).collect(),
                    view.not_after.clone(),
                    state(view),
                ]
            });
            table(&["CLUSTER", "CERTIFICATE", "ROOT", "UNTIL", "STATE"], rows)
        }
    };
    output::print(&text)?;
    for silent in &silent {
        eprintln!("not asked: {silent}");
    }
    Ok(ExitCode::SUCCESS)
}

fn state(view: &CertificateView) -> String {
    let state = match view.request {
        Some(_) => "a new key waits for its certificate".to_owned(),
        None => progress(view),
    };
    match view.trusted.len() {
        0 | 1 => state,
        roots => format!("{state}; {roots} roots are trusted"),
    }
}

async fn abort(setting: &Setting) -> Result<ExitCode> {
    let mut given_up = Vec::new();
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        if view(&mut client).await?.request.is_some() {
            let deleted = client.delete(REQUEST).await;
            deleted.map_err(|error| refused(error, &client.cluster))?;
            given_up.push(client.cluster.to_string());
        }
    }
    let text = match setting.format {
        Some(format) => output::structured(&json!({"aborted": given_up}), format),
        None if given_up.is_empty() => "no new key waits for its certificate\n".to_owned(),
        None => format!("{}: the new key was given up\n", given_up.join(", ")),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_renewed_is_named() {
        let said = |renewed, waiting: &[&str]| {
            progress(&CertificateView {
                renewed,
                waiting: waiting.iter().map(ToString::to_string).collect(),
                ..CertificateView::default()
            })
        };
        assert_eq!(said(3, &[]), "all 3 processes hold certificates of it");
        assert_eq!(said(3, &["a"]), "3 of 4 processes have renewed, not a");
        assert_eq!(
            said(0, &["a", "b", "c"]),
            "0 of 3 processes have renewed, not a and 2 others"
        );
    }
}
