//! Protocols as machines.
//!
//! - [`memory`]: the one account of what a process holds for others.
//! - [`http1`]: HTTP/1.1 as the applications on both sides of a pair of proxies speak it.
//! - [`message`]: the one form in which requests, replies and tunnels travel between proxies.
//! - [`mux`]: many streams of such messages over one ordered stream of bytes.
//! - [`tls`]: the records of an established session of TLS 1.3.
//! - [`proxy_protocol`]: how a load balancer tells whose connection it hands on.
//!
//! Bytes and `now` go in, bytes and events come out. Nothing here opens a socket, reads a clock,
//! spawns or waits, and no input makes it panic or grow without bound.

mod codes;
mod fields;
pub mod http1;
pub mod memory;
pub mod message;
pub mod mux;
mod pieces;
pub mod proxy_protocol;
mod sink;
mod syntax;
pub mod tls;
mod typed;

pub use fields::{BadField, Fields};
pub use pieces::Pieces;
pub use sink::Sink;
pub use typed::DecodeError;
