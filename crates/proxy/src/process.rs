//! The life of a proxy process: join, listen, serve, drain, leave.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use isthmus_model::Health;
use isthmus_telemetry::Metrics;
use isthmus_world::{ChanceError, Drain, RealChance, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::admin::{self, Admin};
use crate::agent::{Agent, JoinError, Report, Status, Vault, join};
use crate::config::{Config, Role};
use crate::health::{self, Found, Judge};
use crate::outbound::bind;
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
/// How often the program is looked at before its service is known.
const UNKNOWN_CHECK: Duration = Duration::from_millis(200);

/// Why a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
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
    leaving: watch::Sender<bool>,
    agent: tokio::task::JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    stop_workers: Vec<oneshot::Sender<()>>,
}

/// Runs a proxy until `stop`, then drains for at most `limit` and leaves.
///
/// Errors: it could not start.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()>,
    limit: Duration,
) -> Result<(), ProxyError> {
    tokio::pin!(stop);
    let running = tokio::select! {
        running = start(config) => running?,
        () = &mut stop => return Ok(()),
    };
    stop.await;
    running.drain(limit).await;
    running.leave().await;
    Ok(())
}

/// Joins the mesh and begins to serve. Waits for a control plane when nothing usable was kept from
/// an earlier run.
pub async fn start(config: Config) -> Result<Running, ProxyError> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(
        env!("CARGO_PKG_VERSION"),
        Metrics::DEFAULT_MAX_FLOWS,
    ));
    let (status_sender, status) = watch::channel(Status::default());
    let first = Report {
        found: Judge::new().found().clone(),
        draining: false,
    };
    let (report_sender, report) = watch::channel(first);

    // Addresses first: one that is in use is the operator's to know at once.
    let listeners = Listeners::bind(&config)?;
    let admin = Admin {
        name: config.name.clone(),
        has_program: config.own_service().is_some(),
        metrics: Arc::clone(&metrics),
        status: status.clone(),
        report: report.clone(),
    };
    tokio::spawn(admin::serve(admin, listeners.metrics));

    let context = format!("{} {}", config.cluster, config.name);
    let vault = Vault::new(&config.state, context).map_err(JoinError::from)?;
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
    let drain = Drain::new();
    let common = Common {
        config: Arc::clone(&config),
        me: Arc::new(me),
        view: view.clone(),
        interest: Interest::new(wanted_sender),
        metrics: Arc::clone(&metrics),
        drain: drain.watch(),
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
    );
    let (leaving, leaving_receiver) = watch::channel(false);
    let agent = tokio::spawn(agent.run(leaving_receiver));
    tokio::spawn(check_program(config, view, report_sender.clone()));

    // One worker answers; its state stands for all.
    let mut questions = Some(questions);
    let mut workers = Vec::new();
    let mut stop_workers = Vec::new();
    for (index, listeners) in listeners.workers.into_iter().enumerate() {
        let (stop, stopped) = oneshot::channel();
        workers.push(spawn_worker(
            index,
            common.clone(),
            listeners,
            questions.take(),
            stopped,
        )?);
        stop_workers.push(stop);
    }
    Ok(Running {
        drain,
        report: report_sender,
        status,
        leaving,
        agent,
        workers,
        stop_workers,
    })
}

impl Running {
    /// Waits until the proxy knows what it needs to serve.
    pub async fn informed(&self) {
        let mut status = self.status.clone();
        // The sender lives in the agent, which ends only after `leave`.
        let _ = status.wait_for(|status| status.informed).await;
    }

    /// Takes nothing new and waits, at most for `limit`, until what runs has finished.
    pub async fn drain(&self, limit: Duration) {
        self.report.send_modify(|report| report.draining = true);
        tokio::time::sleep(NOTICE).await;
        self.drain.begin();
        if let Err(live) = self.drain.finished(limit).await {
            tracing::warn!(%live, "leaving all the same");
        }
    }

    /// Deregisters and ends.
    pub async fn leave(self) {
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

/// Every socket that a proxy listens on.
struct Listeners {
    metrics: TcpListener,
    workers: Vec<WorkerListeners>,
}

struct WorkerListeners {
    mesh: std::net::TcpListener,
    outbound: Option<std::net::TcpListener>,
    services: Vec<(std::net::TcpListener, crate::config::Listener)>,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, ProxyError> {
        let count = config.workers.max(1);
        let one = |address: SocketAddr| {
            bind(address, count > 1)
                .and_then(TcpListener::into_std)
                .map_err(|source| ProxyError::Listen { address, source })
        };
        let metrics = config.at(config.ports.metrics);
        let metrics = bind(metrics, false).map_err(|source| ProxyError::Listen {
            address: metrics,
            source,
        })?;
        let mut workers = Vec::new();
        for _ in 0..count {
            let mut services = Vec::new();
            let sidecar = config.sidecar();
            for listener in sidecar.iter().flat_map(|sidecar| &sidecar.listeners) {
                services.push((one(listener.address)?, listener.clone()));
            }
            let outbound = sidecar
                .map(|_| one(config.at(config.ports.outbound)))
                .transpose()?;
            let mesh = one(config.at(config.ports.mesh))?;
            workers.push(WorkerListeners {
                mesh,
                outbound,
                services,
            });
        }
        Ok(Self { metrics, workers })
    }
}

fn spawn_worker(
    index: usize,
    common: Common,
    listeners: WorkerListeners,
    asked: Option<mpsc::Receiver<Asked>>,
    stop: oneshot::Receiver<()>,
) -> Result<JoinHandle<()>, ProxyError> {
    let chance = RealChance::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let worker = Worker::new(common, chance);
                if let Err(error) = serve(&worker, listeners) {
                    tracing::error!(%error, "a worker cannot listen");
                    return;
                }
                tokio::task::spawn_local(std::rc::Rc::clone(&worker).keep_tidy());
                tokio::task::spawn_local(std::rc::Rc::clone(&worker).keep_judging());
                if let Some(asked) = asked {
                    tokio::task::spawn_local(answer(std::rc::Rc::clone(&worker), asked));
                }
                let mut drain = worker.common.drain.clone();
                tokio::task::spawn_local(async move {
                    drain.draining().await;
                    worker.reach.drain();
                    worker.destinations.drain();
                });
                // Dropping the sender means the same.
                let _ = stop.await;
            });
        })?;
    Ok(thread)
}

fn serve(worker: &std::rc::Rc<Worker>, listeners: WorkerListeners) -> io::Result<()> {
    use std::rc::Rc;
    let mesh = TcpListener::from_std(listeners.mesh)?;
    match &worker.common.config.role {
        Role::Gateway => drop(tokio::task::spawn_local(gateway::listen(
            Rc::clone(worker),
            mesh,
        ))),
        Role::Sidecar(_) => drop(tokio::task::spawn_local(inbound::listen(
            Rc::clone(worker),
            mesh,
        ))),
    }
    if let Some(outbound) = listeners.outbound {
        let listener = TcpListener::from_std(outbound)?;
        tokio::task::spawn_local(outbound::listen_http(Rc::clone(worker), listener));
    }
    for (listener, target) in listeners.services {
        let listener = TcpListener::from_std(listener)?;
        tokio::task::spawn_local(outbound::listen_tcp(Rc::clone(worker), listener, target));
    }
    Ok(())
}

/// Answers questions about the worker's state, one after the other.
async fn answer(worker: std::rc::Rc<Worker>, mut asked: mpsc::Receiver<Asked>) {
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
        report.send_modify(|report| report.found = found);
        return;
    };
    let mut judge = Judge::new();
    loop {
        let declared = match view.load_full().find(service).map(|known| &**known) {
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
            let changed = report.found != found;
            report.found = found;
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
