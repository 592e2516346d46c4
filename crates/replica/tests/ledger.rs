//! One ledger and one copy, without a connection.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Instant;

use bytes::Bytes;
use isthmus_model::{ClusterName, Position};
use isthmus_replica::{
    Batch, Change, Entry, Epoch, Expect, Follower, Ledger, LedgerName, MAX_WRITE_BYTES, Mark, Part,
    Skipped, WriteError,
};
use isthmus_world::{Store, VirtualStore};

fn mark(epoch: u64, position: u64) -> Mark {
    Mark {
        epoch: Epoch(epoch),
        position: Position(position),
    }
}

fn change(key: &'static str, value: Option<&'static str>, expect: Expect) -> Change {
    Change {
        key: Bytes::from(key),
        value: value.map(Bytes::from),
        expect,
    }
}

#[test]
fn writes_are_conditional_and_all_or_nothing() {
    use Expect::{Absent, Anything, UnchangedSince};
    let mut ledger = Ledger::load(LedgerName::Config, &VirtualStore::new(), 1).unwrap();
    let conflict = |key, current: Option<u64>| {
        Err(WriteError::Conflict {
            key: Bytes::from(key),
            current: current.map(Position),
        })
    };
    let mut write = |changes| ledger.write(changes);
    let at = |position| Ok(Position(position));
    assert_eq!(write(vec![change("a", Some("1"), Absent)]), at(1));
    assert_eq!(
        write(vec![change("a", Some("2"), Absent)]),
        conflict("a", Some(1))
    );
    assert_eq!(
        write(vec![
            change("b", Some("1"), Anything),
            change("c", Some("1"), Absent)
        ]),
        at(2)
    );
    assert_eq!(
        write(vec![change("a", Some("2"), UnchangedSince(Position(1)))]),
        at(3)
    );
    assert_eq!(
        write(vec![change("a", Some("3"), UnchangedSince(Position(2)))]),
        conflict("a", Some(3)),
        "somebody changed it after it was read"
    );
    assert_eq!(
        write(vec![
            change("b", None, Anything),
            change("a", Some("3"), Absent)
        ]),
        conflict("a", Some(3))
    );
    assert_eq!(
        write(vec![change("b", Some("2"), UnchangedSince(Position(2)))]),
        at(4),
        "the refused write touched nothing"
    );
    assert_eq!(
        write(vec![change("c", Some("1"), Anything)]),
        at(4),
        "nothing to change"
    );
    assert_eq!(write(vec![change("c", None, Anything)]), at(5));
    assert_eq!(
        write(vec![change("c", None, Anything)]),
        at(5),
        "nothing to delete"
    );
    assert_eq!(
        write(vec![change("c", Some("1"), UnchangedSince(Position(9)))]),
        conflict("c", None)
    );
    let large = Change {
        key: Bytes::new(),
        value: Some(vec![0; MAX_WRITE_BYTES + 1].into()),
        expect: Anything,
    };
    assert!(matches!(
        write(vec![large]),
        Err(WriteError::TooLarge { .. })
    ));
    assert_eq!(
        ledger.find(b"a"),
        None,
        "nothing is shown before it is saved"
    );
    assert_eq!(
        ledger.find_latest(b"a").map(|(at, _)| at),
        Some(Position(3))
    );
}

#[test]
fn several_ledgers_take_a_write_together_or_none_does() {
    use Expect::{Absent, Anything};
    use LedgerName::{Config, History};
    let (mut store, now) = (VirtualStore::new(), Instant::now());
    let west = || ClusterName::new("west").unwrap();
    let mut replica = support::load(west(), west(), &store, 1, now);
    let both = |key, value, recorded: Vec<Change>| {
        vec![
            (Config, vec![change(key, Some(value), Absent)]),
            (History, recorded),
        ]
    };
    let first = both("a", "1", vec![change("1", Some("a"), Anything)]);
    assert_eq!(replica.write_together(first).unwrap().len(), 2);
    let taken = both("a", "2", vec![change("2", Some("a"), Anything)]);
    let foreign = LedgerName::Facts(ClusterName::new("east").unwrap());
    let strange = vec![
        (History, vec![change("2", Some("a"), Anything)]),
        (foreign, vec![change("b", Some("1"), Anything)]),
    ];
    for refused in [taken, strange] {
        assert!(replica.write_together(refused).is_err());
        let history = replica.ledger(&History).unwrap();
        assert_eq!(history.find_latest(b"2"), None);
    }
    support::agree(&mut replica);
    let saved = replica.unsaved().unwrap();
    store.commit(&saved.batch).unwrap();
    let _ = replica.on_saved(saved);
    let second = both(
        "b",
        "1",
        vec![
            change("1", None, Anything),
            change("2", Some("b"), Anything),
        ],
    );
    let _ = replica.write_together(second).unwrap();
    let history = replica.ledger(&History).unwrap();
    let below = |key: &'static str| {
        let found = history.last_latest_below(key.as_bytes());
        found.map(|(key, _)| key.clone())
    };
    // The first is saved, and gone by what is not saved yet.
    assert_eq!(below("2"), None);
    assert_eq!(below("3"), Some(Bytes::from("2")));
    assert!(history.find(b"1").is_some());
    // What was saved is read back, and what was not is not.
    let replica = support::load(west(), west(), &store, 1, now);
    let keys: Vec<_> = replica
        .entries(&History)
        .into_iter()
        .map(|(key, _, _)| key.clone())
        .collect();
    assert_eq!(keys, [Bytes::from("1")]);
}

fn entry(key: &'static str, changed: u64, value: Option<&'static str>) -> Entry {
    Entry {
        key: Bytes::from(key),
        changed: Position(changed),
        value: value.map(Bytes::from),
    }
}

fn part(at: Mark, number: u64, last: bool, entries: Vec<Entry>) -> Part {
    Part {
        at,
        number,
        last,
        entries,
        signature: None,
    }
}

/// A copy at 10 of epoch 2, with `a` and `b`.
fn copy() -> Follower {
    let owner = ClusterName::new("us-west").unwrap();
    let mut copy = Follower::empty(LedgerName::Facts(owner));
    let entries = vec![entry("a", 3, Some("1")), entry("b", 10, Some("1"))];
    let touched = copy.on_part(part(mark(2, 10), 0, true, entries)).unwrap();
    assert_eq!(touched, ["a", "b"]);
    copy
}

#[test]
fn a_batch_applies_where_it_begins_and_nowhere_else() {
    let batch = |from, to, entries| Batch {
        from,
        to,
        entries,
        signature: None,
    };
    let here = mark(2, 10);
    let good = || vec![entry("a", 11, Some("2")), entry("b", 12, None)];
    for (from, to, entries, expect) in [
        (here, mark(2, 12), good(), None),
        (here, mark(3, 12), good(), None),
        (here, mark(3, 10), vec![], None),
        (mark(2, 8), here, vec![], Some("older")),
        (mark(1, 99), mark(1, 100), vec![], Some("older")),
        (mark(2, 8), mark(2, 12), good(), Some("gap")),
        (mark(2, 11), mark(2, 12), good(), Some("gap")),
        (here, mark(2, 11), good(), Some("malformed")),
        (here, mark(3, 9), vec![], Some("malformed")),
        (
            here,
            mark(2, 12),
            vec![entry("a", 10, None)],
            Some("malformed"),
        ),
    ] {
        let mut copy = copy();
        let result = copy.on_batch(batch(from, to, entries));
        let kind = result.err().map(|skipped| match skipped {
            Skipped::Older { .. } => "older",
            Skipped::Gap { .. } => "gap",
            Skipped::Malformed => "malformed",
        });
        assert_eq!(kind, expect, "{from} to {to}");
        assert_eq!(copy.mark(), if expect.is_none() { to } else { here });
    }
}

#[test]
fn a_checkpoint_replaces_a_copy_at_once_or_not_at_all() {
    let mut copy = copy();
    let at = mark(2, 20);
    let first = || part(at, 0, false, vec![entry("a", 3, Some("1"))]);
    let last = || part(at, 1, true, vec![entry("c", 20, Some("1"))]);
    assert!(matches!(copy.on_part(last()), Err(Skipped::Gap { .. })));
    assert_eq!(copy.on_part(first()), Ok(vec![]));
    assert_eq!(copy.on_part(first()), Ok(vec![]), "it begins again");
    assert!(copy.find(b"b").is_some() && copy.find(b"c").is_none());
    assert_eq!(copy.on_part(last()).unwrap(), ["b", "c"]);
    assert!(copy.find(b"a").is_some() && copy.find(b"b").is_none());
    assert_eq!(copy.mark(), at);
}

#[test]
fn an_old_empty_checkpoint_empties_nothing() {
    let mut copy = copy();
    for at in [mark(2, 10), mark(2, 9), mark(1, 1000), mark(0, 0)] {
        let result = copy.on_part(part(at, 0, true, vec![]));
        assert!(matches!(result, Err(Skipped::Older { .. })), "{at}");
    }
    assert_eq!(copy.entries().count(), 2);
    assert_eq!(
        copy.on_part(part(mark(2, 11), 0, true, vec![]))
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_part_with_a_deletion_or_from_the_future_is_refused() {
    for bad in [entry("x", 5, None), entry("x", 21, Some("1"))] {
        let mut copy = copy();
        let result = copy.on_part(part(mark(2, 20), 0, true, vec![bad]));
        assert_eq!(result, Err(Skipped::Malformed));
        assert_eq!(copy.entries().count(), 2);
    }
}
