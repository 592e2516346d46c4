//! One member by itself, and what others may say to it.

use isthmus_world::VirtualStore;

use super::*;

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

/// Everything that it asks for is done at once; gives what it says to others.
fn settle(
    group: &mut Group,
    store: &mut VirtualStore,
) -> Vec<(ClusterName, proto::AuthorityFrame)> {
    while let Some(work) = group.work() {
        group.done(work.upto, Some(Vec::new()));
    }
    if let Some(unsaved) = group.unsaved() {
        store.commit(&unsaved).unwrap();
    }
    group.on_saved()
}

fn of_three(store: &mut VirtualStore) -> Group {
    let mut group = Group::found(name("a"), 7, 7);
    settle(&mut group, store);
    for other in ["b", "c"] {
        for part in [Part::Learns, Part::Votes] {
            group.change(&name(other), part);
            settle(&mut group, store);
            // The others have everything as soon as it is there.
            for cluster in ["b", "c"] {
                let appended = proto::RaftMessage {
                    kind: Kind::Appended.into(),
                    term: group.term(),
                    index: group.node.store().last(),
                    ..proto::RaftMessage::default()
                };
                let frame = proto::AuthorityFrame {
                    group: 7,
                    message: Some(Box::new(appended)),
                };
                group.on_frame(&name(cluster), frame, |_| false);
                settle(&mut group, store);
            }
        }
    }
    assert_eq!(group.voters().len(), 3);
    group
}

#[test]
fn a_cluster_alone_leads_at_once_and_again_after_a_restart() {
    let mut store = VirtualStore::new();
    let mut group = Group::found(name("a"), 7, 7);
    settle(&mut group, &mut store);
    assert!(group.leads());
    let place = group.propose(&Decision::default()).unwrap();
    settle(&mut group, &mut store);
    let mut again = Group::load(name("a"), &store, 8).unwrap().unwrap();
    settle(&mut again, &mut store);
    assert!(again.leads() && again.id() == 7);
    assert!(again.term() > place.term, "no two lives share a term");
    assert!(again.node.store().applied() > place.index);
}

#[test]
fn a_vote_is_remembered_over_a_restart() {
    let mut store = VirtualStore::new();
    let leader = of_three(&mut store);
    let (term, last) = (leader.term(), leader.node.store().last());
    let asks = |store: &VirtualStore, from: &str| {
        let mut group = Group::load(name("a"), store, 8).unwrap().unwrap();
        let message = proto::RaftMessage {
            kind: Kind::Vote.into(),
            term: term + 1,
            log_term: term,
            index: last,
            ..proto::RaftMessage::default()
        };
        let frame = proto::AuthorityFrame {
            group: 7,
            message: Some(Box::new(message)),
        };
        group.on_frame(&name(from), frame, |_| false);
        group
    };
    let said = |group: &mut Group, store: &mut VirtualStore| {
        let (to, frame) = settle(group, store).pop().unwrap();
        let message = frame.message.unwrap();
        assert_eq!(message.kind(), Kind::Voted);
        (to, message.reject)
    };
    let mut for_b = asks(&store, "b");
    let mut for_c = asks(&store, "c");
    assert_eq!(
        said(&mut for_c, &mut VirtualStore::new()),
        (name("c"), false),
        "either could have it"
    );
    assert_eq!(said(&mut for_b, &mut store), (name("b"), false));
    let mut again = asks(&store, "c");
    assert_eq!(
        said(&mut again, &mut VirtualStore::new()),
        (name("c"), true)
    );
}

#[test]
fn nothing_is_said_before_it_is_saved() {
    let mut store = VirtualStore::new();
    let mut group = of_three(&mut store);
    let place = group.propose(&Decision::default()).unwrap();
    while let Some(work) = group.work() {
        group.done(work.upto, Some(Vec::new()));
    }
    group.on_not_saved();
    assert!(!group.leads(), "whoever cannot remember leads nobody");
    assert_eq!(group.propose(&Decision::default()), None);
    // The same is asked for again, and only then does it go out.
    store.commit(&group.unsaved().unwrap()).unwrap();
    let said = group.on_saved();
    let proposes = |frame: &proto::AuthorityFrame| {
        let message = frame.message.as_ref().unwrap();
        message
            .entries
            .iter()
            .any(|entry| entry.index == place.index)
    };
    assert!(said.iter().any(|(_, frame)| proposes(frame)));
    assert!(group.leads());
}

/// Numbers that are wrong in every way.
#[test]
fn whatever_another_member_says_this_one_goes_on_or_votes_no_more() {
    let mut chance = SeededChance::new(1);
    let mut base = VirtualStore::new();
    of_three(&mut base);
    let (mut broken, mut sound) = (0, 0);
    for seed in 0..20_000 {
        let mut store = base.backup();
        let mut group = Group::load(name("a"), &store, seed).unwrap().unwrap();
        for _ in 0..3 {
            let (term, last) = (group.term(), group.node.store().last());
            let known = [0, 1, term, term + 1, last, last + 1, last + 2, u64::MAX];
            let kind = i32::try_from(chance.below(12)).unwrap();
            let mut number = || known[usize::try_from(chance.below(8)).unwrap()];
            let index = number();
            let message = proto::RaftMessage {
                kind,
                term: number(),
                log_term: number(),
                index,
                entries: (1..=number() % 3)
                    .map(|nth| proto::RaftEntry {
                        term: number(),
                        index: index.wrapping_add(nth),
                        content: Some(proto::raft_entry::Content::Decision(Vec::new().into())),
                    })
                    .collect(),
                commit: number(),
                commit_term: number(),
                snapshot: (number() > 2).then(|| proto::RaftSnapshot {
                    index: number(),
                    term: number(),
                    voters: vec!["a".to_owned(), "b".to_owned()],
                    ..proto::RaftSnapshot::default()
                }),
                reject: number() > 3,
                reject_hint: number(),
                ..proto::RaftMessage::default()
            };
            let frame = proto::AuthorityFrame {
                group: 7,
                message: Some(Box::new(message.clone())),
            };
            group.on_frame(&name("b"), frame, |_| true);
            settle(&mut group, &mut store);
            group.on_tick();
            settle(&mut group, &mut store);
            assert_ne!(group.broken(), Some(&Broken::Failed), "{message:?}");
        }
        match group.broken() {
            None => sound += 1,
            Some(_) => broken += 1,
        }
        // What is in the store can be read.
        Group::load(name("a"), &store, 8).unwrap().unwrap();
    }
    assert!(sound > 1000 && broken > 100, "{sound} and {broken}");
}

#[test]
fn what_was_lost_is_noticed_and_not_voted_for() {
    let mut store = VirtualStore::new();
    let mut group = Group::join(name("c"), 7, 1);
    let say = |group: &mut Group, kind: Kind, commit| {
        let message = proto::RaftMessage {
            kind: kind.into(),
            term: 5,
            commit,
            ..proto::RaftMessage::default()
        };
        let frame = proto::AuthorityFrame {
            group: 7,
            message: Some(Box::new(message)),
        };
        group.on_frame(&name("a"), frame, |_| false)
    };
    say(&mut group, Kind::Vote, 0);
    assert_eq!(
        settle(&mut group, &mut store),
        [],
        "an empty memory has no vote"
    );
    // It may be an old message of a time when it was a member before, if it is not said for long.
    say(&mut group, Kind::Heartbeat, 9);
    say(&mut group, Kind::Heartbeat, 0);
    let mut heard = 0;
    while group.broken().is_none() {
        group.on_tick();
        say(&mut group, Kind::Heartbeat, 9);
        heard += 1;
    }
    assert_eq!(group.broken(), Some(&Broken::LogLost));
    assert_eq!(heard, LONGEST + 2);
}

#[test]
fn a_log_that_contradicts_itself_is_not_read() {
    let mut store = VirtualStore::new();
    let mut group = of_three(&mut store);
    group.propose(&Decision::default()).unwrap();
    settle(&mut group, &mut store);
    for table in ["authority", "authority-log"] {
        let table = isthmus_world::Table::new(table);
        let (key, record) = store.scan(table, b"", 1).unwrap().remove(0);
        for length in 0..record.len() {
            let mut damaged = store.backup();
            let mut batch = Batch::new();
            batch.put(table, key.clone(), record[..length].to_vec());
            damaged.commit(&batch).unwrap();
            let loaded = Group::load(name("a"), &damaged, 8);
            // An entry's end may be all that is missing: of a decision that is one of the shortest.
            assert!(
                loaded.is_err() || table.name() == "authority-log",
                "{length}"
            );
        }
    }
}
