//! Points of acceptance: what was promised, with its bound, and what was measured.

use std::time::{Duration, Instant};

use crate::trouble::Result;

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

/// Measures some points.
pub type Check<A> = fn(&A) -> Result<Vec<Point>>;

/// Makes the checks, those named in `only` if it names any, and prints a line for each point. Gives how many were
/// missed.
pub fn go_through<A>(checks: &[(&str, Check<A>)], arguments: &A, only: &[String]) -> usize {
    let mut missed = 0;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    for (name, check) in checks.iter().filter(|(name, _)| wanted(name)) {
        let begun = Instant::now();
        match check(arguments) {
            Ok(points) => {
                for point in points {
                    missed += usize::from(!point.held);
                    println!("{}", point.line(name));
                }
            }
            Err(trouble) => {
                missed += 1;
                println!("MISS  {name}: it could not be measured: {trouble}");
            }
        }
        eprintln!("{name} took {:.0} s", begun.elapsed().as_secs_f64());
    }
    missed
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
