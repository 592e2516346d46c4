use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MS: Duration = Duration::from_millis(1);
/// What is left to a caller that has no time to spare.
const HURRIED: Option<Duration> = Some(QUEUE_HURRY);

/// An admission that works on as much as it can, and has learnt that a request takes 10 ms.
fn full(now: Instant) -> (Admission, Vec<Admitted>) {
    let mut admission = Admission::default();
    for round in 0..30 {
        let at = now + 10 * MS * round;
        let Arrival::Admitted(admitted) = admission.arrive(Importance::Normal, 0, None, at) else {
            panic!("there is room");
        };
        admission.finish(admitted, Served::Replied, at + 10 * MS);
    }
    let at = now + 300 * MS;
    let mut running = vec![];
    // Nothing has come back for a while: then the limit counts.
    for wait in [0, 200] {
        while running.len() < 99 {
            match admission.arrive(
                Importance::Normal,
                0,
                None,
                at + Duration::from_millis(wait),
            ) {
                Arrival::Admitted(admitted) => running.push(admitted),
                other => {
                    if let Arrival::Queued(ticket) = other {
                        admission.abandon(ticket);
                    }
                    break;
                }
            }
        }
    }
    (admission, running)
}

fn name(turn: &Turn) -> String {
    match turn {
        Turn::Go(ticket, _) => format!("go {}", ticket.number()),
        Turn::Shed(ticket, shed) => format!("{} {}", shed.reason.code(), ticket.number()),
    }
}

#[test]
fn who_comes_too_late_is_told_at_once() {
    let now = Instant::now();
    let mut idle = Admission::default();
    let gone = idle.arrive(Importance::High, 0, Some(Duration::ZERO), now);
    assert!(matches!(gone, Arrival::Shed(shed) if shed.reason == ShedReason::TooLate));
    let (mut admission, _running) = full(now);
    let at = now + 500 * MS;
    // It would take 10 ms once it is its turn, and may well take half as long again.
    let late = admission.arrive(Importance::Normal, 0, Some(14 * MS), at);
    assert!(matches!(late, Arrival::Shed(shed) if shed.reason == ShedReason::TooLate));
    let early = admission.arrive(Importance::Normal, 0, Some(50 * MS), at);
    assert!(matches!(early, Arrival::Queued(_)), "{early:?}");
    // Replies take a fifth of a second by now.
    let (mut admission, mut running) = full(now);
    for _ in 0..5 {
        let slow = running.pop().unwrap();
        let _turns = admission.finish(slow, Served::Replied, at);
    }
    let late = admission.arrive(Importance::Normal, 0, Some(50 * MS), at);
    assert!(matches!(late, Arrival::Shed(shed) if shed.reason == ShedReason::TooLate));
    let early = admission.arrive(Importance::Normal, 0, HURRIED, at);
    assert!(!matches!(early, Arrival::Shed(_)), "{early:?}");
}

#[test]
fn who_matters_more_is_served_first_and_who_matters_least_gives_way() {
    let now = Instant::now();
    let (mut admission, mut running) = full(now);
    let at = now + 500 * MS;
    let mut tickets = BTreeMap::new();
    for (what, importance, attempt) in [
        ("low retry", Importance::Low, 1),
        ("normal retry", Importance::Normal, 2),
        ("low", Importance::Low, 0),
        ("normal", Importance::Normal, 0),
        ("high retry", Importance::High, 1),
        ("high", Importance::High, 0),
    ] {
        match admission.arrive(importance, attempt, None, at) {
            Arrival::Queued(ticket) => tickets.insert(ticket, what),
            other => panic!("{what}: {other:?}"),
        };
    }
    let longest = admission.longest(Importance::Normal, Duration::ZERO, at);
    while admission.queued() < longest {
        let queued = admission.arrive(Importance::Normal, 0, HURRIED, at);
        assert!(matches!(queued, Arrival::Queued(_)));
    }
    // One more of the same sort takes the place of the one that matters least.
    let more = admission.arrive(Importance::Normal, 0, HURRIED, at);
    assert!(matches!(more, Arrival::Queued(_)));
    assert_eq!(admission.next_timeout(at), Some(at));
    let gave_way: Vec<String> = admission.on_timeout(at).iter().map(name).collect();
    let least = tickets.iter().find(|(_, what)| **what == "low retry");
    let least = least.map(|(ticket, _)| format!("queue-full {}", ticket.number()));
    assert_eq!(gave_way, Vec::from_iter(least));
    // Who matters as little as the least takes nobody's place.
    let same = admission.arrive(Importance::Normal, 1, HURRIED, at);
    assert!(matches!(same, Arrival::Shed(shed) if shed.reason == ShedReason::QueueFull));
    // As soon as there is room, in order of rank.
    let mut served: Vec<&str> = vec![];
    while let Some(admitted) = running.pop() {
        for turn in admission.finish(admitted, Served::Otherwise, at) {
            if let Turn::Go(ticket, admitted) = turn {
                served.extend(tickets.get(&ticket).copied());
                running.push(admitted);
            }
        }
    }
    let expect = ["high", "high retry", "normal", "low", "normal retry"];
    assert_eq!(served, expect);
}

#[test]
fn a_standing_queue_serves_the_newest_and_nobody_waits_long_in_it() {
    let now = Instant::now();
    let (mut admission, mut running) = full(now);
    let at = now + 500 * MS;
    let queue = |admission: &mut Admission, at: Instant| match admission.arrive(
        Importance::Normal,
        0,
        HURRIED,
        at,
    ) {
        Arrival::Queued(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let first = queue(&mut admission, at);
    let _second = queue(&mut admission, at + 99 * MS);
    // In a burst the oldest goes first; all running ones must end for one to have a turn.
    let ended: Vec<Turn> = running
        .drain(..)
        .flat_map(|admitted| admission.finish(admitted, Served::Otherwise, at + 99 * MS))
        .collect();
    assert_eq!(name(&ended[0]), format!("go {}", first.number()));

    let (mut admission, mut running) = full(now);
    let one = queue(&mut admission, at);
    let two = queue(&mut admission, at + 90 * MS);
    // The first has waited for as long as a burst may last.
    let later = at + QUEUE_BURST + MS;
    let out: Vec<String> = admission.on_timeout(later).iter().map(name).collect();
    assert_eq!(out, [format!("waited-long {}", one.number())]);
    let three = queue(&mut admission, later);
    assert_eq!(
        admission.next_timeout(later),
        Some(later + 10 * MS),
        "not for long"
    );
    let ended: Vec<Turn> = running
        .drain(..)
        .flat_map(|admitted| admission.finish(admitted, Served::Otherwise, later + MS))
        .collect();
    let order: Vec<String> = ended.iter().map(name).collect();
    assert_eq!(
        order,
        [
            format!("go {}", three.number()),
            format!("go {}", two.number())
        ]
    );
}

/// There may be somebody of high priority at every moment of a second, though none waits for long.
#[test]
fn of_high_priority_none_is_left_for_one_that_came_later_unless_it_waits_for_long() {
    let now = Instant::now();
    let (mut admission, mut running) = full(now);
    let queue =
        |admission: &mut Admission, at| match admission.arrive(Importance::High, 0, None, at) {
            Arrival::Queued(ticket) => ticket,
            other => panic!("{other:?}"),
        };
    // Each waits for a tenth of a second until its turn, for two seconds.
    let mut at = now + 500 * MS;
    let mut oldest = queue(&mut admission, at);
    // All running ones must end for one to have a turn.
    let mut turns: Vec<Turn> = vec![];
    for _ in 0..20 {
        let next = queue(&mut admission, at + 50 * MS);
        at += 100 * MS;
        while turns.is_empty() {
            let ended = running.pop().unwrap();
            turns.extend(admission.finish(ended, Served::Otherwise, at));
        }
        for turn in turns.drain(..) {
            let Turn::Go(ticket, admitted) = turn else {
                panic!("{turn:?}");
            };
            assert_eq!(ticket, oldest);
            running.push(admitted);
            oldest = next;
        }
    }
}

#[test]
fn few_callers_at_once_are_never_limited() {
    for (workers, took) in [(1u32, 30 * MS), (2, 500 * MS), (3, MS)] {
        let (mut admission, mut now) = (Admission::default(), Instant::now());
        for _ in 0..500 {
            let admitted: Vec<Admitted> = (0..workers)
                .map(
                    |_| match admission.arrive(Importance::Low, 0, HURRIED, now) {
                        Arrival::Admitted(admitted) => admitted,
                        other => panic!("{workers} workers: {other:?}"),
                    },
                )
                .collect();
            for admitted in admitted {
                now += took / workers;
                assert!(admission.finish(admitted, Served::Replied, now).is_empty());
            }
        }
        assert_eq!(admission.in_service(), 0);
    }
}

proptest! {
    /// Whatever happens: everyone who waits hears of it once, nobody waits beyond the deadline, and
    /// the queue has its bound.
    #[test]
    fn everyone_is_told_once_and_in_time(
        steps in proptest::collection::vec((0u8..8, 0u8..3, 0u32..2, 0u64..30, 1u64..300), 1..500),
    ) {
        let (mut admission, mut now) = (Admission::default(), Instant::now());
        let mut running: Vec<Admitted> = vec![];
        let mut waiting: BTreeMap<Ticket, Instant> = BTreeMap::new();
        for (what, importance, attempt, wait, left) in steps {
            now += Duration::from_micros(250 * wait);
            let importance = [Importance::High, Importance::Normal, Importance::Low][usize::from(importance)];
            let mut turns = vec![];
            match what {
                0..=5 => match admission.arrive(importance, attempt, Some(Duration::from_millis(left)), now) {
                    Arrival::Admitted(admitted) => running.push(admitted),
                    Arrival::Queued(ticket) => {
                        prop_assert!(waiting.insert(ticket, now + Duration::from_millis(left)).is_none());
                    }
                    Arrival::Shed(shed) => prop_assert!(shed.retry_after >= RETRY_AFTER),
                },
                6 if !running.is_empty() => {
                    turns = admission.finish(running.swap_remove(0), Served::Replied, now);
                }
                6 => {}
                _ => turns = admission.on_timeout(now),
            }
            let due = admission.next_timeout(now).is_some_and(|at| at <= now);
            turns.extend(due.then(|| admission.on_timeout(now)).into_iter().flatten());
            for turn in turns {
                match turn {
                    Turn::Go(ticket, admitted) => {
                        let deadline = waiting.remove(&ticket);
                        prop_assert!(deadline.is_some_and(|deadline| deadline >= now));
                        running.push(admitted);
                    }
                    Turn::Shed(ticket, _) => prop_assert!(waiting.remove(&ticket).is_some()),
                }
            }
            prop_assert_eq!(admission.queued(), waiting.len());
            prop_assert_eq!(admission.in_service() as usize, running.len());
            prop_assert!(waiting.values().all(|deadline| *deadline >= now));
            prop_assert!(admission.queued() <= QUEUE_LONGEST);
            prop_assert!((0.0..=1.0).contains(&admission.utilisation(now)));
        }
    }
}

#[test]
fn who_has_time_waits_for_a_batch_to_be_worked_off() {
    let now = Instant::now();
    for remaining in [None, Some(Duration::from_secs(15))] {
        let (mut admission, mut running) = full(now);
        let start = now + 500 * MS;
        let mut waiting = 0;
        // Long after the queue has become a standing one.
        for number in 0..900 {
            let at = start + MS * number;
            match admission.arrive(Importance::Normal, 0, remaining, at) {
                Arrival::Queued(_) => waiting += 1,
                Arrival::Admitted(admitted) => running.push(admitted),
                Arrival::Shed(shed) => panic!("{number}: {shed:?}"),
            }
        }
        assert!(waiting > 800, "{waiting}");
        assert!(admission.on_timeout(start + 1999 * MS).is_empty());
        // One in a hurry is told at once that it is too much.
        let at = start + 950 * MS;
        let hurried = admission.arrive(Importance::Normal, 0, HURRIED, at);
        assert!(matches!(hurried, Arrival::Shed(_)), "{hurried:?}");
    }
}

/// As when a cluster dies: all that was on its way there is here at once.
#[test]
fn a_crowd_that_comes_to_an_idle_workload_waits_for_its_program() {
    let now = Instant::now();
    let mut admission = Admission::default();
    // For two minutes there is hardly anything to do, so hardly anything is known.
    for second in 0..120 {
        let at = now + 1000 * MS * second;
        let Arrival::Admitted(admitted) = admission.arrive(Importance::Normal, 0, None, at) else {
            panic!("there is room");
        };
        let _turns = admission.finish(admitted, Served::Replied, at + 5 * MS);
    }
    let at = now + 120_000 * MS;
    for number in 0..300 {
        let arrival = admission.arrive(Importance::Normal, 1, Some(14_000 * MS), at);
        assert!(
            !matches!(arrival, Arrival::Shed(_)),
            "{number}: {arrival:?}"
        );
    }
}
