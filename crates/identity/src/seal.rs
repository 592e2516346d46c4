//! Sealing: what a proxy stores is readable only with its node key, and only as what it was stored
//! as. Protects against damage, copying and mixing up; not against whoever holds the key.
//!
//! Form: one version byte, a 96-bit random nonce, AES-256-GCM ciphertext and tag (NIST SP 800-38D).
//! The version and the caller's context are authenticated with it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// The version that is written. Whatever changes the form changes this.
const VERSION: u8 = 1;

/// Sealing failed: the library or its random generator refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library could not seal")]
pub struct SealError;

/// Why sealed bytes do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "it is sealed in format {found}, this program reads format {VERSION}: \
         run the program that wrote it, or remove the file to start without it"
    )]
    WrongVersion { found: u8 },
    #[error("it is damaged, or sealed under another key or for another purpose")]
    Damaged,
}

/// Seals `plaintext` under `key`, bound to `context` (such as mesh, identity and position): it opens
/// only with the same context.
pub fn seal(key: &[u8; 32], context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
    let mut body = plaintext.to_vec();
    let nonce = cipher
        .seal_in_place_append_tag(bound(context), &mut body)
        .map_err(|_| SealError)?;
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(nonce.as_ref());
    sealed.append(&mut body);
    Ok(sealed)
}

/// What [`seal`] was given, if key and context are the same and no bit has changed.
pub fn open(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (version, rest) = sealed.split_first().ok_or(OpenError::Damaged)?;
    if *version != VERSION {
        return Err(OpenError::WrongVersion { found: *version });
    }
    let (nonce, body) = rest
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(OpenError::Damaged)?;
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| OpenError::Damaged)?;
    let mut body = body.to_vec();
    let length = cipher
        .open_in_place(Nonce::from(nonce), bound(context), &mut body)
        .map_err(|_| OpenError::Damaged)?
        .len();
    body.truncate(length);
    Ok(body)
}

fn bound(context: &[u8]) -> Aad<Vec<u8>> {
    let mut bound = Vec::with_capacity(1 + context.len());
    bound.push(VERSION);
    bound.extend_from_slice(context);
    Aad::from(bound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn opens_only_as_what_it_was_sealed() {
        let sealed = seal(&KEY, b"mesh/shop 17", b"the view").unwrap();
        assert_eq!(open(&KEY, b"mesh/shop 17", &sealed).unwrap(), b"the view");
        let again = seal(&KEY, b"mesh/shop 17", b"the view").unwrap();
        assert_ne!(sealed, again, "nonces are fresh");
        assert_eq!(
            open(&KEY, b"mesh/shop 18", &sealed),
            Err(OpenError::Damaged)
        );
        assert_eq!(
            open(&[8; 32], b"mesh/shop 17", &sealed),
            Err(OpenError::Damaged)
        );
        for cut in [0, 1, 12, 13, sealed.len() - 1] {
            let cut = &sealed[..cut];
            assert_eq!(open(&KEY, b"mesh/shop 17", cut), Err(OpenError::Damaged));
        }
        let mut newer = sealed.clone();
        newer[0] = 2;
        let refused = open(&KEY, b"mesh/shop 17", &newer).unwrap_err();
        assert_eq!(refused, OpenError::WrongVersion { found: 2 });
        assert!(refused.to_string().contains("remove the file"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_changed_bit_is_noticed(
            plaintext in proptest::collection::vec(any::<u8>(), 0..200),
            place in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut sealed = seal(&KEY, b"c", &plaintext).unwrap();
            prop_assert_eq!(open(&KEY, b"c", &sealed).unwrap(), plaintext);
            let place = place.index(sealed.len());
            sealed[place] ^= 1_u8 << bit;
            prop_assert!(open(&KEY, b"c", &sealed).is_err());
        }

        #[test]
        fn garbage_never_opens(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(open(&KEY, b"c", &bytes).is_err());
        }
    }
}
