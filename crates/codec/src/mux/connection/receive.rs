//! What the peer's frames do to a connection.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::super::frame::{Frame, kind};
use super::super::stream::{ReceivePhase, Stream};
use super::super::window::LEAST_GRANT;
use super::{
    Connection, ConnectionError, Event, LeaveCode, MAX_INTERIMS, PeerSettings, ResetCode, StreamId,
};
use crate::DecodeError;
use crate::message::{Interim, Open, Reply};
use crate::typed::decode_fields;

/// Pongs that may wait to be transmitted.
const MAX_PONGS: usize = 32;

/// Bytes of credit beyond which a grant makes no sense.
const MAX_WINDOW: u64 = 1 << 40;

impl Connection {
    /// Takes all complete frames off the front of `input`; the rest stays until more has come.
    /// Much data shares the memory of `input`. Errors are final; the driver transmits once more, which
    /// tells the peer, and closes.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), ConnectionError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if !input.is_empty() {
            self.liveness.on_heard(now);
        }
        loop {
            match Frame::take(input) {
                Ok(None) => {
                    self.relieve(now);
                    self.count_held();
                    return Ok(());
                }
                Ok(Some(frame)) => {
                    self.on_frame(frame, now)
                        .map_err(|error| self.fail(error))?;
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), ConnectionError> {
        if !self.peer_spoke && !matches!(frame, Frame::Settings(_)) {
            return Err(ConnectionError::SettingsMissing { kind: frame.kind() });
        }
        if costs_more_than_it_brings(&frame) && !self.control_budget.spend(now) {
            return Err(ConnectionError::ControlFlood { kind: frame.kind() });
        }
        match frame {
            Frame::Settings(payload) => self.on_settings(&payload),
            Frame::Open { stream, head, end } => self.on_open(stream, head, end, now),
            Frame::Reply { stream, head, end } => self.on_reply(stream, head, end, now),
            Frame::Data { stream, bytes, end } => {
                self.grow(stream, now);
                self.on_data(stream, bytes, end, now)
            }
            Frame::Trailers { stream, fields } => self.on_trailers(stream, &fields, now),
            Frame::Reset { stream, code } => self.on_reset(stream, code, now),
            Frame::GoOn { stream } => self.on_go_on(stream),
            Frame::Interim { stream, head } => self.on_interim(stream, head, now),
            Frame::Credit {
                stream: Some(stream),
                amount,
            } => self.on_credit(stream, amount),
            Frame::Credit {
                stream: None,
                amount,
            } => self.on_connection_credit(amount),
            Frame::GoAway { last, code } => self.on_go_away(last, code),
            Frame::Ping(token) => self.output.answer(token, MAX_PONGS),
            Frame::Pong(token) => self.on_pong(token, now),
            Frame::Unknown => Ok(()),
        }
    }

    /// Lets the windows that data comes in by follow what the link carries. The connection's draws from
    /// the budget and is what bounds memory; a stream's may be as large as the connection's.
    fn grow(&mut self, stream: StreamId, now: Instant) {
        let rtt = self.liveness.rtt();
        let all = &mut self.receive_window;
        let target = all.measure(rtt, now);
        let mut missing = target.map_or(0, |target| all.missing(target));
        if all.is_crowded() {
            missing = missing.max(all.size());
        }
        if missing > 0 {
            all.grow(self.drawn.more(missing));
        } else if let Some(target) = target {
            let surplus = all.surplus(target).min(self.drawn.bytes());
            self.drawn.less(all.shrink(surplus));
        }
        let most = all.size();
        if let Some(state) = self.streams.find_mut(stream) {
            let window = &mut state.receive.window;
            let target = window.measure(rtt, now).unwrap_or(0).min(most);
            window.grow(window.missing(target));
        }
    }

    fn on_settings(&mut self, payload: &Bytes) -> Result<(), ConnectionError> {
        if self.peer_spoke {
            return Err(ConnectionError::SettingsRepeated);
        }
        let peer = PeerSettings::decode(payload)?;
        let gained = u64::from(peer.stream_credit.saturating_sub(self.peer.stream_credit));
        let gained_in_all = peer
            .connection_credit
            .saturating_sub(self.peer.connection_credit);
        self.peer = peer;
        self.peer_spoke = true;
        let streams: Vec<StreamId> = self.streams.iter().map(|(stream, _)| stream).collect();
        for stream in streams {
            if let Some(state) = self.streams.find_mut(stream) {
                state.send.window += gained;
            }
            self.notice_room(stream);
        }
        self.add_connection_credit(gained_in_all.into());
        Ok(())
    }

    fn on_open(
        &mut self,
        stream: StreamId,
        head: Bytes,
        end: bool,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if !stream.is_of(self.side.other()) || stream.0 <= self.highest_there {
            return Err(ConnectionError::WrongOpen { stream: stream.0 });
        }
        self.highest_there = stream.0;
        if self.left.is_some() {
            // The peer learns from our GOAWAY that this stream was refused.
            self.allow_late(self.settings.stream_credit.into());
            return Ok(());
        }
        let limit = usize::try_from(self.settings.streams).unwrap_or(usize::MAX);
        if self.held_there >= limit {
            return Err(ConnectionError::TooManyStreams { limit });
        }
        self.held_there += 1;
        let credit = self.settings.stream_credit;
        match Open::decode(head) {
            Ok(open) => {
                let state = Stream::opened_there(end, credit, self.peer.stream_credit.into(), now);
                self.streams.insert(stream, Box::new(state));
                self.events.push_back(Event::Opened {
                    stream,
                    open: Box::new(open),
                    end,
                });
            }
            Err(error) => {
                self.spend_reset(now)?;
                self.allow_late(credit.into());
                self.output.resets.push_back((stream, code_of(&error)));
                self.events.push_back(Event::Undecodable { stream, error });
            }
        }
        Ok(())
    }

    fn on_reply(
        &mut self,
        stream: StreamId,
        head: Bytes,
        end: bool,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let Some(state) = self.find(stream, kind::REPLY, 1)? else {
            return Ok(());
        };
        if state.receive.phase != ReceivePhase::Head {
            return Err(out_of_order(kind::REPLY, stream));
        }
        state.receive.phase = ReceivePhase::Body;
        let stopped = state.receive.stopped;
        match Reply::decode(head) {
            Ok(reply) => {
                if !stopped {
                    let reply = Box::new(reply);
                    self.events.push_back(Event::Replied { stream, reply, end });
                }
                if end {
                    self.complete(stream);
                }
                Ok(())
            }
            Err(error) => self.give_up(stream, error, now),
        }
    }

    fn on_data(
        &mut self,
        stream: StreamId,
        bytes: Bytes,
        end: bool,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let count = bytes.len() as u64;
        if !self.receive_window.take(count) {
            return Err(ConnectionError::CreditExceeded { stream: None });
        }
        let Some(state) = self.find(stream, kind::DATA, count.max(1))? else {
            self.receive_window.release(count);
            return Ok(());
        };
        if state.receive.phase != ReceivePhase::Body {
            return Err(out_of_order(kind::DATA, stream));
        }
        if !state.receive.window.take(count) {
            return Err(ConnectionError::CreditExceeded {
                stream: Some(stream),
            });
        }
        let stopped = state.receive.stopped;
        if stopped {
            self.receive_window.release(count);
        } else if count > 0 {
            if state.receive.unconsumed == 0 {
                state.receive.moved = now;
            }
            state.receive.unconsumed += count;
            self.events.push_back(Event::Data { stream, bytes });
        }
        if end {
            if !stopped {
                self.events.push_back(Event::Ended {
                    stream,
                    trailers: None,
                });
            }
            self.complete(stream);
        }
        Ok(())
    }

    fn on_trailers(
        &mut self,
        stream: StreamId,
        fields: &Bytes,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let Some(state) = self.find(stream, kind::TRAILERS, 1)? else {
            return Ok(());
        };
        if state.receive.phase != ReceivePhase::Body {
            return Err(out_of_order(kind::TRAILERS, stream));
        }
        let stopped = state.receive.stopped;
        match decode_fields(fields, fields) {
            Ok(trailers) => {
                if !stopped {
                    let trailers = (!trailers.is_empty()).then_some(trailers);
                    self.events.push_back(Event::Ended { stream, trailers });
                }
                self.complete(stream);
                Ok(())
            }
            Err(error) => self.give_up(stream, error, now),
        }
    }

    fn on_reset(
        &mut self,
        stream: StreamId,
        code: ResetCode,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if self.find(stream, kind::RESET, 1)?.is_none() {
            return Ok(());
        }
        if !stream.is_of(self.side) {
            self.spend_reset(now)?;
        }
        self.forget(stream);
        self.release_slot(stream);
        self.events.push_back(Event::Reset { stream, code });
        Ok(())
    }

    fn on_credit(&mut self, stream: StreamId, amount: u32) -> Result<(), ConnectionError> {
        let Some(state) = self.find(stream, kind::CREDIT, 1)? else {
            return Ok(());
        };
        state.send.window += u64::from(amount);
        if state.send.window > MAX_WINDOW {
            return Err(ConnectionError::CreditOverflow);
        }
        self.notice_room(stream);
        Ok(())
    }

    fn on_go_on(&mut self, stream: StreamId) -> Result<(), ConnectionError> {
        let Some(state) = self.find(stream, kind::GO_ON, 1)? else {
            return Ok(());
        };
        // It may cross the reply on its way, or come again: who has begun to send needs no word.
        if state.receive.phase == ReceivePhase::Head && !state.receive.stopped {
            self.events.push_back(Event::BodyWanted { stream });
        }
        Ok(())
    }

    fn on_interim(
        &mut self,
        stream: StreamId,
        head: Bytes,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let Some(state) = self.find(stream, kind::INTERIM, 1)? else {
            return Ok(());
        };
        let receive = &mut state.receive;
        if receive.phase != ReceivePhase::Head {
            return Err(out_of_order(kind::INTERIM, stream));
        }
        if receive.interims == MAX_INTERIMS {
            let kind = kind::INTERIM;
            return Err(ConnectionError::ControlFlood { kind });
        }
        receive.interims += 1;
        let stopped = receive.stopped;
        match Interim::decode(head) {
            Ok(interim) => {
                if !stopped {
                    let interim = Box::new(interim);
                    self.events.push_back(Event::Interim { stream, interim });
                }
                Ok(())
            }
            Err(error) => self.give_up(stream, error, now),
        }
    }

    fn on_connection_credit(&mut self, amount: u32) -> Result<(), ConnectionError> {
        self.add_connection_credit(amount.into());
        if self.send_window > MAX_WINDOW {
            return Err(ConnectionError::CreditOverflow);
        }
        Ok(())
    }

    fn add_connection_credit(&mut self, amount: u64) {
        self.send_window += amount;
        if self.send_window > 0 {
            for stream in self.output.starved.drain(..) {
                if let Some(state) = self.streams.find(stream) {
                    self.output.ready.push(stream, state);
                }
            }
        }
    }

    fn on_go_away(&mut self, last: u32, code: LeaveCode) -> Result<(), ConnectionError> {
        match self.peer_left {
            Some(before) if last > before => return Err(ConnectionError::GoAwayGrew),
            Some(_) => {}
            None => self.events.push_back(Event::GoAway { code }),
        }
        self.peer_left = Some(last);
        let beyond = |stream: &StreamId| stream.is_of(self.side) && stream.0 > last;
        let streams = self.streams.iter().map(|(stream, _)| stream);
        let refused: Vec<StreamId> = streams.filter(beyond).collect();
        for stream in refused {
            self.forget(stream);
            self.release_slot(stream);
            self.events.push_back(Event::Reset {
                stream,
                code: ResetCode::Refused,
            });
        }
        Ok(())
    }

    fn on_pong(&mut self, token: u64, now: Instant) -> Result<(), ConnectionError> {
        let rtt = self
            .liveness
            .on_pong(token, now)
            .ok_or(ConnectionError::UnexpectedPong)?;
        self.events.push_back(Event::Pong { rtt });
        Ok(())
    }

    /// The peer's half is complete.
    fn complete(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.find_mut(stream) {
            state.receive.phase = ReceivePhase::Done;
        }
        self.settle(stream);
    }

    /// What came on the stream cannot be read: it ends for both sides.
    fn give_up(
        &mut self,
        stream: StreamId,
        error: DecodeError,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        self.spend_reset(now)?;
        self.events.push_back(Event::Undecodable { stream, error });
        self.events.push_back(Event::Reset {
            stream,
            code: ResetCode::Protocol,
        });
        self.end(stream, ResetCode::Protocol);
        Ok(())
    }

    /// A stream ends by the peer's doing, whether it resets the stream or makes us do so. Errors: that
    /// has happened too often.
    fn spend_reset(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.reset_budget.spend(now) {
            Ok(())
        } else {
            Err(ConnectionError::ResetFlood)
        }
    }

    /// The state of a stream that a frame is for, or `None` when the stream is no more and the
    /// frame may have crossed its end: then it costs `late` of what is allowed for such.
    fn find(
        &mut self,
        stream: StreamId,
        kind: u8,
        late: u64,
    ) -> Result<Option<&mut Stream>, ConnectionError> {
        let here = stream.is_of(self.side);
        let was_opened = if here {
            u64::from(stream.0) < self.next_here
        } else {
            stream.0 <= self.highest_there
        };
        if !was_opened {
            return Err(ConnectionError::WrongStream {
                kind,
                stream: stream.0,
            });
        }
        match self.streams.find_mut(stream) {
            // The peer cannot know a stream whose `Open` it has not been sent.
            Some(state) if here && state.send.head.is_some() => Err(ConnectionError::WrongStream {
                kind,
                stream: stream.0,
            }),
            Some(state) => Ok(Some(state)),
            None => {
                self.late = self
                    .late
                    .checked_sub(late)
                    .ok_or(ConnectionError::LateFlood)?;
                Ok(None)
            }
        }
    }
}

/// Frames that an honest peer sends seldom, and that make us do or send something for a few bytes:
/// each is cheap, and a million of them are not.
fn costs_more_than_it_brings(frame: &Frame) -> bool {
    match frame {
        Frame::Ping(_) | Frame::GoAway { .. } | Frame::GoOn { .. } => true,
        // Who grants in crumbs gets a frame for every crumb.
        Frame::Credit { amount, .. } => u64::from(*amount) < LEAST_GRANT,
        _ => false,
    }
}

fn out_of_order(kind: u8, stream: StreamId) -> ConnectionError {
    ConnectionError::OutOfOrder {
        kind,
        stream: stream.0,
    }
}

/// What a newer peer asks for in words we do not know may be tried elsewhere; what is broken, not.
fn code_of(error: &DecodeError) -> ResetCode {
    match error {
        DecodeError::UnknownKind { .. } | DecodeError::UnknownCritical { .. } => ResetCode::Refused,
        _ => ResetCode::Protocol,
    }
}
