//! Processes of this machine as /proc shows them: who descends from whom, what they use, what is in
//! their memory. Linux only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::trouble::{During, Result, Trouble, trouble};

/// A process that runs, or ran a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Program and arguments.
    pub command: Vec<String>,
}

impl Process {
    /// The process with this id. Errors: there is none.
    pub fn with_id(pid: u32) -> Result<Self> {
        let command = fs::read(file(pid, "cmdline")).during(|| format!("process {pid}"))?;
        let words = command.split(|byte| *byte == 0).filter(|w| !w.is_empty());
        let word = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            pid,
            command: words.map(word).collect(),
        })
    }

    /// This process and all that it, or what it started, has started.
    pub fn family(&self) -> Result<Vec<Self>> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").during(|| "/proc".to_owned())? {
            let entry = entry.during(|| "/proc".to_owned())?;
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Whoever ends meanwhile is in nobody's family.
            if let Ok(fields) = stat(pid) {
                children.entry(fields.parent).or_default().push(pid);
            }
        }
        let mut ids = vec![self.pid];
        let mut next = 0;
        while let Some(pid) = ids.get(next) {
            ids.extend(children.get(pid).into_iter().flatten());
            next += 1;
        }
        Ok(ids
            .into_iter()
            .filter_map(|pid| Self::with_id(pid).ok())
            .collect())
    }

    /// Kills it at once.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end, as Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Asks it to end, as a supervisor does.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Tells it that its terminal is gone, which many take as a wish to read their files anew.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Asks it to do what it keeps this signal for: a proxy starts its successor.
    pub fn user_signal(&self) -> Result<()> {
        self.signal(Signal::USR2)
    }

    /// Stops it where it is, until what this returns is dropped.
    pub fn pause(&self) -> Result<Paused> {
        self.signal(Signal::STOP)?;
        Ok(Paused(self.clone()))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Trouble(format!("{} is no process id", self.pid)))?;
        kill_process(pid, signal).during(|| format!("process {}: {signal:?}", self.pid))
    }

    /// Processor time that it has used since it began.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(ticks(stat(self.pid)?.ticks))
    }

    /// Processor time of each of its threads that is called a worker, as those of a proxy are, in no order.
    pub fn workers_cpu(&self) -> Result<Vec<Duration>> {
        let tasks = file(self.pid, "task");
        let mut times = Vec::new();
        for task in fs::read_dir(&tasks).during(|| tasks.display().to_string())? {
            let path = task.during(|| tasks.display().to_string())?.path();
            // A thread may have ended since.
            let Ok(text) = fs::read_to_string(path.join("stat")) else {
                continue;
            };
            if text.contains("(worker-") {
                times.push(ticks(parse(&text)?.ticks));
            }
        }
        Ok(times)
    }

    /// Processor time of its children that have ended and that it has waited for.
    pub fn children_cpu(&self) -> Result<Duration> {
        Ok(ticks(stat(self.pid)?.children_ticks))
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let text =
            fs::read_to_string(file(self.pid, "status")).during(|| format!("{}", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| Trouble(format!("process {} has no VmRSS", self.pid)))
    }

    /// How many descriptors are open.
    pub fn descriptors(&self) -> Result<u64> {
        let open = fs::read_dir(file(self.pid, "fd")).during(|| format!("process {}", self.pid))?;
        Ok(open.count() as u64)
    }

    /// Lets it have no more than `most` descriptors from now on; answers how many it might before.
    pub fn limit_descriptors(&self, most: u64) -> Result<u64> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let limit = Rlimit {
            current: Some(most),
            // What this process may have, it was allowed too.
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        let before = prlimit(pid, Resource::Nofile, limit)
            .during(|| format!("limits of process {}", self.pid))?;
        before
            .current
            .ok_or_else(|| Trouble("it had no limit".to_owned()))
    }

    /// How often each of `needles` stands in its readable memory.
    ///
    /// Errors: its memory may not be read (that takes the right to trace it), or it has ended.
    pub fn find_in_memory(&self, needles: &[&[u8]]) -> Result<Vec<usize>> {
        let during = || format!("reading the memory of process {}", self.pid);
        let maps = fs::read_to_string(file(self.pid, "maps")).during(during)?;
        let mut memory = File::open(file(self.pid, "mem")).during(during)?;
        let mut found = vec![0; needles.len()];
        for (from, to) in maps.lines().filter_map(readable_region) {
            search_region(&mut memory, from, to, needles, &mut found);
        }
        // It must have been there all the while.
        Self::with_id(self.pid)?;
        Ok(found)
    }
}

/// A process that does nothing for now, as one that hangs.
#[derive(Debug)]
#[must_use = "dropping it lets the process go on"]
pub struct Paused(Process);

impl Drop for Paused {
    fn drop(&mut self) {
        // One that has ended meanwhile needs no word.
        let _ = self.0.signal(Signal::CONT);
    }
}

/// Memory read at once.
const WINDOW: usize = 1 << 20;
const PAGE: u64 = 4096;

/// Adds what stands in `from..to`. A page that cannot be read (of a device, say) holds nothing.
fn search_region(memory: &mut File, from: u64, to: u64, needles: &[&[u8]], found: &mut [usize]) {
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(0);
    let mut at = from;
    let mut window = Vec::new();
    while at < to {
        let kept = window.len();
        let wanted = (to - at).min(WINDOW as u64);
        // What was read before an error is in the window, as it should be.
        let _ = memory
            .seek(SeekFrom::Start(at))
            .and_then(|_| memory.by_ref().take(wanted).read_to_end(&mut window));
        let read = window.len() - kept;
        if read == 0 {
            window.clear();
            at = at.saturating_add(PAGE);
            continue;
        }
        at += read as u64;
        for (needle, count) in needles.iter().zip(found.iter_mut()) {
            // What ends in the part that was kept has been counted.
            let fresh = kept.saturating_sub(needle.len().saturating_sub(1));
            *count += occurrences(&window[fresh..], needle);
        }
        window.drain(..window.len().saturating_sub(longest.saturating_sub(1)));
    }
}

fn occurrences(text: &[u8], needle: &[u8]) -> usize {
    let Some(first) = needle.first() else {
        return 0;
    };
    let mut count = 0;
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(needle) {
            count += 1;
        }
        rest = &rest[at + 1..];
    }
    count
}

/// A line of maps: `from-to rwxp …`, if it can be read.
fn readable_region(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split(' ');
    let (from, to) = words.next()?.split_once('-')?;
    let readable = words.next()?.starts_with('r');
    let address = |text| u64::from_str_radix(text, 16).ok();
    readable.then_some((address(from)?, address(to)?))
}

struct Stat {
    parent: u32,
    ticks: u64,
    children_ticks: u64,
}

/// Of /proc/PID/stat (man 5 proc_pid_stat): ppid is field 4, utime, stime, cutime and cstime 14 to 17.
fn stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(file(pid, "stat")).during(|| format!("process {pid}"))?;
    parse(&text)
}

/// USER_HZ is 100 on every architecture that this runs on (man 7 time).
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count.saturating_mul(10))
}

/// A line of /proc/PID/stat.
fn parse(text: &str) -> Result<Stat> {
    // The name, field 2, is in parentheses and may hold anything.
    let fields = text
        .rsplit_once(')')
        .map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let both = |field| Some(number(field)? + number(field + 1)?);
    match (number(4), both(14), both(16)) {
        (Some(parent), Some(ticks), Some(children_ticks)) => Ok(Stat {
            parent: u32::try_from(parent).unwrap_or(0),
            ticks,
            children_ticks,
        }),
        _ => trouble(format!("this is no /proc/PID/stat: {text}")),
    }
}

fn file(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_in_memory_is_found_and_what_is_not_is_not() {
        let mut child = Command::new("cat")
            .env("MARKER", "here-it-stands")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::with_id(child.id()).unwrap();
        // Its environment is there before it runs.
        let found = process.find_in_memory(&[b"here-it-stands", b"here-it-does-not"]);
        process.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert!(found[0] > 0 && found[1] == 0, "{found:?}");
        assert!(process.find_in_memory(&[b"x"]).is_err());
    }

    /// A file stands for memory: what lies across the edge of two windows is found, and once.
    #[test]
    fn edges_of_windows_hide_nothing() {
        let path = std::env::temp_dir().join(format!("isthmus-lab-{}", std::process::id()));
        let mut bytes = vec![0u8; 2 * WINDOW + 100];
        for at in [0, WINDOW - 3, 2 * WINDOW - 6, 2 * WINDOW + 94] {
            bytes[at..at + 6].copy_from_slice(b"needle");
        }
        fs::write(&path, &bytes).unwrap();
        let mut file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (mut found, needles) = ([0, 0], [b"needle".as_slice(), b"eedl"]);
        search_region(&mut file, 0, bytes.len() as u64, &needles, &mut found);
        assert_eq!(found, [4, 4]);
    }

    #[test]
    fn occurrences_are_counted_once_each() {
        for (text, needle, expect) in [
            ("", "ab", 0),
            ("ab", "ab", 1),
            ("aabab", "ab", 2),
            ("aaa", "aa", 2),
            ("b", "ab", 0),
        ] {
            assert_eq!(occurrences(text.as_bytes(), needle.as_bytes()), expect);
        }
    }

    #[test]
    fn a_family_is_all_descendants_and_can_be_measured() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let me = Process::with_id(std::process::id()).unwrap();
        let family = me.family().unwrap();
        let found = family.iter().find(|process| process.pid == child.id());
        let found = found.expect("a child is of the family").clone();
        assert!(found.resident().unwrap() > 0);
        found.cpu().unwrap();
        found.kill().unwrap();
        child.wait().unwrap();
        assert!(found.cpu().is_err());
    }

    #[test]
    fn regions() {
        for (line, expect) in [
            (
                "00400000-00452000 r-xp 00000000 08:02 1 /bin/x",
                Some((0x40_0000, 0x45_2000)),
            ),
            ("00400000-00452000 ---p 00000000 08:02 1", None),
            ("nonsense", None),
        ] {
            assert_eq!(readable_region(line), expect);
        }
    }
}
