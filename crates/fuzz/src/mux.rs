//! The multiplex: one end under bytes from anywhere, and two ends with trouble between them.

mod bytes;
mod pair;
mod watch;

pub(crate) use self::bytes::bytes;
pub(crate) use self::pair::pair;

use std::time::Instant;

use isthmus_codec::Fields;
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::message::{Context, Interim, Open, Reply, Request, Response, TcpOpen};
use isthmus_codec::mux::{Connection, Settings, Side};
use isthmus_model::ServiceName;

/// The smallest that the protocol allows, so that inputs reach its bounds.
fn settings() -> Settings {
    Settings {
        streams: 0,
        stream_credit: 0,
        connection_credit: 0,
        ..Settings::default()
    }
}

fn connection(side: Side, now: Instant) -> Connection {
    Connection::new(side, settings(), now)
}

/// One whose credit grows as far as `budget` goes.
fn growing(side: Side, budget: &MemoryBudget, now: Instant) -> Connection {
    Connection::drawing(side, settings(), budget, now)
}

fn an_open(kind: u8) -> Open {
    let service = ServiceName::new("shop", "cart").expect("both are names");
    let context = Context::default();
    if kind.is_multiple_of(2) {
        return Open::Tcp(TcpOpen {
            service,
            port: 6379,
            context,
        });
    }
    Open::Request(Request {
        service,
        port: 80,
        method: "GET".into(),
        path: "/".into(),
        authority: "cart.shop.mesh".into(),
        fields: some_fields(),
        upgrade: None,
        expects: false,
        context,
    })
}

fn a_reply(kind: u8) -> Reply {
    if kind.is_multiple_of(2) {
        return Reply::Accepted;
    }
    Reply::Response(Response {
        status: 200,
        fields: some_fields(),
        utilisation: None,
        waited: None,
        do_not_retry: false,
        upgrade: None,
        refusal: None,
    })
}

fn an_interim(kind: u8) -> Interim {
    Interim {
        status: 102 + u16::from(kind % 98),
        fields: some_fields(),
    }
}

fn some_fields() -> Fields {
    let mut fields = Fields::new();
    fields.push("sum", "1").expect("a field");
    fields
}
