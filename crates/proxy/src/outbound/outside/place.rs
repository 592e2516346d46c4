//! Whether hosts outside the mesh may be called, and tunnels to them.

use bytes::Bytes;
use isthmus_model::Egress;
use isthmus_telemetry::RefusalReason;
use tokio::net::TcpStream;

use crate::journey::Journey;
use crate::memory::{REQUEST, Room};
use crate::outside::Place;
use crate::refusal::Refusal;
use crate::splice::join_sockets;
use crate::worker::Worker;

/// Errors: the mesh lets nobody out.
pub(in crate::outbound) fn permit<'a>(
    worker: &Worker,
    journey: &mut Journey,
    host: &'a str,
    port: Option<u16>,
) -> Result<Place<'a>, Refusal> {
    journey.record.outside = true;
    match worker.common.view.load().egress() {
        Egress::Allow => Ok(Place {
            host,
            port: port.unwrap_or(80),
        }),
        Egress::Deny => {
            let detail = format!("{host} is outside the mesh, whose `egress` is Deny");
            Err(Refusal::new(RefusalReason::OutsideDenied, detail))
        }
    }
}

/// A tunnel to a place, and the memory that it takes.
pub(in crate::outbound) struct Opened {
    socket: TcpStream,
    _room: Room,
}

/// Opens a tunnel for a client that has asked for one by CONNECT.
pub(in crate::outbound) async fn open(
    worker: &Worker,
    place: &Place<'_>,
) -> Result<Opened, Refusal> {
    let room = worker.memory.admit(REQUEST);
    let room = room.ok_or_else(|| Refusal::no_memory(worker.memory.budget()))?;
    Ok(Opened {
        socket: worker.outside.connect(place).await?,
        _room: room,
    })
}

/// Carries a tunnel to its end, or until the mesh lets nobody out any more.
pub(in crate::outbound) async fn carry(
    worker: &Worker,
    journey: &mut Journey,
    socket: TcpStream,
    early: Bytes,
    opened: Opened,
) {
    let idle = worker.outside.timeout.idle;
    tokio::select! {
        carried = join_sockets(socket, early, opened.socket, idle) => {
            journey.record.request_bytes = carried.sent;
            journey.record.response_bytes = carried.received;
        }
        () = withdrawn(worker) => {}
    }
}

/// Ready when the mesh lets nobody out any more.
pub(super) async fn withdrawn(worker: &Worker) {
    let mut published = worker.common.view.subscribe();
    while worker.common.view.load().egress() == Egress::Allow {
        if !published.changed().await {
            std::future::pending::<()>().await;
        }
    }
}
