//! `isthmus up` and `isthmus down`: a whole mesh on this machine.
//!
//! `up.yaml` and the resource files become a [`plan`], a value that `--dry-run` prints; the
//! [`supervisor`] carries it out with public commands only. What is decided stands in pure modules
//! ([`fleet`], [`readiness`], [`screen`]); what is done in the others.

mod children;
mod declared;
mod event;
mod files;
mod fleet;
mod layout;
mod metrics;
mod plan;
mod planned;
mod prepare;
mod readiness;
mod restart;
mod screen;
pub(crate) mod socket;
mod start;
mod supervisor;
mod watch;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use isthmus_lab::relay::Relay;

use crate::api_client::Credentials;
use crate::args::{DownArgs, UpArgs};
use crate::failure::{Failure, Result};
use crate::home::{Home, HomeLock, read_file};
use crate::output;
use crate::setting::{Setting, block_on, runtime};
pub(crate) use plan::GUESTS;
pub(crate) use planned::{CONTROL_PORT, MESH_PORT, OUTBOUND_PORT};
use socket::{Reply, Request, UpStatus};

use self::children::Nursery;
use self::supervisor::{Charge, supervise};

/// How long `up --detach` waits for the mesh to be ready, and `down` for it to be gone.
const PATIENCE: Duration = Duration::from_mins(1);
const AGAIN: Duration = Duration::from_millis(50);
/// How often `up --detach` says what it waits for, if that has changed.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Last lines of a background `up` that are told when it fails.
const LINES_TOLD: usize = 8;

pub(crate) fn up(setting: &Setting, args: &UpArgs) -> Result<ExitCode> {
    let home = &setting.home;
    if args.dry_run {
        let prepared = prepare::plan(home, args)?;
        output::print(&prepare::describe(home, &prepared))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.detach {
        return detach(setting, args);
    }
    if args.background {
        rustix::process::setsid().map_err(|error| {
            Failure::failed("no-session", "no session of its own can be had").caused_by(&error)
        })?;
    }
    home.create()?;
    let lock = hold(home)?;
    let prepared = prepare::plan(home, args)?;
    prepare::check_addresses(&prepared.plan)?;
    prepare::write(home, &prepared)?;
    let relay = Relay::bind(prepared.plan.links.clone())
        .and_then(Relay::spawn)
        .map_err(|error| {
            Failure::failed("no-relay", "the links between clusters cannot be set up")
                .caused_by(&error)
        })?;
    let charge = Charge {
        home: home.clone(),
        usual_home: setting.usual_home,
        credentials: Credentials::read(home)?,
        nursery: Nursery::new(home, binary()?),
        relay,
        apply: args.apply,
    };
    let outcome = runtime()?.block_on(supervise(charge, prepared.plan));
    drop(lock);
    outcome
}

/// The lock of the home, or who has it.
fn hold(home: &Home) -> Result<HomeLock> {
    if let Some(lock) = home.lock()? {
        return Ok(lock);
    }
    let status = block_status(home);
    let what = match status {
        Some(status) => format!(
            "a mesh runs in {} already (process {})",
            home.path().display(),
            status.pid
        ),
        None => format!(
            "a mesh starts or stops in {} already",
            home.path().display()
        ),
    };
    Err(Failure::failed("already-running", what)
        .next("look with `isthmus status`, stop it with `isthmus down`, or use another --home"))
}

fn binary() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| {
        Failure::failed("no-binary", "the program's own file cannot be found").caused_by(&error)
    })
}

/// How far a running `up` is; `None`: none answers.
fn block_status(home: &Home) -> Option<UpStatus> {
    let asked = runtime()
        .ok()?
        .block_on(socket::ask(&home.socket(), &Request::Status));
    match asked {
        Ok(Reply::Status(status)) => Some(status),
        _ => None,
    }
}

/// Starts this command again in the background and waits until the mesh is ready.
fn detach(setting: &Setting, args: &UpArgs) -> Result<ExitCode> {
    let home = &setting.home;
    home.create()?;
    drop(hold(home)?);
    // Mistakes in files are told here, not in a log.
    prepare::plan(home, args)?;
    let log = home.logs().join("up.log");
    let failed = |error: &io::Error| {
        Failure::failed("not-detached", "`up` cannot be started in the background").caused_by(error)
    };
    crate::home::make_directory(&home.logs())?;
    let output = fs::File::create(&log).map_err(|error| failed(&error))?;
    let errors = output.try_clone().map_err(|error| failed(&error))?;
    let mut command = Command::new(binary()?);
    command
        .arg("--home")
        .arg(home.path())
        .args(["up", "--background"]);
    if let Some(directory) = &args.directory {
        command.arg("-f").arg(directory);
    }
    command.args(args.apply.then_some("--apply"));
    command.args(args.quiet.then_some("--quiet"));
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let last_lines = || {
        let said = read_file(&log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
    };
    let began = Instant::now();
    let mut told = (began, String::new());
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(Failure::failed("not-started", "the mesh was not started")
                .cause(last_lines())
                .next(format!("all that was said is in {}", log.display())));
        }
        let status = block_status(home);
        if let Some(status) = status.as_ref().filter(|status| status.ready) {
            for remark in &status.remarks {
                output::print(&format!("{remark}\n"))?;
            }
            output::print("ready; `isthmus down` stops it\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        let waiting = status.map(|status| status.waiting).unwrap_or_default();
        if began.elapsed() >= PATIENCE {
            let mut failure = Failure::failed("not-ready", "the mesh runs, but is not ready");
            failure.causes = waiting;
            return Err(failure
                .cause(last_lines())
                .next(format!("see {} and `isthmus status`", log.display())));
        }
        let now = screen::waiting(&waiting);
        if !waiting.is_empty() && told.0.elapsed() >= TELL_EVERY && told.1 != now {
            eprintln!("{now}");
            told = (Instant::now(), now);
        }
        std::thread::sleep(AGAIN);
    }
}

pub(crate) fn down(setting: &Setting, args: &DownArgs) -> Result<ExitCode> {
    let home = &setting.home;
    if !home.path().exists() {
        output::print(&format!("there is no mesh in {}\n", home.path().display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.purge && !args.yes {
        confirm(home)?;
    }
    let lock = match home.lock()? {
        Some(lock) => {
            output::print("nothing runs here\n")?;
            lock
        }
        None => stop(home)?,
    };
    if args.purge {
        purge(home)?;
        output::print(&format!("{} is empty\n", home.path().display()))?;
    }
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

fn stop(home: &Home) -> Result<HomeLock> {
    let asked = block_on(async {
        let asked = socket::ask(&home.socket(), &Request::Down).await;
        asked.map(|_| ExitCode::SUCCESS).map_err(|error| {
            Failure::failed(
                "up-silent",
                format!("the `up` of {} does not answer", home.path().display()),
            )
            .caused_by(&error)
        })
    });
    asked?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = home.lock()? {
            output::print("stopped\n")?;
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed("not-stopped", "the mesh has not stopped")
                .cause(format!("it still runs after {} s", PATIENCE.as_secs()))
                .next("kill the process that `isthmus up` names when it is started again"));
        }
        std::thread::sleep(AGAIN);
    }
}

fn confirm(home: &Home) -> Result<()> {
    let refuse = |what: &str| Failure::usage("not-confirmed", what.to_owned());
    if !io::stdin().is_terminal() {
        return Err(refuse("--purge removes the mesh's keys and store").next("say so with --yes"));
    }
    let question = format!(
        "Remove the keys, store, tokens and logs of the mesh in {}? [y/N] ",
        home.path().display()
    );
    output::print(&question)?;
    let _ = io::stdout().flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        Ok(())
    } else {
        Err(refuse("nothing was removed"))
    }
}

/// Removes what `up` and its processes have made, and nothing else.
fn purge(home: &Home) -> Result<()> {
    let directories = [
        home.clusters(),
        home.logs(),
        home.generated(),
        home.addresses(),
        ca(home),
    ];
    let files = [home.mesh_file(), home.token(), home.socket()];
    let gone = |path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::failed(
            "not-purged",
            format!("{} cannot be removed", path.display()),
        )
        .caused_by(&error)),
        _ => Ok(()),
    };
    for path in &directories {
        gone(path, fs::remove_dir_all(path))?;
    }
    for path in &files {
        gone(path, fs::remove_file(path))?;
    }
    Ok(())
}

fn ca(home: &Home) -> PathBuf {
    home.path().join("ca")
}
