//! The core over a disk in memory: a machine to drive it with, and what the tests share.

mod charter;
mod history;
mod lagging;
mod origin;
mod others;
mod proxies;
mod release;
mod removals;
mod renewals;
mod reset;
mod restored;
mod revoked;
mod watches;
mod writes;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use isthmus_identity::{MeshKey, Terms, gateway_identity};
use isthmus_manifest::SIGNATURE_ANNOTATION;
use isthmus_model::{Kind, Origin};
use isthmus_wire::proto::from_proxy::Message as FromProxy;
use isthmus_wire::proto::to_proxy::Message as ToProxy;
use isthmus_world::{Clock, VirtualClock, VirtualStore};
use serde_json::{Value, json};

use super::*;

/// A core, its disk and its clock.
struct Machine {
    core: Core<VirtualStore>,
    disk: VirtualStore,
    clock: VirtualClock,
    name: &'static str,
    requests: u64,
    /// What came out of flushes and was not asked for yet.
    out: Vec<Action>,
}

fn mesh_key() -> &'static MeshKey {
    static KEY: LazyLock<MeshKey> =
        LazyLock::new(|| MeshKey::found(&"shop.mesh".parse().unwrap(), SystemTime::now()).unwrap());
    &KEY
}

fn settings(cluster: &str) -> Settings {
    Settings {
        mesh: "shop".parse().unwrap(),
        trust_domain: "shop.mesh".parse().unwrap(),
        trust: mesh_key().bundle().clone(),
        trust_serial: 0,
        cluster: cluster.parse().unwrap(),
        authority: "west".parse().unwrap(),
        bootstrap: vec![([127, 0, 0, 1], 15012).into()],
        leaf_lifetime: Duration::from_hours(24),
        seed: 7,
    }
}

impl Machine {
    fn new(name: &'static str) -> Self {
        Self::on(name, VirtualStore::new(), VirtualClock::new())
    }

    fn on(name: &'static str, disk: VirtualStore, clock: VirtualClock) -> Self {
        let now = Now {
            monotonic: clock.now(),
            wall: clock.wall(),
        };
        Self {
            core: Core::open(settings(name), disk.clone(), now).unwrap(),
            disk,
            clock,
            name,
            requests: 0,
            out: Vec::new(),
        }
    }

    /// The process dies and starts again on the same disk.
    fn restart(self) -> Self {
        self.disk.power_on();
        Self::on(self.name, self.disk, self.clock)
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.clock.now(),
            wall: self.clock.wall(),
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        self.core.on(event, now);
        self.out.extend(self.core.flush());
    }

    fn pass(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.event(Event::Tick);
    }

    fn ask(&mut self, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.event(Event::Request { id, request });
        id
    }

    /// The answer, if it was given.
    fn answer(&mut self, wanted: RequestId) -> Option<(u16, Value)> {
        let answered =
            |action: &Action| matches!(action, Action::Answer { id, .. } if *id == wanted);
        let at = self.out.iter().position(answered)?;
        match self.out.remove(at) {
            Action::Answer {
                answer: Answer::Json { code, body },
                ..
            } => Some((code, body)),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, verb: Verb, object: Value) -> (u16, Value) {
        let id = self.ask(Request::Write(write(verb, object)));
        self.answer(id).expect("an answer at once")
    }

    fn create(&mut self, object: Value) {
        let (code, body) = self.write(Verb::Create, object);
        assert_eq!(code, 201, "{body}");
    }

    fn read(&mut self, kind: Kind, name: Option<&str>) -> (u16, Value) {
        let namespace = kind.namespaced().then(|| "shop".parse().unwrap());
        let name = name.map(|name| name.parse().unwrap());
        let id = self.ask(Request::Read(Selection {
            origin: Origin::Mesh,
            kind,
            namespace,
            name,
        }));
        self.answer(id).expect("an answer at once")
    }

    fn names(&mut self, kind: Kind) -> Vec<String> {
        let (_, list) = self.read(kind, None);
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn proxy(&mut self, session: u64, message: FromProxy) {
        let message = proto::FromProxy {
            message: Some(message),
        };
        self.event(Event::ProxyMessage {
            session: SessionId(session),
            message,
        });
    }

    fn open_proxy(&mut self, session: u64, account: &str, topics: &[&str]) {
        let identity = match account {
            "gateway" => gateway_identity(&"shop.mesh".parse().unwrap()),
            account => Identity {
                trust_domain: "shop.mesh".parse().unwrap(),
                namespace: "shop".parse().unwrap(),
                account: account.parse().unwrap(),
            },
        };
        let (session_id, connection) = (SessionId(session), ConnectionId(session));
        self.event(Event::ProxyOpened {
            session: session_id,
            connection,
            identity,
            admission: Some(Admission(session.to_be_bytes())),
            generation: Generation::FIRST,
        });
        self.proxy(
            session,
            FromProxy::Hello(proto::Hello {
                process: format!("{account}-{session}"),
                topics: topics.iter().map(ToString::to_string).collect(),
                number: 1,
                ..proto::Hello::default()
            }),
        );
    }

    fn report(&mut self, session: u64, service: &str, health: proto::Health) {
        self.proxy(
            session,
            FromProxy::Workload(proto::WorkloadReport {
                namespace: "shop".to_owned(),
                service: service.to_owned(),
                address: format!("127.0.0.{session}:15008"),
                health: health.into(),
                ..proto::WorkloadReport::default()
            }),
        );
    }

    /// Names that were pushed to the session since it was last asked; all are acknowledged.
    fn pushed(&mut self, session: u64) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let to = |action: &Action| {
                matches!(
                    action,
                    Action::ToProxy { session: to, message: proto::ToProxy { message: Some(ToProxy::Push(_)) } }
                        if to.0 == session
                )
            };
            let Some(at) = self.out.iter().position(to) else {
                return names;
            };
            let Action::ToProxy { message, .. } = self.out.remove(at) else {
                unreachable!()
            };
            let Some(ToProxy::Push(push)) = message.message else {
                unreachable!()
            };
            names.extend(push.resources.iter().map(|resource| resource.name.clone()));
            names.extend(
                push.removed
                    .iter()
                    .map(|removed| format!("-{}", removed.name)),
            );
            let ack = proto::Ack {
                nonce: push.nonce,
                rejected: Vec::new(),
            };
            self.proxy(session, FromProxy::Ack(ack));
        }
    }

    fn condition(&mut self, kind: Kind, name: &str, condition: &str) -> (String, String) {
        let (_, object) = self.read(kind, Some(name));
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let found = conditions
            .iter()
            .find(|found| found["type"] == condition)
            .unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("message"))
    }
}

/// Signs what must be, with a serial above all before.
fn signed(mut object: Value) -> Value {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    sign(
        &mut object,
        SERIAL.fetch_add(1, Ordering::Relaxed),
        mesh_key(),
    );
    object
}

fn sign(object: &mut Value, serial: u64, key: &MeshKey) {
    let parsed = isthmus_manifest::parse_object(object.clone()).ok();
    if let Some(terms) = parsed.and_then(|(_, resource)| Terms::of(&resource)) {
        let signature = key.sign_terms(&terms, serial).unwrap();
        object["metadata"]["annotations"][SIGNATURE_ANNOTATION] = signature.to_string().into();
    }
}

fn write(verb: Verb, object: Value) -> Write {
    let kind: Kind = object["kind"].as_str().unwrap().parse().unwrap();
    Write {
        author: "ada".to_owned(),
        verb,
        key: ResourceKey {
            origin: Origin::Mesh,
            kind,
            namespace: kind.namespaced().then(|| "shop".parse().unwrap()),
            name: object["metadata"]["name"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        },
        object: (verb != Verb::Delete).then_some(object),
        dry_run: false,
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"name": "http", "port": port}]},
    })
}

fn cluster(name: &str) -> Value {
    signed(json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"region": name, "control": "127.0.0.1:15012"},
    }))
}

/// Carries everything that two machines say to each other, until both are silent.
fn exchange(a: &mut Machine, b: &mut Machine) {
    loop {
        let mut moved = false;
        {
            let (from, to) = (&mut *a, &mut *b);
            moved |= carry(from, to);
            moved |= carry(to, from);
        }
        if !moved {
            return;
        }
    }
}

fn carry(from: &mut Machine, to: &mut Machine) -> bool {
    let mut moved = false;
    for action in std::mem::take(&mut from.out) {
        match action {
            Action::ToPeer { session, frame } => {
                moved = true;
                to.event(Event::PeerMessage { session, frame });
            }
            other => from.out.push(other),
        }
    }
    moved
}

fn connect(a: &mut Machine, b: &mut Machine, session: u64) {
    let session = PeerSessionId(session);
    let opened = |cluster: &str| Event::PeerOpened {
        session,
        cluster: cluster.parse().unwrap(),
        target: None,
    };
    a.event(opened(b.name));
    b.event(opened(a.name));
    exchange(a, b);
}
