//! Writes, reads and watches of one control plane, and what its disk keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_identity::TokenGrant;
use isthmus_world::{Fault, Pair, StoreError, StoreImage, Table};

use super::*;
use crate::OpenError;

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
        fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError> {
            self.0.image(more)
        }

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
        signed(json!({
            "apiVersion": "mesh.isthmus.dev/v1alpha1",
            "kind": "Mesh",
            "metadata": {"name": "shop"},
            "spec": {"trustDomain": trust_domain},
        }))
    };
    let (code, body) = machine.write(Verb::Create, mesh("other.mesh"));
    assert_eq!(
        (code, &body["details"]["causes"][0]["field"]),
        (422, &json!("spec.trustDomain"))
    );
    machine.create(mesh("shop.mesh"));
}

#[test]
fn a_watch_tells_what_changed_and_resumes() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    let selection = Selection {
        origin: Origin::Mesh,
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

#[test]
fn a_cluster_gives_no_token_for_a_namespace_that_it_is_not_granted() {
    let mut machine = Machine::new("west");
    let mut object = cluster("west");
    object["spec"]["namespaces"] = json!(["shop"]);
    machine.create(signed(object));
    for (namespace, given) in [("shop", true), ("isthmus-system", true), ("bank", false)] {
        let grant = TokenGrant {
            cluster: "west".parse().unwrap(),
            namespace: namespace.parse().unwrap(),
            account: "cart".parse().unwrap(),
            service: None,
        };
        let record = TokenRecord {
            id: TokenId([1; 8]),
            secret_hash: [2; 32],
            grant,
            expires: machine.clock.wall(),
            used: None,
        };
        let wanted = machine.ask(Request::AddToken(record));
        let done = |action: &Action| matches!(action, Action::Answer { id, answer: Answer::Done } if *id == wanted);
        assert_eq!(machine.out.iter().any(done), given, "{namespace}");
    }
}

#[test]
fn a_write_is_answered_as_it_was_written_though_others_follow_at_once() {
    let mut west = Machine::new("west");
    west.create(service("cart", 80));
    let now = west.now();
    for (id, port) in [(101, 81), (102, 82)] {
        let request = Request::Write(write(Verb::Update, service("cart", port)));
        let id = RequestId(id);
        west.core.on(Event::Request { id, request }, now);
    }
    let gone = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}});
    let request = Request::Write(write(Verb::Delete, gone));
    let id = RequestId(103);
    west.core.on(Event::Request { id, request }, now);
    west.out.extend(west.core.flush());
    for (id, port, version) in [(101, 81, "2"), (102, 82, "3")] {
        let (code, body) = west.answer(RequestId(id)).unwrap();
        assert_eq!(
            (code, &body["metadata"]["resourceVersion"]),
            (200, &json!(version))
        );
        assert_eq!(body["spec"]["ports"][0]["port"], port);
    }
    assert_eq!(west.names(Kind::Service), Vec::<String>::new());
}
