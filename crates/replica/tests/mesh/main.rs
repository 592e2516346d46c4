//! Three clusters in virtual time: cuts, black holes, delays, two connections at once, disks that
//! fail, processes that die. In the end every copy is what its owner has.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use isthmus_replica::{
    Change, CloseReason, Contact, Expect, LedgerName, Mark, Output, PeerMessage, SessionId,
    WriteError,
};
use isthmus_world::{Chance, Clock, Fault, VirtualStore};

use world::{AUTHORITY, Link, World, cluster, facts};

fn something_happens(world: &mut World) {
    let (node, other) = (world.pick(3), world.pick(3));
    match world.chance.below(40) {
        0 => world.kill(node),
        1..4 if world.nodes[node].replica.is_none() => world.start(node),
        4..10 if node != other => world.connect(node, other),
        10 | 11 => {
            let all: Vec<u64> = world.links.keys().copied().collect();
            if !all.is_empty() {
                let link = all[world.pick(all.len())];
                if world.chance.below(3) == 0 {
                    world.links.get_mut(&link).unwrap().black = true;
                } else {
                    world.cut(link);
                }
            }
        }
        12 => {
            let durable = world.chance.below(2) == 0;
            let fault = match world.chance.below(3) {
                0 => Fault::Full,
                _ => Fault::Io { durable },
            };
            world.nodes[node].store.fail_next(fault);
        }
        13 => {
            // Power fails in the middle of the next commit.
            let seed = world.chance.draw();
            world.nodes[node].store.fail_next(Fault::Crash { seed });
            world.write(node, &facts(node));
            world.kill(node);
        }
        14..30 => world.write(node, &facts(node)),
        30..34 => world.write(AUTHORITY, &LedgerName::Config),
        _ => {
            let pause = Duration::from_millis(world.chance.below(400));
            world.run(pause);
        }
    }
}

#[test]
fn whatever_happens_copies_become_what_their_owners_have() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            something_happens(&mut world);
        }
        world.heal();
        world.check_converged();
        world.check_accepted();
        assert!(
            world.outlived.is_empty(),
            "seed {seed}: nothing was restored"
        );
    }
}

#[test]
fn owners_restored_from_old_backups_are_told_and_go_on() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let node = world.pick(3);
        for _ in 0..60 {
            something_happens(&mut world);
        }
        let backup = world.nodes[node].store.backup();
        for _ in 0..60 {
            something_happens(&mut world);
        }
        world.kill(node);
        world.nodes[node].store = backup;
        world.start(node);
        // It writes other things than before under the positions that others know.
        for _ in 0..=world.pick(20) {
            world.write(node, &facts(node));
        }
        if node == AUTHORITY {
            continue; // Config waits for a decision: see below.
        }
        world.heal();
        world.check_converged();
    }
}

/// Three connected clusters, at rest, with some entries everywhere.
fn at_rest() -> World {
    let mut world = World::new(1);
    for number in 0..500 {
        put(&mut world, AUTHORITY, &LedgerName::Config, number, "first");
    }
    world.heal();
    world.check_converged();
    world.entries_sent = 0;
    world.touched.clear();
    world
}

fn put(world: &mut World, node: usize, ledger: &LedgerName, number: u32, value: &'static str) {
    let key = Bytes::from(number.to_string());
    let value = Bytes::from(value);
    world
        .written
        .insert((ledger.clone(), key.clone(), value.clone()));
    let change = Change {
        key,
        value: Some(value),
        expect: Expect::Anything,
    };
    let replica = world.nodes[node].replica.as_mut().unwrap();
    let written = replica.write(ledger, vec![change]).unwrap();
    world.perform(node, written.outputs);
}

#[test]
fn an_owner_that_lost_everything_empties_nobody_until_it_speaks() {
    let mut world = at_rest();
    put(&mut world, 0, &facts(0), 1, "fact");
    world.run(Duration::from_secs(1));
    world.kill(0);
    world.nodes[0].store = VirtualStore::new();
    world.start(0);
    world.heal();
    assert!(world.outlived.contains(&facts(0)));
    let copy = |world: &World, key: &[u8]| {
        let replica = world.nodes[2].replica.as_ref().unwrap();
        replica.find(&facts(0), key).is_some()
    };
    assert!(copy(&world, b"1"));
    put(&mut world, 0, &facts(0), 2, "fact");
    world.run(Duration::from_secs(1));
    assert!(copy(&world, b"2") && !copy(&world, b"1"));
    world.check_converged();
}

#[test]
fn after_cuts_and_restarts_only_changes_travel() {
    let mut world = at_rest();
    world.kill(AUTHORITY);
    world.kill(0);
    world.start(AUTHORITY);
    put(&mut world, AUTHORITY, &LedgerName::Config, 7, "second");
    world.start(0);
    world.heal();
    world.check_converged();
    assert_eq!(world.entries_sent, 2, "one entry to each of two followers");
    let key = BTreeSet::from([Bytes::from("7")]);
    assert_eq!(world.touched[&(0, LedgerName::Config)], key);
}

#[test]
fn config_of_a_restored_authority_waits_for_a_decision() {
    let mut world = at_rest();
    let backup = world.nodes[AUTHORITY].store.backup();
    put(&mut world, AUTHORITY, &LedgerName::Config, 7, "second");
    world.run(Duration::from_secs(1));
    world.kill(AUTHORITY);
    world.nodes[AUTHORITY].store = backup;
    world.start(AUTHORITY);
    put(&mut world, AUTHORITY, &LedgerName::Config, 8, "other");
    world.heal();
    assert!(world.outlived.contains(&LedgerName::Config));
    let value = |world: &World, node: usize, key: &[u8]| {
        let replica = world.nodes[node].replica.as_ref().unwrap();
        let found = replica.find(&LedgerName::Config, key);
        found.map(|(_, value)| value.clone())
    };
    assert_eq!(value(&world, 0, b"7"), Some(Bytes::from("second")));
    assert_eq!(value(&world, 0, b"8"), Some(Bytes::from("first")));

    let replica = world.nodes[AUTHORITY].replica.as_mut().unwrap();
    let seen = replica.ledger(&LedgerName::Config).unwrap().mark().epoch;
    assert!(replica.overrule(&LedgerName::Config, seen));
    world.save(AUTHORITY);
    world.run(Duration::from_secs(1));
    world.check_converged();
    assert_eq!(value(&world, 0, b"7"), Some(Bytes::from("first")));
}

#[test]
fn a_silent_peer_turns_stale_then_lost_and_nothing_is_forgotten() {
    let mut world = at_rest();
    let contact = |world: &World| {
        let replica = world.nodes[0].replica.as_ref().unwrap();
        replica.contact(&cluster(AUTHORITY), world.clock.now()).0
    };
    let rtt = world.nodes[0]
        .replica
        .as_ref()
        .unwrap()
        .rtt(&cluster(AUTHORITY))
        .unwrap();
    let delay = world
        .links
        .values()
        .find(|link| link.ends == [0, 1])
        .unwrap()
        .delay;
    assert!(rtt.minimum >= 2 * delay && rtt.minimum <= 2 * delay + Duration::from_millis(10));
    assert_eq!(contact(&world), Contact::Live);
    for link in world.links.values_mut() {
        link.black = true;
    }
    world.run(Duration::from_millis(1900));
    assert_eq!(contact(&world), Contact::Live);
    world.run(Duration::from_secs(3));
    assert_eq!(contact(&world), Contact::Stale);
    assert!(world.closed.is_empty());
    world.run(Duration::from_secs(12));
    assert_eq!(contact(&world), Contact::Lost);
    assert!(world.closed.contains(&CloseReason::Silent));
    let copy = world.nodes[0]
        .replica
        .as_ref()
        .unwrap()
        .copy(&LedgerName::Config);
    assert_eq!(copy.unwrap().entries().count(), 500);
}

#[test]
fn of_two_connections_one_is_closed_and_the_other_works() {
    let mut world = at_rest();
    world.connect(0, 1);
    world.connect(1, 0);
    world.run(Duration::from_secs(2));
    let open = |link: &&Link| link.open == [true, true] && link.ends.contains(&0);
    let between = |link: &&Link| link.ends.contains(&1);
    assert_eq!(world.links.values().filter(open).filter(between).count(), 1);
    put(&mut world, AUTHORITY, &LedgerName::Config, 7, "second");
    put(&mut world, 0, &facts(0), 1, "fact");
    world.run(Duration::from_secs(2));
    world.check_converged();
}

/// Both dial, and what they say on the connection that is closed arrives whenever it does.
#[test]
fn whichever_of_two_connections_is_slower_the_other_carries_everything() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        put(&mut world, 0, &facts(0), 0, "of the first");
        put(&mut world, 1, &facts(1), 0, "of the second");
        for (from, to) in [(1, 2), (2, 0), (0, 1), (1, 0), (0, 1)] {
            world.connect(from, to);
            let pause = Duration::from_millis(world.chance.below(100));
            world.run(pause);
        }
        world.run(Duration::from_secs(2));
        put(&mut world, 0, &facts(0), 1, "after it");
        put(&mut world, 1, &facts(1), 1, "after it");
        world.run(Duration::from_secs(2));
        world.check_converged();
    }
}

#[test]
fn fast_facts_need_no_disk() {
    let mut world = at_rest();
    let name = LedgerName::FastFacts(cluster(0));
    world.nodes[0].store.fail_next(Fault::Crash { seed: 0 });
    put(&mut world, 0, &facts(0), 1, "lost"); // The disk is gone from here on.
    put(&mut world, 0, &name, 1, "load");
    world.run(Duration::from_secs(1));
    let copy = world.nodes[1].replica.as_ref().unwrap();
    assert!(copy.find(&name, b"1").is_some());
    assert!(copy.find(&facts(0), b"1").is_none());
    // A new life measures anew, and its followers take that over.
    world.kill(0);
    world.start(0);
    put(&mut world, 0, &name, 2, "load");
    world.heal();
    let copy = world.nodes[1].replica.as_ref().unwrap();
    assert!(copy.find(&name, b"1").is_none() && copy.find(&name, b"2").is_some());
}

#[test]
fn ledgers_are_taken_from_their_owners_only() {
    let mut world = at_rest();
    let link = *world
        .links
        .iter()
        .find(|(_, link)| link.ends == [2, 0])
        .unwrap()
        .0;
    let now = world.clock.now();
    let replica = world.nodes[0].replica.as_mut().unwrap();
    let hello = PeerMessage::Hello {
        cluster: cluster(2),
        offers: vec![LedgerName::Config, facts(1), facts(0)],
        authority: BTreeSet::new(),
        at: Mark::default(),
    };
    let outputs = replica.on_message(SessionId(link), hello, now);
    assert_eq!(outputs, [], "us-west owns none of these");
    let write = replica.write(&LedgerName::Config, Vec::new());
    assert!(matches!(write, Err(WriteError::NotOurs { .. })));

    let liar = PeerMessage::Hello {
        cluster: cluster(1),
        offers: Vec::new(),
        authority: BTreeSet::new(),
        at: Mark::default(),
    };
    let outputs = replica.on_message(SessionId(link), liar, now);
    let reason = CloseReason::WrongCluster;
    let session = SessionId(link);
    assert_eq!(outputs, [Output::Close { session, reason }]);
}
