//! PostgreSQL: the server speaks first after the client's greeting, long transfers, and a cancel that
//! comes on a connection of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isthmus_lab::mesh::PATIENCE;
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, trouble, wait_for};

use super::{Scene, succeed};

const PORT: u16 = 5432;
/// Rows of a thousand bytes and more.
const ROWS: usize = 100_000;

/// PostgreSQL refuses to run as root: then it runs as the user that its package has made.
fn user() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &[
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
        ]
    } else {
        &[]
    }
}

/// Where Debian has the programs of the newest version.
fn programs() -> Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let entries = fs::read_dir(root).during(|| "PostgreSQL: run `make programs`".to_owned())?;
    let mut versions: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    let newest = versions.pop();
    newest
        .map(|newest| newest.join("bin"))
        .ok_or_else(|| Trouble("PostgreSQL is missing: run `make programs`".to_owned()))
}

/// Makes an empty database, and a script that serves it at an address and port.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let data = folder.join("postgres-data");
    fs::create_dir_all(&data).during(|| data.display().to_string())?;
    let mut user = user().to_vec();
    if !user.is_empty() {
        succeed(Command::new("chown").arg("postgres:").arg(&data))?;
    }
    let programs = programs()?;
    let initdb = programs.join("initdb").display().to_string();
    let place = data.display().to_string();
    let script = format!(
        "exec {} {} -D {place} -h \"$1\" -p \"$2\" -c unix_socket_directories= -c fsync=off\n",
        user.join(" "),
        programs.join("postgres").display(),
    );
    let path = folder.join("postgres");
    fs::write(&path, script).during(|| path.display().to_string())?;
    user.extend([
        initdb.as_str(),
        "--auth=trust",
        "--username=postgres",
        "-D",
        &place,
    ]);
    succeed(Command::new(user[0]).args(&user[1..]).current_dir("/")).map(drop)
}

/// A client in west; the server is in east.
fn client(scene: &Scene, program: &str) -> Result<Command> {
    let local = scene.local(PORT)?;
    let mut command = Command::new(program);
    command
        .args(["-h", &local.ip().to_string(), "-p", &PORT.to_string()])
        .args(["-U", "postgres"]);
    Ok(command)
}

fn psql(scene: &Scene, statement: &str) -> Result<String> {
    let mut command = client(scene, "psql")?;
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
    Ok(succeed(&mut command)?.out.trim().to_owned())
}

pub(crate) fn bench(scene: &Scene) -> Result<String> {
    wait_for("the server to answer", PATIENCE, || psql(scene, "select 1"))?;
    succeed(client(scene, "pgbench")?.args(["-i", "-q", "-s", "2", "postgres"]))?;
    let run = ["-c", "8", "-j", "2", "-t", "100", "postgres"];
    let said = succeed(client(scene, "pgbench")?.args(run))?;
    ensure(said.out.contains("processed: 800/800"), || said.out.clone())?;
    let failed = "number of failed transactions: 0 ";
    ensure(said.out.contains(failed), || said.out.clone())?;
    Ok("800 transactions of 8 clients, none failed".to_owned())
}

pub(crate) fn copy(scene: &Scene) -> Result<String> {
    let rows = format!(
        "create table long as select i, repeat(md5(i::text), 32) as words \
         from generate_series(1, {ROWS}) i"
    );
    psql(scene, &rows)?;
    let file = scene.folder.join("long.copy").display().to_string();
    psql(scene, &format!("\\copy long to '{file}'"))?;
    let length = fs::metadata(&file).during(|| file.clone())?.len();
    psql(scene, "create table back (like long)")?;
    psql(scene, &format!("\\copy back from '{file}'"))?;
    let differ = "select count(*) from (table long except table back) x";
    let found = (
        psql(scene, differ)?,
        psql(scene, "select count(*) from back")?,
    );
    ensure(found == ("0".to_owned(), ROWS.to_string()), || {
        format!("{found:?}")
    })?;
    Ok(format!("{} MB each way", length / 1_000_000))
}

pub(crate) fn cancel(scene: &Scene) -> Result<String> {
    const SLEEP: &str = "select pg_sleep(600)";
    let mut command = client(scene, "psql")?;
    command.args(["-X", "-c", SLEEP]).stderr(Stdio::piped());
    let child = command.spawn().during(|| "psql".to_owned())?;
    let process = Process::with_id(child.id())?;
    let running = "select count(*) from pg_stat_activity \
                   where state = 'active' and query = 'select pg_sleep(600)'";
    let begun = wait_for("the query to run", PATIENCE, || {
        let count = psql(scene, running)?;
        ensure(count == "1", || count)
    });
    let interrupted = begun.and_then(|()| process.interrupt());
    let gone = interrupted.and_then(|()| {
        wait_for("the query to end", PATIENCE, || {
            let count = psql(scene, running)?;
            ensure(count == "0", || count)
        })
    });
    if gone.is_err() {
        // It would sleep on; what went wrong is told below.
        let _ = process.kill();
    }
    let output = child.wait_with_output().during(|| "psql".to_owned())?;
    gone?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("canceling statement due to user request") {
        Ok("the server has heard it".to_owned())
    } else {
        trouble(said)
    }
}
