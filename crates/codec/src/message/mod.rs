//! The one form in which messages travel between proxies, whatever protocol the application
//! spoke: an [`Open`] begins a stream, a [`Reply`] answers it, data and trailers follow.
//!
//! A message is a kind and typed fields. Newer peers may add optional fields, which older ones
//! skip, and critical ones, which older ones refuse. Values are checked when they are read: what
//! exists can be written to any other wire. Sizes are bounded by [`MAX_HEAD`].

mod open;
mod reply;

pub use open::{Context, Open, Priority, Request, TcpOpen, TunnelOpen};
pub use reply::{Interim, RefusalCode, Reply, Response, TunnelReply, Utilisation};

/// Bytes that an encoded `Open`, `Reply` or trailer list may have.
pub const MAX_HEAD: usize = u16::MAX as usize;

/// Handles that a tunnel may ask to avoid.
pub const MAX_AVOID: usize = 64;

/// Labels that a subset may have.
const MAX_LABELS: usize = 32;

/// Bytes of a handle, zone, label value, data class or detail.
const MAX_TEXT: usize = 1024;

/// Bytes of a trace context or a refusal.
const MAX_TRACE: usize = 1024;
