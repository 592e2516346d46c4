//! Plain TCP of a caller: CONNECT on the outbound listener, or a listener of its own. The bytes are
//! never looked at.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, ResponseHead, Version};
use isthmus_codec::message::{Context, Open, Reply, TcpOpen};
use isthmus_model::{Backend, ServiceName, Subset};
use isthmus_telemetry::{RefusalReason, Reporter};
use isthmus_world::Live;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::connect::connect as connect_workload;
use super::decided::{Decided, decide_backend, detect, find_port, find_service};
use super::settle::{
    Avoided, Failed, Settle, check_chosen, consider, deadline, has_room, not_opened, stream_failed,
};
use crate::config::Listener;
use crate::destination::Try;
use crate::http::{RequestReader, ResponseWriter};
use crate::journey::{Journey, lossy};
use crate::mux::{Item, Link, Stream};
use crate::refusal::Refusal;
use crate::splice::splice;
use crate::worker::Worker;

/// How a connection that was accepted counts, however it ended.
const CARRIED: Outcome = Outcome::Replied {
    status: 200,
    retry_unwanted: false,
};

/// A client asked for a tunnel.
pub(super) async fn connect(
    worker: Rc<Worker>,
    reader: RequestReader,
    mut writer: ResponseWriter,
    head: RequestHead,
) {
    let mut journey = start(&worker);
    journey.record.authority = Some(lossy(&head.target));
    let opened = async {
        let (service, port) = detect(&head.target)?;
        open(&worker, &mut journey, &service, port).await
    };
    match opened.await {
        Ok((attempt, stream)) => {
            let ok = ResponseHead {
                status: 200,
                version: Version::Http11,
                fields: Fields::new(),
            };
            let answered = async {
                // RFC 9110 section 9.3.6: a successful answer to CONNECT has no body.
                writer.head(&ok, Body::None)?.end(None, writer.output())?;
                Ok::<_, crate::http::HttpError>(writer.flush().await?)
            };
            if answered.await.is_ok() {
                let (read, early) = reader.into_tunnel();
                carry(&mut journey, read, writer.into_tunnel(), early, stream).await;
            }
            attempt.finish(CARRIED);
        }
        Err(refusal) => {
            // The client may be gone; it is counted all the same.
            let _ = super::refuse(&worker, &mut journey, &mut writer, &refusal, false).await;
        }
    }
    journey.finish(&worker.recorder);
}

/// A client connected to a listener that leads to one service.
pub(super) async fn listener(worker: Rc<Worker>, socket: TcpStream, target: Listener, _live: Live) {
    let mut journey = start(&worker);
    match open(&worker, &mut journey, &target.service, Some(target.port)).await {
        Ok((attempt, stream)) => {
            let (read, write) = socket.into_split();
            carry(&mut journey, read, write, Bytes::new(), stream).await;
            attempt.finish(CARRIED);
        }
        Err(refusal) => {
            journey.refused(&refusal, worker.name());
            tracing::info!(
                service = %target.service,
                reason = refusal.reason.code(),
                detail = refusal.detail,
                "a TCP connection was refused"
            );
        }
    }
    journey.finish(&worker.recorder);
}

fn start(worker: &Worker) -> Journey {
    let me = &worker.common.me;
    let mut journey = Journey::start(Reporter::Source, "tcp");
    journey.source(
        &me.identity,
        worker.common.config.own_service(),
        &me.cluster,
    );
    journey
}

async fn carry(
    journey: &mut Journey,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    early: Bytes,
    stream: Stream,
) {
    let carried = splice(read, write, early, &stream).await;
    journey.record.request_bytes = carried.sent;
    journey.record.response_bytes = carried.received;
}

/// A stream to a workload of the service whose program has accepted the connection.
async fn open(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    service: &ServiceName,
    port: Option<u16>,
) -> Result<(Try, Stream), Refusal> {
    journey.record.destination_service = Some(service.clone());
    let view = worker.view_with(service).await?;
    let called = find_service(&view, service)?;
    let port = find_port(called, port)?;
    let settings = called.own_settings().clone();
    let backend = Backend {
        service: service.clone(),
        port: Some(port),
        subset: Subset::default(),
        weight: 1,
    };
    let draw = worker.draw();
    let decided = decide_backend(worker, view, service, &backend, port, settings, draw)?;
    let now = Instant::now();
    // Never idempotent: only what surely reached no program is tried again.
    let mut attempts = Attempts::new(&decided.settings, "CONNECT", None, now);
    worker
        .destinations
        .budget(service, now)
        .borrow_mut()
        .on_request(now);
    until_accepted(worker, journey, &decided, &mut attempts).await
}

/// Opens a stream of opaque bytes to a workload whose program has accepted the connection. The try
/// lasts as long as the connection does.
async fn until_accepted(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    decided: &Decided,
    attempts: &mut Attempts,
) -> Result<(Try, Stream), Refusal> {
    let destination = worker.destinations.find(&decided.key);
    let settle = Settle::new(worker, &destination, decided, Instant::now());
    let mut avoided = Avoided::default();
    loop {
        let now = Instant::now();
        let decision = consider(&destination, decided, &avoided, now)?;
        check_chosen(decided, &decision)?;
        attempts.begin(now);
        journey.record.attempts = attempts.tries();
        let connected =
            connect_workload(worker, &destination, decided, &decision, &avoided, attempts).await;
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
                attempt.replied(CARRIED, None, Instant::now());
                return Ok((attempt, stream));
            }
            Err(failed) => settle.failed(attempts, &mut avoided, Some(attempt), failed)?,
        }
    }
}

/// Opens the stream and waits until the program has accepted.
async fn accepted(link: &Link, attempts: &mut Attempts, open: TcpOpen) -> Result<Stream, Failed> {
    has_room(link, attempts).await?;
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
