//! Answers where a request would go, and why, from the same view, balancer state and engines that
//! carry requests. Sends nothing and changes nothing that a request would not change.
//!
//! Draws nothing either: what the draw of a request decides is answered with all that it can be.

use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_api::{
    BackendView, CandidateView, ChoiceView, ExplainReply, RefusalView, SettingView, Way,
    WorkloadView,
};
use isthmus_balance::{Considered, Possible};
use isthmus_codec::Fields;
use isthmus_codec::http1::strip_hop_by_hop;
use isthmus_model::{Handle, ServiceName, Target};
use isthmus_route::RequestView;
use isthmus_route::settings::Setting;
use isthmus_wire::proto;

use super::connect::wants_tunnel;
use super::decided::{Decided, decide_backend, find_port, find_rule, find_service, pick_backend};
use super::request::HeaderView;
use super::settle::{Avoided, check_chosen, consider};
use crate::destination::Destination;
use crate::journey::without_query;
use crate::refusal::Refusal;
use crate::told::{TELL_FIELD, rule_name};
use crate::worker::Worker;

/// Stands for the draw where every outcome is described.
const ANY_DRAW: u64 = 0;

/// Errors: the question holds what no request can.
pub(crate) async fn explain(
    worker: &Worker,
    question: &proto::Explain,
) -> Result<ExplainReply, String> {
    let service = ServiceName::new(&question.namespace, &question.service)
        .map_err(|error| format!("{}/{}: {error}", question.namespace, question.service))?;
    if !question.path.starts_with('/') {
        return Err(format!("path: {:?} does not begin with /", question.path));
    }
    let fields = fields(question, &service)?;
    let mut reply = ExplainReply {
        process: worker.name().to_owned(),
        service: service.to_string(),
        route: None,
        rule: None,
        refusal: None,
        settings: Vec::new(),
        backends: Vec::new(),
    };
    if let Err(refusal) = fill(worker, question, &service, &fields, &mut reply).await {
        reply.refusal = Some(said(&refusal));
    }
    Ok(reply)
}

/// The header of the request, as the router would see it.
fn fields(question: &proto::Explain, service: &ServiceName) -> Result<Fields, String> {
    let mut fields = Fields::new();
    for header in &question.headers {
        fields
            .push(header.name.clone(), header.value.clone())
            .map_err(|error| format!("header {:?}: {error}", header.name))?;
    }
    fields.remove(TELL_FIELD);
    strip_hop_by_hop(&mut fields);
    if !fields.contains("host") {
        fields
            .push("host", service.host())
            .map_err(|error| format!("host: {error}"))?;
    }
    Ok(fields)
}

async fn fill(
    worker: &Worker,
    question: &proto::Explain,
    service: &ServiceName,
    fields: &Fields,
    reply: &mut ExplainReply,
) -> Result<(), Refusal> {
    let view = worker.view_with(service).await?;
    let called = find_service(&view, service)?;
    let wanted = u16::try_from(question.port).ok().filter(|port| *port != 0);
    let port = find_port(called, wanted)?;
    let path = without_query(question.path.as_bytes());
    let request = RequestView {
        method: &question.method,
        path: std::str::from_utf8(path).unwrap_or_default(),
        headers: &HeaderView(fields),
    };
    let rule = find_rule(called, port, &request)?;
    let settings = called.settings(rule);
    reply.route = Some(rule.route_name().to_string());
    reply.rule = Some(rule_name(rule));
    let given = called.explain_settings(rule).into_iter();
    reply.settings = given.filter_map(setting).collect();
    pick_backend(rule, ANY_DRAW)?;
    for backend in rule.backends() {
        let decided = decide_backend(
            worker,
            view.clone(),
            service,
            backend,
            port,
            settings.clone(),
            ANY_DRAW,
        );
        let mut described = BackendView {
            service: backend.service.to_string(),
            subset: backend.subset.to_string(),
            weight: backend.weight,
            refusal: None,
            candidates: Vec::new(),
            choices: Vec::new(),
        };
        let outcome = decided.and_then(|decided| describe(worker, &decided, &mut described));
        described.refusal = outcome.err().as_ref().map(said);
        reply.backends.push(described);
    }
    Ok(())
}

/// `None`: it is the default.
fn setting((setting, is_rule_s): (Setting, bool)) -> Option<SettingView> {
    let (field, value) = (setting.field.to_owned(), setting.value.to_string());
    if is_rule_s {
        return Some(SettingView {
            field,
            value,
            policy: None,
            origin: None,
            target: None,
            enforced: false,
        });
    }
    let source = setting.source?;
    let target = match &source.target {
        Target::Mesh => "mesh".to_owned(),
        Target::Namespace(namespace) => format!("namespace {namespace}"),
        Target::Service(service) => format!("service {service}"),
        Target::Route { namespace, name } => format!("route {namespace}/{name}"),
    };
    Some(SettingView {
        field,
        value,
        policy: Some(format!("{}/{}", source.namespace, source.name)),
        origin: source.origin.cluster().map(ToString::to_string),
        target: Some(target),
        enforced: source.enforced,
    })
}

/// What becomes of a request that is drawn for the backend. Errors: it is refused.
fn describe(
    worker: &Worker,
    decided: &Decided,
    described: &mut BackendView,
) -> Result<(), Refusal> {
    let destination = worker.destinations.find(&decided.key);
    let decision = consider(&destination, decided, &Avoided::default(), Instant::now())?;
    described.candidates = decision.candidates().iter().map(candidate).collect();
    let choice = |possible: &Possible<'_>| choice(&destination, decided, possible);
    described.choices = decision.possible().iter().map(choice).collect();
    check_chosen(decided, &decision)
}

fn candidate(considered: &Considered) -> CandidateView {
    let share = &considered.share;
    CandidateView {
        cluster: share.cluster.to_string(),
        healthy: share.healthy,
        total: share.total,
        rtt_ms: share.rtt.map(milliseconds),
        age_ms: share.age.as_millis().try_into().unwrap_or(u64::MAX),
        stale: considered.is_stale(),
        why_not: considered.why_not().map(str::to_owned),
    }
}

fn choice(destination: &Rc<Destination>, decided: &Decided, possible: &Possible<'_>) -> ChoiceView {
    let mut choice = ChoiceView {
        cluster: None,
        reason: possible.reason.code().to_owned(),
        share: possible.share,
        workloads: Vec::new(),
        opens_tunnel: false,
        unreachable: None,
    };
    let Some(chosen) = possible.chosen else {
        return choice;
    };
    let (cluster, local) = (&chosen.share.cluster, chosen.share.local);
    choice.cluster = Some(cluster.to_string());
    // Forgets tunnels that are broken, as a request would.
    choice.opens_tunnel = !local && wants_tunnel(destination, decided, cluster);
    let way = if local { Way::Direct } else { Way::Tunnel };
    let workloads = destination.describe(cluster, Instant::now());
    choice.workloads = workloads.iter().map(|known| workload(known, way)).collect();
    choice
}

fn workload(known: &isthmus_balance::WorkloadView<Handle>, way: Way) -> WorkloadView {
    WorkloadView {
        handle: known.key.to_string(),
        way,
        possible: known.possible,
        latency_ms: known.latency.map(milliseconds),
        in_flight: known.in_flight,
    }
}

/// To the microsecond, which is as good as any of them is measured.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

fn said(refusal: &Refusal) -> RefusalView {
    RefusalView {
        reason: refusal.reason.code().to_owned(),
        detail: refusal.detail.clone(),
    }
}
