//! Processes that end with the one that started them, whatever ends it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::failure::{Failure, Result};

/// Ends this process with a SIGTERM when `parent` ends.
pub(crate) fn end_with(parent: u32) -> Result<()> {
    bind(Signal::TERM)?;
    // The parent may have died before the signal was asked for: then it never comes.
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == parent {
        return Ok(());
    }
    Err(Failure::failed(
        "parent-gone",
        format!("process {parent}, which started this one, has ended"),
    ))
}

/// Becomes `command`; whoever started this process takes it down when it ends.
pub(crate) fn exec_guarded(command: &[String]) -> Result<std::process::ExitCode> {
    bind(Signal::KILL)?;
    let [program, arguments @ ..] = command else {
        return Err(Failure::usage("no-program", "there is no program to run"));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::failed(
        "program-not-started",
        format!("{program} cannot be started"),
    )
    .caused_by(&error)
    .next("check the path, and that the file is executable"))
}

fn bind(signal: Signal) -> Result<()> {
    set_parent_process_death_signal(Some(signal)).map_err(|error| {
        Failure::failed(
            "parent-signal",
            "the kernel gives no signal when the parent ends",
        )
        .caused_by(&error)
    })
}
