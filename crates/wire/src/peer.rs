//! The messages of `replica`, as they travel on the Replicate stream, and what travels beside them.

use isthmus_model::{ClusterName, NameError, Position};
use isthmus_replica::{
    Batch, Content, Entry, Epoch, LedgerName, LedgerNameError, Mark, Part, PeerMessage,
};

use crate::proto;
use crate::proto::peer_frame::Frame;
use crate::proto::piece::Content as PieceContent;

/// What a frame of another control plane is.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerIncoming {
    Ledger(PeerMessage),
    Question(proto::PeerQuestion),
    Answer(proto::PeerAnswer),
    /// Of the group that accepts config.
    Authority(proto::AuthorityFrame),
}

/// Why a frame is none that this version understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFrameError {
    #[error("it is empty, or of a kind that this version does not know")]
    Unknown,
    #[error("{name:?} is not a ledger: {error}")]
    Ledger {
        name: String,
        error: LedgerNameError,
    },
    #[error("{name:?} is not a cluster: {error}")]
    Cluster { name: String, error: NameError },
}

impl From<PeerMessage> for proto::PeerFrame {
    fn from(message: PeerMessage) -> Self {
        let frame = match message {
            PeerMessage::Hello {
                cluster,
                offers,
                authority,
                at,
            } => Frame::Hello(proto::PeerHello {
                authority: authority.iter().map(ToString::to_string).collect(),
                authority_at: Some(at.into()),
                reset: None, // Whoever sends it knows.
                cluster: cluster.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                features: Vec::new(),
                offers: offers.iter().map(ToString::to_string).collect(),
            }),
            PeerMessage::Follow {
                ledger,
                follow,
                from,
            } => Frame::Follow(proto::Follow {
                ledger: ledger.to_string(),
                follow,
                from: Some(from.into()),
            }),
            PeerMessage::Piece {
                ledger,
                follow,
                number,
                content,
            } => Frame::Piece(proto::Piece {
                ledger: ledger.to_string(),
                follow,
                number,
                content: Some(content.into()),
            }),
            PeerMessage::Ack {
                ledger,
                follow,
                number,
                saved,
            } => Frame::Ack(proto::PieceAck {
                ledger: ledger.to_string(),
                follow,
                number,
                saved: Some(saved.into()),
            }),
            PeerMessage::Heartbeat { sent } => Frame::Heartbeat(proto::Heartbeat { sent }),
            PeerMessage::Echo { sent } => Frame::Echo(proto::Echo { sent }),
        };
        Self { frame: Some(frame) }
    }
}

impl TryFrom<proto::PeerFrame> for PeerIncoming {
    type Error = PeerFrameError;

    fn try_from(frame: proto::PeerFrame) -> Result<Self, PeerFrameError> {
        let message = match frame.frame.ok_or(PeerFrameError::Unknown)? {
            Frame::Hello(hello) => PeerMessage::Hello {
                cluster: cluster(hello.cluster)?,
                // A ledger of a kind that this version does not know is not followed.
                offers: (hello.offers.iter())
                    .filter_map(|name| name.parse().ok())
                    .collect(),
                authority: (hello.authority.into_iter())
                    .map(cluster)
                    .collect::<Result<_, _>>()?,
                at: mark(hello.authority_at),
            },
            Frame::Follow(follow) => PeerMessage::Follow {
                ledger: ledger(follow.ledger)?,
                follow: follow.follow,
                from: mark(follow.from),
            },
            Frame::Piece(piece) => PeerMessage::Piece {
                ledger: ledger(piece.ledger)?,
                follow: piece.follow,
                number: piece.number,
                content: piece.content.ok_or(PeerFrameError::Unknown)?.into(),
            },
            Frame::Ack(ack) => PeerMessage::Ack {
                ledger: ledger(ack.ledger)?,
                follow: ack.follow,
                number: ack.number,
                saved: mark(ack.saved),
            },
            Frame::Heartbeat(heartbeat) => PeerMessage::Heartbeat {
                sent: heartbeat.sent,
            },
            Frame::Echo(echo) => PeerMessage::Echo { sent: echo.sent },
            Frame::Question(question) => return Ok(Self::Question(question)),
            Frame::Answer(answer) => return Ok(Self::Answer(answer)),
            Frame::Authority(frame) => return Ok(Self::Authority(frame)),
        };
        Ok(Self::Ledger(message))
    }
}

impl From<Content> for PieceContent {
    fn from(content: Content) -> Self {
        match content {
            Content::Batch(batch) => Self::Batch(proto::Batch {
                from: Some(batch.from.into()),
                to: Some(batch.to.into()),
                entries: batch.entries.into_iter().map(Into::into).collect(),
                signature: batch.signature,
            }),
            Content::Part(part) => Self::Part(proto::Part {
                at: Some(part.at.into()),
                number: part.number,
                last: part.last,
                entries: part.entries.into_iter().map(Into::into).collect(),
                signature: part.signature,
            }),
        }
    }
}

impl From<PieceContent> for Content {
    fn from(content: PieceContent) -> Self {
        match content {
            PieceContent::Batch(batch) => Self::Batch(Batch {
                from: mark(batch.from),
                to: mark(batch.to),
                entries: batch.entries.into_iter().map(Into::into).collect(),
                signature: batch.signature,
            }),
            PieceContent::Part(part) => Self::Part(Part {
                at: mark(part.at),
                number: part.number,
                last: part.last,
                entries: part.entries.into_iter().map(Into::into).collect(),
                signature: part.signature,
            }),
        }
    }
}

impl From<Entry> for proto::LedgerEntry {
    fn from(entry: Entry) -> Self {
        Self {
            key: entry.key,
            position: entry.changed.0,
            value: entry.value,
        }
    }
}

impl From<proto::LedgerEntry> for Entry {
    fn from(entry: proto::LedgerEntry) -> Self {
        Self {
            key: entry.key,
            changed: Position(entry.position),
            value: entry.value,
        }
    }
}

impl From<Mark> for proto::Mark {
    fn from(mark: Mark) -> Self {
        Self {
            epoch: mark.epoch.0,
            position: mark.position.0,
        }
    }
}

/// A mark that is left out is the first one: before any.
pub(crate) fn mark(mark: Option<proto::Mark>) -> Mark {
    let mark = mark.unwrap_or_default();
    Mark {
        epoch: Epoch(mark.epoch),
        position: Position(mark.position),
    }
}

pub(crate) fn ledger(name: String) -> Result<LedgerName, PeerFrameError> {
    name.parse()
        .map_err(|error| PeerFrameError::Ledger { name, error })
}

fn cluster(name: String) -> Result<ClusterName, PeerFrameError> {
    name.parse()
        .map_err(|error| PeerFrameError::Cluster { name, error })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;

    #[test]
    fn messages_round_trip() {
        let ledger = LedgerName::Facts("us-west".parse().unwrap());
        let mark = |position| Mark {
            epoch: Epoch(u64::MAX),
            position: Position(position),
        };
        let entry = |value: Option<&'static str>| Entry {
            key: Bytes::from("gateway/1"),
            changed: Position(7),
            value: value.map(Bytes::from),
        };
        let piece = |content| PeerMessage::Piece {
            ledger: ledger.clone(),
            follow: 2,
            number: 3,
            content,
        };
        for message in [
            PeerMessage::Hello {
                cluster: "us-west".parse().unwrap(),
                offers: vec![LedgerName::Config, ledger.clone()],
                authority: ["us-west".parse().unwrap()].into(),
                at: mark(3),
            },
            PeerMessage::Follow {
                ledger: ledger.clone(),
                follow: 2,
                from: mark(4),
            },
            piece(Content::Batch(Batch {
                from: mark(4),
                to: mark(7),
                entries: vec![entry(Some("")), entry(None)],
                signature: None,
            })),
            piece(Content::Part(Part {
                at: mark(7),
                number: 1,
                last: true,
                entries: vec![entry(Some("x"))],
                signature: Some(Bytes::from("s")),
            })),
            PeerMessage::Ack {
                ledger: ledger.clone(),
                follow: 2,
                number: 3,
                saved: mark(7),
            },
            PeerMessage::Heartbeat { sent: 5 },
            PeerMessage::Echo { sent: 5 },
        ] {
            let bytes = proto::PeerFrame::from(message.clone()).encode_to_vec();
            let frame = proto::PeerFrame::decode(bytes.as_slice()).unwrap();
            assert_eq!(
                PeerIncoming::try_from(frame),
                Ok(PeerIncoming::Ledger(message))
            );
        }
        let unknown = PeerIncoming::try_from(proto::PeerFrame::default());
        assert_eq!(unknown, Err(PeerFrameError::Unknown));
    }
}
