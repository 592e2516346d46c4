//! Ways to workloads: connections to those of the own cluster, tunnels to those of others.
//!
//! A link to a workload is the same thing either way: one `isthmus/1` multiplex inside a mutual-TLS
//! session that ends at the workload's proxy. Across clusters that session runs through a stream of
//! an outer session with a gateway, which copies it unread. Links are kept and shared; who dials a
//! peer that others are dialling waits for the same result. Chooses no workload and no cluster.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use isthmus_codec::memory::MemoryBudget;
use isthmus_codec::message::{Open, Priority, RefusalCode, Reply, TunnelOpen, TunnelReply};
use isthmus_codec::mux::{CannotOpen, Settings, Side};
use isthmus_identity::{Callee, Unacceptable, accept_callee, accept_gateway, gateway_server_name};
use isthmus_model::{ClusterName, Gateway, Handle, Service, Subset, Workload};
use isthmus_telemetry::{Metrics, RefusalReason};
use isthmus_wire::ClusterView;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mux::{Item, Link, Pipe, StreamError};
use crate::refusal::Refusal;
use crate::sessions::{Rule, Sessions};
use crate::tls::{Me, TlsError, Turns};
use crate::view::peer_cluster;

mod gateways;
mod way;

use gateways::Gateways;
pub(crate) use way::AFTER_FAILURE;
use way::Way;

/// Proxies that a tunnel may pass behind the first gateway.
const HOP_LIMIT: u8 = 0;

/// All links of one worker.
pub(crate) struct Reach {
    dialler: Rc<Dialler>,
    workloads: RefCell<HashMap<Handle, Rc<Way>>>,
    gateways: Rc<Gateways>,
}

/// Makes sessions, and links over them.
struct Dialler {
    me: Arc<Me>,
    turns: Rc<Turns>,
    metrics: Arc<Metrics>,
    sessions: Rc<Sessions>,
    memory: MemoryBudget,
}

/// A way into one workload of another cluster.
pub(crate) struct Tunnel {
    pub(crate) handle: Handle,
    pub(crate) link: Link,
}

/// Why a workload could not be reached. Nothing was handed to it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("this proxy has no valid certificate")]
    NoIdentity,
    #[error("{0} did not answer within {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("{0}: {1}")]
    Connect(SocketAddr, io::ErrorKind),
    #[error("{0}: {1}")]
    Handshake(SocketAddr, String),
    #[error("{0}: {1}")]
    NotVerified(SocketAddr, String),
    #[error("no gateway of cluster {0} is known")]
    NoGateway(ClusterName),
    #[error("the gateway of cluster {0} refused: {1} {2}")]
    Refused(ClusterName, RefusalCode, String),
    #[error("the connection ended while it was being opened: {0}")]
    Ended(String),
}

impl From<&Unreachable> for Refusal {
    fn from(unreachable: &Unreachable) -> Self {
        let reason = match unreachable {
            Unreachable::NoIdentity => RefusalReason::NoIdentity,
            Unreachable::Timeout(..) => RefusalReason::ConnectTimeout,
            Unreachable::NotVerified(..) => RefusalReason::PeerNotVerified,
            Unreachable::Refused(_, code, _) => match code {
                RefusalCode::NoSuchService => RefusalReason::NoSuchService,
                RefusalCode::NotExported => RefusalReason::NotExported,
                RefusalCode::NotAuthorized => RefusalReason::NotAuthorized,
                RefusalCode::NoHealthyWorkload => RefusalReason::NoHealthyWorkload,
                _ => RefusalReason::ConnectFailed,
            },
            Unreachable::Connect(..)
            | Unreachable::Handshake(..)
            | Unreachable::NoGateway(_)
            | Unreachable::Ended(_) => RefusalReason::ConnectFailed,
        };
        Refusal::new(reason, unreachable.to_string())
    }
}

impl From<CannotOpen> for Unreachable {
    fn from(error: CannotOpen) -> Self {
        Self::Ended(error.to_string())
    }
}

impl From<StreamError> for Unreachable {
    fn from(error: StreamError) -> Self {
        Self::Ended(error.to_string())
    }
}

impl Reach {
    pub(crate) fn new(
        me: Arc<Me>,
        turns: Rc<Turns>,
        metrics: Arc<Metrics>,
        sessions: Rc<Sessions>,
        memory: MemoryBudget,
    ) -> Self {
        let dialler = Dialler {
            me,
            turns,
            metrics,
            sessions,
            memory,
        };
        Self {
            dialler: Rc::new(dialler),
            workloads: RefCell::default(),
            gateways: Rc::default(),
        }
    }

    /// The link to a workload of the own cluster, dialled when there is none.
    pub(crate) async fn workload(
        &self,
        workload: &Workload,
        service: &Service,
        cluster: &ClusterView,
        limit: Duration,
    ) -> Result<Link, Unreachable> {
        let way = way(&self.workloads, &workload.handle);
        let address = workload.address;
        way.link(|| {
            let dialler = Rc::clone(&self.dialler);
            let (service, cluster) = (service.clone(), cluster.clone());
            let handle = workload.handle.clone();
            within(address, limit, async move {
                let socket = dialler.dial(address).await?;
                let peer = (&handle, address);
                dialler.inner(socket, peer, &service, &cluster).await
            })
        })
        .await
    }

    /// The link to a workload of the own cluster, if it stands.
    pub(crate) fn standing(&self, workload: &Handle) -> Option<Link> {
        let ways = self.workloads.borrow();
        ways.get(workload)?.known()?.ok()
    }

    /// Opens a new tunnel to a workload of another cluster, if possible not to one of `avoid`.
    pub(crate) async fn tunnel(
        &self,
        cluster: &ClusterView,
        service: &Service,
        port: u16,
        subset: &Subset,
        avoid: Vec<Handle>,
        limit: Duration,
    ) -> Result<Tunnel, Unreachable> {
        let name = &cluster.cluster.name;
        let mut last = Unreachable::NoGateway(name.clone());
        for gateway in self.gateways.in_turn(cluster) {
            let open = TunnelOpen {
                cluster: name.clone(),
                service: service.name.clone(),
                port,
                subset: subset.clone(),
                avoid: avoid.clone(),
                want: None,
                hop_limit: HOP_LIMIT,
                priority: Priority::Normal,
                data_class: None,
            };
            let opened = self
                .tunnel_through(gateway, cluster, service, open, limit)
                .await;
            let serves = match &opened {
                Err(Unreachable::Refused(_, code, _)) => *code != RefusalCode::Overloaded,
                opened => opened.is_ok(),
            };
            self.gateways.asked(name, gateway.address, serves);
            match opened {
                Ok(tunnel) => return Ok(tunnel),
                // It speaks for itself: another may have room.
                Err(full @ Unreachable::Refused(_, RefusalCode::Overloaded, _)) => last = full,
                // The cluster has spoken; a sibling gateway would say the same.
                Err(refused @ (Unreachable::Refused(..) | Unreachable::NotVerified(..))) => {
                    return Err(refused);
                }
                Err(other) => last = other,
            }
        }
        Err(last)
    }

    async fn tunnel_through(
        &self,
        gateway: &Gateway,
        cluster: &ClusterView,
        service: &Service,
        open: TunnelOpen,
        limit: Duration,
    ) -> Result<Tunnel, Unreachable> {
        let address = gateway.address;
        let outer = self.gateway(address, cluster, limit).await?;
        within(address, limit, async {
            outer.room().await;
            let stream = outer.open(&Open::Tunnel(open), false)?;
            let handle = match stream.receive().await? {
                Item::Reply(Reply::Tunnel(TunnelReply::Open { handle, .. })) => handle,
                Item::Reply(Reply::Tunnel(TunnelReply::Refused { code, detail })) => {
                    let cluster = cluster.cluster.name.clone();
                    return Err(Unreachable::Refused(cluster, code, detail));
                }
                Item::Reply(_) | Item::Data(_) | Item::End(_) => {
                    return Err(Unreachable::Ended("the gateway did not answer".to_owned()));
                }
            };
            let link = self
                .dialler
                .inner(Pipe::new(stream), (&handle, address), service, cluster)
                .await?;
            tokio::task::spawn_local(leave_with(outer.clone(), link.clone()));
            Ok(Tunnel { handle, link })
        })
        .await
    }

    /// The outer session with a gateway.
    async fn gateway(
        &self,
        address: SocketAddr,
        cluster: &ClusterView,
        limit: Duration,
    ) -> Result<Link, Unreachable> {
        let way = self.gateways.way(&cluster.cluster.name, address);
        way.link(|| {
            let dialler = Rc::clone(&self.dialler);
            let (gateways, cluster) = (Rc::clone(&self.gateways), cluster.clone());
            within(address, limit, async move {
                let link = dialler.outer(address, &cluster).await?;
                let name = cluster.cluster.name;
                tokio::task::spawn_local(gateways.watch(name, address, link.clone()));
                Ok(link)
            })
        })
        .await
    }

    /// Closes links that nobody has used for `idle`, and forgets ways that lead nowhere.
    pub(crate) fn tidy(&self, idle: Duration, now: Instant) {
        self.workloads
            .borrow_mut()
            .retain(|_, way| way.tidy(idle, now));
        self.gateways.tidy(idle, now);
    }

    /// No new streams on any link; those that run may finish.
    pub(crate) fn drain(&self) {
        self.workloads.borrow().values().for_each(|way| way.drain());
        self.gateways.drain();
    }
}

impl Dialler {
    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, Unreachable> {
        if !self.me.has_valid_leaf() {
            return Err(Unreachable::NoIdentity);
        }
        let failed = |error: io::Error| Unreachable::Connect(address, error.kind());
        let socket = TcpStream::connect(address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        Ok(socket)
    }

    /// The session with a gateway.
    async fn outer(&self, address: SocketAddr, cluster: &ClusterView) -> Result<Link, Unreachable> {
        let socket = self.dial(address).await?;
        let name = gateway_server_name(&cluster.cluster.name);
        let peer = format!("{} {address}", cluster.cluster.name);
        let (session, proven) = self
            .me
            .connect(name, peer, socket, &self.turns, &self.metrics)
            .await
            .map_err(|error| handshake(address, &error))?;
        accept_gateway(proven.peer(), peer_cluster(cluster))
            .map_err(|error| self.unacceptable(address, &error))?;
        let link = Link::start(session, Side::Dialler, Settings::default(), &self.memory);
        self.sessions
            .watch(&link, proven, Rule::Gateway(cluster.cluster.name.clone()));
        Ok(link)
    }

    /// The session with the proxy of a workload, which was dialled at the address, and the proof that it
    /// may be this service.
    async fn inner<T>(
        &self,
        io: T,
        (workload, address): (&Handle, SocketAddr),
        service: &Service,
        cluster: &ClusterView,
    ) -> Result<Link, Unreachable>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        let name = ServerName::try_from(service.name.host())
            .map_err(|_| Unreachable::Ended("the service's name is too long".to_owned()))?;
        let peer = format!("{} {}", cluster.cluster.name, workload.as_str());
        let (session, proven) = self
            .me
            .connect(name, peer, io, &self.turns, &self.metrics)
            .await
            .map_err(|error| handshake(address, &error))?;
        let callee = Callee {
            cluster: peer_cluster(cluster),
            namespace: &service.name.namespace,
            accounts: &service.accounts,
        };
        accept_callee(proven.peer(), &callee)
            .map_err(|error| self.unacceptable(address, &error))?;
        let link = Link::start(session, Side::Dialler, Settings::default(), &self.memory);
        let rule = Rule::Callee {
            service: service.name.clone(),
            cluster: cluster.cluster.name.clone(),
        };
        self.sessions.watch(&link, proven, rule);
        Ok(link)
    }

    fn unacceptable(&self, address: SocketAddr, error: &Unacceptable) -> Unreachable {
        self.metrics.count_tls_refused(error.reason());
        Unreachable::NotVerified(address, error.to_string())
    }
}

/// A gateway that leaves cuts its tunnels in the end: what is new takes another way by then. One that
/// is shunned does not, and yet there is a better way.
async fn leave_with(outer: Link, tunnel: Link) {
    tokio::select! {
        () = outer.left() => tunnel.drain(),
        () = outer.shunned() => tunnel.drain(),
        () = tunnel.left() => {}
    }
}

fn way<K: Clone + Eq + std::hash::Hash>(ways: &RefCell<HashMap<K, Rc<Way>>>, key: &K) -> Rc<Way> {
    Rc::clone(ways.borrow_mut().entry(key.clone()).or_default())
}

fn handshake(address: SocketAddr, error: &TlsError) -> Unreachable {
    if error.is_transport() {
        Unreachable::Handshake(address, error.to_string())
    } else {
        Unreachable::NotVerified(address, error.to_string())
    }
}

async fn within<T>(
    address: SocketAddr,
    limit: Duration,
    work: impl Future<Output = Result<T, Unreachable>>,
) -> Result<T, Unreachable> {
    timeout(limit, work)
        .await
        .unwrap_or(Err(Unreachable::Timeout(address, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Plain, plenty, run};

    #[test]
    fn a_tunnel_leaves_with_its_gateway_and_for_a_better_one() {
        run(async {
            let start = || {
                let (io, peer) = tokio::io::duplex(1_000);
                let io = Plain::new(io);
                let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
                (link, peer)
            };
            for is_shunned in [true, false] {
                let ((outer, _far), (tunnel, _end)) = (start(), start());
                let leaves = tokio::task::spawn_local(leave_with(outer.clone(), tunnel.clone()));
                tokio::task::yield_now().await;
                assert!(!tunnel.is_leaving());
                if is_shunned {
                    outer.shun();
                } else {
                    outer.drain();
                }
                leaves.await.unwrap();
                assert!(tunnel.is_leaving());
                assert_eq!(outer.is_leaving(), !is_shunned);
            }
        });
    }
}
