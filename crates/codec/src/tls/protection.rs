//! How records are sealed and opened by one key (RFC 8446 sections 5.2 and 5.3).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use bytes::BytesMut;
use rustls::ConnectionTrafficSecrets;

use super::{Broken, HEADER, OVERHEAD, kind};

/// Bytes that prove a record. The same for all ciphers of TLS 1.3.
pub(super) const TAG: usize = 16;

/// One key, and how often it was used. Invariant: no nonce is used twice, for the count only grows.
struct Protection {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    used: u64,
}

/// Seals what is sent.
pub(super) struct Sealing(Protection);

/// Opens what was received.
pub(super) struct Opening(Protection);

impl Protection {
    fn new(secrets: &ConnectionTrafficSecrets, used: u64) -> Result<Self, Broken> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Broken::KeysUsedUp),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Broken::KeysUsedUp)?;
        let iv = iv.as_ref().try_into().map_err(|_| Broken::KeysUsedUp)?;
        let key = LessSafeKey::new(key);
        Ok(Self { key, iv, used })
    }

    /// Of the next record.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.used.to_be_bytes())
        {
            *byte ^= count;
        }
        // Keys are updated long before.
        self.used = self.used.checked_add(1).expect("fewer records than 2^64");
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Sealing {
    /// `used`: records that the key has sealed already.
    pub(super) fn new(secrets: &ConnectionTrafficSecrets, used: u64) -> Result<Self, Broken> {
        Protection::new(secrets, used).map(Self)
    }

    /// Records that the key has sealed.
    pub(super) fn used(&self) -> u64 {
        self.0.used
    }

    /// Appends a record. `content`: at most [`super::MAX_DATA`].
    pub(super) fn seal(&mut self, kind: u8, content: &[u8], out: &mut BytesMut) {
        let start = out.len();
        out.reserve(OVERHEAD + content.len());
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(content);
        self.seal_from(kind, start, out);
    }

    /// Makes a record of what lies in `out` from `start` on: room for its header, and its content, which is at most
    /// [`super::MAX_DATA`] long.
    pub(super) fn seal_from(&mut self, kind: u8, start: usize, out: &mut BytesMut) {
        out.extend_from_slice(&[kind]);
        let (header, inner) = out[start..].split_at_mut(HEADER);
        let length = u16::try_from(inner.len() + TAG).expect("a record is short");
        let [high, low] = length.to_be_bytes();
        header.copy_from_slice(&[kind::DATA, 3, 3, high, low]);
        let nonce = self.0.nonce();
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), inner);
        out.extend_from_slice(tag.expect("a record is short").as_ref());
    }
}

impl Opening {
    /// `used`: records that the key has opened already.
    pub(super) fn new(secrets: &ConnectionTrafficSecrets, used: u64) -> Result<Self, Broken> {
        Protection::new(secrets, used).map(Self)
    }

    /// Opens `sealed` where it lies: content, its type and padding.
    pub(super) fn open<'r>(
        &mut self,
        header: &[u8],
        sealed: &'r mut [u8],
    ) -> Result<&'r [u8], Broken> {
        let nonce = self.0.nonce();
        let opened = self.0.key.open_in_place(nonce, Aad::from(header), sealed);
        opened.map(|inner| &*inner).map_err(|_| Broken::Forged)
    }
}
