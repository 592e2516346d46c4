//! `isthmus cluster drain` and `undrain`: how much of its traffic a cluster takes, changed step by step.
//!
//! Each step is a write of the Cluster like any other: it has its place in the history, and what is
//! interrupted stays as it is.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::{StatusView, object};
use isthmus_model::{ALL_TRAFFIC, ClusterName, Kind};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::api_client::{ApiClient, ApiError, connect};
use crate::failure::{Failure, Result};
use crate::output;
use crate::setting::Setting;
use crate::status::STATUS_PATH;

/// Of a step, in percent of all traffic, at most.
const STEP: u8 = 10;
/// How often a step is tried when others change the object meanwhile.
const TRIES: usize = 5;

/// Until `name` takes `to` percent, `over` from now.
pub(crate) async fn drain(
    setting: &Setting,
    name: &ClusterName,
    to: u8,
    over: Duration,
) -> Result<ExitCode> {
    let mut client = connect(&setting.home, setting.cluster.as_ref()).await?;
    let path = object(Kind::Cluster, None, name.as_str());
    let from = traffic(&find(&mut client, name, &path).await?);
    if from < to && to < ALL_TRAFFIC {
        let what = format!("{name} takes {from} % of its traffic already");
        let next = format!("`isthmus cluster undrain {name}` gives it back, all of it");
        return Err(Failure::failed("drained-further", what).next(next));
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| {
        Failure::failed("no-signals", "Ctrl-C cannot be heard").caused_by(&error)
    })?;
    if to < from {
        let view: StatusView = client.get(STATUS_PATH).await?;
        let stays = served_by_nobody_else(&view, name);
        if !stays.is_empty() {
            eprintln!(
                "no other cluster can serve {}: {name} goes on",
                stays.join(", ")
            );
        }
    }
    let steps = u32::from(from.abs_diff(to).div_ceil(STEP));
    let pause = over / steps.saturating_sub(1).max(1);
    for step in 1..=steps {
        if step > 1 {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = interrupt.recv() => return Err(interrupted(name, at(from, to, step - 1, steps), to)),
            }
        }
        let percent = at(from, to, step, steps);
        let done = set(&mut client, name, &path, percent).await;
        done.map_err(|failure| failure.next(go_on(name, to)))?;
        if setting.format.is_none() {
            output::print(&format!("{name} takes {percent} % of its traffic\n"))?;
        }
    }
    match setting.format {
        Some(format) => {
            let done = json!({"cluster": name.as_str(), "before": from, "traffic": to});
            output::print(&output::structured(&done, format))?;
        }
        None if steps == 0 => {
            output::print(&format!("{name} takes {to} % of its traffic already\n"))?;
        }
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What it takes after `step` of `steps`.
fn at(from: u8, to: u8, step: u32, steps: u32) -> u8 {
    let way = u32::from(from.abs_diff(to)) * step / steps;
    let way = u8::try_from(way).unwrap_or(u8::MAX);
    if to < from { from - way } else { from + way }
}

fn traffic(cluster: &Value) -> u8 {
    let written = cluster.pointer("/spec/traffic").and_then(Value::as_u64);
    let written = written.and_then(|percent| u8::try_from(percent).ok());
    written.unwrap_or(ALL_TRAFFIC)
}

async fn find(client: &mut ApiClient, name: &ClusterName, path: &str) -> Result<Value> {
    let found = match client.find(path).await {
        Err(ApiError::Unreachable { .. }) => client.find(path).await?,
        found => found?,
    };
    found.ok_or_else(|| {
        Failure::failed("no-such-cluster", format!("the mesh has no cluster {name}"))
            .next("`isthmus get clusters` lists all")
    })
}

async fn set(client: &mut ApiClient, name: &ClusterName, path: &str, percent: u8) -> Result<()> {
    let mut tries = 0;
    loop {
        let mut cluster = find(client, name, path).await?;
        if let Some(spec) = cluster["spec"].as_object_mut() {
            spec.insert("traffic".to_owned(), percent.into());
            if percent == ALL_TRAFFIC {
                spec.remove("traffic");
            }
        }
        tries += 1;
        match client.put(path, &cluster).await {
            Ok(_) => return Ok(()),
            // Somebody else has changed it since it was read.
            Err(ApiError::Refused(failure)) if failure.code == 409 && tries < TRIES => {}
            // A connection that had nothing to carry for so long may be gone.
            Err(ApiError::Unreachable { .. }) if tries < 2 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Services that have nowhere else to go.
fn served_by_nobody_else(view: &StatusView, name: &ClusterName) -> Vec<String> {
    let stays = view.services.iter().filter(|service| {
        let mut serving = service.clusters.iter().filter(|share| share.healthy > 0);
        let (here, elsewhere): (Vec<_>, Vec<_>) = serving
            .by_ref()
            .partition(|share| share.cluster == name.as_str());
        !here.is_empty() && (elsewhere.is_empty() || !service.exported)
    });
    stays.map(|service| service.name.clone()).collect()
}

fn interrupted(name: &ClusterName, percent: u8, to: u8) -> Failure {
    let what = format!("interrupted: {name} takes {percent} % of its traffic");
    Failure::failed("interrupted", what).next(go_on(name, to))
}

fn go_on(name: &ClusterName, to: u8) -> String {
    match to {
        ALL_TRAFFIC => format!("`isthmus cluster undrain {name}` goes on"),
        0 => format!("`isthmus cluster drain {name}` goes on"),
        keep => format!("`isthmus cluster drain {name} --keep {keep}` goes on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_from_one_to_the_other() {
        let way = |from: u8, to: u8| {
            let steps = u32::from(from.abs_diff(to).div_ceil(STEP));
            let way = (1..=steps).map(|step| at(from, to, step, steps));
            way.collect::<Vec<_>>()
        };
        assert_eq!(way(100, 0), [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]);
        assert_eq!(way(0, 25), [8, 16, 25]);
        assert_eq!(way(55, 50), [50]);
        assert!(way(40, 40).is_empty());
    }

    #[test]
    fn what_nobody_else_serves_is_named() {
        let service = |name: &str, exported: bool, clusters: &[(&str, u32)]| {
            let share = |(cluster, healthy): &(&str, u32)| json!({"cluster": cluster, "healthy": healthy, "total": 2});
            let clusters: Vec<_> = clusters.iter().map(share).collect();
            json!({"name": name, "exported": exported, "clusters": clusters})
        };
        let view = json!({
            "mesh": "shop", "trustDomain": "shop.example", "cluster": "us", "version": "0.1.0", "position": 7,
            "authority": {"cluster": "us", "reachable": true}, "clusters": [], "proxies": [],
            "services": [
                service("shop/both", true, &[("us", 2), ("eu", 1)]),
                service("shop/alone", true, &[("us", 2), ("eu", 0)]),
                service("shop/kept", false, &[("us", 2), ("eu", 1)]),
                service("shop/away", true, &[("us", 0), ("eu", 1)]),
            ],
        });
        let view: StatusView = serde_json::from_value(view).unwrap();
        let us = ClusterName::new("us").unwrap();
        assert_eq!(
            served_by_nobody_else(&view, &us),
            ["shop/alone", "shop/kept"]
        );
    }
}
