//! Storms of many seeds, on all cores.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use super::{Outcome, Storm};

/// What many storms showed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub seeds: u64,
    pub steps: u64,
    /// Writes that were answered with 2xx.
    pub accepted: u64,
    /// How often an invariant was looked at.
    pub checks: u64,
    /// Storms in which one did not hold.
    pub violations: u64,
}

impl Tally {
    /// One more has passed.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps as u64;
        self.accepted += outcome.accepted as u64;
        self.checks += outcome.checks;
        self.violations += u64::from(outcome.broken.is_some());
    }
}

/// Lets the storms of these seeds pass, `steps` rounds each, until all have or `enough` of them broke
/// something. `each` hears of every one as it ends, in no order.
pub fn storms(
    seeds: Range<u64>,
    steps: usize,
    enough: u64,
    mut each: impl FnMut(&Outcome, &Tally),
) -> Tally {
    let mut tally = Tally::default();
    let (next, is_over) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (sender, outcomes) = mpsc::channel();
    let work = |sender: mpsc::Sender<Outcome>| {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let storm = Storm {
                seed,
                steps,
                sabotage: None,
                digest: false,
            };
            if seed >= seeds.end || sender.send(storm.run(&mut |_| {})).is_err() {
                return;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        for outcome in outcomes {
            tally.add(&outcome);
            each(&outcome, &tally);
            if tally.violations >= enough {
                is_over.store(true, Ordering::Relaxed);
            }
        }
    });
    tally
}
