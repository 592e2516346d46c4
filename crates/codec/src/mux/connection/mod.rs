//! One end of a connection: its state, and what the driver may do with it.

mod held;
mod receive;
mod relief;
mod transmit;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Budget;
use super::by_stream::ByStream;
use super::liveness::{Liveness, Verdict};
use super::pace::Pace;
use super::stream::{ReceivePhase, SendPhase, Stream};
use super::window::ReceiveWindow;
use super::{
    CannotOpen, CannotSend, ConnectionError, Event, LeaveCode, MAX_DATA, MAX_INTERIM, MAX_INTERIMS,
    PeerSettings, ResetCode, Settings, Side, StreamId,
};
use crate::Fields;
use crate::memory::{MemoryBudget, Share};
use crate::message::{Interim, MAX_HEAD, Open, Reply};
use crate::typed::encode_fields;
use relief::Lingering;
use transmit::Output;

/// Frames without data that may still be under way for a stream when it ends.
const LATE_FRAMES: u64 = 64;

/// Streams that a peer may open and reset in a second, as a multiple of those it may have open.
const RESETS_PER_STREAM: u32 = 10;

/// Pings, GOAWAYs and small grants that a peer may send in a second. Honest ones need a few.
const CONTROLS_A_SECOND: u32 = 1000;

/// One end of a connection. See [`super`] for how to drive it.
#[derive(Debug)]
pub struct Connection {
    side: Side,
    settings: Settings,
    peer: PeerSettings,
    peer_spoke: bool,
    /// Ordered, so that what concerns all streams happens in the same order every time.
    streams: ByStream<Box<Stream>>,
    /// Number of the next stream opened here; beyond `u32` when all are used.
    next_here: u64,
    /// Highest number that the peer has opened.
    highest_there: u32,
    /// Streams that count against the limits: open ones, and those whose reset is not yet
    /// transmitted, so that a peer cannot make us keep more resets than it may have streams.
    held_here: usize,
    held_there: usize,
    receive_window: ReceiveWindow,
    /// What `receive_window` has grown by.
    drawn: Share,
    /// What is held beyond `drawn`, in steps.
    held: Share,
    /// Bytes of data in the queues of all streams.
    queued: u64,
    budget: MemoryBudget,
    /// Of streams that are no more: bytes that the driver still holds. They count against the
    /// connection's credit until they have left our memory, or short streams would be free.
    lingering: BTreeMap<StreamId, Lingering>,
    /// The latest moment that the driver has told.
    clock: Instant,
    /// Not before is there anything to gain from streams that stand still.
    next_look: Instant,
    /// Bytes of data that the peer allows on all streams together.
    send_window: u64,
    liveness: Liveness,
    reset_budget: Budget,
    control_budget: Budget,
    /// What may still come for streams that are no more: bytes of data, or frames without.
    late: u64,
    /// Set when we leave: the last stream of the peer that we accepted.
    left: Option<u32>,
    /// Set when the peer leaves: the last stream of ours that it accepted.
    peer_left: Option<u32>,
    error: Option<ConnectionError>,
    events: VecDeque<Event>,
    output: Output,
    pace: Pace,
    /// With its header, a frame of data is at most so long.
    piece: usize,
}

impl Connection {
    /// A connection whose byte stream has just come up. It pings at once, to know the round trip. Its
    /// credit stays what `settings` say.
    pub fn new(side: Side, settings: Settings, now: Instant) -> Self {
        Self::drawing(side, settings, &MemoryBudget::new(0), now)
    }

    /// As [`Connection::new`]; credit grows with what the link can carry and with what is not consumed,
    /// as far as `budget` has it.
    pub fn drawing(side: Side, settings: Settings, budget: &MemoryBudget, now: Instant) -> Self {
        let settings = settings.at_least_minimum();
        let peer = PeerSettings::assumed();
        let mut liveness = Liveness::new(&settings, now);
        let ping = liveness.ask(now);
        Self {
            side,
            next_here: if side == Side::Dialler { 1 } else { 2 },
            highest_there: 0,
            held_here: 0,
            held_there: 0,
            receive_window: ReceiveWindow::new(settings.connection_credit),
            drawn: budget.share(),
            held: budget.share(),
            queued: 0,
            budget: budget.clone(),
            lingering: BTreeMap::new(),
            clock: now,
            next_look: now,
            send_window: peer.connection_credit.into(),
            liveness,
            reset_budget: Budget::new(settings.streams.saturating_mul(RESETS_PER_STREAM), now),
            control_budget: Budget::new(CONTROLS_A_SECOND, now),
            late: LATE_FRAMES,
            left: None,
            peer_left: None,
            error: None,
            events: VecDeque::new(),
            output: Output::new(ping),
            pace: Pace::new(now),
            piece: MAX_DATA,
            streams: ByStream::new(),
            peer_spoke: false,
            settings,
            peer,
        }
    }

    /// The next thing that the driver must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the peer has announced, or `None` until it has.
    pub fn peer(&self) -> Option<&PeerSettings> {
        self.peer_spoke.then_some(&self.peer)
    }

    /// The smoothed round trip, or `None` until a ping was answered.
    pub fn rtt(&self) -> Option<Duration> {
        self.liveness.rtt()
    }

    /// Streams that are open in at least one direction.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Why the connection failed, if it did.
    pub fn error(&self) -> Option<&ConnectionError> {
        self.error.as_ref()
    }

    /// Would [`Connection::open`] take a stream now?
    pub fn can_open(&self) -> Result<(), CannotOpen> {
        let limit = usize::try_from(self.peer.streams).unwrap_or(usize::MAX);
        if self.error.is_some() {
            Err(CannotOpen::Failed)
        } else if self.left.is_some() || self.peer_left.is_some() {
            Err(CannotOpen::Leaving)
        } else if self.next_here > u32::MAX.into() {
            Err(CannotOpen::Exhausted)
        } else if self.held_here >= limit {
            Err(CannotOpen::TooMany { limit })
        } else {
            Ok(())
        }
    }

    /// Opens a stream. With `end` nothing follows from this side.
    pub fn open(&mut self, open: &Open, end: bool) -> Result<StreamId, CannotOpen> {
        self.can_open()?;
        let head = open.encoded();
        if head.len() > MAX_HEAD {
            return Err(CannotOpen::TooLarge {
                size: head.len(),
                limit: MAX_HEAD,
            });
        }
        let number = u32::try_from(self.next_here).map_err(|_| CannotOpen::Exhausted)?;
        let stream = StreamId(number);
        self.next_here += 2;
        self.held_here += 1;
        let (credit, window) = (self.settings.stream_credit, self.peer.stream_credit.into());
        let state = Stream::opened_here(head, end, credit, window, self.clock);
        self.streams.insert(stream, Box::new(state));
        self.output.heads.push_back(stream);
        Ok(stream)
    }

    /// Answers a stream that the peer opened. With `end` nothing follows from this side.
    pub fn reply(&mut self, stream: StreamId, reply: &Reply, end: bool) -> Result<(), CannotSend> {
        let state = self.streams.find_mut(stream).ok_or(CannotSend::Gone)?;
        if state.send.phase != SendPhase::Owed {
            return Err(CannotSend::ReplyUnasked);
        }
        let head = reply.encoded();
        check_size(head.len())?;
        state.send.head = Some(head);
        state.send.phase = if end {
            SendPhase::Finishing
        } else {
            SendPhase::Body
        };
        self.output.heads.push_back(stream);
        Ok(())
    }

    /// Gives the peer a hint before the answer to a stream that it opened. Hints are small, few, and
    /// dropped where they would have to wait: False says so.
    pub fn interim(&mut self, stream: StreamId, interim: &Interim) -> bool {
        let Some(state) = self.streams.find_mut(stream) else {
            return false;
        };
        let head = interim.encoded();
        let owed = state.send.phase == SendPhase::Owed;
        if !owed || state.send.interims == MAX_INTERIMS || head.len() > MAX_INTERIM {
            return false;
        }
        state.send.interims += 1;
        self.output.hint(stream, head)
    }

    /// Asks for the body of a stream that the peer opened, and that is not answered yet. To be called
    /// once, and only where the peer has said that it waits for it.
    pub fn want_body(&mut self, stream: StreamId) {
        let state = self.streams.find(stream);
        if state.is_some_and(|state| state.send.phase == SendPhase::Owed) {
            self.output.wanted.push_back(stream);
        }
    }

    /// Bytes that [`Connection::send`] would take now: within the peer's credit for the stream and
    /// our own queue. 0 when the stream takes no data.
    pub fn capacity(&self, stream: StreamId) -> usize {
        self.streams
            .find(stream)
            .map_or(0, |state| state.send.capacity(self.queue_limit()))
    }

    /// Takes from the front of `bytes` as much as may be queued, and returns how much. When that
    /// leaves no room, [`Event::Writable`] tells when there is some again.
    pub fn send(&mut self, stream: StreamId, bytes: &mut Bytes) -> Result<usize, CannotSend> {
        let limit = self.queue_limit();
        let state = self.sendable(stream)?;
        let count = state.send.capacity(limit).min(bytes.len());
        if count > 0 {
            state.send.push(bytes.split_to(count));
        }
        state.send.blocked = state.send.capacity(limit) == 0;
        self.queued += count as u64;
        self.list(stream);
        self.count_held();
        Ok(count)
    }

    /// Ends this side's half, with trailers if there are any. What is queued is still sent.
    pub fn finish(
        &mut self,
        stream: StreamId,
        trailers: Option<&Fields>,
    ) -> Result<(), CannotSend> {
        let state = self.sendable(stream)?;
        let trailers = trailers.map(encode_fields).unwrap_or_default();
        check_size(trailers.len())?;
        state.send.finish(trailers);
        self.list(stream);
        Ok(())
    }

    /// `count` bytes of the stream's data have left our memory: the peer may send as much again.
    /// Data of a stream that has ended counts as well, until it is told to be consumed or the stream
    /// is stopped or reset.
    pub fn consumed(&mut self, stream: StreamId, count: usize) {
        let Some(state) = self.streams.find_mut(stream) else {
            return self.consumed_late(stream, count as u64);
        };
        let receive = &mut state.receive;
        let count = receive.unconsumed.min(count as u64);
        receive.unconsumed -= count;
        receive.moved = self.clock;
        self.receive_window.release(count);
        if receive.phase != ReceivePhase::Done {
            receive.window.release(count);
            if receive.window.is_due() && !receive.credit_listed {
                receive.credit_listed = true;
                self.output.credits.push_back(stream);
            }
        }
        self.count_held();
    }

    fn consumed_late(&mut self, stream: StreamId, count: u64) {
        if let Some(lingering) = self.lingering.get_mut(&stream) {
            let count = count.min(lingering.held);
            lingering.held -= count;
            lingering.moved = self.clock;
            if lingering.held == 0 {
                self.lingering.remove(&stream);
            }
            self.receive_window.release(count);
            self.count_held();
        }
    }

    /// Wants no more of what the peer sends on the stream, and has dropped what there was of it, as when a refusal answers a request
    /// whose body is still coming. Data is dropped from now on, and once this side's half is sent,
    /// [`ResetCode::Complete`] ends the stream. Of the stream, no more events need to be awaited.
    pub fn stop(&mut self, stream: StreamId) {
        let Some(state) = self.streams.find_mut(stream) else {
            return self.consumed_late(stream, u64::MAX);
        };
        state.receive.stopped = true;
        let unconsumed = std::mem::take(&mut state.receive.unconsumed);
        self.receive_window.release(unconsumed);
        self.count_held();
        self.settle(stream);
    }

    /// Ends the stream in both directions at once; what is queued is not sent, and what was received
    /// is dropped. A stream whose `Open` was never transmitted leaves no trace.
    pub fn reset(&mut self, stream: StreamId, code: ResetCode) {
        self.end(stream, code);
        self.consumed_late(stream, u64::MAX);
    }

    /// Ends the stream in both directions at once; what was received is for the driver to drop.
    fn end(&mut self, stream: StreamId, code: ResetCode) {
        let Some(state) = self.forget(stream) else {
            return;
        };
        if stream.is_of(self.side) && state.send.head.is_some() {
            self.held_here = self.held_here.saturating_sub(1);
        } else {
            self.output.resets.push_back((stream, code));
        }
    }

    /// Opens and accepts no more streams. Those that the peer has opened so far go on; later ones
    /// it learns to be refused. Said once; further calls change nothing.
    pub fn go_away(&mut self, code: LeaveCode) {
        if self.left.is_none() && self.error.is_none() {
            self.left = Some(self.highest_there);
            self.output.go_away = Some((self.highest_there, code));
        }
    }

    /// Is the connection being left, by whichever side, with nothing more to do on it?
    pub fn is_drained(&self) -> bool {
        let leaving = self.left.is_some() || self.peer_left.is_some() || self.error.is_some();
        leaving && self.streams.is_empty() && !self.has_output()
    }

    /// Asks for the round trip, unless a ping is under way.
    pub fn ping(&mut self, now: Instant) {
        if let Some(token) = self.liveness.ask(now) {
            self.output.ping = Some(token);
        }
    }

    /// When to call [`Connection::on_timeout`]. It changes with every call of anything else.
    pub fn next_timeout(&self) -> Option<Instant> {
        let alive = self.error.is_none();
        alive.then(|| self.liveness.due(!self.streams.is_empty()))
    }

    /// Pings a silent peer. Errors: the peer has not answered in time; the connection is dead, and
    /// its streams come as `Lost`.
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        self.relieve(now);
        match self.liveness.on_timeout(!self.streams.is_empty(), now) {
            Verdict::Alive => Ok(()),
            Verdict::Ping(token) => {
                self.output.ping = Some(token);
                Ok(())
            }
            Verdict::Dead { silent } => Err(self.fail(ConnectionError::Dead { silent })),
        }
    }

    /// The byte stream is gone. Every open stream comes as `Lost`, or, if its `Open` was never
    /// transmitted, as `Reset` with [`ResetCode::Refused`].
    pub fn lost(&mut self) {
        if self.error.is_none() {
            self.fail(ConnectionError::Lost);
        }
    }

    /// Ends everything for `error`. What remains to be transmitted is why.
    fn fail(&mut self, error: ConnectionError) -> ConnectionError {
        self.error = Some(error.clone());
        for (stream, state) in self.streams.take() {
            let is_unsent = stream.is_of(self.side) && state.send.head.is_some();
            self.events.push_back(if is_unsent {
                let code = ResetCode::Refused;
                Event::Reset { stream, code }
            } else {
                Event::Lost { stream }
            });
        }
        self.queued = 0;
        self.count_held();
        self.output
            .fail(&error, self.left.unwrap_or(self.highest_there));
        error
    }

    /// A stream on which this side may send data.
    fn sendable(&mut self, stream: StreamId) -> Result<&mut Stream, CannotSend> {
        let state = self.streams.find_mut(stream).ok_or(CannotSend::Gone)?;
        match state.send.phase {
            SendPhase::Owed => Err(CannotSend::ReplyOwed),
            SendPhase::Body => Ok(state),
            SendPhase::Finishing | SendPhase::Done => Err(CannotSend::Complete),
        }
    }

    /// Puts the stream among those with something to transmit behind their head.
    fn list(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.find_mut(stream)
            && state.send.has_more()
            && !state.send.listed
        {
            state.send.listed = true;
            self.output.ready.push(stream, state);
        }
    }

    /// Tells the driver when a stream that was full has room again.
    fn notice_room(&mut self, stream: StreamId) {
        let limit = self.queue_limit();
        if let Some(state) = self.streams.find_mut(stream)
            && state.send.blocked
            && state.send.capacity(limit) > 0
        {
            state.send.blocked = false;
            self.events.push_back(Event::Writable { stream });
        }
    }

    /// Removes the stream if both halves are done, or if nobody waits for the other one.
    fn settle(&mut self, stream: StreamId) {
        let Some(state) = self.streams.find(stream) else {
            return;
        };
        if state.is_done() {
            self.forget(stream);
            self.release_slot(stream);
        } else if state.send.phase == SendPhase::Done && state.receive.stopped {
            self.reset(stream, ResetCode::Complete);
        }
    }

    /// Takes the stream out of every list, and makes room for what is still under way.
    fn forget(&mut self, stream: StreamId) -> Option<Box<Stream>> {
        let state = self.streams.remove(stream)?;
        self.output.forget(stream, &state);
        self.queued -= state.send.queued() as u64;
        self.count_held();
        if state.receive.unconsumed > 0 {
            let lingering = Lingering {
                held: state.receive.unconsumed,
                moved: state.receive.moved,
            };
            self.lingering.insert(stream, lingering);
        }
        self.allow_late(state.receive.window.available());
        Some(state)
    }

    fn allow_late(&mut self, bytes: u64) {
        self.late = self.late.saturating_add(bytes).saturating_add(LATE_FRAMES);
    }

    /// The stream counts no longer.
    fn release_slot(&mut self, stream: StreamId) {
        let held = if stream.is_of(self.side) {
            &mut self.held_here
        } else {
            &mut self.held_there
        };
        *held = held.saturating_sub(1);
    }
}

fn check_size(size: usize) -> Result<(), CannotSend> {
    if size > MAX_HEAD {
        return Err(CannotSend::TooLarge {
            size,
            limit: MAX_HEAD,
        });
    }
    Ok(())
}
