//! Credit: how much a peer may still send.

/// The receiving side of a credit, of a stream or of a connection; in bytes of data.
///
/// Invariant: `available` never exceeds what the peer was told, so a peer that never reads our
/// frames can never send more than was promised to it.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    size: u64,
    available: u64,
    /// Consumed, and not yet given back to the peer.
    owed: u64,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size: size.into(),
            available: size.into(),
            owed: 0,
        }
    }

    pub(super) fn available(&self) -> u64 {
        self.available
    }

    /// Takes `count` bytes in; false when the peer may not send so much.
    pub(super) fn take(&mut self, count: u64) -> bool {
        match self.available.checked_sub(count) {
            Some(left) => {
                self.available = left;
                true
            }
            None => false,
        }
    }

    /// `count` bytes of those taken in have left our memory.
    pub(super) fn release(&mut self, count: u64) {
        self.owed = self.owed.saturating_add(count);
    }

    /// Is so much owed that telling the peer is worth a frame?
    pub(super) fn is_due(&self) -> bool {
        self.owed > 0 && self.owed >= self.size / 4
    }

    /// What to grant the peer now. Growth by the measured bandwidth-delay product belongs here,
    /// and only here: a larger `size` is granted as `owed` plus the difference.
    pub(super) fn grant(&mut self) -> u32 {
        let granted = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(granted);
        self.available += u64::from(granted);
        granted
    }
}
