//! Points of acceptance: what was promised, with its bound, and what was measured.

use std::time::Duration;

/// One thing that was promised, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub held: bool,
    pub what: String,
    pub measured: String,
    pub bound: String,
}

impl Point {
    pub fn line(&self, name: &str) -> String {
        let held = if self.held { "ok  " } else { "MISS" };
        let Self {
            what,
            measured,
            bound,
            ..
        } = self;
        format!("{held}  {name}: {what}: {measured} ({bound})")
    }

    /// A time that must not be longer than `bound`.
    pub fn at_most(what: impl Into<String>, measured: Duration, bound: Duration) -> Self {
        Self {
            held: measured <= bound,
            what: what.into(),
            measured: seconds(measured),
            bound: format!("at most {}", seconds(bound)),
        }
    }

    /// A count that must be zero, of so many.
    pub fn none(what: impl Into<String>, count: usize, of: usize) -> Self {
        Self {
            held: count == 0 && of > 0,
            what: what.into(),
            measured: format!("{count} of {of}"),
            bound: "none".to_owned(),
        }
    }
}

pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(2) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_nothing_proves_nothing() {
        assert!(Point::none("failed", 0, 7).held);
        assert!(!Point::none("failed", 1, 7).held);
        assert!(!Point::none("failed", 0, 0).held);
    }
}
