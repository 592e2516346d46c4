//! Answers where a request would go, and why, from the same view, balancer state and engines that
//! carry requests. Sends nothing and changes nothing that a request would not change.

use std::time::Instant;

use isthmus_api::{BackendView, CandidateView, ExplainReply, WorkloadChoice};
use isthmus_balance::{Considered, Decision};
use isthmus_model::{Backend, ServiceName};
use isthmus_route::RequestView;
use isthmus_wire::proto;

use super::decided::{Decided, decide_backend, find_port, find_service, route_name, rule_name};
use crate::refusal::Refusal;
use crate::view::View;
use crate::worker::Worker;

/// Errors: a name in the question is none.
pub(crate) async fn explain(
    worker: &Worker,
    question: &proto::Explain,
) -> Result<ExplainReply, String> {
    let service = ServiceName::new(&question.namespace, &question.service)
        .map_err(|error| format!("{}/{}: {error}", question.namespace, question.service))?;
    let mut reply = ExplainReply {
        process: worker.name().to_owned(),
        service: service.to_string(),
        route: None,
        rule: None,
        refusal: None,
        backends: Vec::new(),
    };
    if let Err(refusal) = fill(worker, question, &service, &mut reply).await {
        reply.refusal = Some(said(&refusal));
    }
    Ok(reply)
}

async fn fill(
    worker: &Worker,
    question: &proto::Explain,
    service: &ServiceName,
    reply: &mut ExplainReply,
) -> Result<(), Refusal> {
    let view = worker.view_with(service).await?;
    let called = find_service(&view, service)?;
    let wanted = u16::try_from(question.port).ok().filter(|port| *port != 0);
    let port = find_port(called, wanted)?;
    let headers: Vec<(&str, &str)> = question
        .headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_str()))
        .collect();
    let request = RequestView {
        method: &question.method,
        path: question.path.split('?').next().unwrap_or_default(),
        headers: headers.as_slice(),
    };
    let matched = called.routes.find(port, &request).ok_or_else(|| {
        let detail = format!("no rule matches {} {}", request.method, request.path);
        Refusal::new(isthmus_telemetry::RefusalReason::NoRoute, detail)
    })?;
    let rule = matched.rule();
    let settings = called.settings(rule);
    reply.route = Some(route_name(rule));
    reply.rule = Some(rule_name(rule));
    for backend in rule.backends() {
        let decided = decide_backend(
            worker,
            view.clone(),
            service,
            backend,
            port,
            settings.clone(),
            worker.draw(),
        );
        reply.backends.push(match decided {
            Ok(decided) => describe(worker, &view, backend, &decided)?,
            Err(refusal) => refused(backend, &refusal),
        });
    }
    Ok(())
}

fn describe(
    worker: &Worker,
    view: &View,
    backend: &Backend,
    decided: &Decided,
) -> Result<BackendView, Refusal> {
    let now = Instant::now();
    let destination = worker.destinations.find(&decided.key);
    let service = decided.service()?;
    let shares = destination.shares(view, service, &decided.permit, &decided.settings);
    destination.observe(&decided.known, service, &shares, &decided.settings, now);
    let decision = destination.pick_cluster(&shares, &[], now, decided.draw);
    let cluster = decision.chosen().map(|chosen| chosen.share.cluster.clone());
    let workloads = cluster
        .as_ref()
        .map(|cluster| destination.describe(cluster, now));
    let workloads = workloads
        .into_iter()
        .flatten()
        .filter(|workload| workload.possible);
    Ok(BackendView {
        service: backend.service.to_string(),
        subset: backend.subset.to_string(),
        weight: backend.weight,
        candidates: decision.candidates().iter().map(candidate).collect(),
        reason: reason(&decision),
        cluster: cluster.map(|cluster| cluster.to_string()),
        workloads: workloads
            .map(|workload| WorkloadChoice {
                handle: workload.key.to_string(),
                latency_ms: workload
                    .latency
                    .map(|latency| latency.as_secs_f64() * 1_000.0),
                in_flight: workload.in_flight,
            })
            .collect(),
    })
}

fn refused(backend: &Backend, refusal: &Refusal) -> BackendView {
    BackendView {
        service: backend.service.to_string(),
        subset: backend.subset.to_string(),
        weight: backend.weight,
        candidates: Vec::new(),
        cluster: None,
        reason: said(refusal),
        workloads: Vec::new(),
    }
}

fn candidate(considered: &Considered) -> CandidateView {
    let share = &considered.share;
    let barred = share.barred.map(isthmus_balance::Barred::code);
    CandidateView {
        cluster: share.cluster.to_string(),
        healthy: share.healthy,
        total: share.total,
        rtt_ms: share.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        age_ms: share.age.as_millis().try_into().unwrap_or(u64::MAX),
        hot: barred
            .or(considered.hot.map(isthmus_balance::Hot::code))
            .map(str::to_owned),
    }
}

fn reason(decision: &Decision) -> String {
    decision.reason().code().to_owned()
}

fn said(refusal: &Refusal) -> String {
    match refusal.detail.as_str() {
        "" => refusal.reason.code().to_owned(),
        detail => format!("{}: {detail}", refusal.reason.code()),
    }
}
