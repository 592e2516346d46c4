//! `isthmus run`: a program in the mesh. Its proxy comes first and leaves last.
//!
//! On stop the proxy drains, then the program is told to end, then the proxy deregisters; the
//! program's exit code is passed on. If this process is killed, the program ends with it. The proxy
//! can be restarted without the program.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::sleep;

use crate::args::RunArgs;
use crate::config::{self, ProgramEntry, WorkloadFile};
use crate::failure::{Failure, Result};
use crate::guest;
use crate::nofile;
use crate::notify;
use crate::process::{self, DRAIN_LIMIT, SUCCESSION_LIMIT};
use crate::programs::{self, Task};
use crate::setting::{Setting, runtime};
use crate::succession::{Happening, Relaunch, Service};
use crate::up::OUTBOUND_PORT;

/// How long a program may take to end.
const END_LIMIT: Duration = Duration::from_secs(3);
/// How long the program's port may be taken: what a predecessor left that was killed ends within
/// moments.
const FREE_LIMIT: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn run(setting: &Setting, args: RunArgs) -> Result<ExitCode> {
    match args.config {
        Some(config) => Err(Task::Run { config }.begin()),
        None => {
            let guest = guest::admit(setting, args)?;
            run_file(&guest.config, &guest.file)
        }
    }
}

pub(crate) fn run_file(path: &Path, file: &WorkloadFile) -> Result<ExitCode> {
    let command = command_line(path, file)?;
    let config = process::workload_config(path, file)?;
    process::log_to_stderr("info");
    let own_limit = nofile::raise();
    runtime()?.block_on(async {
        free_port(&file.program).await?;
        beside_proxy(path, file, config, &command, own_limit).await
    })
}

/// Who listens where the program is going to would get its requests.
async fn free_port(program: &ProgramEntry) -> Result<()> {
    let Some(port) = program.port else {
        return Ok(());
    };
    let address = SocketAddr::new(program.address, port);
    let deadline = Instant::now() + FREE_LIMIT;
    while is_taken(address) {
        if Instant::now() >= deadline {
            let what = format!("another program listens on {address}");
            let failure = Failure::failed("address-in-use", what);
            return Err(failure.next(format!(
                "see which one with `ss -ltnp`; end it, or choose another port than {port}"
            )));
        }
        sleep(AGAIN).await;
    }
    Ok(())
}

/// Other errors than this one are the program's to tell.
fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// What the program is called with.
fn command_line(path: &Path, file: &WorkloadFile) -> Result<Vec<String>> {
    let wrong = |what: String| Err(Failure::failed("bad-config", what));
    if file.program.command.is_empty() {
        return wrong(format!(
            "{}: program.command: there is no program to run",
            path.display()
        ));
    }
    let mut command = Vec::new();
    for argument in &file.program.command {
        let mut argument = argument.replace("${ADDRESS}", &file.program.address.to_string());
        if argument.contains("${PORT}") {
            let Some(port) = file.program.port else {
                return wrong(format!(
                    "{}: program.port: ${{PORT}} is used, but there is none",
                    path.display()
                ));
            };
            argument = argument.replace("${PORT}", &port.to_string());
        }
        command.push(argument);
    }
    Ok(command)
}

/// Signals from outside.
struct Signals {
    stop: [SignalStream; 2],
    passed_on: [(Signal, SignalStream); 2],
    restart: SignalStream,
}

/// What came.
enum Caught {
    Stop,
    Restart,
    PassOn(Signal),
}

/// Why the program does not go on.
enum Reason {
    Ended(io::Result<ExitStatus>),
    Stop,
    /// The process that served for it has ended.
    Alone(Failure),
}

async fn beside_proxy(
    path: &Path,
    file: &WorkloadFile,
    config: isthmus_proxy::Config,
    command: &[String],
    own_limit: Option<u64>,
) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let proxy = tokio::select! {
        started = isthmus_proxy::start(config) => started.map_err(|error| process::proxy_failure(&error))?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let relaunch = Relaunch::of("proxy", path)?;
    let drain_limit = file.drain_limit.map_or(SUCCESSION_LIMIT, |limit| limit.0);
    let mut service = Service::new(proxy, relaunch, drain_limit);
    notify::ready();
    let outcome = match spawn(path, file, command, own_limit) {
        Ok(program) => attend(program, &mut service, &mut signals).await,
        Err(failure) => Err(failure),
    };
    service.leave().await;
    outcome
}

/// From the program's start to its end.
async fn attend(
    mut program: Child,
    service: &mut Service,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let group = program
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let send = |signal| {
        if let Some(group) = group {
            // Who has ended meanwhile needs no signal.
            let _ = kill_process_group(group, signal);
        }
    };
    let reason = loop {
        tokio::select! {
            status = program.wait() => break Reason::Ended(status),
            caught = signals.next() => match caught {
                Caught::Stop => break Reason::Stop,
                Caught::Restart => service.restart(),
                Caught::PassOn(signal) => send(signal),
            },
            happening = service.next() => match happening {
                Happening::Tried(tried) => service.hand_over(*tried).await,
                Happening::Ended(status) => break Reason::Alone(process::service_ended(&status)),
            },
        }
    };
    let status = match reason {
        Reason::Ended(status) => {
            service.drain(Duration::ZERO).await;
            status
        }
        Reason::Alone(failure) => {
            // What it answered would reach nobody.
            let _ = end(&mut program, signals, send).await;
            return Err(failure);
        }
        Reason::Stop => {
            notify::stopping();
            // The program serves what it has begun; a second signal cuts that short.
            let hurried = tokio::select! {
                () = service.drain(DRAIN_LIMIT) => false,
                () = signals.stop() => true,
            };
            if hurried {
                send(Signal::KILL);
            }
            end(&mut program, signals, send).await
        }
    };
    exit_code(&status)
}

/// Asks the program to end, and makes it end when it takes too long or a second signal comes.
async fn end(
    program: &mut Child,
    signals: &mut Signals,
    send: impl Fn(Signal),
) -> io::Result<ExitStatus> {
    send(Signal::TERM);
    tokio::select! {
        status = program.wait() => return status,
        () = sleep(END_LIMIT) => {}
        () = signals.stop() => {}
    }
    send(Signal::KILL);
    program.wait().await
}

fn spawn(
    path: &Path,
    file: &WorkloadFile,
    command: &[String],
    own_limit: Option<u64>,
) -> Result<Child> {
    let failed = |error: io::Error| {
        Failure::failed(
            "program-not-started",
            format!("{} cannot be started", command[0]),
        )
        .caused_by(&error)
    };
    let proxy = format!("http://{}", SocketAddr::new(file.address, OUTBOUND_PORT));
    let mut child = Command::new(programs::isthmus()?);
    child
        .arg("--die-with-parent")
        .arg(std::process::id().to_string())
        .arg("exec-guard")
        .args(own_limit.map(|limit| format!("--nofile={limit}")))
        .arg("--")
        .args(command)
        .env("HTTP_PROXY", &proxy)
        .env("http_proxy", &proxy)
        .env("ISTHMUS_CLUSTER", file.cluster.to_string())
        .env("ISTHMUS_ADDRESS", file.program.address.to_string())
        // A group of its own: a Ctrl-C must reach the proxy before the program.
        .process_group(0);
    if let Some(port) = file.program.port {
        child.env("PORT", port.to_string());
    }
    if let Some(service) = &file.service {
        child.env("ISTHMUS_SERVICE", service.to_string());
    }
    if let Some(directory) = &file.program.directory {
        child.current_dir(config::beside(path, directory));
    }
    if io::stdin().is_terminal() {
        // Reading a terminal from another group would stop the program.
        child.stdin(Stdio::null());
    }
    child.spawn().map_err(failed)
}

/// The program's own exit code, or 128 and the signal that ended it, as shells have it.
fn exit_code(status: &io::Result<ExitStatus>) -> Result<ExitCode> {
    match status {
        Ok(status) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            Ok(ExitCode::from(code))
        }
        Err(error) => Err(
            Failure::failed("program-lost", "the program cannot be waited for").caused_by(error),
        ),
    }
}

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failure::failed("no-signals", "signals cannot be waited for").caused_by(&error)
            })
        };
        Ok(Self {
            stop: [
                catch(SignalKind::terminate())?,
                catch(SignalKind::interrupt())?,
            ],
            passed_on: [
                (Signal::HUP, catch(SignalKind::hangup())?),
                (Signal::USR1, catch(SignalKind::user_defined1())?),
            ],
            restart: process::restart_signal()?,
        })
    }

    async fn next(&mut self) -> Caught {
        let [terminate, interrupt] = &mut self.stop;
        let [(one, hangup), (two, first)] = &mut self.passed_on;
        tokio::select! {
            _ = terminate.recv() => Caught::Stop,
            _ = interrupt.recv() => Caught::Stop,
            _ = hangup.recv() => Caught::PassOn(*one),
            _ = first.recv() => Caught::PassOn(*two),
            _ = self.restart.recv() => Caught::Restart,
        }
    }

    /// Returns when this process is asked to stop; what comes before is for nobody any more.
    async fn stop(&mut self) {
        while !matches!(self.next().await, Caught::Stop) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(command: &[&str], port: Option<u16>) -> WorkloadFile {
        let text = format!(
            "name: a-1\ncluster: a\naddress: 127.1.1.10\ncontrol: ['127.1.1.1:15012']\nstate: s\n\
             account: shop/a\nprogram: {{address: 127.1.1.10, port: {}, command: {command:?}}}",
            port.map_or("null".to_owned(), |port| port.to_string())
        );
        config::parse(Path::new("run.yaml"), &text).unwrap()
    }

    #[test]
    fn addresses_are_filled_in() {
        let path = Path::new("run.yaml");
        let command = ["cart", "--listen", "${ADDRESS}:${PORT}", "$X"];
        assert_eq!(
            command_line(path, &file(&command, Some(8080))).unwrap(),
            ["cart", "--listen", "127.1.1.10:8080", "$X"]
        );
        assert!(command_line(path, &file(&command, None)).is_err());
        assert!(command_line(path, &file(&[], None)).is_err());
    }

    #[test]
    fn exit_codes_are_passed_on() {
        for (wait_status, expect) in [(0, 0), (3 << 8, 3), (9, 137), (15, 143)] {
            let code = exit_code(&Ok(ExitStatus::from_raw(wait_status))).unwrap();
            assert_eq!(code, ExitCode::from(expect), "{wait_status}");
        }
    }
}
