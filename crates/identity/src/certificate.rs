//! Certificates as they travel (DER in a list, PEM in files) and what is read out of them.
//!
//! Reading says nothing about trust: nobody here checks a chain. That is `trust`'s work.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_model::{Admission, SpiffeError, TrustDomain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, KeyUsage, X509Certificate};
use zeroize::Zeroizing;

use crate::time;

/// A list of certificates, the holder's own first, each signed by the next (RFC 8446 section
/// 4.4.2); never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates(Vec<CertificateDer<'static>>);

/// SHA-256 of the mesh root's DER: short enough for a join token, enough to know the mesh by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootFingerprint(pub [u8; 32]);

/// Why bytes or text are not certificates, or not one of a mesh. `Display` is a sentence fragment
/// that fits behind "the issuer's certificate: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("it is not an X.509 certificate in DER ({0})")]
    Der(String),
    #[error("its subject alternative names cannot be read ({0})")]
    Names(String),
    #[error("it has {found} URI names where a SPIFFE certificate has exactly one")]
    UriCount { found: usize },
    #[error("{uri:?} is not a SPIFFE id of a mesh: {error}")]
    Spiffe { uri: String, error: SpiffeError },
    #[error("{uri:?} names no trust domain")]
    TrustDomain { uri: String },
    #[error("{uri:?} does not name a cluster")]
    NotCluster { uri: String },
    #[error("its key usage is not that of {expected}")]
    Usage { expected: &'static str },
}

/// Why a PEM text gives no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no certificate in it: expected text with -----BEGIN CERTIFICATE-----")]
    Empty,
    #[error("it is not PEM: {0}")]
    Pem(String),
    #[error("certificate {}: {problem}", .index + 1)]
    Certificate {
        index: usize,
        problem: CertificateProblem,
    },
}

/// From when and until when a certificate is valid.
pub type Validity = (SystemTime, SystemTime);

/// The end of a certificate is worth a word when less than this part of its life is left, or less than
/// [`SOON`], whichever is later.
const LAST_PART: u32 = 5;
const SOON: Duration = Duration::from_hours(60 * 24);

/// Is so little of its life left that somebody should know?
pub fn ends_soon((from, until): Validity, now: SystemTime) -> bool {
    let life = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(now).unwrap_or_default();
    left < SOON.min(life / LAST_PART)
}

impl Certificates {
    /// Errors: the list is empty, or a member cannot be parsed.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, ReadError> {
        if certificates.is_empty() {
            return Err(ReadError::Empty);
        }
        for (index, der) in certificates.iter().enumerate() {
            parse(der).map_err(|problem| ReadError::Certificate { index, problem })?;
        }
        Ok(Self(certificates))
    }

    /// All `CERTIFICATE` sections of a PEM text (RFC 7468); other sections are skipped.
    pub fn from_pem(pem: &str) -> Result<Self, ReadError> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        Self::new(certificates.map_err(|error| ReadError::Pem(error.to_string()))?)
    }

    /// From when and until when each is valid, in order.
    pub fn validity(&self) -> impl Iterator<Item = Validity> + '_ {
        // `new` has parsed them all.
        let parsed = self.0.iter().filter_map(|der| parse(der).ok());
        parsed.map(|certificate| validity(&certificate))
    }

    pub fn to_pem(&self) -> String {
        self.0.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    pub fn as_slice(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    pub fn into_vec(self) -> Vec<CertificateDer<'static>> {
        self.0
    }

    /// From certificates that this crate has just signed or checked.
    pub(crate) fn trusted(certificates: Vec<CertificateDer<'static>>) -> Self {
        debug_assert!(!certificates.is_empty());
        Self(certificates)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.0.len())
    }
}

impl RootFingerprint {
    pub fn of(root: &CertificateDer<'_>) -> Self {
        Self(sha256(root))
    }
}

impl fmt::Display for RootFingerprint {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hexadecimal digits (SHA-256 of the mesh root)")]
pub struct NotFingerprint;

impl FromStr for RootFingerprint {
    type Err = NotFingerprint;

    fn from_str(text: &str) -> Result<Self, NotFingerprint> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(NotFingerprint);
        }
        let digit = |at: usize| (text[at] as char).to_digit(16).ok_or(NotFingerprint);
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let value = digit(2 * index)? * 16 + digit(2 * index + 1)?;
            *byte = u8::try_from(value).map_err(|_| NotFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// One PEM section (RFC 7468): base64 in lines of 64. Leaves no copy behind, `der` may be a key.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----"]);
    for (index, letter) in body.chars().enumerate() {
        if index % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.extend(["\n-----END ", label, "-----\n"]);
    text
}

/// Reads one certificate; bytes behind it are an error.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateProblem> {
    let unreadable = |reason: &dyn fmt::Display| CertificateProblem::Der(reason.to_string());
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
    match rest {
        [] => Ok(certificate),
        _ => Err(unreadable(&"bytes behind its end")),
    }
}

/// The one URI among the subject alternative names (X509-SVID section 2).
pub(crate) fn only_uri<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<&'a str, CertificateProblem> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| CertificateProblem::Names(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(CertificateProblem::UriCount { found: uris.len() }),
    }
}

/// The trust domain that a root's own name `spiffe://<trust-domain>` gives.
pub(crate) fn root_trust_domain(
    certificate: &X509Certificate<'_>,
) -> Result<TrustDomain, CertificateProblem> {
    let uri = only_uri(certificate)?;
    uri.strip_prefix("spiffe://")
        .and_then(|name| TrustDomain::new(name).ok())
        .ok_or_else(|| CertificateProblem::TrustDomain {
            uri: uri.to_owned(),
        })
}

/// A serial number that begins with an admission has this length; others are shorter.
pub(crate) const ADMITTED_SERIAL: usize = 17;
/// What it begins with, so that it is a positive number of that length.
pub(crate) const ADMITTED_MARK: u8 = 1;

/// The admission that the serial number of a workload's leaf begins with. Versions before admissions did not say:
/// such a leaf stands for itself, and for those that it is renewed by: by what was signed of it, for anybody can make
/// another signature of the same (ECDSA has two).
pub(crate) fn admission(leaf: &X509Certificate<'_>) -> Admission {
    let said = match leaf.raw_serial() {
        [ADMITTED_MARK, rest @ ..] if rest.len() == ADMITTED_SERIAL - 1 => rest.first_chunk(),
        _ => None,
    };
    let hash = sha256(leaf.tbs_certificate.as_ref());
    Admission(*said.unwrap_or_else(|| hash.first_chunk().unwrap_or(&[0; 8])))
}

/// The key usage of a leaf: to sign for itself, and no certificates (X509-SVID section 4.3).
pub(crate) fn check_leaf_usage(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    check_usage(leaf, "a workload or a control plane", |usage| {
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    })
}

/// The key usage of an issuer: to sign certificates (likewise).
pub(crate) fn check_issuer_usage(issuer: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    check_usage(issuer, "an issuer", KeyUsage::key_cert_sign)
}

fn check_usage(
    certificate: &X509Certificate<'_>,
    expected: &'static str,
    fits: impl FnOnce(&KeyUsage) -> bool,
) -> Result<(), CertificateProblem> {
    match certificate.key_usage() {
        Ok(Some(usage)) if fits(usage.value) => Ok(()),
        _ => Err(CertificateProblem::Usage { expected }),
    }
}

/// Not before and not after.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (
        time::from_timestamp(validity.not_before.timestamp()),
        time::from_timestamp(validity.not_after.timestamp()),
    )
}
