//! Control planes that speak with each other.

use super::*;

#[test]
fn a_forwarded_write_is_answered_when_the_own_copy_shows_it() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("east"));
    exchange(&mut west, &mut east);
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
    west.create(cluster("east"));
    exchange(&mut west, &mut east);
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
fn what_was_accepted_is_answered_so_though_it_is_gone_by_then() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("east"));
    exchange(&mut west, &mut east);
    let close = |west: &mut Machine, east: &mut Machine, session: u64| {
        let session = PeerSessionId(session);
        west.event(Event::PeerClosed { session });
        east.event(Event::PeerClosed { session });
    };
    for (session, verb, code) in [(1, Verb::Create, 201), (2, Verb::Update, 200)] {
        if verb == Verb::Update {
            west.create(service("cart", 79));
            exchange(&mut west, &mut east);
        }
        let before = west.core.position().0;
        let id = east.ask(Request::Write(write(verb, service("cart", 80))));
        assert!(carry(&mut east, &mut west));
        assert_eq!(west.core.position().0, before + 1, "it is accepted");
        west.out.clear();
        close(&mut west, &mut east, session);
        assert_eq!(west.write(Verb::Delete, service("cart", 80)).0, 200);
        connect(&mut west, &mut east, session + 1);
        east.pass(1);
        exchange(&mut west, &mut east);
        let (found, body) = east.answer(id).unwrap();
        assert_eq!(found, code, "{body}");
        assert_eq!(
            body["metadata"]["resourceVersion"],
            (before + 1).to_string().as_str()
        );
        assert_eq!(west.core.position().0, before + 2, "and made once");
    }
}

/// A peer asks for a write as no honest one does; gives the status of the answer.
fn asked(west: &mut Machine, peer: &str, id: u64, commit: proto::Commit) -> Option<u32> {
    let session = PeerSessionId(id);
    west.event(Event::PeerOpened {
        session,
        cluster: peer.parse().unwrap(),
        target: None,
    });
    let question = proto::PeerQuestion {
        id,
        question: Some(proto::peer_question::Question::Commit(commit)),
    };
    let frame = proto::PeerFrame {
        frame: Some(proto::peer_frame::Frame::Question(question)),
    };
    west.event(Event::PeerMessage { session, frame });
    let answers = std::mem::take(&mut west.out).into_iter();
    let mut answers = answers.filter_map(|action| match action {
        Action::ToPeer { frame, .. } => match frame.frame? {
            proto::peer_frame::Frame::Answer(answer) => Some(answer.status),
            _ => None,
        },
        _ => None,
    });
    answers.next()
}

#[test]
fn a_name_of_a_write_is_worth_nothing_from_others_and_no_number_does_harm() {
    let mut west = Machine::new("west");
    for name in ["north", "east"] {
        west.create(cluster(name));
    }
    let commit = |name: &str, since, in_doubt| proto::Commit {
        author: "ada".to_owned(),
        verb: "create".to_owned(),
        key: format!("mesh/Service/shop/{name}"),
        object: service(name, 80).to_string().into(),
        request: "seed.1".to_owned(),
        since,
        in_doubt,
        ..proto::Commit::default()
    };
    // Another one takes the name first; whoever owns it has its write made all the same.
    assert_eq!(
        asked(&mut west, "north", 1, commit("cart", 2, false)),
        Some(201)
    );
    assert_eq!(
        asked(&mut west, "east", 2, commit("payment", 2, true)),
        Some(201)
    );
    assert_eq!(west.core.position(), Position(4));
    // An older copy comes last, and changes nothing.
    assert_eq!(
        asked(&mut west, "east", 3, commit("payment", 2, false)),
        Some(201)
    );
    assert_eq!(west.core.position(), Position(4));
    // Who has seen what never was here cannot be told.
    for since in [5, u64::MAX - 1, u64::MAX] {
        assert_eq!(
            asked(&mut west, "east", 4, commit("catalog", since, true)),
            Some(504)
        );
    }
    assert_eq!(
        asked(&mut west, "east", 5, commit("catalog", u64::MAX, false)),
        Some(201)
    );
}

#[test]
fn a_version_of_another_history_is_none_here() {
    let mut west = Machine::new("west");
    west.create(service("cart", 80));
    let mut newer = service("cart", 81);
    newer["metadata"]["resourceVersion"] = json!("2");
    let (code, body) = west.write(Verb::Update, newer);
    assert_eq!(code, 409, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("not of what was accepted here"),
        "{message}"
    );
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
        origin: Origin::Mesh,
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
