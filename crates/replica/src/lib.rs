//! Replication between control planes.
//!
//! There is one thing to replicate: the **ledger**, keyed entries in one order. Each cluster alone
//! writes the ledgers of its own facts and of its own config; the clusters of the authority write config and its history
//! together, in the order that they agree upon; all others hold copies.
//!
//! - Nothing is shown to anyone before it is saved, so an owner that dies never takes back what
//!   others have seen.
//! - A copy only moves forward. It survives restarts and the loss of its owner; it resumes where it
//!   stopped, and a checkpoint replaces it at once or not at all.
//! - A ledger is taken from its owner only, a shared one from any of those who write it.
//! - An owner that was restored from a backup learns from its followers that it lived longer than
//!   it knows, and begins a new epoch above the one they saw.
//!
//! Everything here is a machine: messages, ticks and saved batches in, messages out. Values are
//! bytes that are never looked into; connections, disks and encodings of messages belong to others.

mod contact;
mod decision;
mod follower;
mod ledger;
mod message;
mod name;
mod output;
mod record;
mod replica;
mod session;

pub use contact::{Behind, Contact, HEARTBEAT, LOST_AFTER, Rtt, STALE_AFTER, STUCK_AFTER};
pub use decision::{DecidedWrite, Decision, LedgerHead, OutOfOrder};
pub use follower::{Follower, Skipped};
pub use ledger::{Change, Expect, Ledger, MAX_TOMBSTONES, MAX_WRITE_BYTES, WriteError};
pub use message::{Batch, Content, Entry, Part, PeerMessage};
pub use name::{Epoch, LedgerName, LedgerNameError, Mark};
pub use output::{CloseReason, Output, Unsaved, Written};
pub use record::LoadError;
pub use replica::Replica;
pub use session::{MESSAGE_BYTES, SessionId, WINDOW};
