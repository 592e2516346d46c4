//! One workload of six is grey: it works, but one in twenty of its replies is an error, or all take
//! half a second longer. Virtual time.

use std::time::{Duration, Instant};

use isthmus_balance::{Endpoints, Outcome};
use isthmus_model::{Algorithm, TrafficSettings};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
const WORKLOADS: u32 = 6;
const GREY: u32 = 3;
/// Requests per second, and when the workload becomes grey.
const RATE: u32 = 600;
const BEGINS: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Errors,
    Slow,
    /// All workloads are that bad.
    ErrorsEverywhere,
    SlowEverywhere,
}

/// A request: when it began, and whether the fault hurt it.
struct Served {
    second: f64,
    hurt: bool,
}

struct Run {
    served: Vec<Served>,
    /// The most that were ejected at once.
    most_out: usize,
}

fn run(algorithm: Algorithm, fault: Fault, seconds: u32, seed: u64) -> Run {
    let origin = Instant::now();
    let mut endpoints = Endpoints::new(algorithm, TrafficSettings::default().outlier);
    endpoints.set(0..WORKLOADS, origin);
    let mut run = Run {
        served: vec![],
        most_out: 0,
    };
    let mut running: Vec<(Duration, u32, Outcome, Duration)> = vec![];
    for count in 0..RATE * seconds {
        let at = Duration::from_secs(1) * count / RATE;
        running.sort_by_key(|(ends, ..)| std::cmp::Reverse(*ends));
        while running.last().is_some_and(|(ends, ..)| *ends <= at)
            && let Some((ends, key, outcome, took)) = running.pop()
        {
            endpoints.finish(&key, outcome, took, origin + ends);
        }
        let (draw, luck) = (random(seed, 3 * count), random(seed, 3 * count + 1));
        let key = *endpoints.pick(&[], origin + at, draw).expect("six").key;
        endpoints.start(&key);
        let bad = count >= BEGINS * RATE
            && (key == GREY || matches!(fault, Fault::ErrorsEverywhere | Fault::SlowEverywhere));
        let fails =
            bad && matches!(fault, Fault::Errors | Fault::ErrorsEverywhere) && luck % 20 == 0;
        let slow = bad && matches!(fault, Fault::Slow | Fault::SlowEverywhere);
        // 10 to 50 ms.
        let mut took = Duration::from_millis(10 + random(seed, 3 * count + 2) % 41);
        took += if slow {
            Duration::from_millis(500)
        } else {
            Duration::ZERO
        };
        let status = if fails { 503 } else { 200 };
        let outcome = Outcome::Replied {
            status,
            retry_unwanted: false,
        };
        running.push((at + took, key, outcome, took));
        run.served.push(Served {
            second: at.as_secs_f64(),
            hurt: fails || slow,
        });
        let out = (0..WORKLOADS).filter(|key| endpoints.is_ejected(key, origin + at));
        run.most_out = run.most_out.max(out.count());
    }
    run
}

impl Run {
    /// Of 10,000 requests, those that were hurt between these seconds.
    fn hurt(&self, from: f64, to: f64) -> usize {
        let within = || {
            self.served
                .iter()
                .filter(|s| (from..to).contains(&s.second))
        };
        10_000 * within().filter(|s| s.hurt).count() / within().count().max(1)
    }
}

#[test]
fn a_grey_workload_is_left_within_three_seconds() {
    let begins = f64::from(BEGINS);
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::RoundRobin,
        Algorithm::LeastRequest,
    ] {
        // Without ejection it would be 83 and 1667 by turns.
        for (fault, most) in [(Fault::Errors, 15), (Fault::Slow, 40)] {
            for seed in SEEDS {
                let run = run(algorithm, fault, 35, seed);
                let (first, after) = (run.hurt(begins, begins + 3.0), run.hurt(begins + 3.0, 35.0));
                println!(
                    "{algorithm:?}, {fault:?}, seed {seed}: {first}, then {after} of 10,000; {} out",
                    run.most_out
                );
                assert!(after <= most, "{algorithm:?}, {fault:?}, {seed}: {after}");
                assert!(run.most_out <= 3, "{algorithm:?}, {fault:?}, {seed}");
            }
        }
    }
}

#[test]
fn what_is_bad_everywhere_is_nobodys_fault() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin] {
        for fault in [Fault::None, Fault::ErrorsEverywhere, Fault::SlowEverywhere] {
            for seed in SEEDS {
                let run = run(algorithm, fault, 20, seed);
                println!(
                    "{algorithm:?}, {fault:?}, seed {seed}: {} out",
                    run.most_out
                );
                assert!(
                    run.most_out <= 1,
                    "{algorithm:?}, {fault:?}, {seed}: {}",
                    run.most_out
                );
                assert!(
                    fault != Fault::None || run.most_out == 0,
                    "{algorithm:?}, {seed}"
                );
            }
        }
    }
}

/// SplitMix64.
fn random(seed: u64, count: u32) -> u64 {
    let mut z = seed.wrapping_mul(0xd134_2543_de82_ef95)
        ^ u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
