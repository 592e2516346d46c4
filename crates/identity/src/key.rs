//! Private keys, and requests to certify their public halves.
//!
//! A key is made where it is used and leaves that place only as PEM that its holder stores. Nothing
//! here prints one.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::{pem, sha256};

/// A private key and its public half. Wiped from memory when dropped, as far as the libraries let us.
pub struct KeyPair(rcgen::KeyPair);

/// A request for a certificate (PKCS #10, RFC 2986) whose signature has been checked: who made it
/// holds the private key. Only its key counts; the names and extensions that it asks for do not.
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    pub(crate) public_key: SubjectPublicKeyInfo,
}

/// SHA-256 of a public key (its DER SubjectPublicKeyInfo): the same key, the same hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

/// Why there is no private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no key could be made: {0}")]
    Generate(String),
    #[error("it is not a private key in PEM: {0}")]
    Pem(String),
    #[error("the key is damaged or of a kind that is not used here (ECDSA P-256, P-384, Ed25519)")]
    Kind,
}

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("it is not a certificate request in PEM: {0}")]
    Pem(String),
    #[error("it is not a certificate request in DER: {0}")]
    Der(String),
    #[error("its signature does not match its key")]
    Signature,
    #[error("its key is of a kind that is not certified here (ECDSA P-256, P-384, Ed25519)")]
    Kind,
}

impl KeyPair {
    /// A fresh ECDSA P-256 key from aws-lc's random generator.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate()
            .map(Self)
            .map_err(|error| KeyError::Generate(error.to_string()))
    }

    /// Reads PKCS #8 or SEC 1.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| KeyError::Pem(error.to_string()))?;
        let key = rcgen::KeyPair::try_from(&der);
        der.zeroize();
        let key = key.map_err(|_| KeyError::Kind)?;
        if accepted(key.algorithm()) {
            Ok(Self(key))
        } else {
            Err(KeyError::Kind)
        }
    }

    /// PKCS #8; wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", self.0.serialized_der()))
    }

    /// A PEM request for a certificate of this key, signed with it. It asks for no name: the
    /// authority decides who the holder is.
    pub fn certificate_request(&self) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(&self.0)
            .map(|request| pem("CERTIFICATE REQUEST", request.der()))
            .map_err(|error| KeyError::Generate(error.to_string()))
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(sha256(&self.0.subject_public_key_info()))
    }

    pub(crate) fn signing(&self) -> &rcgen::KeyPair {
        &self.0
    }

    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for KeyPair {
    /// Never the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.hash())
    }
}

impl CertificateRequest {
    /// Errors: not a request, its signature is wrong, or its key is of a kind we do not certify.
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| RequestError::Pem(error.to_string()))?;
        Self::from_der(&der)
    }

    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| RequestError::Der(error.to_string()))?;
        if !rest.is_empty() {
            return Err(RequestError::Der("bytes behind its end".to_owned()));
        }
        let public_key =
            SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
                .map_err(|_| RequestError::Kind)?;
        if !accepted(public_key.algorithm()) {
            return Err(RequestError::Kind);
        }
        request
            .verify_signature()
            .map_err(|_| RequestError::Signature)?;
        Ok(Self { public_key })
    }

    pub fn key_hash(&self) -> KeyHash {
        KeyHash(sha256(&self.public_key.subject_public_key_info()))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Keys that every rustls peer of the mesh can verify.
fn accepted(algorithm: &'static rcgen::SignatureAlgorithm) -> bool {
    [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ]
    .contains(&algorithm)
}
