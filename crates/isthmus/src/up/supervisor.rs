//! The loop of `up`: next event, the fleet decides, actions are carried out.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_lab::relay::{Mode, RelayHandle, Way};
use isthmus_model::ClusterName;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::children::{Child, Nursery};
use super::event::{Event, Events, answer, tell};
use super::fleet::{Action, Fleet, ProcessId, Stage, State};
use super::metrics::{self, FlowKey, FlowRate, Flows};
use super::plan::Plan;
use super::readiness::{self, Views};
use super::screen::{self, Picture};
use super::socket::{LinkMode, LinkStatus, ProcessStatus, Reply, Request, UpStatus};
use super::{restart, start, watch as watching};
use crate::api_client::Credentials;
use crate::failure::{Failure, Result};
use crate::home::Home;

/// What a supervisor is given.
pub(crate) struct Charge {
    pub(crate) home: Home,
    /// The home is the one that is found without a flag.
    pub(crate) usual_home: bool,
    pub(crate) credentials: Credentials,
    pub(crate) nursery: Nursery,
    pub(crate) relay: RelayHandle,
    pub(crate) apply: bool,
}

struct Supervisor {
    charge: Charge,
    plan: Arc<Plan>,
    fleet: Fleet,
    children: BTreeMap<ProcessId, Child>,
    events: Events,
    views: Views,
    missing: Vec<String>,
    /// When people were last told what a mesh that is starting waits for.
    told: Instant,
    /// Has the mesh been ready since it was started?
    ready: watch::Sender<bool>,
    flows: Option<(Instant, Flows)>,
    rates: BTreeMap<FlowKey, FlowRate>,
    notes: VecDeque<String>,
    /// Of those, what stays true however much happens after it.
    remarks: Vec<String>,
    display: Display,
    begun: Instant,
    failure: Option<Failure>,
}

/// Where things are shown.
enum Display {
    /// Redrawn in place; the number of lines that stand there now.
    Terminal { lines: usize },
    /// One line per change.
    Lines,
}

/// A mesh that is not ready for so long says again and again what it waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Notes that stay on the screen.
const NOTES_SHOWN: usize = 6;
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Events that may wait; senders wait beyond it.
const QUEUE: usize = 256;

/// Runs the mesh until it has been stopped.
pub(crate) async fn supervise(charge: Charge, plan: Plan) -> Result<ExitCode> {
    let (events, mut inbox) = mpsc::channel(QUEUE);
    let mut interrupts = signals(SignalKind::interrupt())?;
    let mut terminations = signals(SignalKind::terminate())?;
    let listener = listen(&charge.home)?;
    let mut supervisor = Supervisor::new(charge, plan, events.clone());
    let mut tasks = supervisor.tasks(listener);
    let mut redraw = interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    supervisor.start_controls();
    while !supervisor.fleet.finished() {
        let timeout = supervisor.fleet.next_timeout();
        let actions = tokio::select! {
            Some(event) = inbox.recv() => supervisor.on_event(event),
            _ = interrupts.recv() => supervisor.on_stop_signal(),
            _ = terminations.recv() => supervisor.on_stop_signal(),
            () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                supervisor.fleet.tick(Instant::now())
            }
            _ = redraw.tick() => {
                supervisor.redraw();
                Vec::new()
            }
        };
        supervisor.perform(actions);
    }
    tasks.shutdown().await;
    // The next start makes its own; a stale one only refuses connections.
    let _ = std::fs::remove_file(supervisor.charge.home.socket());
    supervisor.say("stopped".to_owned());
    supervisor.failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn signals(kind: SignalKind) -> Result<SignalStream> {
    signal(kind).map_err(|error| {
        Failure::failed("no-signals", "signals cannot be waited for").caused_by(&error)
    })
}

/// The lock is held: whatever stands at the socket's path is left over.
fn listen(home: &Home) -> Result<UnixListener> {
    let path = home.socket();
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).map_err(|error| {
        Failure::failed(
            "no-socket",
            format!("{} cannot be listened on", path.display()),
        )
        .caused_by(&error)
        .next("the path of a socket has at most 107 bytes: choose a shorter --home if it is longer")
    })
}

impl Supervisor {
    fn new(charge: Charge, plan: Plan, events: Events) -> Self {
        let fleet = Fleet::new(plan.processes.iter().map(|process| process.stage));
        let display = if io::stdout().is_terminal() {
            Display::Terminal { lines: 0 }
        } else {
            Display::Lines
        };
        Self {
            plan: Arc::new(plan),
            charge,
            fleet,
            children: BTreeMap::new(),
            events,
            views: Views::new(),
            missing: vec!["everything".to_owned()],
            told: Instant::now(),
            ready: watch::Sender::new(false),
            flows: None,
            rates: BTreeMap::new(),
            notes: VecDeque::new(),
            remarks: Vec::new(),
            display,
            begun: Instant::now(),
            failure: None,
        }
    }

    /// Everything that goes on beside the loop and reports to it.
    fn tasks(&self, listener: UnixListener) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(answer(listener, self.events.clone()));
        let credentials = || self.charge.credentials.clone();
        let events = || self.events.clone();
        tasks.spawn(start::bring_up(
            self.plan.clone(),
            credentials(),
            self.charge.apply,
            self.charge.home.clone(),
            events(),
        ));
        for index in 0..self.plan.clusters.len() {
            let ready = self.ready.subscribe();
            tasks.spawn(watching::view(
                self.plan.clone(),
                index,
                credentials(),
                ready,
                events(),
            ));
        }
        if matches!(self.display, Display::Terminal { .. }) {
            tasks.spawn(watching::count(self.plan.clone(), events()));
        }
        tasks
    }

    fn start_controls(&mut self) {
        self.say(format!(
            "mesh {} starts at 127.{}.0.0/16",
            self.plan.mesh, self.plan.number
        ));
        for id in self.of(|process| process.stage == Stage::Control) {
            let actions = self.fleet.admit(id, Instant::now());
            self.perform(actions);
        }
    }

    fn on_event(&mut self, event: Event) -> Vec<Action> {
        let now = Instant::now();
        match event {
            Event::Ended(id, status) => {
                self.note_end(id, &status);
                self.children.remove(&id);
                self.fleet.ended(id, now)
            }
            Event::Admitted(id) => self.fleet.admit(id, now),
            Event::Note(note) => {
                self.remarks.push(note.clone());
                self.say(note);
                Vec::new()
            }
            Event::Failed(failure) => {
                self.say(format!("stopping: {}", failure.what));
                self.failure.get_or_insert(failure);
                self.fleet.stop(now)
            }
            Event::Viewed(cluster, view) => {
                self.on_view(cluster, view.map(|view| *view));
                Vec::new()
            }
            Event::Counted(flows) => {
                if let Some((then, before)) = &self.flows {
                    self.rates = metrics::rates(before, &flows, now.duration_since(*then));
                }
                self.flows = Some((now, flows));
                Vec::new()
            }
            Event::Restart(id) => self.fleet.restart(id),
            Event::Asked(Request::Restart { process }, reply) => {
                self.restart(&process, reply);
                Vec::new()
            }
            Event::Asked(request, reply) => {
                let (answer, actions) = self.on_request(&request);
                // Who asked may have gone.
                let _ = reply.send(answer);
                actions
            }
        }
    }

    fn on_stop_signal(&mut self) -> Vec<Action> {
        if self.fleet.is_stopping() {
            self.fleet.stop_now()
        } else {
            self.say("stopping; once more kills everything at once".to_owned());
            self.fleet.stop(Instant::now())
        }
    }

    fn on_view(&mut self, cluster: ClusterName, view: Option<isthmus_api::StatusView>) {
        match view {
            Some(view) => self.views.insert(cluster, view),
            None => self.views.remove(&cluster),
        };
        let was_ready = self.missing.is_empty();
        self.missing = readiness::missing(&self.plan, &self.views);
        let is_ready = self.missing.is_empty();
        if is_ready && !*self.ready.borrow() {
            self.ready.send_replace(true);
            let seconds = self.begun.elapsed().as_secs_f64();
            self.say(format!("ready after {seconds:.1} s"));
            if matches!(self.display, Display::Lines) {
                // The word that scripts wait for.
                let _ = writeln!(io::stdout(), "ready");
            }
        } else if is_ready != was_ready && *self.ready.borrow() && !self.fleet.is_stopping() {
            match self.missing.first() {
                None => self.say("everything is healthy again".to_owned()),
                Some(first) => self.say(format!("not healthy: {first}")),
            }
        } else if !*self.ready.borrow() && self.told.elapsed() > PATIENCE {
            self.told = Instant::now();
            self.say(format!("not ready yet: {}", self.missing.join("; ")));
        }
    }

    fn on_request(&mut self, request: &Request) -> (Reply, Vec<Action>) {
        let now = Instant::now();
        match request {
            Request::Status => (Reply::Status(self.status()), Vec::new()),
            Request::Links => (
                Reply::Links {
                    links: self.links(),
                },
                Vec::new(),
            ),
            Request::Down => {
                self.say("stopping on request".to_owned());
                (done("stopping"), self.fleet.stop(now))
            }
            Request::Link {
                between: (one, other),
                mode,
            } => (self.set_link(one, other, *mode), Vec::new()),
            Request::KillCluster { cluster } => self.kill(Some(cluster), None),
            Request::KillControl { cluster } => self.kill(cluster.as_ref(), Some(Stage::Control)),
            Request::StartCluster { cluster } => self.start(Some(cluster), None),
            Request::StartControl { cluster } => self.start(cluster.as_ref(), Some(Stage::Control)),
            Request::Restart { process } => (restart::unknown(process, &self.plan), Vec::new()),
        }
    }

    /// Answers `reply` when it is known how it went.
    fn restart(&mut self, process: &str, reply: oneshot::Sender<Reply>) {
        let mut ids = self.of(|other| other.full_name() == process).into_iter();
        let found = ids.next().filter(|id| {
            let serves = self.plan.processes[*id].stage != Stage::Control;
            serves && self.fleet.state(*id) == State::Running
        });
        match found {
            Some(id) => {
                self.say(format!("{process} is restarted"));
                let address = self.plan.processes[id].address;
                let name = process.to_owned();
                tokio::spawn(restart::watch(
                    id,
                    name,
                    address,
                    self.events.clone(),
                    reply,
                ));
            }
            // Who asked may have gone.
            None => drop(reply.send(restart::unknown(process, &self.plan))),
        }
    }

    fn set_link(&mut self, one: &str, other: &str, mode: LinkMode) -> Reply {
        let names = [
            (format!("{one}-{other}"), Way::Out),
            (format!("{other}-{one}"), Way::Back),
        ];
        let verb = match mode {
            LinkMode::Open => "restored",
            LinkMode::Cut => "cut",
            LinkMode::BlackHole => "black-holed",
            LinkMode::Silent => "black-holed one way",
            LinkMode::SilentBack => "black-holed the other way",
        };
        let set = names.iter().any(|(name, way)| {
            let mode = match mode {
                LinkMode::Open => Mode::Open,
                LinkMode::Cut => Mode::Cut,
                LinkMode::BlackHole => Mode::BlackHole,
                LinkMode::Silent => Mode::Silent(*way),
                LinkMode::SilentBack => Mode::Silent(way.other()),
            };
            self.charge.relay.set_mode(name, mode).is_ok()
        });
        if !set {
            let links: Vec<&str> = self.charge.relay.links().collect();
            return Reply::Refused {
                what: format!("there is no link between {one} and {other}"),
                next: format!("the links are: {}", links.join(", ")),
            };
        }
        let message = format!("link {one} - {other} {verb}");
        self.say(message.clone());
        done(&message)
    }

    fn links(&self) -> Vec<LinkStatus> {
        let relay = &self.charge.relay;
        let link = |name: &str| {
            let counters = relay.counters(name).ok()?;
            let mode = match relay.mode(name).ok()? {
                Mode::Open => LinkMode::Open,
                Mode::Cut => LinkMode::Cut,
                Mode::BlackHole => LinkMode::BlackHole,
                Mode::Silent(Way::Out) => LinkMode::Silent,
                Mode::Silent(Way::Back) => LinkMode::SilentBack,
            };
            Some(LinkStatus {
                name: name.to_owned(),
                mode,
                connections: counters.connections,
                open: counters.open,
                bytes_out: counters.bytes_out,
                bytes_back: counters.bytes_back,
            })
        };
        relay.links().filter_map(link).collect()
    }

    /// The processes that a request means; `Err`: there is no such cluster.
    fn meant(
        &self,
        cluster: Option<&String>,
        stage: Option<Stage>,
    ) -> Result<Vec<ProcessId>, Reply> {
        let exists = |name: &&String| {
            self.plan
                .clusters
                .iter()
                .any(|each| each.name.as_str() == *name)
        };
        if let Some(name) = cluster.filter(|name| !exists(name)) {
            let names: Vec<&str> = self
                .plan
                .clusters
                .iter()
                .map(|each| each.name.as_str())
                .collect();
            return Err(Reply::Refused {
                what: format!("there is no cluster {name}"),
                next: format!("the clusters are: {}", names.join(", ")),
            });
        }
        Ok(self.of(|process| {
            cluster.is_none_or(|name| process.cluster.as_str() == name)
                && stage.is_none_or(|stage| process.stage == stage)
        }))
    }

    fn kill(&mut self, cluster: Option<&String>, stage: Option<Stage>) -> (Reply, Vec<Action>) {
        let ids = match self.meant(cluster, stage) {
            Err(refused) => return (refused, Vec::new()),
            Ok(ids) => ids,
        };
        let all_are = ids.iter().all(|id| self.fleet.state(*id) == State::Killed);
        let what = if all_are {
            "was killed already"
        } else {
            "killed"
        };
        let message = format!("{} {what}", describe(cluster, stage));
        self.say(message.clone());
        (done(&message), self.fleet.kill(&ids))
    }

    fn start(&mut self, cluster: Option<&String>, stage: Option<Stage>) -> (Reply, Vec<Action>) {
        let ids = match self.meant(cluster, stage) {
            Err(refused) => return (refused, Vec::new()),
            Ok(ids) => ids,
        };
        let any_is = ids.iter().any(|id| self.fleet.state(*id) == State::Killed);
        let what = if any_is { "started" } else { "was not killed" };
        let message = format!("{} {what}", describe(cluster, stage));
        self.say(message.clone());
        (done(&message), self.fleet.start(&ids, Instant::now()))
    }

    fn status(&self) -> UpStatus {
        let process = |(id, process): (ProcessId, &super::planned::PlannedProcess)| ProcessStatus {
            cluster: process.cluster.to_string(),
            name: process.name.clone(),
            state: screen::state_name(self.fleet.state(id)).to_owned(),
        };
        UpStatus {
            pid: std::process::id(),
            ready: self.missing.is_empty(),
            waiting: self.missing.clone(),
            remarks: self.remarks.clone(),
            processes: self
                .plan
                .processes
                .iter()
                .enumerate()
                .map(process)
                .collect(),
        }
    }

    fn of(&self, wanted: impl Fn(&super::planned::PlannedProcess) -> bool) -> Vec<ProcessId> {
        let all = self.plan.processes.iter().enumerate();
        all.filter(|(_, process)| wanted(process))
            .map(|(id, _)| id)
            .collect()
    }

    /// Carries out what the fleet has decided, and what follows from that.
    fn perform(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Spawn(id) => queue.extend(self.spawn(id)),
                Action::Signal(id, signal) => {
                    if let Some(child) = self.children.get(&id) {
                        child.signal(signal);
                    }
                }
                Action::Restarting(id, pause) => {
                    let renewed = start::admit_again(
                        self.plan.clone(),
                        self.charge.credentials.clone(),
                        vec![id],
                    );
                    tokio::spawn(renewed);
                    let name = self.plan.processes[id].full_name();
                    self.say(format!("{name} starts again in {} ms", pause.as_millis()));
                }
            }
        }
    }

    fn spawn(&mut self, id: ProcessId) -> Vec<Action> {
        let process = &self.plan.processes[id];
        let events = self.events.clone();
        let spawned = self.charge.nursery.spawn(process, move |status| {
            tokio::spawn(async move { tell(&events, Event::Ended(id, status)).await });
        });
        match spawned {
            Ok(child) => {
                self.children.insert(id, child);
                self.say(format!("{} started", self.plan.processes[id].full_name()));
                Vec::new()
            }
            Err(error) => {
                self.say(format!(
                    "{} cannot be started: {error}",
                    process.full_name()
                ));
                self.fleet.ended(id, Instant::now())
            }
        }
    }

    fn note_end(&mut self, id: ProcessId, status: &io::Result<ExitStatus>) {
        let name = self.plan.processes[id].full_name();
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "for an unknown reason".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        match self.fleet.state(id) {
            State::Running => {
                let said = self
                    .children
                    .get(&id)
                    .map(Child::last_line)
                    .unwrap_or_default();
                let said = if said.is_empty() {
                    String::new()
                } else {
                    format!(", last words: {said}")
                };
                self.say(format!("{name} ended unexpectedly ({how}){said}"));
            }
            _ => self.say(format!("{name} ended ({how})")),
        }
    }

    /// Tells people that something has happened.
    fn say(&mut self, text: String) {
        match self.display {
            // Output that nobody can read any more must not stop the mesh.
            Display::Lines => {
                let _ = writeln!(io::stdout(), "{text}");
            }
            Display::Terminal { .. } => {
                if self.notes.len() == NOTES_SHOWN {
                    self.notes.pop_front();
                }
                self.notes.push_back(text);
            }
        }
    }

    fn redraw(&mut self) {
        let Display::Terminal { lines } = self.display else {
            return;
        };
        let states: Vec<State> = (0..self.plan.processes.len())
            .map(|id| self.fleet.state(id))
            .collect();
        let text = screen::render(&Picture {
            plan: &self.plan,
            states: &states,
            views: &self.views,
            rates: &self.rates,
            missing: &self.missing,
            notes: self.notes.make_contiguous(),
            uptime: self.begun.elapsed(),
            home: (!self.charge.usual_home).then(|| self.charge.home.path()),
        });
        let (rows, columns) = match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 => (usize::from(size.ws_row), usize::from(size.ws_col)),
            _ => (24, 80),
        };
        let text = screen::fit(&text, rows, columns);
        let mut out = io::stdout().lock();
        let up = match lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        };
        // As in `say`.
        let _ = write!(out, "{up}\x1b[J{text}").and_then(|()| out.flush());
        self.display = Display::Terminal {
            lines: text.lines().count(),
        };
    }
}

fn done(message: &str) -> Reply {
    Reply::Done {
        message: message.to_owned(),
    }
}

fn describe(cluster: Option<&String>, stage: Option<Stage>) -> String {
    match (cluster, stage) {
        (Some(cluster), None) => format!("cluster {cluster}"),
        (Some(cluster), Some(_)) => format!("control plane of {cluster}"),
        (None, _) => "all control planes".to_owned(),
    }
}
