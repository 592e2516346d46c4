//! Loads: what clients do, and what they saw of it.

mod wrk;

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_lab::trouble::Result;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// GETs of HTTP/1.1 on connections that are kept, each when the one before was answered.
    Http1 { path: &'static str },
}

/// What came of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Done {
    /// Requests that were answered as they should be.
    pub(crate) count: f64,
    pub(crate) took: Duration,
    /// Of a request, in microseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Load {
    /// What is counted.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Http1 { .. } => "request",
        }
    }

    /// Runs it. Errors: anything that was not answered as it should be.
    pub(crate) fn run(
        self,
        address: SocketAddr,
        host: &str,
        connections: usize,
        duration: Duration,
    ) -> Result<Done> {
        match self {
            Self::Http1 { path } => wrk::run(address, host, path, connections, duration),
        }
    }
}
