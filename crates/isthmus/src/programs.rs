//! The two programs of a release, which lie beside each other, and what one tells the other.
//!
//! What a proxy or a gateway runs in is `isthmus-proxy`, which has nothing in it but that. It is resident
//! once for each workload, and a program of which a part is used is resident nearly whole: so it is not the one
//! that holds control plane and command line as well. Nobody calls it but `isthmus` ([`Task::begin`]), which has
//! understood what was typed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Failure, Result};

/// Beside the file of `isthmus`.
const PROGRAM: &str = "isthmus-proxy";

/// What understands what is typed.
const ALL: &str = "isthmus";

/// The program file of `isthmus`, as it stands there now, whichever of the two this process is.
pub(crate) fn isthmus() -> Result<PathBuf> {
    beside_own(ALL)
}

fn beside_own(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| {
        Failure::failed("no-own-path", "the path of this program cannot be known").caused_by(&error)
    })?;
    Ok(own.with_file_name(program))
}

/// Processes that carry traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gateway,
    /// Beside a program that somebody else runs.
    Proxy,
}

impl Kind {
    /// What it is started with: `isthmus gateway`, `isthmus proxy`.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Proxy => "proxy",
        }
    }

    fn of(command: &str) -> Option<Self> {
        let mut all = [Self::Gateway, Self::Proxy].into_iter();
        all.find(|kind| kind.command() == command)
    }
}

/// What it is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// A program and its proxy.
    Run { config: PathBuf },
    /// A proxy or gateway.
    Serve { kind: Kind, config: PathBuf },
    /// The same, in the place of the process that has started this one.
    TakeOver { kind: Kind, config: PathBuf },
}

impl Task {
    /// As [`Task::words`] says it.
    pub(crate) fn of(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let words: Vec<OsString> = words.into_iter().collect();
        Self::read(&words).ok_or_else(|| {
            let what = format!("{PROGRAM} is called by isthmus, and not like this: {words:?}");
            Failure::usage("not-called-so", what).next("call `isthmus run`, `proxy` or `gateway`")
        })
    }

    fn read(words: &[OsString]) -> Option<Self> {
        let texts: Vec<&str> = words
            .iter()
            .map(|word| word.to_str().unwrap_or_default())
            .collect();
        let config = || words.last().map(PathBuf::from);
        match texts[..] {
            ["run", "-c", _] => Some(Self::Run { config: config()? }),
            [kind, "-c", _] => Some(Self::Serve {
                kind: Kind::of(kind)?,
                config: config()?,
            }),
            [kind, "--take-over", "-c", _] => Some(Self::TakeOver {
                kind: Kind::of(kind)?,
                config: config()?,
            }),
            _ => None,
        }
    }

    pub(crate) fn words(&self) -> Vec<OsString> {
        match self {
            Self::Run { config } => vec!["run".into(), "-c".into(), config.into()],
            Self::Serve { kind, config } => {
                vec![kind.command().into(), "-c".into(), config.into()]
            }
            Self::TakeOver { kind, config } => {
                let words = [kind.command(), "--take-over", "-c"];
                let words = words.map(OsString::from).into_iter();
                words.chain([config.into()]).collect()
            }
        }
    }

    /// Has this process become `isthmus-proxy`, under the id that it has. Returns only why it has not.
    pub(crate) fn begin(&self) -> Failure {
        let program = match beside_own(PROGRAM) {
            Ok(program) => program,
            Err(failure) => return failure,
        };
        let error = Command::new(&program).args(self.words()).exec();
        let what = format!("{} cannot be started", program.display());
        Failure::failed("no-proxy-program", what)
            .caused_by(&error)
            .next(format!(
                "install {PROGRAM} beside {ALL}, of the same release"
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_done() {
        let config = PathBuf::from("/etc/isthmus/x y.yaml");
        for task in [
            Task::Run {
                config: config.clone(),
            },
            Task::Serve {
                kind: Kind::Gateway,
                config: config.clone(),
            },
            Task::TakeOver {
                kind: Kind::Proxy,
                config,
            },
        ] {
            assert_eq!(Task::of(task.words()).unwrap(), task);
        }
        for words in [&[][..], &["run"], &["control", "-c", "x"]] {
            assert!(
                Task::of(words.iter().map(OsString::from)).is_err(),
                "{words:?}"
            );
        }
    }
}
