//! What is decided about a request before its first try: the service, the port, the backend, and
//! that it may be called. The same for HTTP and plain TCP.

use std::rc::Rc;
use std::sync::Arc;

use isthmus_authz::{Denied, Permit};
use isthmus_codec::Fields;
use isthmus_model::{Backend, ServiceName, TrafficSettings};
use isthmus_route::{Headers, RequestView, Rule};
use isthmus_telemetry::RefusalReason;

use super::affinity::Affinity;
use crate::destination::DestinationKey;
use crate::refusal::Refusal;
use crate::view::{Known, Seen, ServiceView, View};
use crate::worker::Worker;

/// How a client has come here.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// To the proxy itself: each request names its service.
    Explicit,
    /// To one port of one service, by CONNECT or by a listener that leads there.
    Service { service: ServiceName, port: u16 },
}

/// What has been decided before the first try; holds one view for the whole request.
pub(super) struct Decided {
    pub(super) view: Rc<Seen>,
    pub(super) key: DestinationKey,
    pub(super) permit: Permit,
    pub(super) settings: Arc<TrafficSettings>,
    /// The service that was called: whose retry budget is drawn on.
    pub(super) called: ServiceName,
    pub(super) draw: u64,
    /// What the request has in common with others that go to the same workload.
    pub(super) affinity: Option<Affinity>,
}

impl Decided {
    /// For work that outlives the request.
    pub(super) fn for_background(&self) -> Self {
        Self {
            view: Rc::clone(&self.view),
            key: self.key.clone(),
            permit: self.permit.clone(),
            settings: Arc::clone(&self.settings),
            called: self.called.clone(),
            draw: self.draw,
            affinity: self.affinity.clone(),
        }
    }

    /// By which a workload is chosen, where the policy hashes.
    pub(super) fn hash_key(&self) -> Option<u64> {
        self.affinity.as_ref().map(Affinity::key)
    }

    /// What the client is told with its reply for the next time.
    pub(super) fn answer(&self, reply: &mut Fields) {
        if let Some(affinity) = &self.affinity {
            affinity.answer(reply);
        }
    }

    /// The service that the backend names.
    pub(super) fn service(&self) -> Result<&Arc<ServiceView>, Refusal> {
        find_service(&self.view, &self.key.service)
    }
}

/// The last steps, the same for requests and for plain TCP.
pub(super) fn decide_backend(
    worker: &Worker,
    view: Rc<Seen>,
    called: &ServiceName,
    backend: &Backend,
    port: u16,
    settings: Arc<TrafficSettings>,
    draw: u64,
) -> Result<Decided, Refusal> {
    let service = find_service(&view, &backend.service)?;
    let same = backend.service == *called;
    let port = find_port(service, backend.port.or(same.then_some(port)))?;
    let permit = authorize(worker, &view, service)?;
    let key = DestinationKey {
        service: backend.service.clone(),
        port,
        subset: backend.subset.clone(),
    };
    Ok(Decided {
        view,
        key,
        permit,
        settings,
        called: called.clone(),
        draw,
        affinity: None,
    })
}

pub(super) fn find_service<'v>(
    view: &'v View,
    service: &ServiceName,
) -> Result<&'v Arc<ServiceView>, Refusal> {
    match view.find(service) {
        Some(known) => usable(known, service),
        None => Err(Refusal::new(
            RefusalReason::NotKnownYet,
            service.to_string(),
        )),
    }
}

fn usable<'k>(known: &'k Known, service: &ServiceName) -> Result<&'k Arc<ServiceView>, Refusal> {
    match known {
        Known::Service(found) => Ok(found),
        Known::Absent => Err(Refusal::new(
            RefusalReason::NoSuchService,
            service.to_string(),
        )),
        Known::Unusable(reason) => {
            let detail = format!("the declaration of {service} cannot be used: {reason}");
            Err(Refusal::new(RefusalReason::NotKnownYet, detail))
        }
    }
}

pub(super) fn find_port(service: &ServiceView, wanted: Option<u16>) -> Result<u16, Refusal> {
    service
        .service
        .find_port(wanted)
        .map(|port| port.port)
        .ok_or_else(|| {
            let ports: Vec<String> = service
                .service
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            let wanted = wanted.unwrap_or_default();
            let name = &service.service.name;
            let detail = format!("{name} has no port {wanted}, only {}", ports.join(", "));
            Refusal::new(RefusalReason::UnknownPort, detail)
        })
}

/// The rule that the request matches.
pub(super) fn find_rule<'s, H: Headers + ?Sized>(
    called: &'s ServiceView,
    port: u16,
    request: &RequestView<'_, H>,
) -> Result<&'s Rule, Refusal> {
    let matched = called.routes.find(port, request).ok_or_else(|| {
        let name = &called.service.name;
        let detail = format!(
            "{name}: no rule matches {} {}",
            request.method, request.path
        );
        Refusal::new(RefusalReason::NoRoute, detail)
    })?;
    Ok(matched.rule())
}

pub(super) fn pick_backend(rule: &Rule, draw: u64) -> Result<&Backend, Refusal> {
    rule.pick_backend(draw).ok_or_else(|| {
        let route = rule
            .route()
            .map_or_else(|| "default".to_owned(), ToString::to_string);
        Refusal::new(
            RefusalReason::NoBackend,
            format!("route {route}, rule {}", rule.index()),
        )
    })
}

fn authorize(worker: &Worker, view: &View, service: &ServiceView) -> Result<Permit, Refusal> {
    let policies = view.policies().ok_or(RefusalReason::NotKnownYet)?;
    policies
        .authorize(&worker.caller, &service.service)
        .map_err(|denied| refuse_denied(&denied))
}

/// How a denial is told to who was denied.
pub(crate) fn refuse_denied(denied: &Denied) -> Refusal {
    let reason = match denied {
        Denied::NotExported { .. } => RefusalReason::NotExported,
        Denied::ForeignTrustDomain { .. } => RefusalReason::NotAuthorized,
    };
    Refusal::new(reason, denied.to_string())
}
