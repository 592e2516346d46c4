//! Where the processor time of a way goes: `perf record` beside a run.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, ensure};

/// Samples a second and process that uses all of a processor.
const FREQUENCY: &str = "1999";

/// Samples until it is told to end.
#[derive(Debug)]
pub(crate) struct Sampling(Child);

impl Sampling {
    /// Of these processes, into `file`. The processor's own counters are not needed.
    pub(crate) fn start(processes: &[&Process], file: &Path) -> Result<Self> {
        let pids: Vec<String> = processes.iter().map(|it| it.pid.to_string()).collect();
        let child = Command::new("perf")
            .args(["record", "--quiet", "-e", "cpu-clock", "-F", FREQUENCY])
            .args(["-p", &pids.join(","), "-o"])
            .arg(file)
            .stdin(Stdio::null())
            .spawn();
        Ok(Self(child.during(|| {
            "starting perf, which is in Debian's linux-perf".to_owned()
        })?))
    }

    /// Ends it, and has it write what it has.
    pub(crate) fn end(mut self) -> Result<()> {
        let during = || "perf record".to_owned();
        Process::with_id(self.0.id())?.interrupt()?;
        let status = self.0.wait().during(during)?;
        // It passes on the signal that has ended it.
        ensure(status.code().is_none_or(|code| code == 0), || {
            format!("perf record: {status}")
        })
    }
}
