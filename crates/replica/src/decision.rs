//! What a group of clusters decides of the ledgers that it writes together.
//!
//! How the group comes to agree is not known here: decisions come in one order, the same everywhere.

use bytes::Bytes;
use isthmus_model::Position;

use crate::name::{Epoch, LedgerName, Mark};

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// The shared ledgers enter this epoch.
    pub epoch: Option<Epoch>,
    /// All of them, at once.
    pub writes: Vec<DecidedWrite>,
}

/// What changes in one ledger, and where it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedWrite {
    pub ledger: LedgerName,
    pub position: Position,
    /// Each key once; `None` deletes.
    pub entries: Vec<(Bytes, Option<Bytes>)>,
}

/// Where a shared ledger stands, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerHead {
    pub mark: Mark,
    /// What others know from epochs below this, and the ledger does not, is void.
    pub overrules: Epoch,
    /// Earlier epochs and where each ended, oldest first.
    pub lineage: Vec<(Epoch, Position)>,
}

/// A decision that does not follow what was decided before: a store that lost something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger {ledger} stands at {agreed}, and the next decision is of {found}")]
pub struct OutOfOrder {
    pub ledger: LedgerName,
    pub agreed: Position,
    pub found: Position,
}
