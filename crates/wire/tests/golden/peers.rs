//! What control planes of release 0.1.0 tell each other.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_model::Position;
use isthmus_replica::{Batch, Content, Entry, Epoch, LedgerName, Mark, Part, PeerMessage};
use isthmus_wire::PeerIncoming;
use isthmus_wire::proto::{self, peer_frame, peer_question};
use prost::Message as _;

use super::golden;

fn mark(position: u64) -> Mark {
    Mark {
        epoch: Epoch(0x0001_0000_0002),
        position: Position(position),
    }
}

fn entry(key: &'static str, changed: u64, value: Option<&'static str>) -> Entry {
    Entry {
        key: Bytes::from_static(key.as_bytes()),
        changed: Position(changed),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    }
}

fn messages() -> Vec<(&'static str, PeerMessage)> {
    let facts = || LedgerName::Facts("us-west".parse().unwrap());
    let piece = |ledger, content| PeerMessage::Piece {
        ledger,
        follow: 3,
        number: 4,
        content,
    };
    let batch = Batch {
        from: mark(5),
        to: mark(7),
        entries: vec![
            entry("mesh/Service/shop/cart", 6, Some("\u{1}{}")),
            entry("mesh/Service/shop/old", 7, None),
        ],
        signature: None,
    };
    let part = Part {
        at: mark(7),
        number: 0,
        last: true,
        entries: vec![entry("share/shop/cart/*", 2, Some("x"))],
        signature: None,
    };
    vec![
        (
            "peer-hello",
            PeerMessage::Hello {
                cluster: "us-west".parse().unwrap(),
                offers: vec![LedgerName::Config, facts()],
                authority: BTreeSet::new(),
                at: Mark::default(),
            },
        ),
        (
            "peer-follow",
            PeerMessage::Follow {
                ledger: LedgerName::Config,
                follow: 3,
                from: mark(5),
            },
        ),
        (
            "peer-batch",
            piece(LedgerName::Config, Content::Batch(batch)),
        ),
        ("peer-part", piece(facts(), Content::Part(part))),
        (
            "peer-ack",
            PeerMessage::Ack {
                ledger: facts(),
                follow: 3,
                number: 4,
                saved: mark(7),
            },
        ),
        ("peer-heartbeat", PeerMessage::Heartbeat { sent: 1_500 }),
        ("peer-echo", PeerMessage::Echo { sent: 1_500 }),
    ]
}

#[test]
fn replication_is_that_of_the_release() {
    for (name, message) in messages() {
        let read = proto::PeerFrame::decode(golden(name).as_slice()).unwrap();
        let Ok(PeerIncoming::Ledger(read)) = PeerIncoming::try_from(read) else {
            panic!("{name} is not of a ledger");
        };
        assert_eq!(read, message, "{name}");
        // What a hello says beyond that, 0.1.0 does not read.
        if name != "peer-hello" {
            assert_eq!(
                proto::PeerFrame::from(message).encode_to_vec(),
                golden(name),
                "{name}"
            );
        }
    }
}

#[test]
fn questions_and_answers_are_those_of_the_release() {
    let commit = proto::Commit {
        author: "ada".to_owned(),
        verb: "create".to_owned(),
        key: "mesh/Service/shop/cart".to_owned(),
        object: Bytes::from_static(b"{}"),
        ..proto::Commit::default()
    };
    let inquiry = proto::Inquiry {
        author: String::new(),
        path: "/apis/mesh.isthmus.dev/v1alpha1/workloads".to_owned(),
    };
    let question = |id, question| {
        peer_frame::Frame::Question(proto::PeerQuestion {
            id,
            question: Some(question),
        })
    };
    let answer = peer_frame::Frame::Answer(proto::PeerAnswer {
        id: 8,
        status: 201,
        body: Bytes::from_static(b"{}"),
    });
    for (name, frame) in [
        (
            "peer-commit",
            question(8, peer_question::Question::Commit(commit)),
        ),
        (
            "peer-inquiry",
            question(9, peer_question::Question::Inquiry(inquiry)),
        ),
        ("peer-answer", answer),
    ] {
        let frame = proto::PeerFrame { frame: Some(frame) };
        assert_eq!(frame.encode_to_vec(), golden(name), "{name}");
        assert_eq!(
            proto::PeerFrame::decode(golden(name).as_slice()).unwrap(),
            frame,
            "{name}"
        );
    }
}

/// Whoever is newer says more than a release knows: what it does not know it skips, and goes on.
#[test]
fn fields_of_later_versions_are_skipped() {
    for (name, message) in messages() {
        let mut bytes = golden(name);
        // Field 1000 of the frame, two bytes long.
        bytes.extend([0xc2, 0x3e, 0x02, 0x01, 0x02]);
        let read = proto::PeerFrame::decode(bytes.as_slice()).unwrap();
        let Ok(PeerIncoming::Ledger(read)) = PeerIncoming::try_from(read) else {
            panic!("{name} is not of a ledger");
        };
        assert_eq!(read, message, "{name}");
    }
}
