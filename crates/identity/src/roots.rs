//! Which roots a mesh trusts, in the word of whoever holds its key. A root takes the place of another in two words:
//! one that both are trusted, and when nobody shows certificates of the old one any more, one without it.

use crate::statement::BadStatement;
use crate::{Certificates, IssueError, MeshKey, TrustBundle, TrustError};

/// The most roots of one word: two while one takes the place of the other, and two more whose keys are elsewhere.
pub const MOST_ROOTS: usize = 4;

const PURPOSE: &str = "trust-bundle";

/// The roots that are trusted in the place of all that a lower serial number names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoots {
    /// Never 0.
    pub serial: u64,
    pub roots: Certificates,
    pub signature: Vec<u8>,
}

/// Why the roots stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    #[error("no root that is trusted has signed that: {0}")]
    Statement(#[from] BadStatement),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{found} roots, more than {MOST_ROOTS}")]
    TooMany { found: usize },
    #[error("they are of trust domain {found}, this mesh is {expected}")]
    TrustDomain { found: String, expected: String },
}

impl MeshKey {
    /// Says that `roots` are trusted from now on. Whoever trusts this key's own root believes it.
    pub fn sign_roots(&self, roots: Certificates, serial: u64) -> Result<SignedRoots, IssueError> {
        let signature = self.sign_statement(PURPOSE, &statement(&roots, serial))?;
        Ok(SignedRoots {
            serial,
            roots,
            signature,
        })
    }
}

impl TrustBundle {
    /// What is to be trusted in the place of this. Whether `next` is newer than what was believed last is the
    /// caller's to know.
    pub fn succeeded_by(&self, next: &SignedRoots) -> Result<Self, RootsError> {
        let found = next.roots.as_slice().len();
        if found > MOST_ROOTS {
            return Err(RootsError::TooMany { found });
        }
        let said = statement(&next.roots, next.serial);
        self.check_statement(PURPOSE, &said, &next.signature)?;
        let bundle = Self::new(next.roots.clone())?;
        if bundle.trust_domain() != self.trust_domain() {
            return Err(RootsError::TrustDomain {
                found: bundle.trust_domain().to_string(),
                expected: self.trust_domain().to_string(),
            });
        }
        Ok(bundle)
    }
}

/// The number, then each root after its length.
fn statement(roots: &Certificates, serial: u64) -> Vec<u8> {
    let mut bytes = serial.to_be_bytes().to_vec();
    for root in roots.as_slice() {
        bytes.extend((root.len() as u64).to_be_bytes());
        bytes.extend(root.as_ref());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn key(domain: &str) -> MeshKey {
        MeshKey::found(&domain.parse().unwrap(), SystemTime::now()).unwrap()
    }

    fn roots(keys: &[&MeshKey]) -> Certificates {
        let all = keys.iter().map(|key| key.root_pem()).collect::<String>();
        Certificates::from_pem(&all).unwrap()
    }

    #[test]
    fn one_root_takes_the_place_of_another_in_two_words() {
        let (old, new, thief) = (key("shop"), key("shop"), key("shop"));
        let both = old.sign_roots(roots(&[&old, &new]), 1).unwrap();
        let trusted = old.bundle().succeeded_by(&both).unwrap();
        assert_eq!(trusted.roots(), &roots(&[&old, &new]));
        let last = new.sign_roots(roots(&[&new]), 2).unwrap();
        assert_eq!(trusted.succeeded_by(&last).unwrap(), *new.bundle());
        // The second word means nothing to who has not heard the first, and the old key nothing after it.
        let unheard = old.bundle().succeeded_by(&last);
        assert_eq!(unheard, Err(RootsError::Statement(BadStatement)));
        for stranger in [&old, &thief] {
            let back = stranger.sign_roots(roots(&[&old, &new]), 3).unwrap();
            let refused = new.bundle().succeeded_by(&back);
            assert_eq!(refused, Err(RootsError::Statement(BadStatement)));
        }
    }

    #[test]
    fn what_was_changed_after_it_was_signed_is_refused() {
        let (old, new) = (key("shop"), key("shop"));
        let both = old.sign_roots(roots(&[&old, &new]), 1).unwrap();
        let changed: [fn(&mut SignedRoots); 3] = [
            |both| both.serial += 1,
            |both| both.roots = Certificates::new(both.roots.as_slice()[1..].to_vec()).unwrap(),
            |both| both.signature.truncate(8),
        ];
        for change in changed {
            let mut changed = both.clone();
            change(&mut changed);
            let refused = old.bundle().succeeded_by(&changed);
            assert_eq!(refused, Err(RootsError::Statement(BadStatement)));
        }
    }

    #[test]
    fn also_the_mesh_key_names_only_roots_of_its_trust_domain_and_a_few() {
        let (old, foreign) = (key("shop"), key("bank"));
        let elsewhere = old.sign_roots(roots(&[&foreign]), 1).unwrap();
        let refused = old.bundle().succeeded_by(&elsewhere).unwrap_err();
        assert!(
            matches!(refused, RootsError::TrustDomain { .. }),
            "{refused}"
        );
        let many = old.sign_roots(roots(&[&old; MOST_ROOTS + 1]), 1).unwrap();
        let refused = old.bundle().succeeded_by(&many).unwrap_err();
        assert_eq!(
            refused,
            RootsError::TooMany {
                found: MOST_ROOTS + 1
            }
        );
    }
}
