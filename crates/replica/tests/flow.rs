//! One owner and one follower, message by message.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use isthmus_model::ClusterName;
use isthmus_replica::{
    Change, Content, Expect, LedgerName, MAX_TOMBSTONES, MESSAGE_BYTES, Mark, Output, PeerMessage,
    Replica, SessionId, WINDOW,
};
use isthmus_world::{Clock, Store, VirtualClock, VirtualStore};

const CONFIG: LedgerName = LedgerName::Config;

/// Two replicas; messages between them wait until they are delivered.
struct Pair {
    clock: VirtualClock,
    replicas: [Replica; 2],
    stores: [VirtualStore; 2],
    waiting: [VecDeque<PeerMessage>; 2],
    session: u64,
}

impl Pair {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let stores = [VirtualStore::new(), VirtualStore::new()];
        let name = |node| ClusterName::new(["east", "west"][node]).unwrap();
        let replica = |node: usize| {
            let (store, seed) = (&stores[node], node as u64);
            support::load(name(node), name(0), store, seed, clock.now())
        };
        Self {
            replicas: [replica(0), replica(1)],
            clock,
            stores,
            waiting: [VecDeque::new(), VecDeque::new()],
            session: 0,
        }
    }

    fn perform(&mut self, node: usize, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Send { message, .. } = output {
                self.waiting[1 - node].push_back(message);
            }
        }
        support::agree(&mut self.replicas[node]);
        if let Some(unsaved) = self.replicas[node].unsaved() {
            self.stores[node].commit(&unsaved.batch).unwrap();
            let outputs = self.replicas[node].on_saved(unsaved);
            self.perform(node, outputs);
        }
    }

    fn connect(&mut self) {
        self.waiting = [VecDeque::new(), VecDeque::new()];
        for node in 0..2 {
            self.replicas[node].on_disconnected(SessionId(self.session));
        }
        self.session += 1;
        for node in 0..2 {
            let peer = ClusterName::new(["west", "east"][node]).unwrap();
            let (id, now) = (SessionId(self.session), self.clock.now());
            let outputs = self.replicas[node].on_connected(id, peer, now);
            self.perform(node, outputs);
        }
    }

    /// Delivers one message. False when none waits.
    fn deliver(&mut self, to: usize) -> bool {
        let Some(message) = self.waiting[to].pop_front() else {
            return false;
        };
        let (id, now) = (SessionId(self.session), self.clock.now());
        let outputs = self.replicas[to].on_message(id, message, now);
        self.perform(to, outputs);
        true
    }

    fn settle(&mut self) {
        while self.deliver(0) || self.deliver(1) {}
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        let change = Change {
            key: key.into(),
            value: value.map(Bytes::from),
            expect: Expect::Anything,
        };
        let written = self.replicas[0].write(&CONFIG, vec![change]).unwrap();
        self.perform(0, written.outputs);
    }

    fn assert_equal(&self) {
        let ledger: Vec<_> = self.replicas[0]
            .ledger(&CONFIG)
            .unwrap()
            .entries()
            .collect();
        let copy: Vec<_> = self.replicas[1].copy(&CONFIG).unwrap().entries().collect();
        assert!(ledger == copy, "the copy differs");
    }

    fn pieces_waiting(&self) -> impl Iterator<Item = &Content> {
        self.waiting[1].iter().filter_map(|message| match message {
            PeerMessage::Piece { content, .. } => Some(content),
            _ => None,
        })
    }
}

#[test]
fn a_slow_follower_costs_a_window_and_gets_everything_in_the_end() {
    let mut pair = Pair::new();
    // One checkpoint of many parts, then many batches.
    for round in 0..2 {
        for number in 0..20 {
            pair.write(
                format!("{round}-{number}"),
                Some(vec![1; MESSAGE_BYTES / 2]),
            );
        }
        if round == 0 {
            pair.connect();
        }
        while pair.deliver(0) {}
        while pair.deliver(1) {
            while pair.deliver(0) {}
            let waiting = pair.pieces_waiting().count() as u64;
            assert!(waiting <= WINDOW, "{waiting} pieces are on their way");
        }
        pair.assert_equal();
    }
}

#[test]
fn many_writes_that_a_follower_has_not_seen_are_sent_as_one() {
    let mut pair = Pair::new();
    pair.write("a".to_owned(), Some(vec![0]));
    pair.connect();
    pair.settle();
    for number in 0..100 {
        pair.write("a".to_owned(), Some(vec![number]));
    }
    assert_eq!(pair.pieces_waiting().count() as u64, WINDOW);
    pair.deliver(1);
    while pair.deliver(0) {}
    let last = pair.pieces_waiting().last();
    assert!(matches!(last, Some(Content::Batch(batch)) if batch.entries.len() == 1));
    pair.settle();
    pair.assert_equal();
}

#[test]
fn who_missed_forgotten_deletions_gets_a_checkpoint() {
    let mut pair = Pair::new();
    for number in 0..=MAX_TOMBSTONES + 10 {
        pair.write(number.to_string(), Some(Vec::new()));
    }
    pair.connect();
    pair.settle();
    pair.connect(); // What follows is not delivered.
    for number in 0..MAX_TOMBSTONES + 10 {
        pair.write(number.to_string(), None);
    }
    pair.connect();
    pair.deliver(1); // The owner's hello.
    while pair.deliver(0) {}
    let checkpoint = |content: &Content| matches!(content, Content::Part(_));
    let sent = pair.pieces_waiting().next();
    assert!(sent.is_some_and(checkpoint));
    pair.settle();
    pair.assert_equal();
    assert_eq!(pair.replicas[1].copy(&CONFIG).unwrap().entries().count(), 1);
    // What was forgotten is gone from the store too.
    pair.write("last".to_owned(), Some(Vec::new()));
    let records =
        pair.stores[0].scan_prefix(isthmus_world::Table::new("ledger-entries"), b"config/");
    assert_eq!(records.unwrap().len(), MAX_TOMBSTONES + 2);
}

#[test]
fn a_new_life_says_nothing_before_its_epoch_is_saved() {
    let mut pair = Pair::new();
    pair.write("a".to_owned(), Some(vec![0]));
    let name = |node| ClusterName::new(["east", "west"][node]).unwrap();
    let (id, now) = (SessionId(9), pair.clock.now());
    let mut reborn = support::load(name(0), name(0), &pair.stores[0], 5, now);
    let pieces = |outputs: Vec<Output>| {
        let piece = |output: &Output| {
            matches!(output, Output::Send { message, .. }
                if matches!(message, PeerMessage::Piece { .. }))
        };
        outputs.into_iter().filter(piece).count()
    };
    reborn.on_connected(id, name(1), now);
    let hello = PeerMessage::Hello {
        cluster: name(1),
        offers: Vec::new(),
        authority: BTreeSet::new(),
        at: Mark::default(),
    };
    let follow = PeerMessage::Follow {
        ledger: CONFIG,
        follow: 1,
        from: Mark::default(),
    };
    reborn.on_message(id, hello, now);
    assert_eq!(pieces(reborn.on_message(id, follow, now)), 0);
    let unsaved = reborn.unsaved().unwrap();
    assert_eq!(pieces(reborn.on_saved(unsaved)), 1);
}
