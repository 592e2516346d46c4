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

/// What makes a retry leave the cluster for another that has room, which does little harm if it is by
/// chance.
pub const SUSPECT_CONSECUTIVE: u32 = 2;
pub const SUSPECT_FAILURES: f64 = 0.25;

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

/// How long it counts that a workload, or a cluster, has turned a request away: while more comes than it
/// can do, it does so all the time.
pub const BUSY_KEPT: Duration = Duration::from_secs(1);

/// Weight of the newest request in the share of those that a cluster turns away, and how much of that is
/// chance: near its capacity, a crowd is too much now and then.
pub const SHED_WEIGHT: f64 = 0.1;
pub const SHED_BY_CHANCE: f64 = 0.15;

/// An ejection never lasts longer, so that a workload that was repaired is found again.
pub const EJECTION_LONGEST: Duration = Duration::from_mins(5);

/// A workload that took traffic this long since its last ejection is as good as new.
pub const EJECTION_MEMORY: Duration = Duration::from_mins(1);

/// How often a limit is learnt. Shorter windows say little of thin traffic, longer ones answer a
/// surge too late.
pub const LEARN_EVERY: Duration = Duration::from_secs(1);

/// A window says nothing with fewer tries.
pub const LEARN_FROM: u32 = 10;

/// So many replies tell how long calm ones take, at the very beginning.
pub const LEARN_FIRST: u32 = 30;

/// Weight of news that a cluster can hold less, and that it can hold more: a limit that is too high
/// costs everybody a queue, one that is too low costs a few requests a detour.
pub const LEARN_BAD: f64 = 0.5;
pub const LEARN_GOOD: f64 = 0.3;

/// A limit grows at most by this factor per step, so that no step makes a cluster hot.
pub const GROWTH: f64 = 1.1;

/// Concurrency never exceeds this multiple of what was proven.
pub const CONCURRENCY_UNPROVEN: f64 = 1.15;

/// What is left per step of the proof: half of it is forgotten in six minutes. A night's thin
/// traffic should not be taken for the capacity of the day, nor last week's capacity for today's.
pub const PROVEN_KEPT: f64 = 0.998;

/// What a cluster may hold, as a multiple of its concurrency: callers that know nothing of each
/// other do not place requests perfectly, and workers must not be idle meanwhile.
pub const CONCURRENCY_HEADROOM: f64 = 1.5;

/// No limit is lower: below, chance decides more than load.
pub const CONCURRENCY_FLOOR: f64 = 3.0;

/// What a workload is assumed to hold until anything is known of any.
pub const CONCURRENCY_ASSUMED: f64 = 8.0;

/// What a new workload counts at least while its slow start goes on: limits are about what it can
/// hold, and a cold one holds requests for longer.
pub const WORKLOAD_FLOOR: f64 = 0.3;

/// What guests keep per step of what they had in another cluster once it is pressed: they leave
/// before those who live there have to.
pub const GUESTS_KEPT: f64 = 0.9;

/// How far a rate may rise above the smoothed one before it counts as a queue.
pub const RATE_HEADROOM: f64 = 1.3;

/// Latency at this multiple of the calm one means that requests queue; guests are more careful, as
/// those who live there pay for their mistake with a detour.
pub const PRESSED: f64 = 1.4;
pub const GUESTS_PRESSED: f64 = 1.2;

/// Latency at this multiple counts even where utilisation says that there is room.
pub const PRESSED_ANYWAY: f64 = 2.5;

/// The same of utilisation.
pub const FULL: f64 = 0.97;
pub const GUESTS_FULL: f64 = 0.8;

/// Older utilisation says nothing of now.
pub const UTILISATION_AGE: Duration = Duration::from_millis(250);

/// Weight of the newest reply in the utilisation of a cluster, and in its latency: about the last
/// ten count.
pub const UTILISATION_WEIGHT: f64 = 0.1;
pub const RECENT_WEIGHT: f64 = 0.1;

/// Without any reply for this long (or four times the calm latency, if that is longer), what is in
/// flight waits for something.
pub const SILENCE: Duration = Duration::from_millis(100);

/// Service times below this are not told apart from noise.
pub const SERVICE_FLOOR: Duration = Duration::from_micros(500);

/// A request that meets fewer others than this part of the concurrency does not queue; nor does one
/// at a workload less utilised than that.
pub const CALM: f64 = 0.6;
pub const CALM_UTILISATION: f64 = 0.8;

/// Calm replies until the calm latency is well known: before, each window counts for as many as it
/// has.
pub const BASE_FROM: u32 = 100;

/// To which part of the concurrency the limit is lowered to see latency without a queue: nearly all of
/// the capacity stays in use. How long at least; where a request takes long, as long as it takes to see
/// some, but at most so; when at the earliest this is done again, twice as long each time of the same
/// trouble, and at the latest.
pub const ASK_AT: f64 = 0.8;
pub const ASK_FOR: Duration = Duration::from_millis(300);
pub const ASK_AT_MOST: Duration = Duration::from_secs(3);
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
pub const ASK_LONGEST: Duration = Duration::from_mins(1);

/// How long a queue at a workload may last before it counts as a standing one, and how long a request
/// may wait in a burst, at least; where requests take long, so many times as long as one takes: at nine
/// tenths of its capacity a program of few workers has a queue for longer than that now and then.
pub const QUEUE_BURST: Duration = Duration::from_millis(100);
pub const BURST_LASTS: u32 = 3;

/// How long one may wait in a standing queue. A request may always wait for one that is served.
pub const QUEUE_STANDING: Duration = Duration::from_millis(10);

/// How long a request may wait whose caller has time: a fifth of what is left to it beyond
/// [`QUEUE_HURRY`], at most this. Callers in a hurry, who ask again or elsewhere, wait as above.
pub const QUEUE_SPARE: Duration = Duration::from_secs(2);
pub const QUEUE_HURRY: Duration = Duration::from_secs(1);

/// How long a request of high priority may wait, if its caller does.
pub const QUEUE_HIGH: Duration = Duration::from_secs(1);

/// How many times as long as the last few requests one may well take. Under pressure, one that has less
/// time left is turned away: its caller would most likely be gone before it is done.
pub const LONGER_THAN_USUAL: f64 = 1.5;

/// What a limit is stretched by while requests wait and latency says that they need not: a workload
/// with more workers than expected is found out in a second, not in ten.
pub const STRETCH: f64 = 1.5;

/// How many a program is given at once that has not shown that it can do more, and over which time it is
/// forgotten what it has shown: a burst is as large as the last ones, not as those of last week.
pub const SURGE_LEAST: f64 = 16.0;
pub const SURGE_KEPT: Duration = Duration::from_mins(5);

/// How many may wait for a program to show what it can do.
pub const QUEUE_UNPROVEN: usize = 200;

/// Bounds of how many may wait: enough for a burst at a small workload, and not too much memory.
pub const QUEUE_SHORTEST: usize = 16;
pub const QUEUE_LONGEST: usize = 1024;

/// When a request that was turned away is asked to come again, at the earliest; twice that where
/// the queue is a standing one.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Utilisation that is told is smoothed over this time.
pub const UTILISATION_OVER: Duration = Duration::from_millis(100);

/// The most that is told as long as nothing says that the capacity is near: below [`GUESTS_FULL`].
pub const ROOM_UTILISATION: f64 = 0.75;

/// Points on a hash ring for a workload, and the most for all: with 256, loads differ by
/// about 6 % (one over the root).
pub const RING_POINTS: u64 = 256;
pub const RING_MOST: u64 = 65_536;

/// Entries of a Maglev table, a prime: loads differ by about 1 % up to 160 workloads, in 32 KiB.
pub const MAGLEV_SIZE: usize = 16_381;

/// What counts when workloads are compared: about the last two seconds, judged four times a second,
/// and nothing from fewer tries.
pub const GREY_OVER: Duration = Duration::from_secs(2);
pub const GREY_JUDGED: Duration = Duration::from_millis(250);
pub const GREY_SAMPLES: f64 = 5.0;

/// A workload fails too often if this many tries failed, and their share is above that of its
/// siblings by so many standard deviations and by so much: with one error in a thousand everywhere,
/// chance does that less than once an hour, and an ejection is short.
pub const GREY_FAILURES: f64 = 2.5;
pub const GREY_SIGMAS: f64 = 3.0;
pub const GREY_SHARE: f64 = 0.02;

/// It is too slow if it takes so many times as long as is typical of its siblings, and so much
/// longer: below, choosing the faster of two is remedy enough.
pub const GREY_TIMES: f64 = 3.0;
pub const GREY_MARGIN: Duration = Duration::from_millis(50);

/// The part of replies that a hedge is not for; how far one reply moves that mark, as a part of it;
/// how many must be known; and what is not worth hedging.
pub const HEDGE_SHARE: f64 = 0.95;
pub const HEDGE_STEP: f64 = 0.02;
pub const HEDGE_SAMPLES: usize = 100;
pub const HEDGE_FLOOR: Duration = Duration::from_millis(1);

/// How old the word of a destination on its utilisation may be that a hedge relies on.
pub const HEDGE_KNOWN: Duration = Duration::from_secs(2);

/// Where more of the capacity is in use, a second try makes others slow.
pub const HEDGE_UTILISATION: f64 = 0.6;

/// Bodies up to this many bytes are kept, so that they can be sent again, and replies up to this
/// length are held until complete while a retry is possible.
pub const HELD_BYTES: u64 = 64 * 1024;

/// Tries of one request that may find no way, beyond those that `retry.attempts` allows: from the
/// second failure on each leaves a whole cluster, so this is how many clusters may be dead at once.
pub const MOST_UNSENT: u32 = 4;

/// What is remembered for the retry budget, ten seconds, and in what steps.
pub const BUDGET_SLOT: Duration = Duration::from_millis(100);
pub const BUDGET_SLOTS: usize = 100;

/// The shortest time in which the budget holds, in such steps: a second. In a shorter one, chance would
/// decide who is retried; in a longer one, a crowd of retries would be no news any more.
pub const BUDGET_SLOTS_SHORTEST: usize = 10;

/// How much of the percentage is given out: seconds that others count begin between these steps.
pub const BUDGET_USED: f64 = 0.98;

/// Retries per second, counted over ten, that are always allowed of what failed, however few requests
/// there are: with one request a second, a percentage alone would forbid every retry. Where another
/// cluster has room, also however many there are: a second's percentage of forty requests is spent
/// before it is clear that a cluster is out.
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
