use std::collections::BTreeSet;

use isthmus_world::{Batch, Table};

use super::*;

const TABLE: Table = Table::new("t");

/// A key in a file of its own: 64 times `digit`.
fn key(home: &Path, digit: char) -> KeySource {
    let path = home.join(format!("key-{digit}"));
    fs::write(&path, String::from(digit).repeat(64)).unwrap();
    KeySource::File(path)
}

/// Sealed by the first of `digits`; the others are earlier keys.
fn by(home: &Path, digits: &str) -> AtRest {
    let mut keys = digits.chars().map(|digit| key(home, digit));
    AtRest {
        key: keys.next().unwrap(),
        previous: keys.collect(),
    }
}

fn folder(home: &Path) -> PathBuf {
    let folder = home.join("data");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn put(store: &mut impl Store, key: &'static str, value: &'static str) {
    let mut batch = Batch::new();
    batch.put(TABLE, key, value);
    store.commit(&batch).unwrap();
}

fn value(store: &impl Store, key: &str) -> Option<String> {
    let value = store.read(TABLE, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

/// As a control plane starts; with one file beside the store.
fn start(home: &Path, at_rest: &AtRest) -> Result<(Box<dyn Store>, Option<String>), AtRestError> {
    let folder = folder(home);
    let mut unlocked = unlock(&folder, Some(at_rest))?.unwrap();
    let beside = unlocked.read(&folder.join("beside"))?;
    let store = unlocked.store(&folder.join("store.redb"))?;
    let beside = beside.map(|text| String::from_utf8(text.to_vec()).unwrap());
    Ok((store, beside))
}

/// Started once by key `a`, with a secret in the store and one beside it.
fn filled(home: &Path) {
    let (mut store, beside) = start(home, &by(home, "a")).unwrap();
    assert_eq!(beside, None);
    put(&mut store, "name", "a secret in the store");
    drop(store);
    let folder = folder(home);
    let unlocked = unlock(&folder, Some(&by(home, "a"))).unwrap().unwrap();
    let beside = folder.join("beside");
    unlocked.write(&beside, b"a secret beside it").unwrap();
}

fn assert_whole(home: &Path, digits: &str) {
    let (store, beside) = start(home, &by(home, digits)).unwrap();
    let found = value(&store, "name");
    assert_eq!(found.as_deref(), Some("a secret in the store"), "{digits}");
    assert_eq!(beside.as_deref(), Some("a secret beside it"), "{digits}");
}

/// All files of the folder.
fn content(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder(home)).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

fn says(home: &Path, secret: &str) -> bool {
    let files = content(home);
    let mut windows = files
        .iter()
        .flat_map(|(_, bytes)| bytes.windows(secret.len()));
    windows.any(|window| window == secret.as_bytes())
}

fn refusal(home: &Path, at_rest: Option<&AtRest>) -> String {
    match unlock(&folder(home), at_rest) {
        Err(error) => error.to_string(),
        Ok(Some(mut unlocked)) => {
            let store = unlocked.store(&folder(home).join("store.redb"));
            store.err().unwrap().to_string()
        }
        Ok(None) => {
            let store = plain_store(&folder(home).join("store.redb"));
            store.err().unwrap().to_string()
        }
    }
}

fn keys_kept(home: &Path) -> usize {
    let file = KeyFile::read(&folder(home).join("data.key")).unwrap();
    file.unwrap().keys.len()
}

#[test]
fn what_is_kept_is_read_by_its_key_only() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    filled(home);
    assert!(!says(home, "secret"));
    assert_whole(home, "a");
    assert_whole(home, "ab");

    let before = content(home);
    let names = |digits: &str| {
        let keys = digits.chars().map(|digit| key(home, digit).read());
        keys.map(|key| key.unwrap().name).collect::<Vec<_>>()
    };
    let [a, b, c] = &names("abc")[..] else {
        unreachable!("three names")
    };
    let said = refusal(home, Some(&by(home, "b")));
    assert!(
        said.contains(&format!("is sealed by key {a}; configured are {b}: ")),
        "{said}"
    );
    let said = refusal(home, Some(&by(home, "bc")));
    assert!(
        said.contains(&format!("configured are {b}, {c}: ")),
        "{said}"
    );
    let said = refusal(home, None);
    assert!(
        said.contains(&format!("sealed by key {a}, and no key is configured")),
        "{said}"
    );
    assert!(content(home) == before, "what is refused is left as it is");
}

#[test]
fn without_the_data_key_nothing_is_begun_anew() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    filled(home);
    fs::remove_file(folder(home).join("data.key")).unwrap();
    for at_rest in [None, Some(by(home, "a"))] {
        let said = refusal(home, at_rest.as_ref());
        assert!(
            said.contains("store.redb is sealed, and not by what is in `data.key`"),
            "{said}"
        );
    }
    assert!(!folder(home).join("data.key").exists());
}

#[test]
fn what_lay_open_is_sealed_at_the_first_start_with_a_key() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let path = folder(home).join("store.redb");
    let mut open = plain_store(&path).unwrap();
    put(&mut open, "name", "a secret in the store");
    drop(open);
    assert!(says(home, "a secret in"));
    // It is there in whole, sealed or not, if the process dies between the two.
    drop(unlock(&folder(home), Some(&by(home, "a"))).unwrap());
    assert!(says(home, "a secret in"));
    let (store, _) = start(home, &by(home, "a")).unwrap();
    assert_eq!(
        value(&store, "name").as_deref(),
        Some("a secret in the store")
    );
    drop(store);
    assert!(!says(home, "secret"));
}

#[test]
fn another_key_seals_all_anew_wherever_it_is_interrupted() {
    for interrupted in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        filled(home);
        let old = content(home);
        let unlocked = unlock(&folder(home), Some(&by(home, "ba")))
            .unwrap()
            .unwrap();
        assert_eq!(keys_kept(home), 2);
        let (store, beside) = (folder(home).join("store.redb"), folder(home).join("beside"));
        if interrupted > 0 {
            assert!(unlocked.read(&beside).unwrap().is_some());
        }
        if interrupted > 1 {
            let older = &unlocked.older;
            let lock = unlocked.lock.try_clone().unwrap();
            drop(store::open_store(&store, &unlocked.key, older, lock).unwrap());
        }
        drop(unlocked);
        // The old key is not needed any more.
        assert_whole(home, "b");
        assert_eq!(keys_kept(home), 1);
        let said = refusal(home, Some(&by(home, "a")));
        assert!(said.contains("data.key is sealed by key"), "{said}");
        // Nor does it open, with the old data key, what is there now.
        let (path, text) = old
            .iter()
            .find(|(path, _)| path.ends_with("data.key"))
            .unwrap();
        fs::write(path, text).unwrap();
        let said = refusal(home, Some(&by(home, "a")));
        assert!(said.contains("store.redb is sealed, and not by"), "{said}");
    }
}

#[test]
fn one_process_at_a_time_has_the_keys() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let first = unlock(&folder(home), Some(&by(home, "a"))).unwrap();
    let said = refusal(home, Some(&by(home, "a")));
    assert!(
        said.ends_with("data is in use by another process; stop that one first"),
        "{said}"
    );
    drop(first);
    let (store, _) = start(home, &by(home, "a")).unwrap();
    let said = refusal(home, Some(&by(home, "ba")));
    assert!(
        said.contains("in use by another process"),
        "for as long as the store is open: {said}"
    );
    drop(store);
    assert_eq!(keys_kept(home), 1);
    start(home, &by(home, "ba")).unwrap();
}

#[test]
fn every_changed_byte_of_the_key_file_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    filled(home);
    let path = folder(home).join("data.key");
    let text = fs::read(&path).unwrap();
    let mut seen = BTreeSet::new();
    for place in 0..text.len() {
        let mut changed = text.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).unwrap();
        let file = KeyFile::read(&path);
        let opened = file.map(|file| {
            let operator = key(home, 'a').read().unwrap();
            file.unwrap().open(&path, &operator).map(|keys| keys.len())
        });
        match opened {
            Err(error) | Ok(Err(error)) => drop(seen.insert(error.to_string())),
            // Only spaces and the key's name are left.
            Ok(Ok(keys)) => assert_eq!(keys, 1, "{}", String::from_utf8_lossy(&changed)),
        }
    }
    assert!(seen.len() >= 3, "{seen:#?}");
}
