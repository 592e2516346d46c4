//! Keys and certificates in the place of others, under traffic.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, ensure, trouble, wait_for};

use crate::{CATALOG, CLUSTERS, PAYMENT, served_by};

/// Each way of replacing them, while all clusters call each other.
pub(crate) fn keys_are_replaced_under_traffic(mesh: &Mesh) -> Result<()> {
    let first = fingerprints(mesh)?;
    ensure(first.len() == CLUSTERS.len(), || format!("{first:?}"))?;
    let is_over = AtomicBool::new(false);
    let (rotated, calls) = thread::scope(|scope| {
        let callers = CLUSTERS.map(|cluster| {
            let is_over = &is_over;
            scope.spawn(move || call(mesh, cluster, is_over))
        });
        let rotated = rotate(mesh);
        is_over.store(true, Ordering::Relaxed);
        let calls = callers.map(|caller| caller.join().unwrap_or_else(|_| trouble("a panic")));
        (rotated, calls)
    });
    rotated?;
    for calls in calls {
        let calls = calls?;
        ensure(calls > 0, || "nobody called meanwhile".to_owned())?;
    }
    let last = fingerprints(mesh)?;
    ensure(
        last.len() == CLUSTERS.len() && last.is_disjoint(&first),
        || format!("{first:?} and then {last:?}"),
    )
}

/// How many calls were answered, which were all of them.
fn call(mesh: &Mesh, cluster: &str, is_over: &AtomicBool) -> Result<usize> {
    let mut calls = 0;
    while !is_over.load(Ordering::Relaxed) {
        for url in [CATALOG, PAYMENT] {
            served_by(mesh, cluster, url)?;
            calls += 1;
        }
    }
    Ok(calls)
}

fn rotate(mesh: &Mesh) -> Result<()> {
    for what in ["intermediate", "leaves", "intermediate"] {
        let said = mesh.isthmus(&["rotate", "start", what])?.expect(0)?.out;
        for cluster in CLUSTERS {
            let line = said.lines().find(|line| line.starts_with(cluster));
            ensure(
                line.is_some_and(|line| line.contains("and all ") && !line.contains("all 0")),
                || said.clone(),
            )?;
        }
    }
    mesh.isthmus(&["rotate", "abort"])?.expect(0)?;
    replace_root(mesh)?;
    // The control planes' own certificates are of the new authority too.
    wait_for("everybody to hear everybody", PATIENCE, || {
        mesh.isthmus(&["check"])?.expect(0)
    })?;
    Ok(())
}

/// One that is given up, and one that takes its place, whatever it is interrupted by.
fn replace_root(mesh: &Mesh) -> Result<()> {
    let nothing = mesh.isthmus(&["rotate", "finish"])?.expect(1)?.err;
    ensure(nothing.contains("nothing-begun"), || nothing.clone())?;
    let first = roots(mesh)?;
    ensure(first.len() == 1, || format!("{first:?}"))?;
    mesh.isthmus(&["rotate", "start", "root"])?.expect(0)?;
    let given_up = roots(mesh)?;
    ensure(given_up.len() == 2 && given_up.is_superset(&first), || {
        format!("{first:?} and then {given_up:?}")
    })?;
    mesh.isthmus(&["rotate", "abort"])?.expect(0)?;
    ensure(roots(mesh)? == first, || {
        "the root is another one".to_owned()
    })?;

    mesh.isthmus(&["rotate", "start", "root"])?.expect(0)?;
    let both = roots(mesh)?;
    // What is asked for in between is of the new root, and nothing is done twice.
    mesh.isthmus(&["rotate", "start", "intermediate", "--cluster", CLUSTERS[0]])?
        .expect(0)?;
    let again = mesh.isthmus(&["rotate", "start", "root"])?.expect(0)?.out;
    ensure(!again.contains("issues by"), || again.clone())?;
    mesh.isthmus(&["rotate", "finish"])?.expect(0)?;
    let last = roots(mesh)?;
    ensure(
        last.len() == 1 && last.is_disjoint(&first) && last.is_subset(&both),
        || format!("{first:?}, {both:?} and then {last:?}"),
    )?;
    let over = mesh.isthmus(&["rotate", "finish"])?.expect(1)?.err;
    ensure(over.contains("nothing-begun"), || over.clone())
}

/// Which roots the clusters trust: all the same ones. Errors: some do not, or issue by none of them.
fn roots(mesh: &Mesh) -> Result<BTreeSet<String>> {
    let status = mesh.json(&["rotate", "status"])?;
    let clusters = status["clusters"].as_array().cloned().unwrap_or_default();
    let mut all = BTreeSet::new();
    for cluster in &clusters {
        let trusted = cluster["trusted"].as_array().cloned().unwrap_or_default();
        ensure(trusted.contains(&cluster["root"]), || cluster.to_string())?;
        let trusted: BTreeSet<String> = trusted.iter().map(ToString::to_string).collect();
        all.insert(trusted);
    }
    match all.pop_first() {
        Some(trusted) if all.is_empty() => Ok(trusted),
        _ => trouble(format!("{status}")),
    }
}

/// By what the clusters issue. Errors: some process has not renewed.
fn fingerprints(mesh: &Mesh) -> Result<BTreeSet<String>> {
    let status = mesh.json(&["rotate", "status"])?;
    let clusters = status["clusters"].as_array().cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for cluster in clusters {
        ensure(cluster["waiting"] == serde_json::json!([]), || {
            cluster.to_string()
        })?;
        found.insert(cluster["fingerprint"].to_string());
    }
    Ok(found)
}
