//! `make programs`: programs that know nothing of a mesh, carried through one. PostgreSQL and Redis in
//! another cluster, and an etcd whose three members are in three clusters.
//!
//! A line per promise; exit 1 if any is broken. Nothing here is about time.

mod etcd;
mod postgres;
mod redis;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use isthmus_lab::mesh::{Mesh, Said, run};
use isthmus_lab::trouble::{During, Result, ensure};

/// What is promised, and how it is tried.
type Promise = (&'static str, fn(&Scene) -> Result<String>);

const PROMISES: [Promise; 9] = [
    (
        "postgres: pgbench makes and runs its tables",
        postgres::bench,
    ),
    (
        "postgres: large COPY both ways, byte for byte",
        postgres::copy,
    ),
    ("postgres: Ctrl-C cancels a query", postgres::cancel),
    ("redis: redis-benchmark, pipelined", redis::bench),
    ("redis: publish and subscribe", redis::publish),
    ("etcd: three clusters make a quorum", etcd::quorum),
    ("etcd: a client by a local port of its proxy", etcd::client),
    ("etcd: writes go on without one cluster", etcd::loss),
    (
        "etcd: the cluster that was lost catches up",
        etcd::catches_up,
    ),
];

/// A mesh with the programs in it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    /// Their data.
    pub(crate) folder: PathBuf,
}

fn main() -> ExitCode {
    match all() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(broken) => {
            println!("{broken} broken");
            ExitCode::FAILURE
        }
        Err(trouble) => {
            println!("MISS  it could not be tried: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Result<usize> {
    let scene = Scene::start()?;
    let mut broken = 0;
    for (promise, kept) in PROMISES {
        match kept(&scene) {
            Ok(how) => println!("ok    {promise}: {how}"),
            Err(trouble) => {
                broken += 1;
                println!("MISS  {promise}: {trouble}");
            }
        }
    }
    let Scene { mesh, folder } = scene;
    if broken == 0 {
        mesh.pass();
    } else {
        drop(mesh);
    }
    // Nothing but what was made here is in it.
    let _ = fs::remove_dir_all(folder);
    Ok(broken)
}

impl Scene {
    fn start() -> Result<Self> {
        let own =
            std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/programs/mesh");
        let mut mesh = Mesh::of(&own.with_file_name("isthmus"), &files)?;
        let folder = std::env::temp_dir().join(format!("isthmus-programs-{}", std::process::id()));
        fs::create_dir_all(&folder).during(|| folder.display().to_string())?;
        postgres::prepare(&folder)?;
        mesh.edit("up.yaml", "PROGRAMS", &folder.display().to_string())?;
        mesh.up(&[])?;
        Ok(Self { mesh, folder })
    }

    /// A local port of the program in west.
    pub(crate) fn local(&self, port: u16) -> Result<SocketAddr> {
        Ok((self.mesh.address("west", "etcd-west-1")?, port).into())
    }
}

/// Runs a program to its end, which must be good.
pub(crate) fn succeed(command: &mut Command) -> Result<Said> {
    let said = run(command)?;
    ensure(said.code == Some(0), || {
        format!("{command:?} ended with {said:?}")
    })?;
    Ok(said)
}
