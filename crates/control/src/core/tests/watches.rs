//! Watches: every change once and in order, also through a cluster that was away, or nothing.

use isthmus_wire::proto::peer_frame::Frame;

use super::*;
use crate::core::answer::{Held, ReplyTo};
use crate::core::history::Record;
use crate::core::objects::encode;

fn watch(machine: &mut Machine, since: u64) -> RequestId {
    machine.ask(Request::Watch {
        selection: Selection {
            origin: Origin::Mesh,
            kind: Kind::Service,
            namespace: None,
            name: None,
        },
        since: Some(Position(since)),
    })
}

/// What the watch was told since it was asked last: kind, name, position and port.
fn told(machine: &mut Machine, id: RequestId) -> Vec<(String, String, u64, u64)> {
    let is_it = |action: &mut Action| match action {
        Action::Watch { id: to, event } => *to == id && event.kind != "BOOKMARK",
        _ => false,
    };
    let told: Vec<_> = machine.out.extract_if(.., is_it).collect();
    let line = |action| {
        let Action::Watch { event, .. } = action else {
            return None;
        };
        let metadata = &event.object["metadata"];
        let version = metadata["resourceVersion"].as_str();
        Some((
            event.kind.to_owned(),
            metadata["name"].as_str().unwrap_or_default().to_owned(),
            version
                .and_then(|version| version.parse().ok())
                .unwrap_or(0),
            event.object["spec"]["ports"][0]["port"]
                .as_u64()
                .unwrap_or(0),
        ))
    };
    told.into_iter().filter_map(line).collect()
}

/// Did the watch end?
fn has_ended(machine: &mut Machine, id: RequestId) -> bool {
    let is_it = |action: &Action| matches!(action, Action::EndWatch { id: of } if *of == id);
    machine.out.iter().any(is_it)
}

fn two() -> (Machine, Machine) {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("east"));
    west.create(service("cart", 80));
    exchange(&mut west, &mut east);
    (west, east)
}

fn part(west: &mut Machine, east: &mut Machine) {
    for machine in [west, east] {
        machine.event(Event::PeerClosed {
            session: PeerSessionId(1),
        });
    }
}

/// Removed, made anew twice, and another one between.
fn change(west: &mut Machine) {
    west.write(Verb::Update, service("cart", 81));
    west.write(Verb::Delete, service("cart", 81));
    west.create(service("cart", 82));
    west.create(service("payment", 90));
    west.write(Verb::Delete, service("payment", 90));
    west.write(Verb::Delete, service("cart", 82));
    west.create(service("cart", 83));
    west.write(Verb::Update, service("cart", 84));
}

fn expected() -> Vec<(String, String, u64, u64)> {
    let lines = [
        ("MODIFIED", "cart", 3, 81),
        ("DELETED", "cart", 4, 81),
        ("ADDED", "cart", 5, 82),
        ("ADDED", "payment", 6, 90),
        ("DELETED", "payment", 7, 90),
        ("DELETED", "cart", 8, 82),
        ("ADDED", "cart", 9, 83),
        ("MODIFIED", "cart", 10, 84),
    ];
    let owned = |(kind, name, at, port): (&str, &str, u64, u64)| {
        (kind.to_owned(), name.to_owned(), at, port)
    };
    lines.map(owned).to_vec()
}

#[test]
fn a_cluster_that_was_away_tells_every_change_once_and_in_order() {
    let (mut west, mut east) = two();
    assert_eq!(
        (west.core.position(), east.core.position()),
        (Position(2), Position(2))
    );
    let (here, there) = (watch(&mut west, 2), watch(&mut east, 2));
    part(&mut west, &mut east);
    change(&mut west);
    assert_eq!(told(&mut west, here), expected());
    assert_eq!(told(&mut east, there), []);
    connect(&mut west, &mut east, 2);
    assert_eq!(told(&mut east, there), expected());
    // Each version is the object that it was: made anew it is another one.
    let (_, object) = east.read(Kind::Service, Some("cart"));
    let (_, same) = west.read(Kind::Service, Some("cart"));
    assert_eq!(object["metadata"]["uid"], same["metadata"]["uid"]);
    // Who resumes gets the rest, wherever.
    for machine in [&mut west, &mut east] {
        for since in 2..=10 {
            let id = watch(machine, since);
            let rest = usize::try_from(since - 2).unwrap();
            assert_eq!(told(machine, id), expected()[rest..], "since {since}");
        }
    }
    assert!(!has_ended(&mut east, there));
}

#[test]
fn who_was_told_of_later_changes_elsewhere_is_not_told_of_earlier_ones() {
    let (mut west, mut east) = two();
    part(&mut west, &mut east);
    change(&mut west);
    let id = watch(&mut east, 8);
    connect(&mut west, &mut east, 2);
    assert_eq!(told(&mut east, id), expected()[6..]);
}

#[test]
fn many_changes_in_one_commit_are_told_one_by_one() {
    let (mut west, _) = two();
    let id = watch(&mut west, 2);
    let now = west.now();
    for (number, (verb, object)) in [
        (Verb::Delete, service("cart", 80)),
        (Verb::Create, service("cart", 81)),
        (Verb::Update, service("cart", 82)),
    ]
    .into_iter()
    .enumerate()
    {
        let id = RequestId(1000 + number as u64);
        let request = Request::Write(write(verb, object));
        west.core.on(Event::Request { id, request }, now);
    }
    west.event(Event::Tick);
    let kinds: Vec<_> = told(&mut west, id)
        .into_iter()
        .map(|(kind, _, at, _)| (kind, at))
        .collect();
    let expected = [("DELETED", 3), ("ADDED", 4), ("MODIFIED", 5)];
    assert_eq!(kinds, expected.map(|(kind, at)| (kind.to_owned(), at)));
}

#[test]
fn who_cannot_be_told_everything_lists_again() {
    let (mut west, mut east) = two();
    let id = watch(&mut east, 2);
    part(&mut west, &mut east);
    for port in 1..=1001 {
        west.write(Verb::Update, service("cart", 1000 + port));
    }
    connect(&mut west, &mut east, 2);
    let kinds: Vec<_> = told(&mut east, id)
        .into_iter()
        .map(|(kind, ..)| kind)
        .collect();
    assert_eq!(kinds, ["ERROR"]);
    assert!(has_ended(&mut east, id));
    let id = watch(&mut east, 2);
    assert_eq!(east.answer(id).unwrap().0, 410);
    // From there on it is as before.
    let id = watch(&mut east, 1003);
    west.write(Verb::Update, service("cart", 80));
    exchange(&mut west, &mut east);
    let told = told(&mut east, id);
    assert_eq!(told, [("MODIFIED".to_owned(), "cart".to_owned(), 1004, 80)]);
}

#[test]
fn a_change_whose_record_does_not_come_ends_watches_before_they_wait_for_ever() {
    let (mut west, mut east) = two();
    let id = watch(&mut east, 2);
    west.write(Verb::Update, service("cart", 81));
    let is_record = |action: &mut Action| match action {
        Action::ToPeer { frame, .. } => match &frame.frame {
            Some(Frame::Piece(piece)) => format!("{piece:?}").contains("istory"),
            _ => false,
        },
        _ => false,
    };
    let kept = west.out.extract_if(.., is_record).count();
    assert!(kept > 0);
    exchange(&mut west, &mut east);
    assert_eq!(east.core.position(), Position(3));
    assert_eq!(told(&mut east, id), []);
    east.pass(4);
    assert!(!has_ended(&mut east, id));
    east.pass(2);
    assert_eq!(told(&mut east, id).len(), 1);
    assert!(has_ended(&mut east, id));
}

#[test]
fn a_change_of_a_kind_that_this_version_does_not_know_ends_no_watch() {
    let (mut west, mut east) = two();
    let watches = [watch(&mut west, 2), watch(&mut east, 2)];
    let key = "mesh/Gizmo/new";
    let record = Record {
        position: 3,
        time: 0,
        author: "ada".to_owned(),
        cluster: "west".to_owned(),
        verb: "create".to_owned(),
        key: key.to_owned(),
        request: None,
        before: None,
        after: Some(json!({"kind": "Gizmo"})),
        previous: None,
    };
    let change = isthmus_replica::Change {
        key: key.into(),
        value: Some(encode(&json!({"kind": "Gizmo"}))),
        expect: isthmus_replica::Expect::Anything,
    };
    let writes = vec![
        (LedgerName::Config, vec![change]),
        (
            LedgerName::History,
            west.core.recorded(&Origin::Mesh, &record),
        ),
    ];
    let nobody = ReplyTo::Request(RequestId(999));
    west.core
        .propose(writes, nobody, Held::Ready(Answer::Done))
        .unwrap();
    west.event(Event::Tick);
    west.write(Verb::Update, service("cart", 81));
    exchange(&mut west, &mut east);
    let expected = [("MODIFIED".to_owned(), "cart".to_owned(), 4, 81)];
    for (machine, id) in [&mut west, &mut east].into_iter().zip(watches) {
        assert_eq!(told(machine, id), expected);
        assert!(!has_ended(machine, id));
    }
}
