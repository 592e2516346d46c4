//! The mesh's own processes: from a configuration file to a control plane, a gateway, a proxy.
//!
//! What the files mean is resolved here; what the processes do is in the crates behind.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use isthmus_control::{ApiToken, ControlError};
use isthmus_model::LabelKey;
use isthmus_proxy::{Config, Listener, ProxyError, Role, Sidecar};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{self, ApiTokenEntry, ControlFile, GatewayFile, Text, WorkloadFile};
use crate::failure::{Failure, Result};
use crate::memory;
use crate::nofile;
use crate::notify;
use crate::programs::Kind;
use crate::setting::runtime;
use crate::succession::{Happening, Relaunch, Service};

/// How long what runs may take to finish when a process stops.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long what has begun may go on when there is a successor for what is new.
pub(crate) const SUCCESSION_LIMIT: Duration = Duration::from_secs(30);

const CANNOT_LISTEN: &str = "cannot-listen";
const FREE_ADDRESS: &str =
    "see who has the address with `ss -ltnp` and free it, or choose another one in the file";
const NO_RESOURCES: &str = "no-resources";
const LIMITS: &str = "look at the limits of this machine";

/// `isthmus control -c FILE`: until SIGTERM or Ctrl-C.
pub(crate) fn control(path: &Path) -> Result<ExitCode> {
    let config = control_config(path, &config::read(path)?);
    log_to_stderr("info");
    nofile::raise();
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        isthmus_control::run(config, stop)
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| control_failure(&error))
    })
}

/// What such a process is told by its file.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) config: Config,
    /// How long what has begun may go on when there is a successor.
    pub(crate) drain_limit: Duration,
}

impl Kind {
    fn read(self, path: &Path) -> Result<Served> {
        if self == Self::Proxy {
            let file: WorkloadFile = config::read(path)?;
            if !file.program.command.is_empty() {
                let what = format!("{} starts a program", path.display());
                return Err(Failure::failed("program-in-proxy", what)
                    .next("use `isthmus run -c` for it, or take `program.command` out"));
            }
        }
        self.read_as_successor(path)
    }

    /// Who started the program, if there is one, is the process that was there before.
    pub(crate) fn read_as_successor(self, path: &Path) -> Result<Served> {
        let (config, drain_limit) = match self {
            Self::Gateway => {
                let file = config::read(path)?;
                (gateway_config(path, &file)?, file.drain_limit)
            }
            Self::Proxy => {
                let file = config::read(path)?;
                (workload_config(path, &file)?, file.drain_limit)
            }
        };
        Ok(Served {
            config,
            drain_limit: drain_limit.map_or(SUCCESSION_LIMIT, |limit| limit.0),
        })
    }
}

/// `isthmus gateway -c FILE`, `isthmus proxy -c FILE`: until SIGTERM or Ctrl-C. SIGUSR2 has a
/// successor take over.
pub(crate) fn serve(kind: Kind, path: &Path) -> Result<ExitCode> {
    let Served {
        config,
        drain_limit,
    } = kind.read(path)?;
    let relaunch = Relaunch::of(kind.command(), path)?;
    log_to_stderr("info");
    nofile::raise();
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let mut restart = restart_signal()?;
        let running = tokio::select! {
            running = isthmus_proxy::start(config) => {
                running.map_err(|error| proxy_failure(&error))?
            }
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        notify::ready();
        let mut service = Service::new(running, relaunch, drain_limit);
        let outcome = loop {
            tokio::select! {
                () = &mut stop => break Ok(ExitCode::SUCCESS),
                Some(()) = restart.recv() => service.restart(),
                happening = service.next() => match happening {
                    Happening::Tried(tried) => service.hand_over(*tried).await,
                    Happening::Ended(status) => break Err(service_ended(&status)),
                },
            }
        };
        notify::stopping();
        service.drain(DRAIN_LIMIT).await;
        service.leave().await;
        outcome
    })
}

fn control_failure(error: &ControlError) -> Failure {
    let failure = |code| Failure::failed(code, "the control plane cannot run").caused_by(error);
    match error {
        ControlError::Listen { .. } => failure(CANNOT_LISTEN).next(FREE_ADDRESS),
        ControlError::Chance(_) | ControlError::Thread(_) => failure(NO_RESOURCES).next(LIMITS),
        _ => failure("control"),
    }
}

pub(crate) fn proxy_failure(error: &ProxyError) -> Failure {
    let failure = |code, next| {
        Failure::failed(code, "the proxy cannot run")
            .caused_by(error)
            .next(next)
    };
    match error {
        ProxyError::Listen { .. } => failure(CANNOT_LISTEN, FREE_ADDRESS),
        ProxyError::StateInUse(_) => failure(
            "state-in-use",
            "give each process a state directory of its own; to put a new process in the place of one \
             that runs, send that one SIGUSR2",
        ),
        ProxyError::Join(_) => failure(
            "not-joined",
            "make a new token with `isthmus token create`; a token is good for one process",
        ),
        ProxyError::Chance(_) | ProxyError::Thread(_) => failure(NO_RESOURCES, LIMITS),
    }
}

fn gateway_config(path: &Path, file: &GatewayFile) -> Result<Config> {
    Ok(Config {
        name: file.name.clone(),
        cluster: file.cluster.0.clone(),
        address: file.address,
        ports: isthmus_proxy::Ports::default(),
        control: file.control.clone(),
        token: token(path, file.token_file.as_deref())?,
        state: config::beside(path, &file.state),
        role: Role::Gateway,
        access_log: file.access_log,
        workers: file
            .workers
            .unwrap_or_else(|| available_parallelism().map_or(1, Into::into)),
        patience: file.clients.patience(),
        limits: file.clients.limits(),
        proxy_protocol_from: file.clients.proxy_protocol_from(),
        memory: memory::budget(file.memory.map(|Text(size)| size)),
    })
}

/// The proxy beside a program.
pub(crate) fn workload_config(path: &Path, file: &WorkloadFile) -> Result<Config> {
    let Some((namespace, account)) = file.runs_as() else {
        let what = format!("{}: it says no service and no account", path.display());
        return Err(Failure::failed("bad-config", what)
            .next("say what it runs as: `service: namespace/name` or `account: namespace/name`"));
    };
    let label =
        |(key, value): (&Text<LabelKey>, &String)| (key.0.clone(), Arc::from(value.as_str()));
    let listeners = file.listeners.iter().map(|entry| Listener {
        address: entry.listen,
        service: entry.service.0.clone(),
        port: entry.port,
    });
    Ok(Config {
        name: file.name.clone(),
        cluster: file.cluster.0.clone(),
        address: file.address,
        ports: isthmus_proxy::Ports::default(),
        control: file.control.clone(),
        token: token(path, file.token_file.as_deref())?,
        state: config::beside(path, &file.state),
        role: Role::Sidecar(Sidecar {
            namespace,
            account,
            service: file.service.as_ref().map(|Text(service)| service.clone()),
            labels: file.labels.iter().map(label).collect(),
            zone: file.zone.clone(),
            program: file.program.address,
            listeners: listeners.collect(),
        }),
        access_log: file.access_log,
        workers: file.workers.unwrap_or(1),
        patience: file.clients.patience(),
        limits: file.clients.limits(),
        proxy_protocol_from: file.clients.proxy_protocol_from(),
        memory: memory::budget(file.memory.map(|Text(size)| size)),
    })
}

/// A control plane, as its file says.
pub(crate) fn control_config(path: &Path, file: &ControlFile) -> isthmus_control::Config {
    let token = |entry: &ApiTokenEntry| ApiToken {
        name: entry.name.clone(),
        sha256: entry.sha256.0.0,
    };
    isthmus_control::Config {
        mesh: file.mesh.0.clone(),
        trust_domain: file.trust_domain.0.clone(),
        cluster: file.cluster.0.clone(),
        address: file.address,
        ports: isthmus_control::Ports::default(),
        data: config::beside(path, &file.data),
        authority: file.authority.0.clone(),
        peers: file.peers.clone(),
        api_tokens: file.api_tokens.iter().map(token).collect(),
        leaf_lifetime: file.leaf_lifetime(),
        renew_after: file.renew_after(),
        at_rest: file.at_rest(path),
    }
}

/// The join token, if a file for it is named. A file that is gone is no error: the state may hold an
/// identity by now, and the process says so if it does not.
fn token(path: &Path, token_file: Option<&Path>) -> Result<Option<String>> {
    let Some(token_file) = token_file else {
        return Ok(None);
    };
    let token_file = config::beside(path, token_file);
    match std::fs::read_to_string(&token_file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let what = format!("{} cannot be read", token_file.display());
            Err(Failure::failed("file-unreadable", what).caused_by(&error))
        }
    }
}

/// Ends when this process is asked to stop.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Comes when this process is to be replaced by a new one.
pub(crate) fn restart_signal() -> Result<Signal> {
    catch(SignalKind::user_defined2())
}

fn catch(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| {
        Failure::failed("no-signals", "signals cannot be waited for").caused_by(&error)
    })
}

/// The process that served is gone, though nobody has asked it to.
pub(crate) fn service_ended(status: &io::Result<ExitStatus>) -> Failure {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::failed("service-ended", "the process that served has ended")
        .cause(how)
        .next("see above what it has said; whoever watches over this process starts it again")
}

/// What a process has to say goes to standard error; `ISTHMUS_LOG` chooses what instead of the usual.
pub(crate) fn log_to_stderr(usual: &str) {
    // A client that floods is counted; a line for each of its connections would be a flood as well.
    let usual = || EnvFilter::new(format!("{usual},h2=error"));
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| usual());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(more: &str) -> Result<Config> {
        let text = format!(
            "name: a-1\ncluster: a\naddress: 127.1.1.10\ncontrol: ['127.1.1.1:15012']\nstate: state\n\
             program: {{address: 127.0.0.1}}\n{more}"
        );
        let path = Path::new("/etc/isthmus/proxy.yaml");
        workload_config(path, &config::parse(path, &text)?)
    }

    #[test]
    fn a_workload_runs_as_its_service_or_as_it_says() {
        for (more, expect) in [
            ("service: shop/cart", Some("shop/cart")),
            ("service: shop/cart\naccount: carts", Some("shop/carts")),
            ("account: shop/visitor", Some("shop/visitor")),
            ("account: visitor", None),
            ("", None),
        ] {
            let config = workload(more).ok();
            let runs_as = config.as_ref().and_then(|config| match &config.role {
                Role::Sidecar(sidecar) => {
                    Some(format!("{}/{}", sidecar.namespace, sidecar.account))
                }
                Role::Gateway => None,
            });
            assert_eq!(runs_as.as_deref(), expect, "{more}");
        }
        let config = workload("service: shop/cart").unwrap();
        assert_eq!(config.state, Path::new("/etc/isthmus/state"));
        assert!(
            workload("service: shop/cart\ntokenFile: none")
                .unwrap()
                .token
                .is_none()
        );
    }
}
