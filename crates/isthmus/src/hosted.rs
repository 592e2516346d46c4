//! What `isthmus-proxy` does. Nothing else is linked into it.

use std::process::ExitCode;

use crate::failure::Result;
use crate::programs::Task;
use crate::{config, process, run, successor};

pub(crate) fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Run { config } => run::run_file(&config, &config::read(&config)?),
        Task::Serve { kind, config } => process::serve(kind, &config),
        Task::TakeOver { kind, config } => successor::serve(kind.read_as_successor(&config)?),
    }
}
