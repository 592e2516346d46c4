//! Child processes of `up`: started in groups of their own, their output piped into logs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{self, Pid, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use super::fleet::Signal;
use super::planned::PlannedProcess;
use crate::home::Home;

/// Size at which a log is put aside, and how many are kept.
const LOG_SIZE: u64 = 10 << 20;
const LOGS_KEPT: u32 = 3;
/// A line longer than this is cut into several.
const LONGEST_LINE: usize = 64 * 1024;

/// How children are started.
#[derive(Debug)]
pub(crate) struct Nursery {
    binary: PathBuf,
    home: PathBuf,
    logs: PathBuf,
    path: std::ffi::OsString,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Child {
    group: Pid,
    log: SharedLog,
}

type SharedLog = Arc<Mutex<RotatingLog>>;

impl Nursery {
    /// Programs that stand beside `binary` are found by name, after those of the user's own PATH.
    pub(crate) fn new(home: &Home, binary: PathBuf) -> Self {
        let mut directories: Vec<PathBuf> = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        directories.extend(binary.parent().map(Path::to_owned));
        let path = std::env::join_paths(directories).unwrap_or_default();
        Self {
            binary,
            home: home.path().to_owned(),
            logs: home.logs(),
            path,
        }
    }

    /// Starts `process`; `ended` is called once, when it has ended.
    ///
    /// Must be called on the thread that lives as long as `up`: children end with that thread.
    pub(crate) fn spawn(
        &self,
        process: &PlannedProcess,
        ended: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
    ) -> io::Result<Child> {
        let directory = self.logs.join(process.cluster.as_str());
        let log = RotatingLog::open(directory.join(format!("{}.log", process.name)))?;
        let log = Arc::new(Mutex::new(log));
        let mut child = Command::new(&self.binary)
            .arg("--die-with-parent")
            .arg(std::process::id().to_string())
            .arg("--home")
            .arg(&self.home)
            .args(&process.arguments)
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let group = pid.ok_or(io::ErrorKind::NotFound)?;
        if let Some(output) = child.stdout.take() {
            tokio::spawn(pipe(output, log.clone()));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(pipe(output, log.clone()));
        }
        tokio::spawn(async move { ended(child.wait().await) });
        Ok(Child { group, log })
    }
}

impl Child {
    /// Reaches the program of a workload too: it is in its process's group.
    pub(crate) fn signal(&self, signal: Signal) {
        // A terminated proxy must drain before its program hears of it, so only a kill goes to all.
        let sent = match signal {
            Signal::Kill => kill_process_group(self.group, process::Signal::KILL),
            Signal::Terminate => kill_process(self.group, process::Signal::TERM),
            Signal::Restart => kill_process(self.group, process::Signal::USR2),
        };
        // Who has ended meanwhile needs no signal.
        let _ = sent;
    }

    pub(crate) fn last_line(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_line
            .clone()
    }
}

/// Copies whole lines into the log until the process closes its end.
async fn pipe(output: impl AsyncRead + Unpin, log: SharedLog) {
    let mut reader = BufReader::with_capacity(LONGEST_LINE, output);
    let mut line = Vec::new();
    loop {
        let (used, whole) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&bytes[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), line.len() >= LONGEST_LINE)
                }
            },
        };
        reader.consume(used);
        if whole {
            write(&log, &mut line);
        }
    }
    if !line.is_empty() {
        write(&log, &mut line);
    }
}

fn write(log: &SharedLog, line: &mut Vec<u8>) {
    line.push(b'\n');
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    // A log that cannot be written (a full disk) must not stop the mesh.
    let _ = log.write_line(line);
    line.clear();
}

/// A log file that is put aside when it is large.
#[derive(Debug)]
struct RotatingLog {
    path: PathBuf,
    file: File,
    size: u64,
    last_line: String,
}

impl RotatingLog {
    fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = append(&path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            path,
            file,
            last_line: String::new(),
        })
    }

    /// `line` ends with its newline.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size.saturating_add(line.len() as u64) > LOG_SIZE {
            self.rotate()?;
        }
        let text = String::from_utf8_lossy(line);
        // Indented lines explain the one before them.
        if text.starts_with(|c: char| !c.is_whitespace()) {
            self.last_line = text.trim().chars().take(300).collect();
        }
        self.file.write_all(line)?;
        self.size = self.size.saturating_add(line.len() as u64);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..LOGS_KEPT).rev() {
            // One that is not there yet need not move.
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        fs::rename(&self.path, numbered(1))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_put_aside_and_three_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c/p.log");
        let mut log = RotatingLog::open(path.clone()).unwrap();
        for number in 0..6 {
            log.write_line(format!("{number}\n").as_bytes()).unwrap();
            log.size = LOG_SIZE;
        }
        let read = |suffix: &str| fs::read_to_string(format!("{}{suffix}", path.display())).ok();
        let all = ["", ".1", ".2", ".3", ".4"].map(read);
        let expect = [Some("5\n"), Some("4\n"), Some("3\n"), Some("2\n"), None];
        assert_eq!(all, expect.map(|text| text.map(str::to_owned)));
        let again = RotatingLog::open(path).unwrap();
        assert_eq!(again.size, 2);
    }

    #[tokio::test]
    async fn lines_stay_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.log");
        let log = Arc::new(Mutex::new(RotatingLog::open(path.clone()).unwrap()));
        let endless = "x".repeat(LONGEST_LINE + 10);
        let text = format!("one\n\n{endless}\nlast without end");
        pipe(text.as_bytes(), log.clone()).await;
        let written = fs::read_to_string(&path).unwrap();
        let lengths: Vec<usize> = written.lines().map(str::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), text.len() - 3);
        assert!(
            lengths.iter().all(|length| *length <= 2 * LONGEST_LINE),
            "{lengths:?}"
        );
        assert!(written.starts_with("one\n\nx") && written.ends_with("x\nlast without end\n"));
        assert_eq!(log.lock().unwrap().last_line, "last without end");
    }
}
