//! One request from its first byte to its last, as this proxy tells of it afterwards.
//!
//! [`Journey::finish`] is the only place that counts and logs requests.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use foldhash::HashMap;
use isthmus_authz::Caller;
use isthmus_balance::Decision;
use isthmus_model::{Backend, ServiceName};
use isthmus_route::Rule;
use isthmus_telemetry::{AccessRecord, Flow, FlowKey, Metrics, Outcome, Reporter, Source};
use isthmus_world::DrainWatch;

use crate::refusal::Refusal;
use crate::told::Told;

/// Counts and logs for one worker.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    flows: RefCell<HashMap<FlowKey, Flow>>,
    access_log: bool,
}

/// What is gathered on the way.
pub(crate) struct Journey {
    started: Instant,
    pub(crate) record: AccessRecord,
    /// Set if the caller asked to be told how its request was decided.
    told: Option<Told>,
    /// For a connection of HTTP/1.1: this process may leave at any time.
    leave: Option<Rc<DrainWatch>>,
    /// The client was told that this is the connection's last reply.
    last: Cell<bool>,
}

impl Recorder {
    pub(crate) fn new(metrics: Arc<Metrics>, access_log: bool) -> Self {
        Self {
            metrics,
            flows: RefCell::default(),
            access_log,
        }
    }

    fn with_flow(&self, key: FlowKey, count: impl FnOnce(&mut Flow)) {
        let mut flows = self.flows.borrow_mut();
        if let Some(flow) = flows.get_mut(&key) {
            return count(flow);
        }
        // Bounded by the registry: beyond its limit all share one flow.
        let mut flow = self.metrics.flow(&key);
        count(&mut flow);
        if flows.len() < Metrics::DEFAULT_MAX_FLOWS {
            flows.insert(key, flow);
        }
    }
}

impl Journey {
    pub(crate) fn start(
        reporter: Reporter,
        protocol: &'static str,
        source: Option<Rc<Source>>,
    ) -> Self {
        Self {
            started: Instant::now(),
            told: None,
            leave: None,
            last: Cell::new(false),
            record: AccessRecord {
                // Known when it is told.
                started: SystemTime::UNIX_EPOCH,
                took: std::time::Duration::ZERO,
                reporter,
                request_id: None,
                protocol,
                source,
                destination_service: None,
                destination_cluster: None,
                destination_workload: None,
                outside: false,
                method: None,
                authority: None,
                path: None,
                route: None,
                response_code: None,
                grpc_status: None,
                refusal: None,
                refused_at: None,
                attempts: 0,
                request_bytes: 0,
                response_bytes: 0,
            },
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal, at: &str) {
        self.record.refusal = Some(refusal.reason);
        self.record.refused_at = Some(at.to_owned());
        self.record.response_code = Some(refusal.reason.status());
    }

    /// The refusal was told as the status of a gRPC call.
    pub(crate) fn refused_call(&mut self, status: u16) {
        self.record.response_code = Some(200);
        self.record.grpc_status = Some(status);
    }

    /// Did the caller ask to be told?
    pub(crate) fn tell(&mut self, asked: bool) {
        self.told = asked.then(Told::default);
    }

    pub(crate) fn matched(&mut self, rule: &Rule) {
        self.record.route = Some(Arc::clone(rule.route_name()));
        if let Some(told) = &mut self.told {
            told.matched(rule);
        }
    }

    pub(crate) fn drawn(&mut self, backend: &Backend) {
        if let Some(told) = &mut self.told {
            told.drawn(backend);
        }
    }

    /// What the first try was decided on.
    pub(crate) fn considered(&mut self, decision: &Decision) {
        if let Some(told) = &mut self.told {
            told.considered(decision);
        }
    }

    /// The reply ends its connection if this process is leaving when it begins. Only HTTP/1.1 says so
    /// in a field.
    pub(crate) fn ends_when_leaving(&mut self, drain: Rc<DrainWatch>) {
        self.leave = Some(drain);
    }

    /// Was the client told that this is the connection's last reply?
    pub(crate) fn was_last(&self) -> bool {
        self.last.get()
    }

    /// What a caller who asked is told, as fields of its reply, and what every caller is told of the
    /// connection. Called when the head goes out.
    pub(crate) fn told(&self) -> Vec<(&'static str, String)> {
        let told = self.told.as_ref();
        let mut fields = told.map_or_else(Vec::new, |told| told.fields(&self.record));
        if self.leave.as_ref().is_some_and(|drain| drain.is_leaving()) {
            self.last.set(true);
            fields.push(("connection", "close".to_owned()));
        }
        fields
    }

    /// The end. Counts, and writes the access log where it is switched on.
    pub(crate) fn finish(mut self, recorder: &Recorder) {
        self.record.took = self.started.elapsed();
        if recorder.access_log {
            let started = SystemTime::now().checked_sub(self.record.took);
            self.record.started = started.unwrap_or(SystemTime::UNIX_EPOCH);
            // Nobody can be told when standard output is gone, and requests go on.
            let _ = std::io::stdout()
                .lock()
                .write_all(self.record.to_json_line().as_bytes());
        }
        let record = self.record;
        let key = FlowKey {
            reporter: record.reporter,
            source: record.source,
            destination_service: record.destination_service,
            destination_cluster: record.destination_cluster,
            outside: record.outside,
        };
        recorder.with_flow(key, |flow| {
            if record.protocol == "tcp" {
                flow.count_tcp_connection();
            } else {
                let outcome = Outcome {
                    status: record.response_code,
                    refusal: record.refusal,
                    grpc_status: record.grpc_status,
                };
                flow.count_request(outcome, record.took);
            }
            for _ in 1..record.attempts {
                flow.count_retry();
            }
            flow.count_request_bytes(record.request_bytes);
            flow.count_response_bytes(record.response_bytes);
        });
    }
}

/// Who has proved at the other end of a session to be this caller.
pub(crate) fn source_of(caller: &Caller) -> Option<Rc<Source>> {
    let Caller::Verified { identity, cluster } = caller else {
        return None;
    };
    let (namespace, account) = (&identity.namespace, &identity.account);
    Some(Rc::new(Source {
        service: ServiceName::new(namespace.as_str(), account.as_str()).ok(),
        identity: identity.clone(),
        cluster: cluster.clone(),
    }))
}

/// A request target's path.
pub(crate) fn without_query(target: &[u8]) -> &[u8] {
    target.split(|&byte| byte == b'?').next().unwrap_or(target)
}

/// Text for people; what is not UTF-8 is shown as such.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
