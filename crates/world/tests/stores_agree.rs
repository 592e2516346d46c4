//! The real and the virtual store answer alike, whatever is asked of them.

use isthmus_world::{Batch, RedbStore, Store, Table, VirtualStore};
use proptest::prelude::*;

const TABLES: [Table; 2] = [Table::new("a"), Table::new("b")];

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Scan(usize, Vec<u8>, usize),
    Prefix(usize, Vec<u8>),
    Read(usize, Vec<u8>),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255)], 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let table = 0..TABLES.len();
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..3));
    let write = (table.clone(), key(), value);
    prop_oneof![
        4 => prop::collection::vec(write, 0..6).prop_map(Step::Commit),
        2 => (table.clone(), key(), 0..8usize).prop_map(|(t, k, n)| Step::Scan(t, k, n)),
        2 => (table.clone(), key()).prop_map(|(t, k)| Step::Prefix(t, k)),
        2 => (table, key()).prop_map(|(t, k)| Step::Read(t, k)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn real_and_virtual_agree(steps in prop::collection::vec(step(), 1..12)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let mut real = RedbStore::open(&path).unwrap();
        let mut imagined = VirtualStore::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    let mut batch = Batch::new();
                    for (table, key, value) in writes {
                        match value {
                            Some(value) => batch.put(TABLES[table], key, value),
                            None => batch.delete(TABLES[table], key),
                        }
                    }
                    real.commit(&batch).unwrap();
                    imagined.commit(&batch).unwrap();
                }
                Step::Scan(table, from, limit) => prop_assert_eq!(
                    real.scan(TABLES[table], &from, limit).unwrap(),
                    imagined.scan(TABLES[table], &from, limit).unwrap()
                ),
                Step::Prefix(table, prefix) => prop_assert_eq!(
                    real.scan_prefix(TABLES[table], &prefix).unwrap(),
                    imagined.scan_prefix(TABLES[table], &prefix).unwrap()
                ),
                Step::Read(table, key) => prop_assert_eq!(
                    real.read(TABLES[table], &key).unwrap(),
                    imagined.read(TABLES[table], &key).unwrap()
                ),
                Step::Reopen => {
                    drop(real);
                    real = RedbStore::open(&path).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_prefix_longer_than_a_page_is_scanned_to_its_end() {
    let mut store = VirtualStore::new();
    let mut batch = Batch::new();
    for number in 0..5000u32 {
        let mut key = b"p/".to_vec();
        key.extend(number.to_be_bytes());
        batch.put(TABLES[0], key, "");
    }
    batch.put(TABLES[0], "q", "");
    store.commit(&batch).unwrap();
    assert_eq!(store.scan_prefix(TABLES[0], b"p/").unwrap().len(), 5000);
}
