//! What goes over the API: paths of resources, errors, and the views under `/mesh/v1`.
//!
//! The control plane serves these types and the command line reads them; both by way of this
//! crate, so that there is one shape. Field names are camelCase JSON and stable: fields are only
//! added. Times are milliseconds, instants RFC 3339. No I/O.

mod certificate;
mod explain;
mod failure;
mod history;
mod list;
mod path;
mod revocation;
mod status;
mod token;

pub use certificate::{CertificateView, NewCertificate, NewRoots};
pub use explain::{
    BackendView, CandidateView, ChoiceView, ExplainReply, ExplainRequest, HeaderPair, RefusalView,
    SettingView, Way, WorkloadView,
};
pub use failure::{Cause, Failure, FailureDetails};
pub use history::{ChangeView, HistoryRequest, HistoryView};
pub use list::{ListMeta, ObjectList, UnreachableCluster};
pub use path::{ResourcePath, cluster_of, collection, object, of_cluster};
pub use revocation::{RevocationView, RevocationsView, RevokeRequest};
pub use status::{
    AuthorityStatus, AuthorityView, BehindStatus, CertificateStatus, ClusterStatus, Contact,
    GatewayStatus, HeldStatus, ProxyStatus, RESET_PURPOSE, ReleaseRequest, ReleaseView,
    ResetRequest, ResetStatement, ServiceShare, ServiceStatus, StatusView, TransferRequest,
    VoterPart, VoterView,
};
pub use token::{TokenReply, TokenRequest};
