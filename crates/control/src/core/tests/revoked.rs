//! Processes that are taken for own ones no more.

use isthmus_identity::{JoinToken, TokenGrant};
use isthmus_model::Admission;

use super::*;

fn admission(session: u64) -> Admission {
    Admission(session.to_be_bytes())
}

fn revoke(machine: &mut Machine, process: Option<&str>, admission: Option<&str>) -> (u16, Value) {
    let request = RevokeRequest {
        process: process.map(str::to_owned),
        admission: admission.map(str::to_owned),
        reason: Some("lost".to_owned()),
    };
    let author = "ada".to_owned();
    let id = machine.ask(Request::Revoke { author, request });
    machine.answer(id).expect("an answer at once")
}

/// Was the session closed since this was asked last?
fn closes(machine: &mut Machine, wanted: u64) -> bool {
    let before = machine.out.len();
    machine.out.retain(
        |action| !matches!(action, Action::CloseProxy { session, .. } if session.0 == wanted),
    );
    machine.out.len() < before
}

fn admits(machine: &mut Machine, admission: Admission) -> bool {
    let wanted = machine.ask(Request::Admits(admission));
    let mut admitted = false;
    machine.out.retain(|action| match action {
        Action::Answer { id, answer } if *id == wanted => {
            admitted = matches!(answer, Answer::Done);
            false
        }
        _ => true,
    });
    admitted
}

/// Does the token of the first admission admit?
fn joins(machine: &mut Machine) -> bool {
    let wanted = machine.ask(Request::Enroll {
        token: TokenId(admission(1).0),
        secret: TokenSecret::new([1; 32]),
        key: KeyHash([2; 32]),
    });
    let granted = |action: &Action| matches!(action, Action::Answer { id, answer: Answer::Granted(_) } if *id == wanted);
    machine.out.iter().any(granted)
}

fn revoked_in(machine: &Machine, cluster: &str) -> Vec<Admission> {
    let revoked = machine.core.index.revoked(&cluster.parse().unwrap());
    revoked.into_iter().collect()
}

#[test]
fn a_revoked_process_is_closed_told_of_and_forgotten_when_its_certificates_have_ended() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("west"));
    west.create(cluster("east"));
    west.create(service("cart", 80));
    for session in [1, 2] {
        west.open_proxy(session, "cart", &["mesh"]);
        west.report(session, "cart", proto::Health::Healthy);
    }
    exchange(&mut west, &mut east);
    west.pushed(2);

    // The token that it joined with is good for another week, for the same key.
    let secret = TokenSecret::new([1; 32]);
    let grant = TokenGrant {
        cluster: "west".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        account: "cart".parse().unwrap(),
        service: None,
    };
    let address = ([127, 0, 0, 1], 15012).into();
    let root = mesh_key().bundle().fingerprints().next().unwrap();
    let token = JoinToken::new(root, vec![address], TokenId(admission(1).0), secret).unwrap();
    let expires = west.clock.wall() + Duration::from_hours(7 * 24);
    west.ask(Request::AddToken(token.record(grant, expires)));
    assert!(joins(&mut west));

    let (code, body) = revoke(&mut west, Some("cart-1"), None);
    assert_eq!(code, 200, "{body}");
    assert_eq!(
        [
            &body["cluster"],
            &body["process"],
            &body["author"],
            &body["reason"]
        ],
        ["west", "cart-1", "ada", "lost"]
    );
    assert!(closes(&mut west, 1) && !closes(&mut west, 2));
    assert_eq!(
        west.core.index.workloads().count(),
        1,
        "it stands for nothing"
    );
    assert_eq!(west.pushed(2), ["cluster/west"], "the others are told");
    exchange(&mut west, &mut east);
    assert_eq!(revoked_in(&east, "west"), [admission(1)]);
    let id = east.ask(Request::Revocations);
    let (_, body) = east.answer(id).unwrap();
    let listed = &body["revocations"][0];
    assert_eq!(
        [&listed["cluster"], &listed["admission"]],
        ["west", "0000000000000001"]
    );
    assert_eq!(
        revoke(&mut west, None, Some("0000000000000001")).0,
        200,
        "again"
    );

    // It tries everything, also after a restart.
    let mut west = west.restart();
    for _ in 0..2 {
        west.open_proxy(1, "cart", &["mesh"]);
        assert!(closes(&mut west, 1));
        assert!(!admits(&mut west, admission(1)) && admits(&mut west, admission(2)));
        assert!(!joins(&mut west));
        assert_eq!(revoked_in(&west, "west"), [admission(1)]);
    }
    connect(&mut west, &mut east, 2);
    assert_eq!(revoked_in(&east, "west"), [admission(1)]);

    west.pass(24 * 3600 + 599);
    assert!(!admits(&mut west, admission(1)));
    west.pass(1);
    connect(&mut west, &mut east, 3);
    assert!(admits(&mut west, admission(1)));
    assert_eq!(revoked_in(&east, "west"), []);
    assert!(!joins(&mut west), "a token does not come back");
    assert_eq!(revoked_in(&west.restart(), "west"), []);
}

#[test]
fn who_is_meant_must_be_clear() {
    let mut west = Machine::new("west");
    west.create(service("cart", 80));
    west.open_proxy(1, "cart", &[]);
    west.report(1, "cart", proto::Health::Healthy);
    west.open_proxy(2, "gateway", &[]);
    west.proxy(
        2,
        FromProxy::Gateway(proto::GatewayReport {
            name: "gateway-7".to_owned(),
            address: "127.0.0.2:15008".to_owned(),
            healthy: true,
        }),
    );
    // Somebody who calls itself like another.
    let (hello, identity) = (
        proto::Hello {
            process: "cart-1".to_owned(),
            number: 1,
            ..proto::Hello::default()
        },
        gateway_identity(&"shop.mesh".parse().unwrap()),
    );
    west.event(Event::ProxyOpened {
        session: SessionId(3),
        connection: ConnectionId(3),
        identity,
        admission: Some(admission(3)),
        generation: Generation::FIRST,
    });
    west.proxy(3, FromProxy::Hello(hello));

    for (process, admission, code, says) in [
        (
            Some("cart-1"),
            None,
            409,
            "0000000000000001, 0000000000000003",
        ),
        (Some("nobody"), None, 404, "no process nobody"),
        (None, None, 400, "either"),
        (Some("a"), Some("b"), 400, "either"),
        (None, Some("xyz"), 400, "16 hexadecimal digits"),
    ] {
        let (found, body) = revoke(&mut west, process, admission);
        assert_eq!(found, code, "{body}");
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
    }
    assert_eq!(revoke(&mut west, Some("gateway-7"), None).0, 200);
    assert!(closes(&mut west, 2));
    let handle = west.core.index.workloads().next().unwrap().handle.clone();
    assert_eq!(revoke(&mut west, Some(handle.as_str()), None).0, 200);
    assert!(closes(&mut west, 1));
    assert_eq!(
        revoke(&mut west, None, Some("00000000000000ff")).0,
        200,
        "who is gone"
    );
    assert_eq!(revoked_in(&west, "west").len(), 3);
}

/// What was issued while certificates lived longer is not forgotten before it has ended.
#[test]
fn the_longest_lifetime_counts() {
    let mut west = Machine::new("west");
    west.pass(1);
    let shorter = Settings {
        leaf_lifetime: Duration::from_hours(1),
        ..settings("west")
    };
    west.disk.power_on();
    west.core = Core::open(shorter, west.disk.clone(), west.now()).unwrap();
    let (_, body) = revoke(&mut west, None, Some("0000000000000001"));
    west.pass(24 * 3600);
    assert!(!admits(&mut west, admission(1)), "{body}");
    west.pass(600);
    assert!(admits(&mut west, admission(1)));
}
