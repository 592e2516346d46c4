//! Three clusters accept config together, and whichever leads is killed: how long a change waits, and
//! what requests see of it.

use std::time::{Duration, Instant};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, Trouble, ensure, wait_for};
use serde_json::Value;

use super::load::Load;
use super::{Arguments, CLUSTERS, Point, on_quiet_mesh, quantile, seconds, whole};

/// GETs a second.
const RATE: u32 = 200;
/// From the loss of whoever leads to a change that is accepted.
const BOUND: Duration = Duration::from_secs(5);

pub(crate) fn authority(arguments: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        for cluster in &CLUSTERS[1..] {
            mesh.isthmus(&["authority", "add", cluster])?.expect(0)?;
        }
        let load = Load::start(mesh, "payment", "GET", RATE)?;
        let mut times = Vec::new();
        for round in 0..arguments.rounds {
            times.push(lose_the_leader(mesh, round)?);
        }
        let loaded = load.finish()?;
        let kept = kept(mesh, arguments.rounds)?;
        let (lost, median) = (times.len(), quantile(&mut times, 0.5));
        let what = format!(
            "longest of {lost} times from the loss of whoever leads to a change that is accepted (median {})",
            seconds(median)
        );
        let requests = loaded.requests.len();
        Ok(vec![
            Point::at_most(what, quantile(&mut times, 1.0), BOUND),
            Point::none(
                "GETs that failed meanwhile",
                loaded.failures().len(),
                requests,
            ),
            Point::none("changes that are missing somewhere", lost - kept, lost),
        ])
    })
}

/// Kills its control plane, and starts it again when a change was accepted without it.
fn lose_the_leader(mesh: &Mesh, round: usize) -> Result<Duration> {
    let leader = wait_for("somebody to lead", PATIENCE, || leader(mesh))?;
    let others = CLUSTERS.iter().filter(|cluster| **cluster != leader);
    let through = others.cycle().nth(round).copied().unwrap_or_default();
    let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: round-{round}}}\n");
    let file = mesh.write("round.yaml", &text)?.display().to_string();
    mesh.isthmus(&["control", "kill", &leader])?.expect(0)?;
    let lost = Instant::now();
    wait_for("a change to be accepted", PATIENCE, || {
        mesh.isthmus(&["--cluster", through, "apply", "-f", &file])?
            .expect(0)
    })?;
    let waited = lost.elapsed();
    mesh.isthmus(&["control", "start", &leader])?.expect(0)?;
    whole(mesh)?;
    Ok(waited)
}

fn leader(mesh: &Mesh) -> Result<String> {
    let shown = mesh.json(&["authority", "show"])?;
    let voters = shown["voters"].as_array().into_iter().flatten();
    let abreast = voters
        .filter(|voter| voter["lacks"].as_u64() == Some(0))
        .count();
    ensure(abreast == CLUSTERS.len(), || {
        format!("{abreast} have everything")
    })?;
    let leader = shown["leader"].as_str().map(str::to_owned);
    leader.ok_or_else(|| Trouble("nobody leads".to_owned()))
}

/// How many of the rounds' changes every cluster has.
fn kept(mesh: &Mesh, rounds: usize) -> Result<usize> {
    let newest = wait_for("every cluster to have the same", PATIENCE, || {
        let positions: Vec<u64> = CLUSTERS
            .iter()
            .map(|cluster| {
                let status = mesh.json(&["--cluster", cluster, "status"])?;
                Ok(status["position"].as_u64().unwrap_or_default())
            })
            .collect::<Result<_>>()?;
        ensure(positions.windows(2).all(|pair| pair[0] == pair[1]), || {
            format!("they stand at {positions:?}")
        })?;
        Ok(positions)
    })?;
    ensure(newest.iter().all(|position| *position > 0), || {
        "nothing".to_owned()
    })?;
    let mut kept = vec![0; rounds];
    for cluster in CLUSTERS {
        let list = mesh.json(&["--cluster", cluster, "get", "namespaces"])?;
        let items = list["items"].as_array().into_iter().flatten();
        for name in items.filter_map(|item| item.pointer("/metadata/name").and_then(Value::as_str))
        {
            let round = name
                .strip_prefix("round-")
                .and_then(|round| round.parse().ok());
            if let Some(count) = round.and_then(|round: usize| kept.get_mut(round)) {
                *count += 1;
            }
        }
    }
    Ok(kept
        .iter()
        .filter(|count| **count == CLUSTERS.len())
        .count())
}
