//! What is said: every request has an id, and every answer is known from it.

use bytes::Bytes;

/// Shortest and longest body.
const SHORTEST: u64 = 32;
const LONGEST: u64 = 4096;

/// The one right body of a request with this id, of a length of its own.
pub(crate) fn body(id: &str) -> Bytes {
    let length = SHORTEST + digest(id) % (LONGEST - SHORTEST);
    let length = usize::try_from(length).unwrap_or_default();
    let bytes = id.bytes().chain(*b".").cycle().take(length);
    bytes.collect::<Vec<u8>>().into()
}

/// FNV-1a: any spread will do, as long as program and client agree.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A message of gRPC: not compressed, its length, its bytes.
pub fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

/// The first whole message of what has arrived, and how many bytes it took.
pub fn unframe(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    Some((rest.get(..length)?, 5 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_of_one_id_alone() {
        let (one, other) = (body("post-1"), body("post-2"));
        assert_eq!(one, body("post-1"));
        assert_ne!(one, other);
        assert!(one.starts_with(b"post-1.post-1."));
        assert!((32..4096).contains(&one.len()), "{}", one.len());
    }

    #[test]
    fn messages_are_framed_and_found_again() {
        let two = [frame(b"ab"), frame(b"")].concat();
        assert_eq!(unframe(&two), Some((&b"ab"[..], 7)));
        assert_eq!(unframe(&two[7..]), Some((&b""[..], 5)));
        for cut in 0..7 {
            assert_eq!(unframe(&two[..cut]), None, "{cut}");
        }
    }
}
