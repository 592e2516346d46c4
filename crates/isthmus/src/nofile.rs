//! How many descriptors a process may have: as many as it is allowed, for those that carry traffic,
//! and what they had themselves, for the programs that they start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of this process to what it is allowed. Answers what it was, where it was less.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current == limit.maximum {
        return None;
    }
    // Without it there is room for fewer connections, and that is told when it matters.
    setrlimit(Resource::Nofile, raised).ok()?;
    limit.current
}

/// Programs that wait by select(2) break with high descriptors: they get the limit that they would
/// have had without us.
pub(crate) fn lower(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let lowered = Rlimit {
        current: Some(current),
        maximum,
    };
    // It is less than what this process has, and that is always allowed.
    let _ = setrlimit(Resource::Nofile, lowered);
}
