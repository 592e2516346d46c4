//! Clients of our own: one on each of some threads.

use std::thread::{ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use isthmus_lab::trouble::{Result, Trouble, ensure};

use super::Done;

/// Does something on threads of its own and adds up what they counted.
pub(super) fn side_by_side(
    threads: usize,
    duration: Duration,
    work: impl Fn(Instant) -> Result<u64> + Sync,
) -> Result<Done> {
    let begun = Instant::now();
    let until = begun + duration;
    let counts = scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(until))).collect();
        let ended = threads.into_iter().map(ScopedJoinHandle::join);
        ended
            .map(|ended| ended.map_err(|_| Trouble("a client has panicked".to_owned()))?)
            .collect::<Result<Vec<u64>>>()
    })?;
    let count: u64 = counts.iter().sum();
    ensure(count > 0, || "nothing was counted".to_owned())?;
    Ok(Done {
        count: number(count),
        took: begun.elapsed(),
        p50: None,
        p99: None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "no run counts so far")]
fn number(count: u64) -> f64 {
    count as f64
}
