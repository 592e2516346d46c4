//! Every rule of choosing and ejecting workloads, and what holds for all input.

use super::*;
use crate::constants::{EJECTION_LONGEST, EJECTION_MEMORY, SLOW_START};
use crate::hash_key;
use isthmus_model::Percent;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MS: Duration = Duration::from_millis(1);
const OK: Outcome = Outcome::Replied {
    status: 200,
    retry_unwanted: false,
};

fn outlier(errors: u32, most: u64) -> OutlierSettings {
    OutlierSettings {
        consecutive_errors: errors,
        base_ejection: Duration::from_secs(5),
        max_ejected: Percent::new(most).unwrap(),
        panic: Percent::new(0).unwrap(),
    }
}

#[test]
fn where_too_few_are_left_all_are_used() {
    let now = Instant::now();
    // How many of four are out, the threshold, and how many are used then.
    for (out, below, used) in [
        (0, 100, 4),
        (1, 76, 4),
        (1, 75, 3),
        (2, 50, 2),
        (2, 51, 4),
        (3, 0, 1),
        (3, 26, 4),
        (4, 0, 4),
    ] {
        let mut settings = outlier(5, 100);
        settings.panic = Percent::new(below).unwrap();
        let mut table = Endpoints::new(Algorithm::PeakEwma, settings);
        table.set(0..4, now);
        for key in 0..out {
            run(&mut table, key, Outcome::Reset, 5, now);
        }
        let later = now + Duration::from_secs(3);
        // Those that failed count as slow, and get a request when there is no other.
        let seen = table.possible(later);
        assert_eq!(seen.len(), used, "{out} of 4 are out, {below} percent");
        let others: Vec<u32> = (out..4).collect();
        if used > others.len() {
            let picked = table.pick(&others, later, 7).unwrap();
            assert!(*picked.key < out);
        }
    }
}

fn table(algorithm: Algorithm, count: u32, now: Instant) -> Endpoints<u32> {
    let mut table = Endpoints::new(algorithm, outlier(5, 50));
    table.set(0..count, now);
    table
}

/// One try at `key` that takes `latency`, `times` times.
fn run(table: &mut Endpoints<u32>, key: u32, outcome: Outcome, times: u32, now: Instant) {
    for _ in 0..times {
        table.start(&key);
        table.finish(&key, outcome, 10 * MS, now);
    }
}

/// How many of 4,000 draws each workload gets; the state stays as it is.
fn spread(table: &Endpoints<u32>, now: Instant) -> BTreeMap<u32, u32> {
    let mut seen = BTreeMap::new();
    for draw in 0..4000 {
        if let Some(picked) = table.pick(&[], now, draw) {
            *seen.entry(*picked.key).or_default() += 1;
        }
    }
    seen
}

#[test]
fn equal_workloads_share_equally() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let seen = spread(&table(algorithm, 4, now), now);
        assert!(
            seen.len() == 4 && seen.values().all(|n| (900..1100).contains(n)),
            "{seen:?}"
        );
    }
}

#[test]
fn the_faster_and_the_less_busy_of_two_is_taken() {
    let now = Instant::now();
    let mut both = table(Algorithm::PeakEwma, 2, now);
    both.finish(&0, OK, 30 * MS, now);
    both.finish(&1, OK, 10 * MS, now);
    assert_eq!(spread(&both, now), BTreeMap::from([(1, 4000)]));
    // 10 ms with three in flight is worse than 30 ms with none.
    (0..3).for_each(|_| both.start(&1));
    assert_eq!(spread(&both, now), BTreeMap::from([(0, 4000)]));
    // Least request looks at the number only.
    both.configure(Algorithm::LeastRequest, outlier(5, 50));
    assert_eq!(spread(&both, now), BTreeMap::from([(0, 4000)]));
    (0..4).for_each(|_| both.start(&0));
    assert_eq!(spread(&both, now), BTreeMap::from([(1, 4000)]));
}

#[test]
fn the_worst_of_many_is_left_alone_and_the_best_is_not_overrun() {
    let now = Instant::now();
    let mut table = table(Algorithm::PeakEwma, 4, now);
    for (key, latency) in [(0, 10), (1, 20), (2, 30), (3, 40)] {
        table.finish(&key, OK, latency * MS, now);
    }
    let seen = spread(&table, now);
    assert_eq!(seen.get(&3), None);
    // Three of the six pairs hold the best: it gets half of the draws, not all.
    assert!((1900..2100).contains(&seen[&0]), "{seen:?}");
}

#[test]
fn a_new_workload_is_neither_shunned_nor_overrun() {
    let now = Instant::now();
    let mut table = table(Algorithm::PeakEwma, 2, now);
    table.finish(&0, OK, 10 * MS, now);
    table.finish(&1, OK, 10 * MS, now);
    table.set(0..3, now);
    // A tenth of its weight: with estimates alike it loses to either.
    assert_eq!(spread(&table, now).get(&2), None);
    // Under load it gets its part: others have 20 in flight, and 1/0.1 is less than 21.
    for key in [0, 1] {
        (0..20).for_each(|_| table.start(&key));
    }
    assert!((2500..2800).contains(&spread(&table, now)[&2]));
    (0..2).for_each(|_| table.start(&2));
    assert_eq!(spread(&table, now).get(&2), None);
    assert!(spread(&table, now + SLOW_START).contains_key(&2));
}

#[test]
fn round_robin_takes_turns() {
    let now = Instant::now();
    let mut table = table(Algorithm::RoundRobin, 3, now);
    let mut order = vec![];
    for draw in 0..7 {
        let key = *table.pick(&[], now, draw).unwrap().key;
        run(&mut table, key, OK, 1, now);
        order.push(key);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(*table.pick(&[1], now, 0).unwrap().key, 2);
    // The next in turn leaves; the turn goes on.
    table.set([0, 2], now);
    assert_eq!(*table.pick(&[], now, 0).unwrap().key, 2);
    // A newcomer's turn comes as often as its weight says.
    table.set([0, 1, 2], now);
    let seen = spread(&table, now);
    assert!((300..500).contains(&seen[&1]), "{seen:?}");
}

#[test]
fn one_that_fails_fast_does_not_look_fast() {
    let now = Instant::now();
    for bad in [Outcome::Reset, Outcome::ConnectFailed, Outcome::TimedOut] {
        let mut table = table(Algorithm::PeakEwma, 2, now);
        table.finish(&0, OK, 200 * MS, now);
        table.finish(&1, bad, MS, now);
        assert_eq!(spread(&table, now), BTreeMap::from([(0, 4000)]), "{bad:?}");
    }
    // Nobody's fault: nothing is learnt.
    for neutral in [Outcome::Drained, Outcome::Cancelled] {
        let mut table = table(Algorithm::PeakEwma, 2, now);
        table.finish(&0, OK, 200 * MS, now);
        table.finish(&1, OK, 200 * MS, now);
        table.finish(&1, neutral, MS, now);
        assert_eq!(spread(&table, now).len(), 2, "{neutral:?}");
    }
    // But who was given up on after a second is not faster than that.
    let mut table = table(Algorithm::PeakEwma, 2, now);
    table.finish(&0, OK, 200 * MS, now);
    table.finish(&1, OK, 100 * MS, now);
    table.finish(&1, Outcome::Cancelled, 1000 * MS, now);
    assert_eq!(spread(&table, now), BTreeMap::from([(0, 4000)]));
}

#[test]
fn five_errors_in_a_row_eject_for_a_while() {
    let start = Instant::now();
    let mut table = table(Algorithm::PeakEwma, 4, start);
    run(&mut table, 0, Outcome::Reset, 4, start);
    run(&mut table, 0, OK, 1, start);
    run(&mut table, 0, Outcome::Reset, 4, start);
    assert!(!table.is_ejected(&0, start));
    table.start(&0);
    let ejection = table.finish(&0, Outcome::Reset, MS, start).unwrap();
    let expect = Ejection {
        cause: Cause::Failures(5),
        count: 1,
        remaining: Duration::from_secs(5),
    };
    assert_eq!(ejection, expect);
    assert_eq!(table.describe(start)[0].ejection, Some(expect));
    assert_eq!(table.possible(start), [1, 2, 3]);
    assert_eq!(spread(&table, start).get(&0), None);
    // What was still in flight says nothing new.
    run(&mut table, 0, Outcome::Reset, 50, start);
    assert_eq!(
        table.next_return(start),
        Some(start + Duration::from_secs(5))
    );
    let back = start + Duration::from_secs(5);
    assert_eq!(table.possible(back), [0, 1, 2, 3]);
    assert_eq!(table.next_return(back), None);
    assert!((table.describe(back)[0].weight - 0.1).abs() < 1e-9);
    assert!((table.describe(back + SLOW_START)[0].weight - 1.0).abs() < 1e-9);
}

#[test]
fn each_further_ejection_lasts_longer_until_it_is_forgotten() {
    let mut now = Instant::now();
    let mut table = table(Algorithm::PeakEwma, 2, now);
    for expect in [5, 10, 15, 20] {
        run(&mut table, 0, Outcome::Reset, 5, now);
        let remaining = table.describe(now)[0].ejection.unwrap().remaining;
        assert_eq!(remaining, Duration::from_secs(expect));
        now += remaining;
    }
    now += EJECTION_MEMORY;
    run(&mut table, 0, Outcome::Reset, 5, now);
    assert_eq!(table.describe(now)[0].ejection.unwrap().count, 1);
    let mut long = outlier(1, 50);
    long.base_ejection = Duration::MAX;
    table.configure(Algorithm::PeakEwma, long);
    now += Duration::from_secs(5);
    run(&mut table, 0, Outcome::Reset, 1, now);
    let longest = table.describe(now)[0].ejection.unwrap().remaining;
    assert_eq!(longest, EJECTION_LONGEST);
}

#[test]
fn never_more_are_out_than_the_percentage_and_never_the_only_one() {
    let now = Instant::now();
    for (present, errors, most, expect) in [
        (1, 5, 100, 0),
        (2, 5, 50, 1),
        (2, 5, 1, 1),
        (10, 5, 1, 1),
        (10, 5, 0, 0),
        (10, 5, 50, 5),
        (10, 5, 100, 10),
        (10, 0, 100, 0),
        (3, 5, 50, 1),
    ] {
        let mut table = Endpoints::new(Algorithm::PeakEwma, outlier(errors, most));
        table.set(0..present, now);
        (0..present).for_each(|key| run(&mut table, key, Outcome::Reset, 6, now));
        let out = table
            .describe(now)
            .iter()
            .filter(|w| w.ejection.is_some())
            .count();
        assert_eq!(out, expect, "{present} {errors} {most}");
    }
}

#[test]
fn there_is_always_somebody() {
    let now = Instant::now();
    let reason = |table: &Endpoints<u32>, avoid: &[u32]| {
        table
            .pick(avoid, now, 0)
            .map(|picked| (*picked.key, picked.reason))
    };
    let mut table = Endpoints::new(Algorithm::LeastRequest, outlier(1, 100));
    assert_eq!(reason(&table, &[]), None);
    assert!(table.is_empty());
    table.set([7], now);
    assert_eq!(reason(&table, &[]), Some((7, WorkloadReason::OnlyChoice)));
    assert_eq!(reason(&table, &[7]), Some((7, WorkloadReason::AllFailed)));
    table.set([7, 8, 9], now);
    let by_algorithm = WorkloadReason::Algorithm(Algorithm::LeastRequest);
    assert_eq!(reason(&table, &[]).unwrap().1, by_algorithm);
    assert_eq!(
        reason(&table, &[7, 9]),
        Some((8, WorkloadReason::OnlyChoice))
    );
    run(&mut table, 8, Outcome::Reset, 1, now);
    // Failed once is better than ejected.
    assert_eq!(
        reason(&table, &[7, 9]).unwrap().1,
        WorkloadReason::AllFailed
    );
    assert_ne!(reason(&table, &[7, 9]).unwrap().0, 8);
    run(&mut table, 7, Outcome::Reset, 1, now);
    run(&mut table, 9, Outcome::Reset, 1, now);
    assert_eq!(reason(&table, &[]).unwrap().1, WorkloadReason::AllEjected);
    assert_eq!(
        reason(&table, &[7, 9]),
        Some((8, WorkloadReason::AllEjected))
    );
    assert_eq!(
        reason(&table, &[7, 8, 9]).unwrap().1,
        WorkloadReason::AllEjected
    );
    assert_eq!(table.possible(now), [7, 8, 9]);
}

#[test]
fn one_that_left_is_remembered_while_its_requests_run() {
    let now = Instant::now();
    let mut table = table(Algorithm::LeastRequest, 2, now);
    (0..3).for_each(|_| table.start(&0));
    table.set([1], now);
    assert_eq!((table.len(), table.possible(now)), (1, vec![1]));
    table.finish(&0, OK, MS, now);
    // It comes back: its requests still count, and it does not start anew.
    table.set([0, 1], now);
    assert_eq!(table.describe(now)[0].in_flight, 2);
    table.set([1], now);
    (0..2).for_each(|_| assert_eq!(table.finish(&0, OK, MS, now), None));
    table.set([0, 1], now);
    assert_eq!(table.describe(now)[0].in_flight, 0);
    assert!((table.describe(now)[0].weight - 0.1).abs() < 1e-9);
    // Keys that were never there are nobody.
    table.start(&99);
    assert_eq!(table.finish(&99, OK, MS, now), None);
}

proptest! {
    /// Any history: counts stay right, the cap holds when it is applied, and what is picked was
    /// named possible.
    #[test]
    fn what_is_picked_was_possible(
        steps in proptest::collection::vec((0u8..8, 0u32..6, 0u64..800, any::<u64>()), 1..150),
        round_robin in any::<bool>(), most in 0u64..=100,
    ) {
        let algorithm = if round_robin { Algorithm::RoundRobin } else { Algorithm::PeakEwma };
        let mut now = Instant::now();
        let mut table = Endpoints::new(algorithm, outlier(2, most));
        table.set(0..4, now);
        let mut running: Vec<u32> = vec![];
        for (step, key, wait, draw) in steps {
            now += Duration::from_millis(wait);
            match step {
                0..=3 => if let Some(picked) = table.pick(&[], now, draw) {
                    let key = *picked.key;
                    prop_assert!(table.possible(now).contains(&key));
                    table.start(&key);
                    running.push(key);
                },
                4..=6 if !running.is_empty() => {
                    let ended = running.swap_remove(0);
                    let outcome = if step == 4 { OK } else { Outcome::Reset };
                    let ejected = table.finish(&ended, outcome, Duration::from_millis(wait), now);
                    let out = table.describe(now).iter().filter(|w| w.ejection.is_some()).count();
                    let cap = (table.len() * usize::try_from(most).unwrap() / 100).max(1);
                    prop_assert!(ejected.is_none() || (out <= cap && table.len() > 1 && most > 0));
                }
                7 => table.set((0..6).filter(|one| *one != key), now),
                _ => {}
            }
            for view in table.describe(now) {
                let expect = running.iter().filter(|one| **one == view.key).count();
                prop_assert_eq!(usize::try_from(view.in_flight).unwrap(), expect);
                prop_assert!(view.weight > 0.0 && view.weight <= 1.0);
            }
        }
    }
}

/// Whom 1,000 keys go to.
fn owners(endpoints: &Endpoints<u32>, avoid: &[u32], now: Instant) -> Vec<u32> {
    let owner = |key: u64| {
        let picked = endpoints.pick_for(Some(hash_key(&key.to_string())), avoid, now, key);
        *picked.unwrap().key
    };
    (0..1000).map(owner).collect()
}

#[test]
fn the_same_key_goes_to_the_same_workload_while_that_can_be_used() {
    let now = Instant::now();
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let mut endpoints = Endpoints::new(algorithm, outlier(5, 50));
        endpoints.set(0..5, now);
        let before = owners(&endpoints, &[], now);
        // Whatever is in flight, and whatever is drawn.
        (0..50).for_each(|_| endpoints.start(&before[0]));
        assert_eq!(owners(&endpoints, &[], now), before);
        // A request that has failed there goes elsewhere, and all others stay.
        let failed = owners(&endpoints, &[3], now);
        let kept = |after: &[u32]| before.iter().zip(after).all(|(b, a)| *b == 3 || b == a);
        assert!(kept(&failed) && !failed.contains(&3), "{algorithm:?}");
        // So do the keys of one that is ejected.
        for _ in 0..5 {
            endpoints.start(&3);
            endpoints.finish(&3, Outcome::Reset, Duration::from_millis(1), now);
        }
        assert!(endpoints.is_ejected(&3, now));
        let ejected = owners(&endpoints, &[], now);
        assert!(kept(&ejected) && !ejected.contains(&3), "{algorithm:?}");
        // Switching it off and on again leads to the same.
        endpoints.configure(Algorithm::PeakEwma, outlier(5, 50));
        assert_ne!(owners(&endpoints, &[], now), ejected);
        endpoints.configure(algorithm, outlier(5, 50));
        assert_eq!(owners(&endpoints, &[], now), ejected);
    }
}

/// So many workloads that are tried in turn for three seconds; `bad` says how a try at one of them ends.
fn compared(
    count: u32,
    settings: OutlierSettings,
    bad: impl Fn(u32, u32) -> (Outcome, Duration),
) -> Vec<Cause> {
    let now = Instant::now();
    let mut table = Endpoints::new(Algorithm::RoundRobin, settings);
    table.set(0..count, now);
    let mut causes = vec![];
    for round in 0..150 {
        for key in 0..count {
            table.start(&key);
            let (outcome, took) = bad(key, round);
            let ejected = table.finish(&key, outcome, took, now + 20 * MS * round);
            causes.extend(ejected.map(|ejection| ejection.cause));
        }
    }
    causes
}

#[test]
fn a_workload_is_ejected_for_what_its_siblings_do_not_do() {
    let reset = (Outcome::Reset, 10 * MS);
    let well = (OK, 10 * MS);
    let every = |n: u32| move |key: u32, round: u32| key == 2 && round.is_multiple_of(n);
    let fails = |hit: bool| if hit { reset } else { well };
    let one_in_ten = |key, round| fails(every(10)(key, round));
    let slow = |by| move |key, _| if key == 2 { (OK, by) } else { well };
    // With few each is compared with all others, with many all with what they do together.
    for count in [4, 100] {
        assert_eq!(
            compared(count, outlier(5, 50), one_in_ten),
            [Cause::SuccessRate]
        );
        // Switched off, and not allowed.
        assert_eq!(compared(count, outlier(0, 50), one_in_ten), []);
        assert_eq!(compared(count, outlier(5, 0), one_in_ten), []);
        // Two errors can be chance.
        assert_eq!(
            compared(count, outlier(5, 50), |key, round| fails(every(75)(
                key, round
            ))),
            []
        );
        // All are alike.
        assert_eq!(
            compared(count, outlier(5, 50), |_, round| fails(
                round.is_multiple_of(10)
            )),
            []
        );
        assert_eq!(compared(count, outlier(5, 50), |_, _| (OK, 900 * MS)), []);
        assert_eq!(
            compared(count, outlier(5, 50), slow(500 * MS)),
            [Cause::Latency]
        );
        // Too little to matter.
        assert_eq!(compared(count, outlier(5, 50), slow(55 * MS)), []);
    }
    // Never more than half of them, however many are bad.
    let most = |key, _| if key == 2 { well } else { reset };
    assert_eq!(
        compared(4, outlier(5, 50), most),
        [Cause::Failures(5), Cause::Failures(5)]
    );
}
