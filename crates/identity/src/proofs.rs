//! Chains that a bundle has verified. Who comes again, as after a restart or a cut, is known by what it
//! presented: only the signature of its handshake is checked anew, which proves that the key is its own.
//!
//! Invariant: that a chain is good follows from its bytes, the roots, the peer's role and the time alone. So a
//! proof belongs to one bundle, is found by the digest of everything that was presented, and holds
//! while every certificate in it is valid.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;

use crate::generations::Generations;
use crate::peer::{PeerRole, VerifiedPeer};

/// Proofs of one generation; two are kept. Each takes about half a kilobyte.
const GENERATION: usize = 1024;

/// What was presented, and as what: SHA-256.
type Presented = [u8; 32];

/// A chain that was good at some time.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) peer: VerifiedPeer,
    /// When the last certificate of the chain begins.
    pub(crate) not_before: SystemTime,
}

/// The proofs of one bundle, of which those that were asked for last stay.
#[derive(Default)]
pub(crate) struct Proofs(Mutex<Generations<Presented, Proof, GENERATION>>);

impl Proof {
    fn holds(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.peer.not_after()
    }
}

impl Proofs {
    /// Who presents `leaf` and `issuer`, if that was proven before; else `verify` is asked, and what it
    /// has found is kept. A refusal is not.
    pub(crate) fn find_or<E>(
        &self,
        leaf: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
        role: PeerRole,
        now: SystemTime,
        verify: impl FnOnce() -> Result<Proof, E>,
    ) -> Result<VerifiedPeer, E> {
        let presented = presented(leaf, issuer, role);
        let proven = self.with(|proofs| proofs.find(&presented).cloned());
        if let Some(proof) = proven.filter(|proof| proof.holds(now)) {
            return Ok(proof.peer);
        }
        // Nobody waits for this.
        let proof = verify()?;
        let peer = proof.peer.clone();
        self.with(|proofs| proofs.keep(presented, proof));
        Ok(peer)
    }

    fn with<T>(
        &self,
        use_them: impl FnOnce(&mut Generations<Presented, Proof, GENERATION>) -> T,
    ) -> T {
        // A map is whole between any two calls of it.
        use_them(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn presented(leaf: &CertificateDer<'_>, issuer: &CertificateDer<'_>, role: PeerRole) -> Presented {
    let mut all = Context::new(&SHA256);
    all.update(match role {
        PeerRole::Client => b"client",
        PeerRole::Server => b"server",
    });
    // So that no two chains are the same bytes.
    all.update(&leaf.len().to_be_bytes());
    all.update(leaf);
    all.update(issuer);
    let mut presented = Presented::default();
    presented.copy_from_slice(all.finish().as_ref());
    presented
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::{Duration, UNIX_EPOCH};

    use isthmus_model::{ClusterIdentity, ClusterName, SpiffeId, TrustDomain};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn proof() -> Proof {
        let cluster = ClusterName::new("west").unwrap();
        let id = ClusterIdentity {
            trust_domain: TrustDomain::new("shop.mesh").unwrap(),
            cluster: cluster.clone(),
        };
        let not_before = UNIX_EPOCH + HOUR;
        let peer = VerifiedPeer::new(SpiffeId::Cluster(id), cluster, None, UNIX_EPOCH + 2 * HOUR);
        Proof { peer, not_before }
    }

    /// Was the chain verified?
    fn asks(proofs: &Proofs, leaf: u64, issuer: &[u8], role: PeerRole, now: SystemTime) -> bool {
        let asked = Cell::new(false);
        let leaf = leaf.to_be_bytes();
        let (leaf, issuer) = (
            CertificateDer::from(&leaf[..]),
            CertificateDer::from(issuer),
        );
        let found = proofs.find_or(&leaf, &issuer, role, now, || {
            asked.set(true);
            Ok::<_, ()>(proof())
        });
        assert_eq!(found, Ok(proof().peer));
        asked.get()
    }

    #[test]
    fn a_proof_holds_for_what_was_presented_while_it_is_valid() {
        let proofs = Proofs::default();
        let (client, now) = (PeerRole::Client, UNIX_EPOCH + HOUR);
        let second = Duration::from_secs(1);
        for (leaf, issuer, role, now, verified) in [
            (1, &b"issuer"[..], client, now, true),
            (1, b"issuer", client, now, false),
            (1, b"issuer", client, now + HOUR - second, false),
            // Whether it is valid then is not said by the proof.
            (1, b"issuer", client, now + HOUR, true),
            (1, b"issuer", client, now - second, true),
            (1, b"issuer", PeerRole::Server, now, true),
            (2, b"issuer", client, now, true),
            (1, b"other", client, now, true),
        ] {
            assert_eq!(
                asks(&proofs, leaf, issuer, role, now),
                verified,
                "{leaf}, {issuer:?}"
            );
        }
    }

    #[test]
    fn a_refusal_is_not_kept() {
        let proofs = Proofs::default();
        let der = CertificateDer::from(&b"leaf"[..]);
        let now = UNIX_EPOCH + HOUR;
        for verified in [Err(()), Ok(proof())] {
            let expect = verified.clone().map(|proof| proof.peer);
            let found = proofs.find_or(&der, &der, PeerRole::Client, now, || verified);
            assert_eq!(found, expect);
        }
    }

    #[test]
    fn those_who_come_again_are_kept_and_all_are_bounded() {
        let proofs = Proofs::default();
        let asks = |leaf| {
            asks(
                &proofs,
                leaf,
                b"issuer",
                PeerRole::Client,
                UNIX_EPOCH + HOUR,
            )
        };
        let many = u64::try_from(GENERATION).unwrap();
        assert!(asks(1));
        for leaf in 2..10 * many {
            assert!(asks(leaf));
            assert!(!asks(1), "{leaf}");
        }
        proofs.with(|proofs| assert!(proofs.len() <= 2 * GENERATION));
        assert!(asks(2), "who has not come for long is forgotten");
    }
}
