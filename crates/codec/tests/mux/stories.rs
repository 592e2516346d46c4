//! What two honest ends do with each other.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::message::Reply;
use isthmus_codec::mux::{
    CannotOpen, CannotSend, Connection, ConnectionError, Event, LEAST_CONNECTION_CREDIT,
    LEAST_STREAM_CREDIT, LEAST_STREAMS, LeaveCode, MAX_DATA, ResetCode, Settings, Side, StreamId,
};

use crate::pair::{Pair, request, response, tcp};

fn fill(connection: &mut Connection, stream: StreamId) -> usize {
    let mut bytes = Bytes::from(vec![7; 1 << 20]);
    connection.send(stream, &mut bytes).unwrap()
}

fn data_of(events: &[Event], of: StreamId) -> usize {
    let length = |event: &Event| match event {
        Event::Data { stream, bytes } if *stream == of => bytes.len(),
        _ => 0,
    };
    events.iter().map(length).sum()
}

fn resets(events: &[Event]) -> Vec<(u32, ResetCode)> {
    let reset = |event: &Event| match event {
        Event::Reset { stream, code } => Some((stream.number(), *code)),
        _ => None,
    };
    events.iter().filter_map(reset).collect()
}

#[test]
fn a_request_and_its_reply() {
    let mut pair = Pair::established();
    let open = request(Fields::new());
    let stream = pair.dialler.connection.open(&open, true).unwrap();
    pair.exchange();
    let opened = Event::Opened {
        stream,
        open: Box::new(open),
        end: true,
    };
    assert_eq!(pair.listener.events(), [opened]);

    let listener = &mut pair.listener.connection;
    listener.reply(stream, &response(200), false).unwrap();
    listener
        .send(stream, &mut Bytes::from_static(b"hello"))
        .unwrap();
    listener.finish(stream, None).unwrap();
    pair.exchange();
    let reply = Box::new(response(200));
    let expect = [
        Event::Replied {
            stream,
            reply,
            end: false,
        },
        Event::Data {
            stream,
            bytes: Bytes::from_static(b"hello"),
        },
        Event::Ended {
            stream,
            trailers: None,
        },
    ];
    assert_eq!(pair.dialler.events(), expect);
    assert_eq!(pair.dialler.connection.open_streams(), 0);
    assert_eq!(pair.listener.connection.open_streams(), 0);
}

#[test]
fn misuse_is_an_error_not_a_frame() {
    let mut pair = Pair::established();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.exchange();
    let listener = &mut pair.listener.connection;
    let some = || Bytes::from_static(b"x");
    assert_eq!(
        listener.send(stream, &mut some()),
        Err(CannotSend::ReplyOwed)
    );
    assert_eq!(listener.finish(stream, None), Err(CannotSend::ReplyOwed));
    listener.reply(stream, &Reply::Accepted, true).unwrap();
    assert_eq!(
        listener.reply(stream, &Reply::Accepted, true),
        Err(CannotSend::ReplyUnasked)
    );
    assert_eq!(
        listener.send(stream, &mut some()),
        Err(CannotSend::Complete)
    );
    let dialler = &mut pair.dialler.connection;
    assert_eq!(
        dialler.reply(stream, &Reply::Accepted, true),
        Err(CannotSend::ReplyUnasked)
    );
    let mut large = Fields::new();
    large.push("x", vec![b'a'; 70_000]).unwrap();
    let too_large = dialler.open(&request(large.clone()), true).unwrap_err();
    assert!(matches!(
        too_large,
        CannotOpen::TooLarge {
            size: 70_001..,
            limit: 65_535
        }
    ));
    assert!(matches!(
        dialler.finish(stream, Some(&large)),
        Err(CannotSend::TooLarge { .. })
    ));
    dialler.finish(stream, None).unwrap();
    pair.exchange();
    let dialler = &mut pair.dialler.connection;
    assert_eq!(dialler.send(stream, &mut some()), Err(CannotSend::Gone));
}

#[test]
fn the_least_may_be_used_before_settings_come() {
    let mut pair = Pair::new(&Settings {
        stream_credit: 256 * 1024,
        ..Settings::default()
    });
    let dialler = &mut pair.dialler.connection;
    let stream = dialler.open(&tcp(), false).unwrap();
    for _ in 1..LEAST_STREAMS {
        dialler.open(&tcp(), false).unwrap();
    }
    let limit = LEAST_STREAMS as usize;
    assert_eq!(
        dialler.open(&tcp(), false),
        Err(CannotOpen::TooMany { limit })
    );
    let mut sent = 0;
    while dialler.capacity(stream) > 0 {
        sent += fill(dialler, stream);
        dialler.transmit(&mut pair.dialler.outgoing, usize::MAX);
    }
    assert_eq!(sent, LEAST_STREAM_CREDIT as usize);
    pair.exchange();
    assert_eq!(data_of(&pair.listener.events(), stream), sent);
    let dialler = &mut pair.dialler.connection;
    assert_eq!(dialler.peer().unwrap().stream_credit, 256 * 1024);
    assert!(dialler.capacity(stream) > 0);
    assert!(pair.dialler.events().contains(&Event::Writable { stream }));
    assert!(pair.dialler.connection.open(&tcp(), false).is_ok());
}

#[test]
fn one_full_stream_stops_no_other() {
    let mut pair = Pair::established();
    let full = pair.dialler.connection.open(&tcp(), false).unwrap();
    let other = pair.dialler.connection.open(&tcp(), false).unwrap();
    let mut sent = 0;
    while pair.dialler.connection.capacity(full) > 0 {
        sent += fill(&mut pair.dialler.connection, full);
        pair.exchange();
    }
    assert_eq!(
        sent,
        256 * 1024,
        "the stream's credit, and nothing was consumed"
    );
    assert!(fill(&mut pair.dialler.connection, other) > 0);
    pair.exchange();
    let events = pair.listener.events();
    assert_eq!(data_of(&events, full), sent);
    assert!(data_of(&events, other) > 0);

    pair.dialler.events();
    pair.listener.connection.consumed(full, sent / 2);
    pair.exchange();
    assert_eq!(pair.dialler.events(), [Event::Writable { stream: full }]);
    let mut again = 0;
    while pair.dialler.connection.capacity(full) > 0 {
        again += fill(&mut pair.dialler.connection, full);
        pair.exchange();
    }
    assert_eq!(again, sent / 2, "as much as was consumed");
}

#[test]
fn the_connection_has_a_credit_of_its_own() {
    let settings = Settings {
        stream_credit: 256 * 1024,
        connection_credit: 0,
        ..Settings::default()
    };
    let mut pair = Pair::new(&settings);
    pair.exchange();
    pair.listener.events();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
        for _ in 0..4 {
            fill(&mut pair.dialler.connection, stream);
            pair.exchange();
        }
        streams.push(stream);
    }
    let events = pair.listener.events();
    let received: Vec<usize> = streams
        .iter()
        .map(|stream| data_of(&events, *stream))
        .collect();
    assert_eq!(
        received.iter().sum::<usize>(),
        LEAST_CONNECTION_CREDIT as usize
    );
    // A head needs no credit, and what ends with the stream is given back.
    pair.listener
        .connection
        .reset(streams[0], ResetCode::Overloaded);
    pair.exchange();
    let after = pair.listener.events();
    assert!(
        streams
            .iter()
            .map(|stream| data_of(&after, *stream))
            .sum::<usize>()
            > 0
    );
}

#[test]
fn streams_take_turns() {
    let mut pair = Pair::established();
    let streams = [(); 3].map(|()| pair.dialler.connection.open(&tcp(), false).unwrap());
    for stream in streams {
        fill(&mut pair.dialler.connection, stream);
    }
    pair.exchange();
    let order: Vec<StreamId> = pair
        .listener
        .events()
        .iter()
        .filter_map(|event| match event {
            // It fills a record of TLS, but for the heads before the first; what is left of the queue is less.
            Event::Data { stream, bytes } if bytes.len() > MAX_DATA / 2 => Some(*stream),
            _ => None,
        })
        .collect();
    assert_eq!(order, streams.repeat(4));
}

#[test]
fn frames_are_short_at_the_beginning_and_after_a_pause() {
    let mut pair = Pair::established();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    for _ in 0..2 {
        let (mut lengths, mut sent) = (Vec::new(), 0);
        while sent < 128 * 1024 {
            let piece = pair.dialler.connection.piece(pair.now);
            fill(&mut pair.dialler.connection, stream);
            pair.transmit(Side::Dialler, 1);
            pair.deliver(Side::Dialler, usize::MAX).unwrap();
            for event in pair.listener.events() {
                if let Event::Data { stream, bytes } = event {
                    pair.listener.connection.consumed(stream, bytes.len());
                    // Its header belongs to the piece.
                    assert_eq!(bytes.len() + 8, piece);
                    sent += bytes.len();
                    lengths.push(bytes.len());
                }
            }
            pair.transmit(Side::Listener, usize::MAX);
            pair.deliver(Side::Listener, usize::MAX).unwrap();
        }
        // In one segment of TCP, for as long as it may send little.
        let short = lengths.iter().filter(|length| **length < 1400).count();
        assert!((48..=52).contains(&short), "{lengths:?}");
        assert!(
            lengths.is_sorted() && lengths.ends_with(&[MAX_DATA - 8]),
            "{lengths:?}"
        );
        // All that waits is taken; then there is a pause, but for a ping.
        pair.exchange();
        for event in pair.listener.events() {
            if let Event::Data { stream, bytes } = event {
                pair.listener.connection.consumed(stream, bytes.len());
            }
        }
        pair.pass(Duration::from_millis(500));
        pair.dialler.connection.ping(pair.now);
        assert_eq!(pair.dialler.connection.piece(pair.now), MAX_DATA);
        pair.exchange();
        pair.pass(Duration::from_millis(500));
    }
}

#[test]
fn frames_of_data_end_where_records_do() {
    let mut pair = Pair::established();
    let bulk = pair.dialler.connection.open(&tcp(), false).unwrap();
    for _ in 0..2 {
        let piece = pair.dialler.connection.piece(pair.now);
        // Heads of other streams lie before the data.
        for _ in 0..3 {
            pair.dialler.connection.open(&tcp(), true).unwrap();
        }
        fill(&mut pair.dialler.connection, bulk);
        let mut out = BytesMut::new();
        pair.dialler.connection.transmit(&mut out, 4 * piece);
        let (mut at, mut data) = (0, 0);
        while at < out.len() {
            let length = 8 + usize::from(u16::from_be_bytes([out[at], out[at + 1]]));
            assert!(
                at % piece + length <= piece,
                "{length} bytes at {at}, of {piece}"
            );
            at += length;
            data += usize::from(at % piece == 0);
        }
        assert!(data >= 4, "{data} frames fill a record to its end");
        // All that goes in short pieces has gone before the second time.
        pair.dialler.outgoing = out;
        for _ in 0..8 {
            pair.deliver(Side::Dialler, usize::MAX).unwrap();
            for event in pair.listener.events() {
                if let Event::Data { stream, bytes } = event {
                    pair.listener.connection.consumed(stream, bytes.len());
                }
            }
            pair.exchange();
            fill(&mut pair.dialler.connection, bulk);
        }
    }
}

#[test]
fn how_much_waits_is_known_before_it_is_transmitted() {
    for (streams, length) in [(1, 1), (1, 16_000), (1, 16_384), (1, 65_536), (60, 1_000)] {
        let mut pair = Pair::established();
        for _ in 0..2 {
            let dialler = &mut pair.dialler.connection;
            dialler.piece(pair.now);
            for _ in 0..streams {
                let stream = dialler.open(&tcp(), false).unwrap();
                let mut data = Bytes::from(vec![7; length]);
                dialler.send(stream, &mut data).unwrap();
                assert!(data.is_empty());
            }
            let (waits, mut out) = (dialler.waiting(), BytesMut::new());
            assert!(!dialler.transmit(&mut out, usize::MAX));
            let spare = waits.checked_sub(out.len());
            let most = 600 * (streams + 1);
            assert!(
                spare.is_some_and(|spare| spare < most),
                "{streams} {length}: {spare:?}"
            );
            // The second time in long pieces.
            pair.dialler.outgoing = out;
            pair.deliver(Side::Dialler, usize::MAX).unwrap();
            pair.listener.events();
            for _ in 0..2 {
                let bulk = pair.dialler.connection.open(&tcp(), false).unwrap();
                fill(&mut pair.dialler.connection, bulk);
                pair.exchange();
                pair.listener.events();
            }
        }
    }
}

/// Keeps `bulk` queued and writes `count` frames of data; gives whose they were.
fn turns(pair: &mut Pair, bulk: &[StreamId], count: usize) -> Vec<StreamId> {
    let mut order = Vec::new();
    while order.len() < count {
        for stream in bulk {
            fill(&mut pair.dialler.connection, *stream);
        }
        pair.transmit(Side::Dialler, 1);
        pair.deliver(Side::Dialler, usize::MAX).unwrap();
        for event in pair.listener.events() {
            if let Event::Data { stream, bytes } = event {
                pair.listener.connection.consumed(stream, bytes.len());
                order.push(stream);
            }
        }
        pair.transmit(Side::Listener, usize::MAX);
        pair.deliver(Side::Listener, usize::MAX).unwrap();
    }
    order
}

#[test]
fn small_goes_before_bulk_and_bulk_goes_on() {
    let mut pair = Pair::established();
    let bulk: Vec<StreamId> = (0..20)
        .map(|_| pair.dialler.connection.open(&tcp(), false).unwrap())
        .collect();
    turns(&mut pair, &bulk, 20 * 5);
    let small = pair.dialler.connection.open(&tcp(), false).unwrap();
    fill(&mut pair.dialler.connection, small);
    let order = turns(&mut pair, &bulk, 8);
    assert_eq!(order[..4], [small; 4], "{order:?}");
    assert!(!order[4..].contains(&small), "it has sent all of it");

    // Who is small again and again does not stop the others.
    let chatty = pair.dialler.connection.open(&tcp(), false).unwrap();
    let mut of_bulk = 0;
    for _ in 0..20 {
        fill(&mut pair.dialler.connection, chatty);
        let order = turns(&mut pair, &bulk, 4);
        of_bulk += order.iter().filter(|stream| **stream != chatty).count();
    }
    assert!(of_bulk >= 15, "{of_bulk} of 80");
}

#[test]
fn heads_go_before_data_and_a_limit_is_kept() {
    let mut pair = Pair::established();
    let bulk = pair.dialler.connection.open(&tcp(), false).unwrap();
    fill(&mut pair.dialler.connection, bulk);
    let mut out = BytesMut::new();
    assert!(
        pair.dialler.connection.transmit(&mut out, MAX_DATA),
        "more waits"
    );
    assert!(out.len() < 2 * MAX_DATA);
    let late = pair.dialler.connection.open(&tcp(), true).unwrap();
    assert!(!pair.dialler.connection.transmit(&mut out, usize::MAX));
    pair.listener
        .connection
        .receive(&mut out, pair.now)
        .unwrap();
    let events = pair.listener.events();
    let place = events
        .iter()
        .position(|event| matches!(event, Event::Opened { stream, .. } if *stream == late));
    assert_eq!(
        place,
        Some(2),
        "after the first head and its first frame of data"
    );
}

#[test]
fn refused_means_it_never_reached_the_application() {
    let mut pair = Pair::established();
    let [one, two, three] = [(); 3].map(|()| pair.dialler.connection.open(&tcp(), false).unwrap());
    pair.exchange();
    pair.listener.events();
    pair.listener.connection.reset(one, ResetCode::Refused);
    pair.listener
        .connection
        .reset(two, ResetCode::Unknown(4711));
    pair.exchange();
    let expect = [
        (one.number(), ResetCode::Refused),
        (two.number(), ResetCode::Unknown(4711)),
    ];
    assert_eq!(resets(&pair.dialler.events()), expect);
    // What crosses a reset on its way is dropped.
    fill(&mut pair.dialler.connection, three);
    pair.transmit(Side::Dialler, usize::MAX);
    pair.listener.connection.reset(three, ResetCode::Cancelled);
    pair.exchange();
    assert_eq!(pair.listener.events(), []);
    assert_eq!(pair.dialler.connection.open_streams(), 0);
}

#[test]
fn resets_cost_no_credit_and_no_place() {
    let mut pair = Pair::established();
    // More streams than are allowed at a time, and more data than the connection's credit.
    for round in 0..2000 {
        let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
        pair.exchange();
        let sent = fill(&mut pair.dialler.connection, stream);
        assert!(sent > 0);
        pair.transmit(Side::Dialler, usize::MAX);
        let expect = if round < 100 { sent } else { 0 };
        if round < 100 {
            // The data has come and is held, or is on its way.
            pair.deliver(Side::Dialler, usize::MAX).unwrap();
        }
        assert_eq!(data_of(&pair.listener.events(), stream), expect);
        pair.listener
            .connection
            .reset(stream, ResetCode::Overloaded);
        pair.exchange();
        assert_eq!(
            resets(&pair.dialler.events()),
            [(stream.number(), ResetCode::Overloaded)]
        );
    }
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    let sent = fill(&mut pair.dialler.connection, stream);
    pair.exchange();
    assert_eq!(data_of(&pair.listener.events(), stream), sent);
}

#[test]
fn an_open_that_was_never_transmitted_leaves_no_trace() {
    let mut pair = Pair::established();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    fill(&mut pair.dialler.connection, stream);
    pair.dialler.connection.reset(stream, ResetCode::Cancelled);
    pair.transmit(Side::Dialler, usize::MAX);
    assert!(pair.dialler.outgoing.is_empty());
    let next = pair.dialler.connection.open(&tcp(), true).unwrap();
    pair.exchange();
    assert!(matches!(pair.listener.events()[..], [Event::Opened { stream, .. }] if stream == next));
}

#[test]
fn going_away_names_the_last_accepted_stream() {
    let mut pair = Pair::established();
    let accepted = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.exchange();
    pair.listener.events();
    pair.listener.connection.go_away(LeaveCode::Draining);
    // Both cross the notice on its way, one of them with data.
    let late = pair.dialler.connection.open(&tcp(), false).unwrap();
    fill(&mut pair.dialler.connection, late);
    let unsent = {
        pair.transmit(Side::Dialler, usize::MAX);
        pair.dialler.connection.open(&tcp(), false).unwrap()
    };
    pair.transmit(Side::Listener, usize::MAX);
    pair.deliver(Side::Listener, usize::MAX).unwrap();
    let events = pair.dialler.events();
    assert!(events.contains(&Event::GoAway {
        code: LeaveCode::Draining
    }));
    let expect = [
        (late.number(), ResetCode::Refused),
        (unsent.number(), ResetCode::Refused),
    ];
    assert_eq!(resets(&events), expect);
    assert_eq!(pair.dialler.connection.can_open(), Err(CannotOpen::Leaving));
    pair.exchange();
    assert_eq!(pair.listener.events(), [], "the late stream was never seen");

    assert!(!pair.listener.connection.is_drained());
    pair.listener
        .connection
        .reply(accepted, &Reply::Accepted, true)
        .unwrap();
    pair.dialler.connection.finish(accepted, None).unwrap();
    pair.exchange();
    assert!(pair.listener.connection.is_drained());
    assert!(pair.dialler.connection.is_drained());
}

#[test]
fn what_a_lost_connection_means_for_its_streams() {
    let mut pair = Pair::established();
    let sent = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.exchange();
    pair.listener.events();
    let unsent = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.dialler.connection.lost();
    pair.listener.connection.lost();
    let lost = Event::Lost { stream: sent };
    let refused = Event::Reset {
        stream: unsent,
        code: ResetCode::Refused,
    };
    assert_eq!(pair.dialler.events(), [lost.clone(), refused]);
    assert_eq!(pair.listener.events(), [lost]);
    assert_eq!(pair.dialler.connection.can_open(), Err(CannotOpen::Failed));
    assert!(pair.dialler.connection.is_drained());
    assert_eq!(pair.dialler.connection.next_timeout(), None);
}

#[test]
fn who_wants_no_more_says_so_and_loses_nothing_of_its_own() {
    let mut pair = Pair::established();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    fill(&mut pair.dialler.connection, stream);
    pair.exchange();
    pair.listener.events();
    let listener = &mut pair.listener.connection;
    listener.reply(stream, &response(413), false).unwrap();
    listener
        .send(stream, &mut Bytes::from_static(b"too large"))
        .unwrap();
    listener.finish(stream, None).unwrap();
    listener.stop(stream);
    fill(&mut pair.dialler.connection, stream);
    pair.exchange();
    assert_eq!(pair.listener.events(), []);
    let events = pair.dialler.events();
    assert_eq!(data_of(&events, stream), 9);
    assert!(events.contains(&Event::Ended {
        stream,
        trailers: None
    }));
    assert_eq!(resets(&events), [(stream.number(), ResetCode::Complete)]);
    assert_eq!(pair.listener.connection.open_streams(), 0);
    assert_eq!(pair.dialler.connection.open_streams(), 0);
}

#[test]
fn a_reply_that_comes_at_once_is_two_frames_at_most() {
    let mut pair = Pair::established();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.dialler.connection.finish(stream, None).unwrap();
    pair.exchange();
    let events = pair.listener.events();
    assert!(
        matches!(events[..], [Event::Opened { end: true, .. }]),
        "{events:?}"
    );
}

/// Lets time pass until the dialler's next timeout, and calls it.
fn time_out(pair: &mut Pair) -> Result<Duration, ConnectionError> {
    let due = pair.dialler.connection.next_timeout().unwrap();
    let passed = due - pair.now;
    pair.pass(passed);
    pair.dialler
        .connection
        .on_timeout(pair.now)
        .map(|()| passed)
}

/// An established pair whose ends are `rtt` apart.
fn apart(rtt: Duration) -> Pair {
    let mut pair = Pair::new(&Settings::default());
    pair.transmit(Side::Dialler, usize::MAX);
    pair.deliver(Side::Dialler, usize::MAX).unwrap();
    pair.pass(rtt);
    pair.transmit(Side::Listener, usize::MAX);
    pair.deliver(Side::Listener, usize::MAX).unwrap();
    assert!(pair.dialler.events().contains(&Event::Pong { rtt }));
    assert_eq!(pair.dialler.connection.rtt(), Some(rtt));
    pair
}

#[test]
fn a_silent_peer_is_pinged_and_then_dead() {
    let milliseconds = Duration::from_millis;
    for (rtt, busy, silence, bound) in [
        (20, true, 500, 1000),
        (220, true, 500, 1000),
        (400, true, 500, 1600),
        (20, false, 10_000, 1000),
    ] {
        let mut pair = apart(milliseconds(rtt));
        let stream = busy.then(|| pair.dialler.connection.open(&tcp(), true).unwrap());
        assert_eq!(time_out(&mut pair), Ok(milliseconds(silence)));
        let silent = milliseconds(silence + bound);
        assert_eq!(time_out(&mut pair), Err(ConnectionError::Dead { silent }));
        let expect: Vec<_> = stream
            .iter()
            .map(|s| (s.number(), ResetCode::Refused))
            .collect();
        assert_eq!(resets(&pair.dialler.events()), expect);
        let mut out = BytesMut::new();
        assert!(!pair.dialler.connection.transmit(&mut out, usize::MAX));
        assert!(out.is_empty(), "nobody is there to be told");
    }
}

#[test]
fn whatever_is_heard_proves_life() {
    let mut pair = apart(Duration::from_millis(20));
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    pair.exchange();
    pair.listener
        .connection
        .reply(stream, &Reply::Accepted, false)
        .unwrap();
    time_out(&mut pair).unwrap();
    // The ping is under way; its answer never comes, but data does.
    for _ in 0..10 {
        pair.pass(Duration::from_millis(900));
        pair.listener
            .connection
            .send(stream, &mut Bytes::from_static(b"x"))
            .unwrap();
        pair.transmit(Side::Listener, usize::MAX);
        pair.deliver(Side::Listener, usize::MAX).unwrap();
        assert_eq!(pair.dialler.connection.on_timeout(pair.now), Ok(()));
    }
    let silent = Duration::from_secs(1);
    assert_eq!(time_out(&mut pair), Err(ConnectionError::Dead { silent }));
}

#[test]
fn an_answered_ping_begins_anew() {
    let mut pair = apart(Duration::from_millis(20));
    pair.dialler.connection.open(&tcp(), false).unwrap();
    for _ in 0..5 {
        assert_eq!(time_out(&mut pair), Ok(Duration::from_millis(500)));
        pair.exchange();
    }
    // Before a round trip is known, patience is three times as long.
    let mut pair = Pair::new(&Settings::default());
    let silent = Duration::from_secs(3);
    assert_eq!(time_out(&mut pair), Err(ConnectionError::Dead { silent }));
}
