//! Two connections and the bytes between them.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use isthmus_codec::Fields;
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::message::{Context, Open, Reply, Request, Response, TcpOpen};
use isthmus_codec::mux::{Connection, ConnectionError, Event, Settings, Side};
use isthmus_model::ServiceName;

/// One end with what it has written and not yet delivered.
pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) outgoing: BytesMut,
    pub(crate) incoming: BytesMut,
}

impl End {
    pub(crate) fn new(side: Side, settings: Settings, now: Instant) -> Self {
        Self {
            connection: Connection::new(side, settings, now),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
        }
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) dialler: End,
    pub(crate) listener: End,
}

impl Pair {
    pub(crate) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            now,
            dialler: End::new(Side::Dialler, settings.clone(), now),
            listener: End::new(Side::Listener, settings.clone(), now),
        }
    }

    /// Ends that let their credit grow.
    pub(crate) fn drawing(settings: &Settings, budget: &MemoryBudget) -> Self {
        let mut pair = Self::new(settings);
        for side in [Side::Dialler, Side::Listener] {
            let now = pair.now;
            pair.end(side).connection = Connection::drawing(side, settings.clone(), budget, now);
        }
        pair
    }

    /// Both have spoken, and what that causes is out of the way.
    pub(crate) fn established() -> Self {
        let mut pair = Self::new(&Settings {
            stream_credit: 256 * 1024,
            connection_credit: 4 * 1024 * 1024,
            ..Settings::default()
        });
        pair.exchange();
        pair.dialler.events();
        pair.listener.events();
        pair
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Dialler => &mut self.dialler,
            Side::Listener => &mut self.listener,
        }
    }

    /// Writes at most about `limit` bytes of one end's frames.
    pub(crate) fn transmit(&mut self, side: Side, limit: usize) {
        let end = self.end(side);
        end.connection.transmit(&mut end.outgoing, limit);
    }

    /// Brings `count` bytes that `from` has written to the other end.
    pub(crate) fn deliver(&mut self, from: Side, count: usize) -> Result<(), ConnectionError> {
        let now = self.now;
        let (from, to) = match from {
            Side::Dialler => (&mut self.dialler, &mut self.listener),
            Side::Listener => (&mut self.listener, &mut self.dialler),
        };
        let bytes = from.outgoing.split_to(count.min(from.outgoing.len()));
        to.incoming.extend_from_slice(&bytes);
        to.connection.receive(&mut to.incoming, now)
    }

    /// Brings everything across until nothing moves. Nothing is consumed.
    pub(crate) fn exchange(&mut self) {
        loop {
            for side in [Side::Dialler, Side::Listener] {
                self.transmit(side, usize::MAX);
            }
            if self.dialler.outgoing.is_empty() && self.listener.outgoing.is_empty() {
                return;
            }
            self.deliver(Side::Dialler, usize::MAX).unwrap();
            self.deliver(Side::Listener, usize::MAX).unwrap();
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

pub(crate) fn tcp() -> Open {
    Open::Tcp(TcpOpen {
        service: ServiceName::new("shop", "redis").unwrap(),
        port: 6379,
        context: Context::default(),
    })
}

pub(crate) fn request(fields: Fields) -> Open {
    Open::Request(Request {
        service: ServiceName::new("shop", "cart").unwrap(),
        port: 80,
        method: "GET".into(),
        path: "/".into(),
        authority: "cart.shop.mesh".into(),
        fields,
        upgrade: None,
        expects: false,
        context: Context::default(),
    })
}

pub(crate) fn response(status: u16) -> Reply {
    Reply::Response(Response {
        status,
        fields: Fields::new(),
        utilisation: None,
        waited: None,
        do_not_retry: false,
        refusal: None,
        upgrade: None,
    })
}
