//! Who serves for a proxy or gateway: the process that was started, or a successor that it has
//! started in its turn, with the program file and the configuration of that moment.
//!
//! The process that was started stays as long as the service does, under the same process id, so
//! that supervisors and programs beside it notice nothing; once it has a successor it only watches,
//! passes signals on, and starts the next. A successor that fails changes nothing.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use isthmus_proxy::{Handover, Running, Sockets, Word};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::failure::{Failure, Result};
use crate::programs;

/// How long a successor may take until it could serve.
const TRIAL_LIMIT: Duration = Duration::from_mins(1);
/// How long a process may take to fall silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// What a process that drains may take beyond its limit before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How a successor is started.
#[derive(Debug, Clone)]
pub(crate) struct Relaunch {
    /// Where this release's file was: what stands there now is the successor's.
    binary: PathBuf,
    arguments: Vec<OsString>,
}

/// The service of one proxy or gateway.
#[derive(Debug)]
pub(crate) struct Service {
    relaunch: Relaunch,
    /// How long connections of an earlier process may go on.
    drain_limit: Duration,
    present: Present,
    trial: Option<JoinHandle<Result<Successor>>>,
    /// Asked for while `trial` was under way.
    another: bool,
    /// Processes that have a successor, until they have drained.
    earlier: JoinSet<()>,
}

/// Who accepts connections now.
#[derive(Debug)]
enum Present {
    Own(Running),
    Successor(Successor),
    /// It has ended.
    Nobody,
}

/// A process that this one has started to serve in its place.
#[derive(Debug)]
pub(crate) struct Successor {
    child: Child,
    handover: Handover,
    /// What it listens on, for the next one.
    sockets: Sockets,
}

/// What happens by itself.
#[derive(Debug)]
pub(crate) enum Happening {
    Tried(Box<Result<Successor>>),
    /// The process that served has ended.
    Ended(io::Result<ExitStatus>),
}

impl Relaunch {
    /// Of this process, as `command -c config`.
    pub(crate) fn of(command: &str, config: &Path) -> Result<Self> {
        let binary = programs::isthmus()?;
        let parent = std::process::id().to_string();
        let [bind, command, take_over, flag] =
            ["--die-with-parent", command, "--take-over", "-c"].map(OsString::from);
        Ok(Self {
            binary,
            arguments: vec![bind, parent.into(), command, take_over, flag, config.into()],
        })
    }
}

impl Service {
    pub(crate) fn new(running: Running, relaunch: Relaunch, drain_limit: Duration) -> Self {
        Self {
            relaunch,
            drain_limit,
            present: Present::Own(running),
            trial: None,
            another: false,
            earlier: JoinSet::new(),
        }
    }

    /// Starts a successor. [`Service::next`] tells what became of it.
    pub(crate) fn restart(&mut self) {
        if self.trial.is_some() {
            // What the operator has changed since may not be what that one has read.
            tracing::info!("a new process is being started already; another one follows it");
            self.another = true;
            return;
        }
        let sockets = match &self.present {
            Present::Own(running) => running.sockets(),
            Present::Successor(successor) => successor.sockets.share(),
            Present::Nobody => return,
        };
        match sockets {
            Ok(sockets) => {
                tracing::info!("a new process is started to take over");
                let relaunch = self.relaunch.clone();
                self.trial = Some(tokio::spawn(Successor::start(relaunch, sockets)));
            }
            Err(error) => tracing::error!(%error, "no new process: the sockets cannot be shared"),
        }
    }

    /// What happens next. Nothing is lost when it is dropped before.
    pub(crate) async fn next(&mut self) -> Happening {
        let ended = async {
            match &mut self.present {
                Present::Successor(successor) => successor.child.wait().await,
                Present::Own(_) | Present::Nobody => std::future::pending().await,
            }
        };
        let tried = async {
            match &mut self.trial {
                Some(trial) => trial.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = ended => {
                self.present = Present::Nobody;
                Happening::Ended(status)
            }
            tried = tried => {
                self.trial = None;
                Happening::Tried(Box::new(
                    tried.unwrap_or_else(|error| Err(cannot("start it", &error))),
                ))
            }
            Some(_) = self.earlier.join_next() => Box::pin(self.next()).await,
        }
    }

    /// Leaves the service to a successor, if there is one.
    pub(crate) async fn hand_over(&mut self, tried: Result<Successor>) {
        self.succeed(tried).await;
        if std::mem::take(&mut self.another) {
            self.restart();
        }
    }

    async fn succeed(&mut self, tried: Result<Successor>) {
        let successor = match tried {
            Ok(successor) => successor,
            Err(failure) => {
                let Failure { code, what, .. } = failure;
                let (causes, next) = (failure.causes.join(": "), failure.next.join("; "));
                tracing::error!(
                    code,
                    what,
                    causes,
                    next,
                    "the restart failed; the process that served goes on"
                );
                return;
            }
        };
        let limit = self.drain_limit;
        match std::mem::replace(&mut self.present, Present::Nobody) {
            Present::Own(running) => {
                running.fall_silent().await;
                self.earlier.spawn(async move {
                    running.drain_beside_successor(limit).await;
                    running.leave().await;
                    tracing::info!("what the process that was started had begun is done");
                });
            }
            Present::Successor(earlier) => {
                let mut child = earlier.retire().await;
                self.earlier
                    .spawn(async move { end_within(&mut child, limit + GRACE).await });
            }
            Present::Nobody => {}
        }
        if let Err(error) = successor.handover.say(Word::Speak).await {
            // It has ended, which `next` tells.
            tracing::error!(%error, "the new process does not hear");
        }
        tracing::info!(pid = successor.child.id(), "a new process has taken over");
        self.present = Present::Successor(successor);
    }

    /// Takes nothing new, and waits until what runs has finished, for at most `limit`.
    pub(crate) async fn drain(&mut self, limit: Duration) {
        // One that is only being started ends with its handle.
        if let Some(trial) = self.trial.take() {
            trial.abort();
        }
        let deadline = Instant::now() + limit;
        match &mut self.present {
            Present::Own(running) => running.drain(limit).await,
            Present::Successor(Successor { child, sockets, .. }) => {
                // Closed everywhere, so that the kernel refuses what nobody would accept.
                drop(std::mem::take(sockets));
                signal(child, Signal::TERM);
                end_within(child, limit + GRACE).await;
            }
            Present::Nobody => {}
        }
        let earlier = async { while self.earlier.join_next().await.is_some() {} };
        if timeout_at(deadline, earlier).await.is_err() {
            tracing::warn!("what earlier processes had begun is cut off");
        }
    }

    /// Deregisters and ends.
    pub(crate) async fn leave(mut self) {
        self.earlier.shutdown().await;
        if let Present::Own(running) = self.present {
            running.leave().await;
        }
    }
}

impl Successor {
    /// Starts a process, gives it `sockets`, and waits until it could serve.
    async fn start(relaunch: Relaunch, sockets: Sockets) -> Result<Self> {
        let (handover, end) = Handover::pair().map_err(|error| cannot("make a pair", &error))?;
        let mut child = Command::new(&relaunch.binary)
            .args(&relaunch.arguments)
            .stdin(Stdio::from(end))
            // The process that was started speaks for all of them to its supervisor.
            .env_remove(crate::notify::SOCKET)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| cannot(&format!("start {}", relaunch.binary.display()), &error))?;
        let ready = async {
            handover.give(&sockets, Word::Sockets).await?;
            match handover.hear().await? {
                (Word::Ready, sockets) => Ok(sockets),
                _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        };
        let sockets = tokio::select! {
            biased;
            status = child.wait() => return Err(ended_early(&status)),
            ready = ready => match ready {
                Ok(sockets) => sockets,
                // It says itself why it has ended.
                Err(error) => return Err(match timeout(GRACE, child.wait()).await {
                    Ok(status) => ended_early(&status),
                    Err(_) => cannot("hear from it", &error),
                }),
            },
            () = sleep(TRIAL_LIMIT) => {
                let what = format!("the new process was not ready within {TRIAL_LIMIT:?}");
                return Err(Failure::failed("not-ready", what)
                    .next("see above what it waits for"));
            }
        };
        Ok(Self {
            child,
            handover,
            sockets,
        })
    }

    /// Has it fall silent and drain; answers the process, which ends by itself.
    async fn retire(self) -> Child {
        let silent = async {
            self.handover.say(Word::Retire).await?;
            self.handover.hear().await
        };
        match timeout(SILENCE_LIMIT, silent).await {
            Ok(Ok((Word::Retired, _))) => {}
            _ => tracing::warn!("an earlier process may have spoken after its successor"),
        }
        self.child
    }
}

fn cannot(act: &str, error: &dyn std::error::Error) -> Failure {
    Failure::failed("no-new-process", format!("cannot {act}")).caused_by(error)
}

fn ended_early(status: &io::Result<ExitStatus>) -> Failure {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::failed("new-process-ended", "the new process ended")
        .caused_by(&io::Error::other(how))
        .next("it has said why, just before this")
}

/// Waits until the process has ended; kills it when that takes longer than `limit`.
async fn end_within(child: &mut Child, limit: Duration) {
    if timeout(limit, child.wait()).await.is_err() {
        tracing::warn!(
            pid = child.id(),
            "a process did not end in time and is killed"
        );
        // It may have ended just now.
        let _ = child.kill().await;
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // Who has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}
