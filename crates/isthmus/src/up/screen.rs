//! What `up` shows on a terminal: state in, text out. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use isthmus_model::ServiceName;

use super::fleet::{Stage, State};
use super::metrics::{FlowKey, FlowRate};
use super::plan::Plan;
use super::planned::{OUTBOUND_PORT, PlannedCluster};
use super::readiness::Views;
use crate::output::table;

/// All that is shown.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    pub(crate) plan: &'a Plan,
    /// One for each process of the plan.
    pub(crate) states: &'a [State],
    pub(crate) views: &'a Views,
    pub(crate) rates: &'a BTreeMap<FlowKey, FlowRate>,
    pub(crate) missing: &'a [String],
    /// The newest last.
    pub(crate) notes: &'a [String],
    pub(crate) uptime: Duration,
    /// Named in the commands unless it is the one that is found without a flag.
    pub(crate) home: Option<&'a Path>,
}

/// Rows that a table of flows may take.
const MOST_FLOWS: usize = 20;

pub(crate) fn render(picture: &Picture<'_>) -> String {
    let plan = picture.plan;
    let mut text = headline(picture);
    let mut section = |part: String| {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    };
    section(clusters(picture));
    section(services(picture));
    section(flows(picture));
    section(latest(picture));
    section(try_next(plan, picture.home));
    text
}

/// Whether readiness waits for something, and for what.
pub(crate) fn waiting(missing: &[String]) -> String {
    match missing {
        [] => "ready".to_owned(),
        [one] => format!("waiting: {one}"),
        [one, others @ ..] => format!("waiting: {one}, and {} more", others.len()),
    }
}

fn headline(picture: &Picture<'_>) -> String {
    let Picture {
        plan,
        missing,
        uptime,
        ..
    } = picture;
    let state = waiting(missing);
    format!(
        "mesh {} at 127.{}.0.0/16, up {} s, {state}\n",
        plan.mesh,
        plan.number,
        uptime.as_secs()
    )
}

fn clusters(picture: &Picture<'_>) -> String {
    let row = |cluster: &PlannedCluster| {
        [
            cluster.name.to_string(),
            running(picture, cluster, Stage::Control),
            running(picture, cluster, Stage::Gateway),
            running(picture, cluster, Stage::Workload),
            position(picture, cluster),
        ]
    };
    let headings = ["CLUSTER", "CONTROL", "GATEWAYS", "WORKLOADS", "CONFIG"];
    table(&headings, picture.plan.clusters.iter().map(row))
}

/// `2/2`: processes that run, of those planned; and the state of those that do not.
fn running(picture: &Picture<'_>, cluster: &PlannedCluster, stage: Stage) -> String {
    let of_stage = picture.plan.processes.iter().zip(picture.states);
    let states: Vec<State> = of_stage
        .filter(|(process, _)| process.cluster == cluster.name && process.stage == stage)
        .map(|(_, state)| *state)
        .collect();
    let count = |wanted| states.iter().filter(|state| **state == wanted).count();
    let mut text = format!("{}/{}", count(State::Running), states.len());
    for state in [
        State::Waiting,
        State::Restarting,
        State::Killed,
        State::Stopping,
    ] {
        if count(state) > 0 {
            // Writing into a string cannot fail.
            let _ = write!(text, " {} {}", count(state), state_name(state));
        }
    }
    text
}

pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Running => "running",
        State::Restarting => "restarting",
        State::Killed => "killed",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
    }
}

fn position(picture: &Picture<'_>, cluster: &PlannedCluster) -> String {
    let view = picture.views.get(&cluster.name);
    view.map_or("-".to_owned(), |view| view.position.to_string())
}

/// Healthy and total workloads by service and cluster, each cluster speaking for itself.
fn services(picture: &Picture<'_>) -> String {
    let plan = picture.plan;
    let names: std::collections::BTreeSet<&ServiceName> = plan
        .processes
        .iter()
        .filter_map(|process| process.service.as_ref())
        .collect();
    let mut headings = vec!["SERVICE"];
    headings.extend(plan.clusters.iter().map(|cluster| cluster.name.as_str()));
    let cell = |service: &ServiceName, cluster: &PlannedCluster| {
        let view = picture.views.get(&cluster.name)?;
        let status = view
            .services
            .iter()
            .find(|each| each.name == service.to_string())?;
        let own = status
            .clusters
            .iter()
            .find(|each| each.cluster == cluster.name.as_str())?;
        Some(format!("{}/{}", own.healthy, own.total))
    };
    let rows = names.into_iter().map(|service| {
        let cells = plan
            .clusters
            .iter()
            .map(|each| cell(service, each).unwrap_or("-".to_owned()));
        std::iter::once(service.to_string())
            .chain(cells)
            .collect::<Vec<_>>()
    });
    table(&headings, rows)
}

fn flows(picture: &Picture<'_>) -> String {
    let rows = picture.rates.iter().take(MOST_FLOWS).map(|(key, rate)| {
        [
            format!("{} {}", key.source_cluster, key.source),
            format!("{} @ {}", key.destination, key.destination_cluster),
            format!("{:.1}", rate.per_second),
            format!("{:.1}", rate.errors_per_second),
            latency(rate.p50),
            latency(rate.p99),
        ]
    });
    table(&["FROM", "TO", "REQ/S", "ERR/S", "P50", "P99"], rows)
}

fn latency(bound: Option<Duration>) -> String {
    match bound {
        None => "-".to_owned(),
        Some(bound) if bound < Duration::from_secs(1) => {
            format!("<= {} ms", bound.as_secs_f64() * 1000.0)
        }
        Some(bound) => format!("<= {} s", bound.as_secs_f64()),
    }
}

fn latest(picture: &Picture<'_>) -> String {
    let notes = picture.notes.iter().map(|note| format!("  {note}\n"));
    let text: String = notes.collect();
    if text.is_empty() {
        text
    } else {
        format!("LATEST\n{text}")
    }
}

/// Commands that work as they stand in another terminal.
fn try_next(plan: &Plan, home: Option<&Path>) -> String {
    let mut lines = Vec::new();
    if let Some(home) = home {
        lines.push(format!(
            "export ISTHMUS_HOME={}",
            shell_word(&home.display().to_string())
        ));
    }
    lines.push("isthmus status".to_owned());
    let workloads = || {
        plan.processes
            .iter()
            .filter(|each| each.stage == Stage::Workload)
    };
    let source = workloads().next();
    let target = workloads()
        .filter_map(|each| each.service.as_ref())
        .find(|service| source.is_some_and(|source| source.service.as_ref() != Some(service)));
    if let (Some(source), Some(target)) = (source, target) {
        let address = source.address;
        lines.push(format!(
            "curl -x http://{address}:{OUTBOUND_PORT} http://{}/",
            target.host()
        ));
        lines.push(format!(
            "isthmus describe service/{} -n {}",
            target.name, target.namespace
        ));
    }
    match plan.clusters.as_slice() {
        [one, other, ..] => {
            lines.push(format!("isthmus link cut {} {}", one.name, other.name));
            lines.push(format!("isthmus cluster kill {}", other.name));
        }
        [only] => lines.push(format!("isthmus logs {} -f", only.name)),
        [] => {}
    }
    lines.push("isthmus down".to_owned());
    let lines = lines.into_iter().map(|line| format!("  {line}\n"));
    format!(
        "TRY NEXT, in another terminal\n{}",
        lines.collect::<String>()
    )
}

/// `text` as one word of a shell's command line.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Keeps what fits on a terminal, so that it can be redrawn in place.
pub(crate) fn fit(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let kept = lines.iter().take(rows.max(2) - 1);
    kept.map(|line| line.chars().take(columns.max(1)).collect::<String>() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::super::readiness::tests::views;
    use super::*;

    #[test]
    fn the_whole_picture() {
        let plan = plan();
        let views = views(&plan);
        let mut states = vec![State::Running; plan.processes.len()];
        states[6] = State::Killed;
        let key = FlowKey {
            source: "shop/frontend".to_owned(),
            source_cluster: "us-west".to_owned(),
            destination: "shop/payment".to_owned(),
            destination_cluster: "us-west".to_owned(),
        };
        let rate = FlowRate {
            per_second: 2.04,
            errors_per_second: 0.0,
            p50: Some(Duration::from_micros(2500)),
            p99: None,
        };
        let text = render(&Picture {
            plan: &plan,
            states: &states,
            views: &views,
            rates: &BTreeMap::from([(key, rate)]),
            missing: &[],
            notes: &["us-west/payment-2 killed".to_owned()],
            uptime: Duration::from_secs(12),
            home: Some(Path::new("/my home")),
        });
        assert_eq!(
            text,
            "mesh shop at 127.7.0.0/16, up 12 s, ready

CLUSTER     CONTROL  GATEWAYS  WORKLOADS     CONFIG
us-west     1/1      1/1       4/5 1 killed  1
eu-central  1/1      2/2       0/0           1

SERVICE        us-west  eu-central
shop/frontend  2/2      -
shop/payment   2/2      -

FROM                   TO                      REQ/S  ERR/S  P50        P99
us-west shop/frontend  shop/payment @ us-west  2.0    0.0    <= 2.5 ms  -

LATEST
  us-west/payment-2 killed

TRY NEXT, in another terminal
  export ISTHMUS_HOME='/my home'
  isthmus status
  curl -x http://127.7.1.10:15001 http://payment.shop.mesh/
  isthmus describe service/payment -n shop
  isthmus link cut us-west eu-central
  isthmus cluster kill eu-central
  isthmus down
"
        );
        assert_eq!(fit("abc\ndef\nghi\n", 3, 2), "ab\nde\n");
    }

    #[test]
    fn what_is_waited_for_is_said() {
        let plan = plan();
        let states = vec![State::Waiting; plan.processes.len()];
        let mut picture = Picture {
            plan: &plan,
            states: &states,
            views: &Views::new(),
            rates: &BTreeMap::new(),
            missing: &["one".to_owned()],
            notes: &[],
            uptime: Duration::ZERO,
            home: None,
        };
        assert!(render(&picture).contains("up 0 s, waiting: one\n"));
        let three = ["one", "two", "three"].map(str::to_owned);
        picture.missing = &three;
        let text = render(&picture);
        assert!(
            text.contains("waiting: one, and 2 more\n") && !text.contains("export"),
            "{text}"
        );
    }
}
