//! The machine that is measured on: which processor runs what, how busy it is, and what it is.
//!
//! Linux only.

use std::fs::{self, File};
use std::time::Duration;

use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble};
use rustix::process::{Pid, Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor makes the load, another carries the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Of the client and the program.
    pub(crate) load: usize,
    /// Of everything that `up` starts, the program apart.
    pub(crate) mesh: usize,
}

impl Split {
    /// The first two processors that this process may use. `None`: it has only one.
    pub(crate) fn find() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(None).during(|| "asking for processors".to_owned())?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        Ok(match (usable.next(), usable.next()) {
            (Some(load), Some(mesh)) => Some(Self { load, mesh }),
            _ => None,
        })
    }
}

/// Keeps this thread, and what it starts from now on, on one processor.
pub(crate) fn keep_to(cpu: usize) -> Result<()> {
    pin(None, cpu)
}

/// Does something on one processor, whose starting of processes keeps them there.
pub(crate) fn on<T>(cpu: Option<usize>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(cpu) = cpu else { return act() };
    let before = sched_getaffinity(None).during(|| "asking for processors".to_owned())?;
    pin(None, cpu)?;
    let done = act();
    sched_setaffinity(None, &before).during(|| "going back".to_owned())?;
    done
}

/// Waits until no other measurement runs here, and keeps others waiting as long as what this returns
/// is held.
pub(crate) fn alone() -> Result<File> {
    let path = std::env::temp_dir().join("isthmus-bench.lock");
    let during = || path.display().to_string();
    let file = File::create(&path).during(during)?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another measurement to end");
        file.lock().during(during)?;
    }
    Ok(file)
}

/// Lets this process, and what it starts from now on, have as many descriptors as it may.
pub(crate) fn allow_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).during(|| "raising the limit of descriptors".to_owned())
}

/// Keeps a process with one thread on one processor.
pub(crate) fn keep_process_to(process: &Process, cpu: usize) -> Result<()> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Trouble(format!("{} is no process id", process.pid)))?;
    pin(Some(pid), cpu)
}

fn pin(pid: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(pid, &set).during(|| format!("staying on processor {cpu}"))
}

/// Processor time that the whole machine has used since it began, interrupts included.
pub(crate) fn busy() -> Result<Duration> {
    let path = "/proc/stat";
    let text = fs::read_to_string(path).during(|| path.to_owned())?;
    busy_ticks(&text)
        .map(|ticks| Duration::from_millis(ticks.saturating_mul(10)))
        .ok_or_else(|| Trouble(format!("{path} is odd: {text}")))
}

/// The first line: `cpu user nice system idle iowait irq softirq …` (man 5 proc_stat), in hundredths
/// of a second.
fn busy_ticks(text: &str) -> Option<u64> {
    let numbers = text.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    match numbers[..] {
        [user, nice, system, _, _, irq, softirq, ..] => Some(user + nice + system + irq + softirq),
        _ => None,
    }
}

/// Processor and kernel, for people.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let field = |name| cpus.lines().filter(move |line| line.starts_with(name));
    let model = field("model name").find_map(|line| Some(line.split_once(':')?.1.trim()));
    format!(
        "{} processors ({}), Linux {}",
        field("processor").count(),
        model.unwrap_or("unknown"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_read() {
        for (text, expect) in [
            (
                "cpu  1 20 300 9999 9999 4000 50000 7 0 0\ncpu0 1",
                Some(54_321),
            ),
            ("cpu  1 2", None),
            ("cpu0 1 2 3 4 5 6 7", None),
            ("", None),
        ] {
            assert_eq!(busy_ticks(text), expect, "{text:?}");
        }
    }
}
