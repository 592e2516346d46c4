//! Plain TCP of a caller, by CONNECT or by a listener of its own. The bytes are never looked at.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_balance::{Attempts, Outcome, Told};
use isthmus_codec::message::{Context, Open, Reply, TcpOpen};
use isthmus_model::{AppProtocol, Backend, ServiceName, Subset};
use isthmus_telemetry::RefusalReason;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::connect::connect as connect_workload;
use super::decided::{Decided, Entry, decide_backend, find_port, find_service};
use super::settle::{
    Avoided, Failed, Settle, check_chosen, consider, deadline, not_opened, stream_failed,
};
use crate::destination::Try;
use crate::journey::Journey;
use crate::memory::{REQUEST, Room};
use crate::mux::{Item, Link, Stream};
use crate::refusal::Refusal;
use crate::splice::splice_socket;
use crate::view::Seen;
use crate::worker::Worker;

/// How a connection that was accepted counts, however it ended.
const CARRIED: Outcome = Outcome::Replied {
    status: 200,
    retry_unwanted: false,
};

/// A stream to a program that has accepted the connection. The try lasts as long as it does.
pub(super) struct Opened {
    attempt: Try,
    stream: Stream,
    /// `timeout.idle`.
    idle: Duration,
    _room: Room,
}

/// The port of a service that is meant, on the one view that the connection is decided on.
pub(super) struct Found {
    view: Rc<Seen>,
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) protocol: AppProtocol,
}

impl Found {
    /// As the place that a client of HTTP has come to.
    pub(super) fn into_entry(self) -> Entry {
        Entry::Service {
            service: self.service,
            port: self.port,
        }
    }
}

/// Brings a client to a port of a service, without a look at what it says. `early`: what it has said
/// already.
pub(super) async fn carry_unread(
    worker: &Rc<Worker>,
    mut journey: Journey,
    socket: TcpStream,
    early: Bytes,
    found: Found,
) {
    let service = found.service.clone();
    match open(worker, found, &mut journey).await {
        Ok(opened) => {
            carry(&mut journey, socket, early, opened).await;
            journey.finish(&worker.recorder);
        }
        Err(refusal) => refuse_unread(worker, journey, &service, &refusal),
    }
}

/// There is nobody who could be told but by closing the connection.
pub(super) fn refuse_unread(
    worker: &Worker,
    mut journey: Journey,
    service: &ServiceName,
    refusal: &Refusal,
) {
    journey.refused(refusal, worker.name());
    tracing::info!(
        %service,
        reason = refusal.reason.code(),
        detail = refusal.detail,
        "a TCP connection was refused"
    );
    journey.finish(&worker.recorder);
}

/// One connection begins.
pub(super) fn start(worker: &Worker) -> Journey {
    worker.begin("tcp")
}

/// Carries a connection to its end.
pub(super) async fn carry(journey: &mut Journey, socket: TcpStream, early: Bytes, opened: Opened) {
    let carried = splice_socket(socket, early, &opened.stream, opened.idle).await;
    journey.record.request_bytes = carried.sent;
    journey.record.response_bytes = carried.received;
    opened.attempt.finish(CARRIED);
}

/// Errors: there is no such service or port.
pub(super) async fn find(
    worker: &Worker,
    journey: &mut Journey,
    service: ServiceName,
    port: Option<u16>,
) -> Result<Found, Refusal> {
    journey.record.destination_service = Some(service.clone());
    let view = worker.view_with(&service).await?;
    let called = find_service(&view, &service)?;
    let port = find_port(called, port)?;
    let declared = called.service.find_port(Some(port));
    Ok(Found {
        protocol: declared.map_or(AppProtocol::Tcp, |declared| declared.protocol),
        view,
        service,
        port,
    })
}

/// A stream to a workload of the service whose program has accepted the connection.
pub(super) async fn open(
    worker: &Rc<Worker>,
    found: Found,
    journey: &mut Journey,
) -> Result<Opened, Refusal> {
    let Found {
        view,
        service,
        port,
        ..
    } = found;
    let called = find_service(&view, &service)?;
    let settings = called.own_settings().clone();
    let backend = Backend {
        service: service.clone(),
        port: Some(port),
        subset: Subset::default(),
        weight: 1,
    };
    let draw = worker.draw();
    let decided = decide_backend(worker, view, &service, &backend, port, settings, draw)?;
    let now = Instant::now();
    // Never idempotent: only what surely reached no program is tried again.
    let mut attempts = Attempts::new(&decided.settings, "CONNECT", None, now);
    worker
        .destinations
        .budget(&service, now)
        .borrow_mut()
        .on_request(now);
    let room = worker.memory.admit(REQUEST);
    let room = room.ok_or_else(|| Refusal::no_memory(worker.memory.budget()))?;
    until_accepted(worker, journey, &decided, &mut attempts, room).await
}

/// Opens a stream of opaque bytes to a workload whose program has accepted the connection. The try
/// lasts as long as the connection does.
async fn until_accepted(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    decided: &Decided,
    attempts: &mut Attempts,
    room: Room,
) -> Result<Opened, Refusal> {
    let destination = worker.destinations.find(&decided.key);
    let budget = worker.destinations.budget(&decided.called, Instant::now());
    let settle = Settle::new(&destination, decided, budget);
    let mut avoided = Avoided::default();
    loop {
        let now = Instant::now();
        let decision = consider(&destination, decided, &avoided, now)?;
        check_chosen(decided, &decision)?;
        attempts.begin(now);
        journey.record.attempts = attempts.tries();
        let ways = (&destination, &decision);
        let connected = connect_workload(worker, decided, ways, &avoided, attempts, now).await;
        let (mut attempt, link) = match connected {
            Ok(connected) => connected,
            Err((attempt, failed)) => {
                settle.failed(attempts, &mut avoided, attempt, failed)?;
                continue;
            }
        };
        journey.record.destination_cluster = attempt.cluster().cloned();
        journey.record.destination_workload = attempt.workload().cloned();
        let context = Context {
            attempt: u8::try_from(attempts.tries() - 1).unwrap_or(u8::MAX),
            source_cluster: Some(worker.common.me.cluster.clone()),
            ..Context::default()
        };
        let open = TcpOpen {
            service: decided.key.service.clone(),
            port: decided.key.port,
            context,
        };
        match accepted(&link, attempts, open).await {
            Ok(stream) => {
                attempt.replied(CARRIED, Told::default(), Instant::now());
                let idle = decided.settings.timeout.idle;
                return Ok(Opened {
                    attempt,
                    stream,
                    idle,
                    _room: room,
                });
            }
            Err(failed) => settle.failed(attempts, &mut avoided, Some(attempt), failed)?,
        }
    }
}

/// Opens the stream and waits until the program has accepted.
async fn accepted(link: &Link, attempts: &mut Attempts, open: TcpOpen) -> Result<Stream, Failed> {
    let _committed = attempts.commit();
    let stream = link
        .open(&Open::Tcp(open), false)
        .map_err(|error| not_opened(&error))?;
    match timeout_at(deadline(attempts), stream.receive()).await {
        Ok(Ok(Item::Reply(Reply::Accepted))) => Ok(stream),
        Ok(Ok(Item::Reply(Reply::Response(refused)))) => {
            let code = refused
                .refusal
                .as_deref()
                .and_then(|code| std::str::from_utf8(code).ok());
            let reason = code
                .and_then(RefusalReason::find)
                .unwrap_or(RefusalReason::ConnectFailed);
            let outcome = Outcome::Refused {
                retry_unwanted: refused.do_not_retry,
            };
            Err(Failed::new(outcome, reason.into()))
        }
        Ok(Ok(_)) => {
            let refusal = Refusal::new(RefusalReason::BadUpstreamReply, "not a reply to TCP");
            Err(Failed::new(Outcome::Reset, refusal))
        }
        Ok(Err(error)) => Err(stream_failed(error, link)),
        Err(_) => {
            let outcome = attempts
                .expired(Instant::now())
                .unwrap_or(Outcome::TimedOut);
            Err(Failed::new(outcome, RefusalReason::RequestTimeout.into()))
        }
    }
}
