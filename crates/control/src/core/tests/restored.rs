//! Clusters that start from a backup.

use isthmus_api::{RESET_PURPOSE, ResetRequest, ResetStatement};
use isthmus_identity::{JoinToken, KeyHash, TokenGrant, TokenId, TokenSecret};
use isthmus_world::Table;

use super::*;

/// A disk as the cluster's backup makes it.
fn backup(machine: &mut Machine) -> VirtualStore {
    let id = machine.ask(Request::Backup);
    let answered =
        |action: &Action| matches!(action, Action::Answer { id: found, .. } if *found == id);
    let at = machine.out.iter().position(answered).unwrap();
    let Action::Answer {
        answer: Answer::Backup(backup),
        ..
    } = machine.out.remove(at)
    else {
        panic!("no backup");
    };
    assert_eq!(backup.position, machine.core.position());
    let mut disk = machine.disk.backup();
    let mut batch = mark_backup(backup.taken);
    Tokens::leave_out_unused(&machine.disk, &mut batch).unwrap();
    disk.commit(&batch).unwrap();
    for table in [
        tokens_table(),
        Table::new("restored"),
        Table::new("members"),
    ] {
        let mut pairs = Vec::new();
        let mut take = |key: &[u8], value: &[u8]| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(())
        };
        backup.image.each(table.name(), &mut take).unwrap();
        assert_eq!(pairs, disk.scan_prefix(table, b"").unwrap());
    }
    disk
}

fn tokens_table() -> Table {
    Table::new("tokens")
}

fn from(name: &'static str, disk: VirtualStore) -> Machine {
    Machine::on(name, disk, VirtualClock::new())
}

#[test]
fn alone_it_accepts_nothing_until_the_mesh_key_says_so() {
    let mut west = Machine::new("west");
    west.create(service("cart", 80));
    let disk = backup(&mut west);
    west.create(service("payment", 80));

    let mut west = from("west", disk);
    for _ in 0..2 {
        let (code, body) = west.write(Verb::Create, service("payment", 81));
        assert_eq!(code, 503, "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("restored from a backup"), "{message}");
        assert!(message.contains("isthmus authority reset"), "{message}");
        assert_eq!(west.read(Kind::Service, Some("cart")).0, 200, "it serves");
        west = west.restart();
        west.pass(30);
    }
    let id = west.ask(Request::Authority);
    let (_, view) = west.answer(id).unwrap();
    assert!(
        view["reason"].as_str().unwrap().contains("backup"),
        "{view}"
    );
    assert_eq!(view["accepts"], false);

    let statement = ResetStatement {
        number: 1,
        cluster: "west".to_owned(),
        position: 1,
        group: 7,
        time: "2026-11-23T10:00:00Z".to_owned(),
    };
    let statement = serde_json::to_string(&statement).unwrap();
    let signature = mesh_key().sign_statement(RESET_PURPOSE, statement.as_bytes());
    let signature = crate::hex::hex(&signature.unwrap());
    let id = west.ask(Request::Reset(ResetRequest {
        statement,
        signature,
    }));
    assert_eq!(west.answer(id).unwrap().0, 200);
    west.create(service("payment", 81));
    west.restart().create(service("frontend", 80));
}

#[test]
fn the_founder_founds_nothing_anew() {
    let mut west = Machine::new("west");
    west.create(service("cart", 80));
    let mut disk = backup(&mut west);
    let mut batch = Batch::new();
    // As one that had left the authority before.
    batch.delete(Table::new("authority"), "state");
    disk.commit(&batch).unwrap();
    let mut west = from("west", disk);
    assert_eq!(west.write(Verb::Create, service("payment", 80)).0, 503);
}

#[test]
fn tokens_that_nobody_had_used_are_void() {
    let mut west = Machine::new("west");
    let record = |id: u8| {
        let root = isthmus_identity::RootFingerprint([1; 32]);
        let control = vec![([127, 0, 0, 1], 15012).into()];
        let secret = TokenSecret::new([id; 32]);
        let token = JoinToken::new(root, control, TokenId([id; 8]), secret).unwrap();
        let grant = TokenGrant {
            cluster: "west".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            account: "cart".parse().unwrap(),
            service: None,
        };
        token.record(grant, SystemTime::now() + Duration::from_hours(1_000_000))
    };
    let enroll = |machine: &mut Machine, id: u8| {
        let request = Request::Enroll {
            token: TokenId([id; 8]),
            secret: TokenSecret::new([id; 32]),
            key: KeyHash([id; 32]),
        };
        let id = machine.ask(request);
        let granted = |action: &Action| matches!(action, Action::Answer { id: found, answer: Answer::Granted(_) } if *found == id);
        machine.out.iter().any(granted)
    };
    for id in [1, 2] {
        west.ask(Request::AddToken(record(id)));
    }
    assert!(enroll(&mut west, 1));
    let disk = backup(&mut west);
    assert!(enroll(&mut west, 2), "after the backup");
    let last = RequestId(100);
    for (id, request) in [
        (RequestId(99), Request::AddToken(record(3))),
        (last, Request::Backup),
    ] {
        let now = west.now();
        west.core.on(Event::Request { id, request }, now);
    }
    west.out.extend(west.core.flush());
    let image = west.out.iter().find_map(|action| match action {
        Action::Answer {
            id,
            answer: Answer::Backup(backup),
        } if *id == last => Some(&backup.image),
        _ => None,
    });
    let mut ids = Vec::new();
    let mut take = |id: &[u8], _: &[u8]| {
        ids.push(id[0]);
        Ok(())
    };
    image
        .unwrap()
        .each(tokens_table().name(), &mut take)
        .unwrap();
    assert_eq!(ids, [1, 2], "what is not saved is not in it");
    let mut west = from("west", disk);
    assert!(enroll(&mut west, 1), "the same process may go on");
    assert!(!enroll(&mut west, 2), "whoever has it could use it again");
}
