//! Join tokens: how something with no identity yet gets its first one.
//!
//! A token is made by an operator, carried to the workload by hand, and used once. It tells the
//! newcomer where a control plane is and how to know it (the root's fingerprint); the control plane
//! keeps only a hash of the secret, and what the token is good for. Whether it has expired or been
//! used, only the control plane knows.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_model::{AccountName, ClusterName, Namespace, ServiceName};
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::sha256;
use crate::{KeyHash, RootFingerprint};

/// What a token's text begins with; the version is part of it.
const PREFIX: &str = "isthmus-join-v1.";
const FAMILY: &str = "isthmus-join-";
/// Bytes of SHA-256 at the end, against damage by copying; not a protection.
const CHECKSUM: usize = 4;
/// Most addresses that a token carries.
const ADDRESS_LIMIT: usize = 16;

/// What a newcomer is given.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    root: RootFingerprint,
    control: Vec<SocketAddr>,
    id: TokenId,
    secret: TokenSecret,
}

/// Names a token in lists and logs; not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 8]);

/// 256 bits from a cryptographic random generator. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    #[error("it is not a join token: one begins with {PREFIX}")]
    NotToken,
    #[error(
        "it is a join token of version {found}, this program knows v1: \
         use a program as new as the control plane that made it"
    )]
    Version { found: String },
    #[error("the join token is damaged: copy it again, whole and without line breaks")]
    Damaged,
    #[error("a join token carries one to {ADDRESS_LIMIT} control plane addresses, not {found}")]
    Addresses { found: usize },
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    pub cluster: ClusterName,
    pub namespace: Namespace,
    pub account: AccountName,
    /// The service that the workload may register for; `None`: it registers for none.
    pub service: Option<ServiceName>,
}

/// What the control plane keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    /// SHA-256 of the secret; the secret itself is not kept.
    pub secret_hash: [u8; 32],
    pub grant: TokenGrant,
    pub expires: SystemTime,
    /// The key that it was used for, once it was.
    pub used: Option<KeyHash>,
}

/// What using a token would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// The record must be stored as used before the certificate leaves.
    First,
    /// The same key again: the first reply was lost.
    Again,
}

/// Why a token does not admit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the join token's secret is wrong")]
    WrongSecret,
    #[error("the join token has expired: make a new one")]
    Expired,
    #[error("the join token has been used by another key: make a new one, and find out who did")]
    Used,
}

impl JoinToken {
    /// `secret` comes from a cryptographic random generator of the caller's.
    ///
    /// Errors: no address, or too many.
    pub fn new(
        root: RootFingerprint,
        control: Vec<SocketAddr>,
        id: TokenId,
        secret: TokenSecret,
    ) -> Result<Self, JoinTokenError> {
        let found = control.len();
        if found == 0 || found > ADDRESS_LIMIT {
            return Err(JoinTokenError::Addresses { found });
        }
        Ok(Self {
            root,
            control,
            id,
            secret,
        })
    }

    /// Errors: not a token, one of another version, or one that was not copied whole.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(other_prefix(text));
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map(Zeroizing::new)
            .map_err(|_| JoinTokenError::Damaged)?;
        let (content, checksum) = bytes
            .split_last_chunk::<CHECKSUM>()
            .ok_or(JoinTokenError::Damaged)?;
        if sha256(content)[..CHECKSUM] != checksum[..] {
            return Err(JoinTokenError::Damaged);
        }
        read(content).ok_or(JoinTokenError::Damaged)?
    }

    /// The token's text: all of it is secret. Wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::new());
        bytes.extend_from_slice(&self.root.0);
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.secret.0);
        for address in &self.control {
            let address = address.to_string();
            bytes.push(u8::try_from(address.len()).expect("a socket address has under 64 letters"));
            bytes.extend_from_slice(address.as_bytes());
        }
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum[..CHECKSUM]);
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        Zeroizing::new(format!("{PREFIX}{}", *body))
    }

    /// By what the newcomer knows the mesh.
    pub fn root(&self) -> RootFingerprint {
        self.root
    }

    /// Where control planes are reached, to be tried in order; at least one.
    pub fn control(&self) -> &[SocketAddr] {
        &self.control
    }

    pub fn id(&self) -> TokenId {
        self.id
    }

    pub fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// What the control plane keeps of this token.
    pub fn record(&self, grant: TokenGrant, expires: SystemTime) -> TokenRecord {
        TokenRecord {
            id: self.id,
            secret_hash: sha256(&self.secret.0),
            grant,
            expires,
            used: None,
        }
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        Self::parse(text)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl TokenRecord {
    /// Would `secret`, presented with `key` at `now`, be admitted? Looks at the secret first, in
    /// constant time: who does not know it learns nothing about the token. A used token still
    /// admits the same key until it expires, so that a lost reply locks nobody out.
    pub fn check(
        &self,
        secret: &TokenSecret,
        key: KeyHash,
        now: SystemTime,
    ) -> Result<TokenUse, TokenError> {
        verify_slices_are_equal(&sha256(&secret.0), &self.secret_hash)
            .map_err(|_| TokenError::WrongSecret)?;
        if now >= self.expires {
            return Err(TokenError::Expired);
        }
        match self.used {
            None => Ok(TokenUse::First),
            Some(first) if first == key => Ok(TokenUse::Again),
            Some(_) => Err(TokenError::Used),
        }
    }

    /// [`check`](Self::check), and on the first use remember the key.
    pub fn redeem(
        &mut self,
        secret: &TokenSecret,
        key: KeyHash,
        now: SystemTime,
    ) -> Result<TokenUse, TokenError> {
        let used = self.check(secret, key, now)?;
        self.used = Some(key);
        Ok(used)
    }
}

impl TokenSecret {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the wire, to the pinned control plane only.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenSecret {}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

impl fmt::Display for TokenId {
    /// 16 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn other_prefix(text: &str) -> JoinTokenError {
    match text
        .strip_prefix(FAMILY)
        .and_then(|rest| rest.split_once('.'))
    {
        Some((version, _)) => JoinTokenError::Version {
            found: version.chars().take(16).collect(),
        },
        None => JoinTokenError::NotToken,
    }
}

/// `None` where a field is cut short or unreadable.
fn read(content: &[u8]) -> Option<Result<JoinToken, JoinTokenError>> {
    let (root, rest) = content.split_first_chunk::<32>()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let (secret, mut rest) = rest.split_first_chunk::<32>()?;
    let mut control = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (address, tail) = tail.split_at_checked(usize::from(*length))?;
        control.push(std::str::from_utf8(address).ok()?.parse().ok()?);
        rest = tail;
    }
    Some(JoinToken::new(
        RootFingerprint(*root),
        control,
        TokenId(*id),
        TokenSecret(*secret),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn token(addresses: &[&str]) -> JoinToken {
        let control = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let root = RootFingerprint([1; 32]);
        JoinToken::new(root, control, TokenId([2; 8]), TokenSecret([3; 32])).unwrap()
    }

    fn record(token: &JoinToken) -> TokenRecord {
        let grant = TokenGrant {
            cluster: ClusterName::new("us-west").unwrap(),
            namespace: Namespace::new("shop").unwrap(),
            account: AccountName::new("cart").unwrap(),
            service: Some(ServiceName::new("shop", "cart").unwrap()),
        };
        token.record(grant, UNIX_EPOCH + Duration::from_secs(100))
    }

    #[test]
    fn text_round_trips_and_tells_what_is_wrong() {
        let token = token(&["127.0.1.1:15012", "[fd00::1]:15012"]);
        let text = token.to_text();
        assert_eq!(JoinToken::parse(&text), Ok(token.clone()));
        assert_eq!(
            JoinToken::parse(&format!(" {}\n", *text)),
            Ok(token.clone())
        );
        assert_eq!(format!("{token:?}"), "JoinToken(0202020202020202)");
        assert_eq!(format!("{:?}", token.secret()), "TokenSecret");
        for (bad, expected) in [
            ("", JoinTokenError::NotToken),
            ("isthmus", JoinTokenError::NotToken),
            (
                "isthmus-join-v2.abc",
                JoinTokenError::Version {
                    found: "v2".to_owned(),
                },
            ),
            (&text[..text.len() - 1], JoinTokenError::Damaged),
            (PREFIX, JoinTokenError::Damaged),
            (&text.replace("v1.A", "v1.B"), JoinTokenError::Damaged),
        ] {
            assert_eq!(JoinToken::parse(bad), Err(expected), "{bad}");
        }
        assert_eq!(
            JoinToken::new(token.root(), vec![], token.id(), token.secret().clone()),
            Err(JoinTokenError::Addresses { found: 0 })
        );
    }

    #[test]
    fn one_key_once_and_again_until_it_expires() {
        let token = token(&["127.0.1.1:15012"]);
        let mut record = record(&token);
        let (mine, other) = (KeyHash([1; 32]), KeyHash([2; 32]));
        let (early, late) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(100));
        let wrong = TokenSecret([4; 32]);
        assert_eq!(
            record.redeem(&wrong, mine, early),
            Err(TokenError::WrongSecret)
        );
        assert_eq!(
            record.redeem(&wrong, mine, late),
            Err(TokenError::WrongSecret)
        );
        assert_eq!(
            record.redeem(token.secret(), mine, late),
            Err(TokenError::Expired)
        );
        assert_eq!(record.used, None, "a refusal uses nothing up");
        assert_eq!(
            record.redeem(token.secret(), mine, early),
            Ok(TokenUse::First)
        );
        assert_eq!(
            record.redeem(token.secret(), mine, early),
            Ok(TokenUse::Again)
        );
        assert_eq!(
            record.redeem(token.secret(), other, early),
            Err(TokenError::Used)
        );
        assert_eq!(
            record.redeem(token.secret(), mine, early),
            Ok(TokenUse::Again)
        );
        assert_eq!(
            record.redeem(token.secret(), mine, late),
            Err(TokenError::Expired)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn garbage_is_refused_without_a_panic(text in "(isthmus-join-v1\\.)?[A-Za-z0-9_-]{0,200}") {
            prop_assert!(JoinToken::parse(&text).is_err());
        }

        #[test]
        fn content_with_a_right_checksum_never_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..150),
        ) {
            let checksum = sha256(&bytes);
            bytes.extend_from_slice(&checksum[..CHECKSUM]);
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
            if let Ok(token) = JoinToken::parse(&text) {
                prop_assert_eq!(JoinToken::parse(&token.to_text()), Ok(token));
            }
        }
    }
}
