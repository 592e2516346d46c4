use super::*;
use proptest::prelude::*;
use std::time::Duration;

use super::Retried::{Failure, Relieved, Shed};

const MS: Duration = Duration::from_millis(1);

fn percent(value: u64) -> Percent {
    Percent::new(value).unwrap()
}

fn ask(budget: &mut Budget, now: Instant) {
    assert!(!budget.on_request(now), "nobody asks this workload again");
}

/// How many retries of requests that began at `now` can be taken then.
fn take_all(budget: &mut Budget, of: Percent, retried: Retried, now: Instant) -> u32 {
    let mut taken = 0;
    while budget.withdraw(of, retried, now, now) {
        taken += 1;
    }
    taken
}

#[test]
fn until_a_cluster_is_known_to_be_out_as_many_may_leave_it_as_of_thin_traffic() {
    let start = Instant::now();
    // Forty requests a second, for ten seconds.
    let mut now = start;
    let mut budget = Budget::new(start);
    for _ in 0..400 {
        ask(&mut budget, now);
        now += 25 * MS;
    }
    for (retried, expect) in [(Shed, 7), (Failure, 7), (Relieved, 30)] {
        let taken = take_all(&mut budget.clone(), percent(20), retried, now);
        assert_eq!(taken, expect, "{retried:?}");
    }
    let mut budget = Budget::new(start);
    budget.set_inbound_retry_share(1.0);
    for _ in 0..400 {
        budget.on_request(start);
    }
    let taken = take_all(&mut budget, percent(20), Relieved, start);
    assert_eq!(taken, 0, "all of them are retries already");
}

#[test]
fn a_percentage_with_a_floor_for_what_is_no_overload() {
    let start = Instant::now();
    for (requests, of, inbound, shed, failure) in [
        (0, 20, 0.0, 1, 30),
        (4, 20, 0.0, 1, 30),
        (100, 20, 0.0, 19, 30),
        (1000, 20, 0.0, 196, 196),
        (1000, 100, 0.0, 980, 980),
        (1000, 0, 0.0, 0, 0),
        (0, 0, 0.0, 0, 0),
        // Of 900 that are none, nearly a fifth may be, and 100 are.
        (1000, 20, 0.1, 76, 76),
        // More are retries than there may be in all.
        (1000, 20, 0.25, 0, 0),
        (1000, 100, 0.25, 485, 485),
        (1000, 20, 1.0, 0, 0),
        (0, 20, 1.0, 0, 0),
        (1000, 20, 7.0, 0, 0),
        (1000, 20, -1.0, 196, 196),
        (1000, 20, f64::NAN, 196, 196),
    ] {
        for (retried, expect) in [(Shed, shed), (Failure, failure)] {
            let mut budget = Budget::new(start);
            budget.set_inbound_retry_share(inbound);
            for _ in 0..requests {
                budget.on_request(start);
            }
            let taken = take_all(&mut budget, percent(of), retried, start);
            assert_eq!(taken, expect, "{requests} {of} {inbound} {retried:?}");
        }
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
    // A storm after calm times is seen in a second.
    let mut inbound = Inbound::new(start);
    (0..900).for_each(|n| inbound.on_request(false, start + n * 10 * MS));
    (0..100).for_each(|n| inbound.on_request(n % 5 == 0, start + (9000 + n * 10) * MS));
    let share = inbound.retry_share(start + 9_995 * MS);
    assert!((0.19..=0.21).contains(&share), "{share}");
}

/// One in four of what this workload is asked has been asked before: so has one in four of what it asks.
#[test]
fn what_is_asked_again_is_told_along_the_chain() {
    let start = Instant::now();
    let mut budget = Budget::new(start);
    budget.set_inbound_retry_share(0.25);
    let told: Vec<bool> = (0..8).map(|_| budget.on_request(start)).collect();
    let every_fourth = [false, false, false, true, false, false, false, true];
    assert_eq!(told, every_fourth);
}

/// What quiet times have left is no reserve: ten seconds at 70/s, in which nothing fails, would allow
/// 140 retries in the first tenth of a second of an overload.
#[test]
fn nothing_is_saved_for_the_first_moment_of_an_overload() {
    let start = Instant::now();
    let mut budget = Budget::new(start);
    (0..700).for_each(|n| ask(&mut budget, start + n * 1000 / 70 * MS));
    let surge = start + 10_000 * MS;
    (0..50).for_each(|n| ask(&mut budget, surge + 2 * n * MS));
    let taken = take_all(&mut budget, percent(20), Shed, surge + 100 * MS);
    // Of the last second: nine tenths of 70, and 50.
    assert!((18..=24).contains(&taken), "{taken}");
}

/// A retry belongs to the time of its request: what came meanwhile pays for its own.
#[test]
fn a_late_retry_is_counted_when_its_request_began() {
    let start = Instant::now();
    let at = |tenths: u32| start + 100 * tenths * MS;
    let mut budget = Budget::new(start);
    for tenth in 0..60 {
        let count = if tenth < 30 { 10 } else { 100 };
        (0..count).for_each(|_| ask(&mut budget, at(tenth)));
    }
    let now = at(60);
    let mut taken = 0;
    while budget.withdraw(percent(20), Shed, at(15), now) {
        taken += 1;
    }
    // A tenth of the first three seconds, in which every second holds 100.
    assert_eq!(taken, 19);
    assert!(budget.allows(percent(20), Shed, at(45), now));
    // One that is older than anything that is remembered belongs to the oldest.
    assert!(budget.withdraw(percent(20), Failure, start, start + 100_000 * MS));
}

/// In the thinnest traffic one in a second, but not one in every second.
#[test]
fn who_calls_little_asks_little_again() {
    let start = Instant::now();
    let mut budget = Budget::new(start);
    let mut taken = 0;
    for tenth in 0..1000 {
        let now = start + 100 * tenth * MS;
        // Two in a second, all turned away.
        if tenth % 5 == 0 {
            budget.on_request(now);
            taken += u32::from(budget.withdraw(percent(20), Shed, now, now));
        }
    }
    assert!((30..=44).contains(&taken), "{taken} of 200");
}

/// Callers of which each sees its part of it: in no two seconds of a rise and a fall, on whatever tenth
/// they begin, is more than the percentage of their requests retried, although all of them fail.
#[test]
fn several_callers_keep_it_through_an_overload() {
    let start = Instant::now();
    for callers in [1_usize, 2, 7] {
        let mut budgets = vec![Budget::new(start); callers];
        let (mut came, mut again) = (vec![0_u64; 500], vec![0_u64; 500]);
        let mut due = 0.0;
        let mut number = 0;
        while due < 49.9 {
            let rate = if (10.0..30.0).contains(&due) {
                500.0
            } else {
                70.0
            };
            // Now and then two come at once.
            due += if number % 7 == 0 {
                0.0
            } else {
                7.0 / 6.0 / rate
            };
            number += 1;
            let now = start + Duration::from_secs_f64(due);
            let budget = &mut budgets[number % callers];
            budget.on_request(now);
            let tenth = usize::try_from((now - start).as_millis() / 100).unwrap();
            came[tenth] += 1;
            again[tenth] += u64::from(budget.withdraw(percent(20), Shed, now, now + 30 * MS));
        }
        for first in 0..480 {
            let sum = |all: &[u64]| all[first..first + 20].iter().sum::<u64>();
            let (came, again) = (sum(&came), sum(&again));
            // Each caller may round up to one where it has less than five.
            let least = if callers == 7 { 14 } else { 0 };
            assert!(
                again <= (came / 5).max(least),
                "{callers}, {first}: {again} of {came}"
            );
            assert!(again * 10 >= came, "{callers}, {first}: {again} of {came}");
        }
    }
}

proptest! {
    /// Against the plain definition: of the requests of any time that the retried one belongs to, that
    /// lasts from one second to two and is past, no more are retried than the percentage, or one.
    #[test]
    fn the_percentage_holds_in_every_second(
        steps in proptest::collection::vec((0u64..60, 0usize..40, 0usize..40, 0u64..20), 1..60),
        of in 1u64..=100,
    ) {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let (mut requests, mut retries) = (vec![0_u64; 512], vec![0_u64; 512]);
        let mut last = 0;
        for (wait, come, fail, late) in steps {
            last = (last + usize::try_from(wait).unwrap() / 10).min(500);
            let at = |tenth: usize| start + 100 * u32::try_from(tenth).unwrap() * MS;
            for _ in 0..come {
                budget.on_request(at(last));
                requests[last] += 1;
            }
            let asked = last.saturating_sub(usize::try_from(late).unwrap());
            for _ in 0..fail {
                let fits = |first: usize, last: usize| {
                    let sum = |all: &[u64]| all[first..=last].iter().sum::<u64>();
                    sum(&retries) < (sum(&requests) * of * 98 / 10_000).max(1)
                };
                let firsts = asked.saturating_sub(18)..=asked;
                let expect = fits(last.saturating_sub(99), last)
                    && firsts.into_iter().all(|first| {
                        (asked.max(first + 9)..=last.min(first + 18)).all(|last| fits(first, last))
                    });
                let taken = budget.withdraw(percent(of), Shed, at(asked), at(last));
                prop_assert_eq!(taken, expect, "{} at {}", asked, last);
                retries[asked] += u64::from(taken);
            }
        }
    }
}
