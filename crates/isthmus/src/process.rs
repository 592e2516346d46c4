//! The mesh's own processes: from a configuration file to a control plane, a gateway, a proxy.
//!
//! What the files mean is checked here; what the processes do is in the crates behind.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, ControlFile, GatewayFile, WorkloadFile};
use crate::failure::{Failure, Result};

/// `isthmus control -c FILE`: until SIGTERM or Ctrl-C.
pub(crate) fn control(path: &Path) -> Result<ExitCode> {
    let file: ControlFile = config::read(path)?;
    check_control(path, &file)?;
    Err(not_connected("control"))
}

/// `isthmus gateway -c FILE`: until SIGTERM or Ctrl-C.
pub(crate) fn gateway(path: &Path) -> Result<ExitCode> {
    let file: GatewayFile = config::read(path)?;
    let token = token(path, file.token_file.as_deref())?;
    let _ = (file, token);
    Err(not_connected("gateway"))
}

/// `isthmus proxy -c FILE`: until SIGTERM or Ctrl-C.
pub(crate) fn proxy(path: &Path) -> Result<ExitCode> {
    let file: WorkloadFile = config::read(path)?;
    if !file.program.command.is_empty() {
        return Err(Failure::usage(
            "program-in-proxy",
            format!("{} starts a program", path.display()),
        )
        .next("use `isthmus run -c` for it, or take `program.command` out"));
    }
    sidecar(path, &file, std::future::pending())?;
    Ok(ExitCode::SUCCESS)
}

/// The proxy of a workload, until `stop`; returns when it has drained. Blocks.
pub(crate) fn sidecar(
    path: &Path,
    file: &WorkloadFile,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let token = token(path, file.token_file.as_deref())?;
    let _ = (token, stop);
    Err(not_connected("proxy"))
}

/// CONNECT HERE: crates `control` and `proxy` are called in place of this.
fn not_connected(process: &str) -> Failure {
    Failure::failed("not-built", format!("this build has no {process} process"))
}

fn check_control(path: &Path, file: &ControlFile) -> Result<()> {
    let mut problems = Vec::new();
    if file.address.is_unspecified() {
        problems.push("address: 0.0.0.0 is not an address that others can reach".to_owned());
    }
    if file.peers.iter().any(|peer| peer.ip() == file.address) {
        problems.push(format!(
            "peers: {} is this control plane itself",
            file.address
        ));
    }
    for (index, token) in file.api_tokens.iter().enumerate() {
        if token.name.is_empty() {
            problems.push(format!("apiTokens[{index}].name: it is empty"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::usage("bad-config", format!("{} is not right", path.display()));
    failure.causes = problems;
    Err(failure)
}

/// The join token, if a file for it is named. A file that is gone is no error: the state may hold an
/// identity by now, and the process says so if it does not.
fn token(path: &Path, token_file: Option<&Path>) -> Result<Option<String>> {
    let Some(token_file) = token_file else {
        return Ok(None);
    };
    let token_file = config::beside(path, token_file);
    match std::fs::read_to_string(&token_file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let what = format!("{} cannot be read", token_file.display());
            Err(Failure::failed("file-unreadable", what).caused_by(&error))
        }
    }
}
