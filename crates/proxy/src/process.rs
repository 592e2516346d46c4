//! The life of a proxy process: join, listen, serve, drain, leave.
//!
//! It may begin as the successor of a process that serves: then it takes that one's sockets, and says
//! nothing to the control plane before the other has fallen silent.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use isthmus_codec::memory::MemoryBudget;
use isthmus_model::Health;
use isthmus_telemetry::Metrics;
use isthmus_world::{ChanceError, Drain, DrainStage, RealChance, Snapshot, StillLive};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;

use crate::admin::{self, Admin};
use crate::agent::{Agent, JoinError, Report, Status, Vault, join};
use crate::config::{Config, Role};
use crate::deal::Hand;
use crate::handover::Sockets;
use crate::health::{self, Found, Judge};
use crate::intake::{Door, Intake};
use crate::listeners::{CannotListen, Listeners, WorkerListeners};
use crate::tls::Me;
use crate::view::{Known, View};
use crate::worker::{Asked, Common, Interest, Worker};
use crate::{gateway, inbound, outbound};

/// First calls that wait for an answer about their service.
const WANTED: usize = 256;
/// Questions that wait for the worker.
const ASKED: usize = 16;
/// After the control plane was told, others need a moment to hear that they should go elsewhere.
const NOTICE: Duration = Duration::from_millis(300);
/// How long a client that stays connected to a process with a successor may take to ask once more:
/// it is told then to connect anew. After that its connection is closed.
const LAST_CALL: Duration = Duration::from_secs(5);
/// How long falling silent may take.
const SILENCE: Duration = Duration::from_secs(2);
/// How often the program is looked at before its service is known.
const UNKNOWN_CHECK: Duration = Duration::from_millis(200);

/// Why a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(transparent)]
    Listen(#[from] CannotListen),
    #[error("another process uses the state directory {}", .0.display())]
    StateInUse(PathBuf),
    #[error("cannot join the mesh: {0}")]
    Join(#[from] JoinError),
    #[error(transparent)]
    Chance(#[from] ChanceError),
    #[error("a worker thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Running {
    drain: Drain,
    report: watch::Sender<Report>,
    status: watch::Receiver<Status>,
    /// Whose queues a successor will take over.
    sockets: Mutex<Sockets>,
    leaving: watch::Sender<bool>,
    agent: tokio::task::JoinHandle<()>,
    checks: tokio::task::JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    stop_workers: Vec<oneshot::Sender<()>>,
}

/// Joins the mesh and begins to serve. Waits for a control plane when nothing usable was kept from
/// an earlier run.
pub async fn start(config: Config) -> Result<Running, ProxyError> {
    let (starting, listeners) = Starting::join(config, Sockets::default(), Voice::Speaks).await?;
    starting.serve(listeners)
}

/// Begins to serve in the place of a process that has given its `sockets`, and still serves. Returns
/// when this one knows as much as that one. The control plane hears nothing of it before
/// [`Running::speak`].
pub async fn take_over(config: Config, sockets: Sockets) -> Result<Running, ProxyError> {
    let (mut starting, listeners) = Starting::join(config, sockets, Voice::Silent).await?;
    starting.informed().await;
    starting.serve(listeners)
}

/// Who speaks for the workload?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    Speaks,
    Silent,
}

/// A member of the mesh that takes no traffic yet.
struct Starting {
    common: Common,
    admin: Admin,
    drain: Drain,
    report: watch::Sender<Report>,
    status: watch::Receiver<Status>,
    leaving: watch::Sender<bool>,
    agent: tokio::task::JoinHandle<()>,
    checks: tokio::task::JoinHandle<()>,
    questions: mpsc::Receiver<Asked>,
}

impl Starting {
    async fn join(
        config: Config,
        inherited: Sockets,
        voice: Voice,
    ) -> Result<(Self, Listeners), ProxyError> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new(
            env!("CARGO_PKG_VERSION"),
            Metrics::DEFAULT_MAX_FLOWS,
        ));
        let (status_sender, status) = watch::channel(Status::default());
        let (report_sender, report) = watch::channel(Report {
            found: Judge::new().found().clone(),
            looked: false,
            draining: false,
            silent: voice == Voice::Silent,
        });
        let drain = Drain::new();
        let memory = MemoryBudget::new(config.memory);
        let intake = Intake::of_process(&config, Arc::clone(&metrics), memory.clone());

        // Addresses first: one that is in use is the operator's to know at once.
        let mut listeners = Listeners::open(&config, inherited)?;
        let admin = Admin {
            name: config.name.clone(),
            has_program: config.own_service().is_some(),
            metrics: Arc::clone(&metrics),
            status: status.clone(),
            report: report.clone(),
            memory: memory.clone(),
        };
        // Beside a process that serves, one that does not yet would say that it is not ready.
        if voice == Voice::Speaks {
            let metrics = std::mem::take(&mut listeners.metrics);
            show(&admin, metrics, &intake, &drain)?;
        }

        let context = format!("{} {}", config.cluster, config.name);
        let mut vault = Vault::new(&config.state, context).map_err(JoinError::from)?;
        // A successor writes only when the other has stopped to.
        if voice == Voice::Speaks && !vault.claim() {
            return Err(ProxyError::StateInUse(config.state.clone()));
        }
        let joined = join(&config, &vault, &metrics).await?;
        let me = Me::new(
            joined.identity.clone(),
            config.cluster.clone(),
            Arc::clone(&joined.leaf),
            Arc::clone(&joined.trust),
        );

        let (view_writer, view) = Snapshot::new(View::empty(config.cluster.clone()));
        let (wanted_sender, wanted) = mpsc::channel(WANTED);
        let (asker, questions) = mpsc::channel(ASKED);
        let common = Common {
            config: Arc::clone(&config),
            me: Arc::new(me),
            view: view.clone(),
            interest: Interest::new(wanted_sender),
            metrics: Arc::clone(&metrics),
            drain: drain.watch(),
            intake,
            memory,
        };
        let agent = Agent::new(
            Arc::clone(&config),
            joined,
            vault,
            metrics,
            view_writer,
            status_sender,
            report,
            wanted,
            asker,
            RealChance::new()?,
        );
        let (leaving, leaving_receiver) = watch::channel(false);
        let agent = tokio::spawn(agent.run(leaving_receiver));
        let checks = tokio::spawn(check_program(config, view, report_sender.clone()));
        let starting = Self {
            common,
            admin,
            drain,
            report: report_sender,
            status,
            leaving,
            agent,
            checks,
            questions,
        };
        Ok((starting, listeners))
    }

    /// Waits until this process knows what it needs to serve, and how its program is.
    async fn informed(&mut self) {
        // Neither sender is dropped before this process leaves.
        let _ = self.status.wait_for(|status| status.informed).await;
        let _ = self.report.subscribe().wait_for(|said| said.looked).await;
    }

    fn serve(self, listeners: Listeners) -> Result<Running, ProxyError> {
        show(
            &self.admin,
            listeners.metrics,
            &self.common.intake,
            &self.drain,
        )?;
        // One worker answers; its state stands for all.
        let mut questions = Some(self.questions);
        let mut workers = Vec::new();
        let mut stop_workers = Vec::new();
        for (index, listeners) in listeners.workers.into_iter().enumerate() {
            let (stop, stopped) = oneshot::channel();
            workers.push(spawn_worker(
                index,
                self.common.clone(),
                listeners,
                questions.take(),
                stopped,
            )?);
            stop_workers.push(stop);
        }
        Ok(Running {
            drain: self.drain,
            report: self.report,
            status: self.status,
            sockets: Mutex::new(listeners.shared),
            leaving: self.leaving,
            agent: self.agent,
            checks: self.checks,
            workers,
            stop_workers,
        })
    }
}

impl Running {
    /// Waits until the proxy knows what it needs to serve.
    pub async fn informed(&self) {
        let mut status = self.status.clone();
        // The sender lives in the agent, which ends only after `leave`.
        let _ = status.wait_for(|status| status.informed).await;
    }

    /// What it listens on, for a successor.
    pub fn sockets(&self) -> io::Result<Sockets> {
        self.sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .share()
    }

    /// From now on this process speaks for its workload or gateway: the one before has fallen silent.
    pub fn speak(&self) {
        self.report.send_modify(|report| report.silent = false);
    }

    /// Leaves it to the successor to speak for the workload or gateway, and to write into the state
    /// directory. Traffic, and what is heard from the control plane, go on.
    pub async fn fall_silent(&self) {
        self.report.send_modify(|report| report.silent = true);
        let mut status = self.status.clone();
        let silent = status.wait_for(|status| status.silent);
        if tokio::time::timeout(SILENCE, silent).await.is_err() {
            tracing::warn!("this process may have spoken after its successor");
        }
    }

    /// Takes nothing new and waits, at most for `limit`, until what runs has finished.
    pub async fn drain(&self, limit: Duration) {
        self.report.send_modify(|report| report.draining = true);
        self.drain.advance(DrainStage::Leaving);
        tokio::time::sleep(NOTICE).await;
        self.close_sockets();
        self.drain.advance(DrainStage::Closing);
        self.finish(limit).await;
    }

    /// As [`Running::drain`], while a successor takes what is new: clients that stay connected have
    /// time to hear that they should connect anew.
    pub async fn drain_beside_successor(&self, limit: Duration) {
        self.close_sockets();
        self.drain.advance(DrainStage::Draining);
        let last_call = LAST_CALL.min(limit);
        if self.drain.finished(last_call).await.is_err() {
            self.drain.advance(DrainStage::Closing);
            self.finish(limit.saturating_sub(last_call)).await;
        }
    }

    fn close_sockets(&self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        *sockets = Sockets::default();
    }

    async fn finish(&self, limit: Duration) {
        if let Err(StillLive { live }) = self.drain.finished(limit).await {
            tracing::warn!(
                live,
                "connections that have not finished in time are cut off"
            );
        }
    }

    /// Deregisters, unless a successor speaks, and ends.
    pub async fn leave(self) {
        self.checks.abort();
        self.drain.advance(DrainStage::Closing);
        self.leaving.send_replace(true);
        // Deregistration must not hold up the end of the process for long.
        if tokio::time::timeout(Duration::from_secs(2), self.agent)
            .await
            .is_err()
        {
            tracing::warn!("the control plane did not take the farewell");
        }
        for stop in self.stop_workers {
            // A worker that has ended by itself needs no word.
            let _ = stop.send(());
        }
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker has panicked");
            }
        }
    }
}

/// Answers who asks how this process is.
fn show(
    admin: &Admin,
    listeners: Vec<std::net::TcpListener>,
    intake: &Arc<Intake>,
    drain: &Drain,
) -> io::Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let door = Door::open(listeners, Hand::alone())?;
    let (admin, intake) = (admin.clone(), Arc::clone(intake));
    tokio::spawn(admin::serve(admin, door, intake, drain.watch()));
    Ok(())
}

fn spawn_worker(
    index: usize,
    common: Common,
    listeners: WorkerListeners,
    asked: Option<mpsc::Receiver<Asked>>,
    stop: oneshot::Receiver<()>,
) -> Result<JoinHandle<()>, ProxyError> {
    let chance = RealChance::new()?;
    let (report, begun) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = match local_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            runtime.block_on(async {
                let worker = Worker::new(common, chance);
                let listening = serve(&worker, listeners);
                let serves = listening.is_ok();
                if report.send(listening).is_ok() && serves {
                    work(&worker, asked, stop).await;
                }
            });
        })?;
    // What has panicked says nothing.
    let ended = |_| io::Error::other("a worker ended before it had begun");
    begun.recv().map_err(ended)??;
    Ok(thread)
}

/// Tasks need not be `Send`, and are woken without a detour.
pub(crate) fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

/// Until the process stops.
async fn work(
    worker: &Rc<Worker>,
    asked: Option<mpsc::Receiver<Asked>>,
    stop: oneshot::Receiver<()>,
) {
    spawn_local(Rc::clone(worker).keep_tidy());
    spawn_local(Rc::clone(worker).keep_judging());
    if let Some(asked) = asked {
        spawn_local(answer(Rc::clone(worker), asked));
    }
    let mut drain = worker.common.drain.clone();
    let drained = Rc::clone(worker);
    spawn_local(async move {
        drain.closing().await;
        drained.reach.drain();
        drained.destinations.drain();
    });
    // Dropping the sender means the same.
    let _ = stop.await;
}

fn serve(worker: &Rc<Worker>, listeners: WorkerListeners) -> io::Result<()> {
    let mesh = listeners.mesh.open()?;
    let gate = Rc::clone(worker);
    match &worker.common.config.role {
        Role::Gateway => drop(spawn_local(gateway::listen(gate, mesh))),
        Role::Sidecar(_) => drop(spawn_local(inbound::listen(gate, mesh))),
    }
    let clients = outbound::Clients::of(Rc::clone(worker));
    if let Some(queue) = listeners.outbound {
        let door = queue.open()?;
        spawn_local(outbound::listen_http(Rc::clone(&clients), door));
    }
    for (queue, target) in listeners.services {
        let door = queue.open()?;
        spawn_local(outbound::listen_tcp(Rc::clone(&clients), door, target));
    }
    Ok(())
}

/// Answers questions about the worker's state, one after the other.
async fn answer(worker: Rc<Worker>, mut asked: mpsc::Receiver<Asked>) {
    while let Some(Asked { question, answer }) = asked.recv().await {
        // Who asked may have gone away.
        let _ = answer.send(outbound::explain(&worker, &question).await);
    }
}

/// Looks at the program again and again, and reports what changes.
async fn check_program(config: Arc<Config>, view: Snapshot<View>, report: watch::Sender<Report>) {
    let Some((service, program)) = config
        .own_service()
        .zip(config.sidecar().map(|sidecar| sidecar.program))
    else {
        let found = Found {
            health: Health::Healthy,
            detail: "no program".to_owned(),
        };
        report.send_modify(|report| {
            report.found = found;
            report.looked = true;
        });
        return;
    };
    let mut judge = Judge::new();
    loop {
        let declared = match view.load_full().find(service) {
            Some(Known::Service(found)) => {
                let port = found.service.ports.first().map(|port| port.target_port);
                port.map(|port| (port, found.own_settings().health_check.clone()))
            }
            _ => None,
        };
        let Some((port, check)) = declared else {
            tokio::time::sleep(UNKNOWN_CHECK).await;
            continue;
        };
        let result = health::probe(&check, program, port).await;
        let failing = result.is_err() && judge.found().health == Health::Starting;
        if judge.observe(result) {
            tracing::info!(health = ?judge.found().health, detail = judge.found().detail, "program");
        }
        let found = judge.found().clone();
        report.send_if_modified(|report| {
            let changed = report.found != found || !report.looked;
            report.found = found;
            report.looked = true;
            changed
        });
        // A program that starts is waited for more closely.
        let pause = if failing {
            check.interval.min(UNKNOWN_CHECK)
        } else {
            check.interval
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use isthmus_identity::{JoinToken, TokenId, TokenSecret};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::Ports;
    use crate::testing::{Issuer, cluster, config, run, within};

    #[test]
    fn probes_are_answered_by_the_process_that_serves_until_its_successor_could() {
        run(async {
            let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let west = cluster("west");
            let me = Issuer::new().workload(&west, "cart");
            let token = JoinToken::new(
                me.trust.load().fingerprints().next().unwrap(),
                vec![control.local_addr().unwrap()],
                TokenId([0; 8]),
                TokenSecret::new([0; 32]),
            );
            let serving = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = serving.local_addr().unwrap();
            let mut sockets = Sockets::default();
            sockets.add(serving.try_clone().unwrap()).unwrap();
            let serving = TcpListener::from_std(serving).unwrap();

            let state = tempfile::tempdir().unwrap();
            let mut config = config(&west, Role::Gateway);
            config.ports = Ports {
                outbound: 0,
                mesh: 0,
                metrics: address.port(),
            };
            config.token = Some(token.unwrap().to_text().to_string());
            config.state = state.path().to_owned();
            let successor = spawn_local(take_over(config, sockets));
            drop(within(control.accept()).await.unwrap());
            let mut probe = TcpStream::connect(address).await.unwrap();
            probe.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
            // It has had the time to take the probe when it asks once more to join.
            drop(within(control.accept()).await.unwrap());
            let (_, peer) = within(serving.accept()).await.unwrap();
            assert_eq!(peer, probe.local_addr().unwrap());
            assert!(!successor.is_finished());
        });
    }
}
