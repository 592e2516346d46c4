//! Every number that nobody has to tune, with its reason.

use std::time::Duration;

/// Weight of the newest sample in a breaker's share of failures: about the last ten requests count.
pub const BREAKER_WEIGHT: f64 = 0.1;

/// A cluster that fails more than every second request costs more than any detour.
pub const BREAKER_FAILURES: f64 = 0.5;

/// Fewer samples say nothing about a share of failures.
pub const BREAKER_SAMPLES: u32 = 10;

/// Failures in a row that need no further samples: at 200 requests/s a dead cluster is left after
/// 25 ms, and a healthy one with 1 % errors is left by chance once in 10^10 requests.
pub const BREAKER_CONSECUTIVE: u32 = 5;

/// How long a breaker is open the first time: the longest that users of a cluster which only
/// hiccuped should take a detour.
pub const BREAKER_OPEN: Duration = Duration::from_secs(1);

/// How long at most. Each failed probe doubles the time: a probe may cost one request a connect
/// timeout, and a return is noticed within this time even without facts.
pub const BREAKER_OPEN_LONGEST: Duration = Duration::from_secs(10);

/// How long a cluster or workload that returns (or is new) takes to get its full share: caches and
/// connection pools are cold, and a return may be a flap.
pub const SLOW_START: Duration = Duration::from_secs(10);

/// The share that it begins with: enough to learn from, too little to hurt.
pub const SLOW_START_FLOOR: f64 = 0.1;

/// Facts as old as this are trusted less: five missed rounds of the two-second publishing period.
/// Ages are told in steps, and one of them is this.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// A success of our own within this time outweighs any age of facts.
pub const EVIDENCE: Duration = Duration::from_secs(10);

/// Time constant of a workload's latency estimate (peak EWMA): long enough to remember a stall,
/// short enough to forgive it.
pub const LATENCY_DECAY: Duration = Duration::from_secs(10);

/// Differences below this are noise; below it, requests in flight decide.
pub const LATENCY_FLOOR: Duration = Duration::from_micros(100);

/// What a failure counts as in the latency estimate, at least. Without it, a workload that fails
/// fast would look like the best one.
pub const FAILURE_LATENCY: Duration = Duration::from_secs(1);

/// An ejection never lasts longer, so that a workload that was repaired is found again.
pub const EJECTION_LONGEST: Duration = Duration::from_mins(5);

/// A workload that took traffic this long since its last ejection is as good as new.
pub const EJECTION_MEMORY: Duration = Duration::from_mins(1);

/// Bodies up to this many bytes are kept, so that they can be sent again, and replies up to this
/// length are held until complete while a retry is possible.
pub const HELD_BYTES: u64 = 64 * 1024;

/// Tries of one request that may find no way, beyond those that `retry.attempts` allows: from the
/// second failure on each leaves a whole cluster, so this is how many clusters may be dead at once.
pub const MOST_UNSENT: u32 = 4;

/// What "recent requests" means for the retry budget. One-second slots.
pub const BUDGET_WINDOW_SECONDS: usize = 10;

/// Retries that are always allowed, however few requests there are: with one request a second, a
/// percentage alone would forbid every retry.
pub const BUDGET_FLOOR_PER_SECOND: u32 = 3;

/// How often a connection with open streams is pinged.
pub const PING_EVERY: Duration = Duration::from_millis(500);

/// The shortest silence that counts as death: garbage collection and scheduling stay below it.
pub const LIVENESS_FLOOR: Duration = Duration::from_secs(1);

/// A ping that is unanswered for this long means that the peer is gone. `rtt`: as measured on the
/// connection; unknown counts as none. With [`PING_EVERY`] a silent death of a peer up to 250 ms
/// away is noticed within 1.5 s.
pub fn liveness_timeout(rtt: Option<Duration>) -> Duration {
    LIVENESS_FLOOR.max(rtt.unwrap_or_default().saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_death_is_noticed_within_two_seconds_up_to_far_links() {
        for (rtt, expect) in [(0, 1000), (140, 1000), (250, 1000), (400, 1600)] {
            let rtt = Duration::from_millis(rtt);
            assert_eq!(liveness_timeout(Some(rtt)), Duration::from_millis(expect));
        }
        assert_eq!(liveness_timeout(None), LIVENESS_FLOOR);
        assert!(PING_EVERY + liveness_timeout(None) <= Duration::from_secs(2));
        assert_eq!(liveness_timeout(Some(Duration::MAX)), Duration::MAX);
    }
}
