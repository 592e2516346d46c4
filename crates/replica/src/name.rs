//! Which ledger, and which place in it.

use std::fmt;
use std::str::FromStr;

use isthmus_model::{ClusterName, NameError, Position};

/// A ledger. Written `config`, `history`, `authority`, `facts/<cluster>` and `fast-facts/<cluster>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LedgerName {
    /// What people decided. Written by the authority.
    Config,
    /// Who changed config, when, and how it was before: the newest changes. Written by the authority.
    History,
    /// Who writes the shared ledgers, this one included.
    Authority,
    /// What people decided for one cluster alone. Written by that cluster.
    ClusterConfig(ClusterName),
    /// As `History`, of that.
    ClusterHistory(ClusterName),
    /// What a cluster knows of itself: workloads, gateways, status.
    Facts(ClusterName),
    /// What a cluster measures of itself all the time. Never saved: it is measured again.
    FastFacts(ClusterName),
}

impl LedgerName {
    /// What the authority's clusters write together.
    pub const SHARED: [Self; 3] = [Self::Config, Self::History, Self::Authority];

    /// The only cluster that writes it; `None`: the authority's clusters do, together.
    pub fn owner(&self) -> Option<&ClusterName> {
        match self {
            Self::Config | Self::History | Self::Authority => None,
            Self::ClusterConfig(cluster) | Self::ClusterHistory(cluster) => Some(cluster),
            Self::Facts(cluster) | Self::FastFacts(cluster) => Some(cluster),
        }
    }

    /// All that `cluster` alone writes.
    pub fn owned_by(cluster: &ClusterName) -> [Self; 4] {
        [
            Self::ClusterConfig(cluster.clone()),
            Self::ClusterHistory(cluster.clone()),
            Self::Facts(cluster.clone()),
            Self::FastFacts(cluster.clone()),
        ]
    }

    /// Whether it must survive a restart.
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::FastFacts(_))
    }
}

impl fmt::Display for LedgerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::History => f.write_str("history"),
            Self::Authority => f.write_str("authority"),
            Self::ClusterConfig(cluster) => write!(f, "config/{cluster}"),
            Self::ClusterHistory(cluster) => write!(f, "history/{cluster}"),
            Self::Facts(cluster) => write!(f, "facts/{cluster}"),
            Self::FastFacts(cluster) => write!(f, "fast-facts/{cluster}"),
        }
    }
}

/// Why a string names no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerNameError {
    #[error(
        "it is neither authority nor config or history, of all or of a cluster, nor facts/<cluster> nor fast-facts/<cluster>"
    )]
    Kind,
    #[error("its cluster is not a name: {0}")]
    Cluster(#[from] NameError),
}

impl FromStr for LedgerName {
    type Err = LedgerNameError;

    fn from_str(text: &str) -> Result<Self, LedgerNameError> {
        match text.split_once('/') {
            None if text == "config" => Ok(Self::Config),
            None if text == "history" => Ok(Self::History),
            None if text == "authority" => Ok(Self::Authority),
            Some(("config", cluster)) => Ok(Self::ClusterConfig(ClusterName::new(cluster)?)),
            Some(("history", cluster)) => Ok(Self::ClusterHistory(ClusterName::new(cluster)?)),
            Some(("facts", cluster)) => Ok(Self::Facts(ClusterName::new(cluster)?)),
            Some(("fast-facts", cluster)) => Ok(Self::FastFacts(ClusterName::new(cluster)?)),
            _ => Err(LedgerNameError::Kind),
        }
    }
}

/// One life of a ledger's owner. A later life has a higher epoch; two lives never share one: the
/// upper half counts, the lower half is drawn, since an owner that was restored from a backup
/// counts again from what the backup says. 0 is before any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// An epoch above `seen`; `draw` is 64 random bits. `None` when there is none left.
    pub fn above(seen: Self, draw: u64) -> Option<Self> {
        let count = (seen.0 >> 32).checked_add(1)?;
        let count = u32::try_from(count).ok()?;
        Some(Self(u64::from(count) << 32 | draw & 0xffff_ffff))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A place in a ledger's history: the higher mark is the newer state, across epochs too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mark {
    pub epoch: Epoch,
    pub position: Position,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "config",
            "history",
            "authority",
            "facts/us-west",
            "fast-facts/us-west",
        ] {
            assert_eq!(
                text.parse::<LedgerName>().map(|name| name.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "Config", "config/", "facts", "facts/", "facts/a/b"] {
            assert!(text.parse::<LedgerName>().is_err(), "{text}");
        }
    }

    #[test]
    fn epochs_rise_and_end() {
        let seen = Epoch(7 << 32 | 0xffff_ffff);
        let next = Epoch::above(seen, 0).unwrap();
        assert!(next > seen);
        assert_ne!(Epoch::above(seen, 1), Epoch::above(seen, 2));
        assert_eq!(Epoch::above(Epoch(u64::MAX), 1), None);
    }
}
