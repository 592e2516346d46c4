//! `isthmus explain`: where a request would go, and why, as a proxy of its source decides it.

use std::fmt::Write as _;
use std::process::ExitCode;

use http::{HeaderName, HeaderValue};
use isthmus_api::{
    BackendView, CandidateView, ChoiceView, ExplainReply, ExplainRequest, HeaderPair, RefusalView,
    SettingView, Way,
};
use serde_json::json;

use crate::api_client::connect;
use crate::args::ExplainArgs;
use crate::failure::{Failure, Result};
use crate::load::request_headers;
use crate::output::{self, ago, last_seen, table};
use crate::setting::Setting;

const EXPLAIN_PATH: &str = "/mesh/v1/explain";

pub(crate) async fn explain(setting: &Setting, args: &ExplainArgs) -> Result<ExitCode> {
    let from = setting.caller_cluster(args.request.from.as_ref())?;
    let request = request(args)?;
    let mut client = connect(&setting.home, Some(from)).await?;
    let reply: ExplainReply = client.post(EXPLAIN_PATH, &json!(request)).await?;
    let text = match setting.format {
        Some(format) => output::structured(&reply, format),
        None => render(&request, from.as_str(), &reply),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: &ExplainArgs) -> Result<ExplainRequest> {
    let request = &args.request;
    let pair = |(name, value): (HeaderName, HeaderValue)| {
        let text = value.to_str().map_err(|_| {
            let what = format!("--header: the value of {name} is not plain text");
            Failure::usage("bad-header", what)
        })?;
        Ok(HeaderPair {
            name: name.to_string(),
            value: text.to_owned(),
        })
    };
    let headers = request_headers(&request.header)?;
    Ok(ExplainRequest {
        service: request.service.to_string(),
        source: args.source.to_string(),
        port: request.port,
        method: request.method.to_string(),
        path: request.path.clone(),
        headers: headers.into_iter().map(pair).collect::<Result<_>>()?,
    })
}

fn render(request: &ExplainRequest, from: &str, reply: &ExplainReply) -> String {
    let ExplainRequest {
        service,
        source,
        method,
        path,
        ..
    } = request;
    let port = request
        .port
        .map_or(String::new(), |port| format!(" port {port}"));
    let mut text = format!(
        "{method} {path} to {service}{port}, from {source} in {from}\n\
         decided by proxy {}; nothing was sent\n\n",
        reply.process
    );
    let mut line = |label: &str, value: &str| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{label:<9}{value}");
    };
    match reply.route.as_deref() {
        Some("default") => line("route", "default: no HTTPRoute is bound to the service"),
        Some(route) => {
            line("route", route);
            line("rule", reply.rule.as_deref().unwrap_or("-"));
        }
        None => line("route", "none"),
    }
    if let Some(refusal) = &reply.refusal {
        line("refused", &said(refusal));
        return text;
    }
    let settings = table(
        &["SETTING", "VALUE", "SET BY"],
        reply.settings.iter().map(render_setting),
    );
    if !settings.is_empty() {
        text.push('\n');
        text += &settings;
    }
    let weights = reply
        .backends
        .iter()
        .map(|backend| u64::from(backend.weight));
    let weights: u64 = weights.sum();
    for backend in &reply.backends {
        text.push('\n');
        text += &render_backend(backend, weights);
    }
    text
}

fn render_setting(setting: &SettingView) -> [String; 3] {
    let SettingView {
        field,
        value,
        policy,
        origin,
        target,
        enforced,
    } = setting;
    let by = match policy {
        None => "the rule".to_owned(),
        Some(policy) => {
            let of = origin.as_ref().map(|cluster| format!(" of {cluster}"));
            let target = target.as_deref().unwrap_or("-");
            let enforced = if *enforced { ", enforced" } else { "" };
            let of = of.unwrap_or_default();
            format!("TrafficPolicy {policy}{of}, for {target}{enforced}")
        }
    };
    [field.clone(), value.clone(), by]
}

fn render_backend(backend: &BackendView, weights: u64) -> String {
    let subset = match backend.subset.as_str() {
        "*" => String::new(),
        subset => format!(" with {subset}"),
    };
    let drawn = match u64::from(backend.weight) {
        0 => "drawn by no request".to_owned(),
        weight if weight == weights => "for every request".to_owned(),
        weight => format!("drawn by {weight} of {weights} requests"),
    };
    let mut text = format!("backend {}{subset}, {drawn}\n", backend.service);
    let candidates = backend.candidates.iter().map(candidate);
    let mut parts = vec![table(
        &["CANDIDATE", "HEALTHY", "RTT", "KNOWN AS OF", "STATE"],
        candidates,
    )];
    let choices = backend.choices.iter().filter(|c| c.cluster.is_some());
    parts.extend(choices.map(render_choice));
    if let Some(refusal) = &backend.refusal {
        let why = backend.choices.first().map(|none| because(&none.reason));
        parts.push(format!("refused, {}\n", why.unwrap_or(said(refusal))));
    }
    for line in parts.iter().flat_map(|part| part.lines()) {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn candidate(candidate: &CandidateView) -> [String; 5] {
    let CandidateView {
        healthy,
        total,
        rtt_ms,
        ..
    } = candidate;
    let rtt = match rtt_ms {
        None => "-".to_owned(),
        Some(rtt) if *rtt == 0.0 => "here".to_owned(),
        Some(rtt) => format!("{rtt:.1} ms"),
    };
    let stale = candidate.stale.then_some("stale: behind others");
    let states: Vec<&str> = candidate
        .why_not
        .as_deref()
        .into_iter()
        .chain(stale)
        .collect();
    [
        candidate.cluster.clone(),
        format!("{healthy}/{total}"),
        rtt,
        match candidate.age_ms {
            0 => "now".to_owned(),
            age => ago(age),
        },
        match states[..] {
            [] => "usable".to_owned(),
            _ => states.join(", "),
        },
    ]
}

fn render_choice(choice: &ChoiceView) -> String {
    let cluster = choice.cluster.as_deref().unwrap_or("none");
    let part = if choice.share < 1.0 {
        format!(" for {:.0} % of these", choice.share * 100.0)
    } else {
        String::new()
    };
    let mut text = format!("choice: {cluster}{part}, {}\n", because(&choice.reason));
    let workloads = choice.workloads.iter().map(|workload| {
        let latency = workload.latency_ms;
        [
            workload.handle.clone(),
            match workload.way {
                Way::Direct => "directly",
                Way::Tunnel => "by tunnel",
                Way::NoTunnel => "tunnel to be opened",
            }
            .to_owned(),
            latency.map_or("-".to_owned(), |latency| format!("{latency:.1} ms")),
            workload.in_flight.to_string(),
            if workload.possible {
                "usable"
            } else {
                "ejected"
            }
            .to_owned(),
        ]
    });
    text += &table(
        &["WORKLOAD", "REACHED", "LATENCY", "IN FLIGHT", "STATE"],
        workloads,
    );
    match &choice.unreachable {
        Some(silent) => {
            text += cluster;
            text += " does not answer, ";
            text += &last_seen(silent.last_seen_ms);
            text += ": its workloads are not all known\n";
        }
        None if choice.workloads.is_empty() => text += "it has no healthy workload now\n",
        None => {}
    }
    text
}

fn said(refusal: &RefusalView) -> String {
    match refusal.detail.as_str() {
        "" => refusal.reason.clone(),
        detail => format!("{}: {detail}", refusal.reason),
    }
}

/// The stable code of a reason, with what it means.
fn because(code: &str) -> String {
    let meaning = match code {
        "nearest" => "it is the nearest that runs it",
        "only-choice" => "no other cluster that may be used runs it",
        "nearest-is-hot" => "those that are nearer are not to be used now",
        "nearest-failed" => "the request has failed in the nearest",
        "nearest-returns" => "the nearest has just returned and takes only part of its traffic yet",
        "nearest-drains" => "the nearest is being drained and takes only part of its traffic",
        "all-failed" => "the request has failed everywhere else",
        "all-hot" => "none is good now, and this one is the nearest",
        "unknown" => "no cluster is known to run it",
        "no-workload" => "no cluster that may be used has a workload of it",
        "not-exported" => "only other clusters run it, and it is not exported",
        "local-only" => "its policy keeps traffic in the caller's cluster",
        _ => return code.to_owned(),
    };
    format!("because {meaning} ({code})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> ExplainRequest {
        serde_json::from_value(json!({
            "service": "shop/payment", "source": "shop/frontend", "method": "GET", "path": "/x",
        }))
        .unwrap()
    }

    fn answer(more: &serde_json::Value) -> ExplainReply {
        let mut reply = json!({
            "process": "frontend-1", "service": "shop/payment", "route": null, "rule": null, "backends": [],
        });
        for (name, value) in more.as_object().unwrap() {
            reply[name] = value.clone();
        }
        serde_json::from_value(reply).unwrap()
    }

    #[test]
    fn every_backend_has_candidates_choices_and_workloads() {
        let reply = answer(&json!({
            "route": "shop/payment", "rule": "split", "backends": [
                {"service": "shop/payment", "subset": "version=v1", "weight": 90, "candidates": [
                    {"cluster": "us-west", "healthy": 0, "total": 1, "rttMs": 0.0, "ageMs": 0,
                     "stale": false, "whyNot": "no-healthy-workload"},
                    {"cluster": "eu-central", "healthy": 2, "total": 2, "rttMs": 143.709, "ageMs": 4200,
                     "stale": false, "whyNot": null},
                    {"cluster": "ap-south", "healthy": 2, "total": 2, "rttMs": 9.0, "ageMs": 14200,
                     "stale": true, "whyNot": "breaker-open"}],
                 "choices": [{"cluster": "eu-central", "reason": "nearest-is-hot", "share": 1.0,
                    "opensTunnel": true, "workloads": [
                        {"handle": "payment-d2d4", "way": "tunnel", "possible": false,
                         "latencyMs": 144.25, "inFlight": 3},
                        {"handle": "payment-d2d5", "way": "no-tunnel", "possible": true,
                         "latencyMs": null, "inFlight": 0}]}]},
                {"service": "shop/payment", "subset": "version=v2", "weight": 10, "candidates": [],
                 "choices": [{"cluster": null, "reason": "unknown", "share": 1.0, "workloads": [],
                              "opensTunnel": false}],
                 "refusal": {"reason": "no-healthy-workload", "detail": "shop/payment: unknown"}},
                {"service": "shop/payment", "subset": "version=v3", "weight": 0, "candidates": [],
                 "choices": [], "refusal": {"reason": "unknown-port", "detail": "no port 81"}}],
        }));
        assert_eq!(
            render(&asked(), "us-west", &reply),
            "GET /x to shop/payment, from shop/frontend in us-west\n\
             decided by proxy frontend-1; nothing was sent\n\n\
             route    shop/payment\n\
             rule     split\n\n\
             backend shop/payment with version=v1, drawn by 90 of 100 requests\n  \
             CANDIDATE   HEALTHY  RTT       KNOWN AS OF  STATE\n  \
             us-west     0/1      here      now          no-healthy-workload\n  \
             eu-central  2/2      143.7 ms  4 s ago      usable\n  \
             ap-south    2/2      9.0 ms    14 s ago     breaker-open, stale: behind others\n  \
             choice: eu-central, because those that are nearer are not to be used now (nearest-is-hot)\n  \
             WORKLOAD      REACHED              LATENCY   IN FLIGHT  STATE\n  \
             payment-d2d4  by tunnel            144.2 ms  3          ejected\n  \
             payment-d2d5  tunnel to be opened  -         0          usable\n\n\
             backend shop/payment with version=v2, drawn by 10 of 100 requests\n  \
             refused, because no cluster is known to run it (unknown)\n\n\
             backend shop/payment with version=v3, drawn by no request\n  \
             refused, unknown-port: no port 81\n"
        );
    }

    #[test]
    fn a_slow_start_and_a_silent_cluster_are_told() {
        let reply = answer(&json!({
            "route": "default", "rule": "0", "backends": [
                {"service": "shop/cart", "subset": "*", "weight": 1, "candidates": [], "choices": [
                    {"cluster": "us-west", "reason": "nearest", "share": 0.375, "workloads": [
                        {"handle": "cart-1", "way": "direct", "possible": true,
                         "latencyMs": 1.0, "inFlight": 0}], "opensTunnel": false},
                    {"cluster": "ap-south", "reason": "nearest-returns", "share": 0.625,
                     "workloads": [], "opensTunnel": true,
                     "unreachable": {"cluster": "ap-south", "lastSeenMs": 4000}}]}],
        }));
        let text = render(&asked(), "us-west", &reply);
        let (_, backend) = text.split_once("\n\nbackend").unwrap();
        assert_eq!(
            backend,
            " shop/cart, for every request\n  \
             choice: us-west for 38 % of these, because it is the nearest that runs it (nearest)\n  \
             WORKLOAD  REACHED   LATENCY  IN FLIGHT  STATE\n  \
             cart-1    directly  1.0 ms   0          usable\n  \
             choice: ap-south for 62 % of these, because the nearest has just returned and takes \
             only part of its traffic yet (nearest-returns)\n  \
             ap-south does not answer, last seen 4 s ago: its workloads are not all known\n"
        );
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let refusal = json!({"reason": "no-such-service", "detail": "shop/x"});
        let reply = answer(&json!({"refusal": refusal}));
        assert!(
            render(&asked(), "a", &reply)
                .ends_with("route    none\nrefused  no-such-service: shop/x\n")
        );
        let reply = answer(&json!({"route": "default", "rule": "0"}));
        assert!(render(&asked(), "a", &reply).contains("no HTTPRoute is bound"));
    }

    #[test]
    fn settings_say_who_has_decided() {
        let reply = answer(
            &json!({"route": "shop/payment@us-west", "rule": "0", "settings": [
            {"field": "retry.attempts", "value": "0", "policy": "shop/slow", "origin": "us-west",
             "target": "service shop/payment"},
            {"field": "timeout.request", "value": "3s", "policy": "shop/all", "target": "mesh",
             "enforced": true},
            {"field": "timeout.perTry", "value": "1s"}]}),
        );
        let text = render(&asked(), "us-west", &reply);
        let (_, settings) = text.split_once("\n\nSETTING").unwrap();
        assert_eq!(
            settings,
            "          VALUE  SET BY\n\
             retry.attempts   0      TrafficPolicy shop/slow of us-west, for service shop/payment\n\
             timeout.request  3s     TrafficPolicy shop/all, for mesh, enforced\n\
             timeout.perTry   1s     the rule\n"
        );
    }

    #[test]
    fn a_new_reason_is_shown_as_it_is() {
        assert_eq!(because("by-plan"), "by-plan");
    }
}
