//! The proxy's side of the conversation with its control plane: joining, subscribing, reporting.
//!
//! Runs on the process's own thread, away from traffic. It is the only writer of views, and the
//! request path never waits for it, except for the first answer about a service. When the control
//! plane is gone, what is known stays in use.

mod channel;
mod join;
mod session;
mod store;

pub use join::JoinError;
pub(crate) use join::join;
pub(crate) use session::{Agent, Report, Status};
pub(crate) use store::Vault;
