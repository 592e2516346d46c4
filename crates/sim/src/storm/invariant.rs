//! What holds in every storm.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Every change of config has one position, the same wherever it is known.
    OneHistory,
    /// At most one cluster leads in a term.
    OneLeader,
    /// What a cluster shows of config is never older than what it showed before.
    NeverOlder,
    /// Whoever was told that a write is accepted sees it there.
    ReadsOwnWrites,
    /// A write is made once, and answered as what it is.
    Once,
    /// A write that depends on what was read overwrites nothing else.
    NoLostUpdate,
    /// What was accepted is there in the end, or something newer.
    NothingLost,
    /// Lost contact empties nothing.
    NeverEmpty,
    /// In the end every cluster knows of each what that one's own proxies said.
    OneWriter,
    /// In the end all clusters have the same config.
    Agreement,
    /// Nobody whose disk keeps what it acknowledges loses its vote.
    KeepsVote,
    /// In the end those vote who are meant to, and one of them leads.
    Voters,
    /// A mesh in which all is well accepts what it is asked.
    Accepts,
    /// No control plane stops by itself.
    Alive,
}

impl fmt::Display for Invariant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::OneHistory => "a change has one position everywhere",
            Self::OneLeader => "one cluster leads in a term",
            Self::NeverOlder => "older never replaces newer",
            Self::ReadsOwnWrites => "what a cluster accepted it shows",
            Self::Once => "a write is made once",
            Self::NoLostUpdate => "a conditional write overwrites nothing unseen",
            Self::NothingLost => "nothing accepted is lost",
            Self::NeverEmpty => "lost contact empties nothing",
            Self::OneWriter => "facts are what their cluster says",
            Self::Agreement => "all agree in the end",
            Self::KeepsVote => "a sound voter keeps its vote",
            Self::Voters => "those vote who are meant to",
            Self::Accepts => "a sound mesh accepts writes",
            Self::Alive => "no control plane stops by itself",
        })
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub invariant: Invariant,
    /// What was seen instead.
    pub what: String,
}

impl Broken {
    pub(super) fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.invariant, self.what)
    }
}
