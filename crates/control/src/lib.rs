//! The control plane of one cluster: its API, its certificate authority, what it publishes to its
//! proxies and replicates with the other clusters.
//!
//! All decisions are made by one machine, [`Core`], which has a single owner and no sockets. The
//! rest (`hub`, `serve`, `api`, `peers`) carries bytes between it and the world. This crate never
//! sees a request of an application and knows nothing of how proxies serve them.

#![allow(
    clippy::result_large_err,
    reason = "a refusal of the API is rare, and goes straight to whoever asked"
)]

mod api;
mod at_rest;
mod authority;
mod backup;
mod config;
mod core;
mod hex;
mod hub;
mod index;
mod issuer;
mod metrics;
mod open_error;
mod peers;
mod roots;
mod run;
mod serve;
mod time;
mod tls;

pub use at_rest::{AtRest, AtRestError, KeySource, SourceError};
pub use backup::{BackupError, BackupInfo, Restoration, read_backup, restore};
pub use config::{ApiToken, Config, DataError, Initialised, Ports, init};
pub use core::{
    Action, Answer, Backup, ConnectionId, Core, Event, Generation, HistoryQuery, Notice, Now,
    OwnCertificate, PeerSessionId, Request, RequestId, Selection, SessionId, Settings, Target,
    Verb, WatchEvent, Write, mark_backup,
};
pub use open_error::OpenError;
pub use run::{Addresses, Control, ControlError, OwnLeafError, run};
