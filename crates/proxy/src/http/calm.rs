//! Frames of HTTP/2 that bring nothing, counted as they pass: a peer that sends too many is told to
//! calm down (RFC 9113 section 10.5).
//!
//! The crate `h2` bounds what a peer can make it *keep*: streams, heads, CONTINUATION frames, small
//! DATA frames, streams reset before they were looked at. What it does not bound is what a peer can
//! make it *do* for nothing: to answer pings and settings, to read grants and priorities, to open
//! streams that are cancelled at once. That is judged here, by the second. Looks at the heads of frames
//! and knows nothing of what they mean to a stream.

use std::time::{Duration, Instant};

use super::http2::PREFACE;

/// Frames that bring nothing, from and because of one peer. Honest ones need a few: a ping for each
/// estimate of bandwidth, and as many resets as there are requests that nobody waits for any more.
pub(crate) const MOST_A_SECOND: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// For so many bytes that we send a peer may grant us credit once. Whoever grants it for every frame,
/// and for its stream and the connection apart, does so for twice as many.
const BYTES_A_GRANT: u64 = 512;
/// Grants that a peer may fall behind with.
const MOST_GRANTS: u64 = 64 * 1024;

/// Half of what `h2` stands; what runs by then may send the rest.
const WORN_AFTER: u32 = 50;

/// What one peer sends and is sent.
#[derive(Debug)]
pub(crate) struct Calm {
    received: FrameWalk,
    sent: FrameWalk,
    /// Bytes that were sent and for which no grant has come yet.
    ungranted: u64,
    /// The peer is a program, which we ask.
    is_program: bool,
    /// Requests that we have sent to it, each of which it may reset once.
    asked: u64,
    since: Instant,
    spent: u32,
    /// DATA frames in which there was nothing.
    empty: u32,
}

impl Calm {
    /// Of a client's connection, which begins with the preface.
    pub(crate) fn of_client(now: Instant) -> Self {
        Self {
            received: FrameWalk::behind(PREFACE.len()),
            sent: FrameWalk::behind(0),
            ungranted: 0,
            is_program: false,
            asked: 0,
            since: now,
            spent: 0,
            empty: 0,
        }
    }

    /// Of a connection to a program, which we begin with the preface.
    pub(crate) fn of_program(now: Instant) -> Self {
        Self {
            received: FrameWalk::behind(0),
            sent: FrameWalk::behind(PREFACE.len()),
            is_program: true,
            ..Self::of_client(now)
        }
    }

    /// The peer has sent `bytes`. False: it has to calm down.
    pub(crate) fn on_received(&mut self, bytes: &[u8], now: Instant) -> bool {
        let (ungranted, asked, mut nothing) = (&mut self.ungranted, &mut self.asked, 0);
        let empty = &mut self.empty;
        self.received.pass(bytes, |frame| {
            nothing += u32::from(frame.brings_nothing(ungranted, asked));
            *empty = empty.saturating_add(u32::from(frame.is_empty_data()));
        });
        self.spend(nothing, now)
    }

    /// Should the connection be left for another one? `h2` ends it at the hundredth and first frame of DATA
    /// in which there is nothing, over all its life; some send one before the trailers of each stream.
    pub(crate) fn is_worn(&self) -> bool {
        self.empty >= WORN_AFTER
    }

    /// We have sent `bytes`. False: the peer makes too many mistakes.
    pub(crate) fn on_sent(&mut self, bytes: &[u8], now: Instant) -> bool {
        let most = MOST_GRANTS * BYTES_A_GRANT;
        self.ungranted = (self.ungranted + bytes.len() as u64).min(most);
        let (is_program, asked, mut mistakes) = (self.is_program, &mut self.asked, 0);
        self.sent.pass(bytes, |frame| {
            mistakes += u32::from(frame.answers_a_mistake());
            *asked += u64::from(is_program && frame.kind == kind::HEADERS);
        });
        self.spend(mistakes, now)
    }

    fn spend(&mut self, count: u32, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.since = now;
            self.spent = 0;
        }
        self.spent = self.spent.saturating_add(count);
        self.spent <= MOST_A_SECOND
    }
}

/// The head of a frame (RFC 9113 section 4.1), and of a reset its error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    /// It has no payload and does not end its stream.
    is_empty: bool,
    code: u32,
}

/// RFC 9113 section 6.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// By which we end a stream whose peer did what it may not: PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
/// STREAM_CLOSED, REFUSED_STREAM (RFC 9113 section 7).
const BLAMES: [u32; 4] = [1, 3, 5, 7];

impl Frame {
    /// Requests and their bodies are something; all else is about the connection.
    fn brings_nothing(self, ungranted: &mut u64, asked: &mut u64) -> bool {
        match self.kind {
            // `h2` bounds the small ones among them.
            kind::DATA | kind::HEADERS | kind::CONTINUATION => false,
            kind::WINDOW_UPDATE if *ungranted >= BYTES_A_GRANT => {
                *ungranted -= BYTES_A_GRANT;
                false
            }
            // A program's answer, and no more than one to each request.
            kind::RST_STREAM if *asked > 0 => {
                *asked -= 1;
                false
            }
            _ => true,
        }
    }

    fn is_empty_data(self) -> bool {
        self.kind == kind::DATA && self.is_empty
    }

    fn answers_a_mistake(self) -> bool {
        self.kind == kind::RST_STREAM && BLAMES.contains(&self.code)
    }
}

/// A flag of DATA (RFC 9113 section 6.1).
const END_STREAM: u8 = 1;
/// Length, type, flags, stream.
const HEAD: usize = 9;
const CODE: usize = 4;

/// A place in a stream of frames.
#[derive(Debug)]
struct FrameWalk {
    /// What is left of the frame before.
    skip: usize,
    /// The beginning of the next one.
    begun: [u8; HEAD + CODE],
    filled: usize,
}

impl FrameWalk {
    fn behind(skip: usize) -> Self {
        Self {
            skip,
            begun: [0; HEAD + CODE],
            filled: 0,
        }
    }

    /// Walks over `bytes`, which may end anywhere.
    fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = self.wanted();
            let taken = (wanted - self.filled).min(bytes.len());
            self.begun[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            // Of a reset more is wanted once its head is there.
            if self.filled > 0 && self.filled == self.wanted() {
                seen(self.frame());
                *self = Self::behind(HEAD + self.length() - self.filled);
            }
        }
    }

    /// Bytes of the frame that are looked at.
    fn wanted(&self) -> usize {
        if self.filled >= HEAD && self.begun[3] == kind::RST_STREAM {
            HEAD + self.length().min(CODE)
        } else {
            HEAD
        }
    }

    fn length(&self) -> usize {
        let [a, b, c] = [0, 1, 2].map(|at| usize::from(self.begun[at]));
        a << 16 | b << 8 | c
    }

    fn frame(&self) -> Frame {
        let code = &self.begun[HEAD..];
        Frame {
            kind: self.begun[3],
            is_empty: self.length() == 0 && self.begun[4] & END_STREAM == 0,
            code: code
                .iter()
                .fold(0, |code, &byte| code << 8 | u32::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, 0, 0, 0, 0, 1]].concat();
        [&head, payload].concat()
    }

    /// How many of them pass before the peer has to calm down; all at one moment.
    fn passed(sent: &[u8], received: &[u8]) -> u32 {
        let now = Instant::now();
        let mut calm = Calm::of_client(now);
        assert!(calm.on_received(PREFACE, now));
        let most = 20 * MOST_A_SECOND;
        let ends = |_: &u32| !calm.on_sent(sent, now) || !calm.on_received(received, now);
        (0..most).find(ends).unwrap_or(most)
    }

    #[test]
    fn what_brings_nothing_is_bounded_and_what_brings_something_is_not() {
        let endless = 20 * MOST_A_SECOND;
        let grant = frame(kind::WINDOW_UPDATE, &[0, 0, 0, 1]);
        for (what, sent, received, expect) in [
            ("pings", vec![], frame(PING, &[0; 8]), MOST_A_SECOND),
            ("settings", vec![], frame(SETTINGS, &[]), MOST_A_SECOND),
            ("priorities", vec![], frame(2, &[0; 5]), MOST_A_SECOND),
            ("unknown frames", vec![], frame(77, &[]), MOST_A_SECOND),
            ("goodbyes", vec![], frame(7, &[0; 8]), MOST_A_SECOND),
            (
                "cancelled requests",
                vec![],
                frame(3, &[0; 4]),
                MOST_A_SECOND,
            ),
            ("grants", vec![], grant.clone(), MOST_A_SECOND),
            (
                "grants for data",
                frame(0, &[0; 1400]),
                grant.repeat(2),
                endless,
            ),
            ("grants for bytes", frame(0, &[0; 1]), grant, 1019),
            ("data", vec![], frame(0, &[0; 10]), endless),
            ("heads", vec![], frame(1, &[0; 10]), endless),
            ("more of heads", vec![], frame(9, &[0; 10]), endless),
            // RST_STREAM of ours.
            (
                "protocol errors",
                frame(3, &[0, 0, 0, 1]),
                vec![],
                MOST_A_SECOND,
            ),
            (
                "refused streams",
                frame(3, &[0, 0, 0, 7]),
                vec![],
                MOST_A_SECOND,
            ),
            ("failures of ours", frame(3, &[0, 0, 0, 2]), vec![], endless),
        ] {
            assert_eq!(passed(&sent, &received), expect, "{what}");
        }
    }

    #[test]
    fn a_program_may_reset_what_it_was_asked_and_no_more() {
        let now = Instant::now();
        let most = MOST_A_SECOND as usize;
        for (asked, resets, expect) in [
            (0, most, true),
            (0, most + 1, false),
            (5000, 5000 + most, true),
            (5000, 5001 + most, false),
        ] {
            let mut calm = Calm::of_program(now);
            let requests = frame(kind::HEADERS, &[0; 10]).repeat(asked);
            assert!(calm.on_sent(&[PREFACE, &requests].concat(), now));
            let reset = frame(kind::RST_STREAM, &[0, 0, 0, 7]);
            assert_eq!(
                calm.on_received(&reset.repeat(resets), now),
                expect,
                "{asked} {resets}"
            );
        }
        let mut calm = Calm::of_program(now);
        let pings = frame(PING, &[0; 8]).repeat(most + 1);
        assert!(!calm.on_received(&pings, now));
    }

    #[test]
    fn a_connection_is_left_before_frames_with_nothing_in_them_end_it() {
        let now = Instant::now();
        let mut calm = Calm::of_program(now);
        let (nothing, something) = (frame(kind::DATA, &[]), frame(kind::DATA, &[0]));
        let mut end = nothing.clone();
        end[4] = END_STREAM;
        for _ in 1..WORN_AFTER {
            assert!(calm.on_received(&[&nothing[..], &something, &end].concat(), now));
        }
        assert!(!calm.is_worn());
        assert!(calm.on_received(&nothing, now));
        assert!(calm.is_worn());
    }

    #[test]
    fn frames_are_told_apart_wherever_bytes_end() {
        let said = [
            frame(0, &[6; 30]),
            frame(3, &[0, 0, 0, 8]),
            frame(PING, &[3; 8]),
            frame(3, &[1, 2]),
            frame(SETTINGS, &[]),
        ]
        .concat();
        for size in 1..said.len() {
            let mut seen = Vec::new();
            let mut walk = FrameWalk::behind(3);
            for part in [b"PRI", said.as_slice()].concat().chunks(size) {
                walk.pass(part, |frame| seen.push(frame.kind));
            }
            assert_eq!(seen, [0, 3, PING, 3, SETTINGS], "{size}");
        }
    }

    #[test]
    fn a_second_later_it_begins_anew() {
        let now = Instant::now();
        let mut calm = Calm::of_client(now);
        calm.on_received(PREFACE, now);
        let pings = frame(PING, &[0; 8]).repeat(MOST_A_SECOND as usize);
        assert!(calm.on_received(&pings, now));
        assert!(calm.on_received(&pings, now + SECOND));
        assert!(!calm.on_received(&pings, now + SECOND));
    }
}
