//! The history of config: what is written with each change, where it stays, and what is lost of it.

use isthmus_api::{ChangeView, HistoryView};
use isthmus_world::Fault;

use super::*;

impl Machine {
    fn history(&mut self, query: HistoryQuery) -> HistoryView {
        let id = self.ask(Request::History(query));
        let (code, body) = self.answer(id).expect("an answer at once");
        assert_eq!(code, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// All changes, by pages of three.
    fn all_changes(&mut self) -> Vec<ChangeView> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let page = self.history(HistoryQuery {
                before,
                limit: 3,
                ..HistoryQuery::default()
            });
            assert!(page.unreadable.is_empty(), "{:?}", page.unreadable);
            all.extend(page.changes);
            match page.next {
                Some(next) => before = Some(Position(next)),
                None => return all,
            }
        }
    }
}

/// Does each change name the one before it, down to the first?
fn assert_chained(changes: &[ChangeView]) {
    for pair in changes.windows(2) {
        assert_eq!(pair[0].previous.as_ref(), Some(&pair[1].hash), "{pair:?}");
        assert!(pair[0].position > pair[1].position);
    }
    assert_eq!(
        changes.last().and_then(|first| first.previous.clone()),
        None
    );
}

#[test]
fn every_change_is_kept_with_its_author_and_what_was_before() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    assert_eq!(machine.write(Verb::Update, service("cart", 81)).0, 200);
    // What changes nothing, and what is only tried, is no change.
    assert_eq!(machine.write(Verb::Update, service("cart", 81)).0, 200);
    let tried = Write {
        dry_run: true,
        ..write(Verb::Update, service("cart", 99))
    };
    machine.ask(Request::Write(tried));
    machine.create(service("payment", 80));
    assert_eq!(machine.write(Verb::Delete, service("cart", 81)).0, 200);

    let changes = machine.all_changes();
    assert_chained(&changes);
    let shown: Vec<_> = changes
        .iter()
        .map(|change| {
            let port = |object: Option<&Value>| {
                object.map(|object| object["spec"]["ports"][0]["port"].clone())
            };
            (
                change.position,
                change.verb.as_str(),
                change.object(),
                port(change.before.as_ref()),
                port(change.after.as_ref()),
            )
        })
        .collect();
    let cart = || "Service/shop/cart".to_owned();
    assert_eq!(
        shown,
        [
            (4, "delete", cart(), Some(json!(81)), None),
            (
                3,
                "create",
                "Service/shop/payment".to_owned(),
                None,
                Some(json!(80))
            ),
            (2, "update", cart(), Some(json!(80)), Some(json!(81))),
            (1, "create", cart(), None, Some(json!(80))),
        ]
    );
    assert!(
        changes
            .iter()
            .all(|change| change.author == "ada" && change.cluster == "west")
    );

    let of_payment = machine.history(HistoryQuery {
        selection: Some(Selection {
            origin: Origin::Mesh,
            kind: Kind::Service,
            namespace: Some("shop".parse().unwrap()),
            name: Some("payment".parse().unwrap()),
        }),
        limit: 10,
        records: true,
        ..HistoryQuery::default()
    });
    let [created] = &of_payment.changes[..] else {
        panic!("{of_payment:?}");
    };
    let record: Value = serde_json::from_str(created.record.as_deref().unwrap()).unwrap();
    assert_eq!(record["position"], 3);
    assert_eq!(record["previous"], json!(created.previous));
}

#[test]
fn a_change_and_its_record_are_saved_together_or_not_at_all() {
    for seed in 0..16 {
        let mut machine = Machine::new("west");
        machine.create(service("cart", 80));
        machine.disk.fail_next(Fault::Crash { seed });
        machine.write(Verb::Update, service("cart", 81));
        let mut machine = machine.restart();
        let (_, found) = machine.read(Kind::Service, Some("cart"));
        let changes = machine.all_changes();
        assert_chained(&changes);
        let last = changes[0].after.as_ref().unwrap();
        assert_eq!(last["spec"], found["spec"], "seed {seed}");
        // What did not happen has left no trace that the next change would stand on.
        assert_eq!(machine.write(Verb::Update, service("cart", 82)).0, 200);
        assert_chained(&machine.all_changes());
    }
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    machine.disk.fail_next(Fault::Full);
    assert_eq!(machine.write(Verb::Update, service("cart", 81)).0, 500);
    machine.create(service("payment", 80));
    let changes = machine.all_changes();
    assert_eq!(
        changes.len(),
        2,
        "a refused write is no change: {changes:?}"
    );
    assert_chained(&changes);
}

#[test]
fn what_leaves_the_ledger_stays_in_the_archive() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    for port in 81..=1180 {
        assert_eq!(machine.write(Verb::Update, service("cart", port)).0, 200);
    }
    let in_ledger = |machine: &Machine| machine.core.replica.entries(&LedgerName::History).len();
    assert_eq!(in_ledger(&machine), 1000);
    let before = machine.all_changes();
    assert_eq!(before.len(), 1101);
    assert_chained(&before);
    let mut machine = machine.restart();
    machine.pass(1);
    assert_eq!(in_ledger(&machine), 1000);
    assert_eq!(machine.all_changes(), before);
    // One object's history is found however deep it lies, a bounded part of it with each answer.
    machine.create(service("payment", 80));
    let mut query = HistoryQuery {
        selection: Some(Selection {
            origin: Origin::Mesh,
            kind: Kind::Service,
            namespace: None,
            name: Some("payment".parse().unwrap()),
        }),
        limit: 10,
        ..HistoryQuery::default()
    };
    let first = machine.history(query.clone());
    assert_eq!(first.changes.len(), 1);
    query.before = first.next.map(Position);
    assert!(
        query.before.is_some(),
        "1102 changes are not looked at for one answer"
    );
    let rest = machine.history(query);
    assert_eq!((rest.changes.len(), rest.next), (0, None));
}

#[test]
fn every_cluster_has_the_history_and_it_names_who_asked() {
    let (mut west, mut east) = (Machine::new("west"), Machine::new("east"));
    connect(&mut west, &mut east, 1);
    west.create(cluster("east"));
    exchange(&mut west, &mut east);
    west.create(service("cart", 80));
    let id = east.ask(Request::Write(write(Verb::Update, service("cart", 81))));
    exchange(&mut west, &mut east);
    assert_eq!(east.answer(id).unwrap().0, 200);
    let changes = west.all_changes();
    let through: Vec<&str> = changes
        .iter()
        .map(|change| change.cluster.as_str())
        .collect();
    assert_eq!(through, ["east", "west", "west"]);
    assert_eq!(east.all_changes(), changes);
    // The copy is its own: it outlives its process, and the authority.
    east.pass(1);
    let mut east = east.restart();
    assert_eq!(east.all_changes(), changes);
}

#[test]
fn a_delete_is_judged_by_what_its_author_read() {
    let mut machine = Machine::new("west");
    machine.create(service("cart", 80));
    let (_, first) = machine.read(Kind::Service, Some("cart"));
    assert_eq!(machine.write(Verb::Update, service("cart", 81)).0, 200);
    let mut conditional = write(Verb::Delete, service("cart", 81));
    let version = &first["metadata"]["resourceVersion"];
    conditional.object = Some(json!({"metadata": {"resourceVersion": version}}));
    let id = machine.ask(Request::Write(conditional.clone()));
    assert_eq!(machine.answer(id).unwrap().0, 409);
    let (_, newest) = machine.read(Kind::Service, Some("cart"));
    conditional.object = Some(newest);
    let id = machine.ask(Request::Write(conditional));
    assert_eq!(machine.answer(id).unwrap().0, 200);
}
