//! Loads: what clients do, and what they saw of it.

mod h2load;
mod handshake;
mod paced;
mod tcp;
mod threads;
mod wrk;

use std::time::Duration;

pub(crate) use self::handshake::hold as hold_sessions;

use isthmus_lab::http;
use isthmus_lab::trouble::{Result, ensure, trouble};

use crate::program::{BODY, LARGE};
use crate::stage::Way;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// GETs of HTTP/1.1 on connections that are kept, each when the one before was answered.
    Http1 { size: Size },
    /// One GET of HTTP/1.1 on each connection, and the last one.
    Http1Once,
    /// GETs of HTTP/2, sixteen at a time on each connection.
    Http2,
    /// The same with unary calls of gRPC.
    Grpc,
    /// Bytes in large portions.
    Bulk,
    /// 1 KiB on each connection.
    TcpOnce,
    /// A full handshake on each connection.
    Handshake,
    /// GETs of HTTP/1.1, sent when they are due, whatever became of those before.
    Paced(Pace),
    /// What it takes in memory, of which nothing is counted.
    Memory(Held),
}

/// What proxies hold while their memory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// They were just started.
    Nothing,
    /// Each client has a request of HTTP/1.1 under way.
    Active,
    /// Clients of HTTP/1.1 that want nothing now.
    Clients,
    /// Sessions of mutual TLS on which nothing is said.
    Sessions,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    PerSecond(u32),
    /// Half as often as the slowest of those who take part answers when it is asked as often as it can.
    HalfOfSlowest,
}

/// Of a reply's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// 1 KiB.
    Small,
    /// 64 KiB.
    Large,
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
            Self::Http1 { .. } | Self::Http2 | Self::Grpc | Self::Paced(_) => "request",
            Self::Handshake => "handshake",
            Self::Memory(_) => "proxy",
            Self::Http1Once | Self::TcpOnce => "connection",
            Self::Bulk => "MB",
        }
    }

    /// Runs it. Errors: anything that was not answered as it should be.
    pub(crate) fn run(self, way: &Way, connections: usize, duration: Duration) -> Result<Done> {
        match self {
            Self::Http1 { size } => wrk::run(way, size.path(), connections, duration),
            Self::Http1Once => tcp::request(way, connections, duration),
            Self::Http2 => h2load::run(way, false, connections, duration),
            Self::Grpc => h2load::run(way, true, connections, duration),
            Self::Bulk => tcp::read(way, connections, duration),
            Self::TcpOnce => tcp::open(way, connections, duration),
            Self::Handshake => handshake::run(way, connections, duration),
            Self::Memory(_) => trouble("memory is not counted by requests"),
            Self::Paced(Pace::PerSecond(rate)) => paced::run(way, rate, duration),
            Self::Paced(Pace::HalfOfSlowest) => paced::run(way, way.half_load, duration),
        }
    }

    /// Errors: a way does not lead to the program.
    pub(crate) fn check(self, way: &Way) -> Result<()> {
        match self {
            Self::Http1 { size } => size.check(way),
            Self::Memory(Held::Nothing | Held::Sessions) => Ok(()),
            Self::Paced(_) | Self::Memory(_) => Size::Small.check(way),
            Self::Handshake
            | Self::Http1Once
            | Self::Http2
            | Self::Grpc
            | Self::Bulk
            | Self::TcpOnce => self.run(way, 1, Duration::from_secs(1)).map(drop),
        }
    }
}

impl Size {
    fn path(self) -> &'static str {
        match self {
            Self::Small => "/",
            Self::Large => "/64k",
        }
    }

    /// wrk looks at no body, so one reply is looked at before.
    fn check(self, way: &Way) -> Result<()> {
        let (path, host) = (self.path(), way.host);
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let reply = http::exchange(way.address, request.as_bytes())?.expect(200)?;
        let expect: &[u8] = match self {
            Self::Small => &BODY,
            Self::Large => &LARGE,
        };
        ensure(reply.body == expect, || format!("an odd reply: {reply:?}"))
    }
}
