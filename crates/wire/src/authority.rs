//! What the clusters of the authority decide together, as it lies in their log and travels between them.

use isthmus_model::Position;
use isthmus_replica::{DecidedWrite, Decision, Epoch, LedgerHead, LedgerName};
use prost::Message;

use crate::peer::{PeerFrameError, ledger, mark};
use crate::proto;

/// Why bytes are no decision that this version understands.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecisionError {
    #[error("it cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Ledger(#[from] PeerFrameError),
}

/// The bytes of an entry of the log.
pub fn encode_decision(decision: &Decision) -> Vec<u8> {
    let write = |write: &DecidedWrite| proto::LedgerWrite {
        ledger: write.ledger.to_string(),
        position: write.position.0,
        changes: (write.entries.iter())
            .map(|(key, value)| proto::LedgerEntry {
                key: key.clone(),
                position: write.position.0,
                value: value.clone(),
            })
            .collect(),
    };
    let message = proto::Decision {
        epoch: decision.epoch.unwrap_or_default().0,
        writes: decision.writes.iter().map(write).collect(),
    };
    message.encode_to_vec()
}

/// Reads the bytes of an entry.
///
/// Errors: they are none, or of a ledger that this version does not know.
pub fn decode_decision(bytes: &[u8]) -> Result<Decision, DecisionError> {
    let message = proto::Decision::decode(bytes)?;
    let writes = message.writes.into_iter().map(|write| {
        Ok(DecidedWrite {
            ledger: ledger(write.ledger)?,
            position: Position(write.position),
            entries: (write.changes.into_iter())
                .map(|change| (change.key, change.value))
                .collect(),
        })
    });
    let writes = writes.collect::<Result<_, PeerFrameError>>()?;
    let epoch = Some(Epoch(message.epoch)).filter(|epoch| *epoch != Epoch::default());
    Ok(Decision { epoch, writes })
}

/// Where a ledger stands, as it travels.
pub fn from_head(name: &LedgerName, head: &LedgerHead) -> proto::LedgerHead {
    proto::LedgerHead {
        ledger: name.to_string(),
        mark: Some(head.mark.into()),
        overrules: head.overrules.0,
        lineage: (head.lineage.iter())
            .map(|(epoch, end)| proto::Mark {
                epoch: epoch.0,
                position: end.0,
            })
            .collect(),
    }
}

/// Reads where a ledger stands.
///
/// Errors: it is of a ledger that this version does not know.
pub fn to_head(head: proto::LedgerHead) -> Result<(LedgerName, LedgerHead), PeerFrameError> {
    let lineage = head.lineage.into_iter();
    let lineage = lineage.map(|end| (Epoch(end.epoch), Position(end.position)));
    let name = ledger(head.ledger)?;
    let head = LedgerHead {
        mark: mark(head.mark),
        overrules: Epoch(head.overrules),
        lineage: lineage.collect(),
    };
    Ok((name, head))
}

/// An entry of the log, as it lies in a store.
pub fn encode_entry(entry: &proto::RaftEntry) -> Vec<u8> {
    entry.encode_to_vec()
}

/// Reads an entry back.
///
/// Errors: the bytes are none.
pub fn decode_entry(bytes: &[u8]) -> Result<proto::RaftEntry, prost::DecodeError> {
    proto::RaftEntry::decode(bytes)
}

pub fn encode_voting(voting: &proto::Voting) -> Vec<u8> {
    voting.encode_to_vec()
}

/// `None`: the bytes are none.
pub fn decode_voting(bytes: &[u8]) -> Option<proto::Voting> {
    proto::Voting::decode(bytes).ok()
}

pub fn encode_snapshot(snapshot: &proto::RaftSnapshot) -> Vec<u8> {
    snapshot.encode_to_vec()
}

/// `None`: the bytes are none.
pub fn decode_snapshot(bytes: &[u8]) -> Option<proto::RaftSnapshot> {
    proto::RaftSnapshot::decode(bytes).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use isthmus_replica::Mark;

    use super::*;

    #[test]
    fn decisions_and_heads_round_trip() {
        let write = |ledger, position| DecidedWrite {
            ledger,
            position: Position(position),
            entries: vec![
                (Bytes::from("a"), Some(Bytes::from("1"))),
                (Bytes::from("b"), None),
            ],
        };
        for decision in [
            Decision::default(),
            Decision {
                epoch: Some(Epoch(7 << 32)),
                writes: Vec::new(),
            },
            Decision {
                epoch: None,
                writes: vec![write(LedgerName::Config, 4), write(LedgerName::History, 9)],
            },
        ] {
            let bytes = encode_decision(&decision);
            assert_eq!(decode_decision(&bytes), Ok(decision));
        }
        let head = LedgerHead {
            mark: Mark {
                epoch: Epoch(9),
                position: Position(4),
            },
            overrules: Epoch(2),
            lineage: vec![(Epoch(2), Position(1)), (Epoch(7), Position(3))],
        };
        let name = LedgerName::Config;
        assert_eq!(to_head(from_head(&name, &head)), Ok((name, head)));
    }

    #[test]
    fn a_ledger_of_another_kind_is_named() {
        let message = proto::Decision {
            epoch: 0,
            writes: vec![proto::LedgerWrite {
                ledger: "secrets".to_owned(),
                ..proto::LedgerWrite::default()
            }],
        };
        let error = decode_decision(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains("\"secrets\""), "{error}");
        assert!(decode_decision(&[0xff]).is_err());
    }
}
