use isthmus_world::{Fault, VirtualStore};

use super::*;

const TABLES: [Table; 2] = [Table::new("a"), Table::new("b")];

fn data_key(of: u8) -> DataKey {
    DataKey([of; 32].into())
}

fn sealed(disk: &VirtualStore) -> SealedStore<VirtualStore> {
    let known = known(disk, &data_key(1)).unwrap().unwrap();
    let keys = ValueKeys::new(known, &data_key(1)).unwrap();
    SealedStore::new(disk.clone(), Path::new("disk"), keys, None)
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::new();
    batch.put(TABLES[0], key, value);
    batch
}

/// What a seed makes of a number.
fn drawn(seed: u64, below: u64) -> u64 {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) % below
}

#[test]
fn it_answers_as_an_open_one_does() {
    let (disk, mut open) = (VirtualStore::new(), VirtualStore::new());
    let mut store = sealed(&disk);
    for step in 0..2_000_u64 {
        let table = TABLES[usize::from(drawn(step, 2) == 1)];
        let key = [0_u8, 7, 255][..usize::try_from(drawn(step + 7, 4)).unwrap()].to_vec();
        match drawn(step + 13, 6) {
            0..=2 => {
                let mut batch = Batch::new();
                batch.put(table, key.clone(), step.to_be_bytes().to_vec());
                if step % 3 == 0 {
                    batch.delete(TABLES[0], key);
                }
                store.commit(&batch).unwrap();
                open.commit(&batch).unwrap();
            }
            3 => assert_eq!(
                store.read(table, &key).unwrap(),
                open.read(table, &key).unwrap()
            ),
            4 => assert_eq!(
                store.scan(table, &key, 2).unwrap(),
                open.scan(table, &key, 2).unwrap()
            ),
            _ => store = sealed(&disk),
        }
    }
    for table in TABLES {
        assert!(!open.scan_prefix(table, b"").unwrap().is_empty());
        assert_eq!(
            store.scan_prefix(table, b"").unwrap(),
            open.scan_prefix(table, b"").unwrap()
        );
    }
}

#[test]
fn what_was_changed_or_moved_is_noticed() {
    let mut disk = VirtualStore::new();
    let mut store = sealed(&disk);
    store.commit(&put("here", "a value")).unwrap();
    store.commit(&put("there", "a value")).unwrap();
    let here = disk.read(TABLES[0], b"here").unwrap().unwrap();
    let there = disk.read(TABLES[0], b"there").unwrap().unwrap();
    assert_ne!(
        here[HEADER..],
        there[HEADER..],
        "equal values look different"
    );
    let damaged = |disk: &VirtualStore| {
        let read = sealed(disk).read(TABLES[0], b"here");
        matches!(read, Err(StoreError::Damaged { .. }))
    };
    for place in 0..here.len() {
        let mut changed = here.clone();
        changed[place] ^= 1;
        disk.commit(&put("here", changed)).unwrap();
        assert!(damaged(&disk), "{place}");
        disk.commit(&put("here", here[..place].to_vec())).unwrap();
        assert!(damaged(&disk), "cut at {place}");
    }
    disk.commit(&put("here", there)).unwrap();
    assert!(damaged(&disk), "of another key");
    disk.commit(&put("here", here)).unwrap();
    assert!(!damaged(&disk));
    assert!(known(&disk, &data_key(2)).unwrap().is_none());
}

#[test]
fn a_copy_that_is_opened_again_seals_by_another_key() {
    let disk = VirtualStore::new();
    sealed(&disk).commit(&put("a", "first")).unwrap();
    let copy = disk.backup();
    // The same number of key and value in both.
    for disk in [&disk, &copy] {
        sealed(disk).commit(&put("b", "second")).unwrap();
    }
    let of = |disk: &VirtualStore, table, key: &[u8]| disk.read(table, key).unwrap().unwrap();
    let (one, other) = (of(&disk, TABLES[0], b"b"), of(&copy, TABLES[0], b"b"));
    assert_eq!(one[..HEADER], other[..HEADER]);
    assert_ne!(one[HEADER..], other[HEADER..]);
    let number = 1_u32.to_be_bytes();
    assert_ne!(of(&disk, KEYS, &number), of(&copy, KEYS, &number));
}

#[test]
fn the_key_of_a_value_is_there_when_the_value_is() {
    for fault in [
        Fault::Full,
        Fault::Io { durable: false },
        Fault::Io { durable: true },
        Fault::Crash { seed: 1 },
        Fault::Crash { seed: 2 },
    ] {
        let disk = VirtualStore::new();
        let mut store = sealed(&disk);
        disk.fail_next(fault);
        assert!(store.commit(&put("a", "one")).is_err());
        disk.power_on();
        if let Some(value) = sealed(&disk).read(TABLES[0], b"a").unwrap() {
            assert_eq!(value, b"one");
        }
        // The same process goes on.
        store.commit(&put("b", "two")).unwrap();
        store.commit(&put("c", "three")).unwrap();
        let store = sealed(&disk);
        assert_eq!(store.read(TABLES[0], b"b").unwrap(), Some(b"two".to_vec()));
        assert_eq!(
            store.read(TABLES[0], b"c").unwrap(),
            Some(b"three".to_vec())
        );
    }
}
