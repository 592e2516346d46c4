//! Headers of the PROXY protocol: what is read of one does not depend on how it comes in or on what
//! comes behind it.

use isthmus_codec::proxy_protocol::{BadHeader, MAX_HEADER, Progress, decode};

use crate::word;

/// What a load balancer says first.
pub(crate) fn header(data: &[u8]) -> String {
    let whole = decode(data);
    match as_asked_for(data) {
        Ok(Some(length)) => {
            let Ok(Progress::Whole(found)) = whole else {
                panic!("{whole:?} of what was read as a header");
            };
            assert_eq!(found.length, length, "nothing behind it was asked for");
            assert!(length <= MAX_HEADER);
            let kind = match found.addresses {
                Some(found) if found.source.is_ipv4() => "ipv4",
                Some(_) => "ipv6",
                None => "none",
            };
            let version = if data.starts_with(b"P") { 1 } else { 2 };
            format!("version-{version}-{kind}")
        }
        // It may be known to be wrong before all of it is there that was asked for.
        Ok(None) => match whole {
            Ok(Progress::Whole(_)) => panic!("{whole:?} before it is there"),
            Ok(Progress::More(_)) => "truncated".to_owned(),
            Err(error) => word(&error),
        },
        Err(error) => {
            assert!(whole.is_err(), "{whole:?} although {error}");
            word(&error)
        }
    }
}

/// Reads as much as is asked for, and no more. `None`: there is not so much.
fn as_asked_for(data: &[u8]) -> Result<Option<usize>, BadHeader> {
    let mut read = 0;
    loop {
        match decode(&data[..read])? {
            Progress::More(0) => panic!("more, and nothing"),
            Progress::More(count) if read + count > data.len() => return Ok(None),
            Progress::More(count) => read += count,
            Progress::Whole(found) => return Ok(Some(found.length)),
        }
    }
}
