//! `isthmus check`: what in the mesh a person should look at, and what to do about it.
//!
//! Asks every cluster's API and nothing else; what the answers mean is decided in [`judge`].

mod finding;
mod judge;

use std::process::ExitCode;
use std::time::SystemTime;

use self::finding::{Code, Finding, Report, merged};
use self::judge::judge;
use crate::failure::{Exit, Result};
use crate::output;
use crate::setting::Setting;
use crate::survey::{Answered, Survey, survey};

pub(crate) async fn check(setting: &Setting) -> Result<ExitCode> {
    let Survey { answers, silent } = survey(setting).await?;
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
