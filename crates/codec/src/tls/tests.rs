use proptest::prelude::*;
use rustls::ConnectionTrafficSecrets as Traffic;

use super::*;

/// Keys that follow one another: all bytes of one are the same.
struct Row {
    sealing: u8,
    opening: u8,
}

fn secrets(of: u8) -> Traffic {
    Traffic::Aes256Gcm {
        key: [of; 32].into(),
        iv: [of; 12].into(),
    }
}

impl Secrets for Row {
    fn next_sealing(&mut self) -> Result<Traffic, rustls::Error> {
        self.sealing += 1;
        Ok(secrets(self.sealing))
    }

    fn next_opening(&mut self) -> Result<Traffic, rustls::Error> {
        self.opening += 1;
        Ok(secrets(self.opening))
    }

    /// Tickets of this end begin with `t`.
    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Broken> {
        match ticket {
            [b't', ..] => Ok(()),
            _ => Err(Broken::Undecodable),
        }
    }
}

fn session(sealing: u8, opening: u8, limit: u64) -> Session {
    let secrets = ExtractedSecrets {
        tx: (3, secrets(sealing)),
        rx: (3, secrets(opening)),
    };
    Session::new(&secrets, Box::new(Row { sealing, opening }), limit).unwrap()
}

/// Two ends of one session.
fn ends() -> (Session, Session) {
    (session(0, 100, 1 << 20), session(100, 0, 1 << 20))
}

/// What one end seals of `data`.
fn sealed(by: &mut Session, data: &[u8]) -> BytesMut {
    let mut wire = BytesMut::new();
    seal(by, data, MAX_DATA, &mut wire).unwrap();
    wire
}

fn seal(by: &mut Session, data: &[u8], piece: usize, out: &mut BytesMut) -> Result<(), Broken> {
    by.seal(piece, out, |sink| sink.append(data))
}

/// A record of this kind; `content` may bring its own type and padding, if `kind` is 0.
fn record(by: &mut Session, kind: u8, content: &[u8]) -> BytesMut {
    let mut wire = BytesMut::new();
    by.sealing.seal(kind, content, &mut wire);
    wire
}

/// All that `wire` brings: data, and whether the peer has closed.
fn opened(by: &mut Session, wire: &mut BytesMut) -> Result<(Vec<u8>, bool), Broken> {
    let mut data = Vec::new();
    while let Some(length) = Session::first(wire)? {
        let mut record = wire.split_to(length);
        match by.open(&mut record)? {
            Opened::Data(part) => data.extend_from_slice(&record[part]),
            Opened::Nothing => {}
            Opened::Closed => return Ok((data, true)),
        }
    }
    Ok((data, false))
}

#[test]
fn data_crosses_in_records_of_at_most_16_kib() {
    let (mut west, mut east) = ends();
    for length in [0, 1, MAX_DATA, MAX_DATA + 1, 100_000] {
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        let mut wire = sealed(&mut west, &data);
        assert_eq!(wire.len(), Session::sealed_length(length, MAX_DATA));
        assert_eq!(opened(&mut east, &mut wire), Ok((data, false)));
        assert!(wire.is_empty());
    }
}

#[test]
fn a_short_record_is_opened_before_the_next_is_there() {
    let (mut west, mut east) = ends();
    let mut wire = BytesMut::new();
    seal(&mut west, &[7; 3000], 1400, &mut wire).unwrap();
    assert_eq!(wire.len(), Session::sealed_length(3000, 1400));
    let mut first = wire.split_to(1400 + OVERHEAD);
    assert_eq!(opened(&mut east, &mut first), Ok((vec![7; 1400], false)));
    assert_eq!(opened(&mut east, &mut wire), Ok((vec![7; 1600], false)));
}

#[test]
fn nothing_that_was_changed_is_opened() {
    let (mut west, _) = ends();
    let wire = sealed(&mut west, b"data");
    for place in 0..wire.len() {
        let mut east = session(100, 0, 1 << 20);
        let mut changed = wire.clone();
        changed[place] ^= 1;
        let found = Session::first(&changed).and_then(|_| east.open(&mut changed));
        assert!(found.is_err(), "byte {place}");
    }
    for length in 0..wire.len() {
        assert_eq!(Session::first(&wire[..length]), Ok(None));
        let mut cut = wire[..length].to_vec();
        assert!(session(100, 0, 1 << 20).open(&mut cut).is_err(), "{length}");
    }
}

#[test]
fn records_come_once_and_in_their_order() {
    let (mut west, mut east) = ends();
    let (first, mut second) = (sealed(&mut west, b"a"), sealed(&mut west, b"b"));
    assert_eq!(east.open(&mut second), Err(Broken::Forged));
    let (_, mut east) = ends();
    assert!(east.open(&mut first.clone()).is_ok());
    assert_eq!(east.open(&mut first.clone()), Err(Broken::Forged));
}

#[test]
fn what_may_be_in_a_record() {
    let too_long = vec![0; MAX_DATA + 1];
    let data = |part: Range<usize>| Ok(Opened::Data(part));
    for (name, kind, content, expect) in [
        ("data", kind::DATA, &b"abc"[..], data(5..8)),
        ("padded", 0, b"abc\x17\0\0", data(5..8)),
        ("zeros that are data", 0, b"a\0\x17\0", data(5..7)),
        ("no data", kind::DATA, b"", data(5..5)),
        ("too much", kind::DATA, &too_long, Err(Broken::TooLong)),
        ("only padding", 0, b"\0\0", Err(Broken::Unexpected)),
        ("change of cipher", 20, b"\x01", Err(Broken::Unexpected)),
        ("unknown", 99, b"x", Err(Broken::Unexpected)),
        ("close", kind::ALERT, b"\x01\0", Ok(Opened::Closed)),
        ("cancel", kind::ALERT, b"\x01\x5a", Ok(Opened::Nothing)),
        (
            "failure",
            kind::ALERT,
            b"\x02\x28",
            Err(Broken::Alerted(40)),
        ),
        (
            "half an alert",
            kind::ALERT,
            b"\x02",
            Err(Broken::Undecodable),
        ),
        ("no message", kind::HANDSHAKE, b"", Err(Broken::Unexpected)),
        (
            "ticket",
            kind::HANDSHAKE,
            b"\x04\0\0\x01t",
            Ok(Opened::Nothing),
        ),
        (
            "tickets",
            kind::HANDSHAKE,
            b"\x04\0\0\x02ta\x04\0\0\x02tb",
            Ok(Opened::Nothing),
        ),
        (
            "ticket and update",
            kind::HANDSHAKE,
            b"\x04\0\0\x01t\x18\0\0\x01\0",
            Ok(Opened::Nothing),
        ),
        (
            "no ticket",
            kind::HANDSHAKE,
            b"\x04\0\0\0",
            Err(Broken::Undecodable),
        ),
        (
            "too long a ticket",
            kind::HANDSHAKE,
            b"\x04\0\x04\x01t",
            Err(Broken::Illegal),
        ),
        (
            "too many tickets",
            kind::HANDSHAKE,
            &b"\x04\0\0\x01t".repeat(9),
            Err(Broken::Unexpected),
        ),
        (
            "hello",
            kind::HANDSHAKE,
            b"\x01\0\0\0",
            Err(Broken::Unexpected),
        ),
        (
            "update",
            kind::HANDSHAKE,
            b"\x18\0\0\x01\0",
            Ok(Opened::Nothing),
        ),
        (
            "odd update",
            kind::HANDSHAKE,
            b"\x18\0\0\x01\x02",
            Err(Broken::Illegal),
        ),
        (
            "long update",
            kind::HANDSHAKE,
            b"\x18\0\0\x02\0\0",
            Err(Broken::Undecodable),
        ),
        (
            "more after",
            kind::HANDSHAKE,
            b"\x18\0\0\x01\0\x04",
            Err(Broken::Unexpected),
        ),
    ] {
        let (mut west, mut east) = ends();
        let mut record = record(&mut west, kind, content);
        assert_eq!(east.open(&mut record), expect, "{name}");
    }
}

#[test]
fn a_message_may_come_in_parts_and_nothing_between_them() {
    let update = b"\x18\0\0\x01\0";
    for cut in 1..update.len() {
        let (mut west, mut east) = ends();
        for part in [&update[..cut], &update[cut..]] {
            let mut record = record(&mut west, kind::HANDSHAKE, part);
            assert_eq!(east.open(&mut record), Ok(Opened::Nothing), "{cut}");
        }
        west.sealing = Sealing::new(&west.secrets.next_sealing().unwrap(), 0).unwrap();
        let found = opened(&mut east, &mut sealed(&mut west, b"x"));
        assert_eq!(found, Ok((b"x".to_vec(), false)));

        let (mut west, mut east) = ends();
        east.open(&mut record(&mut west, kind::HANDSHAKE, &update[..cut]))
            .unwrap();
        let found = opened(&mut east, &mut sealed(&mut west, b"x"));
        assert_eq!(found, Err(Broken::Unexpected));
    }
}

#[test]
fn a_ticket_may_come_in_parts() {
    let tickets = b"\x04\0\0\x02ta\x04\0\0\x02tb";
    for cut in 1..tickets.len() {
        let (mut west, mut east) = ends();
        for part in [&tickets[..cut], &tickets[cut..]] {
            let mut record = record(&mut west, kind::HANDSHAKE, part);
            assert_eq!(east.open(&mut record), Ok(Opened::Nothing), "{cut}");
        }
        assert_eq!(east.tickets, 2);
        assert!(east.message.is_empty());
    }
}

#[test]
fn keys_are_updated_before_they_are_used_up_and_when_the_peer_asks() {
    let (mut west, mut east) = (session(0, 100, 8), session(100, 0, 1 << 20));
    for number in 0..100_u8 {
        let mut wire = sealed(&mut west, &[number]);
        assert!(west.sealing.used() < 8);
        assert_eq!(opened(&mut east, &mut wire), Ok((vec![number], false)));
    }
    // East asks twice; the next that west says brings one update.
    for _ in 0..2 {
        let mut asks = record(&mut east, kind::HANDSHAKE, b"\x18\0\0\x01\x01");
        east.sealing = Sealing::new(&east.secrets.next_sealing().unwrap(), 0).unwrap();
        assert_eq!(west.open(&mut asks), Ok(Opened::Nothing));
    }
    let mut wire = sealed(&mut west, b"new");
    let longer = Session::sealed_length(3, MAX_DATA) + Session::sealed_length(5, MAX_DATA);
    assert_eq!(wire.len(), longer);
    assert_eq!(opened(&mut east, &mut wire), Ok((b"new".to_vec(), false)));
    assert_eq!(
        sealed(&mut west, b"new").len(),
        Session::sealed_length(3, MAX_DATA)
    );
}

#[test]
fn what_was_not_sealed_does_not_stay() {
    let (mut west, mut east) = ends();
    let mut wire = BytesMut::new();
    let mut records = Records::new(&mut west, 4, &mut wire);
    records.append(b"sealed");
    drop(records);
    assert_eq!(wire.len(), Session::sealed_length(4, 4));
    assert_eq!(opened(&mut east, &mut wire), Ok((b"seal".to_vec(), false)));
}

#[test]
fn the_end_is_said_once_and_nothing_after_it() {
    let (mut west, mut east) = ends();
    let mut wire = sealed(&mut west, b"last");
    west.close(&mut wire);
    west.close(&mut wire);
    west.break_off(Broken::Forged, &mut wire);
    assert_eq!(
        seal(&mut west, b"more", MAX_DATA, &mut wire),
        Err(Broken::Over)
    );
    assert_eq!(opened(&mut east, &mut wire), Ok((b"last".to_vec(), true)));
    assert!(wire.is_empty());
    east.break_off(Broken::Forged, &mut wire);
    assert_eq!(opened(&mut west, &mut wire), Err(Broken::Alerted(20)));
    // Who was told so is not told in turn.
    west.break_off(Broken::Alerted(20), &mut wire);
    assert!(wire.is_empty());
}

#[test]
fn who_only_keeps_us_busy_is_left() {
    let (mut west, mut east) = ends();
    let mut nothing = |west: &mut Session| east.open(&mut record(west, kind::DATA, b""));
    for _ in 0..MOST_IDLE {
        assert!(nothing(&mut west).is_ok());
    }
    assert_eq!(nothing(&mut west), Err(Broken::Unexpected));
}

proptest! {
    /// Whatever is appended in however many parts, with new keys in between, comes out as it went in.
    #[test]
    fn what_is_said_in_parts_is_opened_whole(
        parts in prop::collection::vec(0..3000_usize, 0..12),
        piece in prop_oneof![1..50_usize, Just(1000), Just(MAX_DATA)],
        limit in 8..40_u64,
    ) {
        let (mut west, mut east) = (session(0, 100, limit), session(100, 0, 1 << 20));
        let mut wire = BytesMut::from(&b"before"[..]);
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(parts.iter().sum()).collect();
        // Seven records and more have one key, and a `Row` has 155 of them at least.
        let piece = if data.len() / piece > 1000 { MAX_DATA } else { piece };
        let said = west.seal(piece, &mut wire, |sink| {
            let mut rest = &data[..];
            for part in &parts {
                sink.append(&rest[..*part]);
                rest = &rest[*part..];
            }
            assert_eq!(sink.length(), data.len());
        });
        prop_assert_eq!(said, Ok(()));
        let mut records = wire.split_off(6);
        let mut lengths = Vec::new();
        let mut heard = Vec::new();
        while let Some(length) = Session::first(&records).unwrap() {
            let mut record = records.split_to(length);
            if let Opened::Data(part) = east.open(&mut record).unwrap() {
                lengths.push(part.len());
                heard.extend_from_slice(&record[part]);
            }
        }
        prop_assert!(records.is_empty() && heard == data);
        // All are full but the last.
        let last = lengths.pop().unwrap_or(1);
        prop_assert!((1..=piece).contains(&last) && lengths.iter().all(|length| *length == piece));
    }

    #[test]
    fn no_bytes_make_it_panic(
        wire in prop::collection::vec(any::<u8>(), 0..64),
        inner in prop::collection::vec(any::<u8>(), 0..64),
        kind in any::<u8>(),
    ) {
        let (mut west, mut east) = ends();
        let _ = opened(&mut east, &mut BytesMut::from(&wire[..]));
        let (_, mut east) = ends();
        let _ = opened(&mut east, &mut record(&mut west, kind, &inner));
    }
}
