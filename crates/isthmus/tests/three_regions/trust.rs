//! What the mesh key alone may say, and whom nobody believes any more.

use std::fs;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

use crate::{CATALOG, PAYMENT, all_connected, frontend, served_by};

/// For a namespace that eu-central is granted, or not.
const TOKEN: [&str; 6] = [
    "token",
    "create",
    "--cluster",
    "eu-central",
    "--account",
    "bank/vault",
];

pub(crate) fn only_the_mesh_key_grants(mesh: &Mesh) -> Result<()> {
    let without = mesh.files().join("without-the-key");
    fs::create_dir_all(without.join("ca")).during(|| "a home without the mesh key".to_owned())?;
    for file in ["token", "mesh.json", "ca/root.pem"] {
        let copied = fs::copy(mesh.home().join(file), without.join(file));
        copied.during(|| format!("copying {file}"))?;
    }
    let without = without.display().to_string();
    let mut cluster = mesh.json(&["get", "cluster/eu-central"])?;
    cluster["spec"]["namespaces"] = serde_json::json!(["shop", "isthmus-system"]);
    let file = mesh.write("granted.yaml", &cluster.to_string())?;
    let file = file.display().to_string();
    mesh.isthmus(&["--home", &without, "apply", "-f", &file])?
        .expect_failure(1, &["mesh key", "they were changed after it was signed"])?;
    ensure(
        mesh.json(&["get", "cluster/eu-central"])?["spec"]["namespaces"].is_null(),
        || "what was not signed is there".to_owned(),
    )?;

    // Signed where the key is, it may be written by anybody; elsewhere it holds as well.
    cluster["metadata"]["annotations"] = serde_json::json!({});
    let bare = mesh.write("granted.yaml", &cluster.to_string())?;
    let signed = mesh.isthmus(&["mesh", "sign", "-f", &bare.display().to_string()])?;
    let signed = mesh.write("granted.yaml", &signed.expect(0)?.out)?;
    let signed = signed.display().to_string();
    mesh.isthmus(&[
        "--home",
        &without,
        "--cluster",
        "ap-south",
        "apply",
        "-f",
        &signed,
    ])?
    .expect(0)?;
    wait_for("eu-central to be granted two namespaces", PATIENCE, || {
        mesh.isthmus(&TOKEN)?
            .expect_failure(1, &["not granted namespace bank"])
    })?;
    // A namespace alone is nothing of shop: it is not written through a cluster that has only those two.
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bank}\n";
    let elsewhere = mesh.write("bank.yaml", text)?.display().to_string();
    mesh.isthmus(&["--cluster", "eu-central", "apply", "-f", &elsewhere])?
        .expect_failure(
            1,
            &[
                "eu-central is granted isthmus-system, shop",
                "through another cluster",
            ],
        )?;

    let change = mesh.json(&["history", "--limit", "1"])?["changes"][0]["position"].to_string();
    mesh.isthmus(&["--home", &without, "undo", &change])?
        .expect_failure(1, &["an older one"])?;
    mesh.isthmus(&["undo", &change])?.expect(0)?;
    wait_for("all to be granted again", PATIENCE, || {
        mesh.isthmus(&TOKEN)?.expect(0)
    })?;
    Ok(())
}

/// Leaves a mesh without a process, which cannot come back by itself.
pub(crate) fn what_is_revoked_is_refused_by_all(mesh: &Mesh) -> Result<()> {
    ensure(served_by(mesh, "us-west", PAYMENT)? == "us-west", || {
        "payment in us-west is not served there".to_owned()
    })?;
    // It goes on to try, with all that it has: warm sessions, tickets, certificates, its control plane.
    let shown = mesh.isthmus(&[
        "revoke",
        "process",
        "us-west/frontend-1",
        "--reason",
        "stolen",
    ])?;
    let shown = shown.expect(0)?.out;
    ensure(
        shown.contains("ap-south") && shown.contains("eu-central"),
        || shown.clone(),
    )?;
    for url in [PAYMENT, CATALOG] {
        wait_for("its calls to be refused", PATIENCE, || {
            refused(mesh, "us-west", url)
        })?;
        for _ in 0..5 {
            refused(mesh, "us-west", url)?;
        }
    }
    let listed = mesh.json(&["revoke", "list", "--cluster", "us-west"])?;
    let listed = &listed["revocations"][0];
    ensure(
        listed["process"] == "frontend-1" && listed["reason"] == "stolen",
        || listed.to_string(),
    )?;
    let admission = format!(
        "us-west/{}",
        listed["admission"].as_str().unwrap_or_default()
    );
    mesh.isthmus(&["revoke", "admission", &admission])?
        .expect(0)?;
    mesh.isthmus(&["revoke", "process", "us-west/frontend-1"])?
        .expect_failure(1, &["no process frontend-1 is connected"])?;
    for cluster in ["eu-central", "ap-south"] {
        ensure(served_by(mesh, cluster, PAYMENT)? == cluster, || {
            format!("payment for {cluster} went elsewhere")
        })?;
    }

    // A whole cluster, one that votes.
    mesh.isthmus(&["revoke", "cluster", "ap-south"])?
        .expect(0)?;
    let cart = "http://cart.shop.mesh/";
    wait_for("ap-south to be refused", PATIENCE, || {
        refused(mesh, "ap-south", cart)
    })?;
    for _ in 0..5 {
        refused(mesh, "ap-south", cart)?;
    }
    ensure(served_by(mesh, "ap-south", PAYMENT)? == "ap-south", || {
        "ap-south does not live on alone".to_owned()
    })?;
    // Who applies the files that do not speak of it does not take it back.
    let resources = mesh.home().join("generated/resources.yaml");
    let resources = resources.display().to_string();
    mesh.isthmus(&["--cluster", "eu-central", "apply", "-f", &resources])?
        .expect(0)?;
    refused(mesh, "ap-south", cart)?;
    let changes = [
        "--cluster",
        "eu-central",
        "history",
        "cluster/ap-south",
        "--limit",
        "1",
    ];
    let change = mesh.json(&changes)?["changes"][0]["position"].to_string();
    mesh.isthmus(&["--cluster", "eu-central", "undo", &change])?
        .expect(0)?;
    all_connected(mesh, "ap-south")?;
    wait_for("ap-south to be back", PATIENCE, || {
        served_by(mesh, "ap-south", cart)
    })?;
    Ok(())
}

fn refused(mesh: &Mesh, cluster: &str, url: &str) -> Result<()> {
    let reply = http::get(frontend(mesh, cluster)?, url, &[])?;
    ensure(reply.status >= 500, || {
        format!("{url} from {cluster} was answered {}", reply.status)
    })
}
