//! `isthmus/1`: many streams over one ordered stream of bytes (TLS, or a tunnel).
//!
//! A [`Connection`] is one end of it. Bytes from the peer go in by [`Connection::receive`], what
//! they mean comes out by [`Connection::poll_event`], and [`Connection::transmit`] writes what the
//! peer is to get. Either side opens streams, whoever dialled. The driver owns sockets and time:
//!
//! ```text
//! bytes came       receive(&mut input, now), then poll_event() until None
//! socket writable  transmit(&mut output, limit), then poll_event() until None
//! timer            on_timeout(now) at next_timeout()
//! socket is gone   lost(), then poll_event() until None
//! ```
//!
//! A stream is an [`Open`](crate::message::Open) one way and a
//! [`Reply`](crate::message::Reply) the other, each followed by data and optional trailers; the
//! two halves end independently. Every stream that was opened here or announced by
//! [`Event::Opened`] ends with an `Ended` (or an end flag) for its receiving half, or with a
//! `Reset` or `Unread`, whatever happens to the connection.
//!
//! # Wire format
//!
//! Each frame begins with 8 bytes: length of the payload (16 bits), type (8), flags (8), stream
//! (32), big-endian. Types below 128 are critical, those from 128 on may be skipped. Flag 1 ends
//! the sender's half of the stream; other flags are refused, since a sender may use one only after
//! the receiver's settings have offered the feature. Data payloads are at most 16 KiB, heads and
//! trailers at most [`MAX_HEAD`](crate::message::MAX_HEAD) in one frame; there is no continuation.
//! The first frame of each side is its settings; the smallest values that settings may have are
//! usable before they arrive, so that a new connection costs no round trip.
//!
//! # Bounds
//!
//! Whatever a peer does, memory stays within: the connection's receive credit (which grows only as
//! far as the process's [`MemoryBudget`](crate::memory::MemoryBudget) goes), the announced number of
//! streams times [`MAX_HEAD`](crate::message::MAX_HEAD), one queue per stream (a single frame where the
//! budget is short), and a few control frames. What is held within the credit that every connection
//! begins with, and in queues, is counted in the budget as long as it is. What goes beyond ends the connection with a [`ConnectionError`].

mod budget;
mod by_stream;
mod connection;
mod frame;
mod liveness;
mod pace;
mod settings;
mod stream;
mod turns;
mod window;

use std::time::Duration;

use bytes::Bytes;

use crate::codes::codes;
use crate::message::{Interim, Open, Reply};
use crate::{DecodeError, Fields};

pub use connection::Connection;
pub use settings::{
    LEAST_CONNECTION_CREDIT, LEAST_STREAM_CREDIT, LEAST_STREAMS, PeerSettings, Settings, VERSION,
};

/// What TLS negotiates for this protocol (RFC 7301).
pub const ALPN: &[u8] = b"isthmus/1";

/// Bytes of data that one frame carries at most.
pub const MAX_DATA: usize = 16 * 1024;

/// Bytes of one interim response. Larger ones are not forwarded.
pub const MAX_INTERIM: usize = 8 * 1024;

/// Interim responses of one stream. What a program says beyond is not forwarded.
pub const MAX_INTERIMS: u8 = 64;

/// What a side may use that the other's settings have offered.
pub mod features {
    /// The sender of an `Open` may hold its data back until it is told that they are wanted, as with
    /// `Expect: 100-continue` (RFC 9110 section 10.1.1).
    pub const EXPECT: u64 = 1;
}

/// Which end of the byte stream this is; it decides only who uses which stream numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens odd streams.
    Dialler,
    /// Opens even streams.
    Listener,
}

/// One stream of a connection. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// As it stands on the wire.
    pub fn number(self) -> u32 {
        self.0
    }

    fn is_of(self, side: Side) -> bool {
        (self.0 % 2 == 1) == (side == Side::Dialler)
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }
}

codes! {
    /// Why a stream ended before its time.
    pub enum ResetCode {
        /// It never reached the application: another try is always safe.
        Refused = 1 => "refused",
        /// Whoever wanted it no longer does.
        Cancelled = 2 => "cancelled",
        /// What was sent on it made no sense.
        Protocol = 3 => "protocol",
        /// It never reached the application, which has enough to do: another try may be made, elsewhere
        /// or later.
        Overloaded = 4 => "overloaded",
        Timeout = 5 => "timeout",
        Internal = 6 => "internal",
        /// It may have reached the application, and nobody knows what became of it.
        MaybeExecuted = 7 => "maybe-executed",
        /// The sender's half is complete, and it will not read the rest of the other.
        Complete = 8 => "complete",
    }
}

codes! {
    /// Why a side opens and accepts no more streams.
    pub enum LeaveCode {
        Draining = 1 => "draining",
        Idle = 2 => "idle",
        Protocol = 3 => "protocol",
        Overloaded = 4 => "overloaded",
    }
}

/// What the driver is told. Of one stream, events come in the order of the peer's sending.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer opened a stream. With `end`, its half is complete and no `Ended` follows.
    Opened {
        stream: StreamId,
        open: Box<Open>,
        end: bool,
    },
    /// The peer answered a stream opened here. With `end` as above.
    Replied {
        stream: StreamId,
        reply: Box<Reply>,
        end: bool,
    },
    /// The peer will answer a stream opened here, and has a hint before it does.
    Interim {
        stream: StreamId,
        interim: Box<Interim>,
    },
    /// Data; the peer may send as much again once [`Connection::consumed`] was told.
    Data { stream: StreamId, bytes: Bytes },
    /// The peer's half is complete.
    Ended {
        stream: StreamId,
        trailers: Option<Fields>,
    },
    /// The stream is no more, in both directions.
    Reset { stream: StreamId, code: ResetCode },
    /// The connection is no more, and the stream with it. Of one that was opened here, the peer may
    /// have got all that was transmitted.
    Lost { stream: StreamId },
    /// The stream is no more, in both directions, and what came on it is to be dropped: nobody has read
    /// it for a while, and all of the credit that there is stands still with it and its like. It may
    /// have `Ended` before, or come as `Reset` with data that the driver still holds.
    Unread { stream: StreamId },
    /// What the peer sent as head or trailers cannot be read. If it was an `Open`, this is the
    /// only event of the stream; else a `Reset` follows.
    Undecodable {
        stream: StreamId,
        error: DecodeError,
    },
    /// The peer wants the body of a stream opened here whose sender waits to be asked for it.
    BodyWanted { stream: StreamId },
    /// [`Connection::send`] takes bytes again, after it had left some.
    Writable { stream: StreamId },
    /// The peer takes no more streams. Those it never accepted come as `Reset` with
    /// [`ResetCode::Refused`]; the others go on.
    GoAway { code: LeaveCode },
    /// A ping was answered.
    Pong { rtt: Duration },
}

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    #[error("the peer allows {limit} streams at a time")]
    TooMany { limit: usize },
    #[error("the connection is being left")]
    Leaving,
    #[error("the connection has failed")]
    Failed,
    #[error("all stream numbers are used")]
    Exhausted,
    #[error("the head has {size} bytes, {limit} are allowed")]
    TooLarge { size: usize, limit: usize },
}

/// Why something cannot be sent on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotSend {
    #[error("the stream has ended or was reset")]
    Gone,
    #[error("this half of the stream is already complete")]
    Complete,
    #[error("a stream that the peer opened begins with a reply")]
    ReplyOwed,
    #[error("only a stream that the peer opened is replied to, once")]
    ReplyUnasked,
    #[error("the head or the trailers have {size} bytes, {limit} are allowed")]
    TooLarge { size: usize, limit: usize },
}

/// Why a connection is of no more use. All are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    #[error("the first frame has type {kind}, not settings")]
    SettingsMissing { kind: u8 },
    #[error("settings came twice")]
    SettingsRepeated,
    #[error("the settings cannot be read: {0}")]
    SettingsUndecodable(#[source] DecodeError),
    #[error("the settings offer less than the protocol's minimum of {setting}")]
    SettingsTooLow { setting: &'static str },
    #[error("critical frame type {kind} is unknown; the peer is newer")]
    UnknownFrame { kind: u8 },
    #[error("a frame of type {kind} has flags {flags:#x}")]
    UnknownFlags { kind: u8, flags: u8 },
    #[error("a frame of type {kind} has a payload of {length} bytes")]
    PayloadLength { kind: u8, length: usize },
    #[error("a frame of type {kind} is for stream {stream}, where it may not be")]
    WrongStream { kind: u8, stream: u32 },
    #[error("stream {stream} is opened out of order or with the other side's number")]
    WrongOpen { stream: u32 },
    #[error("a frame of type {kind} comes too early or too late on stream {stream}")]
    OutOfOrder { kind: u8, stream: u32 },
    #[error("more data came than was allowed, {}", stream.map_or("in all".into(), |stream| format!("on stream {stream}")))]
    CreditExceeded { stream: Option<StreamId> },
    #[error("a credit frame grants nothing")]
    CreditEmpty,
    #[error("credit was granted beyond every bound")]
    CreditOverflow,
    #[error("more than {limit} streams were opened at a time")]
    TooManyStreams { limit: usize },
    #[error("pings came faster than they can be answered")]
    PingFlood,
    #[error("frames of type {kind} came faster than any peer has use for")]
    ControlFlood { kind: u8 },
    #[error("streams were opened and reset, or could not be read, faster than any caller would")]
    ResetFlood,
    #[error("too many frames came for streams that are no more")]
    LateFlood,
    #[error("a pong came without its ping")]
    UnexpectedPong,
    #[error("the peer took back that it had refused streams")]
    GoAwayGrew,
    #[error("nothing was heard for {silent:?}, not even the answer to a ping")]
    Dead { silent: Duration },
    #[error("the byte stream under the connection is gone")]
    Lost,
}

impl ConnectionError {
    /// What the peer is told: that it is too much, or that it makes no sense.
    fn leave_code(&self) -> LeaveCode {
        match self {
            Self::TooManyStreams { .. }
            | Self::CreditExceeded { .. }
            | Self::PingFlood
            | Self::ControlFlood { .. }
            | Self::ResetFlood
            | Self::LateFlood => LeaveCode::Overloaded,
            _ => LeaveCode::Protocol,
        }
    }
}
