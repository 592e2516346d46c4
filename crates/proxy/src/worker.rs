//! What one worker thread has: everything that a request passes on its way, and nothing shared with
//! other workers but immutable views.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_api::ExplainReply;
use isthmus_authz::Caller;
use isthmus_codec::memory::MemoryBudget;
use isthmus_model::ServiceName;
use isthmus_telemetry::{Metrics, RefusalReason, Reporter, Source};
use isthmus_wire::proto;
use isthmus_world::{Chance, DrainWatch, RealChance, Snapshot};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use crate::alarm::Alarms;
use crate::config::Config;
use crate::destination::Destinations;
use crate::gate::Gates;
use crate::intake::Intake;
use crate::journey::{Journey, Recorder};
use crate::memory::Memory;
use crate::names::Names;
use crate::outside::Outside;
use crate::program::Program;
use crate::reach::Reach;
use crate::refusal::Refusal;
use crate::sessions::Sessions;
use crate::tls::{Me, Turns};
use crate::view::{Known, Seen, View};

/// How long a first call waits for the control plane's answer.
const NOT_KNOWN_YET: Duration = Duration::from_secs(2);
/// Links and tunnels that nobody has used for this long are closed.
const IDLE: Duration = Duration::from_secs(90);
/// Tunnels are opened anew after this time, so that callers spread over new workloads.
const TUNNEL_LIFE: Duration = Duration::from_mins(5);
/// How often sessions are judged where nothing tells of a change: nothing that is revoked or has expired
/// is used for much longer.
const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// How often that is looked after.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Ports of which it is remembered that they were told of.
const MOST_TOLD: usize = 1024;

/// What all workers of a process have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) config: Arc<Config>,
    pub(crate) me: Arc<Me>,
    pub(crate) view: Snapshot<View>,
    pub(crate) interest: Interest,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: DrainWatch,
    pub(crate) intake: Arc<Intake>,
    pub(crate) memory: MemoryBudget,
}

impl Common {
    /// What decides whether somebody may come in.
    pub(crate) fn doors(&self) -> (Arc<Intake>, DrainWatch) {
        (Arc::clone(&self.intake), self.drain.clone())
    }
}

/// A question about the worker's state, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: proto::Explain,
    pub(crate) answer: oneshot::Sender<Result<ExplainReply, String>>,
}

/// Asks the control plane for services that somebody calls.
#[derive(Debug, Clone)]
pub(crate) struct Interest(mpsc::Sender<ServiceName>);

impl Interest {
    pub(crate) fn new(sender: mpsc::Sender<ServiceName>) -> Self {
        Self(sender)
    }
}

pub(crate) struct Worker {
    pub(crate) common: Common,
    pub(crate) recorder: Recorder,
    pub(crate) reach: Reach,
    pub(crate) sessions: Rc<Sessions>,
    pub(crate) turns: Rc<Turns>,
    pub(crate) destinations: Destinations,
    pub(crate) program: Program,
    pub(crate) outside: Outside,
    pub(crate) names: Names,
    pub(crate) gates: Gates,
    pub(crate) memory: Rc<Memory>,
    pub(crate) alarms: Alarms,
    /// The program beside this proxy, as it calls others.
    pub(crate) caller: Arc<Caller>,
    /// The same, as requests tell of it.
    source: Rc<Source>,
    seen: RefCell<Rc<Seen>>,
    /// Ports that would be better off if somebody declared what is spoken on them.
    told: RefCell<HashSet<(ServiceName, u16)>>,
    chance: RefCell<RealChance>,
}

impl Worker {
    pub(crate) fn new(common: Common, chance: RealChance) -> Rc<Self> {
        let recorder = Recorder::new(Arc::clone(&common.metrics), common.config.access_log);
        let sessions = Rc::new(Sessions::default());
        let (me, metrics) = (Arc::clone(&common.me), Arc::clone(&common.metrics));
        let turns = Rc::new(Turns::default());
        let (watched, memory) = (Rc::clone(&sessions), common.memory.clone());
        let reach = Reach::new(me, Rc::clone(&turns), metrics, watched, memory);
        let caller = Caller::Local {
            identity: common.me.identity.clone(),
        };
        let source = Source {
            identity: common.me.identity.clone(),
            service: common.config.own_service().cloned(),
            cluster: common.me.cluster.clone(),
        };
        Rc::new(Self {
            caller: caller.into(),
            source: source.into(),
            seen: RefCell::new(Seen::hold(common.view.load_full())),
            alarms: Alarms::default(),
            program: Program::of(&common.config, Arc::clone(&common.metrics)),
            outside: Outside::new(Arc::clone(&common.config)),
            names: Names::default(),
            gates: Gates::default(),
            memory: Memory::new(common.memory.clone()),
            told: RefCell::default(),
            recorder,
            reach,
            sessions,
            turns,
            destinations: Destinations::new(Instant::now()),
            chance: RefCell::new(chance),
            common,
        })
    }

    /// The name of this process.
    pub(crate) fn name(&self) -> &str {
        &self.common.config.name
    }

    /// Something begins that the program beside this proxy calls for.
    pub(crate) fn begin(&self, protocol: &'static str) -> Journey {
        Journey::start(Reporter::Source, protocol, Some(Rc::clone(&self.source)))
    }

    /// Is it the first time that this port is to be told of?
    pub(crate) fn first_told(&self, service: &ServiceName, port: u16) -> bool {
        let mut told = self.told.borrow_mut();
        told.len() < MOST_TOLD && told.insert((service.clone(), port))
    }

    /// A uniformly distributed number.
    pub(crate) fn draw(&self) -> u64 {
        self.chance.borrow_mut().draw()
    }

    /// The newest view.
    fn view(&self) -> Rc<Seen> {
        let newest = self.common.view.load();
        let mut seen = self.seen.borrow_mut();
        if !Arc::ptr_eq(&newest, &seen) {
            *seen = Seen::hold(Arc::clone(&newest));
        }
        Rc::clone(&seen)
    }

    /// A view in which `service` is known, one way or the other. A service that nobody has called
    /// before is asked for, with a bounded wait.
    ///
    /// Errors: the control plane has not answered in time.
    pub(crate) async fn view_with(&self, service: &ServiceName) -> Result<Rc<Seen>, Refusal> {
        let view = self.view();
        if is_known(&view, service) {
            return Ok(view);
        }
        let mut published = self.common.view.subscribe();
        let deadline = tokio::time::Instant::now() + NOT_KNOWN_YET;
        let late = || {
            let detail = format!("asked for service {service}, no answer in {NOT_KNOWN_YET:?}");
            Refusal::new(RefusalReason::NotKnownYet, detail)
        };
        let asked = self.common.interest.0.send(service.clone());
        timeout_at(deadline, asked)
            .await
            .map_err(|_| late())?
            .map_err(|_| late())?;
        loop {
            let view = self.view();
            if is_known(&view, service) {
                return Ok(view);
            }
            match timeout_at(deadline, published.changed()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(late()),
            }
        }
    }

    /// Ends sessions that would not be accepted any more: as soon as the view changes, and in time when
    /// trust or the clock does.
    pub(crate) async fn keep_judging(self: Rc<Self>) {
        let mut published = self.common.view.subscribe();
        loop {
            // Where nobody publishes any more, time still passes.
            let told = async {
                if !published.changed().await {
                    std::future::pending::<()>().await;
                }
            };
            let _ = timeout(JUDGE_EVERY, told).await;
            let (view, trust) = (self.common.view.load_full(), self.common.me.trust.load());
            let metrics = &self.common.metrics;
            self.sessions
                .judge(&view, &trust, metrics, SystemTime::now());
        }
    }

    /// Closes what nobody uses, until the worker ends.
    pub(crate) async fn keep_tidy(self: Rc<Self>) {
        let mut every = tokio::time::interval(TIDY_EVERY);
        loop {
            every.tick().await;
            let now = Instant::now();
            self.reach.tidy(IDLE, now);
            self.destinations.tidy(IDLE, TUNNEL_LIFE, now);
            self.program.tidy(now);
            self.outside.tidy(now);
        }
    }
}

fn is_known(view: &View, service: &ServiceName) -> bool {
    match view.find(service) {
        // A route may lead to services that were not asked for before.
        Some(Known::Service(found)) => {
            found.backends().all(|backend| view.find(backend).is_some())
                && view.policies().is_some()
        }
        Some(Known::Absent | Known::Unusable(_)) => true,
        None => false,
    }
}
