//! What leaving a cluster costs and whom it helps: see [`Relief`].

use super::*;

#[test]
fn a_cluster_with_room_relieves_one_that_has_none() {
    let three = "us 2/2 here, eu 3/3 140ms, ap 1/1 220ms";
    for (text, broken, avoid, expect) in [
        (three, &[][..], &["us"][..], true),
        (three, &["eu"], &["us"], true),
        // Nobody has room.
        (three, &["eu", "ap"], &["us"], false),
        // It has failed in all of them, or there is no other.
        (three, &[], &["us", "eu", "ap"], false),
        ("us 2/2 here", &[], &["us"], false),
        ("us 2/2 here, eu 0/3 140ms", &[], &["us"], false),
    ] {
        let (mut valve, now) = (Valve::default(), Instant::now());
        for cluster in broken {
            fail(&mut valve, cluster, 5, now);
        }
        let avoid: Vec<ClusterName> = avoid.iter().map(|cluster| name(cluster)).collect();
        let next = valve.pick_cluster(&shares(text), &avoid, now, 0);
        let relief = |valve: &Valve, outcome, ejected| {
            valve.relief(outcome, &name("us"), ejected, &next, now)
        };
        let either = |with| if expect { with } else { Relief::None };
        let what = format!("{text} {broken:?} {avoid:?}");
        assert_eq!(
            relief(&valve, Outcome::Shed, false),
            either(Relief::Moves),
            "{what}"
        );
        assert_eq!(relief(&valve, BAD, true), either(Relief::Moves), "{what}");
        // One failure may be a workload's.
        assert_eq!(relief(&valve, BAD, false), Relief::None, "{what}");
        assert!(!valve.leaves(&name("us"), &next), "{what}");
        fail(&mut valve, "us", SUSPECT_CONSECUTIVE, now);
        assert_eq!(relief(&valve, BAD, false), either(Relief::Room), "{what}");
        assert_eq!(valve.leaves(&name("us"), &next), expect, "{what}");
    }
}

/// A workload that was ejected is left for its siblings, also where there is no other cluster.
#[test]
fn what_was_in_flight_to_an_ejected_workload_moves_within_its_cluster() {
    let (mut valve, now) = (Valve::default(), Instant::now());
    fail(&mut valve, "us", SUSPECT_CONSECUTIVE, now);
    let next = valve.pick_cluster(&shares("us 2/2 here"), &[], now, 0);
    for (ejected, expect) in [(true, Relief::Moves), (false, Relief::None)] {
        let relief = valve.relief(BAD, &name("us"), ejected, &next, now);
        assert_eq!(relief, expect, "{ejected}");
    }
}

#[test]
fn guests_that_were_turned_away_elsewhere_find_what_room_there_is() {
    let text = "us 2/2 here, eu 1/1 140ms";
    for (told, sheds, hot, expect) in [
        (0.5, 0, None, true),
        // Too busy for guests to come by themselves, and turns hardly anybody away.
        (0.9, 1, Some("full"), true),
        (0.9, 2, Some("full"), false),
        (0.5, 2, None, false),
    ] {
        let (mut valve, now) = (Valve::default(), Instant::now());
        valve.observe(&shares(text), now);
        valve.assume(&name("eu"), 2.0);
        let mut begun: Vec<_> = (0..8).map(|_| valve.begin(&name("eu"), now)).collect();
        let busy = Told {
            utilisation: Some(told),
            ..Told::default()
        };
        valve.replied(&mut begun[0], Evidence::Success, busy, now);
        for _ in 0..sheds {
            valve.finish(begun.pop().unwrap(), Outcome::Shed, now);
        }
        let next = valve.pick_cluster(&shares(text), &[name("us")], now, 0);
        let eu = next.chosen().unwrap();
        assert_eq!((eu.share.cluster.as_str(), eu.why_not()), ("eu", hot));
        let moves = |next: &Decision, now| {
            let relief = valve.relief(Outcome::Shed, &name("us"), false, next, now);
            relief == Relief::Moves
        };
        assert_eq!(moves(&next, now), expect, "{told} {sheds}");
        let later = now + BUSY_KEPT;
        let next = valve.pick_cluster(&shares(text), &[name("us")], later, 0);
        assert!(moves(&next, later), "{told} {sheds}");
    }
}

#[test]
fn an_escape_leads_from_a_dead_cluster_to_a_living_one() {
    let text = "us 2/2 here, eu 3/3 140ms";
    for (broken, failed, expect) in [
        (&[][..], "us", false),
        (&["us"], "us", true),
        // To itself, or to another that is in trouble too, is no escape.
        (&["us", "eu"], "us", false),
        (&["us"], "eu", false),
    ] {
        let (mut valve, now) = (Valve::default(), Instant::now());
        for cluster in broken {
            fail(&mut valve, cluster, 5, now);
        }
        let next = valve.pick_cluster(&shares(text), &[name(failed)], now, 0);
        let relief = valve.relief(BAD, &name(failed), false, &next, now);
        assert_eq!(relief == Relief::Moves, expect, "{broken:?} {failed}");
    }
}
