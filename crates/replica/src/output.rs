//! What a replica asks of its driver.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_model::{ClusterName, Position};
use isthmus_world::Batch as StoreBatch;

use crate::contact::Contact;
use crate::ledger::SavedTo;
use crate::message::PeerMessage;
use crate::name::{LedgerName, Mark};
use crate::session::SessionId;

/// What the driver does or learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send {
        session: SessionId,
        message: PeerMessage,
    },
    /// Close the connection. It is forgotten here already.
    Close {
        session: SessionId,
        reason: CloseReason,
    },
    /// These keys of a ledger or copy have new values, or none.
    Touched {
        ledger: LedgerName,
        keys: Vec<Bytes>,
    },
    /// A peer has this much of our ledger safe on disk.
    SavedBy {
        peer: ClusterName,
        ledger: LedgerName,
        mark: Mark,
    },
    /// A follower knows something of our ledger that we do not: we were restored from a backup.
    /// What this cluster alone decides is what we say it is, so a new epoch was begun. Of config and of facts nothing
    /// is sent to that follower until somebody decides: see `Replica::overrule`.
    Outlived {
        ledger: LedgerName,
        peer: ClusterName,
        seen: Mark,
        ours: Mark,
    },
    /// These clusters write the shared ledgers, says one that was believed to and knows more: see
    /// `Replica::set_authority`.
    Authority {
        clusters: BTreeSet<ClusterName>,
        at: Mark,
    },
    /// A peer is heard again, or not.
    Contact { peer: ClusterName, contact: Contact },
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("nothing was heard for 15 s")]
    Silent,
    #[error("a newer connection with the same cluster took its place")]
    Superseded,
    #[error("the peer says that it is another cluster than its certificate says")]
    WrongCluster,
    #[error("the peer sent something before its hello")]
    NoHello,
    #[error("the peer sent a piece of a ledger that contradicts itself")]
    Malformed,
}

/// What must be saved, in one commit.
#[derive(Debug)]
#[must_use = "nothing is shown before it is saved"]
pub struct Unsaved {
    /// Empty when only ledgers that are never saved have changed: no commit is needed.
    pub batch: StoreBatch,
    pub(crate) ledgers: Vec<(LedgerName, SavedTo)>,
    pub(crate) copies: Vec<(LedgerName, Mark)>,
}

/// An accepted write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "its outputs must be performed"]
pub struct Written {
    /// Where it stands when it is saved.
    pub position: Position,
    /// Only for ledgers that are never saved: they show it at once.
    pub outputs: Vec<Output>,
}
