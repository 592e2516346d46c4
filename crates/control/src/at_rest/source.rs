//! Where the operator's key comes from.

use std::env::VarError;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use crate::hex::{hex, unhex};

/// Longest text that holds a key, in bytes.
const MOST: u64 = 4096;
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A program and its arguments; it prints the key.
    Command(Vec<String>),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{from} cannot be read: {source}")]
    Unreadable { from: KeySource, source: io::Error },
    #[error("{from} is not set")]
    Unset { from: KeySource },
    #[error("{from} ended with {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        from: KeySource,
        status: std::process::ExitStatus,
        said: String,
    },
    #[error("{from} has said no key within {} s", PATIENCE.as_secs())]
    Late { from: KeySource },
    #[error(
        "{from} holds no key: a key is 64 hexadecimal digits, such as `openssl rand -hex 32` \
         prints"
    )]
    NoKey { from: KeySource },
}

/// What seals the data key. Wiped when dropped.
pub(super) struct OperatorKey {
    pub(super) key: Zeroizing<[u8; 32]>,
    /// Names it without telling it.
    pub(super) name: String,
}

impl OperatorKey {
    fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(b"isthmus at rest\0");
        digest.update(&*key);
        let name = hex(&digest.finish().as_ref()[..8]);
        Self { key, name }
    }
}

impl KeySource {
    /// Reads what is there, 4 KiB at most. Waits for a command.
    ///
    /// Errors: nothing is there, or it cannot be read.
    pub fn text(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        match self {
            Self::File(path) => self.file(path),
            Self::Environment(name) => match std::env::var(name) {
                Ok(value) => Ok(Zeroizing::new(value.into_bytes())),
                Err(VarError::NotPresent) => Err(SourceError::Unset { from: self.clone() }),
                Err(VarError::NotUnicode(_)) => {
                    let no_text = io::Error::new(io::ErrorKind::InvalidData, "it is no text");
                    Err(self.unreadable(no_text))
                }
            },
            Self::Command(words) => self.run(words),
        }
    }

    /// Reads the key by which a control plane seals what it keeps.
    pub(super) fn read(&self) -> Result<OperatorKey, SourceError> {
        let text = self.text()?;
        let digits = std::str::from_utf8(&text).ok().map(str::trim);
        let key = digits.and_then(unhex).map(Zeroizing::new);
        let key = key.and_then(|key| <[u8; 32]>::try_from(&key[..]).ok());
        let key = key.ok_or_else(|| SourceError::NoKey { from: self.clone() })?;
        Ok(OperatorKey::new(Zeroizing::new(key)))
    }

    fn unreadable(&self, source: io::Error) -> SourceError {
        let from = self.clone();
        SourceError::Unreadable { from, source }
    }

    fn file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let file = File::open(path).map_err(|error| self.unreadable(error))?;
        let mode = file.metadata().map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            tracing::warn!(
                "{} may be read by others than its owner: chmod 600",
                path.display()
            );
        }
        bounded(file).map_err(|error| self.unreadable(error))
    }

    fn run(&self, words: &[String]) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let failed = |error| self.unreadable(error);
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| SourceError::NoKey { from: self.clone() })?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let said = thread::spawn(move || out.map(bounded));
        // All of it is read, lest who says much is ended for it.
        let complaint = thread::spawn(move || {
            let mut err = err?;
            let said = bounded(&mut err);
            let _ = io::copy(&mut err, &mut io::sink());
            Some(said)
        });
        let Some(status) = wait(&mut child).map_err(failed)? else {
            return Err(SourceError::Late { from: self.clone() });
        };
        // It has ended; what it may have left running could hold its output open for ever.
        let deadline = Instant::now() + PATIENCE;
        while !(said.is_finished() && complaint.is_finished()) {
            if Instant::now() > deadline {
                return Err(SourceError::Late { from: self.clone() });
            }
            thread::sleep(GLANCE);
        }
        if !status.success() {
            let complaint = complaint.join().ok().flatten().and_then(Result::ok);
            let complaint = complaint.unwrap_or_default();
            return Err(SourceError::Failed {
                from: self.clone(),
                status,
                said: String::from_utf8_lossy(&complaint).trim().to_owned(),
            });
        }
        match said.join() {
            Ok(Some(read)) => read.map_err(failed),
            _ => Err(SourceError::NoKey { from: self.clone() }),
        }
    }
}

/// Until it ends; `None`: it was made to, for it took too long.
fn wait(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

/// As much as a key may take, and a byte more: what is longer is none.
fn bounded(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    from.take(MOST + 1).read_to_end(&mut text)?;
    Ok(text)
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the variable {name}"),
            Self::Command(words) => write!(f, "the command `{}`", words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn command(script: &str) -> KeySource {
        KeySource::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[test]
    fn the_same_key_from_anywhere_has_the_same_name() {
        let digits = "0123456789abcdef".repeat(4);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, format!("{digits}\n")).unwrap();
        let from_file = KeySource::File(path).read().unwrap();
        let said = command(&format!("echo {digits}")).read().unwrap();
        assert_eq!(from_file.key, said.key);
        assert_eq!(from_file.name, said.name);
        assert_eq!(said.key[..3], [0x01, 0x23, 0x45]);
        assert_eq!(said.name.len(), 16);
        let other = command(&format!("echo {}", digits.replace('0', "1"))).read();
        assert_ne!(other.unwrap().name, said.name);
    }

    #[test]
    fn what_is_no_key_is_said_with_its_place() {
        let unset = KeySource::Environment("ISTHMUS_TEST_NO_SUCH_KEY".to_owned());
        let absent = KeySource::File("/nonexistent/key".into());
        for (source, expect) in [
            (unset, "the variable ISTHMUS_TEST_NO_SUCH_KEY is not set"),
            (absent, "/nonexistent/key cannot be read: "),
            (command("echo short"), "` holds no key: "),
            (
                command("echo no >&2; exit 3"),
                "ended with exit status: 3: no",
            ),
            (command("yes 00"), "` ended with "),
            (KeySource::Command(vec![]), "holds no key"),
        ] {
            let error = source.read().err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
