//! Every rule of the choice, and what holds for all input.

use super::*;
use crate::constants::{
    BREAKER_OPEN, BUSY_KEPT, EVIDENCE, SLOW_START, SLOW_START_FLOOR, STALE_AFTER,
    SUSPECT_CONSECUTIVE,
};
use crate::outcome::{Evidence, Outcome};
use crate::valve::Valve;
use crate::{Relief, Told};
use proptest::prelude::*;
use std::time::Instant;

mod relief;

fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// `west 2/3 140ms`: healthy of total and round-trip time; `here` for the local cluster, `?`
/// for an unknown time, then `old`, `apart` (no way stands), `most=3` (requests), `traffic=40` (percent),
/// `not-exported` or `local-only`.
fn share(text: &str) -> ClusterShare {
    let words: Vec<&str> = text.split(' ').collect();
    let (healthy, total) = words[1].split_once('/').unwrap();
    let rtt = |ms: &str| {
        ms.trim_end_matches("ms")
            .parse()
            .ok()
            .map(Duration::from_millis)
    };
    ClusterShare {
        cluster: name(words[0]),
        local: words[2] == "here",
        healthy: healthy.parse().unwrap(),
        total: total.parse().unwrap(),
        age: if words.contains(&"old") {
            STALE_AFTER
        } else {
            STALE_AFTER.mul_f64(0.99)
        },
        rtt: rtt(words[2]),
        connected: !words.contains(&"apart"),
        most: words
            .iter()
            .find_map(|word| word.strip_prefix("most=")?.parse().ok()),
        traffic: words
            .iter()
            .find_map(|word| word.strip_prefix("traffic=")?.parse().ok())
            .unwrap_or(ALL_TRAFFIC),
        barred: [Barred::NotExported, Barred::LocalOnly]
            .into_iter()
            .find(|barred| words.contains(&barred.code())),
    }
}

fn shares(text: &str) -> Vec<ClusterShare> {
    text.split(", ").map(share).collect()
}

fn fail(valve: &mut Valve, cluster: &str, times: u32, now: Instant) {
    for _ in 0..times {
        let begun = valve.begin(&name(cluster), now);
        valve.finish(begun, Outcome::Reset, now);
    }
}

fn succeed(valve: &mut Valve, cluster: &str, now: Instant) {
    let begun = valve.begin(&name(cluster), now);
    valve.finish(begun, OK, now);
}

const OK: Outcome = Outcome::Replied {
    status: 200,
    retry_unwanted: false,
};
const BAD: Outcome = Outcome::Replied {
    status: 503,
    retry_unwanted: false,
};

/// The chosen cluster and the reason's code: `west nearest`.
fn show(decision: &Decision) -> String {
    let chosen = decision.chosen().map_or("-", |c| c.share.cluster.as_str());
    format!("{chosen} {}", decision.reason().code())
}

/// `broken` clusters have an open breaker, `avoid` lists where the request failed.
fn picked(text: &str, broken: &[&str], avoid: &[&str]) -> String {
    let (mut valve, now) = (Valve::default(), Instant::now());
    for cluster in broken {
        fail(&mut valve, cluster, 5, now);
    }
    let avoid: Vec<ClusterName> = avoid.iter().map(|cluster| name(cluster)).collect();
    show(&valve.pick_cluster(&shares(text), &avoid, now, 0))
}

#[test]
fn who_still_sends_its_request_waits_for_nobody() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 140ms";
    valve.observe(&shares(text), start);
    valve.assume(&name("us"), 2.0);
    let silent = start + Duration::from_secs(1);
    let chosen = |valve: &Valve, now| show(&valve.pick_cluster(&shares(text), &[], now, 0));
    let mut uploads: Vec<_> = (0..100).map(|_| valve.begin(&name("us"), start)).collect();
    assert_eq!(chosen(&valve, silent), "eu nearest-is-hot");
    for upload in &mut uploads {
        valve.receive(upload, start);
    }
    assert_eq!(chosen(&valve, silent), "us nearest");
    assert_eq!(
        valve.in_flight(&name("us")),
        100,
        "they are there all the same"
    );
    // Half of them are answered as they are, the others sent.
    for mut answered in uploads.drain(..50) {
        valve.replied(&mut answered, Evidence::Success, Told::default(), silent);
        valve.finish(answered, OK, silent);
    }
    for upload in &mut uploads {
        valve.received(upload, silent);
    }
    let later = silent + Duration::from_secs(1);
    assert_eq!(chosen(&valve, later), "eu nearest-is-hot");
    for upload in uploads {
        valve.finish(upload, OK, later);
    }
    assert_eq!(chosen(&valve, later), "us nearest");
}

#[test]
fn when_it_might_be_otherwise() {
    let now = Instant::now();
    let mut valve = Valve::default();
    fail(&mut valve, "us", 5, now);
    let later = now + BREAKER_OPEN / 4;
    fail(&mut valve, "eu", 5, later);
    let soonest = |text: &str| {
        let decision = valve.pick_cluster(&shares(text), &[], later, 0);
        decision.soonest()
    };
    let left = BREAKER_OPEN * 3 / 4;
    assert_eq!(soonest("us 1/1 here, eu 3/3 140ms"), Some(left));
    assert_eq!(soonest("eu 3/3 140ms"), Some(BREAKER_OPEN));
    assert_eq!(
        soonest("eu 3/3 140ms, us 1/1 9ms not-exported"),
        Some(BREAKER_OPEN)
    );
    assert_eq!(soonest("us 1/1 here, eu 3/3 140ms, ap 1/1 9ms"), None);
    assert_eq!(soonest("us 0/0 here"), None);
}

#[test]
fn the_nearest_that_is_not_hot() {
    let three = "eu 3/3 140ms, us 2/2 here, ap 1/1 220ms";
    let remote = "eu 3/3 140ms, ap 1/1 120ms";
    let empty_here = "us 0/0 here, eu 3/3 140ms, ap 1/1 220ms";
    let sick_here = "us 0/2 here, eu 3/3 140ms, ap 1/1 220ms";
    for (shares, broken, avoid, expect) in [
        (three, &[][..], &[][..], "us nearest"),
        (remote, &[], &[], "ap nearest"),
        // One that runs nothing is no candidate for the nearest.
        (empty_here, &[], &[], "eu nearest"),
        ("b 1/1 50ms, a 1/1 50ms", &[], &[], "a nearest"),
        ("b 1/1 ?, a 1/1 900ms", &[], &[], "a nearest"),
        ("us 1/1 here", &[], &[], "us only-choice"),
        ("us 0/1 here", &[], &[], "us only-choice"),
        ("us 1/1 here", &["us"], &["us"], "us only-choice"),
        ("us 1/1 here, eu 0/0 1ms", &["us"], &[], "us only-choice"),
        // Hot.
        (sick_here, &[], &[], "eu nearest-is-hot"),
        (three, &["us"], &[], "eu nearest-is-hot"),
        (three, &["us", "eu"], &[], "ap nearest-is-hot"),
        (three, &["eu"], &[], "us nearest"),
        // Failed there already.
        (three, &[], &["us"], "eu nearest-failed"),
        (three, &["eu"], &["us"], "ap nearest-failed"),
        (three, &["us"], &["us"], "eu nearest-failed"),
        (three, &[], &["us", "eu", "ap"], "us all-failed"),
        (three, &["us"], &["eu", "ap"], "eu all-failed"),
        // All hot: the nearest that was not tried and says it has a healthy workload.
        (three, &["us", "eu", "ap"], &[], "us all-hot"),
        (three, &["us", "eu", "ap"], &["us"], "eu all-hot"),
        (sick_here, &["eu", "ap"], &[], "eu all-hot"),
        ("us 0/2 here, eu 0/3 140ms", &[], &[], "us all-hot"),
        // One that says that it has none can do nothing for a request that failed elsewhere.
        (sick_here, &["eu", "ap"], &["eu"], "ap all-hot"),
        (sick_here, &["eu", "ap"], &["eu", "ap"], "eu all-hot"),
        // Nothing.
        ("us 0/0 here, eu 0/0 140ms", &[], &[], "- no-workload"),
        (
            "us 0/0 here, eu 2/2 9ms not-exported",
            &[],
            &[],
            "- not-exported",
        ),
        ("eu 2/2 140ms local-only", &[], &[], "- local-only"),
        (
            "us 1/1 here, eu 2/2 9ms local-only",
            &["us"],
            &[],
            "us only-choice",
        ),
    ] {
        let seen = picked(shares, broken, avoid);
        assert_eq!(seen, expect, "{shares} broken {broken:?} avoid {avoid:?}");
    }
    let none = Valve::default().pick_cluster(&[], &[], Instant::now(), 0);
    assert_eq!(show(&none), "- unknown");
}

#[test]
fn age_lowers_trust_in_remote_clusters_and_removes_none() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let pick =
        |valve: &Valve, text: &str, now| show(&valve.pick_cluster(&shares(text), &[], now, 0));
    let old_eu = "eu 1/1 10ms old, ap 1/1 99ms";
    assert_eq!(pick(&valve, old_eu, start), "ap nearest");
    // All old: distance decides again, and nothing is lost.
    assert_eq!(
        pick(&valve, "eu 1/1 10ms old, ap 1/1 99ms old", start),
        "eu nearest"
    );
    // The own cluster is never left because a control plane is gone.
    assert_eq!(
        pick(&valve, "us 1/1 here old, ap 1/1 99ms", start),
        "us nearest"
    );
    // What a request of ours saw outweighs the age of what others say, for a while.
    succeed(&mut valve, "eu", start);
    assert_eq!(pick(&valve, old_eu, start + EVIDENCE), "eu nearest");
    let later = start + EVIDENCE + Duration::from_millis(1);
    assert_eq!(pick(&valve, old_eu, later), "ap nearest");
}

#[test]
fn what_waits_above_the_limit_spills_while_it_is_pressed() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 140ms";
    valve.observe(&shares(text), start);
    // One and a half times the two that each workload is assumed to hold.
    valve.assume(&name("us"), 2.0);
    valve.assume(&name("eu"), 2.0);
    let pick = |valve: &Valve, now| valve.pick_cluster(&shares(text), &[], now, 0);
    let mut begun: Vec<_> = (0..7).map(|_| valve.begin(&name("us"), start)).collect();
    assert_eq!(show(&pick(&valve, start)), "us nearest", "not silent yet");
    let silent = start + Duration::from_secs(1);
    let hot = Hot::OverLimit {
        waiting: 7,
        limit: 6,
    };
    assert_eq!(pick(&valve, silent).reason(), Reason::NearestIsHot(hot));
    assert_eq!(show(&pick(&valve, silent)), "eu nearest-is-hot");
    // If both are over, it stays where it is; one that was turned away there goes on to the other
    // rather than back.
    let there: Vec<_> = (0..10).map(|_| valve.begin(&name("eu"), start)).collect();
    assert_eq!(show(&pick(&valve, silent)), "us all-hot");
    let more = "us 2/2 here, eu 3/3 140ms, ap 1/1 220ms";
    for (avoid, expect) in [
        (&["us"][..], "ap nearest-failed"),
        (&["us", "ap"], "eu all-hot"),
    ] {
        let avoid: Vec<ClusterName> = avoid.iter().map(|cluster| name(cluster)).collect();
        let decision = valve.pick_cluster(&shares(more), &avoid, silent, 0);
        assert_eq!(show(&decision), expect, "{avoid:?}");
    }
    // Where nothing works, there is nothing to stay for; and to flee to one that is busy is an escape.
    let mut broken = valve.clone();
    fail(&mut broken, "us", 5, silent);
    let decision = pick(&broken, silent);
    assert_eq!(show(&decision), "eu all-hot");
    let avoid = [name("eu")];
    let back = broken.pick_cluster(&shares(text), &avoid, silent, 0);
    assert_eq!(show(&back), "eu all-hot", "it works, and us does not");
    let relief = broken.relief(Outcome::Reset, &name("us"), false, &decision, silent);
    assert_eq!(relief, Relief::Moves);
    for try_ in there {
        valve.finish(try_, Outcome::Cancelled, silent);
    }
    valve.finish(begun.pop().unwrap(), Outcome::Cancelled, silent);
    assert_eq!(show(&pick(&valve, silent)), "us nearest");
    assert_eq!(valve.in_flight(&name("us")), 6);
}

#[test]
fn a_cluster_gets_no_more_than_the_policy_allows() {
    let (mut valve, now) = (Valve::default(), Instant::now());
    let text = "us 2/2 here most=2, eu 3/3 140ms most=1, ap 3/3 150ms local-only";
    let pick = |valve: &Valve| valve.pick_cluster(&shares(text), &[], now, 0);
    let mut begun = Vec::new();
    for expect in ["us nearest", "us nearest", "eu nearest-is-hot"] {
        let decision = pick(&valve);
        assert_eq!(show(&decision), expect);
        let chosen = decision.chosen().unwrap();
        assert!(!chosen.is_at_most());
        begun.push(valve.begin(&chosen.share.cluster.clone(), now));
    }
    let full = pick(&valve);
    assert_eq!(show(&full), "us all-hot");
    assert_eq!(full.chosen().unwrap().why_not(), Some("at-most"));
    assert!(full.chosen().unwrap().is_at_most());
    // Where there is room, though little to hope for, it is better than none.
    fail(&mut valve, "eu", 5, now);
    valve.finish(begun.pop().unwrap(), Outcome::Reset, now);
    let broken = pick(&valve);
    assert_eq!(show(&broken), "eu all-hot");
    assert!(!broken.chosen().unwrap().is_at_most());
    for ended in begun {
        valve.finish(ended, OK, now);
    }
    assert_eq!(show(&pick(&valve)), "us nearest");
}

#[test]
fn who_leaves_the_nearest_goes_where_it_is_quickest() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 40ms, ap 1/1 60ms";
    let mut served = |cluster: &str, took: u64| {
        for _ in 0..20 {
            let begun = valve.begin(&name(cluster), start);
            valve.finish(begun, OK, start + Duration::from_millis(took));
        }
        // The window is over, and what was in it is learnt.
        let next = valve.begin(&name(cluster), start + Duration::from_secs(2));
        valve.finish(next, Outcome::Cancelled, start + Duration::from_secs(2));
    };
    served("eu", 140);
    served("ap", 70);
    let soon = start + Duration::from_secs(2);
    assert_eq!(
        show(&valve.pick_cluster(&shares(text), &[], soon, 0)),
        "us nearest"
    );
    fail(&mut valve, "us", 5, soon);
    let left = valve.pick_cluster(&shares(text), &[], soon, 0);
    assert_eq!(show(&left), "ap nearest-is-hot");
    assert_eq!(left.candidates()[1].share.cluster, name("eu"));
}

#[test]
fn a_new_workload_counts_for_less_than_one_that_is_known() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let limit = |valve: &mut Valve, text: &str, at: Instant| {
        let begun: Vec<_> = (0..99).map(|_| valve.begin(&name("us"), at)).collect();
        let late = at + Duration::from_secs(1);
        let decision = valve.pick_cluster(&shares(text), &[], late, 0);
        for try_ in begun {
            valve.finish(try_, Outcome::Cancelled, late);
        }
        match decision.reason() {
            Reason::NearestIsHot(Hot::OverLimit { limit, .. }) => limit,
            other => panic!("{other:?}"),
        }
    };
    let (two, three, one) = (
        "us 2/2 here, eu 3/3 40ms",
        "us 3/3 here, eu 3/3 40ms",
        "us 1/1 here, eu 3/3 40ms",
    );
    valve.assume(&name("us"), 20.0);
    valve.observe(&shares(two), start);
    assert_eq!(limit(&mut valve, two, start), 60);
    valve.observe(&shares(three), start);
    // 1.5 x 20 x (2 + 0.3).
    let new = limit(&mut valve, three, start);
    assert_eq!(new, 69);
    let settled = limit(&mut valve, three, start + SLOW_START);
    assert_eq!(settled, 90);
    valve.observe(&shares(one), start + SLOW_START);
    assert_eq!(limit(&mut valve, one, start + SLOW_START), 30);
}

#[test]
fn one_request_probes_and_a_retry_never_does() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 140ms, ap 1/1 220ms";
    fail(&mut valve, "us", 5, start);
    let due = start + BREAKER_OPEN;
    let retry = valve.pick_cluster(&shares(text), &[name("eu")], due, 0);
    assert_eq!(show(&retry), "ap nearest-is-hot");
    let probe = valve.pick_cluster(&shares(text), &[], due, 0);
    assert_eq!(show(&probe), "us nearest");
    assert!(probe.chosen().unwrap().probe);
    let begun = valve.begin(&name("us"), due);
    let others = valve.pick_cluster(&shares(text), &[], due, 0);
    assert_eq!(others.reason(), Reason::NearestIsHot(Hot::Probing));
    valve.finish(begun, Outcome::Reset, due);
    let again = valve.pick_cluster(&shares(text), &[], due, 0);
    let hot = Hot::BreakerOpen {
        remaining: 2 * BREAKER_OPEN,
    };
    assert_eq!(again.reason(), Reason::NearestIsHot(hot));
}

#[test]
fn no_request_is_spent_on_finding_a_way() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let (apart, joined) = (
        "eu 3/3 140ms apart, ap 1/1 220ms",
        "eu 3/3 140ms, ap 1/1 220ms",
    );
    // One that never failed is asked, way or not: somebody has to be the first.
    assert_eq!(
        show(&valve.pick_cluster(&shares(apart), &[], start, 0)),
        "eu nearest"
    );
    fail(&mut valve, "eu", 5, start);
    let due = start + 9 * BREAKER_OPEN;
    let left = valve.pick_cluster(&shares(apart), &[], due, 0);
    assert_eq!(left.reason(), Reason::NearestIsHot(Hot::Unreached));
    // A way that stands may have stood all the time: one request asks.
    assert!(
        valve
            .pick_cluster(&shares(joined), &[], due, 0)
            .candidates()[0]
            .probe
    );
    // One that was found is proof.
    valve.reached(&name("eu"), due);
    let slow = valve.pick_cluster(&shares(joined), &[], due, 0);
    assert!(slow.candidates()[0].slow_start <= SLOW_START_FLOOR);
    assert!(slow.candidates()[0].hot.is_none());
}

/// How many of 1,000 requests go to each cluster.
fn spread(valve: &Valve, text: &str, now: Instant) -> Vec<(String, u32)> {
    let mut seen: Vec<(String, u32)> = vec![];
    let shares = shares(text);
    for share in &shares {
        let here = |draw: &u64| {
            let decision = valve.pick_cluster(&shares, &[], now, *draw);
            decision.chosen().unwrap().share.cluster == share.cluster
        };
        let count = (0..1000).filter(here).count();
        seen.push((share.cluster.to_string(), u32::try_from(count).unwrap()));
    }
    seen
}

#[test]
fn a_returning_cluster_gets_its_share_back_step_by_step() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 140ms";
    fail(&mut valve, "us", 5, start);
    let back = start + BREAKER_OPEN;
    succeed(&mut valve, "us", back);
    let share_of_us = |step: u32| spread(&valve, text, back + step * SLOW_START / 50)[0].1;
    let grown: Vec<u32> = (0..=60).map(share_of_us).collect();
    assert!(grown.windows(2).all(|pair| pair[0] <= pair[1]), "{grown:?}");
    assert!((70..130).contains(&grown[0]), "{grown:?}");
    assert!((500..600).contains(&grown[25]), "{grown:?}");
    assert!(grown[49] < 1000 && grown[50] == 1000, "{grown:?}");
    let passed_by = (0..1000)
        .map(|draw| valve.pick_cluster(&shares(text), &[], back, draw))
        .find(|decision| show(decision).starts_with("eu"))
        .unwrap();
    assert_eq!(show(&passed_by), "eu nearest-returns");
}

#[test]
fn facts_tell_of_a_return_too() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let (gone, there) = ("us 0/2 here, eu 3/3 140ms", "us 2/2 here, eu 3/3 140ms");
    // Seen for the first time, a cluster takes everything at once.
    valve.observe(&shares(there), start);
    assert_eq!(spread(&valve, there, start)[0].1, 1000);
    valve.observe(&shares(gone), start);
    fail(&mut valve, "us", 5, start);
    // A fact that is missing is unknown, not zero.
    valve.observe(&shares("eu 3/3 140ms"), start);
    valve.observe(&shares(there), start);
    let first = valve.pick_cluster(&shares("us 2/2 here, eu 3/3 140ms old"), &[], start, 0);
    assert!(first.candidates()[0].probe, "an open breaker asks at once");
    succeed(&mut valve, "us", start);
    assert!((70..130).contains(&spread(&valve, there, start)[0].1));
    // Saying the same again does not begin again.
    let half = start + SLOW_START / 2;
    valve.observe(&shares(there), half);
    assert!((500..600).contains(&spread(&valve, there, half)[0].1));
}

#[test]
fn when_all_return_the_nearest_takes_everything() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let there = "us 2/2 here, eu 3/3 140ms";
    for gone in ["us", "eu"] {
        valve.observe(&shares(&format!("{gone} 0/1 1ms")), start);
    }
    valve.observe(&shares(there), start);
    assert_eq!(spread(&valve, there, start)[0].1, 1000);
    // One that returns while the other is halfway gets its part of what that one has.
    let half = start + SLOW_START / 2;
    valve.observe(&shares("us 0/2 here"), half);
    valve.observe(&shares("us 2/2 here"), half);
    let part = spread(&valve, there, half)[0].1;
    assert!((140..230).contains(&part), "0.1 / 0.55, got {part}");
}

/// What `explain` shows is what draws do: the same answers, as often as it says.
#[test]
fn the_possible_answers_are_those_that_draws_give() {
    let (mut valve, start) = (Valve::default(), Instant::now());
    let (gone, there) = (
        "us 0/2 here, eu 0/3 140ms",
        "us 2/2 here, eu 3/3 140ms, ap 1/1 220ms",
    );
    let possible = |valve: &Valve, text: &str, now| {
        let decision = valve.pick_cluster(&shares(text), &[], now, 0);
        let show = |possible: &Possible<'_>| {
            let chosen = possible.chosen.map_or("-", |c| c.share.cluster.as_str());
            let share = (possible.share * 100.0).round();
            format!("{chosen} {} {share}", possible.reason.code())
        };
        let shown: Vec<String> = decision.possible().iter().map(show).collect();
        shown.join(", ")
    };
    for (text, expect) in [
        (there, "us nearest 100"),
        ("us 0/2 here, eu 3/3 140ms", "eu nearest-is-hot 100"),
        ("us 2/2 here", "us only-choice 100"),
        (gone, "us all-hot 100"),
        ("eu 2/2 140ms local-only", "- local-only 100"),
    ] {
        assert_eq!(possible(&valve, text, start), expect, "{text}");
    }
    valve.observe(&shares(gone), start);
    valve.observe(&shares(there), start);
    let half = start + SLOW_START / 2;
    let expect = "us nearest 55, eu nearest-returns 25, ap nearest-returns 20";
    assert_eq!(possible(&valve, there, half), expect);
    for (cluster, count) in spread(&valve, there, half) {
        let share = match cluster.as_str() {
            "us" => 550,
            "eu" => 250,
            _ => 200,
        };
        assert!(count.abs_diff(share) < 50, "{cluster}: {count}");
    }
}

#[test]
fn a_drained_cluster_serves_what_nobody_else_can() {
    for (text, broken, expect) in [
        (
            "us 2/2 here traffic=0, eu 3/3 140ms",
            &[][..],
            "eu nearest-is-hot",
        ),
        ("us 2/2 here, eu 3/3 140ms traffic=0", &[], "us nearest"),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms, ap 1/1 90ms",
            &[],
            "ap nearest-is-hot",
        ),
        (
            "eu 3/3 140ms traffic=0, ap 2/2 200ms",
            &[],
            "ap nearest-is-hot",
        ),
        ("us 2/2 here traffic=0", &[], "us only-choice"),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms not-exported",
            &[],
            "us only-choice",
        ),
        ("us 2/2 here traffic=0, eu 0/3 140ms", &[], "us all-hot"),
        ("us 2/2 here traffic=0, eu 3/3 140ms", &["eu"], "us all-hot"),
        ("us 2/2 here, eu 3/3 140ms traffic=0", &["us"], "eu all-hot"),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms traffic=0",
            &[],
            "us all-hot",
        ),
        (
            "us 0/2 here traffic=0, eu 3/3 140ms traffic=0",
            &[],
            "eu all-hot",
        ),
    ] {
        assert_eq!(
            picked(text, broken, &[]),
            expect,
            "{text}, broken: {broken:?}"
        );
    }
    // A request that has failed elsewhere is better served there than not at all.
    for (text, broken, avoid, expect) in [
        (
            "us 2/2 here traffic=0, eu 3/3 140ms",
            &[][..],
            ["eu"],
            "us all-hot",
        ),
        (
            "us 2/2 here, eu 3/3 140ms traffic=0",
            &[],
            ["us"],
            "eu all-hot",
        ),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms",
            &[],
            ["us"],
            "eu nearest-failed",
        ),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms, ap 1/1 90ms",
            &["ap"],
            ["eu"],
            "us all-hot",
        ),
        (
            "us 2/2 here traffic=0, eu 3/3 140ms, ap 1/1 90ms",
            &[],
            ["ap"],
            "eu nearest-is-hot",
        ),
    ] {
        assert_eq!(
            picked(text, broken, &avoid),
            expect,
            "{text}, failed: {avoid:?}"
        );
    }
}

#[test]
fn a_drained_cluster_is_not_there_for_those_that_only_have_much_to_do() {
    // One that has as much as it may have gets no more, but one that is only busy is not spared at its cost.
    let (mut valve, now) = (Valve::default(), Instant::now());
    let busy = "us 2/2 here most=3, eu 3/3 140ms traffic=0";
    let requests: Vec<_> = (0..3).map(|_| valve.begin(&name("us"), now)).collect();
    assert_eq!(
        show(&valve.pick_cluster(&shares(busy), &[], now, 0)),
        "eu all-hot"
    );
    for request in requests {
        valve.finish(request, OK, now);
    }
    assert_eq!(
        show(&valve.pick_cluster(&shares(busy), &[], now, 0)),
        "us nearest"
    );
    let (mut valve, start) = (Valve::default(), Instant::now());
    let text = "us 2/2 here, eu 3/3 140ms traffic=0";
    valve.observe(&shares(text), start);
    valve.assume(&name("us"), 2.0);
    let _uploads: Vec<_> = (0..100).map(|_| valve.begin(&name("us"), start)).collect();
    let silent = start + Duration::from_secs(1);
    let chosen = valve.pick_cluster(&shares(text), &[], silent, 0);
    assert_eq!(show(&chosen), "us all-hot");

    let (valve, now) = (Valve::default(), Instant::now());
    let drained = valve.pick_cluster(&shares("us 2/2 here traffic=0, eu 3/3 140ms"), &[], now, 0);
    assert_eq!(drained.candidates()[0].why_not(), Some("drained"));
}

#[test]
fn a_cluster_that_is_drained_in_part_takes_that_part() {
    let (valve, now) = (Valve::default(), Instant::now());
    for (text, of_us, code) in [
        (
            "us 2/2 here traffic=40, eu 3/3 140ms",
            400,
            "nearest-drains",
        ),
        (
            "us 2/2 here traffic=40, eu 3/3 140ms traffic=80",
            500,
            "nearest-drains",
        ),
        // Who is drained the least takes all that is left, and the nearest of equals everything.
        (
            "us 2/2 here traffic=40, eu 3/3 140ms traffic=40",
            1000,
            "nearest",
        ),
        ("us 2/2 here, eu 3/3 140ms traffic=40", 1000, "nearest"),
    ] {
        let shares = shares(text);
        let mut count = 0;
        for number in 0..1000_u64 {
            let decision = valve.pick_cluster(&shares, &[], now, draw::mix(number, 7));
            if decision.chosen().unwrap().share.local {
                assert_eq!(decision.reason().code(), "nearest");
                count += 1;
            } else {
                assert_eq!(decision.reason().code(), code, "{text}");
            }
        }
        assert!(i32::abs_diff(count, of_us) < 50, "{text}: {count}");
    }
}

fn any_share() -> impl Strategy<Value = ClusterShare> {
    let barred = prop_oneof![3 => Just(None), 1 => Just(Some(Barred::NotExported))];
    let rtt = proptest::option::of((0u64..3).prop_map(Duration::from_millis));
    let traffic = prop_oneof![3 => Just(ALL_TRAFFIC), 1 => Just(40), 1 => Just(0)];
    let counts = (0u32..3, 0u32..3, 0u64..20);
    (counts, rtt, traffic, barred).prop_map(|((healthy, more, age), rtt, traffic, barred)| {
        ClusterShare {
            cluster: name("x"),
            local: false,
            healthy,
            total: healthy + more,
            age: Duration::from_secs(age),
            rtt,
            connected: true,
            most: None,
            traffic,
            barred,
        }
    })
}

proptest! {
    #[test]
    fn a_choice_is_lawful_usable_and_the_same_in_any_order(
        made in proptest::collection::vec(any_share(), 0..6),
        local in 0usize..8, turn in 0usize..6,
        broken in proptest::collection::vec(0usize..6, 0..6),
        avoided in proptest::collection::vec(0usize..6, 0..4),
        draw in any::<u64>(),
    ) {
        let now = Instant::now();
        let mut shares = made;
        for (index, share) in shares.iter_mut().enumerate() {
            share.cluster = name(&format!("c{index}"));
            share.local = index == local;
        }
        let mut valve = Valve::default();
        valve.observe(&shares, now);
        for index in broken {
            fail(&mut valve, &format!("c{index}"), 5, now);
        }
        let avoid: Vec<ClusterName> = avoided.iter().map(|i| name(&format!("c{i}"))).collect();
        let before = valve.clone();
        let decision = valve.pick_cluster(&shares, &avoid, now, draw);
        prop_assert_eq!(&valve, &before);

        let running: Vec<&Considered> =
            decision.candidates().iter().filter(|c| c.runs()).collect();
        prop_assert_eq!(decision.chosen().is_some(), !running.is_empty());
        prop_assert_eq!(decision.candidates().len(), shares.len());
        if let Some(chosen) = decision.chosen() {
            prop_assert!(chosen.runs());
            if running.iter().any(|c| c.usable()) {
                prop_assert!(chosen.usable());
            }
        }
        let possible = decision.possible();
        let all: f64 = possible.iter().map(|possible| possible.share).sum();
        prop_assert!((all - 1.0).abs() < 1e-9, "{}", all);
        let answer = (decision.chosen(), decision.reason());
        prop_assert!(possible.iter().any(|possible| (possible.chosen, possible.reason) == answer));
        let len = shares.len().max(1);
        shares.rotate_left(turn % len);
        prop_assert_eq!(&valve.pick_cluster(&shares, &avoid, now, draw), &decision);
        if shares.iter().all(|share| matches!(share.traffic, 0 | ALL_TRAFFIC)) {
            // With no slow start either it is the nearest of them, whatever the draw.
            if let Some(nearest) = running.iter().find(|c| c.usable()) {
                prop_assert_eq!(decision.chosen().map(|chosen| chosen.rank), Some(nearest.rank));
            }
            prop_assert_eq!(possible.len(), 1);
            prop_assert_eq!(&valve.pick_cluster(&shares, &avoid, now, !draw), &decision);
        }
    }
}
