//! A control plane from start to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use isthmus_identity::{
    CertificateRequest, ClientAuth, ClusterAuthority, IssueError, KeyError, KeyPair, Leaf,
    LeafCell, LeafError, RequestError, TrustBundle, TrustCell, client_config, server_config,
};
use isthmus_wire::proto::control_server::ControlServer;
use isthmus_wire::proto::peers_server::PeersServer;
use isthmus_world::{Clock, RealClock, Store};
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{self, Api};
use crate::at_rest::{self, AtRestError, Unlocked};
use crate::config::{Config, DataError};
use crate::core::{ConnectionId, Core, Event, Now, OwnCertificate, Settings};
use crate::hub::{self, Errand, Hub};
use crate::issuer::Issuer;
use crate::open_error::OpenError;
use crate::peers::Dialler;
use crate::roots::Roots;
use crate::serve::MeshPort;
use crate::tls;

/// How often the core is told that time has passed.
const TICK: Duration = Duration::from_millis(100);
/// How long streams may take to end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a connection of the API may wait for its next request.
const IDLE: Duration = Duration::from_mins(1);
/// Flow control of HTTP/2: a piece of a ledger fits, also over a long way.
const WINDOW: u32 = 1024 * 1024;
/// Whoever listens within the cluster has answered by then.
const LISTENER: Duration = Duration::from_secs(2);
/// Addresses at which listeners are looked for at a time: who returns needs descriptors, too.
const ASKING: usize = 256;
/// HTTP/2 pings: a peer that does not answer is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why a control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    AtRest(#[from] AtRestError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the system gives no random bytes: {0}")]
    Chance(getrandom::Error),
    #[error("this control plane's own certificate: {0}")]
    Leaf(#[from] OwnLeafError),
    #[error("no thread could be started: {0}")]
    Thread(io::Error),
    #[error("the thread that decides has ended: see the log")]
    Ended,
}

/// Where a control plane listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub mesh: SocketAddr,
    pub api: SocketAddr,
    pub metrics: SocketAddr,
}

/// Why a control plane has no certificate for itself.
#[derive(Debug, thiserror::Error)]
pub enum OwnLeafError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// Runs one cluster's control plane until `stop` is done. Needs a tokio runtime; one thread is
/// enough, the core takes another.
///
/// Errors: the data directory holds no authority, the store cannot be used, an address is taken.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), ControlError> {
    let control = Control::start(config).await?;
    tracing::info!("the control plane is ready");
    control.until(stop).await
}

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    addresses: Addresses,
    hub: Arc<Hub>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    servers: JoinSet<()>,
    core: tokio::sync::oneshot::Receiver<()>,
}

impl Control {
    /// Starts it. Port 0 takes any that is free; `addresses` tells which.
    ///
    /// Errors: as for [`run`].
    pub async fn start(config: Config) -> Result<Self, ControlError> {
        let config = Arc::new(config);
        let mut unlocked = config.unlock()?;
        let authority = config.authority_at(unlocked.as_ref(), SystemTime::now())?;
        let leaf = Arc::new(LeafCell::new(own_leaf(&authority, &config)?));
        let (mesh_port, mesh) = listen(config.at(config.ports.mesh)).await?;
        let (api_port, api) = listen(config.at(config.ports.api)).await?;
        let (metrics_port, metrics) = listen(config.at(config.ports.metrics)).await?;
        let (hub, ends) = Hub::new();
        let hub = Arc::new(hub);
        let (stopping, _) = watch::channel(false);

        api::backup::sweep(&config);
        let roots = Roots::load(&config, authority.bundle())?;
        let core = open_core(&config, &roots, unlocked.as_mut())?;
        let issuer = Arc::new(Issuer::new(config.clone(), authority, roots, unlocked)?);
        let trust = issuer.trust().clone();
        let (ended, core_ended) = tokio::sync::oneshot::channel();
        let (events, actions) = (ends.events, ends.actions);
        std::thread::Builder::new()
            .name("control-core".to_owned())
            .spawn(move || {
                hub::drive(core, &RealClock, events, &actions);
                drop(ended);
            })
            .map_err(ControlError::Thread)?;

        let mut control = Self {
            addresses: Addresses { mesh, api, metrics },
            hub: hub.clone(),
            stopping,
            tasks: JoinSet::new(),
            servers: JoinSet::new(),
            core: core_ended,
        };
        let clock = Arc::new(DefaultTimeProvider);
        let dialling = client_config(Some(leaf.clone()), trust.clone(), &[b"h2"], clock.clone());
        let dialler = Dialler {
            hub: hub.clone(),
            tls: TlsConnector::from(Arc::new(dialling)),
            trust: trust.clone(),
            own: config.cluster.clone(),
            authority: config.authority.clone(),
        };
        control
            .tasks
            .spawn(perform(hub.clone(), ends.performed, dialler));
        control.tasks.spawn(tick(hub.clone()));
        tell_certificates(&hub, &leaf).await;
        let (renewed, of) = (leaf.clone(), issuer.clone());
        let renewing = renew(hub.clone(), renewed, of, config.clone());
        control.tasks.spawn(renewing);
        control.serve_mesh(mesh_port, &config, &issuer, &leaf, &trust);
        control.serve_api(api_port, &config, &issuer, &leaf, &trust);
        let router = crate::metrics::router(hub);
        control.tasks.spawn(async move {
            if let Err(error) = axum::serve(metrics_port, router).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
        Ok(control)
    }

    fn serve_mesh(
        &mut self,
        listener: TcpListener,
        config: &Config,
        issuer: &Arc<Issuer>,
        leaf: &Arc<LeafCell>,
        trust: &Arc<TrustCell>,
    ) {
        let clock = Arc::new(DefaultTimeProvider);
        let tls = server_config(
            leaf.clone(),
            trust.clone(),
            &[b"h2"],
            ClientAuth::Optional,
            clock,
        );
        let (accepted, connections) = tls::channel();
        let ids = self.hub.clone();
        let next_id = move || ConnectionId(ids.next_id());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        self.tasks.spawn(tls::accept(
            listener,
            acceptor,
            trust.clone(),
            issuer.clone(),
            next_id,
            accepted,
        ));
        let port = MeshPort {
            hub: self.hub.clone(),
            issuer: issuer.clone(),
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            mesh: config.mesh.clone(),
            leaf_lifetime: config.leaf_lifetime,
            renew_after: config.renew_after,
        };
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(ControlServer::new(port.clone()))
            .add_service(PeersServer::new(port).max_decoding_message_size(MESSAGE_LIMIT))
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), self.stopped());
        self.servers.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the mesh's port is not served any more");
            }
        });
    }

    fn serve_api(
        &mut self,
        listener: TcpListener,
        config: &Arc<Config>,
        issuer: &Arc<Issuer>,
        leaf: &Arc<LeafCell>,
        trust: &Arc<TrustCell>,
    ) {
        let api = Arc::new(Api {
            hub: self.hub.clone(),
            issuer: issuer.clone(),
            control: self.addresses.mesh,
            config: config.clone(),
            backups: Arc::new(Semaphore::new(1)),
        });
        let clock = Arc::new(DefaultTimeProvider);
        let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let tls = server_config(
            leaf.clone(),
            trust.clone(),
            &alpn,
            ClientAuth::Optional,
            clock,
        );
        let (accepted, connections) = tls::channel();
        let ids = self.hub.clone();
        let next_id = move || ConnectionId(ids.next_id());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        self.tasks.spawn(tls::accept(
            listener,
            acceptor,
            trust.clone(),
            issuer.clone(),
            next_id,
            accepted,
        ));
        self.servers
            .spawn(serve_http(connections, api::router(api), self.stopped()));
    }

    /// Done when this control plane is told to stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            // An error means that the sender is gone: it stops all the more.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Runs until `stop` is done, then lets go of proxies and clients in order.
    ///
    /// Errors: the core has ended by itself, which only a defect can make it do.
    pub async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), ControlError> {
        tokio::select! {
            () = stop => {}
            _ = &mut self.core => return Err(ControlError::Ended),
        }
        tracing::info!("the control plane is stopping");
        self.stopping.send_replace(true);
        self.hub.end_streams();
        let drained = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.servers.shutdown().await;
        self.hub.stop().await;
        if tokio::time::timeout(DRAIN, self.core).await.is_err() {
            tracing::warn!("the thread that decides did not end in time");
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// Largest message between control planes: one write of a ledger, and its frame.
const MESSAGE_LIMIT: usize = 8 * 1024 * 1024;

fn open_core(
    config: &Config,
    (roots, trusted): &(Roots, TrustBundle),
    unlocked: Option<&mut Unlocked>,
) -> Result<Core<Box<dyn Store>>, ControlError> {
    let store = match unlocked {
        Some(unlocked) => unlocked.store(&config.store())?,
        None => {
            let data = config.data.display();
            tracing::info!("what lies in {data} is not encrypted: `atRest.key` names a key for it");
            at_rest::plain_store(&config.store())?
        }
    };
    let settings = Settings {
        mesh: config.mesh.clone(),
        trust_domain: config.trust_domain.clone(),
        trust: trusted.clone(),
        trust_serial: roots.serial(),
        cluster: config.cluster.clone(),
        authority: config.authority.clone(),
        bootstrap: config.peers.clone(),
        leaf_lifetime: config.leaf_lifetime,
        seed: getrandom::u64().map_err(ControlError::Chance)?,
    };
    let now = Now {
        monotonic: RealClock.now(),
        wall: RealClock.wall(),
    };
    Ok(Core::open(settings, store, now)?)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ControlError> {
    let failed = |source| ControlError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn own_leaf(authority: &ClusterAuthority, config: &Config) -> Result<Leaf, OwnLeafError> {
    let key = KeyPair::generate()?;
    let request = CertificateRequest::from_pem(&key.certificate_request()?)?;
    let addresses = [config.address];
    let (now, lifetime) = (SystemTime::now(), config.leaf_lifetime);
    let chain = authority.issue_control_at(&request, &addresses, now, lifetime)?;
    Ok(Leaf::new(key, chain)?.with_root(authority.bundle())?)
}

/// Keeps this control plane's own certificate young.
async fn renew(hub: Arc<Hub>, leaf: Arc<LeafCell>, issuer: Arc<Issuer>, config: Arc<Config>) {
    let mut replaced = issuer.watch();
    loop {
        let at = leaf.load().renew_at(config.renew_after);
        let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
            Ok(()) = replaced.changed() => {}
        }
        let renewed = own_leaf(&issuer.load().authority, &config);
        match renewed.map(|renewed| leaf.replace(renewed)) {
            Ok(Ok(())) => {
                tracing::info!("the control plane's own certificate was renewed");
                tell_certificates(&hub, &leaf).await;
            }
            Ok(Err(error)) => tracing::error!(%error, "the own certificate was not renewed"),
            Err(error) => tracing::error!(%error, "the own certificate was not renewed"),
        }
    }
}

/// Of the control plane, its cluster and the mesh, in the order in which they sign each other.
async fn tell_certificates(hub: &Hub, leaf: &LeafCell) {
    let names = ["control", "cluster", "root"];
    let leaf = leaf.load();
    let certificates = names.into_iter().zip(leaf.chain().validity());
    let certificates = certificates.map(|(name, validity)| OwnCertificate { name, validity });
    // An error means that the core has ended, which `until` notices.
    let _ = hub.tell(Event::Certificates(certificates.collect())).await;
}

async fn tick(hub: Arc<Hub>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if hub.tell(Event::Tick).await.is_err() {
            return;
        }
    }
}

async fn perform(
    hub: Arc<Hub>,
    mut actions: tokio::sync::mpsc::Receiver<Vec<crate::core::Action>>,
    dialler: Dialler,
) {
    let asking = Arc::new(Semaphore::new(ASKING));
    let mut errands = JoinSet::new();
    while let Some(actions) = actions.recv().await {
        for errand in hub.perform(actions) {
            match errand {
                Errand::Dial { target, address } => {
                    errands.spawn(dialler.clone().dial(target, address))
                }
                Errand::FindListener(address) => {
                    errands.spawn(find_listener(hub.clone(), asking.clone(), address))
                }
            };
        }
        while errands.try_join_next().is_some() {}
    }
}

/// Tells when nobody listens there. That nothing answers says nothing: the way may be cut.
async fn find_listener(hub: Arc<Hub>, asking: Arc<Semaphore>, address: SocketAddr) {
    // It is never closed.
    let _turn = asking.acquire().await;
    let connecting = tokio::time::timeout(LISTENER, tokio::net::TcpStream::connect(address));
    if let Ok(Err(error)) = connecting.await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        // An error means that the core is gone.
        let _ = hub.tell(Event::NoListener(address)).await;
    }
}

/// Serves HTTP/1.1 and HTTP/2 on connections as they come, until told to stop.
async fn serve_http(
    mut connections: tokio::sync::mpsc::Receiver<io::Result<tls::Connection>>,
    router: Router,
    stopped: impl Future<Output = ()>,
) {
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE));
    tokio::pin!(stopped);
    loop {
        let connection = tokio::select! {
            () = &mut stopped => break,
            connection = connections.recv() => connection,
        };
        let Some(Ok(connection)) = connection else {
            break;
        };
        let service = TowerToHyperService::new(router.clone());
        let serving = builder
            .serve_connection(TokioIo::new(connection), service)
            .into_owned();
        let serving = graceful.watch(serving);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection of the API ended early");
            }
        });
    }
    if tokio::time::timeout(DRAIN / 2, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("connections of the API are still open");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_that_nobody_listens_is_told() {
        let (hub, mut ends) = Hub::new();
        let hub = Arc::new(hub);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asking = Arc::new(Semaphore::new(1));
        find_listener(hub.clone(), asking.clone(), address).await;
        assert!(ends.events.try_recv().is_err());
        drop(listener);
        find_listener(hub, asking, address).await;
        let told = ends.events.try_recv();
        assert!(matches!(told, Ok(hub::Turn::On(Event::NoListener(at))) if at == address));
    }
}
