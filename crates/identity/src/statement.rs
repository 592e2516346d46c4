//! Statements of the mesh: what binds every cluster (the mesh itself, trust bundles, cluster grants,
//! mesh-wide roles) is valid only when signed with the mesh key, so that a stolen control plane
//! cannot widen its own grant.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rcgen::SigningKey as _;

use crate::{IssueError, MeshKey, TrustBundle, certificate};

/// The longest purpose, in bytes.
pub const STATEMENT_PURPOSE_LIMIT: usize = 255;

/// Begins every signed message: no statement can be taken for a certificate, or the reverse.
const PREFIX: &[u8] = b"isthmus-statement-v1\0";

/// The statement is not one of this mesh's for this purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not signed with the mesh key for this purpose, or it was changed")]
pub struct BadStatement;

impl MeshKey {
    /// Signs `statement` for `purpose` (such as `cluster-grant`, at most
    /// [`STATEMENT_PURPOSE_LIMIT`] bytes); the signature is worth nothing for any other purpose.
    pub fn sign_statement(&self, purpose: &str, statement: &[u8]) -> Result<Vec<u8>, IssueError> {
        let message = message(purpose, statement)
            .ok_or_else(|| IssueError::Sign("the purpose is too long".to_owned()))?;
        self.key()
            .signing()
            .sign(&message)
            .map_err(|error| IssueError::Sign(error.to_string()))
    }
}

impl TrustBundle {
    /// Was `statement` signed for `purpose` with the key of one of the roots?
    pub fn check_statement(
        &self,
        purpose: &str,
        statement: &[u8],
        signature: &[u8],
    ) -> Result<(), BadStatement> {
        let message = message(purpose, statement).ok_or(BadStatement)?;
        let signed = self.roots().as_slice().iter().any(|root| {
            certificate::parse(root).is_ok_and(|root| {
                let key = &root.public_key().subject_public_key.data;
                algorithm(key).is_some_and(|algorithm| {
                    UnparsedPublicKey::new(algorithm, key)
                        .verify(&message, signature)
                        .is_ok()
                })
            })
        });
        if signed { Ok(()) } else { Err(BadStatement) }
    }
}

/// Purpose and statement with their border, so that no two pairs give the same message.
fn message(purpose: &str, statement: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(purpose.len()).ok()?;
    Some([PREFIX, &[length], purpose.as_bytes(), statement].concat())
}

/// The kinds of key a mesh key can be, told apart by the length of their public half.
fn algorithm(key: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    match key.len() {
        65 => Some(&ECDSA_P256_SHA256_ASN1),
        97 => Some(&ECDSA_P384_SHA384_ASN1),
        32 => Some(&ED25519),
        _ => None,
    }
}
