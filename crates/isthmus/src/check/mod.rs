//! `isthmus check`: what in the mesh a person should look at, and what to do about it.
//!
//! Asks every cluster's API and nothing else; what the answers mean is decided in [`judge`].

mod finding;
mod judge;

use std::process::ExitCode;
use std::time::SystemTime;

use isthmus_api::{ObjectList, collection};
use isthmus_identity::Certificates;
use isthmus_model::Kind;
use tokio::task::JoinSet;

use self::finding::{Code, Finding, Report, merged};
use self::judge::{Answered, judge};
use crate::api_client::{ApiClient, ApiError, clients, nobody_answers};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::setting::Setting;
use crate::status::STATUS_PATH;

pub(crate) async fn check(setting: &Setting) -> Result<ExitCode> {
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
        return Err(nobody_answers(
            silent.into_iter().map(|(_, cause)| cause).collect(),
        ));
    }
    answers.sort_by(|a, b| a.view.cluster.cmp(&b.view.cluster));
    let report = report(&answers, silent, SystemTime::now());
    let text = match setting.format {
        Some(format) => output::structured(&report, format),
        None => finding::render(&report, setting.color),
    };
    output::print(&text)?;
    Ok(if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
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
    let certificates = client.chain().map(Certificates::validity);
    Ok(Answered {
        view,
        objects,
        certificates: certificates.into_iter().flatten().collect(),
    })
}

fn report(answers: &[Answered], silent: Vec<(String, String)>, now: SystemTime) -> Report {
    let mut findings: Vec<Finding> = silent.into_iter().map(unreachable).collect();
    findings.extend(judge(answers, now));
    let checked = answers.iter().map(|answered| answered.view.cluster.clone());
    Report {
        checked: checked.collect(),
        findings: merged(findings),
    }
}

fn unreachable((cluster, cause): (String, String)) -> Finding {
    Finding {
        code: Code::ApiUnreachable,
        subject: format!("cluster {cluster}"),
        clusters: Vec::new(),
        what: "its API does not answer".to_owned(),
        causes: vec![cause],
        fix: format!(
            "see `isthmus logs {cluster}/control`; where `up` runs, start it with \
             `isthmus control start {cluster}`"
        ),
    }
}
