//! The mesh key: in the home of those who run the mesh, or where that home says. It is read when something is
//! to be signed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use isthmus_control::KeySource;
use isthmus_identity::MeshKey;
use isthmus_model::TrustDomain;
use serde_json::json;

use crate::config::{self, KeyEntry, MeshKeyFile};
use crate::disk::unwritable;
use crate::failure::{Failure, Result};
use crate::home::{self, Home};
use crate::output;
use crate::setting::Setting;

/// `isthmus mesh key`.
pub(crate) fn key(setting: &Setting, entry: KeyEntry) -> Result<ExitCode> {
    let home = &setting.home;
    let is_asked = entry.file.is_none() && entry.env.is_none() && entry.command.is_none();
    let mut left = None;
    if !is_asked {
        let entry = KeyEntry {
            file: entry.file.map(|path| absolute(&path)).transpose()?,
            ..entry
        };
        let file = MeshKeyFile { key: entry };
        let path = home.mesh_key_file();
        let text = config::to_yaml(&file);
        let source = config::parse::<MeshKeyFile>(&path, &text)?.source(&path);
        from(&source, home)?;
        home::write_file(&path, &text)?;
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        let is_in_home = match &source {
            KeySource::File(path) => real(path) == real(&home.mesh_key()),
            _ => false,
        };
        left = Some(home.mesh_key()).filter(|key| !is_in_home && key.exists());
    }
    let source = source(home)?;
    from(&source, home)?;
    let text = match setting.format {
        Some(format) => output::structured(&json!({"key": source.to_string()}), format),
        None => format!("the mesh key is read from {source}\n"),
    };
    output::print(&text)?;
    if let Some(left) = left {
        eprintln!(
            "{} is not needed any more, unless it is where the other one comes from: delete it when that is safe",
            left.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Does this home know of a mesh key?
pub(crate) fn is_known(home: &Home) -> bool {
    home.mesh_key_file().exists() || home.mesh_key().exists()
}

/// Errors: it is not there, or not the key of the root in this home.
pub(crate) fn read(home: &Home) -> Result<MeshKey> {
    from(&source(home)?, home)
}

/// The key that is to take its place; `None`: none is.
///
/// Errors: it is not there, or not the key of the next root.
pub(crate) fn next(home: &Home) -> Result<Option<MeshKey>> {
    let root = home.next_root();
    if !root.exists() {
        return Ok(None);
    }
    // It may be in its place already, the rest not yet.
    let source = match source_at(&home.next_key_file(), home.next_key())? {
        KeySource::File(path) if path == home.next_key() && !path.exists() => source(home)?,
        source => source,
    };
    key_of(&source, &root, home).map(Some)
}

/// The same, made if there is none: with the key at `key_file`, if that is named. From then on the home trusts
/// both roots.
pub(crate) fn make_next(home: &Home, key_file: Option<&Path>) -> Result<MeshKey> {
    if let Some(next) = next(home)? {
        trust(home, &[&read(home)?, &next])?;
        return Ok(next);
    }
    if key_file.is_none() && home.mesh_key_file().exists() {
        let what = "the mesh key is kept outside of this home, and so should be the next one";
        return Err(Failure::usage("no-key-file", what)
            .next("say with --key-file FILE where it is to be written"));
    }
    let present = read(home)?;
    let next = MeshKey::found(present.bundle().trust_domain(), SystemTime::now());
    let next = next.map_err(|error| {
        Failure::failed("no-next-key", "the next mesh key cannot be made").caused_by(&error)
    })?;
    if let Some(path) = key_file {
        let path = absolute(path)?;
        if path.exists() {
            let what = format!("{} exists, and may be a key", path.display());
            return Err(Failure::failed("key-exists", what).next("name another --key-file"));
        }
        home::write_file(&path, &next.key_pem())?;
        home::write_file(&home.next_key_file(), &entry_of(path))?;
    } else {
        // Of one that was begun and given up.
        remove(&home.next_key_file())?;
        home::write_file(&home.next_key(), &next.key_pem())?;
    }
    home::write_file(&home.next_root(), &next.root_pem())?;
    trust(home, &[&present, &next])?;
    Ok(next)
}

/// The next key takes its place; both roots are trusted still. Gives where the old key is, if that is elsewhere.
pub(crate) fn succeed(home: &Home) -> Result<Option<KeySource>> {
    let elsewhere = home.next_key_file();
    let (old, new) = (source(home)?, source_at(&elsewhere, home.next_key())?);
    if elsewhere.exists() {
        home::write_file(&home.mesh_key_file(), &home::read_file(&elsewhere)?)?;
        remove(&home.mesh_key())?;
        remove(&elsewhere)?;
    } else if home.next_key().exists() {
        remove(&home.mesh_key_file())?;
        let moved = std::fs::rename(home.next_key(), home.mesh_key());
        moved.map_err(|error| unwritable(&home.mesh_key(), &error))?;
    } else {
        return Ok(None);
    }
    let is_left = old != new && old != KeySource::File(home.mesh_key());
    Ok(Some(old).filter(|_| is_left))
}

/// Its root is the only one from now on.
pub(crate) fn settle(home: &Home) -> Result<()> {
    trust(home, &[&read(home)?])?;
    remove(&home.next_root())
}

/// No other key is to take the place of the mesh key. Gives where the one is still that was to, if that is elsewhere.
pub(crate) fn forget_next(home: &Home) -> Result<Option<KeySource>> {
    trust(home, &[&read(home)?])?;
    let elsewhere = home.next_key_file();
    let left = elsewhere
        .exists()
        .then(|| source_at(&elsewhere, home.next_key()));
    let left = left.transpose()?;
    remove(&home.next_root())?;
    remove(&elsewhere)?;
    remove(&home.next_key())?;
    Ok(left)
}

/// The home trusts the roots of these keys.
fn trust(home: &Home, keys: &[&MeshKey]) -> Result<()> {
    let roots: String = keys.iter().map(|key| key.root_pem()).collect();
    let path = home.root_certificate();
    if home::read_file(&path)? == roots {
        return Ok(());
    }
    home::write_file(&path, &roots)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("{} cannot be removed", path.display());
            Err(Failure::failed("not-removed", what).caused_by(&error))
        }
        _ => Ok(()),
    }
}

fn entry_of(path: PathBuf) -> String {
    let key = KeyEntry {
        file: Some(path),
        env: None,
        command: None,
    };
    config::to_yaml(&MeshKeyFile { key })
}

/// Makes the mesh key and root, with the key at `key_file` if that is named. Gives where the key is.
pub(crate) fn make(
    home: &Home,
    trust_domain: &TrustDomain,
    key_file: Option<&Path>,
) -> Result<PathBuf> {
    let path = match key_file {
        Some(path) => absolute(path)?,
        None => home.mesh_key(),
    };
    if path.exists() {
        let what = format!("{} exists, and may be the key of a mesh", path.display());
        return Err(Failure::failed("mesh-exists", what).next("name another file with --key-file"));
    }
    // Wherever its key is, there is a mesh, and this is what its clusters are known by.
    let root = home.root_certificate();
    if root.exists() {
        let what = format!(
            "{} is the root of a mesh, whose key this home does not have",
            root.display()
        );
        return Err(Failure::failed("mesh-exists", what).next(
            "say where the key is with `isthmus mesh key --file FILE`, or found another mesh in another home",
        ));
    }
    if key_file.is_some() && !path.parent().is_some_and(Path::is_dir) {
        let what = format!("there is no directory for {}", path.display());
        return Err(Failure::failed("not-founded", what).next("make it, or mount its disk"));
    }
    let key = MeshKey::found(trust_domain, SystemTime::now()).map_err(|error| {
        Failure::failed("not-founded", "the mesh key cannot be made").caused_by(&error)
    })?;
    home::write_file(&path, &key.key_pem())?;
    if path != home.mesh_key() {
        home::write_file(&home.mesh_key_file(), &entry_of(path.clone()))?;
    }
    // The root comes last: where it is, everything is. A key without one is of no mesh yet.
    home::write_file(&root, &key.root_pem())?;
    Ok(path)
}

fn source(home: &Home) -> Result<KeySource> {
    source_at(&home.mesh_key_file(), home.mesh_key())
}

/// What the file at `path` says, else `usual`.
fn source_at(path: &Path, usual: PathBuf) -> Result<KeySource> {
    if path.exists() {
        return Ok(config::read::<MeshKeyFile>(path)?.source(path));
    }
    Ok(KeySource::File(usual))
}

/// Errors: it is not there, or not the key of the root in this home.
fn from(source: &KeySource, home: &Home) -> Result<MeshKey> {
    key_of(source, &home.root_certificate(), home)
}

/// Errors: it is not there, or not the key of the root at `root`.
fn key_of(source: &KeySource, root: &Path, home: &Home) -> Result<MeshKey> {
    let unread = |cause: &dyn std::error::Error| {
        let failure = Failure::failed("no-mesh-key", "the mesh key cannot be read");
        failure
            .caused_by(cause)
            .next(if home.root_certificate().exists() {
                "`isthmus mesh key` says where it is looked for, and sets it"
            } else {
                "a mesh is founded with `isthmus mesh found`"
            })
    };
    let text = source.text().map_err(|error| unread(&error))?;
    let pem = std::str::from_utf8(&text).map_err(|error| unread(&error))?;
    let root_pem = home::read_file(root)?;
    MeshKey::from_pem(pem, &root_pem).map_err(|error| {
        let what = format!(
            "{source} holds no key of the mesh whose root is {}",
            root.display()
        );
        Failure::failed("bad-mesh-key", what).caused_by(&error)
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage("bad-path", format!("{} is not a path", path.display())).caused_by(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(folder: &Path, name: &str) -> Home {
        Home::resolve(Some(folder.join(name)), None, None).unwrap()
    }

    fn setting(home: &Home) -> Setting {
        Setting {
            origin: None,
            home: home.clone(),
            usual_home: false,
            cluster: None,
            namespace: "default".parse().unwrap(),
            format: None,
            color: false,
        }
    }

    fn nowhere() -> KeyEntry {
        KeyEntry {
            file: None,
            env: None,
            command: None,
        }
    }

    #[test]
    fn a_key_that_lies_elsewhere_signs_and_no_other_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let domain = "shop.example".parse().unwrap();
        let (mine, other) = (home(folder, "mine"), home(folder, "other"));
        let away = folder.join("away/mesh.key");
        let failure = make(&mine, &domain, Some(&away)).unwrap_err();
        assert!(failure.what.contains("no directory"), "{failure:?}");
        std::fs::create_dir(folder.join("away")).unwrap();
        assert_eq!(make(&mine, &domain, Some(&away)).unwrap(), away);
        assert!(is_known(&mine) && !mine.mesh_key().exists());
        read(&mine).unwrap();
        make(&other, &domain, None).unwrap();
        let again = make(&home(folder, "third"), &domain, Some(&away));
        assert_eq!(again.unwrap_err().code, "mesh-exists");

        // A disk that is taken out.
        let kept = std::fs::read_to_string(&away).unwrap();
        std::fs::remove_file(&away).unwrap();
        let failure = read(&mine).err().unwrap();
        assert_eq!(failure.code, "no-mesh-key");
        assert!(failure.causes[0].contains("away/mesh.key"), "{failure:?}");
        assert!(is_known(&mine), "nobody founds another one");
        std::fs::remove_file(mine.mesh_key_file()).unwrap();
        for key_file in [None, Some(away.as_path())] {
            let again = make(&mine, &domain, key_file);
            assert_eq!(again.unwrap_err().code, "mesh-exists", "the root is there");
        }

        let safe = folder.join("safe");
        std::fs::write(&safe, kept).unwrap();
        let by_command = |path: &Path| KeyEntry {
            command: Some(vec!["cat".to_owned(), path.display().to_string()]),
            ..nowhere()
        };
        let wrong = key(&setting(&mine), by_command(&other.mesh_key()));
        assert_eq!(wrong.unwrap_err().code, "bad-mesh-key");
        assert_eq!(read(&mine).err().unwrap().code, "no-mesh-key", "as before");
        key(&setting(&mine), by_command(&safe)).unwrap();
        read(&mine).unwrap();
        key(&setting(&mine), nowhere()).unwrap();
        let nothing = key(
            &setting(&other),
            KeyEntry {
                command: Some(Vec::new()),
                ..nowhere()
            },
        );
        assert_eq!(nothing.unwrap_err().code, "bad-config");
        read(&other).unwrap();
    }

    #[test]
    fn the_next_key_takes_over_however_it_is_interrupted_or_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mine = home(folder.path(), "mine");
        make(&mine, &"shop.example".parse().unwrap(), None).unwrap();
        let first = read(&mine).unwrap().root_pem();
        let roots = || home::read_file(&mine.root_certificate()).unwrap();
        assert!(next(&mine).unwrap().is_none());
        assert_eq!(succeed(&mine).unwrap(), None, "there is nothing to do");
        let given_up = make_next(&mine, None).unwrap().root_pem();
        assert_eq!(roots(), format!("{first}{given_up}"));
        assert_eq!(read(&mine).unwrap().root_pem(), first, "still");
        assert_eq!(forget_next(&mine).unwrap(), None);
        assert!(next(&mine).unwrap().is_none() && !mine.next_key().exists());
        assert_eq!(roots(), first);

        let second = make_next(&mine, None).unwrap().root_pem();
        assert_ne!(second, given_up);
        // Interrupted before the home trusted both.
        home::write_file(&mine.root_certificate(), &first).unwrap();
        let again = make_next(&mine, None).unwrap();
        assert_eq!(
            (again.root_pem(), roots()),
            (second.clone(), format!("{first}{second}"))
        );
        // Interrupted when only the key was in its place.
        std::fs::rename(mine.next_key(), mine.mesh_key()).unwrap();
        assert_eq!(next(&mine).unwrap().unwrap().root_pem(), second);
        assert_eq!(succeed(&mine).unwrap(), None);
        assert_eq!(read(&mine).unwrap().root_pem(), second);
        assert_eq!(roots(), format!("{first}{second}"), "still");
        settle(&mine).unwrap();
        assert_eq!(roots(), second);
        assert!(next(&mine).unwrap().is_none() && !mine.next_root().exists());
    }

    #[test]
    fn a_key_that_lies_elsewhere_has_its_successor_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mine = home(folder, "mine");
        let places = ["one", "two", "three"].map(|name| folder.join(name));
        make(&mine, &"shop.example".parse().unwrap(), Some(&places[0])).unwrap();
        let failure = make_next(&mine, None).err().unwrap();
        assert_eq!(failure.code, "no-key-file");
        let failure = make_next(&mine, Some(&places[0])).err().unwrap();
        assert_eq!(failure.code, "key-exists");
        let second = make_next(&mine, Some(&places[1])).unwrap().root_pem();
        let old = KeySource::File(places[0].clone());
        assert_eq!(
            succeed(&mine).unwrap(),
            Some(old),
            "it is not ours to delete"
        );
        assert_eq!(next(&mine).unwrap().unwrap().root_pem(), second);
        settle(&mine).unwrap();
        assert_eq!(read(&mine).unwrap().root_pem(), second);
        assert_eq!(source(&mine).unwrap(), KeySource::File(places[1].clone()));
        make_next(&mine, Some(&places[2])).unwrap();
        let left = forget_next(&mine).unwrap();
        assert_eq!(left, Some(KeySource::File(places[2].clone())));
        assert_eq!(read(&mine).unwrap().root_pem(), second);
    }
}
