//! Config is accepted by three clusters together, and goes on when any one of them is gone.

use std::time::Duration;

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::ordeal::Ordeal;
use isthmus_lab::trouble::{Result, Trouble, ensure, wait_for};
use serde_json::Value;

use crate::{CLUSTERS, all_connected, traffic_flows};

pub(crate) fn config_outlives_any_of_the_clusters_that_accept_it(mesh: &Mesh) -> Result<()> {
    for cluster in &CLUSTERS[1..] {
        mesh.isthmus(&["authority", "add", cluster])?.expect(0)?;
    }
    let shown = show(mesh, "ap-south")?;
    ensure(
        voters(&shown) == ["ap-south", "eu-central", "us-west"],
        || shown.to_string(),
    )?;
    ensure(shown["leader"] == "us-west", || shown.to_string())?;

    // Whoever leads is gone.
    mesh.isthmus(&["control", "kill", "us-west"])?.expect(0)?;
    for (number, through) in ["ap-south", "eu-central"].into_iter().enumerate() {
        let file = namespace(mesh, number)?;
        wait_for("another one to lead", PATIENCE, || {
            mesh.isthmus(&["--cluster", through, "apply", "-f", &file])?
                .expect(0)
        })?;
    }
    traffic_flows(mesh, 3)?;

    // A minority accepts nothing, says so, and goes on serving.
    mesh.isthmus(&["control", "kill", "eu-central"])?
        .expect(0)?;
    let before = position(mesh, "ap-south")?;
    let file = namespace(mesh, 2)?;
    wait_for("a minority to refuse", PATIENCE, || {
        mesh.isthmus(&["--cluster", "ap-south", "apply", "-f", &file])?
            .expect_failure(
                1,
                &["the authority has no majority", "us-west", "eu-central"],
            )
    })?;
    traffic_flows(mesh, 3)?;
    ensure(position(mesh, "ap-south")? == before, || {
        "a minority accepted something".to_owned()
    })?;

    mesh.isthmus(&["control", "start", "--all"])?.expect(0)?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    wait_for("the majority to accept again", PATIENCE, || {
        mesh.isthmus(&["--cluster", "us-west", "apply", "-f", &file])?
            .expect(0)
    })?;
    let newest = position(mesh, "us-west")?;
    for cluster in CLUSTERS {
        wait_for("every cluster to have all changes", PATIENCE, || {
            let found = position(mesh, cluster)?;
            ensure(found == newest, || {
                format!("{cluster} is at {found}, not at {newest}")
            })
        })?;
    }
    mesh.isthmus(&["audit", "verify"])?.expect(0)?;
    who_votes_and_who_leads_can_be_changed(mesh)
}

fn who_votes_and_who_leads_can_be_changed(mesh: &Mesh) -> Result<()> {
    mesh.isthmus(&["authority", "transfer", "eu-central"])?
        .expect(0)?;
    let shown = show(mesh, "eu-central")?;
    ensure(shown["leader"] == "eu-central", || shown.to_string())?;
    mesh.isthmus(&["authority", "transfer", "mars"])?
        .expect_failure(1, &["mars does not vote"])?;

    // The one that founded the mesh is a cluster like any other.
    mesh.isthmus(&["authority", "remove", "us-west"])?
        .expect(0)?;
    let shown = show(mesh, "eu-central")?;
    ensure(voters(&shown) == ["ap-south", "eu-central"], || {
        shown.to_string()
    })?;
    let file = namespace(mesh, 3)?;
    mesh.isthmus(&["--cluster", "us-west", "apply", "-f", &file])?
        .expect(0)?;
    mesh.isthmus(&["control", "kill", "us-west"])?.expect(0)?;
    mesh.isthmus(&["control", "start", "us-west"])?.expect(0)?;
    all_connected(mesh, "us-west")?;
    let file = namespace(mesh, 4)?;
    wait_for("it to follow after a restart", PATIENCE, || {
        mesh.isthmus(&["--cluster", "us-west", "apply", "-f", &file])?
            .expect(0)
    })?;
    mesh.isthmus(&["authority", "add", "us-west"])?.expect(0)?;
    a_voter_that_was_restored_gets_a_new_vote(mesh)?;
    one_goes_on_alone_by_the_word_of_the_mesh_key(mesh)
}

/// What was accepted after its backup it learns from the others.
fn a_voter_that_was_restored_gets_a_new_vote(mesh: &Mesh) -> Result<()> {
    let folder = mesh.files().join("backups");
    let folder = folder.to_str().expect("a path of letters");
    let made = mesh.json(&["backup", "create", "--to", folder])?;
    let files: Vec<_> = (made["backups"].as_array().into_iter().flatten())
        .filter_map(|one| one["file"].as_str())
        .collect();
    ensure(files.len() == CLUSTERS.len(), || made.to_string())?;
    let shown = mesh.json(&[&["backup", "show"], &files[..]].concat())?;
    ensure(shown["backups"] == made["backups"], || shown.to_string())?;
    let of = |cluster: &str| {
        let mut files = files.iter().copied();
        let found = files.find(|file| file.contains(&format!("/{cluster}-")));
        found.ok_or_else(|| Trouble(format!("no backup of {cluster}")))
    };
    let file = namespace(mesh, 7)?;
    mesh.isthmus(&["apply", "-f", &file])?.expect(0)?;

    let config = mesh.home().join("clusters/eu-central/control.yaml");
    let config = config.to_str().expect("a path of letters");
    let restore = ["control", "restore", "-c", config, "--replace"];
    let restore = |file| mesh.isthmus(&[&restore[..], &[file]].concat());
    restore(of("eu-central")?)?.expect_failure(1, &["in use by another process"])?;
    mesh.isthmus(&["control", "kill", "eu-central"])?
        .expect(0)?;
    restore(of("us-west")?)?.expect_failure(1, &["is of cluster us-west"])?;
    restore(of("eu-central")?)?.expect(0)?;
    mesh.isthmus(&["control", "start", "eu-central"])?
        .expect(0)?;
    wait_for("it to have what was accepted since", PATIENCE, || {
        let teams = mesh.json(&["--cluster", "eu-central", "get", "namespaces"])?;
        ensure(teams.to_string().contains("team-7"), || teams.to_string())
    })?;
    let check = mesh.isthmus(&["check", "-o", "json"])?;
    ensure(check.out.contains("vote-lost"), || check.out.clone())?;
    for verb in ["remove", "add"] {
        mesh.isthmus(&["--cluster", "us-west", "authority", verb, "eu-central"])?
            .expect(0)?;
    }
    wait_for("all to be well", PATIENCE, || {
        let check = mesh.isthmus(&["check", "-o", "json"])?;
        ensure(!check.out.contains("vote-lost"), || check.out.clone())
    })?;
    traffic_flows(mesh, 3)
}

/// Two of three go on by themselves and are taken for lost; the third begins anew.
fn one_goes_on_alone_by_the_word_of_the_mesh_key(mesh: &Mesh) -> Result<()> {
    let reset = ["--cluster", "ap-south", "authority", "reset"];
    mesh.isthmus(&reset)?
        .expect_failure(1, &["nothing to begin anew"])?;
    for cluster in ["us-west", "eu-central"] {
        mesh.isthmus(&["link", "cut", cluster, "ap-south"])?
            .expect(0)?;
    }
    let file = namespace(mesh, 5)?;
    wait_for("two of three to accept", PATIENCE, || {
        mesh.isthmus(&["--cluster", "us-west", "apply", "-f", &file])?
            .expect(0)
    })?;
    let drift = mesh.isthmus(&["drift"])?.expect(3)?;
    ensure(drift.out.contains("ap-south lacks the last"), || {
        drift.out.clone()
    })?;
    wait_for("the third to see that it is alone", PATIENCE, || {
        mesh.isthmus(&reset)?
            .expect_failure(2, &["no majority", "--accept-loss"])
    })?;
    mesh.isthmus(&[&reset[..], &["--accept-loss"]].concat())?
        .expect(0)?;
    let file = namespace(mesh, 6)?;
    mesh.isthmus(&["--cluster", "ap-south", "apply", "-f", &file])?
        .expect(0)?;

    for cluster in ["us-west", "eu-central"] {
        mesh.isthmus(&["link", "restore", cluster, "ap-south"])?
            .expect(0)?;
    }
    for cluster in CLUSTERS {
        wait_for("what the third had to be everywhere", PATIENCE, || {
            let teams = mesh.json(&["--cluster", cluster, "get", "namespaces"])?;
            let has = |name: &str| teams.to_string().contains(name);
            ensure(has("team-6") && !has("team-5"), || {
                format!("{cluster}: {teams}")
            })
        })?;
    }
    wait_for("nothing to differ any more", PATIENCE, || {
        mesh.isthmus(&["drift"])?.expect(0)
    })?;
    wait_for("all to vote again", PATIENCE, || {
        let shown = show(mesh, "us-west")?;
        ensure(voters(&shown).len() == 3, || shown.to_string())
    })?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    let void = mesh.json(&["history", "--rejected"])?;
    ensure(
        void["changes"].as_array().map_or(0, Vec::len) == 1
            && void["changes"][0]["name"] == "team-5",
        || void.to_string(),
    )?;
    mesh.isthmus(&["audit", "verify"])?.expect(0)?;
    Ok(())
}

/// A short form of `make chaos`.
pub(crate) fn what_is_accepted_while_all_fails_is_there_and_told_once(mesh: &Mesh) -> Result<()> {
    let ordeal = Ordeal {
        seed: 7,
        faults: 8,
        longest: Duration::from_millis(1500),
        writes: 0,
    };
    let outcome = ordeal.run(mesh, &CLUSTERS, |_| ())?;
    ensure(outcome.violations.is_empty(), || {
        format!("{:#?}", outcome.violations)
    })?;
    ensure(
        outcome.accepted > 100 && outcome.events > outcome.accepted && outcome.refused > 0,
        || format!("little was shown: {outcome:?}"),
    )?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    Ok(())
}

fn namespace(mesh: &Mesh, number: usize) -> Result<String> {
    let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: team-{number}}}\n");
    Ok(mesh.write("namespace.yaml", &text)?.display().to_string())
}

fn show(mesh: &Mesh, cluster: &str) -> Result<Value> {
    mesh.json(&["--cluster", cluster, "authority", "show"])
}

fn voters(shown: &Value) -> Vec<&str> {
    let voters = shown["voters"].as_array().into_iter().flatten();
    let voting = voters.filter(|voter| voter["part"] == "votes");
    voting
        .filter_map(|voter| voter["cluster"].as_str())
        .collect()
}

fn position(mesh: &Mesh, cluster: &str) -> Result<u64> {
    let status = mesh.json(&["--cluster", cluster, "status"])?;
    Ok(status["position"].as_u64().unwrap_or_default())
}
