//! How much retries may add: the retry budget of one called service.
//!
//! Ordinary retries draw on it: at most a percentage of the requests of the last ten seconds, with a
//! floor for thin traffic, shrunk by the share of this workload's own inbound requests that are
//! themselves retries, so that a chain of services does not multiply.
//!
//! Escapes do not draw on it. When a cluster dies, everything in flight to it fails at one instant,
//! which can be more than any percentage, although nothing is amplified: each of these requests
//! reaches a living cluster once. A retry is an escape if it is the first of its request, the place
//! that failed is *out* by now (breaker open, or workload ejected), and the next is another place
//! that is not hot. This is bounded without a number: what is out gets one probe at a time, so only
//! what was in flight when it went out can escape; and when every place is in trouble, all are hot
//! and there is no escape.

use std::time::Instant;

use isthmus_model::Percent;

use crate::constants::{BUDGET_FLOOR_PER_SECOND, BUDGET_WINDOW_SECONDS};

/// What ten seconds of thin traffic may add.
const FLOOR: u64 = BUDGET_FLOOR_PER_SECOND as u64 * BUDGET_WINDOW_SECONDS as u64;

/// What retries of one called service may add.
#[derive(Debug, Clone)]
pub struct Budget {
    window: Window,
    inbound_retry_share: f64,
}

/// How much of what this workload is asked is asked again: counts the requests that it serves.
#[derive(Debug, Clone)]
pub struct Inbound(Window);

/// The last ten seconds, in slots of one second.
#[derive(Debug, Clone)]
struct Window {
    began: Instant,
    slots: [Slot; BUDGET_WINDOW_SECONDS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which second since the beginning it counts.
    second: u64,
    requests: u32,
    retries: u32,
}

impl Inbound {
    pub fn new(now: Instant) -> Self {
        Self(Window::new(now))
    }

    /// A request has come; `is_retry`: its caller has tried before.
    pub fn on_request(&mut self, is_retry: bool, now: Instant) {
        let slot = self.0.slot(now);
        slot.requests = slot.requests.saturating_add(1);
        slot.retries = slot.retries.saturating_add(u32::from(is_retry));
    }

    /// The part, 0.0 to 1.0, of the requests of the last ten seconds that are retries. In traffic so
    /// thin that the floor of the budgets covers it, a few retries say little and count little.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of ten seconds are far below 2^53"
    )]
    pub fn retry_share(&self, now: Instant) -> f64 {
        let (requests, retries) = self.0.recent(now);
        retries as f64 / requests.max(FLOOR) as f64
    }
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now),
            inbound_retry_share: 0.0,
        }
    }

    /// A request begins (its first try, not a retry).
    pub fn on_request(&mut self, now: Instant) {
        let slot = self.window.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// The part, 0.0 to 1.0, of the requests that this workload was sent which are retries. Values
    /// outside are clamped; NaN is ignored.
    pub fn set_inbound_retry_share(&mut self, share: f64) {
        if !share.is_nan() {
            self.inbound_retry_share = share.clamp(0.0, 1.0);
        }
    }

    /// Takes one retry out of the budget; false: there is none left.
    pub fn withdraw(&mut self, percent: Percent, now: Instant) -> bool {
        let left = self.left(percent, now) > 0;
        if left {
            let slot = self.window.slot(now);
            slot.retries = slot.retries.saturating_add(1);
        }
        left
    }

    /// Retries that may begin now.
    pub fn left(&self, percent: Percent, now: Instant) -> u64 {
        if percent.value() == 0 {
            return 0;
        }
        let (requests, retries) = self.window.recent(now);
        let share = requests.saturating_mul(u64::from(percent.value())) / 100;
        scale(share.max(FLOOR), 1.0 - self.inbound_retry_share).saturating_sub(retries)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            slots: [Slot::default(); BUDGET_WINDOW_SECONDS],
        }
    }

    /// Requests and retries.
    fn recent(&self, now: Instant) -> (u64, u64) {
        let current = self.second(now);
        let recent = |slot: &&Slot| {
            slot.second <= current && current - slot.second < BUDGET_WINDOW_SECONDS as u64
        };
        let slots = self.slots.iter().filter(recent);
        slots.fold((0, 0), |(requests, retries), slot| {
            (
                requests + u64::from(slot.requests),
                retries + u64::from(slot.retries),
            )
        })
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let second = self.second(now);
        let index = second % BUDGET_WINDOW_SECONDS as u64;
        let slot = &mut self.slots[usize::try_from(index).expect("less than the window")];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }
}

/// `count` times `factor` (0.0 to 1.0), rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of ten seconds are far below 2^53, and the factor is not negative"
)]
fn scale(count: u64, factor: f64) -> u64 {
    (count as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn percent(value: u64) -> Percent {
        Percent::new(value).unwrap()
    }

    /// How many retries can be taken at `now`.
    fn take_all(budget: &mut Budget, of: Percent, now: Instant) -> u32 {
        let mut taken = 0;
        while budget.withdraw(of, now) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_percentage_of_the_last_ten_seconds_with_a_floor() {
        let start = Instant::now();
        for (requests, of, inbound, expect) in [
            (0, 20, 0.0, 30),
            (100, 20, 0.0, 30),
            (1000, 20, 0.0, 200),
            (1000, 100, 0.0, 1000),
            (1000, 0, 0.0, 0),
            (0, 0, 0.0, 0),
            (1000, 20, 0.25, 150),
            (1000, 20, 1.0, 0),
            (0, 20, 1.0, 0),
            (1000, 20, 7.0, 0),
            (1000, 20, -1.0, 200),
            (1000, 20, f64::NAN, 200),
        ] {
            let mut budget = Budget::new(start);
            budget.set_inbound_retry_share(inbound);
            (0..requests).for_each(|_| budget.on_request(start));
            let taken = take_all(&mut budget, percent(of), start);
            assert_eq!(taken, expect, "{requests} {of} {inbound}");
        }
    }

    #[test]
    fn what_comes_again_from_outside_is_a_share_of_what_comes() {
        let start = Instant::now();
        for (requests, retries, expect) in [
            (0, 0, 0.0),
            (100, 0, 0.0),
            (100, 25, 0.25),
            (100, 100, 1.0),
            // One of one, in thin traffic.
            (1, 1, 1.0 / 30.0),
        ] {
            let mut inbound = Inbound::new(start);
            (0..requests).for_each(|n| inbound.on_request(n < retries, start));
            let share = inbound.retry_share(start);
            assert!(
                (share - expect).abs() < 1e-9,
                "{retries} of {requests}: {share}"
            );
            let later = start + Duration::from_secs(10);
            assert!(inbound.retry_share(later) < 1e-9);
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut budget = Budget::new(start);
        (0..1000).for_each(|_| budget.on_request(start));
        assert_eq!(take_all(&mut budget, percent(20), start), 200);
        assert_eq!(budget.left(percent(20), at(9)), 0);
        assert_eq!(budget.left(percent(20), at(10)), 30);
        assert_eq!(take_all(&mut budget, percent(20), at(10)), 30);
        assert_eq!(budget.left(percent(20), at(1_000_000)), 30);
    }

    proptest! {
        /// Against the plain definition, over the same slots of whole seconds.
        #[test]
        fn never_more_than_the_budget(
            steps in proptest::collection::vec((any::<bool>(), 0u64..700), 1..400), of in 1u64..=100,
        ) {
            let start = Instant::now();
            let (mut budget, mut now) = (Budget::new(start), start);
            let (mut requests, mut retries): (Vec<u64>, Vec<u64>) = (vec![], vec![]);
            for (is_request, wait) in steps {
                now += Duration::from_millis(wait);
                let second = now.duration_since(start).as_secs();
                let recent = |all: &[u64]| all.iter().filter(|&&at| at + 10 > second).count();
                if is_request {
                    budget.on_request(now);
                    requests.push(second);
                } else {
                    let allowed = (recent(&requests) * usize::try_from(of).unwrap() / 100).max(30);
                    let expect = recent(&retries) < allowed;
                    prop_assert_eq!(budget.withdraw(percent(of), now), expect);
                    if expect {
                        retries.push(second);
                    }
                }
            }
        }
    }
}
