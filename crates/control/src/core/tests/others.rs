//! Control planes that speak with each other.

use super::*;

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
    assert_eq!(east.answer(pending), None, "somebody may lead in time");
    let (code, body) = east.write(Verb::Create, service("payment", 80));
    assert_eq!(code, 503);
    assert_eq!(
        body["message"],
        "authority west unreachable, last seen 4 s ago; the mesh serves on, config writes wait for it"
    );
    east.pass(2);
    let (code, body) = east.answer(pending).unwrap();
    assert_eq!(code, 504, "perhaps accepted, perhaps not: {body}");
    let mut east = east.restart();
    assert_eq!(east.names(Kind::Service), ["cart"]);
}

#[test]
fn a_write_is_made_once_however_often_its_answer_is_lost() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(service("cart", 80));
    exchange(&mut west, &mut east);
    let gone = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}});
    for (session, verb, object, code) in [
        (2, Verb::Create, service("payment", 80), 201),
        (3, Verb::Update, service("payment", 81), 200),
        (4, Verb::Delete, gone, 200),
    ] {
        let before = west.core.position().0;
        let id = east.ask(Request::Write(write(verb, object)));
        assert!(carry(&mut east, &mut west));
        assert_eq!(west.core.position().0, before + 1, "it is accepted");
        // It dies before it says so.
        west.out.clear();
        east.event(Event::PeerClosed {
            session: PeerSessionId(session - 1),
        });
        west = west.restart();
        connect(&mut west, &mut east, session);
        east.pass(1);
        exchange(&mut west, &mut east);
        let (found, body) = east.answer(id).unwrap();
        assert_eq!(found, code, "{body}");
        assert_eq!(
            body["metadata"]["resourceVersion"],
            (before + 1).to_string().as_str()
        );
        assert_eq!(west.core.position().0, before + 1, "and made once");
    }
    assert_eq!(east.names(Kind::Service), ["payment"]);
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
