//! Frames: taking them off the wire and writing them.

use bytes::{Buf, Bytes, BytesMut};

use super::{ConnectionError, LeaveCode, MAX_DATA, MAX_INTERIM, ResetCode, StreamId};
use crate::Sink;
use crate::pieces::take_off;

/// Bytes before each payload.
pub(super) const HEADER: usize = 8;

const END: u8 = 1;

/// Types of frames; those from 128 on may be skipped by who does not know them.
pub(super) mod kind {
    pub(in crate::mux) const SETTINGS: u8 = 0;
    pub(in crate::mux) const OPEN: u8 = 1;
    pub(in crate::mux) const REPLY: u8 = 2;
    pub(in crate::mux) const DATA: u8 = 3;
    pub(in crate::mux) const TRAILERS: u8 = 4;
    pub(in crate::mux) const RESET: u8 = 5;
    pub(in crate::mux) const CREDIT: u8 = 6;
    pub(in crate::mux) const GO_AWAY: u8 = 7;
    pub(in crate::mux) const PING: u8 = 8;
    pub(in crate::mux) const PONG: u8 = 9;
    pub(in crate::mux) const GO_ON: u8 = 128;
    pub(in crate::mux) const INTERIM: u8 = 129;
    /// Optional ones that nobody has defined yet begin here.
    pub(in crate::mux) const FIRST_UNKNOWN: u8 = 130;
}

/// A frame whose form is right; whether it makes sense is for the connection to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Settings(Bytes),
    Open {
        stream: StreamId,
        head: Bytes,
        end: bool,
    },
    Reply {
        stream: StreamId,
        head: Bytes,
        end: bool,
    },
    /// Empty only with `end`.
    Data {
        stream: StreamId,
        bytes: Bytes,
        end: bool,
    },
    /// Ends the half as well.
    Trailers {
        stream: StreamId,
        fields: Bytes,
    },
    Reset {
        stream: StreamId,
        code: ResetCode,
    },
    /// The body of the stream is wanted; see [`super::features::EXPECT`].
    GoOn {
        stream: StreamId,
    },
    /// Comes before the reply. Who does not know it loses a hint.
    Interim {
        stream: StreamId,
        head: Bytes,
    },
    /// `None`: for the connection. Never 0.
    Credit {
        stream: Option<StreamId>,
        amount: u32,
    },
    GoAway {
        last: u32,
        code: LeaveCode,
    },
    Ping(u64),
    Pong(u64),
    /// An optional one that this version does not know.
    Unknown,
}

impl Frame {
    /// Takes the frame at the front of `input`, or `None` when it is not complete. A payload that
    /// is too long for its type is refused before it is waited for.
    pub(super) fn take(input: &mut BytesMut) -> Result<Option<Self>, ConnectionError> {
        let Some([high, low, kind, flags, number @ ..]) = input.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes(*number));
        check(kind, flags, stream, length)?;
        if input.len() < HEADER + length {
            return Ok(None);
        }
        input.advance(HEADER);
        let (end, stream) = (flags & END != 0, StreamId(stream));
        let frame = match kind {
            kind::SETTINGS => Self::Settings(take_off(input, length)),
            kind::OPEN => Self::Open {
                stream,
                head: take_off(input, length),
                end,
            },
            kind::REPLY => Self::Reply {
                stream,
                head: take_off(input, length),
                end,
            },
            kind::INTERIM => Self::Interim {
                stream,
                head: take_off(input, length),
            },
            kind::DATA => Self::Data {
                stream,
                bytes: take_off(input, length),
                end,
            },
            kind::TRAILERS => Self::Trailers {
                stream,
                fields: take_off(input, length),
            },
            _ => {
                let control = Self::control(kind, stream, &input[..length]);
                input.advance(length);
                control?
            }
        };
        Ok(Some(frame))
    }

    /// Frames whose payload is a few numbers; [`check`] has seen to the length.
    fn control(kind: u8, stream: StreamId, mut payload: &[u8]) -> Result<Self, ConnectionError> {
        Ok(match kind {
            kind::RESET => Self::Reset {
                stream,
                code: payload.get_u16().into(),
            },
            kind::GO_ON => Self::GoOn { stream },
            kind::CREDIT => match payload.get_u32() {
                0 => return Err(ConnectionError::CreditEmpty),
                amount => Self::Credit {
                    stream: (stream.0 != 0).then_some(stream),
                    amount,
                },
            },
            kind::GO_AWAY => Self::GoAway {
                last: payload.get_u32(),
                code: payload.get_u16().into(),
            },
            kind::PING => Self::Ping(payload.get_u64()),
            kind::PONG => Self::Pong(payload.get_u64()),
            _ => Self::Unknown,
        })
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Settings(_) => kind::SETTINGS,
            Self::Open { .. } => kind::OPEN,
            Self::Reply { .. } => kind::REPLY,
            Self::Data { .. } => kind::DATA,
            Self::Trailers { .. } => kind::TRAILERS,
            Self::Reset { .. } => kind::RESET,
            Self::GoOn { .. } => kind::GO_ON,
            Self::Interim { .. } => kind::INTERIM,
            Self::Credit { .. } => kind::CREDIT,
            Self::GoAway { .. } => kind::GO_AWAY,
            Self::Ping(_) => kind::PING,
            Self::Pong(_) => kind::PONG,
            Self::Unknown => kind::FIRST_UNKNOWN,
        }
    }

    /// Appends the frame. `Unknown` writes nothing.
    pub(super) fn put(&self, out: &mut dyn Sink) {
        let kind = self.kind();
        match self {
            Self::Settings(payload) => put_payload(out, kind, false, 0, payload),
            Self::Open { stream, head, end } | Self::Reply { stream, head, end } => {
                put_payload(out, kind, *end, stream.0, head);
            }
            Self::Data { stream, bytes, end } => put_payload(out, kind, *end, stream.0, bytes),
            Self::Trailers { stream, fields } => put_payload(out, kind, true, stream.0, fields),
            Self::Reset { stream, code } => {
                put_payload(out, kind, false, stream.0, &u16::from(*code).to_be_bytes());
            }
            Self::GoOn { stream } => put_payload(out, kind, false, stream.0, &[]),
            Self::Interim { stream, head } => put_payload(out, kind, false, stream.0, head),
            Self::Credit { stream, amount } => {
                let stream = stream.map_or(0, |stream| stream.0);
                put_payload(out, kind, false, stream, &amount.to_be_bytes());
            }
            Self::GoAway { last, code } => {
                put_header(out, 6, kind, false, 0);
                out.append(&last.to_be_bytes());
                out.append(&u16::from(*code).to_be_bytes());
            }
            Self::Ping(token) | Self::Pong(token) => {
                put_payload(out, kind, false, 0, &token.to_be_bytes());
            }
            Self::Unknown => {}
        }
    }
}

/// Everything that can be wrong with a header.
fn check(kind: u8, flags: u8, stream: u32, length: usize) -> Result<(), ConnectionError> {
    let (lengths, flags_allowed, on_stream) = match kind {
        kind::SETTINGS => (0..=1024, 0, Some(false)),
        kind::OPEN | kind::REPLY => (1..=usize::from(u16::MAX), END, Some(true)),
        kind::DATA if flags & END == 0 => (1..=MAX_DATA, END, Some(true)),
        kind::DATA => (0..=MAX_DATA, END, Some(true)),
        kind::TRAILERS => (0..=usize::from(u16::MAX), END, Some(true)),
        kind::RESET => (2..=2, 0, Some(true)),
        kind::CREDIT => (4..=4, 0, None),
        kind::GO_AWAY => (6..=6, 0, Some(false)),
        kind::PING | kind::PONG => (8..=8, 0, Some(false)),
        kind::GO_ON => (0..=0, 0, Some(true)),
        kind::INTERIM => (1..=MAX_INTERIM, 0, Some(true)),
        kind::FIRST_UNKNOWN.. => (0..=MAX_DATA, u8::MAX, None),
        _ => return Err(ConnectionError::UnknownFrame { kind }),
    };
    if flags & !flags_allowed != 0 {
        return Err(ConnectionError::UnknownFlags { kind, flags });
    }
    if !lengths.contains(&length) {
        return Err(ConnectionError::PayloadLength { kind, length });
    }
    if on_stream.is_some_and(|on_stream| on_stream != (stream != 0)) {
        return Err(ConnectionError::WrongStream { kind, stream });
    }
    Ok(())
}

/// Appends a header for `length` bytes of data that the caller appends.
pub(super) fn put_data_header(out: &mut dyn Sink, stream: StreamId, length: usize, end: bool) {
    put_header(out, length, kind::DATA, end, stream.0);
}

/// Appends a frame.
pub(super) fn put_payload(out: &mut dyn Sink, kind: u8, end: bool, stream: u32, payload: &[u8]) {
    put_header(out, payload.len(), kind, end, stream);
    out.append(payload);
}

fn put_header(out: &mut dyn Sink, length: usize, kind: u8, end: bool, stream: u32) {
    let size = u16::try_from(length).expect("heads and data are bounded before they are queued");
    let [high, low] = size.to_be_bytes();
    let [first, second, third, fourth] = stream.to_be_bytes();
    let end = if end { END } else { 0 };
    out.append(&[high, low, kind, end, first, second, third, fourth]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let stream = StreamId(7);
        let bytes = Bytes::from_static(b"abc");
        for frame in [
            Frame::Settings(bytes.clone()),
            Frame::Open {
                stream,
                head: bytes.clone(),
                end: true,
            },
            Frame::Reply {
                stream,
                head: bytes.clone(),
                end: false,
            },
            Frame::Interim {
                stream,
                head: bytes.clone(),
            },
            Frame::Data {
                stream,
                bytes: bytes.clone(),
                end: false,
            },
            Frame::Data {
                stream,
                bytes: Bytes::new(),
                end: true,
            },
            Frame::Trailers {
                stream,
                fields: bytes.clone(),
            },
            Frame::Reset {
                stream,
                code: ResetCode::Unknown(900),
            },
            Frame::Credit {
                stream: Some(stream),
                amount: 5,
            },
            Frame::Credit {
                stream: None,
                amount: u32::MAX,
            },
            Frame::GoAway {
                last: 8,
                code: LeaveCode::Idle,
            },
            Frame::Ping(u64::MAX),
            Frame::Pong(3),
        ] {
            let mut out = BytesMut::new();
            frame.put(&mut out);
            for short in 0..out.len() {
                assert_eq!(Frame::take(&mut BytesMut::from(&out[..short])), Ok(None));
            }
            assert_eq!(Frame::take(&mut out), Ok(Some(frame)));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn headers_that_are_refused() {
        use ConnectionError as E;
        let payload = |kind, length| E::PayloadLength { kind, length };
        for (header, expect) in [
            ([0, 0, 99, 0, 0, 0, 0, 1], E::UnknownFrame { kind: 99 }),
            (
                [0, 1, 3, 2, 0, 0, 0, 1],
                E::UnknownFlags { kind: 3, flags: 2 },
            ),
            (
                [0, 8, 8, 1, 0, 0, 0, 0],
                E::UnknownFlags { kind: 8, flags: 1 },
            ),
            ([0, 0, 1, 0, 0, 0, 0, 1], payload(1, 0)),
            ([0, 0, 3, 0, 0, 0, 0, 1], payload(3, 0)),
            ([0x40, 1, 3, 0, 0, 0, 0, 1], payload(3, 16_385)),
            ([0, 3, 5, 0, 0, 0, 0, 1], payload(5, 3)),
            ([0, 7, 8, 0, 0, 0, 0, 0], payload(8, 7)),
            ([8, 0, 0, 0, 0, 0, 0, 0], payload(0, 2048)),
            (
                [0, 1, 3, 0, 0, 0, 0, 0],
                E::WrongStream { kind: 3, stream: 0 },
            ),
            (
                [0, 8, 8, 0, 0, 0, 0, 1],
                E::WrongStream { kind: 8, stream: 1 },
            ),
        ] {
            assert_eq!(Frame::take(&mut BytesMut::from(&header[..])), Err(expect));
        }
        let mut skipped = BytesMut::from(&[0, 1, 200, 255, 0, 0, 0, 9, 42][..]);
        assert_eq!(Frame::take(&mut skipped), Ok(Some(Frame::Unknown)));
        assert!(skipped.is_empty());
    }
}
