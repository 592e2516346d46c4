//! What each side announces first.

use std::time::Duration;

use bytes::Bytes;

use super::ConnectionError;
use crate::DecodeError;
use crate::typed::{Entries, Need, put_number};

/// Version of the protocol below its ALPN name; higher ones add what lower ones may ignore.
pub const VERSION: u16 = 1;

/// Streams that every side allows, before and whatever its settings say.
pub const LEAST_STREAMS: u32 = 64;

/// Bytes of credit that every stream begins with, before and whatever settings say.
pub const LEAST_STREAM_CREDIT: u32 = 64 * 1024;

/// Bytes of credit that every connection begins with, before and whatever settings say.
pub const LEAST_CONNECTION_CREDIT: u32 = 256 * 1024;

/// How one end behaves. The first half is announced to the peer; numbers below the protocol's
/// minimum ([`LEAST_STREAMS`] and its like) are raised to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bits of features that the peer may use; see [`super::features`].
    pub features: u64,
    /// Workers of this process: how many connections a busy peer may spread over.
    pub workers: u16,
    /// Streams that the peer may have open at a time.
    pub streams: u32,
    /// Bytes that the peer may send on a stream before some are consumed, to begin with.
    pub stream_credit: u32,
    /// Bytes that the peer may send on all streams together before some are consumed, to begin with.
    pub connection_credit: u32,

    /// Bytes of unsent data that one stream holds.
    pub queue: usize,
    /// Silence after which a ping is sent while streams are open.
    pub silence_busy: Duration,
    /// Silence after which a ping is sent while none is.
    pub silence_idle: Duration,
    /// How long the answer to a ping may always take; longer only if four round trips are.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            features: super::features::EXPECT,
            workers: 1,
            streams: 1024,
            // Both grow where that is of use; what a stream begins with, each that nobody reads keeps.
            stream_credit: LEAST_STREAM_CREDIT,
            connection_credit: LEAST_CONNECTION_CREDIT,
            queue: 64 * 1024,
            silence_busy: Duration::from_millis(500),
            silence_idle: Duration::from_secs(10),
            patience: Duration::from_secs(1),
        }
    }
}

/// What the peer has announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    pub version: u16,
    pub features: u64,
    pub workers: u16,
    pub streams: u32,
    pub stream_credit: u32,
    pub connection_credit: u32,
}

mod number {
    pub(super) const VERSION: u64 = 1;
    pub(super) const FEATURES: u64 = 2;
    pub(super) const WORKERS: u64 = 3;
    pub(super) const STREAMS: u64 = 4;
    pub(super) const STREAM_CREDIT: u64 = 5;
    pub(super) const CONNECTION_CREDIT: u64 = 6;
}

impl Settings {
    pub(super) fn at_least_minimum(mut self) -> Self {
        self.streams = self.streams.max(LEAST_STREAMS);
        self.stream_credit = self.stream_credit.max(LEAST_STREAM_CREDIT);
        self.connection_credit = self.connection_credit.max(LEAST_CONNECTION_CREDIT);
        self.queue = self.queue.max(super::MAX_DATA);
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in [
            (number::VERSION, VERSION.into()),
            (number::FEATURES, self.features),
            (number::WORKERS, self.workers.into()),
            (number::STREAMS, self.streams.into()),
            (number::STREAM_CREDIT, self.stream_credit.into()),
            (number::CONNECTION_CREDIT, self.connection_credit.into()),
        ] {
            put_number(&mut out, number, Need::Critical, value);
        }
        out
    }
}

impl PeerSettings {
    /// What may be assumed before the peer has spoken.
    pub(super) fn assumed() -> Self {
        Self {
            version: 0,
            features: 0,
            workers: 1,
            streams: LEAST_STREAMS,
            stream_credit: LEAST_STREAM_CREDIT,
            connection_credit: LEAST_CONNECTION_CREDIT,
        }
    }

    pub(super) fn decode(payload: &Bytes) -> Result<Self, ConnectionError> {
        let peer = Self::read(payload).map_err(ConnectionError::SettingsUndecodable)?;
        for (setting, enough) in [
            ("version", peer.version >= 1),
            ("streams", peer.streams >= LEAST_STREAMS),
            ("stream credit", peer.stream_credit >= LEAST_STREAM_CREDIT),
            (
                "connection credit",
                peer.connection_credit >= LEAST_CONNECTION_CREDIT,
            ),
        ] {
            if !enough {
                return Err(ConnectionError::SettingsTooLow { setting });
            }
        }
        Ok(peer)
    }

    fn read(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut peer = Self::assumed();
        let mut entries = Entries::new(payload, payload);
        while let Some(entry) = entries.take()? {
            match entry.number {
                number::VERSION => peer.version = entry.number("version")?,
                number::FEATURES => peer.features = entry.number("features")?,
                number::WORKERS => peer.workers = entry.number("workers")?,
                number::STREAMS => peer.streams = entry.number("streams")?,
                number::STREAM_CREDIT => peer.stream_credit = entry.number("stream credit")?,
                number::CONNECTION_CREDIT => {
                    peer.connection_credit = entry.number("connection credit")?;
                }
                _ => entry.unknown()?,
            }
        }
        Ok(peer)
    }
}
