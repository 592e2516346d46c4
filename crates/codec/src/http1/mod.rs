//! HTTP/1.1 (RFC 9110, RFC 9112) for a proxy: strict where leniency lets two readers disagree
//! about where a message ends, since that is how requests are smuggled.
//!
//! A proxy reads requests with [`RequestDecoder`], answers with [`encode_response`], and does the
//! reverse towards the program that it serves. What one side sent is never forwarded as bytes:
//! heads are taken apart, hop-by-hop fields removed ([`strip_hop_by_hop`]), and written anew.

mod body;
mod decode;
mod encode;
mod head;
mod malformed;
mod semantics;
mod websocket;

use bytes::Bytes;

use crate::Fields;

pub use decode::{Limits, RequestDecoder, ResponseDecoder};
pub use encode::{BodyEncoder, Unsendable, encode_request, encode_response};
pub use head::{Body, MAX_FIELDS, MAX_REQUEST_LINE, RequestHead, ResponseHead, Version};
pub use malformed::Malformed;
pub use semantics::{Target, strip_hop_by_hop};
pub use websocket::{websocket_accept, websocket_key};

/// A piece of a message. Each message is one `Head`, any `Data`, at most one `Trailers`, one `End`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<H> {
    Head(H, Body),
    /// Never empty; shares the memory of the input.
    Data(Bytes),
    Trailers(Fields),
    End,
}
