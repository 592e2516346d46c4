//! `/mesh/v1/certificate`: the certificate by which the answering cluster issues others, and what takes its place.

use serde::{Deserialize, Serialize};

/// What the cluster issues by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    pub cluster: String,
    /// SHA-256 of its DER, in hexadecimal digits.
    pub fingerprint: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// SHA-256 of its root's DER, in hexadecimal digits.
    pub root: String,
    /// SHA-256 of the DER of each root that the cluster trusts, in hexadecimal digits.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// The number of the word by which it trusts them; 0: nothing was said yet.
    #[serde(default)]
    pub serial: u64,
    /// A new key waits for its certificate: its request, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// How many processes that are connected hold a certificate that it has issued since the last rotation.
    pub renewed: usize,
    /// Those that do not yet, by name.
    pub waiting: Vec<String>,
}

/// What was signed for the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCertificate {
    /// PEM: the cluster's certificate, then the root that has signed it.
    pub chain: String,
}

/// The roots that are trusted in the place of all that a lower serial number names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewRoots {
    /// Never 0.
    pub serial: u64,
    /// PEM.
    pub roots: String,
    /// Of the key of a root that is trusted already, in hexadecimal digits.
    pub signature: String,
}
