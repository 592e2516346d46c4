//! `isthmus drift`: what clusters do not have in common, and why.
//!
//! Asks every cluster's API and nothing else; what the answers mean is decided in [`judge`].

mod judge;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use self::judge::{Drift, judge};
use crate::failure::{Exit, Result};
use crate::output::{self, table};
use crate::setting::Setting;
use crate::survey::survey;

/// What is on its way arrives meanwhile: so often it is looked again, this long apart.
const LOOKS: usize = 4;
const APART: Duration = Duration::from_millis(500);

pub(crate) async fn drift(setting: &Setting) -> Result<ExitCode> {
    let mut surveyed = survey(setting).await?;
    let mut found = judge(&surveyed.answers);
    for _ in 1..LOOKS {
        if found.is_none() {
            break;
        }
        sleep(APART).await;
        surveyed = survey(setting).await?;
        found = judge(&surveyed.answers);
    }
    let answers = &surveyed.answers;
    let text = match setting.format {
        Some(format) => {
            let asked = answers.iter().map(|answered| {
                let view = &answered.view;
                json!({"cluster": view.cluster, "position": view.position, "version": view.version})
            });
            let silent = surveyed.silent.iter();
            let silent =
                silent.map(|(cluster, cause)| json!({"cluster": cluster, "reason": cause}));
            let value = json!({
                "asked": asked.collect::<Vec<_>>(),
                "objects": found.objects,
                "counts": found.counts,
                "unreachable": silent.collect::<Vec<_>>(),
            });
            output::structured(&value, format)
        }
        None => {
            let names = answers
                .iter()
                .map(|answered| answered.view.cluster.as_str());
            render(&found, &names.collect::<Vec<_>>().join(", "))
        }
    };
    output::print(&text)?;
    for (_, cause) in &surveyed.silent {
        eprintln!("not asked: {cause}");
    }
    Ok(if found.is_none() {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
}

fn render(drift: &Drift, asked: &str) -> String {
    if drift.is_none() {
        return format!("no differences; asked {asked}\n");
    }
    let change = |change: Option<u64>| change.map_or("none".to_owned(), |at| at.to_string());
    let objects = drift.objects.iter().map(|one| {
        [
            one.object.clone(),
            one.cluster.clone(),
            change(one.has),
            change(one.newest),
            one.why.clone(),
        ]
    });
    let objects = table(&["OBJECT", "CLUSTER", "CHANGE", "NEWEST", "WHY"], objects);
    let counts = drift.counts.iter().map(|one| {
        [
            one.service.clone(),
            one.of.clone(),
            one.cluster.clone(),
            one.has.clone(),
            one.says.clone(),
            one.why.clone(),
        ]
    });
    let head = ["SERVICE", "IN", "AS SEEN BY", "HEALTHY", "ITSELF", "WHY"];
    let counts = table(&head, counts);
    let parts = [objects, counts].into_iter();
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}
