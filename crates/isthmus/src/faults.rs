//! Commands that break and mend what `up` runs: a request over its socket.

use std::process::ExitCode;

use crate::failure::{Failure, Result};
use crate::output;
use crate::setting::{Setting, block_on};
use crate::up::socket::{self, Reply, Request};

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
            Reply::Refused { what, next } => Err(Failure::failed("refused", what).next(next)),
            other @ Reply::Status(_) => Err(Failure::failed(
                "odd-reply",
                format!("`up` answered {other:?}"),
            )),
        }
    })
}
