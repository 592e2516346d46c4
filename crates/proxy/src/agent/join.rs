//! How a process becomes a member of the mesh: by what it kept from earlier, or by a join token.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    Certificates, JoinToken, JoinTokenError, KeyPair, Leaf, LeafCell, TrustBundle, TrustCell,
};
use isthmus_model::{Identity, SpiffeId};
use isthmus_telemetry::Metrics;
use isthmus_wire::proto::{self, EnrollRequest, StoredIdentity};

use super::channel::{self, chain};
use super::store::{Stored, Vault, VaultError};
use crate::config::Config;

/// Between tries to reach a control plane.
const AGAIN: Duration = Duration::from_millis(500);

/// Membership.
pub(crate) struct Joined {
    pub(crate) identity: Identity,
    pub(crate) leaf: Arc<LeafCell>,
    pub(crate) trust: Arc<TrustCell>,
    pub(crate) node_key: [u8; 32],
    pub(crate) renew_after: Duration,
}

/// Why a process cannot become a member. Trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("this process has no certificate yet, and no join token to get one with")]
    NoToken,
    #[error("the join token: {0}")]
    Token(#[from] JoinTokenError),
    #[error("the control plane at {address} refused: {reason}")]
    Refused {
        address: std::net::SocketAddr,
        reason: String,
    },
    #[error("what the control plane issued cannot be used: {0}")]
    Unusable(String),
    #[error("{0}")]
    Store(String),
}

impl From<VaultError> for JoinError {
    fn from(error: VaultError) -> Self {
        Self::Store(error.to_string())
    }
}

/// Joins. Waits for a control plane when none can be reached and nothing usable was kept.
pub(crate) async fn join(
    config: &Config,
    vault: &Vault,
    metrics: &Metrics,
) -> Result<Joined, JoinError> {
    match vault.identity() {
        Ok(Some(stored)) => match revive(stored) {
            Ok(joined) => return Ok(joined),
            Err(reason) => tracing::info!(reason, "the kept certificate is not used"),
        },
        Ok(None) => {}
        Err(error) => {
            metrics.count_snapshot_refused(error.reason());
            tracing::warn!(%error, "the kept identity is not used");
        }
    }
    let token = JoinToken::parse(config.token.as_deref().ok_or(JoinError::NoToken)?)?;
    enroll(config, vault, &token).await
}

fn revive(stored: Stored) -> Result<Joined, String> {
    let Stored {
        node_key,
        identity: StoredIdentity { key, certificates },
    } = stored;
    let certificates = certificates.ok_or("no certificates were kept")?;
    let joined = usable(&key, &certificates, node_key)?;
    if joined.leaf.load().expired(SystemTime::now()) {
        return Err("it has expired".to_owned());
    }
    Ok(joined)
}

fn usable(
    key: &str,
    certificates: &proto::Certificates,
    node_key: [u8; 32],
) -> Result<Joined, String> {
    let leaf = Leaf::from_pem(key, &certificates.chain).map_err(|error| error.to_string())?;
    let trust =
        TrustBundle::from_pem(&certificates.trust_bundle).map_err(|error| error.to_string())?;
    let SpiffeId::Workload(identity) = leaf.id().clone() else {
        return Err("it is of a control plane".to_owned());
    };
    Ok(Joined {
        identity,
        leaf: Arc::new(LeafCell::new(leaf)),
        trust: Arc::new(TrustCell::new(trust)),
        node_key,
        renew_after: Duration::from_millis(certificates.renew_after_ms),
    })
}

async fn enroll(config: &Config, vault: &Vault, token: &JoinToken) -> Result<Joined, JoinError> {
    // The same key at every try: a token admits one.
    let key = KeyPair::generate().map_err(|error| JoinError::Unusable(error.to_string()))?;
    let request = key
        .certificate_request()
        .map_err(|error| JoinError::Unusable(error.to_string()))?;
    let addresses = if config.control.is_empty() {
        token.control()
    } else {
        &config.control
    };
    let mut told = false;
    loop {
        for &address in addresses {
            let answer = async {
                let mut client = channel::open_pinned(address, &config.cluster, token)
                    .await
                    .map_err(|error| chain(&error))?;
                let request = EnrollRequest {
                    token_id: token.id().to_string(),
                    token_secret: token.secret().as_bytes().to_vec().into(),
                    certificate_request: request.clone(),
                };
                Ok::<_, String>(client.enroll(request).await)
            };
            match answer.await {
                Ok(Ok(certificates)) => {
                    let certificates = certificates.into_inner();
                    return keep(vault, &key, certificates);
                }
                Ok(Err(status)) if is_final(&status) => {
                    let reason = status.message().to_owned();
                    return Err(JoinError::Refused { address, reason });
                }
                Ok(Err(status)) => tell(&mut told, address, status.message()),
                Err(reason) => tell(&mut told, address, &reason),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The first failure is worth a line, the next hundred are not.
fn tell(told: &mut bool, address: std::net::SocketAddr, reason: &str) {
    if !*told {
        *told = true;
        tracing::warn!(%address, reason, "waiting for a control plane to join at");
    }
}

fn is_final(status: &tonic::Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::NotFound
    )
}

fn keep(
    vault: &Vault,
    key: &KeyPair,
    certificates: proto::Certificates,
) -> Result<Joined, JoinError> {
    let node_key = <[u8; 32]>::try_from(&*certificates.node_key)
        .map_err(|_| JoinError::Unusable("it came without a node key".to_owned()))?;
    let key = key.to_pem();
    let joined = usable(&key, &certificates, node_key).map_err(JoinError::Unusable)?;
    let stored = StoredIdentity {
        key: key.to_string(),
        certificates: Some(certificates),
    };
    vault.keep_identity(&node_key, &stored)?;
    tracing::info!(identity = %joined.identity, "joined the mesh");
    Ok(joined)
}

/// Takes over renewed certificates for `key`, and keeps them in `vault`, if this process may.
///
/// Errors: they cannot be used; what was there stays.
pub(super) fn renewed(
    vault: Option<&Vault>,
    node_key: &[u8; 32],
    leaf: &LeafCell,
    trust: &TrustCell,
    key: KeyPair,
    certificates: proto::Certificates,
) -> Result<(), String> {
    let chain = Certificates::from_pem(&certificates.chain).map_err(|error| error.to_string())?;
    let pem = key.to_pem();
    let next = Leaf::new(key, chain).map_err(|error| error.to_string())?;
    let bundle =
        TrustBundle::from_pem(&certificates.trust_bundle).map_err(|error| error.to_string())?;
    leaf.replace(next).map_err(|error| error.to_string())?;
    // The same roots are no change: whatever was verified by them would be verified again.
    if trust.load().roots() != bundle.roots() {
        trust.replace(bundle);
    }
    let stored = StoredIdentity {
        key: pem.to_string(),
        certificates: Some(certificates),
    };
    vault.map_or(Ok(()), |vault| {
        vault
            .keep_identity(node_key, &stored)
            .map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Issuer, cluster};

    #[test]
    fn a_renewal_replaces_the_bundle_only_if_its_roots_are_others() {
        let issuer = Issuer::new();
        let me = issuer.workload(&cluster("west"), "cart");
        let renew = |roots: String| {
            let key = KeyPair::generate().unwrap();
            let certificates = proto::Certificates {
                chain: issuer.issue(&me.cluster, &me.identity, &key).to_pem(),
                trust_bundle: roots,
                ..proto::Certificates::default()
            };
            renewed(None, &[0; 32], &me.leaf, &me.trust, key, certificates).unwrap();
            me.trust.load()
        };
        let before = me.trust.load();
        let same = renew(before.to_pem());
        assert!(Arc::ptr_eq(&same, &before));
        let other = Issuer::new().workload(&me.cluster, "cart").trust.load();
        let both = renew(before.to_pem() + &other.to_pem());
        assert_eq!(both.fingerprints().count(), 2);
    }
}
