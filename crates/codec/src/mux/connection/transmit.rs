//! What goes to the peer, and in which order: control, then heads, then data in turns.

use std::collections::VecDeque;
use std::time::Instant;

use crate::Sink;

use super::super::frame::{Frame, HEADER, kind, put_payload};
use super::super::stream::{SendPhase, Stream};
use super::super::turns::Turns;
use super::{Connection, ConnectionError, LeaveCode, ResetCode, StreamId};

/// Bytes of interim responses, of all streams, that wait to be transmitted.
const MOST_HINTS: usize = 64 * 1024;

/// Of a head, in bytes, to know how much room is needed.
const USUAL_HEAD: usize = 512;

/// No frame of data is made shorter than this, with its header, to end where a record does.
const LEAST: usize = 64;

/// What waits to be transmitted. Every list is bounded: by the streams that either side may have,
/// and by [`Output::answer`].
#[derive(Debug)]
pub(super) struct Output {
    settings_due: bool,
    pub(super) go_away: Option<(u32, LeaveCode)>,
    pub(super) ping: Option<u64>,
    pongs: VecDeque<u64>,
    /// Streams whose credit is due.
    pub(super) credits: VecDeque<StreamId>,
    pub(super) resets: VecDeque<(StreamId, ResetCode)>,
    /// Streams whose body is to be asked for.
    pub(super) wanted: VecDeque<StreamId>,
    /// Hints that go before the heads of their streams, and how many bytes they have.
    pub(super) interims: VecDeque<(StreamId, Vec<u8>)>,
    pub(super) interim_bytes: usize,
    /// Streams whose head is to be sent, in the order of their numbers for those opened here.
    pub(super) heads: VecDeque<StreamId>,
    /// Streams with data or an end to send; each gets one frame a turn.
    pub(super) ready: Turns,
    /// Streams with data that wait for credit of the connection.
    pub(super) starved: VecDeque<StreamId>,
}

impl Output {
    pub(super) fn new(ping: Option<u64>) -> Self {
        Self {
            settings_due: true,
            go_away: None,
            ping,
            pongs: VecDeque::new(),
            credits: VecDeque::new(),
            resets: VecDeque::new(),
            wanted: VecDeque::new(),
            interims: VecDeque::new(),
            interim_bytes: 0,
            heads: VecDeque::new(),
            ready: Turns::default(),
            starved: VecDeque::new(),
        }
    }

    /// Owes a pong. Errors: `limit` wait already.
    pub(super) fn answer(&mut self, token: u64, limit: usize) -> Result<(), ConnectionError> {
        if self.pongs.len() >= limit {
            return Err(ConnectionError::PingFlood);
        }
        self.pongs.push_back(token);
        Ok(())
    }

    /// Queues a hint, unless so many wait already that they are late.
    pub(super) fn hint(&mut self, stream: StreamId, head: Vec<u8>) -> bool {
        let has_room = self.interim_bytes + head.len() <= MOST_HINTS;
        if has_room {
            self.interim_bytes += head.len();
            self.interims.push_back((stream, head));
        }
        has_room
    }

    fn drop_hints(&mut self, stream: StreamId) {
        self.interims.retain(|(listed, _)| *listed != stream);
        let lengths = self.interims.iter().map(|(_, head)| head.len());
        self.interim_bytes = lengths.sum();
    }

    /// Takes a stream out of every list that it stands in.
    pub(super) fn forget(&mut self, stream: StreamId, state: &Stream) {
        let other = |listed: &StreamId| *listed != stream;
        if !self.wanted.is_empty() {
            self.wanted.retain(other);
        }
        if state.send.interims > 0 {
            self.drop_hints(stream);
        }
        if state.send.head.is_some() {
            self.heads.retain(other);
        }
        if state.send.listed {
            self.ready.forget(stream);
            self.starved.retain(other);
        }
        if state.receive.credit_listed {
            self.credits.retain(other);
        }
    }

    /// Drops everything but word of the failure, if the peer is there to hear it.
    pub(super) fn fail(&mut self, error: &ConnectionError, last: u32) {
        let settings_due = self.settings_due;
        *self = Self::new(None);
        match error {
            ConnectionError::Lost | ConnectionError::Dead { .. } => self.settings_due = false,
            _ => {
                self.settings_due = settings_due;
                self.go_away = Some((last, error.leave_code()));
            }
        }
    }

    fn is_empty(&self) -> bool {
        !self.settings_due
            && self.go_away.is_none()
            && self.ping.is_none()
            && self.pongs.is_empty()
            && self.credits.is_empty()
            && self.resets.is_empty()
            && self.wanted.is_empty()
            && self.interims.is_empty()
            && self.heads.is_empty()
            && self.ready.is_empty()
    }
}

impl Connection {
    /// Appends frames to `out` until nothing is left to send or `out` holds `limit` bytes; the
    /// last frame may go beyond. True while more waits: call again when `out` has been written.
    ///
    /// Frames of data end where records do that are sealed of what one call has appended, each as long as
    /// [`Connection::piece`] says: of a frame that goes on in the next record the peer has to put the parts together.
    pub fn transmit(&mut self, out: &mut dyn Sink, limit: usize) -> bool {
        let start = out.length();
        self.put_control(out);
        self.put_credits(out, limit);
        self.put_resets(out, limit);
        for stream in self.output.wanted.drain(..) {
            Frame::GoOn { stream }.put(out);
        }
        for (stream, head) in self.output.interims.drain(..) {
            put_payload(out, kind::INTERIM, false, stream.0, &head);
        }
        self.output.interim_bytes = 0;
        let before = out.length();
        self.put_heads(out, limit);
        self.put_data(out, start, limit);
        let waits = !self.output.ready.is_empty() || !self.output.starved.is_empty();
        self.pace.count(out.length() - before, waits);
        self.count_held();
        self.has_output()
    }

    /// To be asked before [`Connection::transmit`]: frames of data are no longer than this from now on, and so should be what they are
    /// sealed in. Little is sent in short pieces.
    pub fn piece(&mut self, now: Instant) -> usize {
        self.piece = self.pace.piece(now);
        self.piece
    }

    /// About how many bytes [`Connection::transmit`] would append without a limit: a buffer that has room for them need not
    /// grow, and be copied, meanwhile. All data and what frames it are in it; heads are guessed.
    pub fn waiting(&self) -> usize {
        let data = self.queued.min(self.send_window);
        let data = usize::try_from(data).unwrap_or(usize::MAX);
        let (output, full) = (&self.output, self.piece - HEADER);
        let frames = data.div_ceil(full) + output.ready.len() + 1;
        let heads = output.interim_bytes + output.heads.len() * USUAL_HEAD;
        data.saturating_add(frames * HEADER + heads)
    }

    /// Is there anything to transmit?
    pub fn has_output(&self) -> bool {
        !self.output.is_empty() || (self.error.is_none() && self.receive_window.is_due())
    }

    /// The few frames that never wait.
    fn put_control(&mut self, out: &mut dyn Sink) {
        if std::mem::take(&mut self.output.settings_due) {
            put_payload(out, kind::SETTINGS, false, 0, &self.settings.encode());
        }
        if let Some((last, code)) = self.output.go_away.take() {
            Frame::GoAway { last, code }.put(out);
        }
        for token in self.output.pongs.drain(..) {
            Frame::Pong(token).put(out);
        }
        if let Some(token) = self.output.ping.take() {
            Frame::Ping(token).put(out);
        }
    }

    fn put_credits(&mut self, out: &mut dyn Sink, limit: usize) {
        if self.error.is_none() && self.receive_window.is_due() {
            let amount = self.receive_window.grant();
            Frame::Credit {
                stream: None,
                amount,
            }
            .put(out);
        }
        while out.length() < limit {
            let Some(stream) = self.output.credits.pop_front() else {
                return;
            };
            if let Some(state) = self.streams.find_mut(stream) {
                state.receive.credit_listed = false;
                let amount = state.receive.window.grant();
                Frame::Credit {
                    stream: Some(stream),
                    amount,
                }
                .put(out);
            }
        }
    }

    fn put_resets(&mut self, out: &mut dyn Sink, limit: usize) {
        while out.length() < limit {
            let Some((stream, code)) = self.output.resets.pop_front() else {
                return;
            };
            Frame::Reset { stream, code }.put(out);
            self.release_slot(stream);
        }
    }

    fn put_heads(&mut self, out: &mut dyn Sink, limit: usize) {
        while out.length() < limit {
            let Some(stream) = self.output.heads.pop_front() else {
                return;
            };
            let Some(state) = self.streams.find_mut(stream) else {
                continue;
            };
            let end = state.send.ends_with_head();
            let Some(head) = state.send.head.take() else {
                continue;
            };
            let kind = if stream.is_of(self.side) {
                kind::OPEN
            } else {
                kind::REPLY
            };
            put_payload(out, kind, end, stream.0, &head);
            if end {
                state.send.phase = SendPhase::Done;
                self.settle(stream);
            } else {
                self.list(stream);
            }
        }
    }

    /// `start`: where in `out` its first record begins.
    fn put_data(&mut self, out: &mut dyn Sink, start: usize, limit: usize) {
        while out.length() < limit {
            let Some(stream) = self.output.ready.pop() else {
                return;
            };
            let Some(state) = self.streams.find_mut(stream) else {
                continue;
            };
            if state.send.has_data() && self.send_window == 0 {
                self.output.starved.push_back(stream);
                continue;
            }
            let room = self.piece - (out.length() - start) % self.piece;
            let piece = if room < LEAST { self.piece } else { room };
            let sent = state.send.put_frame(stream, self.send_window, piece, out);
            self.send_window -= sent;
            self.queued -= sent;
            state.send.listed = false;
            if state.send.phase == SendPhase::Done {
                self.settle(stream);
            } else {
                self.list(stream);
                self.notice_room(stream);
            }
        }
    }
}
