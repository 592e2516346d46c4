//! Files of this machine: written whole and for their owner only, read with failures that name them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Failure, Result};

/// Opens and locks a file; `None`: somebody else has it locked.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory and its parents, for their owner only.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| unwritable(path, &error))
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // Its name, too, is there after a power cut.
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    write().map_err(|error| unwritable(path, &error))
}

pub(crate) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(|error| unreadable(path, &error))?;
    Ok(text)
}

/// `path` cannot be written.
pub(crate) fn unwritable(path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::failed(
        "home-unwritable",
        format!("{} cannot be written", path.display()),
    )
    .caused_by(error)
    .next("choose a directory that you may write to with --home DIR or ISTHMUS_HOME")
}

/// `path` cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(
        "file-unreadable",
        format!("{} cannot be read", path.display()),
    )
    .caused_by(error)
}
