//! `isthmus release`: what clusters hold of their workloads, for too many were missed at once, is gone.

use std::fmt::Write as _;
use std::process::ExitCode;

use isthmus_api::{ReleaseRequest, ReleaseView};
use serde_json::json;

use crate::api_client::{ApiError, clients, nobody_answers};
use crate::args::ReleaseArgs;
use crate::failure::{Exit, Result};
use crate::output;
use crate::setting::Setting;

const PATH: &str = "/mesh/v1/removals/release";

pub(crate) async fn release(setting: &Setting, args: &ReleaseArgs) -> Result<ExitCode> {
    let request = ReleaseRequest {
        service: args.service.as_ref().map(ToString::to_string),
    };
    let (mut views, mut silent, mut refused) = (Vec::new(), Vec::new(), None);
    for mut client in clients(&setting.home, setting.cluster.as_ref())? {
        match client.post::<ReleaseView>(PATH, &json!(request)).await {
            Ok(view) => views.push(view),
            Err(error @ ApiError::Unreachable { .. }) => silent.push(error.to_string()),
            // The others are asked all the same.
            Err(error) => {
                silent.push(format!("{}: {error}", client.cluster));
                refused = refused.or(Some(error));
            }
        }
    }
    if views.is_empty() {
        return Err(match refused {
            Some(refused) => refused.into(),
            None => nobody_answers(silent),
        });
    }
    let released: usize = views.iter().map(|view| view.released).sum();
    let what = match &args.service {
        Some(service) => format!("workloads of {service}"),
        None => "gateways".to_owned(),
    };
    let text = match setting.format {
        Some(format) => {
            output::structured(&json!({"clusters": views, "unreachable": silent}), format)
        }
        None if released == 0 => format!("no {what} are held\n"),
        None => {
            let mut text = String::new();
            for view in views.iter().filter(|view| view.released > 0) {
                let ReleaseView { cluster, released } = view;
                // Writing into a string cannot fail.
                let _ = writeln!(text, "{cluster} takes {released} {what} for gone");
            }
            text
        }
    };
    output::print(&text)?;
    for silent in &silent {
        eprintln!("not done: {silent}");
    }
    if refused.is_some() {
        return Ok(Exit::Failed.into());
    }
    Ok(if released == 0 {
        Exit::Findings.into()
    } else {
        ExitCode::SUCCESS
    })
}
