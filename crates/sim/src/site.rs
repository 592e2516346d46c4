//! One cluster: its control plane, its disk, and what its proxies say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use isthmus_control::{
    Action, Answer, ConnectionId, Core, Event, Generation, Notice, Now, RequestId, SessionId,
    Settings, Write,
};
use isthmus_identity::{KeyPair, MeshKey, Terms};
use isthmus_manifest::{SIGNATURE_ANNOTATION, parse_object};
use isthmus_model::{ClusterName, Health, Identity, ServiceName, TrustDomain};
use isthmus_wire::proto;
use isthmus_wire::proto::from_proxy::Message;
use isthmus_world::{Clock, Fault, Store, Table, VirtualClock, VirtualStore};
use serde_json::Value;

/// A workload, spoken for by a proxy of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub service: ServiceName,
    /// Which of the service's workloads in this cluster.
    pub number: u8,
    pub health: Health,
}

/// How a cluster's clock differs from true time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skew {
    /// Parts per million by which it runs fast, or slow. It keeps this for life.
    pub rate: i32,
    /// Seconds by which its date is ahead, or behind.
    pub ahead: i32,
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: ClusterName,
    pub(crate) address: SocketAddr,
    pub(crate) answers: BTreeMap<RequestId, (u16, Value)>,
    /// Why it says that it has no vote any more.
    pub(crate) lost_vote: Option<String>,
    number: usize,
    authority: ClusterName,
    core: Option<Core<VirtualStore>>,
    disk: VirtualStore,
    /// Power fails with the next commit.
    doomed: bool,
    full: bool,
    skew: Skew,
    /// How often it was started.
    life: u64,
    workloads: BTreeMap<(ServiceName, u8), (SessionId, Workload)>,
    sessions: u64,
}

/// Where a site's control plane is reached.
pub(crate) fn address(number: usize) -> SocketAddr {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    ([127, 0, number, 1], 15012).into()
}

/// An Ed25519 key of 32 zeros, which everybody knows: what it signs is the same each time (RFC 8032).
const MESH_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
-----END PRIVATE KEY-----
";

/// The mesh's, of which its clusters know the certificate.
pub(crate) fn mesh_key() -> &'static MeshKey {
    static KEY: LazyLock<MeshKey> = LazyLock::new(|| {
        let key = KeyPair::from_pem(MESH_KEY).expect("a literal key");
        let key = MeshKey::found_with(key, &trust_domain(), SystemTime::UNIX_EPOCH);
        key.expect("a literal key signs")
    });
    &KEY
}

/// What the write says of the Mesh or of a cluster is the mesh's word, newer than all before.
pub(crate) fn sign(write: &mut Write, serial: u64) {
    let Some(object) = &mut write.object else {
        return;
    };
    let parsed = parse_object(object.clone()).ok();
    if let Some(terms) = parsed.and_then(|(_, resource)| Terms::of(&resource)) {
        let signature = mesh_key().sign_terms(&terms, serial).expect("it signs");
        object["metadata"]["annotations"][SIGNATURE_ANNOTATION] = signature.to_string().into();
    }
}

fn trust_domain() -> TrustDomain {
    "sim.mesh".parse().expect("a literal RFC 1123 subdomain")
}

impl Site {
    pub(crate) fn new(
        number: usize,
        name: &str,
        authority: &str,
        seed: u64,
        clock: &VirtualClock,
    ) -> Self {
        let cluster = |name: &str| name.parse().expect("the names of a simulation are labels");
        let mut site = Self {
            name: cluster(name),
            address: address(number),
            answers: BTreeMap::new(),
            lost_vote: None,
            number,
            authority: cluster(authority),
            core: None,
            disk: VirtualStore::new(),
            doomed: false,
            full: false,
            skew: Skew::default(),
            life: 0,
            workloads: BTreeMap::new(),
            sessions: 0,
        };
        site.start(seed, clock);
        site
    }

    pub(crate) fn is_running(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
        self.disk.repair(); // Takes back a fault that no write has met.
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    pub(crate) fn set_skew(&mut self, skew: Skew) {
        self.skew = skew;
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    fn now(&self, clock: &VirtualClock) -> Now {
        const MILLION: u32 = 1_000_000;
        let rate = MILLION.saturating_add_signed(self.skew.rate);
        let start = clock.now().checked_sub(clock.elapsed());
        let start = start.expect("the clock began with this");
        let monotonic = start + clock.elapsed() * rate / MILLION;
        let ahead = Duration::from_secs(self.skew.ahead.unsigned_abs().into());
        let wall = match self.skew.ahead {
            0.. => clock.wall() + ahead,
            _ => clock.wall() - ahead,
        };
        Now { monotonic, wall }
    }

    pub(crate) fn disk(&self) -> &VirtualStore {
        &self.disk
    }

    pub(crate) fn set_disk(&mut self, disk: VirtualStore) {
        self.disk = disk;
    }

    /// True once, after power failed in a commit.
    pub(crate) fn has_lost_its_disk(&mut self) -> bool {
        let down = self.disk.read(Table::new("any"), b"").is_err();
        let lost = self.doomed && self.core.is_some() && down;
        if lost {
            self.doomed = false;
        }
        lost
    }

    pub(crate) fn crash(&mut self, in_commit: Option<u64>) {
        match in_commit {
            Some(seed) => {
                self.doomed = true;
                self.disk.fail_next(Fault::Crash { seed });
            }
            None => self.core = None,
        }
    }

    pub(crate) fn start(&mut self, seed: u64, clock: &VirtualClock) -> Vec<Action> {
        self.disk.power_on();
        self.doomed = false;
        let settings = Settings {
            mesh: "sim".parse().expect("a literal RFC 1123 label"),
            trust_domain: trust_domain(),
            trust: mesh_key().bundle().clone(),
            trust_serial: 0,
            cluster: self.name.clone(),
            authority: self.authority.clone(),
            bootstrap: vec![address(0)],
            leaf_lifetime: Duration::from_hours(24),
            seed,
        };
        self.life += 1;
        let core = Core::open(settings, self.disk.clone(), self.now(clock));
        self.core = Some(core.expect("what a control plane wrote, it reads"));
        let workloads: Vec<_> = self
            .workloads
            .values()
            .map(|(_, found)| found.clone())
            .collect();
        self.workloads.clear();
        let reports = workloads
            .into_iter()
            .map(|workload| self.report(workload, clock));
        reports.flatten().collect()
    }

    /// Nothing happens while it is down.
    pub(crate) fn tell(&mut self, event: Event, clock: &VirtualClock) -> Vec<Action> {
        let now = self.now(clock);
        let Some(core) = &mut self.core else {
            return Vec::new();
        };
        if self.full {
            self.disk.fail_next(Fault::Full);
        }
        core.on(event, now);
        core.flush()
    }

    pub(crate) fn report(&mut self, workload: Workload, clock: &VirtualClock) -> Vec<Action> {
        let key = (workload.service.clone(), workload.number);
        let known = self.workloads.get(&key).map(|(session, _)| *session);
        let mut actions = Vec::new();
        let session = known.unwrap_or_else(|| {
            self.sessions += 1;
            let session = SessionId(self.sessions);
            actions = self.open_proxy(session, &workload, clock);
            session
        });
        let report = self.workload_report(&workload);
        self.workloads.insert(key, (session, workload));
        actions.extend(self.say(session, Message::Workload(report), clock));
        actions
    }

    fn open_proxy(
        &mut self,
        session: SessionId,
        workload: &Workload,
        clock: &VirtualClock,
    ) -> Vec<Action> {
        let service = &workload.service;
        let identity = Identity {
            trust_domain: trust_domain(),
            namespace: service.namespace.clone(),
            account: (service.name.as_str().parse()).expect("the label of a service is one"),
        };
        let connection = ConnectionId(session.0);
        let opened = Event::ProxyOpened {
            session,
            connection,
            identity,
            admission: None,
            generation: Generation::FIRST,
        };
        let mut actions = self.tell(opened, clock);
        let hello = proto::Hello {
            process: format!("{}-{}", service.name, workload.number),
            number: 1,
            ..proto::Hello::default()
        };
        actions.extend(self.say(session, Message::Hello(hello), clock));
        actions
    }

    fn say(&mut self, session: SessionId, message: Message, clock: &VirtualClock) -> Vec<Action> {
        let message = proto::FromProxy {
            message: Some(message),
        };
        self.tell(Event::ProxyMessage { session, message }, clock)
    }

    fn workload_report(&self, workload: &Workload) -> proto::WorkloadReport {
        proto::WorkloadReport {
            namespace: workload.service.namespace.to_string(),
            service: workload.service.name.to_string(),
            address: format!("127.1.{}.{}:15008", self.number, workload.number),
            health: proto::Health::from(workload.health).into(),
            ..proto::WorkloadReport::default()
        }
    }

    /// What concerns nobody else.
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Answer {
                id,
                answer: Answer::Json { code, body },
            } => {
                self.answers.insert(id, (code, body));
            }
            Action::Notice(Notice::VoteLost { reason }) => self.lost_vote = Some(reason),
            _ => {}
        }
    }
}
