//! How the command line says no: what, why, what to do next, a code and an exit status.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Exit statuses; stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Findings = 3,
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One failure, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Stable and greppable, such as `mesh-unreachable`.
    pub(crate) code: &'static str,
    pub(crate) what: String,
    pub(crate) causes: Vec<String>,
    pub(crate) next: Vec<String>,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(exit: Exit, code: &'static str, what: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            what: what.into(),
            causes: Vec::new(),
            next: Vec::new(),
        }
    }

    pub(crate) fn failed(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, what)
    }

    pub(crate) fn usage(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, what)
    }

    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// An error and everything behind it.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &dyn Error) -> Self {
        let mut error = Some(error);
        while let Some(each) = error {
            let text = each.to_string();
            // Many errors repeat the one behind them.
            if !self.causes.iter().any(|cause| cause.contains(&text)) {
                self.causes.push(text);
            }
            error = each.source();
        }
        self
    }

    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// The whole message, with a newline at its end.
    pub(crate) fn render(&self, color: bool) -> String {
        let (red, dim, plain) = if color {
            ("\x1b[1;31m", "\x1b[2m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut text = format!("{red}error{plain}: {}\n", self.what);
        let mut lines = |label: &str, lines: &[String]| {
            for line in lines {
                let line = line.trim_end().replace('\n', "\n         ");
                // Writing into a string cannot fail.
                let _ = writeln!(text, "{dim}{label:>7}{plain}: {line}");
            }
        };
        lines("cause", &self.causes);
        lines("next", &self.next);
        lines("code", &[self.code.to_owned()]);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let failure = Failure::failed("home-unwritable", "/x cannot be written")
            .cause("Permission denied")
            .next("choose another with --home");
        assert_eq!(
            failure.render(false),
            "error: /x cannot be written\n  cause: Permission denied\n   next: choose another with \
             --home\n   code: home-unwritable\n"
        );
        assert!(failure.render(true).starts_with("\x1b[1;31merror"));
    }
}
