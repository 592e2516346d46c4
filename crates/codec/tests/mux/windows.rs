//! Credit that grows: it fills long links, and whoever does not read stays within the budget.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::mux::{Event, MAX_DATA, Settings, StreamId};

use crate::pair::{End, Pair, response, tcp};

const MIB: u64 = 1 << 20;

/// One direction of a link.
struct Link {
    delay: Duration,
    /// Bytes that may leave in a tick, less what has left too early.
    rate: usize,
    allowance: usize,
    under_way: VecDeque<(Instant, BytesMut)>,
}

impl Link {
    fn new(delay: Duration, rate: usize) -> Self {
        Self {
            delay,
            rate,
            allowance: 0,
            under_way: VecDeque::new(),
        }
    }

    /// What `end` has to say leaves, as far as the link takes it in this tick.
    fn take(&mut self, end: &mut End, now: Instant, mut fill: impl FnMut(&mut End)) {
        self.allowance = (self.allowance + self.rate).min(2 * self.rate);
        let mut out = BytesMut::new();
        while self.allowance > MAX_DATA {
            fill(end);
            let before = out.len();
            end.connection
                .transmit(&mut out, before + self.allowance - MAX_DATA);
            if out.len() == before {
                break;
            }
            self.allowance = self.allowance.saturating_sub(out.len() - before);
        }
        self.under_way.push_back((now + self.delay, out));
    }

    fn deliver(&mut self, end: &mut End, now: Instant) {
        while let Some((due, _)) = self.under_way.front() {
            if *due > now {
                return;
            }
            if let Some((_, bytes)) = self.under_way.pop_front() {
                end.incoming.extend_from_slice(&bytes);
                end.connection.receive(&mut end.incoming, now).unwrap();
            }
        }
    }
}

/// Bytes of one stream that are consumed in each second, over a link of 1 Gbit/s and 100 ms there and
/// back.
fn seconds(budget: &MemoryBudget, count: usize) -> Vec<usize> {
    const TICK: Duration = Duration::from_millis(1);
    const GIGABIT: usize = 125_000;
    let mut pair = Pair::drawing(&Settings::default(), budget);
    let delay = Duration::from_millis(50);
    let (mut there, mut back) = (Link::new(delay, GIGABIT), Link::new(delay, GIGABIT));
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    let data = Bytes::from(vec![7; 1 << 20]);
    let fill = |end: &mut End| {
        // What does not fit stays with whoever reads it from somewhere.
        let _ = end.connection.send(stream, &mut data.clone());
    };
    let mut consumed = vec![0; count];
    for tick in 0..count * 1000 {
        pair.pass(TICK);
        there.take(&mut pair.dialler, pair.now, fill);
        there.deliver(&mut pair.listener, pair.now);
        for event in pair.listener.events() {
            if let Event::Data { stream, bytes } = event {
                pair.listener.connection.consumed(stream, bytes.len());
                consumed[tick / 1000] += bytes.len();
            }
        }
        back.take(&mut pair.listener, pair.now, |_| ());
        back.deliver(&mut pair.dialler, pair.now);
        pair.dialler.events();
    }
    consumed
}

#[test]
fn a_long_link_is_filled() {
    let full = 125_000_000;
    let consumed = seconds(&MemoryBudget::new(256 * MIB), 3);
    assert!(consumed[2] > full * 95 / 100, "{consumed:?}");
    // Without a budget one window travels in each round trip.
    let consumed = seconds(&MemoryBudget::new(0), 1);
    assert!(consumed[0] <= 11 * 256 * 1024, "{consumed:?}");
}

/// Opens a stream to the listener and sends as much as credit and queue allow. Nothing is consumed.
fn stall(pair: &mut Pair, bytes: usize) -> StreamId {
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    let mut data = Bytes::from(vec![7; bytes]);
    while !data.is_empty() {
        let taken = pair.dialler.connection.send(stream, &mut data).unwrap();
        pair.exchange();
        if taken == 0 {
            break;
        }
    }
    stream
}

/// Can a stream that is read bring `bytes` across?
fn passes(pair: &mut Pair, bytes: usize) -> bool {
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    let mut data = Bytes::from(vec![7; bytes]);
    pair.listener.events();
    for _ in 0..1000 {
        pair.dialler.connection.send(stream, &mut data).unwrap();
        pair.exchange();
        let mut moved = false;
        for event in pair.listener.events() {
            if let Event::Data {
                stream: from,
                bytes,
            } = event
                && from == stream
            {
                pair.listener.connection.consumed(stream, bytes.len());
                moved = true;
            }
        }
        pair.exchange();
        if data.is_empty() {
            return true;
        }
        if !moved {
            return false;
        }
    }
    false
}

fn held(pair: &mut Pair) -> usize {
    let data = |event: Event| match event {
        Event::Data { bytes, .. } => bytes.len(),
        _ => 0,
    };
    pair.listener.events().into_iter().map(data).sum()
}

#[test]
fn streams_that_nobody_reads_do_not_stop_those_that_are_read() {
    // Without a budget most of the window stands still; with one it grows.
    for (limit, stalled) in [(0, 3), (64 * MIB, 64)] {
        let mut pair = Pair::drawing(&Settings::default(), &MemoryBudget::new(limit));
        pair.exchange();
        for _ in 0..stalled {
            stall(&mut pair, 200_000);
        }
        let more = if limit == 0 { 20_000 } else { 0 };
        stall(&mut pair, more);
        assert!(passes(&mut pair, 1 << 20), "with a budget of {limit}");
    }
}

/// Streams that are told to be dropped.
fn unread(events: Vec<Event>) -> Vec<StreamId> {
    let unread = |event| match event {
        Event::Unread { stream } => Some(stream),
        _ => None,
    };
    events.into_iter().filter_map(unread).collect()
}

#[test]
fn where_all_credit_stands_still_the_stillest_streams_make_room() {
    let mut pair = Pair::drawing(&Settings::default(), &MemoryBudget::new(0));
    pair.exchange();
    let first = stall(&mut pair, 100_000);
    let second = stall(&mut pair, 100_000);
    pair.pass(Duration::from_millis(300));
    let third = stall(&mut pair, 100_000);
    let last = stall(&mut pair, 100_000);
    assert!(!passes(&mut pair, 1 << 20), "all of it stands still");
    pair.listener.events();

    // Nobody was given the time to read.
    pair.pass(Duration::from_millis(600));
    pair.listener.connection.on_timeout(pair.now).unwrap();
    assert_eq!(unread(pair.listener.events()), []);

    // The first one moves: it is the second's turn.
    pair.exchange();
    pair.listener.connection.consumed(first, 1_000);
    pair.pass(Duration::from_millis(200));
    pair.listener.connection.on_timeout(pair.now).unwrap();
    assert_eq!(unread(pair.listener.events()), [second]);
    pair.exchange();
    let told = pair.dialler.events();
    let reset = |event: &Event| matches!(event, Event::Reset { stream, .. } if *stream == second);
    assert!(told.iter().any(reset), "{told:?}");

    pair.pass(Duration::from_millis(300));
    pair.listener.connection.on_timeout(pair.now).unwrap();
    // What the second has left was taken by one that nobody has read either.
    assert_eq!(unread(pair.listener.events()), [third, last]);
    pair.exchange();
    assert!(passes(&mut pair, 1 << 20));
    // There is room enough for the others to stand still for as long as they like.
    for _ in 0..10 {
        pair.pass(Duration::from_secs(1));
        pair.listener.connection.on_timeout(pair.now).unwrap();
        pair.exchange();
    }
    assert_eq!(unread(pair.listener.events()), [], "{first} has time");
}

#[test]
fn a_reply_that_ended_and_is_not_read_makes_room_as_well() {
    let mut pair = Pair::drawing(&Settings::default(), &MemoryBudget::new(0));
    pair.exchange();
    let mut ended = Vec::new();
    for _ in 0..4 {
        let stream = stall(&mut pair, 60_000);
        pair.dialler.connection.finish(stream, None).unwrap();
        pair.exchange();
        pair.listener
            .connection
            .reply(stream, &response(200), true)
            .unwrap();
        pair.exchange();
        ended.push(stream);
    }
    assert_eq!(pair.listener.connection.open_streams(), 0);
    pair.listener.events();
    pair.pass(Duration::from_secs(1));
    pair.listener.connection.ping(pair.now);
    pair.exchange();
    assert_eq!(unread(pair.listener.events()), ended[..2]);
    assert!(passes(&mut pair, 1 << 20));
}

#[test]
fn ten_thousand_stalled_streams_stay_within_the_budget() {
    const CONNECTIONS: usize = 20;
    let budget = MemoryBudget::new(8 * MIB);
    let settings = Settings::default();
    let begins_with = settings.connection_credit as usize;
    let mut pairs: Vec<Pair> = (0..CONNECTIONS)
        .map(|_| Pair::drawing(&settings, &budget))
        .collect();
    let mut total = 0;
    for pair in &mut pairs {
        pair.exchange();
        for _ in 0..10_000 / CONNECTIONS {
            stall(pair, 20_000);
        }
        total += held(pair);
    }
    let promised = CONNECTIONS * begins_with + 6 * (1 << 20);
    assert!(
        total <= promised,
        "{total} bytes are held, {promised} were promised"
    );
    assert!(
        total > CONNECTIONS * begins_with,
        "and the budget was of use"
    );
    let counted = usize::try_from(budget.taken()).unwrap();
    // So are those that wait on the other side.
    assert!(
        counted >= total,
        "{total} bytes are held, {counted} are counted"
    );
    let mut late = Pair::drawing(&settings, &budget);
    late.exchange();
    assert!(passes(&mut late, 1 << 20), "who comes late is served");
    drop((pairs, late));
    assert_eq!(budget.taken(), 0, "it is all given back");
}

#[test]
fn a_window_that_is_no_longer_needed_is_given_back() {
    let budget = MemoryBudget::new(64 * MIB);
    let mut pair = Pair::drawing(&Settings::default(), &budget);
    pair.exchange();
    let stalled: Vec<StreamId> = (0..256).map(|_| stall(&mut pair, 200_000)).collect();
    let crowded = budget.taken();
    assert!(crowded > 8 * MIB, "{crowded}");
    pair.listener.events();
    for stream in stalled {
        pair.listener
            .connection
            .reply(stream, &response(503), true)
            .unwrap();
        pair.listener.connection.stop(stream);
    }
    pair.exchange();
    // What was promised is promised: it comes back as the peer uses it and is not granted again.
    for _ in 0..400 {
        pair.pass(Duration::from_millis(20));
        assert!(passes(&mut pair, 100_000));
    }
    assert!(
        budget.taken() < crowded / 4,
        "{} of {crowded}",
        budget.taken()
    );
}

/// Sends as much as the stream takes.
fn queue(end: &mut End, stream: StreamId) -> usize {
    let mut data = Bytes::from(vec![7; 1 << 20]);
    end.connection.send(stream, &mut data).unwrap()
}

#[test]
fn queues_are_counted_and_where_memory_is_short_they_hold_a_frame() {
    let budget = MemoryBudget::new(4 * MIB);
    let mut pair = Pair::drawing(&Settings::default(), &budget);
    pair.exchange();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    assert_eq!(queue(&mut pair.dialler, stream), Settings::default().queue);
    assert!(budget.taken() >= Settings::default().queue as u64);
    pair.dialler
        .connection
        .reset(stream, isthmus_codec::mux::ResetCode::Cancelled);
    assert!(budget.taken() <= MAX_DATA as u64, "{}", budget.taken());

    let mut others = budget.share();
    others.hold(4 * MIB);
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    for _ in 0..10 {
        assert_eq!(queue(&mut pair.dialler, stream), MAX_DATA);
        assert_eq!(queue(&mut pair.dialler, stream), 0);
        pair.exchange();
        let events = pair.dialler.events();
        assert!(events.contains(&Event::Writable { stream }), "{events:?}");
        // Whoever reads it slowly does so at least.
        let came = held(&mut pair);
        pair.listener.connection.consumed(stream, came);
        pair.exchange();
    }
}

#[test]
fn small_pieces_that_wait_hold_no_large_blocks() {
    let mut pair = Pair::drawing(&Settings::default(), &MemoryBudget::new(4 * MIB));
    pair.exchange();
    let stream = pair.dialler.connection.open(&tcp(), false).unwrap();
    let mut sent = Vec::new();
    // A piece for each read of a socket, and what was read into.
    let mut blocks = Vec::new();
    for number in 0..1_000_u32 {
        let block = Bytes::from(vec![u8::try_from(number % 251).unwrap(); 100]);
        sent.extend_from_slice(&block[..7]);
        let mut piece = block.slice(..7);
        assert_eq!(pair.dialler.connection.send(stream, &mut piece).unwrap(), 7);
        blocks.push(block);
    }
    let kept = blocks.iter().filter(|block| !block.is_unique()).count();
    assert!(kept <= 1, "{kept} blocks are held");
    pair.exchange();
    let mut came = Vec::new();
    for event in pair.listener.events() {
        if let Event::Data { bytes, .. } = event {
            came.extend_from_slice(&bytes);
        }
    }
    assert_eq!(came, sent);
}
