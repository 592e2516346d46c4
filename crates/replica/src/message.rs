//! What control planes say to each other. A connection carries these in order, both ways.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_model::{ClusterName, Position};

use crate::name::{LedgerName, Mark};

/// Counts no follow: follows are counted from 1. An older version sends a few pieces, which nobody takes.
pub(crate) const NO_FOLLOW: u64 = 0;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerMessage {
    /// The first on a connection, from both sides.
    Hello {
        cluster: ClusterName,
        offers: Vec<LedgerName>,
        /// Who writes the shared ledgers, as the sender knows it, and where it stands with that.
        authority: BTreeSet<ClusterName>,
        at: Mark,
    },
    /// Send me what came after `from`, and go on. Replaces the sender's earlier follow of the
    /// ledger; `follow` tells the two apart in what is still on its way. `NO_FOLLOW`: send me no more of it.
    Follow {
        ledger: LedgerName,
        follow: u64,
        from: Mark,
    },
    /// A piece of a ledger; `number` counts the pieces of one follow from 1.
    Piece {
        ledger: LedgerName,
        follow: u64,
        number: u64,
        content: Content,
    },
    /// Pieces up to `number` were handled; the copy is safe on disk up to `saved`.
    Ack {
        ledger: LedgerName,
        follow: u64,
        number: u64,
        saved: Mark,
    },
    /// I am here; `sent` means something to its sender only.
    Heartbeat { sent: u64 },
    /// The answer to a heartbeat, at once.
    Echo { sent: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Batch(Batch),
    Part(Part),
}

/// What changed between two marks: applied to a copy at `from`, it gives one at `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub from: Mark,
    pub to: Mark,
    /// The last change of each key that changed, in order of their positions.
    pub entries: Vec<Entry>,
    /// The owner's signature. Reserved: nothing sets or checks it yet.
    pub signature: Option<Bytes>,
}

/// A part of a whole ledger as it was at one mark. Together the parts are complete: a key in none
/// of them is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub at: Mark,
    /// From 0.
    pub number: u64,
    pub last: bool,
    pub entries: Vec<Entry>,
    /// As in `Batch`.
    pub signature: Option<Bytes>,
}

/// The last change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    /// Where it changed.
    pub changed: Position,
    /// `None`: deleted there. Never so in a part.
    pub value: Option<Bytes>,
}

impl Entry {
    /// Bytes that it takes in a message, about.
    pub(crate) fn size(&self) -> usize {
        const FRAME: usize = 16;
        let value = self.value.as_ref().map_or(0, Bytes::len);
        self.key.len().saturating_add(value).saturating_add(FRAME)
    }
}
