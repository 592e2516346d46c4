//! A mesh in one thread, for tests: real sockets, real mutual TLS, a view made by hand, and a program
//! that does what the test says. No control plane.
//!
//! ```text
//! client ─ text ─► caller's outbound ─► [gateway of east ─►] callee's inbound ─► program
//! ```

pub(crate) mod counts;
pub(crate) mod crowd;
mod plain;

pub(crate) use self::plain::Plain;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_codec::memory::MemoryBudget;
use isthmus_identity::{
    CLUSTER_LIFETIME, CertificateRequest, Certificates, ClusterAuthority, KeyPair, LEAF_LIFETIME,
    Leaf, LeafCell, MeshKey, TrustCell, gateway_identity,
};
use isthmus_model::{
    AccountName, Admission, AppProtocol, Cluster, ClusterName, Egress, Gateway, Handle, Health,
    Identity, Labels, Mesh, MeshName, Namespace, ObjectName, RegionName, Route, Service,
    ServiceName, ServicePort, Share, Subset, Target, TrafficPolicy, TrustDomain, Workload,
};
use isthmus_telemetry::Metrics;
use isthmus_wire::{Body, ClusterView, Topic};
use isthmus_world::{Drain, RealChance, Snapshot, SnapshotWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::config::{ClientLimits, Config, Patience, Ports, Role, Sidecar};
use crate::deal::Hand;
use crate::intake::{Door, Intake};
use crate::process::local_runtime;
use crate::tls::Me;
use crate::view::{View, ViewBuilder};
use crate::worker::{Common, Interest, Worker};
use crate::{gateway, inbound, outbound};

/// The service that tests call.
pub(crate) const HOST: &str = "cart.shop.mesh";
/// How long proxies wait for clients here: longer than anything takes that goes on.
const IMPATIENT: Duration = Duration::from_secs(1);
/// Whoever waits longer has found a hang.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// A caller and a callee, with a gateway between them or not.
pub(crate) struct Scene {
    pub(crate) caller: Node,
    pub(crate) callee: Node,
    pub(crate) gateway: Option<Node>,
    /// Beside other workloads of the service, with the ports of their programs.
    others: Vec<(Node, u16)>,
    pub(crate) issuer: Issuer,
    /// What callee and gateway see.
    pub(crate) facts: Facts,
    /// What the caller sees.
    pub(crate) seen_by_caller: Facts,
}

/// One process of the mesh.
pub(crate) struct Node {
    pub(crate) worker: Rc<Worker>,
    /// Where other proxies connect.
    pub(crate) mesh: SocketAddr,
    /// Where its program's clients connect.
    pub(crate) outbound: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) view: SnapshotWriter<View>,
    _wanted: mpsc::Receiver<ServiceName>,
}

/// Issues identities.
pub(crate) struct Issuer {
    mesh: MeshKey,
}

/// What stands in the views of a scene.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) service: Service,
    pub(crate) clusters: Vec<ClusterView>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) shares: Vec<Share>,
    /// Of the service.
    pub(crate) policy: Option<TrafficPolicy>,
    pub(crate) routes: Vec<Route>,
    pub(crate) egress: Egress,
}

/// Memory that no test takes all of.
pub(crate) fn plenty() -> MemoryBudget {
    MemoryBudget::new(256 << 20)
}

/// Runs a test on one thread; a hang is a failure.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    local_runtime().unwrap().block_on(within(test))
}

/// What must happen soon.
pub(crate) async fn within<T>(act: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, act).await.expect("it hangs")
}

impl Scene {
    /// Both sides in cluster `west`.
    pub(crate) fn local(program: SocketAddr) -> Self {
        Self::build("west", program, AppProtocol::Http1)
    }

    /// The callee in cluster `east`, behind a gateway.
    pub(crate) fn stretched(program: SocketAddr) -> Self {
        Self::build("east", program, AppProtocol::Http1)
    }

    /// As `local`, with a program that speaks `protocol`.
    pub(crate) fn local_speaking(protocol: AppProtocol, program: SocketAddr) -> Self {
        Self::build("west", program, protocol)
    }

    /// As `stretched`, with a program that speaks `protocol`.
    pub(crate) fn stretched_speaking(protocol: AppProtocol, program: SocketAddr) -> Self {
        Self::build("east", program, protocol)
    }

    fn build(callee: &str, program: SocketAddr, protocol: AppProtocol) -> Self {
        let issuer = Issuer::new();
        let (west, there) = (cluster("west"), cluster(callee));
        let callee_node = Unbound::new();
        let mut facts = Facts {
            service: service(program.port(), protocol),
            clusters: vec![view_of(&west, None)],
            workloads: vec![workload(&there, callee_node.mesh_address())],
            shares: Vec::new(),
            policy: None,
            routes: Vec::new(),
            egress: Egress::Deny,
        };
        let cart = sidecar("cart", Some(HOST), program.ip());
        let frontend = sidecar("frontend", None, program.ip());
        if there == west {
            return Self {
                caller: Unbound::new().start(&issuer, &west, frontend, &facts),
                callee: callee_node.start(&issuer, &west, cart, &facts),
                gateway: None,
                others: Vec::new(),
                issuer,
                seen_by_caller: facts.clone(),
                facts,
            };
        }
        let gateway = Unbound::new();
        facts
            .clusters
            .push(view_of(&there, Some(gateway.mesh_address())));
        let seen_by_caller = Facts {
            workloads: Vec::new(),
            shares: vec![Share {
                cluster: there.clone(),
                service: facts.service.name.clone(),
                subset: Subset::default(),
                healthy: 1,
                total: 1,
            }],
            ..facts.clone()
        };
        Self {
            caller: Unbound::new().start(&issuer, &west, frontend, &seen_by_caller),
            callee: callee_node.start(&issuer, &there, cart, &facts),
            gateway: Some(gateway.start(&issuer, &there, Role::Gateway, &facts)),
            others: Vec::new(),
            issuer,
            facts,
            seen_by_caller,
        }
    }

    /// A client beside the caller's proxy.
    pub(crate) async fn client(&self) -> TcpStream {
        TcpStream::connect(self.caller.outbound).await.unwrap()
    }

    /// The workload is seen as so many, to each of which there is a link of its own.
    pub(crate) fn multiply(&mut self, count: usize) {
        for facts in [&mut self.facts, &mut self.seen_by_caller] {
            let others = facts.workloads.iter().flat_map(|workload| {
                (2..=count).map(|number| Workload {
                    handle: Handle::new(&format!("cart-{number}")),
                    ..workload.clone()
                })
            });
            let others: Vec<_> = others.collect();
            facts.workloads.extend(others);
        }
    }

    /// A policy for the service holds from now on, and the workload is as `change` makes it.
    pub(crate) fn decree(
        &mut self,
        set: impl FnOnce(&mut TrafficPolicy),
        change: impl Fn(&mut Workload),
    ) {
        let service = self.facts.service.name.clone();
        let name = ObjectName::new("policy").unwrap();
        let target = Target::Service(service.clone());
        let mut policy = TrafficPolicy::empty(service.namespace, name, vec![target]);
        set(&mut policy);
        self.facts.policy = Some(policy);
        self.facts.workloads.iter_mut().for_each(&change);
        self.publish();
    }

    /// From now on the mesh lets its programs out, or not.
    pub(crate) fn let_out(&mut self, egress: Egress) {
        self.seen_by_caller.egress = egress;
        self.caller.learn(&self.seen_by_caller);
    }

    /// Sends `request` on a connection of its own and reads until the proxy closes it.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut client = self.client().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        within(client.read_to_end(&mut reply)).await.unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    }
}

impl Node {
    /// Others see `facts` from now on.
    pub(crate) fn learn(&mut self, facts: &Facts) {
        let view = facts.view(self.worker.common.me.cluster.clone());
        self.view.publish(Arc::new(view));
    }
}

/// Sockets are bound before views are made, since addresses stand in views.
struct Unbound {
    mesh: TcpListener,
    outbound: TcpListener,
}

impl Unbound {
    fn new() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            mesh: outbound::bind(any, false).unwrap(),
            outbound: outbound::bind(any, false).unwrap(),
        }
    }

    fn mesh_address(&self) -> SocketAddr {
        self.mesh.local_addr().unwrap()
    }

    fn start(self, issuer: &Issuer, cluster: &ClusterName, role: Role, facts: &Facts) -> Node {
        let identity = match &role {
            Role::Gateway => gateway_identity(issuer.mesh.bundle().trust_domain()),
            Role::Sidecar(sidecar) => Identity {
                trust_domain: issuer.mesh.bundle().trust_domain().clone(),
                namespace: sidecar.namespace.clone(),
                account: sidecar.account.clone(),
            },
        };
        let me = issuer.me(cluster, &identity);
        let metrics = Arc::new(Metrics::new("test", Metrics::DEFAULT_MAX_FLOWS));
        let drain = Drain::new();
        let (view, snapshot) = Snapshot::new(facts.view(cluster.clone()));
        let (interest, wanted) = mpsc::channel(16);
        let (mesh, outbound) = (self.mesh_address(), self.outbound.local_addr().unwrap());
        let config = Arc::new(config(cluster, role));
        let memory = MemoryBudget::new(config.memory);
        let intake = Intake::of_process(&config, Arc::clone(&metrics), memory.clone());
        let common = Common {
            config,
            me: Arc::new(me),
            view: snapshot,
            interest: Interest::new(interest),
            metrics: Arc::clone(&metrics),
            drain: drain.watch(),
            intake,
            memory,
        };
        let worker = Worker::new(common, RealChance::new().unwrap());
        tokio::task::spawn_local(Rc::clone(&worker).keep_judging());
        if worker.common.config.sidecar().is_some() {
            tokio::task::spawn_local(inbound::listen(Rc::clone(&worker), door(self.mesh)));
        } else {
            tokio::task::spawn_local(gateway::listen(Rc::clone(&worker), door(self.mesh)));
        }
        let clients = outbound::Clients::of(Rc::clone(&worker));
        tokio::task::spawn_local(outbound::listen_http(clients, door(self.outbound)));
        Node {
            worker,
            mesh,
            outbound,
            drain,
            metrics,
            view,
            _wanted: wanted,
        }
    }
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let domain = TrustDomain::new("test.mesh").unwrap();
        Self {
            mesh: MeshKey::found(&domain, SystemTime::now()).unwrap(),
        }
    }

    /// Who runs as `account` of namespace `shop` in `cluster`.
    pub(crate) fn workload(&self, cluster: &ClusterName, account: &str) -> Me {
        self.me(
            cluster,
            &Identity {
                trust_domain: self.mesh.bundle().trust_domain().clone(),
                namespace: Namespace::new("shop").unwrap(),
                account: AccountName::new(account).unwrap(),
            },
        )
    }

    /// A gateway of `cluster`.
    pub(crate) fn gateway(&self, cluster: &ClusterName) -> Me {
        self.me(
            cluster,
            &gateway_identity(self.mesh.bundle().trust_domain()),
        )
    }

    fn me(&self, cluster: &ClusterName, identity: &Identity) -> Me {
        let key = KeyPair::generate().unwrap();
        let chain = self.issue(cluster, identity, &key);
        Me::new(
            identity.clone(),
            cluster.clone(),
            Arc::new(LeafCell::new(Leaf::new(key, chain).unwrap())),
            Arc::new(TrustCell::new(self.mesh.bundle().clone())),
        )
    }

    /// Certificates for who has `own`.
    pub(crate) fn issue(
        &self,
        cluster: &ClusterName,
        identity: &Identity,
        own: &KeyPair,
    ) -> Certificates {
        let now = SystemTime::now();
        let request = |key: &KeyPair| {
            CertificateRequest::from_pem(&key.certificate_request().unwrap()).unwrap()
        };
        let key = KeyPair::generate().unwrap();
        let chain = self
            .mesh
            .sign_cluster(&request(&key), cluster, now, CLUSTER_LIFETIME)
            .unwrap();
        let authority = ClusterAuthority::new(key, chain, now).unwrap();
        authority
            .issue(&request(own), identity, ADMISSION, now, LEAF_LIFETIME)
            .unwrap()
    }
}

impl Facts {
    fn view(&self, own: ClusterName) -> View {
        let mesh = Mesh {
            name: MeshName::new("test").unwrap(),
            trust_domain: TrustDomain::new("test.mesh").unwrap(),
            egress: self.egress,
            voters: std::collections::BTreeSet::new(),
            removals: isthmus_model::Removals::default(),
        };
        let clusters = self.clusters.iter().cloned().map(Body::Cluster);
        let mut builder = ViewBuilder::new(own);
        let bodies = [Body::Mesh(mesh)].into_iter().chain(clusters).collect();
        builder.compile(&Topic::Mesh, bodies, None);
        let workloads = self.workloads.iter().cloned().map(Body::Workload);
        let shares = self.shares.iter().cloned().map(Body::Share);
        let bodies = [Body::Service(self.service.clone())];
        let policy = self.policy.clone().map(Body::TrafficPolicy);
        let routes = self.routes.iter().cloned().map(Body::Route);
        let facts = workloads.chain(shares).chain(policy).chain(routes);
        let bodies = bodies.into_iter().chain(facts).collect();
        builder.compile(&Topic::Service(self.service.name.clone()), bodies, None);
        let absent = Topic::Service(ServiceName::new("shop", "absent").unwrap());
        builder.compile(&absent, Vec::new(), None);
        builder.build()
    }
}

/// Of everybody in these tests.
pub(crate) const ADMISSION: Admission = Admission([7; 8]);

pub(crate) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub(crate) fn view_of(name: &ClusterName, gateway: Option<SocketAddr>) -> ClusterView {
    ClusterView {
        cluster: Cluster {
            name: name.clone(),
            region: RegionName::new(name.as_str()).unwrap(),
            zone: None,
            coordinates: None,
            jurisdiction: None,
            control: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            namespaces: None,
            revoked: None,
            traffic: isthmus_model::ALL_TRAFFIC,
        },
        gateways: gateway
            .map(|address| Gateway {
                name: "gateway-1".to_owned(),
                address,
                healthy: true,
            })
            .into_iter()
            .collect(),
        rtt: Some(Duration::from_millis(1)),
        age: Duration::ZERO,
        revoked: BTreeSet::new(),
    }
}

fn service(target_port: u16, protocol: AppProtocol) -> Service {
    Service {
        name: ServiceName::new("shop", "cart").unwrap(),
        ports: vec![ServicePort {
            name: None,
            port: 80,
            target_port,
            protocol,
        }],
        accounts: vec![AccountName::new("cart").unwrap()],
        exported: true,
    }
}

fn workload(cluster: &ClusterName, address: SocketAddr) -> Workload {
    let domain = TrustDomain::new("test.mesh").unwrap();
    Workload {
        handle: Handle::new("cart-1"),
        service: ServiceName::new("shop", "cart").unwrap(),
        cluster: cluster.clone(),
        identity: Identity {
            trust_domain: domain,
            namespace: Namespace::new("shop").unwrap(),
            account: AccountName::new("cart").unwrap(),
        },
        address,
        zone: None,
        labels: Labels::new(),
        health: Health::Healthy,
    }
}

pub(crate) fn sidecar(account: &str, host: Option<&str>, program: IpAddr) -> Role {
    Role::Sidecar(Sidecar {
        namespace: Namespace::new("shop").unwrap(),
        account: AccountName::new(account).unwrap(),
        service: host.map(|_| ServiceName::new("shop", "cart").unwrap()),
        labels: Labels::new(),
        zone: None,
        program,
        listeners: Vec::new(),
    })
}

pub(crate) fn config(cluster: &ClusterName, role: Role) -> Config {
    Config {
        name: match &role {
            Role::Gateway => "gateway-1".to_owned(),
            Role::Sidecar(sidecar) => format!("{}-1", sidecar.account),
        },
        cluster: cluster.clone(),
        address: Ipv4Addr::LOCALHOST.into(),
        ports: Ports::default(),
        control: Vec::new(),
        token: None,
        state: std::path::PathBuf::new(),
        role,
        access_log: false,
        workers: 1,
        patience: Patience {
            idle: 2 * IMPATIENT,
            head: IMPATIENT,
            stalled: IMPATIENT,
            stalled_stream: IMPATIENT,
            detect: IMPATIENT / 4,
        },
        memory: plenty().limit(),
        limits: ClientLimits::default(),
        proxy_protocol_from: Vec::new(),
    }
}

/// A program that serves every connection with `script`.
pub(crate) async fn program<S: Future<Output = ()> + 'static>(
    script: impl Fn(TcpStream) -> S + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::task::spawn_local(script(socket));
        }
    });
    address
}

/// A program that answers every request without a body in the same way.
pub(crate) async fn answering(reply: &'static str) -> SocketAddr {
    program(move |mut socket| async move {
        while !read_head(&mut socket).await.is_empty() {
            socket.write_all(reply.as_bytes()).await.unwrap();
        }
    })
    .await
}

/// Reads one head, byte by byte; empty at the end of the connection.
pub(crate) async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Of a listener, for a worker without others.
pub(crate) fn door(listener: TcpListener) -> Door {
    Door::open(vec![listener.into_std().unwrap()], Hand::alone()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    #[test]
    fn a_request_reaches_a_program_beside_and_a_program_far_away() {
        run(async {
            for scene in [Scene::local, Scene::stretched] {
                let scene = scene(answering(HELLO).await);
                let request =
                    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
                let reply = scene.ask(&request).await;
                assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
                assert!(reply.ends_with("hello"), "{reply}");
            }
        });
    }
}
