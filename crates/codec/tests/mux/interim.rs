//! What comes before a reply.

use bytes::{BufMut, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::message::Interim;
use isthmus_codec::mux::{ConnectionError, Event, MAX_INTERIM, MAX_INTERIMS, StreamId};

use crate::pair::{Pair, request, response};

const KIND: u8 = 129;

fn hint(link: &str) -> Interim {
    let mut fields = Fields::new();
    fields.push("link", link.to_owned()).unwrap();
    Interim {
        status: 103,
        fields,
    }
}

/// A stream that the listener may answer.
fn asked(pair: &mut Pair) -> StreamId {
    let open = request(Fields::new());
    let stream = pair.dialler.connection.open(&open, true).unwrap();
    pair.exchange();
    pair.listener.events();
    stream
}

fn is_reply(event: &Event) -> bool {
    matches!(event, Event::Replied { .. })
}

#[test]
fn hints_come_before_the_reply_and_are_not_the_reply() {
    let mut pair = Pair::established();
    let stream = asked(&mut pair);
    for link in ["</a>", "</b>"] {
        assert!(pair.listener.connection.interim(stream, &hint(link)));
    }
    let listener = &mut pair.listener.connection;
    listener.reply(stream, &response(200), true).unwrap();
    assert!(!listener.interim(stream, &hint("</late>")));
    pair.exchange();
    let hinted = |link| Event::Interim {
        stream,
        interim: Box::new(hint(link)),
    };
    let events = pair.dialler.events();
    assert_eq!(events[..2], [hinted("</a>"), hinted("</b>")]);
    assert!(is_reply(&events[2]), "{events:?}");
    assert_eq!(pair.dialler.connection.open_streams(), 0);
}

#[test]
fn hints_are_few_and_small() {
    let mut pair = Pair::established();
    let stream = asked(&mut pair);
    let large = "x".repeat(MAX_INTERIM);
    assert!(!pair.listener.connection.interim(stream, &hint(&large)));
    for _ in 0..MAX_INTERIMS {
        assert!(pair.listener.connection.interim(stream, &hint("</a>")));
    }
    assert!(!pair.listener.connection.interim(stream, &hint("</a>")));
    pair.exchange();
    assert_eq!(pair.dialler.events().len(), usize::from(MAX_INTERIMS));

    // Nor do those of all streams together wait for long.
    let streams: Vec<_> = (0..20).map(|_| asked(&mut pair)).collect();
    let large = hint(&"x".repeat(MAX_INTERIM - 100));
    let mut taken = |&stream: &StreamId| pair.listener.connection.interim(stream, &large);
    assert_eq!(streams.iter().filter(|&stream| taken(stream)).count(), 8);
    pair.exchange();
    assert_eq!(pair.dialler.events().len(), 8);
    assert!(pair.listener.connection.interim(streams[19], &large));
}

#[test]
fn hints_of_a_stream_that_is_reset_are_dropped() {
    let mut pair = Pair::established();
    let stream = asked(&mut pair);
    pair.listener.connection.interim(stream, &hint("</a>"));
    let code = isthmus_codec::mux::ResetCode::Refused;
    pair.listener.connection.reset(stream, code);
    pair.exchange();
    assert_eq!(pair.dialler.events(), [Event::Reset { stream, code }]);
}

/// Frames as a peer writes them that does as it likes.
fn frames(stream: StreamId, count: usize) -> BytesMut {
    let mut head = BytesMut::new();
    hint("</a>").encode(&mut head);
    let mut out = BytesMut::new();
    for _ in 0..count {
        out.put_u16(u16::try_from(head.len()).unwrap());
        out.put_slice(&[KIND, 0]);
        out.put_u32(stream.number());
        out.put_slice(&head);
    }
    out
}

#[test]
fn who_hints_without_end_or_too_late_is_left() {
    let most = usize::from(MAX_INTERIMS);
    for (replied, count, expect) in [
        (false, most, None),
        (
            false,
            most + 1,
            Some(ConnectionError::ControlFlood { kind: KIND }),
        ),
        (true, 0, None),
        (
            true,
            1,
            Some(ConnectionError::OutOfOrder {
                kind: KIND,
                stream: 1,
            }),
        ),
    ] {
        let mut pair = Pair::established();
        let stream = asked(&mut pair);
        assert_eq!(stream.number(), 1);
        if replied {
            let reply = response(200);
            pair.listener
                .connection
                .reply(stream, &reply, false)
                .unwrap();
            pair.exchange();
        }
        let mut input = frames(stream, count);
        let received = pair.dialler.connection.receive(&mut input, pair.now);
        assert_eq!(received.err(), expect, "{replied} {count}");
    }
}
