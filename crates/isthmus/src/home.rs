//! The home directory of a mesh on this machine: what is where, who may read it, who holds it.

use std::fs::{self, File};
use std::io::{self};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use isthmus_model::{ClusterName, MeshName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::config::Text;
pub(crate) use crate::disk::{make_directory, read_file, try_lock, write_file};
use crate::disk::{unreadable, unwritable};
use crate::failure::{Failure, Result};

/// A home directory. It may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

/// `mesh.json`: which mesh lives here and where its clusters answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshFile {
    /// Of this file; others are refused.
    pub(crate) format: u32,
    pub(crate) mesh: Text<MeshName>,
    pub(crate) trust_domain: Text<TrustDomain>,
    /// Second byte of the mesh's addresses, `127.<number>.<cluster>.<n>`; only where `up` runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<u8>,
    /// Directory that `up` was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<PathBuf>,
    /// In the order in which they are tried.
    pub(crate) clusters: Vec<Context>,
}

/// What all formats of `mesh.json` have in common.
#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
}

/// Where a cluster's API is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) name: Text<ClusterName>,
    pub(crate) api: std::net::SocketAddr,
}

/// The right to run the mesh of a home; given up when dropped or when the process ends.
#[derive(Debug)]
pub(crate) struct HomeLock(#[expect(dead_code, reason = "held, never read")] File);

/// The format of `mesh.json` that this version writes.
pub(crate) const MESH_FORMAT: u32 = 1;

impl Home {
    /// `wanted`, else `$XDG_STATE_HOME/isthmus`, else `~/.local/state/isthmus`.
    pub(crate) fn resolve(
        wanted: Option<PathBuf>,
        state_home: Option<PathBuf>,
        user_home: Option<PathBuf>,
    ) -> Result<Self> {
        let state = || state_home.filter(|path| path.is_absolute());
        let path = match wanted {
            Some(path) => path,
            None => state()
                .or_else(|| user_home.map(|home| home.join(".local/state")))
                .map(|state| state.join("isthmus"))
                .ok_or_else(|| {
                    Failure::usage("no-home", "no home directory is known")
                        .next("give one with --home DIR or ISTHMUS_HOME")
                })?,
        };
        let path = std::path::absolute(&path).map_err(|error| {
            Failure::usage("no-home", format!("{} is not a path", path.display())).caused_by(&error)
        })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    pub(crate) fn root_certificate(&self) -> PathBuf {
        self.0.join("ca/root.pem")
    }

    pub(crate) fn mesh_key(&self) -> PathBuf {
        self.0.join("ca/mesh.key")
    }

    /// Says where the mesh key is instead.
    pub(crate) fn mesh_key_file(&self) -> PathBuf {
        self.0.join("ca/mesh-key.yaml")
    }

    /// The root that is to take the place of the mesh's.
    pub(crate) fn next_root(&self) -> PathBuf {
        self.0.join("ca/next-root.pem")
    }

    /// The key that is to take the place of the mesh key.
    pub(crate) fn next_key(&self) -> PathBuf {
        self.0.join("ca/next.key")
    }

    /// Says where that is instead.
    pub(crate) fn next_key_file(&self) -> PathBuf {
        self.0.join("ca/next-key.yaml")
    }

    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.0.join("mesh.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("up.sock")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn generated(&self) -> PathBuf {
        self.0.join("generated")
    }

    /// The resources as `up` has completed them.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.generated().join("resources.yaml")
    }

    pub(crate) fn clusters(&self) -> PathBuf {
        self.0.join("clusters")
    }

    /// Claims of single addresses, by `run`.
    pub(crate) fn addresses(&self) -> PathBuf {
        self.0.join("addresses")
    }

    /// Makes the directory, readable by its owner only.
    pub(crate) fn create(&self) -> Result<()> {
        make_directory(&self.0)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
            .map_err(|error| unwritable(&self.0, &error))
    }

    /// `None`: somebody holds it.
    pub(crate) fn lock(&self) -> Result<Option<HomeLock>> {
        let path = self.lock_file();
        match try_lock(&path) {
            Ok(locked) => Ok(locked.map(HomeLock)),
            Err(error) => Err(unwritable(&path, &error)),
        }
    }

    /// The mesh that lives here; `None`: none yet.
    pub(crate) fn read_mesh(&self) -> Result<Option<MeshFile>> {
        let path = self.mesh_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let odd = |cause: String| {
            Failure::failed(
                "bad-mesh-file",
                format!("{} cannot be used", path.display()),
            )
            .cause(cause)
            .next("use the version of isthmus that wrote it, or another --home")
        };
        match serde_json::from_str::<Format>(&text) {
            Ok(Format { format }) if format != MESH_FORMAT => {
                return Err(odd(format!(
                    "its format is {format}, this version knows {MESH_FORMAT}"
                )));
            }
            _ => {}
        }
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| odd(error.to_string()))
    }

    pub(crate) fn write_mesh(&self, mesh: &MeshFile) -> Result<()> {
        write_file(&self.mesh_file(), &mesh.to_json())
    }
}

impl MeshFile {
    /// As the file has it, with a newline at its end.
    pub(crate) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("strings, numbers and lists are always JSON") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_the_given_one_or_follows_xdg() {
        let some = |text: &str| Some(PathBuf::from(text));
        for (wanted, state, user, expect) in [
            (some("/a"), some("/s"), some("/u"), Some("/a")),
            (None, some("/s"), some("/u"), Some("/s/isthmus")),
            (
                None,
                some("relative"),
                some("/u"),
                Some("/u/.local/state/isthmus"),
            ),
            (None, None, some("/u"), Some("/u/.local/state/isthmus")),
            (None, None, None, None),
        ] {
            let home = Home::resolve(wanted, state, user).ok();
            assert_eq!(home.as_ref().map(Home::path), expect.map(Path::new));
        }
    }

    #[test]
    fn a_home_is_private_and_held_once() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home(directory.path().join("home"));
        home.create().unwrap();
        let mode = fs::metadata(home.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let lock = home.lock().unwrap();
        assert!(lock.is_some());
        assert!(home.lock().unwrap().is_none());
        drop(lock);
        assert!(home.lock().unwrap().is_some());
    }

    #[test]
    fn a_mesh_file_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home(directory.path().to_owned());
        assert_eq!(home.read_mesh().unwrap(), None);
        let mesh = MeshFile {
            format: MESH_FORMAT,
            mesh: Text("shop".parse().unwrap()),
            trust_domain: Text("shop.example".parse().unwrap()),
            number: Some(7),
            source: None,
            clusters: vec![],
        };
        home.write_mesh(&mesh).unwrap();
        assert_eq!(home.read_mesh().unwrap(), Some(mesh));
        for (text, expect) in [
            ("{\"format\": 2, \"new\": 1}", "its format is 2"),
            ("{", "EOF"),
            ("{\"format\": 1, \"clusters\": 3}", "invalid type"),
        ] {
            fs::write(home.mesh_file(), text).unwrap();
            let failure = home.read_mesh().unwrap_err();
            assert!(failure.causes[0].contains(expect), "{failure:?}");
        }
    }
}
