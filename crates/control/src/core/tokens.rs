//! Join tokens that this cluster has given out, and whether they were used.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use isthmus_identity::{
    KeyHash, TokenError, TokenGrant, TokenId, TokenRecord, TokenSecret, TokenUse,
};
use isthmus_world::{Batch, Store, Table};
use serde::{Deserialize, Serialize};

use crate::open_error::OpenError;
use crate::time::{from_unix_millis, unix_millis};

const TABLE: Table = Table::new("tokens");
/// The first byte of every record.
const FORMAT: u8 = 1;
/// How long an expired token is remembered, so that its user is told that it has expired.
const REMEMBER: Duration = Duration::from_hours(24);

/// All tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<TokenId, TokenRecord>);

/// Why a token does not admit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this cluster gave out no such join token")]
    Unknown,
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A token as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    secret_hash: [u8; 32],
    cluster: String,
    namespace: String,
    account: String,
    service: Option<String>,
    /// Milliseconds since 1970.
    expires: u64,
    used: Option<[u8; 32]>,
}

impl Tokens {
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(super) fn load(store: &impl Store) -> Result<Self, OpenError> {
        let mut tokens = BTreeMap::new();
        for (key, record) in store.scan_prefix(TABLE, b"")? {
            let damaged = || OpenError::damaged(TABLE);
            let id = TokenId(key.try_into().map_err(|_| damaged())?);
            let json = OpenError::check_format(TABLE, FORMAT, &record)?;
            let record: Record = serde_json::from_slice(json).map_err(|_| damaged())?;
            tokens.insert(id, read(id, record).ok_or_else(damaged)?);
        }
        Ok(Self(tokens))
    }

    pub(super) fn add(&mut self, record: TokenRecord, batch: &mut Batch) {
        put(&record, batch);
        self.0.insert(record.id, record);
    }

    /// Uses the token for the key. What was put into `batch` must be safe before a certificate
    /// leaves.
    pub(super) fn redeem(
        &mut self,
        id: TokenId,
        secret: &TokenSecret,
        key: KeyHash,
        now: SystemTime,
        batch: &mut Batch,
    ) -> Result<TokenGrant, Refused> {
        let record = self.0.get_mut(&id).ok_or(Refused::Unknown)?;
        if record.redeem(secret, key, now)? == TokenUse::First {
            put(record, batch);
        }
        Ok(record.grant.clone())
    }

    /// It admits nobody any more.
    pub(super) fn withdraw(&mut self, id: TokenId, batch: &mut Batch) {
        if self.0.remove(&id).is_some() {
            batch.delete(TABLE, Bytes::copy_from_slice(&id.0));
        }
    }

    /// Deletes those that nobody has used yet, as the store has it.
    ///
    /// Errors: as of `load`.
    pub(super) fn leave_out_unused(store: &impl Store, batch: &mut Batch) -> Result<(), OpenError> {
        let Self(saved) = Self::load(store)?;
        for (id, _) in saved.iter().filter(|(_, record)| record.used.is_none()) {
            batch.delete(TABLE, Bytes::copy_from_slice(&id.0));
        }
        Ok(())
    }

    pub(super) fn on_timeout(&mut self, now: SystemTime, batch: &mut Batch) {
        let old = |record: &TokenRecord| {
            now.duration_since(record.expires)
                .is_ok_and(|since| since > REMEMBER)
        };
        for (id, _) in self.0.extract_if(.., |_, record| old(record)) {
            batch.delete(TABLE, Bytes::copy_from_slice(&id.0));
        }
    }
}

fn put(token: &TokenRecord, batch: &mut Batch) {
    let grant = &token.grant;
    let stored = Record {
        secret_hash: token.secret_hash,
        cluster: grant.cluster.to_string(),
        namespace: grant.namespace.to_string(),
        account: grant.account.to_string(),
        service: grant.service.as_ref().map(ToString::to_string),
        expires: unix_millis(token.expires),
        used: token.used.map(|key| key.0),
    };
    let mut record = vec![FORMAT];
    record.extend(serde_json::to_vec(&stored).expect("text and numbers are JSON"));
    batch.put(TABLE, Bytes::copy_from_slice(&token.id.0), record);
}

fn read(id: TokenId, record: Record) -> Option<TokenRecord> {
    Some(TokenRecord {
        id,
        secret_hash: record.secret_hash,
        grant: TokenGrant {
            cluster: record.cluster.parse().ok()?,
            namespace: record.namespace.parse().ok()?,
            account: record.account.parse().ok()?,
            service: record.service.map(|name| name.parse()).transpose().ok()?,
        },
        expires: from_unix_millis(record.expires),
        used: record.used.map(KeyHash),
    })
}

#[cfg(test)]
mod tests {
    use isthmus_world::VirtualStore;

    use super::*;

    #[test]
    fn a_used_token_stays_used_after_a_restart() {
        let secret = TokenSecret::new([7; 32]);
        let start = from_unix_millis(1_000_000);
        let root = isthmus_identity::RootFingerprint([1; 32]);
        let control = vec![([127, 0, 0, 1], 15012).into()];
        let token =
            isthmus_identity::JoinToken::new(root, control, TokenId([3; 8]), secret.clone());
        let token = token.unwrap();
        let grant = TokenGrant {
            cluster: "west".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            account: "cart".parse().unwrap(),
            service: Some("shop/cart".parse().unwrap()),
        };
        let mut store = VirtualStore::new();
        let mut batch = Batch::new();
        let mut tokens = Tokens::default();
        tokens.add(
            token.record(grant.clone(), start + Duration::from_mins(1)),
            &mut batch,
        );
        let (mine, other) = (KeyHash([1; 32]), KeyHash([2; 32]));
        let redeemed = tokens.redeem(token.id(), &secret, mine, start, &mut batch);
        assert_eq!(redeemed, Ok(grant.clone()));
        store.commit(&batch).unwrap();

        let mut tokens = Tokens::load(&store).unwrap();
        let mut batch = Batch::new();
        let mut redeem = |key, now| tokens.redeem(token.id(), &secret, key, now, &mut batch);
        assert_eq!(redeem(mine, start), Ok(grant));
        assert_eq!(redeem(other, start), Err(TokenError::Used.into()));
        let late = start + Duration::from_mins(1);
        assert_eq!(redeem(mine, late), Err(TokenError::Expired.into()));
        assert!(batch.is_empty());
        tokens.on_timeout(late + REMEMBER + Duration::from_secs(1), &mut batch);
        store.commit(&batch).unwrap();
        let redeemed =
            Tokens::load(&store)
                .unwrap()
                .redeem(token.id(), &secret, mine, late, &mut batch);
        assert_eq!(redeemed, Err(Refused::Unknown));
    }
}
