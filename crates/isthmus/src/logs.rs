//! `isthmus logs`: what the processes of `up` have logged.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::args::LogsArgs;
use crate::failure::{Failure, Result};
use crate::output;
use crate::setting::Setting;

/// How often files are looked at for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// One log file as it is read: rotation is seen by its inode.
struct Followed {
    name: String,
    path: PathBuf,
    reader: BufReader<File>,
    inode: u64,
}

pub(crate) fn logs(setting: &Setting, args: &LogsArgs) -> Result<ExitCode> {
    let (cluster, process) = match args.of.split_once('/') {
        Some((cluster, process)) => (cluster, Some(process)),
        None => (args.of.as_str(), None),
    };
    let root = setting.home.logs();
    let directory = root.join(cluster);
    let mut files = find(&directory, process).map_err(|error| {
        Failure::failed("no-logs", format!("there are no logs of {}", args.of))
            .cause(format!("{}: {error}", directory.display()))
            .next(format!("there are: {}", names(&root, cluster).join(", ")))
    })?;
    let prefixed = process.is_none();
    loop {
        let mut text = String::new();
        for file in &mut files {
            file.read(prefixed, &mut text);
        }
        output::print(&text)?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn find(directory: &Path, process: Option<&str>) -> std::io::Result<Vec<Followed>> {
    let mut names: Vec<String> = match process {
        Some(process) => vec![process.to_owned()],
        None => listed(directory)?,
    };
    names.sort();
    names
        .into_iter()
        .map(|name| Followed::open(directory, name))
        .collect()
}

/// Processes with a log in `directory`.
fn listed(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    Ok(names)
}

/// What could have been asked for: processes of the cluster, or the clusters.
fn names(root: &Path, cluster: &str) -> Vec<String> {
    let mut names = match listed(&root.join(cluster)) {
        Ok(names) => names
            .into_iter()
            .map(|name| format!("{cluster}/{name}"))
            .collect(),
        Err(_) => fs::read_dir(root)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let directory = entry.file_type().ok()?.is_dir();
                directory.then(|| entry.file_name().to_string_lossy().into_owned())
            })
            .collect::<Vec<_>>(),
    };
    names.sort();
    if names.is_empty() {
        names.push("none yet".to_owned());
    }
    names
}

impl Followed {
    fn open(directory: &Path, name: String) -> std::io::Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let file = File::open(&path)?;
        Ok(Self {
            name,
            inode: file.metadata()?.ino(),
            reader: BufReader::new(file),
            path,
        })
    }

    /// Appends all whole lines that have come since.
    fn read(&mut self, prefixed: bool, text: &mut String) {
        self.read_lines(prefixed, text);
        let moved = fs::metadata(&self.path).is_ok_and(|now| now.ino() != self.inode);
        if moved && let Ok(file) = File::open(&self.path) {
            // What was still written to the old file before it was moved comes first.
            self.read_lines(prefixed, text);
            self.inode = file
                .metadata()
                .map_or(self.inode, |metadata| metadata.ino());
            self.reader = BufReader::new(file);
            self.read_lines(prefixed, text);
        }
    }

    fn read_lines(&mut self, prefixed: bool, text: &mut String) {
        let mut line = Vec::new();
        while let Ok(length) = self.reader.read_until(b'\n', &mut line) {
            if !line.ends_with(b"\n") {
                // Half a line, or the end: it is read again when it is whole.
                let back = i64::try_from(length).unwrap_or(0);
                let _ = self.reader.seek(SeekFrom::Current(-back));
                return;
            }
            if prefixed {
                text.push_str(&self.name);
                text.push_str("  ");
            }
            text.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_and_over_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cart.log");
        fs::write(&path, "one\ntw").unwrap();
        let mut files = find(directory.path(), None).unwrap();
        let mut read = |prefixed| {
            let mut text = String::new();
            files[0].read(prefixed, &mut text);
            text
        };
        assert_eq!(read(true), "cart  one\n");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(read(false), "two\nthree\n");
        fs::rename(&path, directory.path().join("cart.log.1")).unwrap();
        fs::write(&path, "four\n").unwrap();
        assert_eq!(read(false), "four\n");
        assert_eq!(read(false), "");
        assert!(find(directory.path(), Some("nobody")).is_err());
    }
}
