//! The data plane.
//!
//! One process stands beside a program ([`Role::Sidecar`]) or at the edge of a cluster
//! ([`Role::Gateway`]). Its *outbound* half takes what the program calls, its *inbound* half what
//! others call of the program; a gateway opens tunnels. Traffic runs on worker threads of one
//! single-threaded runtime each; joining, subscribing, health checks and metrics run on the caller's
//! runtime. All that the two share are immutable views and counters.
//!
//! Knows nothing of stores, APIs or other clusters' control planes.

mod admin;
mod agent;
mod alarm;
mod blocks;
mod config;
mod crew;
mod deal;
mod destination;
mod gate;
mod gateway;
mod handover;
mod health;
mod http;
mod inbound;
mod intake;
mod introduction;
mod journey;
mod kept;
mod links;
mod listeners;
mod memory;
mod mux;
mod names;
mod outbound;
mod outside;
mod process;
mod program;
mod reach;
mod refusal;
mod sessions;
mod splice;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;

/// The allocator of the binary, so that `make counts` counts what users run.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
mod tls;
mod told;
mod view;
mod worker;

pub use agent::JoinError;
pub use config::{ClientLimits, Config, Listener, Patience, Ports, Role, Sidecar};
pub use handover::{Handover, Sockets, Word};
pub use introduction::{BadNetwork, Network};
pub use isthmus_codec::http1::Limits;
pub use listeners::CannotListen;
pub use process::{ProxyError, Running, start, take_over};
