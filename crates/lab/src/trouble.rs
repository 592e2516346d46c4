//! What goes wrong in an end-to-end test or a measurement, and waiting for what has to come true.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What was expected and what was found, for the person who reads the output of a failed test.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

pub type Result<T, E = Trouble> = std::result::Result<T, E>;

/// As it reads: a test that returns a `Trouble` is reported by `Debug`.
impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `Err`, with what was expected.
pub fn trouble<T>(text: impl Into<String>) -> Result<T> {
    Err(Trouble(text.into()))
}

/// Says what was tried when something else failed.
pub trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Trouble(format!("{}: {error}", what())))
    }
}

/// Errs with `text` unless it is so.
pub fn ensure(so: bool, text: impl FnOnce() -> String) -> Result<()> {
    if so { Ok(()) } else { trouble(text()) }
}

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until `look` succeeds.
///
/// Errors: it has not within `patience`; says what was waited for, and why the last look failed.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => {
                return trouble(format!(
                    "waited {} s for {what}; at last: {last}",
                    patience.as_secs()
                ));
            }
            Err(_) => sleep(AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_success_or_says_for_what_it_waited() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_mins(1), || {
            looks += 1;
            ensure(looks == 3, || format!("look {looks}")).map(|()| "found")
        });
        assert_eq!(found.unwrap(), "found");
        let never = wait_for("a miracle", Duration::ZERO, || trouble::<()>("none came"));
        let said = "waited 0 s for a miracle; at last: none came";
        assert_eq!(format!("{:?}", never.unwrap_err()), said);
    }
}
