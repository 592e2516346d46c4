//! Terms that bind the whole mesh: who may set them, and that nobody brings old ones back.

use isthmus_identity::{KeyPair, TrustBundle};
use isthmus_manifest::parse_object;
use isthmus_model::Resource;
use isthmus_world::{Batch, Table};

use super::*;
use crate::core::charter::{Charter, Unbound};

/// A cluster that is granted these namespaces, not signed.
fn granted(name: &str, namespaces: &[&str]) -> Value {
    let mut object = cluster(name);
    object["metadata"] = json!({"name": name});
    object["spec"]["namespaces"] = json!(namespaces);
    object
}

fn signed_with(key: &MeshKey, serial: u64, mut object: Value) -> Value {
    sign(&mut object, serial, key);
    object
}

fn foreign_key() -> &'static MeshKey {
    static KEY: LazyLock<MeshKey> = LazyLock::new(|| {
        let key = KeyPair::generate().unwrap();
        MeshKey::found_with(key, &"shop.mesh".parse().unwrap(), SystemTime::now()).unwrap()
    });
    &KEY
}

/// The namespaces that hold for a cluster; `None`: it is not of the mesh.
fn grants(machine: &Machine, name: &str) -> Option<Vec<String>> {
    let cluster = machine
        .core
        .index
        .declared()
        .cluster(&name.parse().unwrap())?;
    let names = cluster.namespaces.as_ref()?;
    Some(names.iter().map(ToString::to_string).collect())
}

#[test]
fn only_the_mesh_key_grants() {
    let mut west = Machine::new("west");
    let field = "metadata.annotations[\"mesh.isthmus.dev/signature\"]";
    let mesh = json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Mesh",
        "metadata": {"name": "shop"},
        "spec": {"trustDomain": "shop.mesh", "voters": ["east"]},
    });
    let mut widened = signed_with(mesh_key(), 7, granted("east", &["shop"]));
    widened["spec"]["namespaces"] = json!(["shop", "bank"]);
    let mut garbled = granted("east", &["shop"]);
    garbled["metadata"]["annotations"][SIGNATURE_ANNOTATION] = json!("7:nonsense");
    for (object, why) in [
        (mesh, "it is not signed with the mesh key"),
        (
            granted("east", &["shop"]),
            "it is not signed with the mesh key",
        ),
        (
            signed_with(foreign_key(), 7, granted("east", &["shop"])),
            "its signature is not of the mesh key",
        ),
        (widened, "its signature is not of the mesh key"),
        (garbled, "its signature is not of the mesh key"),
    ] {
        let (code, body) = west.write(Verb::Create, object.clone());
        assert_eq!(code, 422, "{object}: {body}");
        let cause = &body["details"]["causes"][0];
        assert_eq!(cause["field"], field);
        assert!(
            cause["message"].as_str().unwrap().starts_with(why),
            "{body}"
        );
        assert!(
            body["message"].as_str().unwrap().contains("isthmus apply"),
            "{body}"
        );
    }
    assert_eq!(west.names(Kind::Cluster), [""; 0]);
}

#[test]
fn what_was_signed_later_holds_and_what_nobody_has_to_sign_is_free() {
    let mut west = Machine::new("west");
    let first = signed_with(mesh_key(), 5, granted("east", &["shop"]));
    west.create(first.clone());
    // Where requests go is no grant.
    let mut drained = first.clone();
    drained["spec"]["traffic"] = json!(10);
    assert_eq!(west.write(Verb::Update, drained.clone()).0, 200);
    let bare = granted("east", &["shop"]);
    let (code, body) = west.write(Verb::Update, bare);
    assert_eq!(
        code, 422,
        "who comes later has only the object to go by: {body}"
    );

    let wider = |serial: u64| signed_with(mesh_key(), serial, granted("east", &["shop", "bank"]));
    for (serial, code) in [(4, 422), (5, 422), (6, 200)] {
        assert_eq!(west.write(Verb::Update, wider(serial)).0, code, "{serial}");
    }
    let (code, body) = west.write(Verb::Update, first.clone());
    assert_eq!(code, 422);
    assert!(
        body.to_string()
            .contains("serial 5, and it was signed anew since, with 6"),
        "{body}"
    );

    // Nothing is forgotten with the object: also after a restart no older terms come with a new one.
    assert_eq!(west.write(Verb::Delete, wider(6)).0, 200);
    let mut west = west.restart();
    let (code, body) = west.write(Verb::Create, first);
    assert_eq!(code, 422, "{body}");
    west.create(wider(6));
    let west = west.restart();
    assert_eq!(grants(&west, "east").unwrap(), ["bank", "shop"]);
}

/// While a root takes the place of another, and after it; what was said before is no news.
#[test]
fn terms_are_signed_by_the_roots_of_the_moment() {
    let mut west = Machine::new("west");
    let (old, new) = (mesh_key(), foreign_key());
    let of = |key, serial, namespace| signed_with(key, serial, granted("east", &[namespace]));
    let put = |west: &mut Machine, object| {
        let update = Verb::Update;
        west.write(update, object).0
    };
    west.create(of(old, 1, "shop"));
    assert_eq!(put(&mut west, of(new, 2, "bank")), 422);
    let both = TrustBundle::from_pem(&(old.root_pem() + &new.root_pem())).unwrap();
    let trust = |serial, trust: &TrustBundle| Event::Trust {
        serial,
        trust: trust.clone(),
    };
    west.event(trust(1, &both));
    assert_eq!(put(&mut west, of(new, 2, "bank")), 200);
    assert_eq!(grants(&west, "east"), Some(vec!["bank".to_owned()]));
    west.event(trust(3, new.bundle()));
    west.event(trust(2, &both));
    assert_eq!(put(&mut west, of(old, 4, "shop")), 422);
    assert_eq!(put(&mut west, of(new, 4, "shop")), 200);
}

#[test]
fn the_newest_signature_of_the_same_terms_stays() {
    let mut west = Machine::new("west");
    let same = |serial: u64| signed_with(mesh_key(), serial, granted("east", &["shop"]));
    west.create(same(5));
    assert_eq!(west.write(Verb::Update, same(7)).0, 200);
    // Else whoever has not seen 7 would believe other terms that were signed as 6.
    let (code, body) = west.write(Verb::Update, same(6));
    assert_eq!(code, 422, "{body}");
    assert_eq!(west.write(Verb::Update, same(7)).0, 200);
}

#[test]
fn a_number_that_nobody_signed_is_not_used_up() {
    let mut west = Machine::new("west");
    west.create(signed_with(mesh_key(), 5, granted("east", &["shop"])));
    // As whoever led before may have let it in.
    let mut forged = granted("east", &["bank"]);
    let annotation = format!("{}:00", u64::MAX);
    forged["metadata"]["annotations"] = json!({SIGNATURE_ANNOTATION: annotation});
    let parsed = |object: &Value| parse_object(object.clone()).unwrap();
    let wanted = signed_with(mesh_key(), 6, granted("east", &["shop", "bank"]));
    let (key, resource) = parsed(&wanted);
    let charter = &west.core.charter;
    let trust = mesh_key().bundle();
    assert_eq!(
        charter.check(trust, &key, &wanted, &resource, Some(&forged)),
        Ok(())
    );
    // One that was accepted and is not saved yet does count.
    let staged = signed_with(mesh_key(), 7, granted("east", &[]));
    assert_eq!(
        charter.check(trust, &key, &wanted, &resource, Some(&staged)),
        Err(Unbound::Older { found: 6, known: 7 })
    );
}

#[test]
fn a_stolen_authority_cannot_widen_a_grant_elsewhere() {
    // West has been talked into believing another key as well; east has not.
    let roots = [mesh_key(), foreign_key()].map(MeshKey::root_pem).concat();
    let stolen = Settings {
        trust: TrustBundle::from_pem(&roots).unwrap(),
        ..settings("west")
    };
    let mut west = Machine::new("west");
    west.core = Core::open(stolen, west.disk.clone(), west.now()).unwrap();
    let mut east = Machine::new("east");
    connect(&mut west, &mut east, 1);
    let honest = signed_with(mesh_key(), 5, granted("west", &["shop"]));
    west.create(honest.clone());
    exchange(&mut west, &mut east);
    assert_eq!(grants(&east, "west").unwrap(), ["shop"]);

    let mut wider = granted("west", &["shop", "bank"]);
    wider["spec"]["traffic"] = json!(50);
    let forged = signed_with(foreign_key(), 6, wider);
    assert_eq!(west.write(Verb::Update, forged).0, 200);
    west.create(signed_with(foreign_key(), 1, granted("evil", &["bank"])));
    exchange(&mut west, &mut east);
    for _ in 0..2 {
        assert_eq!(
            grants(&east, "west").unwrap(),
            ["shop"],
            "what was signed holds"
        );
        let declared = east.core.index.declared();
        assert_eq!(
            declared.cluster(&"west".parse().unwrap()).unwrap().traffic,
            50
        );
        assert_eq!(declared.cluster(&"evil".parse().unwrap()), None);
        let (status, message) = east.condition(Kind::Cluster, "west", "Accepted");
        assert_eq!(status, "False");
        assert!(
            message.contains("what was signed before goes on to hold"),
            "{message}"
        );
        let (_, message) = east.condition(Kind::Cluster, "evil", "Accepted");
        assert!(message.contains("it has no effect"), "{message}");
        east = east.restart();
    }
}

#[test]
fn a_store_from_before_signatures_goes_on_as_it_is() {
    let mut disk = VirtualStore::new();
    let parsed =
        |object: &Value| -> (ResourceKey, Resource) { parse_object(object.clone()).unwrap() };
    let trust = mesh_key().bundle();
    let bind = |charter: &mut Charter, object: &Value| {
        let (key, resource) = parsed(object);
        charter.bind(trust, &key, object, resource)
    };
    let (old, wider) = (
        granted("east", &["shop"]),
        granted("east", &["shop", "bank"]),
    );
    let (key, _) = parsed(&old);

    let mut charter = Charter::load(&disk, false).unwrap();
    assert!(bind(&mut charter, &old).is_some());
    charter.on_opened();
    let saved = charter.take_unsaved();
    disk.commit(&saved).unwrap();
    for restarted in [false, true] {
        if restarted {
            charter = Charter::load(&disk, false).unwrap();
            assert!(bind(&mut charter, &old).is_some());
            charter.on_opened();
        }
        assert_eq!(charter.refused(&key), None);
        let (_, resource) = parsed(&old);
        assert_eq!(
            charter.check(trust, &key, &old, &resource, Some(&old)),
            Ok(())
        );
        let (_, resource) = parsed(&wider);
        assert_eq!(
            charter.check(trust, &key, &wider, &resource, Some(&old)),
            Err(Unbound::NotSigned)
        );
        assert_eq!(
            bind(&mut charter, &granted("new", &[])),
            None,
            "only what was there"
        );
        assert_eq!(bind(&mut charter, &wider), Some(parsed(&old).1));
        assert_eq!(charter.refused(&key), Some(&Unbound::NotSigned));
    }
    assert!(bind(&mut charter, &signed_with(mesh_key(), 1, wider.clone())).is_some());
    assert_eq!(charter.refused(&key), None);

    // An empty store asks for signatures from the start, and still does when config has come.
    let mut disk = VirtualStore::new();
    let mut charter = Charter::load(&disk, true).unwrap();
    disk.commit(&charter.take_unsaved()).unwrap();
    let mut charter = Charter::load(&disk, false).unwrap();
    assert_eq!(bind(&mut charter, &old), None);

    let mut damaged = Batch::new();
    damaged.put(Table::new("charter"), "mesh/Cluster/east", "?");
    disk.commit(&damaged).unwrap();
    assert!(Charter::load(&disk, false).is_err());
}

#[test]
fn a_cluster_writes_no_further_than_it_is_granted() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    let asked = |east: &mut Machine, west: &mut Machine, object: Value| {
        let id = east.ask(Request::Write(write(Verb::Create, object)));
        exchange(east, west);
        east.answer(id).expect("an answer")
    };
    let (code, body) = asked(&mut east, &mut west, service("early", 80));
    assert_eq!(code, 403, "the mesh does not know it: {body}");

    west.create(signed(granted("east", &["shop"])));
    exchange(&mut west, &mut east);
    assert_eq!(asked(&mut east, &mut west, service("cart", 80)).0, 201);
    let mut elsewhere = service("vault", 80);
    elsewhere["metadata"]["namespace"] = json!("bank");
    let id = east.ask(Request::Write(Write {
        key: ResourceKey {
            namespace: Some("bank".parse().unwrap()),
            ..write(Verb::Create, elsewhere.clone()).key
        },
        ..write(Verb::Create, elsewhere)
    }));
    exchange(&mut east, &mut west);
    let (code, body) = east.answer(id).unwrap();
    assert_eq!(code, 403);
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("granted shop, and namespace bank is not among that"),
        "{message}"
    );
    let (code, body) = asked(&mut east, &mut west, cluster("south"));
    assert_eq!(code, 403);
    assert!(body.to_string().contains("of the whole mesh"), "{body}");
    let id = east.ask(Request::Transfer("west".parse().unwrap()));
    exchange(&mut east, &mut west);
    assert_eq!(
        east.answer(id).unwrap().0,
        403,
        "who leads is of the whole mesh"
    );
}

#[test]
fn a_cluster_that_was_revoked_is_spoken_with_no_more() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("east"));
    exchange(&mut west, &mut east);
    let mut revoked = cluster("east");
    revoked["spec"]["revoked"] = json!(true);
    assert_eq!(
        west.write(Verb::Update, revoked.clone()).0,
        422,
        "not signed so"
    );
    let (code, body) = west.write(Verb::Update, signed(revoked));
    assert_eq!(code, 200, "{body}");
    let closes = |machine: &mut Machine, wanted: u64| {
        let mut closed = false;
        machine.out.retain(|action| {
            let is_it = matches!(action, Action::ClosePeer { session, .. } if session.0 == wanted);
            closed |= is_it;
            !is_it
        });
        closed
    };
    assert!(closes(&mut west, 1));
    let east_name = "east".parse().unwrap();
    assert_eq!(west.core.index.declared().cluster(&east_name), None);
    west.out.clear();
    // It comes again, also after a restart, and is not taken.
    for round in 2..4 {
        connect(&mut west, &mut east, round);
        assert!(closes(&mut west, round), "{round}");
        east.ask(Request::Write(write(Verb::Create, service("cart", 80))));
        exchange(&mut east, &mut west);
        assert_eq!(west.names(Kind::Service), [""; 0]);
        west = west.restart();
    }
    assert_eq!(west.write(Verb::Delete, cluster("east")).0, 409);
    // A file that says nothing of it is signed, and takes nothing back.
    let (code, body) = west.write(Verb::Update, cluster("east"));
    assert_eq!(code, 422);
    assert!(
        body.to_string().contains("does not say `revoked: false`"),
        "{body}"
    );
    let mut back = cluster("east");
    back["spec"]["revoked"] = json!(false);
    assert_eq!(west.write(Verb::Update, signed(back)).0, 200);
    assert_eq!(west.write(Verb::Update, cluster("east")).0, 200);
    connect(&mut west, &mut east, 9);
    assert!(!closes(&mut west, 9), "signed in again");

    west.create(cluster("west"));
    let mut revoked = cluster("west");
    revoked["spec"]["revoked"] = json!(true);
    for (verb, object) in [
        (Verb::Delete, cluster("west")),
        (Verb::Update, signed(revoked)),
    ] {
        let (code, body) = west.write(verb, object);
        assert_eq!(code, 409, "it votes: {body}");
    }
}

/// In a mesh from before signatures, a cluster whose store was lost hears of everything and has nobody's word for it.
#[test]
fn without_terms_proxies_keep_what_they_know() {
    let mut west = Machine::new("west");
    let stranger = Settings {
        trust: foreign_key().bundle().clone(),
        trust_serial: 0,
        ..settings("west")
    };
    west.core = Core::open(stranger, west.disk.clone(), west.now()).unwrap();
    let mut east = Machine::new("east");
    let mesh = json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Mesh",
        "metadata": {"name": "shop"},
        "spec": {"trustDomain": "shop.mesh"},
    });
    for object in [mesh, granted("east", &["shop"]), granted("west", &["shop"])] {
        west.create(signed_with(foreign_key(), 1, object));
    }
    west.create(json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Link",
        "metadata": {"name": "east-west"},
        "spec": {"between": ["east", "west"]},
    }));
    east.open_proxy(1, "cart", &["mesh"]);
    connect(&mut west, &mut east, 1);
    assert_eq!(east.names(Kind::Link), ["east-west"], "it has heard of all");
    east.pass(1);
    let is_push = |action: &Action| {
        matches!(
            action,
            Action::ToProxy {
                message: proto::ToProxy {
                    message: Some(ToProxy::Push(_))
                },
                ..
            }
        )
    };
    assert!(!east.out.iter().any(is_push), "an empty mesh is not told");
}
