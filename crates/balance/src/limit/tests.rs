use super::*;
use crate::constants::{ASK_AGAIN, CONCURRENCY_UNPROVEN, GROWTH};
use proptest::prelude::*;
use std::collections::VecDeque;

const HERE: Room = Room {
    workloads: 2.0,
    rtt: 0.0,
    local: true,
};
const MS: Duration = Duration::from_millis(1);

/// A cluster of so many workers, each busy with one request at a time, and one caller of it.
struct Cluster {
    load: Load,
    now: Instant,
    /// When each is free.
    workers: Vec<Instant>,
    /// When each is answered, and how long it waits for a worker.
    running: VecDeque<(Instant, Duration, Held)>,
    /// Replies say how long that was, and that there is no room.
    tells: bool,
}

impl Cluster {
    fn new(workers: usize) -> Self {
        let now = Instant::now();
        Self {
            load: Load::default(),
            now,
            workers: vec![now; workers],
            running: VecDeque::new(),
            tells: false,
        }
    }

    /// `rate` requests per second for some seconds, each of which takes a worker `took`; what is above
    /// the limit goes elsewhere.
    fn run(&mut self, rate: u32, took: Duration, seconds: u32) {
        for _ in 0..rate * seconds {
            self.now += Duration::from_secs(1) / rate;
            while self.running.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (at, waited, mut held) = self.running.pop_front().unwrap();
                if self.tells {
                    self.load.told(Some(1.0), at);
                }
                let waited = Some(waited).filter(|_| self.tells);
                self.load.replied(&mut held, waited, at);
            }
            if self.load.exceeded(HERE, unknown(), self.now).is_none() {
                let held = self.load.begin(HERE, self.now);
                let worker = self.workers.iter_mut().min().unwrap();
                let begins = self.now.max(*worker);
                *worker = begins + took;
                let waited = begins.saturating_duration_since(self.now);
                self.running.push_back((*worker, waited, held));
            }
        }
    }

    fn limit(&self) -> f64 {
        self.load.limit(HERE, unknown(), self.now)
    }

    /// For the cluster as a whole.
    fn concurrency(&self) -> f64 {
        self.load.concurrency.unwrap() * HERE.workloads
    }
}

fn unknown() -> Siblings {
    Siblings::none()
}

fn near(value: f64, expect: f64) -> bool {
    (value - expect).abs() <= 0.15 * expect
}

/// Where replies say how long they waited, no question is needed, however full the cluster is all the
/// time.
#[test]
fn what_was_not_waited_for_is_service() {
    let mut cluster = Cluster::new(10);
    cluster.tells = true;
    cluster.run(400, 20 * MS, 10);
    for (workers, took) in [(10, 20 * MS), (10, 40 * MS), (5, 40 * MS), (10, 10 * MS)] {
        cluster.workers.resize(workers, cluster.now);
        cluster.run(900, took, 15);
        let (base, most) = (cluster.load.base.unwrap(), cluster.concurrency());
        assert!(near(base, took.as_secs_f64()), "{workers} {took:?}: {base}");
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let expect = workers as f64;
        assert!(near(most, expect), "{workers} {took:?}: {most}");
        assert!(cluster.load.asking.is_none());
    }
}

/// What cannot be is not believed.
#[test]
fn who_says_that_it_waited_for_longer_than_it_took_says_nothing() {
    let (mut load, mut now) = (Load::default(), Instant::now());
    for n in 0..200 {
        let mut held = load.begin(HERE, now);
        now += 20 * MS;
        let waited = [Duration::MAX, 21 * MS, Duration::from_secs(1)][n % 3];
        load.replied(&mut held, Some(waited), now);
    }
    assert!(near(load.base.unwrap(), 0.020) && !load.tells_waiting);
}

/// However often it was asked in the last trouble, which is over.
#[test]
fn the_next_trouble_is_asked_about_at_once() {
    let mut cluster = Cluster::new(10);
    let asked = |cluster: &Cluster| cluster.load.asking.as_ref().map(|asking| asking.since);
    cluster.run(400, 20 * MS, 10);
    cluster.run(900, 20 * MS, 60);
    assert!(cluster.load.asking.as_ref().unwrap().rest > 2 * ASK_AGAIN);
    cluster.run(200, 20 * MS, 6);
    let calm = cluster.now;
    cluster.run(900, 40 * MS, 4);
    assert!(asked(&cluster).unwrap() > calm);
    assert!(
        near(cluster.load.base.unwrap(), 0.040),
        "{:?}",
        cluster.load.base
    );
}

/// What the request waited for while it was still coming in is no part of its time.
#[test]
fn what_was_set_aside_says_nothing_of_waiting() {
    let (mut load, mut now) = (Load::default(), Instant::now());
    for _ in 0..100 {
        let mut held = load.begin(HERE, now);
        load.set_aside(&mut held, now);
        now += 100 * MS;
        let mut held = load.take_up(HERE, now);
        now += 20 * MS;
        load.replied(&mut held, Some(19 * MS), now);
    }
    let base = load.base.unwrap();
    assert!(near(base, 0.020), "{base}");
}

#[test]
fn a_slower_cluster_is_told_from_one_where_requests_queue() {
    let mut cluster = Cluster::new(99);
    assert!((cluster.limit() - CONCURRENCY_HEADROOM * 2.0 * CONCURRENCY_ASSUMED).abs() < 1e-9);
    // 8 at once, by Little's law, and not more than 1.15 of that.
    cluster.run(400, 20 * MS, 10);
    assert!(near(cluster.load.base.unwrap(), 0.020));
    assert!(
        near(cluster.concurrency(), 9.2),
        "{}",
        cluster.concurrency()
    );
    // It has workers enough: twice the time needs twice as many at once, and gets them.
    cluster.run(400, 40 * MS, 20);
    assert!(near(cluster.load.base.unwrap(), 0.040));
    assert!(
        near(cluster.concurrency(), 18.4),
        "{}",
        cluster.concurrency()
    );

    // As well where work takes so long that few replies come in the moment in which they are looked at.
    let mut slow = Cluster::new(99);
    slow.run(40, 200 * MS, 20);
    slow.run(40, 400 * MS, 30);
    let base = slow.load.base.unwrap();
    assert!(near(base, 0.4), "{base}");
    assert!(near(slow.concurrency(), 18.4), "{}", slow.concurrency());

    // Eight workers serve 400 requests/s and no more: what is above them only queues.
    let mut cluster = Cluster::new(8);
    cluster.run(300, 20 * MS, 10);
    cluster.run(700, 20 * MS, 20);
    assert!(near(cluster.load.base.unwrap(), 0.020));
    assert!(
        near(cluster.concurrency(), 8.0),
        "{}",
        cluster.concurrency()
    );
    assert!(cluster.running.len() <= 16, "{}", cluster.running.len());
}

#[test]
fn a_wrong_assumption_is_corrected_within_seconds() {
    for wrong in [0.5, 2.0] {
        let mut cluster = Cluster::new(99);
        cluster.load.assume(4.0 * wrong);
        cluster.run(400, 20 * MS, 8);
        let learnt = cluster.concurrency();
        assert!((7.0..=10.0).contains(&learnt), "{wrong}: {learnt}");
    }
}

#[test]
fn it_counts_only_under_pressure() {
    let mut cluster = Cluster::new(99);
    cluster.run(400, 20 * MS, 10);
    let exceeded = |cluster: &Cluster, now| cluster.load.exceeded(HERE, unknown(), now);
    let now = cluster.now;
    for _ in 0..20 {
        let held = cluster.load.begin(HERE, now);
        cluster
            .running
            .push_back((now + 20 * MS, Duration::ZERO, held));
    }
    assert_eq!(exceeded(&cluster, now), None, "a burst is no queue");
    let limit = exceeded(&cluster, now + SILENCE + MS);
    assert!(limit.is_some_and(|limit| limit < 20), "silence: {limit:?}");
    for (told, expect) in [(0.99, true), (0.97, false)] {
        let mut cluster = Cluster::new(99);
        cluster.run(400, 20 * MS, 10);
        (0..20).for_each(|_| cluster.load.told(Some(told), cluster.now));
        let now = cluster.now;
        cluster
            .running
            .extend((0..20).map(|_| (now, Duration::ZERO, cluster.load.begin(HERE, now))));
        assert_eq!(exceeded(&cluster, now).is_some(), expect, "{told}");
        assert_eq!(cluster.load.full(HERE, now).is_some(), expect, "{told}");
        let late = now + UTILISATION_AGE;
        assert_eq!(cluster.load.full(HERE, late), None, "{told}, but old");
    }
}

#[test]
fn guests_are_pressed_before_those_who_live_there() {
    let now = Instant::now();
    let guest = Room {
        local: false,
        ..HERE
    };
    let mut load = Load::default();
    load.told(Some(0.9), now);
    assert!(load.full(guest, now).is_some());
    assert!(load.full(HERE, now).is_none());
}

#[test]
fn what_lives_on_after_its_first_byte_fills_no_limit() {
    let (mut load, now) = (Load::default(), Instant::now());
    let mut held: Vec<Held> = (0..99).map(|_| load.begin(HERE, now)).collect();
    assert_eq!(load.waiting(), 99);
    for held in &mut held {
        load.replied(held, None, now + MS);
    }
    assert_eq!(load.waiting(), 0);
    for held in &mut held {
        load.dropped(held, now + MS);
    }
    assert_eq!(load.waiting(), 0);
}

#[test]
fn failing_fast_is_neither_quick_nor_capacity() {
    let mut cluster = Cluster::new(99);
    cluster.run(400, 20 * MS, 10);
    let (before, now) = (cluster.concurrency(), cluster.now);
    for _ in 0..50 {
        let mut held = cluster.load.begin(HERE, now);
        cluster.load.failed(&mut held, now + MS);
        // When it ends, that is no second failure.
        let once = cluster.load.clone();
        cluster.load.failed(&mut held, now + MS);
        assert_eq!(cluster.load, once);
    }
    let predicted = cluster.load.predicted(now + MS).unwrap();
    assert!(predicted > 0.5, "{predicted}");
    cluster.run(1, MS, 3);
    assert!(cluster.concurrency() <= before);
}

#[test]
fn nonsense_about_utilisation_changes_nothing() {
    let (mut load, now) = (Load::default(), Instant::now());
    load.told(Some(f64::NAN), now);
    load.told(None, now);
    assert_eq!(load, Load::default());
    load.told(Some(f64::INFINITY), now);
    assert_eq!(load.full(HERE, now), Some(1.0));
}

proptest! {
    /// Whatever comes back: no step of more than a tenth up, nothing above what was proven, and
    /// every number finite.
    #[test]
    fn grows_slowly_and_never_beyond_the_proof(
        steps in proptest::collection::vec((0u8..5, 0u64..400, 0u32..2000), 50..400),
    ) {
        let (mut load, mut now) = (Load::default(), Instant::now());
        let mut running: Vec<Held> = vec![];
        for (what, wait, told) in steps {
            now += Duration::from_micros(100 * wait);
            let before = load.concurrency;
            match what {
                0..=1 => running.push(load.begin(HERE, now)),
                _ if running.is_empty() => {}
                2 => load.failed(&mut running.swap_remove(0), now),
                3 => load.dropped(&mut running.swap_remove(0), now),
                _ => {
                    load.told(Some(f64::from(told) / 1000.0), now);
                    load.replied(&mut running.swap_remove(0), None, now);
                }
            }
            prop_assert_eq!(load.waiting() as usize, running.len());
            if let (Some(before), Some(after)) = (before, load.concurrency) {
                prop_assert!(after <= before * GROWTH + 1e-9);
                let proven = CONCURRENCY_UNPROVEN * load.proven;
                prop_assert!(after <= proven.max(before) + 1e-9);
            }
            prop_assert!(load.limit(HERE, unknown(), now).is_finite());
        }
    }
}
