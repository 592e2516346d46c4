//! Plain TCP of a caller: CONNECT on the outbound listener, or a listener of its own. The bytes are
//! never looked at.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, ResponseHead, Version};
use isthmus_model::{Backend, ServiceName, Subset};
use isthmus_telemetry::Reporter;
use isthmus_world::Live;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::request::{decide_backend, detect, find_port, find_service, lossy};
use super::tries;
use crate::config::Listener;
use crate::destination::Try;
use crate::http::{RequestReader, ResponseWriter};
use crate::journey::Journey;
use crate::mux::Stream;
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
    tries::open_tcp(worker, journey, &decided, &mut attempts).await
}
