//! Terms: the part of a Mesh or a Cluster that binds everybody, such as whose namespaces a cluster may
//! speak for. They are valid only with the mesh key's signature, so that whoever stole a control plane,
//! be it the one that leads, cannot widen its own grant.
//!
//! A signature has a serial number, and what was signed with a lower one is not believed any more once a
//! higher one was seen: nobody brings an old grant back.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use isthmus_model::{Cluster, ClusterName, Egress, Mesh, MeshName, Namespace, Resource};

use crate::statement::BadStatement;
use crate::{IssueError, MeshKey, TrustBundle};

/// Longest signature, in bytes: one of ECDSA P-384 in DER has 104.
const MOST: usize = 128;

/// What is signed of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terms {
    Mesh {
        name: MeshName,
        egress: Egress,
        voters: BTreeSet<ClusterName>,
    },
    Cluster {
        name: ClusterName,
        jurisdiction: Option<String>,
        /// Those that it may speak for; `None`: all.
        namespaces: Option<BTreeSet<Namespace>>,
        /// Nobody is to believe it any more; `None`: nothing is said.
        revoked: Option<bool>,
    },
}

/// A signature of terms, written `<serial>:<hexadecimal digits>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermsSignature {
    pub serial: u64,
    bytes: Vec<u8>,
}

/// Why a text is not a signature of terms. No serial is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature is a number, a colon and the hexadecimal digits of {MOST} bytes at most")]
pub struct NotASignature;

impl Terms {
    /// `None`: nothing of the resource has to be signed.
    pub fn of(resource: &Resource) -> Option<Self> {
        match resource {
            // Its trust domain is the one that every statement is about.
            Resource::Mesh(Mesh {
                name,
                trust_domain: _,
                egress,
                voters,
                removals: _, // Each cluster's own care.
            }) => Some(Self::Mesh {
                name: name.clone(),
                egress: *egress,
                voters: voters.clone(),
            }),
            // Where it is, is proven by its certificate or binds nobody.
            Resource::Cluster(Cluster {
                name,
                jurisdiction,
                namespaces,
                revoked,
                region: _,
                zone: _,
                coordinates: _,
                control: _,
                traffic: _,
            }) => Some(Self::Cluster {
                name: name.clone(),
                jurisdiction: jurisdiction.clone(),
                namespaces: namespaces
                    .as_ref()
                    .map(|names| names.iter().cloned().collect()),
                revoked: *revoked,
            }),
            _ => None,
        }
    }

    /// Gives the resource these terms in the place of its own. One of another kind keeps them.
    pub fn bind(&self, resource: &mut Resource) {
        match (self, resource) {
            (Self::Mesh { egress, voters, .. }, Resource::Mesh(mesh)) => {
                mesh.egress = *egress;
                mesh.voters.clone_from(voters);
            }
            (
                Self::Cluster {
                    jurisdiction,
                    namespaces,
                    revoked,
                    ..
                },
                Resource::Cluster(cluster),
            ) => {
                cluster.revoked = *revoked;
                cluster.jurisdiction.clone_from(jurisdiction);
                let names = namespaces.as_ref();
                cluster.namespaces = names.map(|names| names.iter().cloned().collect());
            }
            _ => {}
        }
    }

    fn purpose(&self) -> &'static str {
        match self {
            Self::Mesh { .. } => "mesh-terms",
            Self::Cluster { .. } => "cluster-terms",
        }
    }

    /// What is signed: each field with its length before it, so that no two terms give the same bytes.
    /// A list begins with `+`; that there is none is `-`.
    fn statement(&self, trust_domain: &str, serial: u64) -> Vec<u8> {
        let mut bytes = serial.to_be_bytes().to_vec();
        let mut put = |field: &str| {
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(field.as_bytes());
        };
        put(trust_domain);
        match self {
            Self::Mesh {
                name,
                egress,
                voters,
            } => {
                put(name.as_str());
                put(match egress {
                    Egress::Deny => "deny",
                    Egress::Allow => "allow",
                });
                for voter in voters {
                    put(voter.as_str());
                }
            }
            Self::Cluster {
                name,
                jurisdiction,
                namespaces,
                revoked,
            } => {
                put(name.as_str());
                put(match revoked {
                    None => "",
                    Some(true) => "revoked",
                    Some(false) => "not revoked",
                });
                put(if jurisdiction.is_some() { "+" } else { "-" });
                put(jurisdiction.as_deref().unwrap_or_default());
                put(if namespaces.is_some() { "+" } else { "-" });
                for namespace in namespaces.iter().flatten() {
                    put(namespace.as_str());
                }
            }
        }
        bytes
    }
}

impl MeshKey {
    /// Signs terms, which are believed from then on in the place of all with a lower `serial`, which is not 0.
    pub fn sign_terms(&self, terms: &Terms, serial: u64) -> Result<TermsSignature, IssueError> {
        let statement = terms.statement(self.bundle().trust_domain().as_str(), serial);
        let bytes = self.sign_statement(terms.purpose(), &statement)?;
        Ok(TermsSignature { serial, bytes })
    }
}

impl TrustBundle {
    /// Were these terms signed so, with the key of one of the roots?
    pub fn check_terms(
        &self,
        terms: &Terms,
        signature: &TermsSignature,
    ) -> Result<(), BadStatement> {
        let statement = terms.statement(self.trust_domain().as_str(), signature.serial);
        self.check_statement(terms.purpose(), &statement, &signature.bytes)
    }
}

impl fmt::Display for TermsSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.serial)?;
        self.bytes
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TermsSignature {
    type Err = NotASignature;

    fn from_str(text: &str) -> Result<Self, NotASignature> {
        let (serial, digits) = text.split_once(':').ok_or(NotASignature)?;
        if digits.len() > 2 * MOST || !serial.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(NotASignature);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NotASignature);
        let byte = |pair: &[u8]| match *pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).map_err(|_| NotASignature),
            _ => Err(NotASignature),
        };
        let serial = serial.parse().map_err(|_| NotASignature)?;
        if serial == 0 {
            return Err(NotASignature);
        }
        Ok(Self {
            serial,
            bytes: digits
                .as_bytes()
                .chunks(2)
                .map(byte)
                .collect::<Result<_, _>>()?,
        })
    }
}
