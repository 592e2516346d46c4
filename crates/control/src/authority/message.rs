//! What members say to each other, from and to the types of the library that decides.
//!
//! The library's own encoding is not used: only what is written here is ever read from a peer.

use aws_lc_rs::digest::{SHA256, digest};
use isthmus_model::ClusterName;
use isthmus_wire::proto;
use isthmus_wire::proto::raft_entry::Content;
use isthmus_wire::proto::raft_message::Kind;
use raft::prelude::{
    ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata,
};

/// The number that the library knows a cluster by: of its name, so that it is the same everywhere.
pub(super) fn id_of(name: &ClusterName) -> u64 {
    let hash = digest(&SHA256, name.as_str().as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_ref()[..8]);
    u64::from_be_bytes(bytes).max(1) // 0 is nobody.
}

const KINDS: [(MessageType, Kind); 10] = [
    (MessageType::MsgAppend, Kind::Append),
    (MessageType::MsgAppendResponse, Kind::Appended),
    (MessageType::MsgRequestVote, Kind::Vote),
    (MessageType::MsgRequestVoteResponse, Kind::Voted),
    (MessageType::MsgRequestPreVote, Kind::PreVote),
    (MessageType::MsgRequestPreVoteResponse, Kind::PreVoted),
    (MessageType::MsgHeartbeat, Kind::Heartbeat),
    (MessageType::MsgHeartbeatResponse, Kind::Heard),
    (MessageType::MsgSnapshot, Kind::Snapshot),
    (MessageType::MsgTimeoutNow, Kind::LeadNow),
];

/// `None`: of a kind that does not leave its process.
pub(super) fn to_wire(mut message: Message) -> Option<proto::RaftMessage> {
    let kind = KINDS.iter().find(|(ours, _)| *ours == message.msg_type)?.1;
    let snapshot = (kind == Kind::Snapshot).then(|| contents(message.get_snapshot()));
    Some(proto::RaftMessage {
        kind: kind.into(),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(to_entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: snapshot.flatten(),
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.take_context(),
    })
}

/// Terms and places that no group ever comes to. The library counts on from what it is told.
const ABSURD: u64 = u64::MAX / 2;

/// `None`: of no kind that this version knows, absurd, or it contradicts itself.
pub(super) fn from_wire(message: proto::RaftMessage, from: u64, to: u64) -> Option<Message> {
    let last = message.entries.last().map_or(0, |last| last.index);
    let snapshot_at = (message.snapshot.as_ref()).map_or((0, 0), |at| (at.index, at.term));
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        last,
        snapshot_at.0,
        snapshot_at.1,
    ];
    if numbers.iter().any(|number| *number > ABSURD) {
        return None;
    }
    // Where nothing is, the library finds term 0.
    let is_place = |index: u64, term: u64| (index == 0) == (term == 0) && term <= message.term;
    if !is_place(snapshot_at.0, snapshot_at.1) {
        return None;
    }
    let kind = message.kind();
    let kind = KINDS.iter().find(|(_, theirs)| *theirs == kind)?.0;
    let mut entries = Vec::new();
    for (entry, nth) in message.entries.into_iter().zip(1..) {
        let entry = from_entry(entry)?;
        if message.index.checked_add(nth) != Some(entry.index) || !is_place(entry.index, entry.term)
        {
            return None;
        }
        entries.push(entry);
    }
    let mut found = Message {
        msg_type: kind,
        from,
        to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        ..Message::default()
    };
    found.set_entries(entries.into());
    match (kind, &message.snapshot) {
        (MessageType::MsgSnapshot, None) => return None,
        (MessageType::MsgAppend, _) if !is_place(message.index, message.log_term) => return None,
        (MessageType::MsgSnapshot, Some(contents)) if contents.index > 0 => {
            found.set_snapshot(snapshot(contents));
        }
        (MessageType::MsgSnapshot, Some(_)) => return None,
        _ => {}
    }
    // Without a term it would be one of this process to itself.
    (found.term > 0).then_some(found)
}

/// What a change of membership says lies beside what the library makes of it.
pub(super) fn to_entry(entry: &Entry) -> proto::RaftEntry {
    let content = match entry.entry_type {
        EntryType::EntryNormal => Content::Decision(entry.data.clone()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            Content::Voting(isthmus_wire::decode_voting(&entry.context).unwrap_or_default())
        }
    };
    proto::RaftEntry {
        term: entry.term,
        index: entry.index,
        content: Some(content),
    }
}

pub(super) fn from_entry(entry: proto::RaftEntry) -> Option<Entry> {
    let mut found = Entry {
        term: entry.term,
        index: entry.index,
        ..Entry::default()
    };
    match entry.content? {
        Content::Decision(decision) => found.data = decision,
        Content::Voting(voting) => {
            found.entry_type = EntryType::EntryConfChange;
            found.context = isthmus_wire::encode_voting(&voting).into();
        }
    }
    Some(found)
}

/// As the library carries it.
pub(super) fn snapshot(contents: &proto::RaftSnapshot) -> Snapshot {
    let ids = |names: &[String]| -> Vec<u64> {
        let names = names.iter().filter_map(|name| name.parse().ok());
        names.map(|name: ClusterName| id_of(&name)).collect()
    };
    let mut metadata = SnapshotMetadata {
        index: contents.index,
        term: contents.term,
        ..SnapshotMetadata::default()
    };
    metadata.set_conf_state(ConfState::from((
        ids(&contents.voters),
        ids(&contents.learners),
    )));
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    snapshot.data = isthmus_wire::encode_snapshot(contents).into();
    snapshot
}

pub(super) fn contents(snapshot: &Snapshot) -> Option<proto::RaftSnapshot> {
    isthmus_wire::decode_snapshot(&snapshot.data)
}
