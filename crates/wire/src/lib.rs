//! The one language that proxies and control planes share.
//!
//! Protobuf messages (`proto`), and their conversions from and to `model` values: a message is
//! checked once, at this edge, and is a `model` value (or a message of `delta` or `replica`) from
//! then on. No other crate reads or writes protobuf fields of resources. Never does I/O.

mod authority;
mod body;
mod convert;
mod field;
mod peer;
mod report;
mod sync;
mod topic;

pub use authority::{
    DecisionError, decode_decision, decode_entry, decode_snapshot, decode_voting, encode_decision,
    encode_entry, encode_snapshot, encode_voting, from_head, to_head,
};
pub use body::{Body, BodyError, ClusterView, FEATURES};
pub use peer::{PeerFrameError, PeerIncoming};
pub use report::{LinkReport, WorkloadReport};
pub use topic::{Topic, UnknownTopic};

/// The generated messages and services of `isthmus.mesh.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub
)]
pub mod proto {
    tonic::include_proto!("isthmus.mesh.v1");
}
