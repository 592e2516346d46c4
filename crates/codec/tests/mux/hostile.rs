//! What no honest peer does, and what it brings.

use std::time::Duration;

use bytes::BytesMut;
use isthmus_codec::mux::{
    CannotOpen, Connection, ConnectionError as E, Event, LEAST_STREAM_CREDIT, MAX_DATA, ResetCode,
    Settings, StreamId,
};

use crate::pair::{Pair, response, tcp};

const OPEN: u8 = 1;
const REPLY: u8 = 2;
const DATA: u8 = 3;
const TRAILERS: u8 = 4;
const RESET: u8 = 5;
const CREDIT: u8 = 6;
const GO_AWAY: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;

/// Bytes of a short stream.
const SHORT: usize = 4 * MAX_DATA;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn open(stream: u32) -> Vec<u8> {
    let mut head = BytesMut::new();
    tcp().encode(&mut head);
    frame(OPEN, 0, stream, &head)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &[0, 2])
}

/// A listener whose peer we are.
struct Victim(Pair);

impl Victim {
    fn new() -> Self {
        Self(Pair::established())
    }

    fn takes(&mut self, bytes: &[u8]) -> Result<(), E> {
        let now = self.0.now;
        self.0
            .listener
            .connection
            .receive(&mut BytesMut::from(bytes), now)
    }

    /// A stream of [`SHORT`] bytes that both sides end at once; nothing of it is consumed.
    fn short_stream(&mut self, number: u32) -> Result<StreamId, E> {
        let stream = 2 * number + 1;
        let data = frame(DATA, 0, stream, &vec![0; MAX_DATA]).repeat(SHORT / MAX_DATA);
        self.takes(&[open(stream), data, frame(DATA, 1, stream, b"")].concat())?;
        let opened = self
            .0
            .listener
            .events()
            .into_iter()
            .find_map(|event| match event {
                Event::Opened { stream, .. } => Some(stream),
                _ => None,
            });
        let stream = opened.unwrap();
        let connection = &mut self.0.listener.connection;
        connection.reply(stream, &response(200), true).unwrap();
        self.transmit();
        Ok(stream)
    }

    fn transmit(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        self.0.listener.connection.transmit(&mut out, usize::MAX);
        out
    }
}

#[test]
fn one_frame_or_two_that_end_a_connection() {
    let wrong = |kind, stream| E::WrongStream { kind, stream };
    let early = |kind, stream| E::OutOfOrder { kind, stream };
    for (frames, expect) in [
        (vec![frame(0, 0, 0, &[])], E::SettingsRepeated),
        (vec![frame(99, 0, 0, &[])], E::UnknownFrame { kind: 99 }),
        (vec![open(2)], E::WrongOpen { stream: 2 }),
        (vec![open(3), open(1)], E::WrongOpen { stream: 1 }),
        (vec![open(3), open(3)], E::WrongOpen { stream: 3 }),
        (vec![frame(DATA, 0, 1, b"x")], wrong(DATA, 1)),
        (vec![frame(REPLY, 0, 2, &[2])], wrong(REPLY, 2)),
        (vec![frame(RESET, 0, 9, &[0, 2])], wrong(RESET, 9)),
        (vec![open(1), frame(REPLY, 0, 1, &[2])], early(REPLY, 1)),
        (
            vec![open(1), frame(DATA, 1, 1, b""), frame(DATA, 0, 1, b"x")],
            early(DATA, 1),
        ),
        (
            vec![
                open(1),
                frame(TRAILERS, 1, 1, b""),
                frame(TRAILERS, 1, 1, b""),
            ],
            early(TRAILERS, 1),
        ),
        (
            vec![open(1), frame(DATA, 0, 1, b"")],
            E::PayloadLength {
                kind: DATA,
                length: 0,
            },
        ),
        (vec![frame(CREDIT, 0, 0, &[0; 4])], E::CreditEmpty),
        (vec![frame(PONG, 0, 0, &[9; 8])], E::UnexpectedPong),
        (
            vec![
                frame(GO_AWAY, 0, 0, &[0, 0, 0, 2, 0, 1]),
                frame(GO_AWAY, 0, 0, &[0, 0, 0, 4, 0, 1]),
            ],
            E::GoAwayGrew,
        ),
    ] {
        let mut victim = Victim::new();
        assert_eq!(victim.takes(&frames.concat()), Err(expect.clone()));
        assert_eq!(victim.takes(b""), Err(expect.clone()), "errors are final");
        let told = frame(GO_AWAY, 0, 0, &[]);
        assert_eq!(
            victim.transmit()[2..8],
            told[2..8],
            "the peer is told: {expect}"
        );
        assert_eq!(victim.transmit(), b""[..]);
        assert_eq!(
            victim.0.listener.connection.can_open(),
            Err(CannotOpen::Failed)
        );
    }
}

#[test]
fn the_first_frame_is_settings_with_enough_in_them() {
    let decode = |payload: &[u8]| {
        let mut pair = Pair::new(&Settings::default());
        let mut input = BytesMut::from(&frame(0, 0, 0, payload)[..]);
        pair.listener.connection.receive(&mut input, pair.now)
    };
    let version = [3, 1, 1];
    assert_eq!(decode(&version), Ok(()));
    assert_eq!(
        decode(&[&version[..], &[62, 1, 7][..]].concat()),
        Ok(()),
        "optional"
    );
    assert!(matches!(
        decode(&[&version[..], &[63, 1, 7][..]].concat()),
        Err(E::SettingsUndecodable(_))
    ));
    assert_eq!(decode(&[]), Err(E::SettingsTooLow { setting: "version" }));
    let low = [&version[..], &[9, 1, 1][..]].concat();
    assert_eq!(decode(&low), Err(E::SettingsTooLow { setting: "streams" }));
    let mut pair = Pair::new(&Settings::default());
    let mut input = BytesMut::from(&open(1)[..]);
    let result = pair.listener.connection.receive(&mut input, pair.now);
    assert_eq!(result, Err(E::SettingsMissing { kind: OPEN }));
}

#[test]
fn credit_is_a_limit() {
    let full = vec![0; MAX_DATA];
    let mut victim = Victim::new();
    victim.takes(&open(1)).unwrap();
    for _ in 0..16 {
        victim.takes(&frame(DATA, 0, 1, &full)).unwrap();
    }
    let stream = victim
        .0
        .listener
        .events()
        .iter()
        .find_map(|event| match event {
            Event::Opened { stream, .. } => Some(*stream),
            _ => None,
        });
    let exceeded = E::CreditExceeded { stream };
    assert_eq!(victim.takes(&frame(DATA, 0, 1, b"x")), Err(exceeded));

    // Credit that is due but was never transmitted does not count.
    let mut victim = Victim::new();
    victim.takes(&open(1)).unwrap();
    let mut taken = 0;
    loop {
        match victim.takes(&frame(DATA, 0, 1, &full)) {
            Ok(()) => taken += full.len(),
            Err(error) => break assert!(matches!(error, E::CreditExceeded { .. })),
        }
        for event in victim.0.listener.events() {
            if let Event::Data { stream, bytes } = event {
                victim.0.listener.connection.consumed(stream, bytes.len());
            }
        }
    }
    assert_eq!(taken, 256 * 1024);

    let mut victim = Victim::new();
    let mut total = 0;
    for stream in (1..).step_by(2) {
        victim.takes(&open(stream)).unwrap();
        let result = (0..16).try_for_each(|_| victim.takes(&frame(DATA, 0, stream, &full)));
        if let Err(error) = result {
            assert_eq!(error, E::CreditExceeded { stream: None });
            break;
        }
        total += 16 * full.len();
    }
    assert_eq!(total, 4 * 1024 * 1024);
}

#[test]
fn credit_cannot_overflow() {
    let mut victim = Victim::new();
    let most = frame(CREDIT, 0, 0, &[0xff; 4]);
    let overflows = (0..1000).any(|_| victim.takes(&most) == Err(E::CreditOverflow));
    assert!(overflows);
}

#[test]
fn floods_end_the_connection() {
    let mut victim = Victim::new();
    let opens: Vec<u8> = (0..1025).flat_map(|n| open(2 * n + 1)).collect();
    assert_eq!(victim.takes(&opens), Err(E::TooManyStreams { limit: 1024 }));

    // Refusing does not make room until the refusals are transmitted.
    let mut victim = Victim::new();
    let mut result = Ok(());
    for number in 0..1025 {
        result = victim.takes(&open(2 * number + 1));
        for event in victim.0.listener.events() {
            if let Event::Opened { stream, .. } = event {
                victim
                    .0
                    .listener
                    .connection
                    .reset(stream, ResetCode::Refused);
            }
        }
    }
    assert_eq!(result, Err(E::TooManyStreams { limit: 1024 }));

    let mut victim = Victim::new();
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(33);
    assert_eq!(victim.takes(&pings), Err(E::PingFlood));

    let mut victim = Victim::new();
    let mut reset_and_open = |numbers: std::ops::Range<u32>, time| {
        victim.0.pass(time);
        let frames: Vec<u8> = numbers
            .flat_map(|n| [open(2 * n + 1), reset(2 * n + 1)].concat())
            .collect();
        let result = victim.takes(&frames);
        victim.0.listener.events();
        result
    };
    let second = Duration::from_secs(1);
    assert_eq!(reset_and_open(0..10_240, second), Ok(()));
    assert_eq!(reset_and_open(10_240..20_480, second), Ok(()));
    assert_eq!(
        reset_and_open(20_480..20_481, Duration::ZERO),
        Err(E::ResetFlood)
    );

    let mut victim = Victim::new();
    victim.takes(&[open(1), reset(1)].concat()).unwrap();
    let late = frame(DATA, 0, 1, &vec![0; MAX_DATA]);
    let frames = (0..1000).find(|_| victim.takes(&late) == Err(E::LateFlood));
    assert_eq!(frames, Some(16), "its credit, and not a frame more");
}

/// How a program may be done with a stream.
type Release = fn(&mut Connection, StreamId);

/// A stream that is over is not free: what the program has not taken of it still fills our memory.
#[test]
fn data_of_ended_streams_counts_until_the_program_is_done_with_it() {
    let allowed = 4 * 1024 * 1024 / SHORT;
    let mut victim = Victim::new();
    let taken = (0..1000).map_while(|number| victim.short_stream(number).ok());
    assert_eq!(taken.count(), allowed);
    assert_eq!(victim.0.listener.connection.open_streams(), 0);
    assert_eq!(
        victim.takes(b""),
        Err(E::CreditExceeded { stream: None }),
        "streams that are over are held all the same"
    );

    let releases: [Release; 3] = [
        |connection, stream| connection.consumed(stream, SHORT),
        Connection::stop,
        |connection, stream| connection.reset(stream, ResetCode::Cancelled),
    ];
    for release in releases {
        let mut victim = Victim::new();
        for number in 0..3 * u32::try_from(allowed).unwrap() {
            let stream = victim.short_stream(number).unwrap();
            release(&mut victim.0.listener.connection, stream);
            victim.transmit();
        }
    }
}

/// Its name, what is sent again and again, how often that is taken, and what ends it.
type Flood<'f> = (&'f str, Box<dyn Fn(u32) -> Vec<u8> + 'f>, usize, E);

/// What costs a peer a few bytes and us some work is limited, read or not; the peer is told that it is
/// too much.
#[test]
fn what_is_cheap_to_send_is_limited() {
    let crumb = |stream| frame(CREDIT, 0, stream, &[0, 0, 0, 1]);
    let bad_head = |number: u32| frame(OPEN, 0, 2 * number + 1, &[9]);
    let bad_trailers = |number: u32| {
        let stream = 2 * number + 1;
        [open(stream), frame(TRAILERS, 1, stream, b"x")].concat()
    };
    // One ping has come when the connection began.
    let controls = 999;
    let floods: [Flood; 7] = [
        (
            "pings",
            Box::new(|_| frame(PING, 0, 0, &[0; 8])),
            controls,
            E::ControlFlood { kind: PING },
        ),
        (
            "goodbyes",
            Box::new(|_| frame(GO_AWAY, 0, 0, &[0, 0, 0, 0, 0, 1])),
            controls,
            E::ControlFlood { kind: GO_AWAY },
        ),
        (
            "crumbs for all",
            Box::new(|_| crumb(0)),
            controls,
            E::ControlFlood { kind: CREDIT },
        ),
        (
            "crumbs for one",
            Box::new(|_| crumb(2)),
            controls,
            E::ControlFlood { kind: CREDIT },
        ),
        (
            "unreadable heads",
            Box::new(bad_head),
            10_240,
            E::ResetFlood,
        ),
        (
            "unreadable trailers",
            Box::new(bad_trailers),
            10_240,
            E::ResetFlood,
        ),
        (
            "streams that are reset",
            Box::new(|number| [open(2 * number + 1), reset(2 * number + 1)].concat()),
            10_240,
            E::ResetFlood,
        ),
    ];
    for (name, flood, allowed, expect) in floods {
        let mut victim = Victim::new();
        victim.0.listener.connection.open(&tcp(), false).unwrap();
        victim.transmit();
        let mut taken = 0;
        let error = loop {
            match victim.takes(&flood(u32::try_from(taken).unwrap())) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            // Even one who reads every answer at once.
            victim.0.listener.events();
            victim.transmit();
            assert!(taken < 1_000_000, "{name} are not limited");
        };
        assert_eq!((error, taken), (expect, allowed), "{name}");
        let told = victim.transmit();
        assert_eq!(
            told[12..14],
            [0, 4],
            "{name}: overloaded, not a protocol error"
        );
    }
}

/// Credit by the million is credit, as long as it comes in portions worth a frame.
#[test]
fn honest_grants_are_not_counted() {
    let mut victim = Victim::new();
    let grant = frame(CREDIT, 0, 0, &(LEAST_STREAM_CREDIT / 4).to_be_bytes());
    for _ in 0..1_000_000 {
        victim.takes(&grant).unwrap();
    }
    assert_eq!(victim.transmit(), b""[..]);
}

/// Ten thousand streams of which nothing is read cost the peer's credit and no turn of ours, and
/// another stream goes on as before.
#[test]
fn stalled_streams_stall_nobody_else() {
    const STREAMS: u32 = 10_000;
    let settings = Settings {
        streams: STREAMS + 1,
        connection_credit: u32::MAX,
        ..Settings::default()
    };
    let mut pair = Pair::new(&settings);
    pair.exchange();
    let full = bytes::Bytes::from(vec![7; 1 << 20]);
    let mut held = 0;
    for _ in 0..STREAMS {
        let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
        pair.exchange();
        held += pair
            .dialler
            .connection
            .send(stream, &mut full.clone())
            .unwrap();
        if held < 1 << 24 {
            pair.exchange();
        }
    }
    // Each has what its queue holds, and nothing beyond it.
    assert_eq!(held, STREAMS as usize * settings.queue);
    let last = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.dialler
        .connection
        .send(last, &mut bytes::Bytes::from_static(b"quick"))
        .unwrap();
    pair.exchange();
    let arrived = pair.listener.events().into_iter().any(|event| {
        matches!(event, Event::Data { stream, bytes } if stream == last && bytes == "quick"[..])
    });
    assert!(arrived);
    assert_eq!(pair.dialler.connection.open_streams(), STREAMS as usize + 1);
    pair.transmit(isthmus_codec::mux::Side::Dialler, usize::MAX);
    assert!(
        pair.dialler.outgoing.is_empty(),
        "nothing is said again and again"
    );
}

#[test]
fn late_frames_are_tolerated() {
    let mut victim = Victim::new();
    victim.takes(&open(1)).unwrap();
    let stream = match victim.0.listener.events()[..] {
        [Event::Opened { stream, .. }] => stream,
        ref events => panic!("{events:?}"),
    };
    victim
        .0
        .listener
        .connection
        .reset(stream, ResetCode::Overloaded);
    for late in [
        frame(DATA, 0, 1, b"x"),
        frame(CREDIT, 0, 1, &[0, 0, 0, 1]),
        frame(TRAILERS, 1, 1, b""),
        reset(1),
    ] {
        assert_eq!(victim.takes(&late), Ok(()));
    }
    assert_eq!(victim.0.listener.events(), []);
}

#[test]
fn what_cannot_be_read_ends_its_stream_only() {
    let mut victim = Victim::new();
    let newer = frame(OPEN, 0, 1, &[9]);
    let broken = frame(OPEN, 0, 3, &[2, 3, 0]);
    victim.takes(&[newer, broken, open(5)].concat()).unwrap();
    let events = victim.0.listener.events();
    let numbers: Vec<(bool, u32)> = events
        .iter()
        .map(|event| match event {
            Event::Undecodable { stream, .. } => (false, stream.number()),
            Event::Opened { stream, .. } => (true, stream.number()),
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(numbers, [(false, 1), (false, 3), (true, 5)]);
    let refused = frame(RESET, 0, 1, &[0, 1]);
    let protocol = frame(RESET, 0, 3, &[0, 3]);
    assert_eq!(victim.transmit(), [refused, protocol].concat()[..]);

    let stream: StreamId = victim.0.listener.connection.open(&tcp(), false).unwrap();
    victim.transmit();
    victim
        .takes(&frame(REPLY, 0, stream.number(), &[9]))
        .unwrap();
    let events = victim.0.listener.events();
    assert!(matches!(events[0], Event::Undecodable { .. }));
    assert_eq!(
        events[1],
        Event::Reset {
            stream,
            code: ResetCode::Protocol
        }
    );
    assert_eq!(victim.0.listener.connection.open_streams(), 1);
}

#[test]
fn optional_frames_are_skipped() {
    let mut victim = Victim::new();
    let frames = [frame(200, 255, 7, b"later"), open(1)].concat();
    for byte in frames {
        victim.0.listener.incoming.extend_from_slice(&[byte]);
        let now = victim.0.now;
        let end = &mut victim.0.listener;
        end.connection.receive(&mut end.incoming, now).unwrap();
    }
    assert!(matches!(
        victim.0.listener.events()[..],
        [Event::Opened { .. }]
    ));
}
