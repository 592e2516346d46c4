//! Where a request to a service goes, and how it is to be treated.
//!
//! [`RouteTable`] holds the routes of one service in the form that a request is matched on: sorted
//! once by the Gateway API's order of precedence, then scanned without allocating.
//! [`settings`] merges traffic policies and can say which policy gave each value.
//!
//! This crate never chooses a cluster or workload, never draws chance (a draw is an argument) and
//! does not know which services exist.

mod rule;
pub mod settings;
mod table;

pub use rule::{RouteId, Rule};
pub use table::{Headers, Matched, RequestView, RouteTable};
