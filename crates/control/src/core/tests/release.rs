//! A store that release 0.1.0 has left: its records, byte by byte as they were written then.

use isthmus_world::Table;

use super::*;

const HEADS: Table = Table::new("ledger-heads");
const ENTRIES: Table = Table::new("ledger-entries");
const EPOCH: u64 = 1 << 32 | 2;

/// Format, epoch, position, floor, what it overrules, and one earlier epoch with its end.
fn head(position: u64) -> Vec<u8> {
    let numbers = [EPOCH, position, 0, 0, 0, 0];
    let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
    [1].into_iter().chain(numbers).collect()
}

/// Format, that it is there, where it changed, and the value.
fn entry(position: u64, value: &[u8]) -> Vec<u8> {
    [&[1, 1], &position.to_be_bytes()[..], value].concat()
}

fn object(object: &Value) -> Vec<u8> {
    let stored = json!({
        "author": "ada", "changed": 1_700_000_000_000_u64, "created": 1_600_000_000_000_u64,
        "generation": 3, "uid": "0-0", "object": object,
    });
    [&[1], stored.to_string().as_bytes()].concat()
}

#[test]
fn it_is_opened_and_goes_on() {
    let mut disk = VirtualStore::new();
    let mut batch = Batch::new();
    batch.put(HEADS, b"config".to_vec(), head(2));
    let mesh = json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "shop"},
        "spec": {"trustDomain": "shop.mesh"},
    });
    let records = [
        ("config/mesh/Mesh/shop", entry(1, &object(&mesh))),
        (
            "config/mesh/Service/shop/cart",
            entry(2, &object(&service("cart", 80))),
        ),
    ];
    for (place, record) in records {
        batch.put(ENTRIES, place.as_bytes().to_vec(), record);
    }
    disk.commit(&batch).unwrap();
    let mut west = Machine::on("west", disk, VirtualClock::new());
    let (code, cart) = west.read(Kind::Service, Some("cart"));
    assert_eq!(code, 200, "{cart}");
    let metadata = &cart["metadata"];
    let told = ["resourceVersion", "generation", "uid"].map(|field| metadata[field].clone());
    assert_eq!(told, [json!("2"), json!(3), json!("0-0")]);
    // It signed nothing, and what it had holds: see docs/decisions/0029.
    assert!(west.core.index.declared().mesh().is_some());
    west.create(service("payment", 80));
    let mut west = west.restart();
    assert_eq!(west.names(Kind::Service), ["cart", "payment"]);
    assert_eq!(west.core.position(), Position(3));
}
