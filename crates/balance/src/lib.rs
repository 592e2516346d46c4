//! Which cluster, which workload, and whether to try again: the mesh's valve.
//!
//! - [`Valve`] chooses the cluster of each request: the nearest lawful one that is not hot.
//! - [`Endpoints`] chooses the workload within it, and ejects those that keep failing.
//! - [`Admission`] stands before a workload's program: what it takes now, what waits, what is shed.
//! - [`Hedging`] says when a request is sent a second time before the first has failed.
//! - [`Attempts`] judges how a try ended; [`Budget`] bounds what retries may add.
//!
//! All are machines: a request's life is `pick → begin/start → finish`, with `now` and a uniformly
//! distributed `draw` as arguments. Choosing never changes anything, so the same call decides and
//! explains; what happened is told afterwards. Results never depend on the order of the input.
//!
//! This crate never connects, sleeps, reads a clock or draws chance, and it never answers "nowhere"
//! while a lawful cluster has a workload.

mod admission;
mod affinity;
mod attempts;
mod breaker;
mod budget;
mod choice;
pub mod constants;
mod draw;
mod endpoints;
mod hedge;
mod latency;
mod limit;
mod outcome;
mod outlier;
mod ramp;
mod valve;

pub use admission::{
    Admission, Admitted, Arrival, Importance, Served, Shed, ShedReason, Ticket, Turn,
};
pub use affinity::hash_key;
pub use attempts::{Attempts, Avoid, Committed, GiveUp, Relief, Verdict, is_idempotent};
pub use budget::{Budget, Inbound, Retried};
pub use choice::{Barred, ClusterShare, Considered, Decision, Hot, Possible, Reason};
pub use endpoints::{Endpoints, Picked, WorkloadReason, WorkloadView};
pub use hedge::{Hedgeable, Hedging, NoHedge};
pub use limit::Told;
pub use outcome::{Evidence, Outcome};
pub use outlier::{Cause, Ejection, is_much_slower};
pub use valve::{ClusterTry, Valve};
