//! What the mesh tells about itself: names of metrics, access-log fields and refusal reasons, each
//! in one place, and the recorders for them.
//!
//! `docs/reference/metrics.md`, `access-log.md` and `refusals.md` are written from the tables here.
//!
//! This crate never opens a socket, reads a clock, logs, or decides anything: callers say what
//! happened and how long it took.

mod access;
mod flow;
mod histogram;
mod metrics;
pub mod names;
pub mod reference;
mod refusal;
mod tally;

pub use access::{AccessField, AccessRecord, rfc3339};
pub use flow::{Flow, FlowKey, Outcome, Reporter, Source};
pub use metrics::{CONTENT_TYPE, Metrics};
pub use names::{CONTROL_METRICS, METRICS, MetricKind, MetricName};
pub use refusal::{Fault, RefusalReason, Retry};
