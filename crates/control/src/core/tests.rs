//! The core over a disk in memory: what was accepted, what is refused, what proxies are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_identity::gateway_identity;
use isthmus_model::{Kind, Origin};
use isthmus_wire::proto::from_proxy::Message as FromProxy;
use isthmus_wire::proto::to_proxy::Message as ToProxy;
use isthmus_world::{Clock, Fault, Pair, StoreError, Table, VirtualClock, VirtualStore};
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

fn settings(cluster: &str) -> Settings {
    Settings {
        mesh: "shop".parse().unwrap(),
        trust_domain: "shop.mesh".parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        authority: "west".parse().unwrap(),
        bootstrap: vec![([127, 0, 0, 1], 15012).into()],
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
    json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"region": name, "control": "127.0.0.1:15012"},
    })
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

#[test]
fn what_was_accepted_survives_a_crash() {
    for seed in 0..8 {
        let mut machine = Machine::new("west");
        machine.create(service("cart", 80));
        machine.disk.fail_next(Fault::Crash { seed });
        let (code, _) = machine.write(Verb::Update, service("cart", 81));
        assert_eq!(code, 500, "the disk is gone: nothing may be promised");
        let mut machine = machine.restart();
        let (code, found) = machine.read(Kind::Service, Some("cart"));
        let port = &found["spec"]["ports"][0]["port"];
        assert!(code == 200 && (port == 80 || port == 81), "{found}");
        assert_eq!(found["metadata"]["generation"], port.as_u64().unwrap() - 79);
    }
}

#[test]
fn a_full_disk_refuses_writes_and_heals() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.disk.fail_next(Fault::Full);
    let (code, body) = machine.write(Verb::Create, service("payment", 80));
    assert_eq!((code, &body["reason"]), (500, &json!("InternalError")));
    assert_eq!(machine.names(Kind::Service), ["cart"]);
    machine.create(service("payment", 80));
    let mut machine = machine.restart();
    assert_eq!(machine.names(Kind::Service), ["cart", "payment"]);
}

#[test]
fn many_writes_share_one_commit() {
    #[derive(Debug)]
    struct Counting(VirtualStore, Arc<AtomicUsize>);
    impl Store for Counting {
        fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.commit(batch)
        }
        fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
            self.0.scan(table, from, limit)
        }
        fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.0.read(table, key)
        }
    }
    let clock = VirtualClock::new();
    let now = Now {
        monotonic: clock.now(),
        wall: clock.wall(),
    };
    let commits = Arc::new(AtomicUsize::new(0));
    let store = Counting(VirtualStore::new(), commits.clone());
    let mut core = Core::open(settings("west"), store, now).unwrap();
    core.flush();
    let before = commits.load(Ordering::SeqCst);
    for number in 0..50 {
        let id = RequestId(number);
        let object = service(&format!("service-{number}"), 80);
        let request = Request::Write(write(Verb::Create, object));
        core.on(Event::Request { id, request }, now);
    }
    let actions = core.flush();
    let answers = actions.iter().filter(|action| {
        matches!(
            action,
            Action::Answer {
                answer: Answer::Json { code: 201, .. },
                ..
            }
        )
    });
    assert_eq!(answers.count(), 50);
    assert_eq!(commits.load(Ordering::SeqCst) - before, 1);
}

#[test]
fn writes_are_judged_by_what_their_author_read() {
    let mut machine = Machine::new("west");
    let versioned = |name: &str, port: u16, version: &Value| {
        let mut object = service(name, port);
        object["metadata"]["resourceVersion"] = version.clone();
        object
    };
    machine.create(service("cart", 80));
    let (_, first) = machine.read(Kind::Service, Some("cart"));
    let version = &first["metadata"]["resourceVersion"];
    machine.create(service("payment", 80));
    let steps = [
        (
            "exists",
            Verb::Create,
            service("cart", 80),
            409,
            "AlreadyExists",
        ),
        (
            "based on the newest",
            Verb::Update,
            versioned("cart", 81, version),
            200,
            "",
        ),
        (
            "stale",
            Verb::Update,
            versioned("cart", 82, version),
            409,
            "Conflict",
        ),
        ("unconditional", Verb::Update, service("cart", 83), 200, ""),
        (
            "not a version",
            Verb::Update,
            versioned("cart", 84, &json!("x")),
            400,
            "BadRequest",
        ),
        (
            "not there",
            Verb::Update,
            service("ghost", 80),
            404,
            "NotFound",
        ),
        (
            "not there",
            Verb::Delete,
            service("ghost", 80),
            404,
            "NotFound",
        ),
        (
            "not valid",
            Verb::Update,
            service("cart", 0),
            422,
            "Invalid",
        ),
        ("gone", Verb::Delete, service("cart", 0), 200, ""),
        (
            "gone before",
            Verb::Delete,
            service("cart", 0),
            404,
            "NotFound",
        ),
    ];
    for (what, verb, object, code, reason) in steps {
        let (found, body) = machine.write(verb, object);
        assert_eq!(found, code, "{what}: {body}");
        assert_eq!(
            body["reason"].as_str().unwrap_or_default(),
            reason,
            "{what}"
        );
    }
    assert_eq!(machine.names(Kind::Service), ["payment"]);
}

#[test]
fn a_write_that_says_nothing_new_takes_no_position() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    let before = machine.core.position();
    let (code, body) = machine.write(Verb::Update, service("cart", 80));
    assert_eq!((code, &body["metadata"]["generation"]), (200, &json!(1)));
    assert_eq!(machine.core.position(), before);
}

#[test]
fn a_dry_run_judges_and_does_nothing() {
    let mut machine = Machine::new("west");
    let dry = |object| {
        Request::Write(Write {
            dry_run: true,
            ..write(Verb::Create, object)
        })
    };
    let id = machine.ask(dry(service("cart", 80)));
    assert_eq!(machine.answer(id).unwrap().0, 201);
    let id = machine.ask(dry(service("cart", 0)));
    assert_eq!(machine.answer(id).unwrap().0, 422);
    assert_eq!(machine.names(Kind::Service), [""; 0]);
}

#[test]
fn the_mesh_keeps_its_name_and_trust_domain() {
    let mut machine = Machine::new("west");
    let mesh = |trust_domain: &str| {
        json!({
            "apiVersion": "mesh.isthmus.dev/v1alpha1",
            "kind": "Mesh",
            "metadata": {"name": "shop"},
            "spec": {"trustDomain": trust_domain},
        })
    };
    let (code, body) = machine.write(Verb::Create, mesh("other.mesh"));
    assert_eq!(
        (code, &body["details"]["causes"][0]["field"]),
        (422, &json!("spec.trustDomain"))
    );
    machine.create(mesh("shop.mesh"));
}

#[test]
fn a_forwarded_write_is_answered_when_the_own_copy_shows_it() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    let id = east.ask(Request::Write(write(Verb::Create, service("cart", 80))));
    assert_eq!(east.answer(id), None, "it is on its way");
    exchange(&mut west, &mut east);
    let (code, body) = east.answer(id).unwrap();
    assert_eq!((code, &body["metadata"]["name"]), (201, &json!("cart")));
    assert_eq!(east.names(Kind::Service), ["cart"]);
    assert_eq!(west.names(Kind::Service), ["cart"]);

    let id = east.ask(Request::Write(write(Verb::Create, service("cart", 80))));
    exchange(&mut west, &mut east);
    assert_eq!(
        east.answer(id).unwrap().0,
        409,
        "the authority's no comes back too"
    );
}

#[test]
fn without_the_authority_writes_say_who_is_missing_and_reads_go_on() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(service("cart", 80));
    exchange(&mut west, &mut east);
    let pending = east.ask(Request::Write(write(Verb::Create, service("payment", 80))));
    east.clock.advance(Duration::from_secs(4));
    east.event(Event::PeerClosed {
        session: PeerSessionId(1),
    });
    assert_eq!(
        east.answer(pending).unwrap().0,
        504,
        "perhaps accepted, perhaps not"
    );
    let (code, body) = east.write(Verb::Create, service("payment", 80));
    assert_eq!(code, 503);
    assert_eq!(
        body["message"],
        "authority west unreachable, last seen 4 s ago; the mesh serves on, config writes wait for it"
    );
    let mut east = east.restart();
    assert_eq!(east.names(Kind::Service), ["cart"]);
}

#[test]
fn workloads_of_a_silent_cluster_are_named_not_left_out() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    west.create(cluster("west"));
    west.create(cluster("east"));
    west.create(service("cart", 80));
    connect(&mut west, &mut east, 1);
    for (machine, session) in [(&mut west, 1), (&mut east, 2)] {
        machine.open_proxy(session, "cart", &[]);
        machine.report(session, "cart", proto::Health::Healthy);
    }
    exchange(&mut west, &mut east);
    let all = Selection {
        kind: Kind::Workload,
        namespace: None,
        name: None,
    };
    let id = west.ask(Request::Read(all.clone()));
    exchange(&mut west, &mut east);
    let (_, list) = west.answer(id).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list.get("unreachable"), None);

    let id = west.ask(Request::Read(all));
    west.pass(2);
    let (_, list) = west.answer(id).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        list["unreachable"],
        json!([{"cluster": "east", "lastSeenMs": 2000}])
    );
    let id = west.ask(Request::Status);
    let (_, status) = west.answer(id).unwrap();
    let shares = &status["services"][0]["clusters"];
    assert_eq!(
        shares.as_array().unwrap().len(),
        2,
        "aggregates are known all the same: {shares}"
    );
}

#[test]
fn a_proxy_gets_what_it_wants_and_then_what_changed() {
    let mut machine = Machine::new("west");
    machine.create(cluster("west"));
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &["mesh", "service/shop/cart"]);
    assert_eq!(machine.pushed(1), ["cluster/west", "service"]);
    machine.create(service("payment", 80));
    assert_eq!(machine.pushed(1), [""; 0], "it did not ask for payment");
    machine.report(1, "cart", proto::Health::Healthy);
    let workload = machine.pushed(1).remove(0);
    assert!(workload.starts_with("workload/cart-"), "{workload}");
    let programmed = machine.condition(Kind::Service, "cart", "Programmed");
    assert_eq!(
        programmed,
        ("True".to_owned(), "on 1 of 1 proxies of west".to_owned())
    );

    machine.proxy(1, FromProxy::Leaving(proto::Leaving {}));
    assert_eq!(machine.pushed(1), [format!("-{workload}")]);
    assert_eq!(machine.write(Verb::Delete, service("cart", 80)).0, 200);
    assert_eq!(machine.pushed(1), ["-service"]);
}

#[test]
fn a_rejected_resource_is_shown_in_its_conditions() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &["service/shop/cart"]);
    let push = machine.out.iter().find_map(|action| match action {
        Action::ToProxy {
            message:
                proto::ToProxy {
                    message: Some(ToProxy::Push(push)),
                },
            ..
        } => Some(push.nonce),
        _ => None,
    });
    let rejected = vec![proto::Rejection {
        topic: "service/shop/cart".to_owned(),
        name: "service".to_owned(),
        reason: "too new".to_owned(),
    }];
    machine.proxy(
        1,
        FromProxy::Ack(proto::Ack {
            nonce: push.unwrap(),
            rejected,
        }),
    );
    let programmed = machine.condition(Kind::Service, "cart", "Programmed");
    let message = "on 0 of 1 proxies of west; cart-1 rejects it: too new";
    assert_eq!(programmed, ("False".to_owned(), message.to_owned()));
}

#[test]
fn a_cluster_without_config_says_nothing_and_then_everything() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    east.open_proxy(1, "cart", &["service/shop/cart", "service/shop/ghost"]);
    let pushes = |machine: &Machine| {
        machine
            .out
            .iter()
            .filter(|action| {
                matches!(
                    action,
                    Action::ToProxy {
                        message: proto::ToProxy {
                            message: Some(ToProxy::Push(_))
                        },
                        ..
                    }
                )
            })
            .count()
    };
    assert_eq!(pushes(&east), 0, "not known yet is not the same as empty");
    west.create(service("cart", 80));
    connect(&mut west, &mut east, 1);
    assert_eq!(east.pushed(1), ["service"]);
}

#[test]
fn only_the_services_own_accounts_stand_for_it() {
    let mut machine = Machine::new("west");
    machine.open_proxy(1, "cart", &[]);
    machine.report(1, "cart", proto::Health::Healthy);
    assert_eq!(machine.names(Kind::Workload), [""; 0], "not declared yet");
    machine.create(service("cart", 80));
    assert_eq!(machine.names(Kind::Workload).len(), 1);
    machine.create(service("payment", 80));
    machine.report(1, "payment", proto::Health::Healthy);
    assert_eq!(machine.names(Kind::Workload), [""; 0]);
    let id = machine.ask(Request::Status);
    let (_, status) = machine.answer(id).unwrap();
    let rejected = status["proxies"][0]["rejected"][0].as_str().unwrap();
    assert!(
        rejected.contains("cart is none of the service's accounts (payment)"),
        "{rejected}"
    );

    let report = proto::GatewayReport {
        name: "gateway-1".to_owned(),
        address: "127.0.0.1:15008".to_owned(),
        healthy: true,
    };
    machine.proxy(1, FromProxy::Gateway(report));
    assert!(
        machine
            .out
            .iter()
            .any(|action| matches!(action, Action::CloseProxy { .. }))
    );
}

#[test]
fn a_restart_remembers_workloads_until_their_proxies_had_time_to_return() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.open_proxy(1, "cart", &[]);
    machine.report(1, "cart", proto::Health::Healthy);
    let mut machine = machine.restart();
    let health = |machine: &mut Machine| {
        let (_, list) = machine.read(Kind::Workload, None);
        list["items"][0]["status"]["health"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(health(&mut machine).as_deref(), Some("Healthy"));
    machine.pass(15);
    assert_eq!(health(&mut machine).as_deref(), Some("Unhealthy"));
    machine.pass(15);
    assert_eq!(health(&mut machine), None);
}

#[test]
fn a_watch_tells_what_changed_and_resumes() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    let selection = Selection {
        kind: Kind::Service,
        namespace: None,
        name: None,
    };
    let watch = |machine: &mut Machine, since: Option<u64>| {
        let since = since.map(Position);
        let selection = selection.clone();
        machine.ask(Request::Watch { selection, since })
    };
    let lines = |machine: &mut Machine, wanted: RequestId| -> Vec<String> {
        let mut lines = Vec::new();
        for action in std::mem::take(&mut machine.out) {
            if let Action::Watch { id, event } = action
                && id == wanted
            {
                let name = event.object["metadata"]["name"].as_str().unwrap_or("-");
                lines.push(format!("{} {name}", event.kind));
            }
        }
        lines
    };
    let id = watch(&mut machine, None);
    assert_eq!(lines(&mut machine, id), ["ADDED cart", "BOOKMARK -"]);
    let since = machine.core.position().0;
    machine.create(cluster("west"));
    machine.write(Verb::Update, service("cart", 81));
    machine.write(Verb::Delete, service("cart", 81));
    assert_eq!(lines(&mut machine, id), ["MODIFIED cart", "DELETED cart"]);
    let id = watch(&mut machine, Some(since));
    assert_eq!(
        lines(&mut machine, id),
        ["MODIFIED cart", "DELETED cart", "BOOKMARK -"]
    );
    let mut machine = machine.restart();
    let id = watch(&mut machine, Some(since));
    assert_eq!(machine.answer(id).unwrap().0, 410, "forgotten: list again");
}

#[test]
fn a_store_of_another_format_is_refused() {
    let machine = Machine::new("west");
    for table in ["members", "tokens"] {
        let mut disk = machine.disk.backup();
        let mut batch = Batch::new();
        batch.put(Table::new(table), vec![0; 8], vec![9, 1, 2]);
        disk.commit(&batch).unwrap();
        let error = Core::open(settings("west"), disk, machine.now()).unwrap_err();
        assert!(
            matches!(error, OpenError::Format { found: 9, .. }),
            "{error}"
        );
    }
}
