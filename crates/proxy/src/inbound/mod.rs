//! The callee's side: takes sessions from other proxies, and hands their requests and connections to
//! the program beside this proxy.
//!
//! Trusts neither the caller's proxy nor the gateway that may lie between: who calls is what the
//! inner certificate proves, and whether it may is decided again here. A request that reached no
//! program is refused as such, so that the caller may safely try elsewhere.

mod request;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_authz::Caller;
use isthmus_codec::message::{Open, Reply};
use isthmus_codec::mux::{ResetCode, Settings, Side};
use isthmus_identity::{Unacceptable, VerifiedPeer, accept_caller};
use isthmus_model::{AppProtocol, ServiceName};
use isthmus_telemetry::{Reporter, Source};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::crew::Crew;
use crate::intake::{Comers, Door, Place, accept};
use crate::journey::{Journey, source_of};
use crate::memory::REQUEST;
use crate::mux::{Incoming, Link, Stream};
use crate::refusal::Refusal;
use crate::sessions::Rule;
use crate::splice::splice_socket;
use crate::view::{Known, ServiceView, View};
use crate::worker::Worker;

/// A peer that has not finished its handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Takes sessions until the drain begins.
pub(crate) async fn listen(worker: Rc<Worker>, door: Door) {
    let (intake, drain) = worker.common.doors();
    let crew = Crew::new(serve);
    accept(&intake, drain, door, Comers::Mesh, move |socket, place| {
        let (worker, crew) = (Rc::clone(&worker), Rc::clone(&crew));
        tokio::task::spawn_local(session(worker, socket, place, move |work| crew.give(work)));
    })
    .await;
}

/// A stream, whose it is, and the worker that serves it.
struct Work {
    worker: Rc<Worker>,
    incoming: Incoming,
    peer: Rc<Peer>,
}

/// One session with another proxy.
async fn session(worker: Rc<Worker>, socket: TcpStream, place: Place, give: impl Fn(Work)) {
    let Some((link, caller)) = open_session(&worker, socket, place.source()).await else {
        return;
    };
    let peer = Rc::new(Peer::of(caller));
    serve_link(&worker, &link, place, move |worker, incoming| {
        give(Work {
            worker,
            incoming,
            peer: Rc::clone(&peer),
        });
    })
    .await;
}

/// Handshake and judgement of the peer, which has come from `source`. What fails is counted.
pub(crate) async fn open_session(
    worker: &Rc<Worker>,
    socket: TcpStream,
    source: Option<IpAddr>,
) -> Option<(Link, Arc<Caller>)> {
    let common = &worker.common;
    let accepting = common.me.accept(socket, &worker.turns, &common.metrics);
    let (session, proven) = match timeout(HANDSHAKE, accepting).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            if error.is_crowded() {
                common.metrics.count_connection_shed("too-many-handshakes");
            }
            tracing::debug!(%error, ?source, "a session was not accepted");
            return None;
        }
        Err(_) => {
            common.metrics.count_connection_shed("slow-handshake");
            return None;
        }
    };
    let peer = proven.peer();
    match judge(&common.view.load(), peer) {
        Ok(caller) => {
            let link = Link::start(session, Side::Listener, Settings::default(), &common.memory);
            worker.sessions.watch(&link, proven, Rule::Caller);
            Some((link, Arc::new(caller)))
        }
        Err(error) => {
            common.metrics.count_tls_refused(error.reason());
            tracing::warn!(%error, peer = %peer.id(), ?source, "a peer was refused");
            None
        }
    }
}

fn judge(view: &View, peer: &VerifiedPeer) -> Result<Caller, Unacceptable> {
    let identity = accept_caller(peer, |name| view.peer_cluster(name))?.clone();
    Ok(Caller::Verified {
        identity,
        cluster: peer.cluster().clone(),
    })
}

/// Takes streams until the link ends; when the drain begins, those that run may finish.
pub(crate) async fn serve_link(
    worker: &Rc<Worker>,
    link: &Link,
    _place: Place,
    serve: impl Fn(Rc<Worker>, Incoming),
) {
    let mut drain = worker.common.drain.clone();
    let mut draining = false;
    loop {
        tokio::select! {
            incoming = link.accept() => match incoming {
                Some(incoming) => serve(Rc::clone(worker), incoming),
                None => return,
            },
            () = drain.draining(), if !draining => {
                draining = true;
                link.drain();
            }
        }
    }
}

/// One request or connection of a caller.
async fn serve(work: Work) {
    let Work {
        worker,
        incoming,
        peer,
    } = work;
    let Incoming {
        stream,
        mut open,
        end,
    } = incoming;
    let caller = &peer.caller;
    let is_tcp = matches!(open, Open::Tcp(_));
    // Until it is known what the program speaks.
    let protocol = if is_tcp { "tcp" } else { "http/1.1" };
    let mut journey = Journey::start(Reporter::Destination, protocol, peer.source.clone());
    journey.record.destination_cluster = Some(worker.common.me.cluster.clone());
    let Some(_room) = worker.memory.admit(REQUEST) else {
        let refusal = Refusal::no_memory(worker.memory.budget());
        journey.refused(&refusal, worker.name());
        journey.finish(&worker.recorder);
        return stream.reset(ResetCode::Overloaded);
    };
    match &mut open {
        Open::Request(request) => {
            request::serve(&worker, &mut journey, stream, request, end, caller).await;
        }
        Open::Tcp(tcp) => {
            journey.record.destination_service = Some(tcp.service.clone());
            serve_tcp(
                &worker,
                &mut journey,
                stream,
                &tcp.service,
                tcp.port,
                caller,
            )
            .await;
        }
        // Tunnels are a gateway's business.
        Open::Tunnel(_) => stream.reset(ResetCode::Refused),
    }
    journey.finish(&worker.recorder);
}

/// Who is at the other end of a session.
struct Peer {
    caller: Arc<Caller>,
    source: Option<Rc<Source>>,
}

impl Peer {
    fn of(caller: Arc<Caller>) -> Self {
        let source = source_of(&caller);
        Self { caller, source }
    }
}

async fn serve_tcp(
    worker: &Worker,
    journey: &mut Journey,
    stream: Stream,
    service: &ServiceName,
    port: u16,
    caller: &Arc<Caller>,
) {
    let target = match authorize(worker, service, port, caller).await {
        Ok(target) => target,
        Err(refusal) => {
            journey.refused(&refusal, worker.name());
            // A stream that failed meanwhile needs no answer.
            let _ = stream.reply(&request::refused(&refusal, worker.name(), false), true);
            return;
        }
    };
    let Target {
        port: target, idle, ..
    } = target;
    match worker.program.connect(target).await {
        Ok(socket) => {
            journey.record.attempts = 1;
            if stream.reply(&Reply::Accepted, false).is_ok() {
                let carrying = splice_socket(socket, bytes::Bytes::new(), &stream, idle);
                tokio::select! {
                    carried = carrying => {
                        journey.record.request_bytes = carried.received;
                        journey.record.response_bytes = carried.sent;
                    }
                    refusal = withdrawn(worker, service, port, caller) => {
                        journey.refused(&refusal, worker.name());
                        stream.reset(ResetCode::Cancelled);
                    }
                }
            }
        }
        Err(error) => {
            tracing::debug!(%error, port = target, "the program does not take connections");
            stream.reset(ResetCode::Refused);
        }
    }
}

/// Where the program takes what a caller may send.
#[derive(Debug, Clone, Copy)]
struct Target {
    port: u16,
    protocol: AppProtocol,
    /// `timeout.idle`.
    idle: Duration,
}

/// Is the service this workload's own, does it have the port, and may the caller call it?
async fn authorize(
    worker: &Worker,
    service: &ServiceName,
    port: u16,
    caller: &Arc<Caller>,
) -> Result<Target, Refusal> {
    use isthmus_telemetry::RefusalReason;
    if worker.common.config.own_service() != Some(service) {
        let detail = format!("this workload does not run {service}");
        return Err(Refusal::new(RefusalReason::NoSuchService, detail));
    }
    let view = worker.view_with(service).await?;
    let declared = declared(&view, service)?;
    let policies = view.policies().ok_or(RefusalReason::NotKnownYet)?;
    let _permit = policies
        .authorize(caller, &declared.service)
        .map_err(|denied| crate::outbound::refuse_denied(&denied))?;
    let found = declared
        .service
        .ports
        .iter()
        .find(|known| known.port == port)
        .ok_or_else(|| {
            Refusal::new(
                RefusalReason::UnknownPort,
                format!("{service} has no port {port}"),
            )
        })?;
    Ok(Target {
        port: found.target_port,
        protocol: found.protocol,
        idle: declared.own_settings().timeout.idle,
    })
}

/// Waits until what was allowed is so no longer: what lasts is judged again whenever the view changes.
async fn withdrawn(
    worker: &Worker,
    service: &ServiceName,
    port: u16,
    caller: &Arc<Caller>,
) -> Refusal {
    let mut published = worker.common.view.subscribe();
    loop {
        if !published.changed().await {
            // The process ends.
            std::future::pending::<()>().await;
        }
        // Boxed: the view seldom changes while a request is under way, and each would have the room for it.
        if let Some(refusal) = Box::pin(denied(worker, service, port, caller)).await {
            return refusal;
        }
    }
}

/// Is it known that the caller may not call?
async fn denied(
    worker: &Worker,
    service: &ServiceName,
    port: u16,
    caller: &Arc<Caller>,
) -> Option<Refusal> {
    use isthmus_telemetry::RefusalReason;
    let refused = authorize(worker, service, port, caller).await.err();
    // Not knowing takes nothing back.
    refused.filter(|refusal| refusal.reason != RefusalReason::NotKnownYet)
}

fn declared<'v>(view: &'v View, service: &ServiceName) -> Result<&'v ServiceView, Refusal> {
    use isthmus_telemetry::RefusalReason;
    match view.find(service) {
        Some(Known::Service(found)) => Ok(found),
        Some(Known::Absent) => Err(Refusal::new(
            RefusalReason::NoSuchService,
            service.to_string(),
        )),
        Some(Known::Unusable(reason)) => {
            Err(Refusal::new(RefusalReason::NotKnownYet, reason.clone()))
        }
        None => Err(RefusalReason::NotKnownYet.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F>(_: fn(Work) -> F) -> usize {
        size_of::<F>()
    }

    /// There is one for each request that is under way: `-Zprint-type-sizes` tells what takes the room.
    #[test]
    fn the_task_of_a_request_is_small() {
        let size = size_of_task(serve);
        assert!(size <= 5 * 1024, "{size}");
    }
}
