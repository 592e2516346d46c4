use std::sync::Arc;

use isthmus_world::{Batch, Store, Table};

use super::*;
use crate::at_rest::{AtRest, KeySource};
use crate::config::{Ports, init};
use crate::core::mark_backup;

const TABLE: Table = Table::new("t");
const TAKEN: u64 = 1_795_476_490_710;

/// Of a cluster in its own directory; sealed by the first of `digits`, the others are earlier keys.
fn config(home: &Path, cluster: &str, digits: &str) -> Config {
    let key = |digit: char| {
        let path = home.join(format!("key-{digit}"));
        fs::write(&path, String::from(digit).repeat(64)).unwrap();
        KeySource::File(path)
    };
    let mut keys = digits.chars().map(key);
    let at_rest = keys.next().map(|key| AtRest {
        key,
        previous: keys.collect(),
    });
    Config {
        mesh: "shop".parse().unwrap(),
        trust_domain: "shop.example".parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        address: [127, 0, 0, 1].into(),
        ports: Ports::default(),
        data: home.join(format!("{cluster}-{digits}")),
        authority: "west".parse().unwrap(),
        peers: Vec::new(),
        api_tokens: Vec::new(),
        leaf_lifetime: std::time::Duration::from_hours(24),
        renew_after: std::time::Duration::from_hours(1),
        at_rest,
    }
}

fn store(config: &Config) -> Box<dyn Store> {
    fs::create_dir_all(&config.data).unwrap();
    match config.unlock().unwrap() {
        Some(mut unlocked) => unlocked.store(&config.store()).unwrap(),
        None => at_rest::plain_store(&config.store()).unwrap(),
    }
}

/// A store with a secret in it, which goes on after its backup.
fn backed_up(home: &Path, config: &Config) -> PathBuf {
    let mut store = store(config);
    let put = |value: &'static str| {
        let mut batch = Batch::new();
        batch.put(TABLE, "a", value);
        batch
    };
    store.commit(&put("a secret")).unwrap();
    let taken = from_unix_millis(TAKEN);
    let backup = Backup {
        image: Arc::from(store.image(&mark_backup(taken)).unwrap()),
        position: Position(42),
        taken,
    };
    store.commit(&put("later")).unwrap();
    let path = home.join("west.backup");
    write(config, &backup, &path).unwrap();
    path
}

fn refused(config: &Config, path: &Path, replaces: bool) -> String {
    restore(config, path, replaces).unwrap_err().to_string()
}

#[test]
fn what_was_saved_is_restored_whoever_sealed_it() {
    for (from, to) in [("", ""), ("", "b"), ("a", "a"), ("a", "ba")] {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let path = backed_up(home, &config(home, "west", from));
        let info = read_backup(&path).unwrap();
        assert_eq!((&*info.cluster, info.position), ("west", Position(42)));
        assert_eq!(info.taken, from_unix_millis(TAKEN));
        assert_eq!(info.sealed_by.is_some(), !from.is_empty());
        let text = fs::read(&path).unwrap();
        let lies_open = text.windows(8).any(|window| window == b"a secret");
        assert_eq!(lies_open, from.is_empty());

        let config = Config {
            data: home.join("anew"),
            ..config(home, "west", to)
        };
        let restored = restore(&config, &path, false).unwrap();
        assert_eq!(
            (restored.replaced, restored.unsigned.is_some()),
            (None, true)
        );
        let found = store(&config);
        let value = found.read(TABLE, b"a").unwrap();
        assert_eq!(value.as_deref(), Some(&b"a secret"[..]), "{from} to {to}");
        assert!(
            found
                .read(Table::new("restored"), b"backup")
                .unwrap()
                .is_some()
        );
        assert!(
            found
                .read(Table::new(HEADER), KEY)
                .is_ok_and(|header| header.is_none())
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_changed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let west = config(home, "west", "a");
    let path = backed_up(home, &west);
    let other = |config: Config, says: &str| {
        let found = refused(&config, &path, false);
        assert!(found.contains(says), "{found}");
        assert!(!config.store().exists());
    };
    let elsewhere = |digits| Config {
        data: home.join(format!("elsewhere-{digits}")),
        ..config(home, "west", digits)
    };
    other(config(home, "east", "a"), "is of cluster west of mesh shop");
    other(
        Config {
            mesh: "other".parse().unwrap(),
            ..elsewhere("a")
        },
        "says cluster west of mesh other",
    );
    other(elsewhere(""), "no key is configured");
    other(elsewhere("b"), "is sealed by key");

    let before = fs::read(west.store()).unwrap();
    assert!(refused(&west, &path, false).contains("there is a store at"));
    let running = store(&west);
    assert!(refused(&west, &path, true).contains("in use by another process"));
    drop(running);
    let restored = restore(&west, &path, true).unwrap();
    let aside = fs::read(restored.replaced.unwrap()).unwrap();
    assert_eq!(aside.len(), before.len());
    let found = store(&west).read(TABLE, b"a").unwrap();
    assert_eq!(found.as_deref(), Some(&b"a secret"[..]));

    let open = config(home, "west", "");
    let running = store(&open);
    let plain = backed_up(
        home,
        &Config {
            data: home.join("plain"),
            ..open.clone()
        },
    );
    assert!(refused(&open, &plain, true).contains("in use by another process"));
    drop(running);
    let no_backup = refused(&west, &open.store(), true);
    assert!(
        no_backup.contains("is a store and no backup"),
        "{no_backup}"
    );
}

#[test]
fn one_that_was_copied_by_hand_is_a_store_like_any_other() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let west = config(home, "west", "a");
    let path = backed_up(home, &west);
    fs::copy(&path, west.store()).unwrap();
    let again = backed_up(home, &west);
    assert!(read_backup(&again).is_ok());
    fs::copy(&again, west.store()).unwrap();
    // Everything is sealed anew.
    let west = Config {
        at_rest: config(home, "west", "ba").at_rest,
        ..west
    };
    let found = store(&west).read(TABLE, b"a").unwrap();
    assert_eq!(found.as_deref(), Some(&b"a secret"[..]));
}

#[test]
fn a_backup_that_was_changed_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = backed_up(home.path(), &config(home.path(), "west", ""));
    let whole = read_backup(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    let mut refused = 0;
    let damaged = home.path().join("damaged");
    for at in used.iter().step_by(used.len() / 100) {
        let mut changed = bytes.clone();
        changed[*at] ^= 1;
        fs::write(&damaged, changed).unwrap();
        match read_backup(&damaged) {
            Ok(info) => assert_eq!(info, whole, "a flip at {at} is not noticed"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
    for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&damaged, &bytes[..length]).unwrap();
        assert!(read_backup(&damaged).is_err(), "{length} bytes");
    }
    let value = bytes.windows(8).position(|window| window == b"a secret");
    let mut changed = bytes.clone();
    changed[value.unwrap()] = b'A';
    fs::write(&damaged, changed).unwrap();
    let found = read_backup(&damaged).unwrap_err().to_string();
    assert!(found.contains("digest"), "{found}");
}

#[test]
fn a_cluster_that_is_signed_in_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let west = config(home, "west", "");
    let path = backed_up(home, &west);
    let west = Config {
        data: home.join("anew"),
        ..west
    };
    let made = init(&west).unwrap();
    let key = isthmus_identity::MeshKey::found(&west.trust_domain, SystemTime::now()).unwrap();
    let request = fs::read_to_string(made.request).unwrap();
    let request = isthmus_identity::CertificateRequest::from_pem(&request).unwrap();
    let (now, lifetime) = (SystemTime::now(), isthmus_identity::CLUSTER_LIFETIME);
    let chain = key
        .sign_cluster(&request, &west.cluster, now, lifetime)
        .unwrap();
    fs::write(made.certificate, chain.to_pem()).unwrap();
    assert_eq!(restore(&west, &path, false).unwrap().unsigned, None);
}
