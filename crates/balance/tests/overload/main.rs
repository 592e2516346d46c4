//! A workload under more load than it can serve, with and without [`isthmus_balance::Admission`].
//! `cargo test -p isthmus-balance --test overload -- --nocapture` prints the figures of
//! docs/decisions/0009.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of requests, and nanoseconds of a minute"
)]

mod world;

use isthmus_balance::Importance;
use world::{Guard, Phase, QUICK, SLOW, World};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
const WORKERS: usize = 16;
const CAPACITY: f64 = WORKERS as f64 / QUICK.service;
/// Of a slow program.
const FEW: usize = 5;
const FEW_CAPACITY: f64 = FEW as f64 / SLOW.service;

fn load(from: f64, part: f64) -> Phase {
    (from, part * CAPACITY, WORKERS)
}

/// All requests of high importance that had the time to be answered before `until`.
fn high(world: &World, until: f64) -> impl Iterator<Item = bool> {
    let high = move |r: &&world::Request| r.importance == Importance::High && r.began < until - 1.0;
    world
        .requests
        .iter()
        .filter(high)
        .map(|r| r.served.is_some())
}

#[test]
fn after_ten_seconds_at_twice_the_capacity_all_is_well_again() {
    let story = [load(0.0, 0.7), load(10.0, 2.0), load(20.0, 0.7)];
    for seed in SEEDS {
        let world = World::run(Guard::Admission, QUICK, &story, 40.0, 0.1, seed);
        let (during, after) = (world.goodput(11.0, 20.0), world.goodput(21.0, 30.0));
        let offered = 0.7 * CAPACITY;
        println!(
            "2x, seed {seed}: {during:.0}/s of {CAPACITY:.0}, then {after:.0}/s of {offered:.0}"
        );
        assert!(during >= 0.9 * CAPACITY, "seed {seed}: {during}");
        assert!(after >= 0.95 * offered, "seed {seed}: {after}");
        // Without it, what callers have given up keeps the program busy for ever.
        let world = World::run(Guard::None, QUICK, &story, 40.0, 0.1, seed);
        let after = world.goodput(21.0, 30.0);
        assert!(after < 0.2 * offered, "seed {seed}: {after} without");
    }
}

#[test]
fn at_five_times_the_capacity_it_is_used_and_what_matters_is_served() {
    for seed in SEEDS {
        for (what, story) in [
            ("5x", vec![load(0.0, 0.7), load(5.0, 5.0)]),
            ("5x from the first request", vec![load(0.0, 5.0)]),
        ] {
            let world = World::run(Guard::Admission, QUICK, &story, 30.0, 0.1, seed);
            let goodput = world.goodput(6.0, 30.0);
            let lost = high(&world, 30.0).filter(|served| !served).count();
            let (queued, within) = (world.most_queued, world.most_in_program);
            println!(
                "{what}, seed {seed}: {goodput:.0}/s of {CAPACITY:.0}, {lost} of {} of high \
                priority lost, at most {queued} queued and {within} in the program",
                high(&world, 30.0).count()
            );
            assert!(goodput >= 0.9 * CAPACITY, "{what}, {seed}: {goodput}");
            // Before anything is learnt, one in a thousand may be.
            let most = if story.len() == 1 { 11 } else { 0 };
            assert!(lost <= most, "{what}, {seed}: {lost}");
            assert!(
                queued <= 256 && within <= 400,
                "{what}, {seed}: {queued}, {within}"
            );
        }
    }
}

#[test]
fn a_capacity_that_halves_and_comes_back_is_learnt_within_seconds() {
    let story = [
        (0.0, 0.9 * CAPACITY, WORKERS),
        (10.0, 0.9 * CAPACITY, WORKERS / 2),
        (20.0, 0.9 * CAPACITY, WORKERS),
    ];
    for seed in SEEDS {
        let world = World::run(Guard::Admission, QUICK, &story, 30.0, 0.1, seed);
        let (half, whole) = (world.goodput(12.0, 20.0), world.goodput(22.0, 30.0));
        println!(
            "halved, seed {seed}: {half:.0}/s of {:.0}, then {whole:.0}/s of {:.0}",
            CAPACITY / 2.0,
            0.9 * CAPACITY
        );
        assert!(half >= 0.9 * CAPACITY / 2.0, "seed {seed}: {half}");
        assert!(whole >= 0.95 * 0.9 * CAPACITY, "seed {seed}: {whole}");
    }
}

#[test]
fn what_can_be_served_is_not_turned_away() {
    for seed in SEEDS {
        let world = World::run(Guard::Admission, QUICK, &[load(0.0, 0.8)], 20.0, 0.1, seed);
        let shed = world.requests.iter().filter(|r| r.shed).count();
        let part = shed as f64 / world.requests.len() as f64;
        println!("0.8x, seed {seed}: {shed} of {} shed", world.requests.len());
        assert!(part < 0.005, "seed {seed}: {shed} shed");
        let few = [(0.0, 0.7 * FEW_CAPACITY, FEW)];
        let world = World::run(Guard::Admission, SLOW, &few, 60.0, 0.1, seed);
        let shed = world.requests.iter().filter(|r| r.shed).count();
        println!(
            "0.7x, slow, seed {seed}: {shed} of {} shed",
            world.requests.len()
        );
        let part = shed as f64 / world.requests.len() as f64;
        assert!(part < 0.01, "slow, seed {seed}: {shed} shed");
    }
}

#[test]
fn utilisation_says_whether_there_is_room() {
    let story = [load(0.0, 0.3), load(10.0, 0.6), load(20.0, 2.0)];
    for seed in SEEDS {
        let world = World::run(Guard::Admission, QUICK, &story, 30.0, 0.1, seed);
        let mean = |from: f64, to: f64| {
            let told: Vec<f64> = world
                .told
                .iter()
                .filter(|(at, _)| (from..to).contains(at))
                .map(|(_, told)| *told)
                .collect();
            told.iter().sum::<f64>() / told.len() as f64
        };
        let (little, more, over) = (mean(3.0, 10.0), mean(12.0, 20.0), mean(21.0, 30.0));
        println!("told, seed {seed}: {little:.2} at 0.3, {more:.2} at 0.6, {over:.2} at 2.0");
        assert!(
            little < 0.8 && more < 0.8 && over > 0.97,
            "seed {seed}: {little} {more} {over}"
        );
    }
}

/// It is given more than it has shown to do only step by step: who matters most never has to wait for a
/// second's worth of what matters less.
#[test]
fn a_slow_program_is_soon_given_what_it_can_do() {
    let story = [
        (0.0, 0.7 * FEW_CAPACITY, FEW),
        (10.0, 5.0 * FEW_CAPACITY, FEW),
    ];
    for seed in SEEDS {
        let world = World::run(Guard::Admission, SLOW, &story, 30.0, 0.1, seed);
        let goodput = world.goodput(11.0, 30.0);
        let late = world.requests.iter().filter(|r| r.late).count();
        let lost = |from: f64, until: f64| {
            let within = |r: &&world::Request| (from..until).contains(&r.began);
            let high = |r: &&world::Request| r.importance == Importance::High;
            let all = world.requests.iter().filter(within).filter(high);
            all.filter(|r| r.served.is_none()).count()
        };
        let (first, then) = (lost(10.0, 11.0), lost(11.0, 29.0));
        println!(
            "5x, slow, seed {seed}: {goodput:.0}/s of {FEW_CAPACITY:.0}, {late} late; of high priority \
            {first} lost in the first second, {then} later; at most {} in the program",
            world.most_in_program
        );
        assert!(goodput >= 0.95 * FEW_CAPACITY, "seed {seed}: {goodput}");
        assert_eq!((first, then), (0, 0), "seed {seed}");
        assert!(late <= 3, "seed {seed}: {late} late");
        let within = world.most_in_program as f64;
        assert!(within <= 0.6 * FEW_CAPACITY, "seed {seed}: {within}");
    }
}

/// What has hardly been used and can do much is asked for it all at once, as when a cluster dies and its
/// callers come here.
#[test]
fn a_program_that_can_do_much_has_it_all_at_once() {
    const MANY: usize = 100;
    let story = [(0.0, 20.0, MANY), (10.0, 800.0, MANY)];
    for seed in SEEDS {
        let world = World::run(Guard::Admission, SLOW, &story, 20.0, 0.1, seed);
        let after = world.requests.iter().filter(|r| r.began >= 10.0);
        let shed = after.clone().filter(|r| r.shed).count();
        let (all, most) = (after.count(), world.most_in_program);
        println!("from 20/s to 800/s, seed {seed}: {shed} of {all} shed, {most} in the program");
        let later = world.goodput(11.0, 20.0);
        // In its first half second; later none.
        assert!(shed <= 200, "seed {seed}: {shed} of {all} shed");
        assert!(later >= 0.95 * 800.0, "seed {seed}: {later}/s");
        assert!(most >= MANY / 2, "seed {seed}: {most}");
    }
}
