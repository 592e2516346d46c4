//! The edge between clusters: opens tunnels to workloads of the own cluster and copies their bytes.
//!
//! What flows through a tunnel is the inner session of caller and callee. A gateway sees names,
//! sizes and times, never content, and never speaks for a caller: it dials the workload's mesh port
//! by plain TCP and the two ends prove themselves to each other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_authz::Caller;
use isthmus_balance::{Endpoints, Outcome};
use isthmus_codec::message::{Open, RefusalCode, Reply, TunnelOpen, TunnelReply};
use isthmus_codec::mux::ResetCode;
use isthmus_model::{Algorithm, Handle, ServiceName, TrafficSettings, Workload};
use isthmus_telemetry::{Reporter, Source};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::inbound::{open_session, serve_link};
use crate::intake::{Comers, Door, Place, accept};
use crate::journey::{Journey, source_of};
use crate::memory::REQUEST;
use crate::mux::{Incoming, Stream};
use crate::splice::splice;
use crate::view::{Known, ServiceView, View};
use crate::worker::Worker;

/// Workloads of the own cluster answer at once or not at all.
const CONNECT: Duration = Duration::from_secs(1);
/// One that has not answered by then most likely will not.
const TELLS: Duration = Duration::from_millis(250);
/// After so long no further one is tried: a caller that is still there asks another gateway.
const CONNECT_ANY: Duration = Duration::from_secs(3);
/// Each workload counts alike for now.
const WEIGHT: u32 = 1;

/// What one worker of a gateway knows of the workloads behind it.
type Behind = Rc<RefCell<HashMap<ServiceName, Endpoints<Handle>>>>;

/// Why no tunnel was opened.
struct NoTunnel {
    code: RefusalCode,
    detail: String,
}

impl NoTunnel {
    fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// Takes sessions until the drain begins.
pub(crate) async fn listen(worker: Rc<Worker>, door: Door) {
    let behind = Behind::default();
    let (intake, drain) = worker.common.doors();
    accept(&intake, drain, door, Comers::Mesh, move |socket, place| {
        tokio::task::spawn_local(session(
            Rc::clone(&worker),
            Rc::clone(&behind),
            socket,
            place,
        ));
    })
    .await;
}

/// One session with a caller's proxy.
async fn session(worker: Rc<Worker>, behind: Behind, socket: TcpStream, place: Place) {
    let Some((link, caller)) = open_session(&worker, socket, place.source()).await else {
        return;
    };
    let source = source_of(&caller);
    serve_link(&worker, &link, place, move |worker, incoming| {
        tokio::task::spawn_local(serve(
            worker,
            Rc::clone(&behind),
            incoming,
            Arc::clone(&caller),
            source.clone(),
        ));
    })
    .await;
}

/// One tunnel.
async fn serve(
    worker: Rc<Worker>,
    behind: Behind,
    incoming: Incoming,
    caller: Arc<Caller>,
    source: Option<Rc<Source>>,
) {
    let Incoming { stream, open, .. } = incoming;
    let Open::Tunnel(open) = open else {
        // Requests are for workloads; a gateway could not answer one without reading it.
        return stream.reset(ResetCode::Refused);
    };
    let mut journey = Journey::start(Reporter::Gateway, "tcp", source);
    journey.record.destination_service = Some(open.service.clone());
    journey.record.destination_cluster = Some(worker.common.me.cluster.clone());
    let room = worker.memory.admit(REQUEST);
    let connected = match &room {
        Some(_) => connect(&worker, &behind, &open, &caller, &stream).await,
        None => Err(NoTunnel::new(RefusalCode::Overloaded, "no memory")),
    };
    match connected {
        Ok((workload, socket)) => {
            journey.record.destination_workload = Some(workload.handle.clone());
            carry(&mut journey, stream, &workload, socket).await;
            let mut behind = behind.borrow_mut();
            if let Some(endpoints) = behind.get_mut(&open.service) {
                endpoints.finish(&workload.handle, CARRIED, Duration::ZERO, Instant::now());
            }
        }
        Err(NoTunnel { code, detail }) => {
            tracing::debug!(service = %open.service, %code, detail, "no tunnel");
            // A caller that went away needs no answer.
            let _ = stream.reply(&Reply::Tunnel(TunnelReply::Refused { code, detail }), true);
        }
    }
    journey.finish(&worker.recorder);
}

/// How a tunnel that was opened counts, however it ended.
const CARRIED: Outcome = Outcome::Replied {
    status: 200,
    retry_unwanted: false,
};

async fn carry(journey: &mut Journey, stream: Stream, workload: &Workload, socket: TcpStream) {
    let reply = TunnelReply::Open {
        handle: workload.handle.clone(),
        zone: workload.zone.clone(),
        weight: WEIGHT,
    };
    if stream.reply(&Reply::Tunnel(reply), false).is_ok() {
        let (read, write) = socket.into_split();
        // What is carried is sealed, and tells by itself whether it was all.
        let has_all = Cell::new(false);
        let carried = splice(read, write, Bytes::new(), &stream, Duration::ZERO, &has_all).await;
        journey.record.request_bytes = carried.received;
        journey.record.response_bytes = carried.sent;
    }
}

/// Finds a workload that answers; one that does not is passed over. Ends with the caller's `stream`.
async fn connect(
    worker: &Worker,
    behind: &Behind,
    open: &TunnelOpen,
    caller: &Arc<Caller>,
    stream: &Stream,
) -> Result<(Workload, TcpStream), NoTunnel> {
    let own = &worker.common.me.cluster;
    if open.cluster != *own {
        let detail = format!("this is a gateway of {own}, not of {}", open.cluster);
        return Err(NoTunnel::new(RefusalCode::WrongCluster, detail));
    }
    let view = worker
        .view_with(&open.service)
        .await
        .map_err(|refusal| NoTunnel::new(RefusalCode::NoSuchService, refusal.detail))?;
    let service = permitted(&view, open, caller)?;
    let healthy: Vec<&Workload> = service
        .workloads
        .iter()
        .filter(|workload| workload.health.takes_traffic())
        .filter(|workload| open.subset.contains(&workload.labels))
        .collect();
    let mut failed = open.avoid.clone();
    let last = tokio::time::Instant::now() + CONNECT_ANY - CONNECT;
    for _ in 0..healthy.len() {
        if tokio::time::Instant::now() > last {
            break;
        }
        let Some(workload) = pick(worker, behind, open, service, &healthy, &failed) else {
            break;
        };
        let (begun, mut gone) = (tokio::time::Instant::now(), false);
        let outcome = tokio::select! {
            dialled = timeout(CONNECT, TcpStream::connect(workload.address)) => match dialled {
                Ok(Ok(socket)) => {
                    // Without it small writes wait for acknowledgements.
                    let _ = socket.set_nodelay(true);
                    return Ok((workload.clone(), socket));
                }
                Ok(Err(_)) | Err(_) => Outcome::ConnectFailed,
            },
            _ = stream.failed() => {
                gone = true;
                // Its caller may have waited for just as long as we would have.
                if begun.elapsed() < TELLS {
                    Outcome::Cancelled
                } else {
                    Outcome::ConnectFailed
                }
            }
        };
        let mut behind = behind.borrow_mut();
        if let Some(endpoints) = behind.get_mut(&open.service) {
            endpoints.finish(&workload.handle, outcome, CONNECT, Instant::now());
        }
        if gone {
            break;
        }
        failed.push(workload.handle.clone());
    }
    let detail = format!("{} in {own}", open.service);
    Err(NoTunnel::new(RefusalCode::NoHealthyWorkload, detail))
}

fn permitted<'v>(
    view: &'v View,
    open: &TunnelOpen,
    caller: &Arc<Caller>,
) -> Result<&'v ServiceView, NoTunnel> {
    let service = match view.find(&open.service) {
        Some(Known::Service(service)) => service,
        Some(Known::Absent | Known::Unusable(_)) | None => {
            return Err(NoTunnel::new(
                RefusalCode::NoSuchService,
                open.service.to_string(),
            ));
        }
    };
    let policies = view
        .policies()
        .ok_or_else(|| NoTunnel::new(RefusalCode::NotAuthorized, "the mesh is not known yet"))?;
    let _permit = policies
        .authorize(caller, &service.service)
        .map_err(|denied| {
            let code = match denied {
                isthmus_authz::Denied::NotExported { .. } => RefusalCode::NotExported,
                isthmus_authz::Denied::ForeignTrustDomain { .. } => RefusalCode::NotAuthorized,
            };
            NoTunnel::new(code, denied.to_string())
        })?;
    Ok(service)
}

/// The workload of the next try: by open tunnels, since a tunnel carries many requests.
fn pick<'w>(
    worker: &Worker,
    behind: &Behind,
    open: &TunnelOpen,
    service: &ServiceView,
    healthy: &[&'w Workload],
    failed: &[Handle],
) -> Option<&'w Workload> {
    let now = Instant::now();
    let mut behind = behind.borrow_mut();
    let endpoints = behind.entry(open.service.clone()).or_insert_with(|| {
        Endpoints::new(Algorithm::LeastRequest, TrafficSettings::default().outlier)
    });
    let all = service
        .workloads
        .iter()
        .filter(|workload| workload.health.takes_traffic());
    endpoints.set(all.map(|workload| workload.handle.clone()), now);
    // Those of other subsets are avoided like those that failed.
    let outside = service.workloads.iter().filter(|workload| {
        !healthy
            .iter()
            .any(|inside| inside.handle == workload.handle)
    });
    let avoid: Vec<Handle> = failed
        .iter()
        .cloned()
        .chain(outside.map(|workload| workload.handle.clone()))
        .collect();
    let handle = endpoints.pick(&avoid, now, worker.draw())?.key.clone();
    let workload = healthy.iter().find(|workload| workload.handle == handle)?;
    endpoints.start(&handle);
    Some(workload)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use isthmus_codec::message::Priority;
    use isthmus_codec::mux::{Settings, Side};
    use isthmus_model::Subset;
    use tokio::net::TcpSocket;
    use tokio::task::LocalSet;

    use super::*;
    use crate::mux::Link;
    use crate::testing::{Plain, Scene, plenty};

    /// An address at which nobody answers: whoever listens there has no room for another.
    async fn black_hole() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).await.unwrap();
        (address, (listener, first))
    }

    /// How long ten workloads that do not answer are tried for a caller who goes away at once or stays.
    async fn tried(goes: bool) -> Duration {
        let (hole, _full) = black_hole().await;
        let mut scene = Scene::stretched(hole);
        let cart = scene.facts.workloads.remove(0);
        scene.facts.workloads = (0..10)
            .map(|number| Workload {
                handle: Handle::new(&format!("cart-{number}")),
                address: hole,
                ..cart.clone()
            })
            .collect();
        let gateway = scene.gateway.as_mut().unwrap();
        gateway.learn(&scene.facts);
        let open = TunnelOpen {
            cluster: gateway.worker.common.me.cluster.clone(),
            service: scene.facts.service.name.clone(),
            port: 80,
            subset: Subset::default(),
            avoid: Vec::new(),
            want: None,
            hop_limit: 0,
            priority: Priority::Normal,
            data_class: None,
        };
        let (far, near) = tokio::io::duplex(64_000);
        let start = |io, side| Link::start(Plain::new(io), side, Settings::default(), &plenty());
        let (far, near) = (start(far, Side::Dialler), start(near, Side::Listener));
        let theirs = far.open(&Open::Tunnel(open.clone()), false).unwrap();
        let stream = near.accept().await.unwrap().stream;
        let theirs = (!goes).then_some(theirs);

        let behind = Behind::default();
        let me = &gateway.worker.common.me;
        let caller = Arc::new(Caller::Verified {
            identity: me.identity.clone(),
            cluster: me.cluster.clone(),
        });
        let began = tokio::time::Instant::now();
        let connected = connect(&gateway.worker, &behind, &open, &caller, &stream).await;
        assert!(connected.is_err());
        drop(theirs);
        let all = behind.borrow()[&open.service].describe(Instant::now());
        assert!(all.iter().all(|workload| workload.in_flight == 0));
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_dials_no_longer_than_its_caller_is_there() {
        let took = LocalSet::new().run_until(tried(true)).await;
        assert!(took < CONNECT, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_dials_only_so_many_that_do_not_answer() {
        let took = LocalSet::new().run_until(tried(false)).await;
        assert!(took > CONNECT && took < CONNECT_ANY + CONNECT, "{took:?}");
    }
}
