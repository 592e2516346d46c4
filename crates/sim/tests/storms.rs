//! Meshes in storms: whatever happens, the invariants hold, and a mesh in which one is broken on
//! purpose is noticed.

use isthmus_sim::{Invariant, Outcome, Sabotage, Storm, storms};

const SEEDS: u64 = 1_000;
const STEPS: usize = 80;

fn storm(seed: u64) -> Storm {
    Storm {
        seed,
        steps: STEPS,
        sabotage: None,
        digest: false,
    }
}

/// So many that do not hold say enough.
const ENOUGH: u64 = 5;

/// Prints what did not hold, and how to see it again.
fn tell(outcome: &Outcome) {
    if let Some((step, broken)) = &outcome.broken {
        let seed = outcome.seed;
        println!("seed {seed}, step {step}: {broken}");
        println!("  again: isthmus simulate --seed {seed} --steps {STEPS}");
    }
}

#[test]
fn a_thousand_storms_break_nothing() {
    let tally = storms(0..SEEDS, STEPS, ENOUGH, |outcome, _| tell(outcome));
    println!("{tally:?}");
    assert_eq!(tally.violations, 0);
    let shows_enough = tally.accepted > 14_000 && tally.checks > 1_500_000;
    assert!(shows_enough, "they show little");
}

/// What many more have found, and was mended: as long as storms are drawn as they were then, these are the same.
#[test]
fn what_was_found_once_does_not_come_back() {
    // Whoever told the older word last was believed; and what was agreed with who left was forgotten with a full disk.
    for seed in [7_627, 10_385] {
        let outcome = storm(seed).run(&mut |_| {});
        tell(&outcome);
        assert!(outcome.broken.is_none());
    }
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_message() {
    for seed in 0..5 {
        let run = || {
            let storm = Storm {
                digest: true,
                ..storm(seed)
            };
            let mut moments = Vec::new();
            let outcome = storm.run(&mut |moment| moments.push(moment.what.clone()));
            (outcome, moments)
        };
        let (first, again) = (run(), run());
        assert!(first.0.digest.is_some());
        assert_eq!(first, again);
    }
}

/// The first of a thousand seeds that notices it.
fn noticed(sabotage: Sabotage) -> (u64, Invariant) {
    for seed in 0..SEEDS {
        let storm = Storm {
            sabotage: Some(sabotage),
            ..storm(seed)
        };
        if let Some((_, broken)) = storm.run(&mut |_| {}).broken {
            return (seed, broken.invariant);
        }
    }
    panic!("{sabotage:?} goes unnoticed");
}

#[test]
fn a_disk_that_lies_is_noticed() {
    let (seed, invariant) = noticed(Sabotage::LostSync);
    println!("by seed {seed}: {invariant}");
}

#[test]
fn an_update_that_overwrites_what_nobody_saw_is_noticed() {
    let (seed, invariant) = noticed(Sabotage::LostCondition);
    println!("by seed {seed}: {invariant}");
    assert_eq!(invariant, Invariant::NoLostUpdate);
}
