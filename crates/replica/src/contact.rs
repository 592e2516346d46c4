//! Who was heard when, and how far away it is.

use std::time::{Duration, Instant};

use crate::name::LedgerName;

/// A connection says something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silent for longer, a peer's knowledge is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(3);
/// Silent for longer, a peer is lost and its connection is given up.
pub const LOST_AFTER: Duration = Duration::from_secs(15);

/// A peer that is heard and has saved nothing of what it lacks for so long needs somebody to look at it.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Whether a peer is heard. What it told stays known in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Not since this process started.
    Never,
    Live,
    Stale,
    Lost,
}

impl Contact {
    /// For a peer that was silent for `age`.
    pub fn after(age: Duration) -> Self {
        match age {
            age if age >= LOST_AFTER => Self::Lost,
            age if age >= STALE_AFTER => Self::Stale,
            _ => Self::Live,
        }
    }
}

/// What a peer does not get on with, though it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub ledger: LedgerName,
    /// Changes of it that the peer has not said to have on disk.
    pub changes: u64,
    /// How long it has been so, with no progress.
    pub stuck: Duration,
}

/// Round-trip time to a peer, measured by heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtt {
    /// Mean that forgets, weight 1/8 per sample (RFC 6298 section 2).
    pub smoothed: Duration,
    /// Lowest ever seen.
    pub minimum: Duration,
}

impl Rtt {
    pub(crate) fn measured(before: Option<Self>, sample: Duration) -> Self {
        match before {
            None => Self {
                smoothed: sample,
                minimum: sample,
            },
            Some(before) => Self {
                smoothed: before.smoothed.saturating_mul(7).saturating_add(sample) / 8,
                minimum: before.minimum.min(sample),
            },
        }
    }
}

/// What is known of a peer, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) heard: Option<Instant>,
    pub(crate) rtt: Option<Rtt>,
    /// What was last told about it.
    pub(crate) told: Option<Contact>,
}

impl Peer {
    pub(crate) fn contact(&self, now: Instant) -> (Contact, Option<Duration>) {
        match self.heard {
            None => (Contact::Never, None),
            Some(heard) => {
                let age = now.saturating_duration_since(heard);
                (Contact::after(age), Some(age))
            }
        }
    }

    /// When its contact gets worse if it stays silent.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        let after = match self.told? {
            Contact::Live => STALE_AFTER,
            Contact::Stale => LOST_AFTER,
            Contact::Lost | Contact::Never => return None,
        };
        self.heard.map(|heard| heard + after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtt_follows_and_remembers_the_lowest() {
        let milliseconds = Duration::from_millis;
        let mut rtt = Rtt::measured(None, milliseconds(100));
        for _ in 0..100 {
            rtt = Rtt::measured(Some(rtt), milliseconds(20));
        }
        for _ in 0..100 {
            rtt = Rtt::measured(Some(rtt), milliseconds(60));
        }
        assert!(rtt.smoothed > milliseconds(59) && rtt.smoothed <= milliseconds(60));
        assert_eq!(rtt.minimum, milliseconds(20));
    }
}
