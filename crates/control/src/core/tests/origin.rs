//! Config that belongs to one cluster: who accepts it, whom it binds, and how it came to be.

use bytes::Bytes;
use isthmus_api::HistoryView;
use isthmus_world::Fault;

use super::*;
use crate::core::objects::Stored;

fn of(cluster: &str) -> Origin {
    Origin::Cluster(cluster.parse().unwrap())
}

/// An object that belongs to a cluster.
fn own(cluster: &str, verb: Verb, object: Value) -> Write {
    let mut write = write(verb, object);
    write.key.origin = of(cluster);
    write
}

fn route(to: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": to, "port": 80}]}],
        },
    })
}

fn split(versions: &[&str]) -> Value {
    let subset = |version: &&str| json!({"group": "mesh.isthmus.dev", "kind": "ServiceSubset", "name": format!("cart:version={version}"), "port": 80});
    let mut route = route("cart");
    route["spec"]["rules"][0]["backendRefs"] = versions.iter().map(subset).collect();
    route
}

impl Machine {
    fn own_write(&mut self, cluster: &str, verb: Verb, object: Value) -> (u16, Value) {
        let id = self.ask(Request::Write(own(cluster, verb, object)));
        self.answer(id).expect("an answer at once")
    }

    fn own_routes(&mut self, cluster: &str) -> Vec<(String, Value)> {
        let id = self.ask(Request::Read(Selection {
            origin: of(cluster),
            kind: Kind::HttpRoute,
            namespace: None,
            name: None,
        }));
        let (code, list) = self.answer(id).unwrap();
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().unwrap().iter();
        let told = |item: &Value| {
            let name = item["metadata"]["name"].as_str().unwrap().to_owned();
            (
                name,
                item["spec"]["rules"][0]["backendRefs"][0]["name"].clone(),
            )
        };
        items.map(told).collect()
    }

    fn own_history(&mut self, cluster: &str) -> HistoryView {
        let id = self.ask(Request::History(HistoryQuery {
            origin: of(cluster),
            limit: 9,
            ..HistoryQuery::default()
        }));
        let (code, body) = self.answer(id).unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }
}

/// Two clusters with a service, of which one is not the authority.
fn two() -> (Machine, Machine) {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    for object in [
        cluster("west"),
        cluster("east"),
        service("cart", 80),
        service("basket", 80),
    ] {
        west.create(object);
    }
    exchange(&mut west, &mut east);
    (west, east)
}

#[test]
fn a_cluster_accepts_its_own_config_while_it_is_cut_off_and_keeps_it() {
    let (mut west, mut east) = two();
    let closed = || Event::PeerClosed {
        session: PeerSessionId(1),
    };
    east.event(closed());
    west.event(closed());
    east.clock.advance(Duration::from_mins(1));
    assert_eq!(
        east.write(Verb::Create, route("cart")).0,
        503,
        "that is the authority's"
    );
    let (code, body) = east.own_write("east", Verb::Create, route("basket"));
    assert_eq!(
        (code, &body["metadata"]["resourceVersion"]),
        (201, &json!("1"))
    );
    assert_eq!(east.own_write("east", Verb::Create, route("basket")).0, 409);
    let mut east = east.restart();
    assert_eq!(
        east.own_routes("east"),
        [("cart".to_owned(), json!("basket"))]
    );
    assert_eq!(
        east.names(Kind::HttpRoute),
        Vec::<String>::new(),
        "it is not the mesh's"
    );

    // Others have it when they hear of it, and the mesh may have one of the same name.
    connect(&mut west, &mut east, 2);
    assert_eq!(
        west.own_routes("east"),
        [("cart".to_owned(), json!("basket"))]
    );
    west.create(route("cart"));
    exchange(&mut west, &mut east);
    assert_eq!(east.names(Kind::HttpRoute), ["cart"]);
    let (code, _) = east.own_write("east", Verb::Delete, route("basket"));
    assert_eq!(code, 200);
    exchange(&mut west, &mut east);
    assert_eq!(west.own_routes("east"), []);
    assert_eq!(east.names(Kind::HttpRoute), ["cart"]);
}

#[test]
fn it_binds_proxies_of_that_cluster_only() {
    let (mut west, mut east) = two();
    for machine in [&mut west, &mut east] {
        machine.open_proxy(7, "frontend", &["service/shop/cart"]);
        machine.pushed(7);
    }
    assert_eq!(east.own_write("east", Verb::Create, route("basket")).0, 201);
    west.create(route("cart"));
    exchange(&mut west, &mut east);
    assert_eq!(west.pushed(7), ["route/shop/cart"]);
    let mut pushed = east.pushed(7);
    pushed.sort();
    assert_eq!(pushed, ["own/route/shop/cart", "route/shop/cart"]);
    let id = west.ask(Request::Read(Selection {
        origin: of("east"),
        kind: Kind::HttpRoute,
        namespace: None,
        name: Some("cart".parse().unwrap()),
    }));
    let (_, seen) = west.answer(id).unwrap();
    let conditions = seen["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().all(|found| found["type"] != "Programmed"),
        "not here: {seen}"
    );
}

#[test]
fn parts_of_a_service_that_it_names_are_counted_where_they_run() {
    let (mut west, mut east) = two();
    west.open_proxy(7, "cart", &[]);
    west.report(7, "cart", proto::Health::Healthy);
    assert_eq!(east.own_write("east", Verb::Create, split(&["v2"])).0, 201);
    exchange(&mut west, &mut east);
    let facts = LedgerName::Facts("west".parse().unwrap());
    let entries = east.core.replica.entries(&facts);
    let counted = |(key, ..): &(&bytes::Bytes, Position, &bytes::Bytes)| {
        String::from_utf8_lossy(key).contains("version=v2")
    };
    assert!(entries.iter().any(counted), "{entries:?}");
}

#[test]
fn others_hand_on_what_is_written_for_a_cluster_as_far_as_they_may() {
    let (mut west, mut east) = two();
    let id = west.ask(Request::Write(own("east", Verb::Create, route("basket"))));
    assert_eq!(west.answer(id), None, "it is on its way");
    exchange(&mut west, &mut east);
    let (code, body) = west.answer(id).unwrap();
    assert_eq!(code, 201, "{body}");
    assert_eq!(
        west.own_routes("east").len(),
        1,
        "it is answered when the own copy shows it"
    );
    let change = &east.own_history("east").changes[0];
    assert_eq!(
        (change.author.as_str(), change.cluster.as_str()),
        ("ada", "west")
    );

    // A cluster that may speak for nobody in the namespace is refused.
    let mut granted = cluster("west");
    granted["spec"]["namespaces"] = json!(["other"]);
    let id = west.ask(Request::Write(write(Verb::Update, signed(granted))));
    exchange(&mut west, &mut east);
    assert_eq!(west.answer(id).unwrap().0, 200);
    let id = west.ask(Request::Write(own("east", Verb::Update, route("cart"))));
    exchange(&mut west, &mut east);
    let (code, body) = west.answer(id).unwrap();
    assert_eq!(code, 403, "{body}");

    west.event(Event::PeerClosed {
        session: PeerSessionId(1),
    });
    let (code, body) = west.own_write("east", Verb::Update, route("cart"));
    assert_eq!(code, 503);
    let expect = "HTTPRoute/shop/cart belongs to cluster east, which west does not hear: ask the API of east";
    assert_eq!(body["message"], expect);
}

#[test]
fn only_some_kinds_belong_to_clusters_and_only_to_those_that_there_are() {
    let (mut west, _) = two();
    let (code, body) = west.own_write("west", Verb::Create, service("payment", 80));
    assert_eq!(code, 404);
    let expect = "no Service belongs to one cluster: only httproutes and trafficpolicies can";
    assert_eq!(body["message"], expect);
    let (code, body) = west.own_write("moon", Verb::Create, route("cart"));
    assert_eq!(code, 404);
    assert_eq!(
        body["message"],
        "the mesh has no cluster moon, as far as west knows"
    );
}

#[test]
fn nobody_writes_in_the_place_of_others() {
    let (mut west, _) = two();
    let (_, stored) = {
        west.create(route("cart"));
        let found = west
            .core
            .objects
            .iter()
            .find(|(key, _)| key.kind == Kind::HttpRoute);
        found.unwrap().1.clone()
    };
    let record = Stored::encode(&stored);
    for (ledger, key) in [
        ("east", "mesh/HTTPRoute/shop/evil"),
        ("east", "cluster=west/HTTPRoute/shop/cart"),
        ("east", "cluster=east/Service/shop/cart"),
    ] {
        let taken = west.core.on_config_entry(
            &of(ledger),
            &key.into(),
            Some((Position(9), record.clone())),
        );
        assert!(taken.is_err(), "{key} by {ledger}");
    }
    let key = "cluster=east/HTTPRoute/shop/cart".into();
    let taken = west
        .core
        .on_config_entry(&Origin::Mesh, &key, Some((Position(9), record.clone())));
    assert!(taken.is_err(), "not even by the authority");
}

#[test]
fn its_changes_are_a_chain_of_their_own_that_every_cluster_keeps() {
    let (mut west, mut east) = two();
    assert_eq!(east.own_write("east", Verb::Create, route("cart")).0, 201);
    assert_eq!(east.own_write("east", Verb::Update, route("basket")).0, 200);
    assert_eq!(
        east.own_write("east", Verb::Update, route("basket")).0,
        200,
        "nothing new"
    );
    assert_eq!(west.own_write("west", Verb::Create, route("cart")).0, 201);
    exchange(&mut west, &mut east);
    for machine in [&mut west, &mut east] {
        // Out of the ledger and out of the archive.
        machine.pass(1);
        let view = machine.own_history("east");
        let positions: Vec<_> = view.changes.iter().map(|change| change.position).collect();
        assert_eq!((view.position, &positions[..]), (2, &[2, 1][..]));
        assert_eq!(
            view.changes[0].previous.as_ref(),
            Some(&view.changes[1].hash)
        );
        assert_eq!(view.changes[0].origin.as_deref(), Some("east"));
        assert_eq!(machine.own_history("west").changes.len(), 1);
    }
    let mut west = west.restart();
    assert_eq!(west.own_history("east").changes.len(), 2);
}

#[test]
fn a_disk_that_fails_accepts_nothing() {
    let (_, mut east) = two();
    east.disk.fail_next(Fault::Full);
    let (code, body) = east.own_write("east", Verb::Create, route("cart"));
    assert_eq!(code, 500, "{body}");
    assert_eq!(east.own_routes("east"), []);
    assert_eq!(east.own_write("east", Verb::Create, route("cart")).0, 201);
    assert_eq!(east.own_routes("east").len(), 1);
}

#[test]
fn each_origin_is_watched_by_positions_of_its_own() {
    let (mut west, mut east) = two();
    assert_eq!(east.own_write("east", Verb::Create, route("cart")).0, 201);
    let selection = || Selection {
        origin: of("east"),
        kind: Kind::HttpRoute,
        namespace: None,
        name: None,
    };
    let watched = |machine: &mut Machine, since: u64| {
        let id = machine.ask(Request::Watch {
            selection: selection(),
            since: Some(Position(since)),
        });
        let is_it =
            |action: &mut Action| matches!(action, Action::Watch { id: to, .. } if *to == id);
        let found: Vec<_> = machine.out.extract_if(.., is_it).collect();
        let found = found.into_iter().filter_map(|action| match action {
            Action::Watch { event, .. } => Some(event.kind),
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(watched(&mut east, 0), ["ADDED", "BOOKMARK"]);
    assert_eq!(watched(&mut east, 1), ["BOOKMARK"]);
    exchange(&mut west, &mut east);
    assert_eq!(watched(&mut west, 0), ["ADDED", "BOOKMARK"]);
    let mut east = east.restart();
    assert_eq!(
        watched(&mut east, 0),
        Vec::<&str>::new(),
        "forgotten: list again"
    );
    assert_eq!(watched(&mut east, 1), ["BOOKMARK"]);
}

#[test]
fn what_is_enforced_says_to_others_that_they_do_not_count() {
    let (mut west, mut east) = two();
    let policy = |name: &str, target: Value, spec: Value| {
        let mut policy = json!({
            "apiVersion": "mesh.isthmus.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
        });
        policy["spec"]["targetRefs"] = json!([target]);
        policy
    };
    let service = || json!({"kind": "Service", "name": "cart"});
    west.create(policy(
        "own",
        service(),
        json!({"retry": {"attempts": 3}, "timeout": {"request": "1s"}}),
    ));
    let enforced = json!({"enforced": true, "timeout": {"request": "9s"}});
    let (code, body) = east.own_write(
        "east",
        Verb::Create,
        policy("all", json!({"kind": "Mesh", "name": "shop"}), enforced),
    );
    assert_eq!(code, 201, "{body}");
    exchange(&mut west, &mut east);
    let (status, message) = east.condition(Kind::TrafficPolicy, "own", "Effective");
    assert_eq!(status, "False");
    assert_eq!(
        message,
        "timeout.request is enforced by TrafficPolicy shop/all of east"
    );
    let (status, _) = west.condition(Kind::TrafficPolicy, "own", "Effective");
    assert_eq!(status, "True", "here it is not");
}

#[test]
fn what_a_stolen_cluster_writes_of_itself_harms_nobody() {
    let (mut west, _) = two();
    let record = |object: Value| {
        let stored = json!({"author": "x", "changed": 1, "created": 1, "generation": 1, "uid": "u", "object": object});
        Bytes::from([&[1], stored.to_string().as_bytes()].concat())
    };
    let key = Bytes::from_static(b"cluster=east/HTTPRoute/shop/cart");
    let mut hostile = route("cart");
    hostile["status"] = json!(5);
    for object in [
        json!("x"),
        json!([]),
        json!({"metadata": 5}),
        json!({}),
        hostile,
    ] {
        let last = Position(u64::MAX);
        let _ = west
            .core
            .on_config_entry(&of("east"), &key, Some((last, record(object))));
        west.own_routes("east");
        let tried = Write {
            dry_run: true,
            ..own("east", Verb::Update, route("cart"))
        };
        let id = west.ask(Request::Write(tried));
        assert!(west.answer(id).is_some());
    }
}

#[test]
fn a_policy_reaches_no_further_than_the_cluster_through_which_it_is_written() {
    let (mut west, mut east) = two();
    let mut granted = cluster("east");
    granted["spec"]["namespaces"] = json!(["shop"]);
    let (code, body) = west.write(Verb::Update, signed(granted));
    assert_eq!(code, 200, "{body}");
    exchange(&mut west, &mut east);
    let policy = |target: Value| {
        json!({
            "apiVersion": "mesh.isthmus.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"enforced": true, "targetRefs": [target], "timeout": {"request": "1ms"}},
        })
    };
    for (target, code) in [
        (json!({"kind": "Mesh", "name": "shop"}), 403),
        (json!({"kind": "Namespace", "name": "bank"}), 403),
        (
            json!({"kind": "Service", "name": "payment", "namespace": "bank"}),
            403,
        ),
        (
            json!({"kind": "HTTPRoute", "name": "payment", "namespace": "bank"}),
            403,
        ),
        (json!({"kind": "Service", "name": "cart"}), 201),
    ] {
        for of_west in [false, true] {
            let mut asked = write(Verb::Create, policy(target.clone()));
            if of_west {
                asked.key.origin = of("west");
            }
            let id = east.ask(Request::Write(asked));
            exchange(&mut west, &mut east);
            let (found, body) = east.answer(id).unwrap();
            assert_eq!(found, code, "{target}: {body}");
        }
    }
    // Nor does it narrow, or take away, what reaches further.
    assert_eq!(
        west.own_write(
            "west",
            Verb::Update,
            policy(json!({"kind": "Mesh", "name": "shop"}))
        )
        .0,
        200
    );
    let mut narrowed = own(
        "west",
        Verb::Update,
        policy(json!({"kind": "Service", "name": "cart"})),
    );
    for verb in [Verb::Update, Verb::Delete] {
        narrowed.verb = verb;
        if verb == Verb::Delete {
            narrowed.object = None;
        }
        let id = east.ask(Request::Write(narrowed.clone()));
        exchange(&mut west, &mut east);
        assert_eq!(east.answer(id).unwrap().0, 403, "{verb:?}");
    }
}

#[test]
fn there_is_no_history_of_nobody() {
    let (mut west, _) = two();
    let id = west.ask(Request::History(HistoryQuery {
        origin: of("moon"),
        limit: 9,
        ..HistoryQuery::default()
    }));
    assert_eq!(west.answer(id).unwrap().0, 404);
}

#[test]
fn parts_that_only_another_cluster_names_are_few_and_end_with_it() {
    let (mut west, mut east) = two();
    west.open_proxy(7, "cart", &[]);
    west.report(7, "cart", proto::Health::Healthy);
    let versions: Vec<_> = (0..99).map(|number| format!("v{number}")).collect();
    let versions: Vec<_> = versions.iter().map(String::as_str).collect();
    let counted = |west: &Machine| {
        let facts = LedgerName::Facts("west".parse().unwrap());
        let entries = west.core.replica.entries(&facts);
        let is_part = |key: &[u8]| String::from_utf8_lossy(key).contains("version=");
        entries.iter().filter(|(key, ..)| is_part(key)).count()
    };
    assert_eq!(
        east.own_write("east", Verb::Create, split(&versions)).0,
        201
    );
    exchange(&mut west, &mut east);
    assert_eq!(counted(&west), 32);
    let revoked = json!({"revoked": true, "region": "east", "control": "127.0.0.1:15012"});
    let mut object = cluster("east");
    object["spec"] = revoked;
    assert_eq!(west.write(Verb::Update, signed(object)).0, 200);
    assert_eq!(counted(&west), 0);
}
