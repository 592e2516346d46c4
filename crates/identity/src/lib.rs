//! Who is who in the mesh: names, certificates and their life cycle, trust bundles, peer
//! verification, join tokens, sealing.
//!
//! The chain is always mesh root → cluster intermediate → leaf. The root is the [`MeshKey`], held
//! by the people who run the mesh; an intermediate ([`ClusterAuthority`]) names its cluster; a
//! [`Leaf`] names a workload, a gateway or a control plane. Who a peer is, is said by one type that
//! only verification can make: [`VerifiedPeer`]. Whether that peer is the right one is said by the
//! `accept_…` functions.
//!
//! This crate never does I/O and never reads a clock: wall time is an argument, and TLS reads it
//! from the [`TimeProvider`](rustls::time_provider::TimeProvider) that the caller hands in. The only
//! chance in it is aws-lc's own: fresh keys, signatures and sealing nonces.

mod accept;
mod authority;
mod certificate;
mod crypto;
mod generations;
mod key;
mod leaf;
mod peer;
mod proofs;
mod roots;
mod seal;
mod statement;
mod terms;
mod tickets;
mod time;
mod tls;
mod token;
mod trust;

pub use accept::{
    Callee, PeerCluster, Unacceptable, accept_callee, accept_caller, accept_control,
    accept_gateway, gateway_identity,
};
pub use authority::{
    AuthorityError, BACKDATE, CLUSTER_LIFETIME, ClusterAuthority, IssueError, LEAF_LIFETIME,
    MeshKey, RENEW_AFTER, ROOT_LIFETIME,
};
pub use certificate::{
    CertificateProblem, Certificates, ReadError, RootFingerprint, Validity, ends_soon,
};
pub use crypto::provider;
pub use key::{CertificateRequest, KeyError, KeyHash, KeyPair, RequestError};
pub use leaf::{Leaf, LeafCell, LeafError, OtherIdentity};
pub use peer::{PeerRole, VerifiedPeer};
pub use roots::{MOST_ROOTS, RootsError, SignedRoots};
pub use seal::{OpenError, SealError, open, seal};
pub use statement::{BadStatement, STATEMENT_PURPOSE_LIMIT};
pub use terms::{NotASignature, Terms, TermsSignature};
pub use tickets::{Sessions, Tickets};
pub use tls::{
    ClientAuth, FirstContactError, client_config, control_server_name, first_contact,
    gateway_server_name, peer, pinned_client_config, server_config,
};
pub use token::{
    JoinToken, JoinTokenError, TokenError, TokenGrant, TokenId, TokenRecord, TokenSecret, TokenUse,
};
pub use trust::{PeerError, TrustBundle, TrustCell, TrustError};
