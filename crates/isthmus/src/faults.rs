//! Commands that break, mend and look at what `up` runs: a request over its socket.

use std::process::ExitCode;

use crate::failure::{Failure, Result};
use crate::output;
use crate::setting::{Setting, block_on};
use crate::up::socket::{self, LinkMode, LinkStatus, Reply, Request};

pub(crate) fn ask(setting: &Setting, request: &Request) -> Result<ExitCode> {
    block_on(async {
        let reply = socket::ask(&setting.home.socket(), request).await.map_err(|error| {
            let what = format!("`up` does not run in {}", setting.home.path().display());
            Failure::failed("up-not-running", what)
                .caused_by(&error)
                .next("this works only on a mesh that `isthmus up` started; start it, or name its --home")
        })?;
        match reply {
            Reply::Done { message } => {
                let text = match setting.format {
                    Some(format) => {
                        output::structured(&serde_json::json!({"message": message}), format)
                    }
                    None => format!("{message}\n"),
                };
                output::print(&text)?;
                Ok(ExitCode::SUCCESS)
            }
            Reply::Links { links } => {
                let text = match setting.format {
                    Some(format) => {
                        output::structured(&serde_json::json!({"links": links}), format)
                    }
                    None => link_table(links),
                };
                output::print(&text)?;
                Ok(ExitCode::SUCCESS)
            }
            Reply::Refused { what, next } => Err(Failure::failed("refused", what).next(next)),
            other @ Reply::Status(_) => Err(Failure::failed(
                "odd-reply",
                format!("`up` answered {other:?}"),
            )),
        }
    })
}

fn link_table(links: Vec<LinkStatus>) -> String {
    let rows = links.into_iter().map(|link| {
        let mode = match link.mode {
            LinkMode::Open => "open",
            LinkMode::Cut => "cut",
            LinkMode::BlackHole => "black hole",
            LinkMode::Silent => "black hole out",
            LinkMode::SilentBack => "black hole back",
        };
        let numbers = [link.open, link.connections, link.bytes_out, link.bytes_back];
        let numbers = numbers.map(|number| number.to_string());
        [vec![link.name, mode.to_owned()], numbers.to_vec()].concat()
    });
    output::table(
        &[
            "LINK",
            "STATE",
            "OPEN",
            "CONNECTIONS",
            "BYTES OUT",
            "BYTES BACK",
        ],
        rows,
    )
}
