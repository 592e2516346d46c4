//! One stream: its two halves.

use std::time::Instant;

use bytes::Bytes;

use super::frame::{HEADER, kind, put_data_header, put_payload};
use super::window::ReceiveWindow;
use super::{MAX_DATA, StreamId};
use crate::{Pieces, Sink};

/// Data of a frame of ours at most: it fits into one record of TLS, header included.
const FULL: usize = MAX_DATA - HEADER;

/// Bytes that a stream sends without a pause before it counts as bulk.
const BULK: u64 = 4 * FULL as u64;

/// State of a stream while at least one half is not done.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) receive: Receive,
    pub(super) send: Send,
}

/// What comes from the peer.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) phase: ReceivePhase,
    /// Interim responses that have come.
    pub(super) interims: u8,
    pub(super) window: ReceiveWindow,
    /// Bytes that the driver has and has not yet said to have consumed.
    pub(super) unconsumed: u64,
    /// When the driver last consumed some, or the first came that it has not.
    pub(super) moved: Instant,
    /// The driver does not want the rest.
    pub(super) stopped: bool,
    /// Credit is due; the stream stands in the connection's list.
    pub(super) credit_listed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceivePhase {
    /// A reply is due.
    Head,
    Body,
    Done,
}

/// What goes to the peer.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) phase: SendPhase,
    /// Interim responses that were given.
    pub(super) interims: u8,
    /// The encoded head, until it is transmitted.
    pub(super) head: Option<Vec<u8>>,
    queue: Pieces,
    /// Encoded trailers; empty for none.
    trailers: Vec<u8>,
    /// Bytes transmitted since the queue was last empty.
    in_a_row: u64,
    /// Bytes that the peer allows beyond what was transmitted.
    pub(super) window: u64,
    /// The driver waits for room.
    pub(super) blocked: bool,
    /// The stream stands in one of the connection's lists of streams with data.
    pub(super) listed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendPhase {
    /// The driver owes a reply.
    Owed,
    Body,
    /// The driver has given everything; not all of it is transmitted.
    Finishing,
    Done,
}

impl Stream {
    /// A stream whose `Open` we send.
    pub(super) fn opened_here(
        head: Vec<u8>,
        end: bool,
        credit: u32,
        window: u64,
        now: Instant,
    ) -> Self {
        let phase = if end {
            SendPhase::Finishing
        } else {
            SendPhase::Body
        };
        Self {
            receive: Receive::new(ReceivePhase::Head, credit, now),
            send: Send::new(phase, Some(head), window),
        }
    }

    /// A stream whose `Open` we received.
    pub(super) fn opened_there(end: bool, credit: u32, window: u64, now: Instant) -> Self {
        let phase = if end {
            ReceivePhase::Done
        } else {
            ReceivePhase::Body
        };
        Self {
            receive: Receive::new(phase, credit, now),
            send: Send::new(SendPhase::Owed, None, window),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.send.phase == SendPhase::Done && self.receive.phase == ReceivePhase::Done
    }
}

impl Receive {
    fn new(phase: ReceivePhase, credit: u32, now: Instant) -> Self {
        Self {
            phase,
            interims: 0,
            window: ReceiveWindow::new(credit),
            unconsumed: 0,
            moved: now,
            stopped: false,
            credit_listed: false,
        }
    }
}

impl Send {
    fn new(phase: SendPhase, head: Option<Vec<u8>>, window: u64) -> Self {
        Self {
            phase,
            interims: 0,
            head,
            queue: Pieces::default(),
            in_a_row: 0,
            trailers: Vec::new(),
            window,
            blocked: false,
            listed: false,
        }
    }

    /// Bytes that may be queued now: within the peer's credit and our own queue.
    pub(super) fn capacity(&self, queue_limit: usize) -> usize {
        if self.phase != SendPhase::Body {
            return 0;
        }
        let credit = usize::try_from(self.window).unwrap_or(usize::MAX);
        queue_limit.min(credit).saturating_sub(self.queue.len())
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queue.push(bytes);
    }

    /// In bytes.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn finish(&mut self, trailers: Vec<u8>) {
        self.phase = SendPhase::Finishing;
        self.trailers = trailers;
        self.blocked = false;
    }

    /// Does a head complete the half, because nothing follows?
    pub(super) fn ends_with_head(&self) -> bool {
        self.phase == SendPhase::Finishing && self.queue.is_empty() && self.trailers.is_empty()
    }

    /// Is there a frame to transmit behind the head, credit of the connection aside?
    pub(super) fn has_more(&self) -> bool {
        self.head.is_none() && (self.has_data() || self.is_only_end_left())
    }

    pub(super) fn has_data(&self) -> bool {
        !self.queue.is_empty()
    }

    fn is_only_end_left(&self) -> bool {
        self.queue.is_empty() && self.phase == SendPhase::Finishing
    }

    /// Has it kept the connection busy for so long that others may go first?
    pub(super) fn is_bulk(&self) -> bool {
        self.in_a_row >= BULK
    }

    /// Appends one frame of data, at most `credit` bytes of it and `piece` with its header, or what ends the
    /// half. Returns the bytes of data, for the connection's account.
    pub(super) fn put_frame(
        &mut self,
        stream: StreamId,
        credit: u64,
        piece: usize,
        out: &mut dyn Sink,
    ) -> u64 {
        if self.is_only_end_left() && !self.trailers.is_empty() {
            let trailers = std::mem::take(&mut self.trailers);
            put_payload(out, kind::TRAILERS, true, stream.0, &trailers);
            self.phase = SendPhase::Done;
            return 0;
        }
        let allowed = usize::try_from(credit.min(self.window)).unwrap_or(usize::MAX);
        let length = self.queue.len().min(piece - HEADER).min(allowed);
        let rest = self.queue.len() - length;
        let end = rest == 0 && self.phase == SendPhase::Finishing && self.trailers.is_empty();
        if length == 0 && !end {
            return 0;
        }
        put_data_header(out, stream, length, end);
        self.put_queued(length, out);
        self.window -= length as u64;
        if end {
            self.phase = SendPhase::Done;
        }
        length as u64
    }

    fn put_queued(&mut self, mut length: usize, out: &mut dyn Sink) {
        self.in_a_row = if length == self.queue.len() {
            0
        } else {
            self.in_a_row + length as u64
        };
        while length > 0 {
            let Some(part) = self.queue.pop(length) else {
                return;
            };
            length -= part.len();
            out.append(&part);
        }
    }
}
