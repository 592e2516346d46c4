//! The authority begun anew by the mesh key, and those who only say so.

use isthmus_api::{RESET_PURPOSE, ResetRequest, ResetStatement};

use super::*;

fn statement() -> ResetStatement {
    ResetStatement {
        number: 1,
        cluster: "east".to_owned(),
        position: 0,
        group: 7,
        time: "2026-11-23T10:00:00Z".to_owned(),
    }
}

fn signed(key: &MeshKey, purpose: &str, statement: &ResetStatement) -> ResetRequest {
    let statement = serde_json::to_string(statement).unwrap();
    let signature = key.sign_statement(purpose, statement.as_bytes()).unwrap();
    ResetRequest {
        signature: crate::hex::hex(&signature),
        statement,
    }
}

fn foreign_key() -> MeshKey {
    MeshKey::found(&"shop.mesh".parse().unwrap(), SystemTime::now()).unwrap()
}

#[test]
fn only_what_the_mesh_key_says_of_this_cluster_as_it_is_counts() {
    let good = statement();
    let own = |change: fn(&mut ResetStatement)| {
        let mut statement = statement();
        change(&mut statement);
        signed(mesh_key(), RESET_PURPOSE, &statement)
    };
    let tampered = ResetRequest {
        statement: own(|_| {}).statement.replace("\"group\":7", "\"group\":8"),
        ..own(|_| {})
    };
    let no_hex = ResetRequest {
        signature: "x".to_owned(),
        ..own(|_| {})
    };
    for (request, code, says) in [
        (
            signed(&foreign_key(), RESET_PURPOSE, &good),
            403,
            "not signed with the mesh key",
        ),
        (
            signed(mesh_key(), "cluster-grant", &good),
            403,
            "not signed with the mesh key",
        ),
        (tampered, 403, "not signed with the mesh key"),
        (no_hex, 400, "not hexadecimal"),
        (
            own(|statement| statement.cluster = "west".to_owned()),
            422,
            "for cluster west, this is east",
        ),
        (
            own(|statement| statement.cluster = "-".to_owned()),
            422,
            "names cluster",
        ),
        (own(|statement| statement.number = 2), 409, "0 times"),
        (own(|statement| statement.number = 0), 409, "0 times"),
        (
            own(|statement| statement.number = 1 << 12),
            422,
            "4095 times at most",
        ),
        (
            own(|statement| statement.position = 4),
            409,
            "stands at 0, the statement says 4",
        ),
    ] {
        let mut east = Machine::new("east");
        let id = east.ask(Request::Reset(request));
        let (found, body) = east.answer(id).unwrap();
        let message = body["message"].as_str().unwrap();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
        assert_eq!(east.write(Verb::Create, service("cart", 80)).0, 503);
    }
    let mut east = Machine::new("east");
    let id = east.ask(Request::Reset(own(|_| {})));
    assert_eq!(east.answer(id).unwrap().0, 200);
    east.create(service("cart", 80));
    let id = east.ask(Request::Reset(own(|_| {})));
    assert_eq!(east.answer(id).unwrap().0, 409, "one statement counts once");
    let mut east = east.restart();
    east.create(service("payment", 80));
}

#[test]
fn where_the_authority_is_heard_there_is_nothing_to_begin() {
    let request = |cluster: &str, position| {
        let statement = ResetStatement {
            cluster: cluster.to_owned(),
            position,
            ..statement()
        };
        Request::Reset(signed(mesh_key(), RESET_PURPOSE, &statement))
    };
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(service("cart", 80));
    exchange(&mut west, &mut east);
    for (machine, cluster, says) in [
        (&mut west, "west", "west leads the authority"),
        (&mut east, "east", "west votes and is heard"),
    ] {
        let id = machine.ask(request(cluster, 1));
        let (code, body) = machine.answer(id).unwrap();
        assert_eq!(code, 409);
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
    }
}

/// A peer says hello, and that the authority began anew.
fn tell(machine: &mut Machine, request: &ResetRequest) {
    let hello = proto::PeerHello {
        cluster: "north".to_owned(),
        reset: Some(Box::new(proto::SignedReset {
            statement: request.statement.clone().into_bytes().into(),
            signature: crate::hex::unhex(&request.signature).unwrap().into(),
        })),
        ..proto::PeerHello::default()
    };
    machine.event(Event::PeerOpened {
        session: PeerSessionId(9),
        cluster: "north".parse().unwrap(),
        target: None,
    });
    let frame = proto::PeerFrame {
        frame: Some(proto::peer_frame::Frame::Hello(hello)),
    };
    machine.event(Event::PeerMessage {
        session: PeerSessionId(9),
        frame,
    });
}

#[test]
fn a_peer_that_only_says_so_changes_nothing() {
    let (mut west, mut other) = (Machine::new("west"), Machine::new("west"));
    west.create(service("cart", 80));
    other.create(service("cart", 80));
    let forged = signed(&foreign_key(), RESET_PURPOSE, &statement());
    tell(&mut west, &forged);
    let is_told = |action: &Action| matches!(action, Action::Notice(Notice::BadReset { .. }));
    assert!(west.out.iter().any(is_told));
    west.create(service("payment", 80));

    // The same, signed, has it accept nothing any more, and what it had beyond is void.
    tell(&mut other, &signed(mesh_key(), RESET_PURPOSE, &statement()));
    let is_told =
        |action: &Action| matches!(action, Action::Notice(Notice::Reset { rejected: 1, .. }));
    assert!(other.out.iter().any(is_told));
    for _ in 0..2 {
        assert_eq!(other.write(Verb::Create, service("payment", 80)).0, 503);
        let query = HistoryQuery {
            limit: 9,
            rejected: true,
            ..HistoryQuery::default()
        };
        let id = other.ask(Request::History(query));
        let (_, history) = other.answer(id).unwrap();
        assert_eq!(history["changes"][0]["name"], "cart");
        // It founded the mesh, and founds none again.
        other = other.restart();
    }
}
