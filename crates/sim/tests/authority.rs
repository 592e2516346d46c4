//! What becomes of config when clusters that accept it are lost, cut off, restored or full.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::time::Duration;

use isthmus_api::ChangeView;
use isthmus_control::{RequestId, Verb};
use isthmus_model::Kind;
use isthmus_sim::{LinkState, Sim};
use isthmus_world::{Chance, VirtualStore};
use serde_json::Value;

use common::{CLUSTERS, founded, founded_with_voters, voters};
use isthmus_sim::shop::{SERVICES, ports, vote, write};

/// Asks a cluster to change a service.
fn change(sim: &mut Sim, site: usize, port: u64) -> RequestId {
    let write = write(Verb::Update, Kind::Service, SERVICES[0], &ports(port));
    sim.write(site, write)
}

/// The answer, and how long it took.
fn answered(sim: &mut Sim, site: usize, id: RequestId) -> (u16, Value, Duration) {
    const STEP: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        if let Some((code, body)) = sim.answer(site, id) {
            return (code, body, waited);
        }
        assert!(waited < Duration::from_secs(10), "no answer at all");
        sim.run_for(STEP);
        waited += STEP;
    }
}

fn accepted(sim: &mut Sim, site: usize, port: u64) -> Duration {
    let id = change(sim, site, port);
    let (code, body, waited) = answered(sim, site, id);
    assert_eq!(code, 200, "{}: {body}", CLUSTERS[site]);
    waited
}

fn port_at(sim: &mut Sim, site: usize) -> Value {
    let services = sim.list(site, Kind::Service);
    let found = services
        .iter()
        .find(|found| found["metadata"]["name"] == SERVICES[0]);
    found.unwrap()["spec"]["ports"][0]["port"].clone()
}

#[test]
fn the_loss_of_whoever_leads_costs_a_write_a_few_seconds() {
    let mut longest = Duration::ZERO;
    for seed in 0..50 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 2, 1000);
        sim.crash(0, false);
        let site = 1 + usize::try_from(seed % 2).unwrap();
        longest = longest.max(accepted(&mut sim, site, 2000));
        // Traffic never noticed, and neither does anybody who comes late.
        sim.start(0);
        sim.run_for(Duration::from_secs(10));
        assert_eq!(port_at(&mut sim, 0), 2000);
    }
    println!("the longest took {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[test]
fn a_minority_accepts_nothing_and_names_who_is_missing() {
    let mut sim = founded_with_voters(1);
    accepted(&mut sim, 0, 1000);
    // The one that leads is cut off with what it takes for its lead.
    sim.set_link(0, 1, LinkState::BlackHole);
    sim.set_link(0, 2, LinkState::BlackHole);
    let alone = change(&mut sim, 0, 2000);
    let (code, body, _) = answered(&mut sim, 0, alone);
    assert_eq!(code, 504, "it was proposed, and may yet be decided: {body}");
    let later = change(&mut sim, 0, 2001);
    let (code, body, _) = answered(&mut sim, 0, later);
    let message = body["message"].as_str().unwrap();
    assert_eq!(code, 503, "{message}");
    assert!(
        message.contains("has no majority")
            && message.contains("eu-central")
            && message.contains("ap-south"),
        "{message}"
    );
    // The others go on, and what the one proposed is void.
    accepted(&mut sim, 1, 3000);
    sim.set_link(0, 1, LinkState::Up);
    sim.set_link(0, 2, LinkState::Up);
    sim.run_for(Duration::from_secs(20));
    for (site, cluster) in CLUSTERS.iter().enumerate() {
        assert_eq!(port_at(&mut sim, site), 3000, "{cluster}");
    }
}

#[test]
fn a_write_reaches_whoever_leads_over_another_voter() {
    let mut sim = founded(1);
    let id = sim.write(0, vote(Verb::Create, &CLUSTERS[..2]));
    assert_eq!(answered(&mut sim, 0, id).0, 201);
    sim.run_for(Duration::from_secs(10));
    assert_eq!(voters(&mut sim).len(), 2);
    sim.set_link(0, 2, LinkState::Cut);
    sim.run_for(Duration::from_secs(10));
    accepted(&mut sim, 2, 1000);
    let change = &sim.history(0, 1)[0];
    assert_eq!(
        change.cluster, "ap-south",
        "who asked is known, whoever carried it"
    );
}

#[test]
fn what_a_restored_voter_had_promised_is_not_forgotten() {
    for seed in 0..20 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 0, 1000);
        let old = sim.backup(2);
        // Only the one that is lost and the one that leads have it.
        sim.crash(1, false);
        accepted(&mut sim, 0, 2000);
        sim.crash(0, false);
        sim.crash(2, false);
        sim.restore(2, old);
        sim.start(2);
        sim.start(1);
        sim.run_for(Duration::from_secs(20));
        let view = sim.authority(2).unwrap();
        assert!(view.reason.unwrap().contains("restored from a backup"));
        let id = change(&mut sim, 1, 3000);
        assert!(answered(&mut sim, 1, id).0 >= 500, "seed {seed}");
        sim.start(0);
        sim.run_for(Duration::from_secs(20));
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), 2000, "seed {seed}: {cluster}");
        }
        accepted(&mut sim, 2, 3000);
    }
}

#[test]
fn a_founder_that_is_restored_from_when_it_was_alone_finds_those_who_vote_now() {
    for seed in 0..20 {
        let mut sim = founded(seed);
        let old = sim.backup(0);
        let id = sim.write(0, vote(Verb::Create, &CLUSTERS));
        sim.run_for(Duration::from_secs(20));
        assert_eq!(sim.answer(0, id).unwrap().0, 201);
        accepted(&mut sim, 0, 1000);
        sim.crash(0, false);
        sim.restore(0, old);
        sim.start(0);
        sim.run_for(Duration::from_secs(2));
        // What others have accepted is not to be void because nobody here has heard of it yet.
        let position = sim.authority(0).unwrap().position;
        let reset = sim.reset(0, 1, position);
        assert_eq!(answered(&mut sim, 0, reset).0, 409, "seed {seed}");
        sim.run_for(Duration::from_secs(20));
        assert_eq!(port_at(&mut sim, 0), 1000, "seed {seed}");
        accepted(&mut sim, 0, 2000);
        assert!(
            sim.authority(0).unwrap().reason.is_some(),
            "it lost its vote"
        );
        for clusters in [&CLUSTERS[1..], &CLUSTERS] {
            let id = sim.write(1, vote(Verb::Update, clusters));
            assert_eq!(answered(&mut sim, 1, id).0, 200);
            sim.run_for(Duration::from_secs(20));
            assert_eq!(voters(&mut sim).len(), clusters.len(), "seed {seed}");
        }
        sim.crash(1, false);
        sim.run_for(Duration::from_secs(1));
        accepted(&mut sim, 0, 3000);
    }
}

#[test]
fn a_cluster_that_had_no_vote_may_get_one_after_its_restoration() {
    let mut sim = founded(1);
    sim.run_for(Duration::from_secs(5));
    let old = sim.backup(2);
    accepted(&mut sim, 0, 1000);
    sim.crash(2, false);
    sim.restore(2, old);
    sim.start(2);
    sim.run_for(Duration::from_secs(5));
    assert_eq!(port_at(&mut sim, 2), 1000);
    let id = sim.write(0, vote(Verb::Create, &CLUSTERS));
    sim.run_for(Duration::from_secs(20));
    assert_eq!(sim.answer(0, id).unwrap().0, 201);
    assert_eq!(voters(&mut sim).len(), 3);
    // One that got its vote after the backup was taken had promised something too.
    let mut sim = founded(2);
    let old = sim.backup(2);
    let id = sim.write(0, vote(Verb::Create, &CLUSTERS));
    sim.run_for(Duration::from_secs(20));
    assert_eq!(sim.answer(0, id).unwrap().0, 201);
    sim.crash(2, false);
    sim.restore(2, old);
    sim.start(2);
    sim.run_for(Duration::from_secs(20));
    let view = sim.authority(2).unwrap();
    assert!(view.reason.unwrap().contains("restored from a backup"));
}

#[test]
fn a_voter_that_is_restored_from_a_backup_votes_when_it_is_added_anew() {
    for is_marked in [true, false] {
        a_restored_voter_votes_when_it_is_added_anew(is_marked);
    }
}

/// Also where somebody brought back the disk, and nothing there says so.
fn a_restored_voter_votes_when_it_is_added_anew(is_marked: bool) {
    let mut sim = founded_with_voters(1);
    accepted(&mut sim, 0, 1000);
    let old = if is_marked {
        sim.backup(2)
    } else {
        sim.copy_disk(2)
    };
    for port in 2000..2010 {
        accepted(&mut sim, 1, port);
    }
    sim.crash(2, false);
    sim.restore(2, old);
    sim.start(2);
    sim.run_for(Duration::from_secs(5));
    let view = sim.authority(2).unwrap();
    let reason = view.reason.unwrap();
    assert!(reason.contains("has lost what it knew"), "{reason}");
    assert_eq!(port_at(&mut sim, 2), 2009, "it follows like anybody");
    // Its vote is not counted on: with one more gone there is no majority.
    sim.crash(1, false);
    let id = change(&mut sim, 0, 3000);
    assert!(answered(&mut sim, 0, id).0 >= 500);
    sim.start(1);
    sim.run_for(Duration::from_secs(10));
    for clusters in [&CLUSTERS[..2], &CLUSTERS] {
        let id = sim.write(1, vote(Verb::Update, clusters));
        assert_eq!(answered(&mut sim, 1, id).0, 200);
        sim.run_for(Duration::from_secs(20));
        assert_eq!(voters(&mut sim).len(), clusters.len());
    }
    sim.crash(0, false);
    sim.run_for(Duration::from_secs(1));
    accepted(&mut sim, 2, 4000);
}

#[test]
fn a_voter_whose_disk_is_full_says_nothing_and_the_others_go_on() {
    for seed in 0..20 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 0, 1000);
        sim.set_full(0, true);
        let full = change(&mut sim, 0, 1500);
        assert!(answered(&mut sim, 0, full).0 >= 500, "it cannot know");
        accepted(&mut sim, 1, 2000);
        assert_eq!(port_at(&mut sim, 1), 2000);
        sim.set_full(0, false);
        sim.run_for(Duration::from_secs(20));
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), 2000, "seed {seed}: {cluster}");
        }
        let site = usize::try_from(sim.chance().below(3)).unwrap();
        accepted(&mut sim, site, 3000);
    }
}

#[test]
fn who_is_heard_and_saves_nothing_is_told_of() {
    let mut sim = founded(1);
    sim.run_for(Duration::from_secs(15));
    let behind = |sim: &mut Sim, site: usize| {
        let clusters = sim.status(site).unwrap().clusters;
        let stuck = clusters
            .into_iter()
            .filter(|cluster| cluster.behind.is_some());
        stuck.map(|cluster| cluster.name).collect::<Vec<_>>()
    };
    sim.set_full(2, true);
    accepted(&mut sim, 0, 1000);
    sim.run_for(Duration::from_secs(9));
    assert_eq!(behind(&mut sim, 0), [""; 0], "it may get on yet");
    sim.run_for(Duration::from_secs(3));
    assert_eq!(behind(&mut sim, 0), ["ap-south"]);
    assert_eq!(behind(&mut sim, 1), [""; 0], "it wrote nothing");
    let clusters = sim.status(0).unwrap().clusters;
    let behind_by = clusters.into_iter().find_map(|cluster| cluster.behind);
    let behind_by = behind_by.unwrap();
    assert!(
        behind_by.changes >= 1 && behind_by.stuck_ms >= 10_000,
        "{behind_by:?}"
    );
    sim.set_full(2, false);
    sim.run_for(Duration::from_secs(5));
    accepted(&mut sim, 0, 2000);
    sim.run_for(Duration::from_secs(30));
    for (site, cluster) in CLUSTERS.iter().enumerate() {
        assert_eq!(behind(&mut sim, site), [""; 0], "{cluster}");
    }
}

#[test]
fn a_founder_that_lost_its_store_accepts_nothing_alone() {
    for seed in 0..20 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 0, 1000);
        sim.crash(0, false);
        accepted(&mut sim, 1, 2000);
        sim.restore(0, VirtualStore::new());
        sim.start(0);
        sim.run_for(Duration::from_secs(10));
        assert_eq!(port_at(&mut sim, 0), 2000, "it follows those who went on");
        accepted(&mut sim, 0, 3000);
        sim.run_for(Duration::from_secs(2));
        assert_eq!(port_at(&mut sim, 1), 3000);
    }
}

/// A statement for the cluster as it stands now.
fn reset(sim: &mut Sim, site: usize, number: u64) -> (u16, Value, Duration) {
    let position = sim.status(site).unwrap().position;
    let id = sim.reset(site, number, position);
    answered(sim, site, id)
}

#[test]
fn the_holder_of_the_mesh_key_has_one_cluster_go_on_alone() {
    for seed in 0..20 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 0, 1000);
        sim.run_for(Duration::from_secs(2));
        // The others are cut off, and go on; then they are lost.
        sim.set_link(0, 2, LinkState::Cut);
        sim.set_link(1, 2, LinkState::Cut);
        sim.run_for(Duration::from_secs(5));
        accepted(&mut sim, 1, 2000);
        accepted(&mut sim, 0, 2001);
        sim.crash(0, false);
        sim.crash(1, false);
        let refused = change(&mut sim, 2, 3000);
        assert_eq!(answered(&mut sim, 2, refused).0, 503);

        let (code, body, _) = reset(&mut sim, 2, 1);
        assert_eq!(code, 200, "{body}");
        accepted(&mut sim, 2, 4000);
        let (code, body, _) = reset(&mut sim, 2, 2);
        assert_eq!(code, 409, "it leads already: {body}");
        // It stays so over a restart.
        sim.crash(2, false);
        sim.start(2);
        sim.run_for(Duration::from_secs(1));
        accepted(&mut sim, 2, 4001);

        // The old side returns, and is a majority of what was.
        sim.start(0);
        sim.start(1);
        sim.run_for(Duration::from_secs(10));
        sim.set_link(0, 2, LinkState::Up);
        sim.set_link(1, 2, LinkState::Up);
        sim.run_for(Duration::from_secs(30));
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), 4001, "seed {seed}: {cluster}");
            let history = sim.history(site, 100);
            let ports = history.iter().filter_map(port);
            let found: Vec<_> = ports.take(3).collect();
            assert_eq!(found, [4001, 4000, 1000], "seed {seed}: {cluster}");
        }
        // What they accepted meanwhile is kept where it was, as void.
        for site in [0, 1] {
            let rejected = sim.rejected(site);
            let found: Vec<_> = rejected.iter().filter_map(port).collect();
            assert_eq!(found, [2001, 2000], "seed {seed}: {}", CLUSTERS[site]);
        }
        assert_eq!(sim.rejected(2), []);
        // They vote again, so that any one of them can be lost.
        assert_eq!(voters(&mut sim).len(), 3);
        sim.crash(2, false);
        sim.run_for(Duration::from_secs(1));
        accepted(&mut sim, 0, 5000);
        sim.start(2);
        sim.crash(1, false);
        sim.start(1);
        sim.run_for(Duration::from_secs(10));
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), 5000, "seed {seed}: {cluster}");
        }
    }
}

/// The port that a change gave the service.
fn port(change: &ChangeView) -> Option<u64> {
    change.after.as_ref()?["spec"]["ports"][0]["port"].as_u64()
}

#[test]
fn a_follower_goes_on_alone_when_all_who_voted_are_lost() {
    for seed in 0..20 {
        let mut sim = founded(seed);
        accepted(&mut sim, 0, 1000);
        sim.run_for(Duration::from_secs(2));
        assert_eq!(reset(&mut sim, 2, 1).0, 409, "whoever votes is heard");
        sim.crash(0, false);
        sim.run_for(Duration::from_secs(20));
        assert_eq!(reset(&mut sim, 2, 1).0, 200);
        accepted(&mut sim, 2, 2000);
        sim.run_for(Duration::from_secs(2));
        accepted(&mut sim, 1, 2001);
        // The founder returns and follows, also when it dies at any moment of that.
        for _ in 0..5 {
            sim.start(0);
            let moment = sim.chance().below(600);
            sim.run_for(Duration::from_millis(moment));
            sim.crash(0, true);
            sim.run_for(Duration::from_secs(1));
            sim.crash(0, false);
        }
        sim.start(0);
        sim.run_for(Duration::from_secs(20));
        assert_eq!(port_at(&mut sim, 0), 2001, "seed {seed}");
        accepted(&mut sim, 0, 3000);
        sim.run_for(Duration::from_secs(5));
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), 3000, "seed {seed}: {cluster}");
        }
    }
}

#[test]
fn two_that_go_on_alone_agree_on_one() {
    for seed in 0..20 {
        let mut sim = founded_with_voters(seed);
        accepted(&mut sim, 0, 1000);
        sim.run_for(Duration::from_secs(2));
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            sim.set_link(a, b, LinkState::Cut);
        }
        sim.run_for(Duration::from_secs(10));
        for site in [1, 2] {
            assert_eq!(reset(&mut sim, site, 1).0, 200);
            accepted(&mut sim, site, 2000 + u64::try_from(site).unwrap());
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            sim.set_link(a, b, LinkState::Up);
        }
        sim.run_for(Duration::from_secs(30));
        let agreed = port_at(&mut sim, 0);
        let lost = match agreed.as_u64().unwrap() {
            2001 => 2,
            2002 => 1,
            other => panic!("seed {seed}: nobody wrote {other}"),
        };
        for (site, cluster) in CLUSTERS.iter().enumerate() {
            assert_eq!(port_at(&mut sim, site), agreed, "seed {seed}: {cluster}");
        }
        assert_eq!(sim.rejected(lost).len(), 1, "seed {seed}");
        assert_eq!(voters(&mut sim).len(), 3);
        accepted(&mut sim, lost, 3000);
    }
}
