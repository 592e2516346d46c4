//! `--log`: one JSON line for each request, in the order of their ends.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::report::milliseconds;
use super::tally::{Ended, request_id};
use crate::failure::{Failure, Result};

/// The file. After an error nothing more is written, and the run goes on.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    error: Option<io::Error>,
}

/// One line. docs/reference/load.md describes every field.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    id: &'a str,
    scheduled_ms: f64,
    latency_ms: f64,
    status: Option<u16>,
    cluster: Option<&'a str>,
    workload: Option<&'a str>,
    attempts: Option<u32>,
    refusal: Option<&'a str>,
    detail: Option<&'a str>,
    failed: Option<&'a str>,
}

impl Journal {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| unwritten(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            error: None,
        })
    }

    pub(super) fn write(&mut self, run: &str, ended: &Ended) {
        if self.error.is_none() {
            let line = line(run, ended);
            self.error = self.file.write_all(line.as_bytes()).err();
        }
    }

    /// Errors: a line could not be written, now or earlier.
    pub(super) fn close(mut self) -> Result<()> {
        let written = match self.error.take() {
            Some(error) => Err(error),
            None => self.file.flush(),
        };
        written.map_err(|error| unwritten(&self.path, &error))
    }
}

fn line(run: &str, ended: &Ended) -> String {
    let head = ended.head.as_ref();
    let failed = ended.failure();
    let line = Line {
        id: &request_id(run, ended.number),
        scheduled_ms: milliseconds(ended.scheduled),
        latency_ms: milliseconds(ended.took),
        status: head.map(|head| head.status),
        cluster: ended.cluster(),
        workload: head.and_then(|head| head.workload.as_deref()),
        attempts: head.and_then(|head| head.attempts),
        refusal: head.and_then(|head| head.refusal.as_deref()),
        detail: head.and_then(|head| head.detail.as_deref()),
        failed: failed.as_deref(),
    };
    serde_json::to_string(&line).expect("texts and numbers are always JSON") + "\n"
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(
        "log-unwritable",
        format!("{} cannot be written", path.display()),
    )
    .caused_by(error)
    .next("choose another file with --log")
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::ended;
    use super::*;

    #[test]
    fn a_request_is_a_line() {
        assert_eq!(
            line("k3f9", &ended(2, "us-west", 7)),
            "{\"id\":\"load-k3f9-3\",\"scheduledMs\":1000.0,\"latencyMs\":7.0,\"status\":200,\
             \"cluster\":\"us-west\",\"workload\":null,\"attempts\":1,\"refusal\":null,\
             \"detail\":null,\"failed\":null}\n"
        );
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        let mut journal = Journal::create(Path::new("/dev/full")).unwrap();
        for number in 0..1000 {
            journal.write("r", &ended(number, "a", 1));
        }
        assert_eq!(journal.close().unwrap_err().code, "log-unwritable");
    }
}
