//! Wall time as certificates and rustls write it. X.509 counts whole seconds, here from 1970 to the
//! end of 9999 (RFC 5280 section 4.1.2.5); anything outside is moved to the nearest end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

/// 9999-12-31 23:59:59, which RFC 5280 reads as "no well-defined end".
const LAST_SECOND: u64 = 253_402_300_799;

/// Whole seconds since 1970, inside what X.509 can say.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().min(LAST_SECOND))
}

/// The same moment at a certificate's resolution.
pub(crate) fn whole(at: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(at))
}

pub(crate) fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds(at)))
}

/// From the signed seconds of a parsed certificate.
pub(crate) fn from_timestamp(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST_SECOND);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn after(at: SystemTime, lifetime: Duration) -> SystemTime {
    let end = Duration::from_secs(seconds(at)).saturating_add(lifetime);
    whole(
        UNIX_EPOCH
            .checked_add(end)
            .unwrap_or(from_timestamp(i64::MAX)),
    )
}

pub(crate) fn before(at: SystemTime, distance: Duration) -> SystemTime {
    let start = Duration::from_secs(seconds(at)).saturating_sub(distance);
    whole(UNIX_EPOCH + start)
}
