//! What a cluster decides for itself: also while it is cut off, and for nobody else.

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, ensure, wait_for};
use serde_json::Value;

use super::{CLUSTERS, PAYMENT, TELL, frontend};

const PINNED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: payment, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: payment}]
  rules:
  - name: pinned
    backendRefs: [{group: mesh.isthmus.dev, kind: ServiceSubset, name: \"payment:version=v2\", port: 80}]
";
const PATIENT: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: patient, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: payment}]
  timeout: {request: 7s}
";
/// The cluster that decides.
const OWN: &str = "ap-south";

pub(crate) fn what_a_cluster_decides_for_itself_binds_it_alone(mesh: &Mesh) -> Result<()> {
    let pinned = mesh.write("pinned.yaml", PINNED)?.display().to_string();
    for other in &CLUSTERS[..2] {
        mesh.isthmus(&["link", "cut", OWN, other])?.expect(0)?;
    }
    let said = mesh.isthmus(&["apply", "--origin", OWN, "-f", &pinned])?;
    let said = said.expect(0)?;
    ensure(
        said.out == "HTTPRoute/shop/payment of ap-south created\n",
        || said.out.clone(),
    )?;
    wait_for("its proxies to go by it", PATIENCE, || {
        let by = routed(mesh, OWN)?;
        ensure(by == ["shop/payment@ap-south", "pinned", "v2"], || {
            format!("{by:?}")
        })
    })?;
    for other in &CLUSTERS[..2] {
        mesh.isthmus(&["link", "restore", OWN, other])?.expect(0)?;
    }
    wait_for("the others to hear of it", PATIENCE, || {
        let command = [
            "--cluster",
            "us-west",
            "get",
            "httproutes",
            "-n",
            "shop",
            "--all-origins",
        ];
        let said = mesh.isthmus(&command)?.expect(0)?;
        let rows: Vec<Vec<_>> = said
            .out
            .lines()
            .map(|line| line.split_whitespace().take(2).collect())
            .collect();
        let both = [vec!["mesh", "payment"], vec![OWN, "payment"]];
        ensure(both.iter().all(|row| rows.contains(row)), || {
            said.out.clone()
        })
    })?;
    let elsewhere = routed(mesh, "us-west")?;
    ensure(elsewhere[..2] == ["shop/payment", "split"], || {
        format!("{elsewhere:?}")
    })?;

    it_is_handed_on(mesh)?;
    it_is_seen_and_undone_anywhere(mesh)
}

/// Another cluster hands on what is written there for it.
fn it_is_handed_on(mesh: &Mesh) -> Result<()> {
    let patient = mesh.write("patient.yaml", PATIENT)?.display().to_string();
    mesh.isthmus(&[
        "--cluster",
        "us-west",
        "apply",
        "--origin",
        OWN,
        "-f",
        &patient,
    ])?
    .expect(0)?;
    wait_for("its proxies to go by that too", PATIENCE, || {
        let found = request_timeout(mesh, OWN)?;
        let expect = ["7s", "shop/patient", OWN, "service shop/payment"];
        ensure(found == expect, || format!("{found:?}"))
    })?;
    let elsewhere = request_timeout(mesh, "us-west")?;
    ensure(elsewhere.is_empty(), || format!("{elsewhere:?}"))?;
    let wrong = mesh.write(
        "namespace-of-one.yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: mine}}",
    )?;
    let wrong = wrong.display().to_string();
    let refused = mesh.isthmus(&["apply", "--origin", OWN, "-f", &wrong])?;
    refused.expect_failure(2, &["not-of-a-cluster", "httproutes and trafficpolicies"])?;
    Ok(())
}

/// How it came to be is known in every cluster, and can be undone from there.
fn it_is_seen_and_undone_anywhere(mesh: &Mesh) -> Result<()> {
    let through = ["--cluster", "eu-central", "history", "--origin", OWN];
    let mut changes = Value::Null;
    wait_for("eu-central to have its history", PATIENCE, || {
        changes = mesh.json(&through)?["changes"].clone();
        let told: Vec<_> = changes.as_array().into_iter().flatten().collect();
        let told: Vec<_> = told
            .iter()
            .map(|change| (change["name"].as_str(), change["cluster"].as_str()))
            .collect();
        let expect = [
            (Some("patient"), Some("us-west")),
            (Some("payment"), Some(OWN)),
        ];
        ensure(told == expect, || format!("{told:?}"))
    })?;
    wait_for("every cluster to have the chain", PATIENCE, || {
        let verified = mesh.json(&["audit", "verify", "--origin", OWN])?;
        let clusters = verified["clusters"].as_array().into_iter().flatten();
        let whole = clusters.filter(|each| each["changes"] == 2).count();
        ensure(whole == CLUSTERS.len(), || verified.to_string())
    })?;
    let created = changes[1]["position"].to_string();
    mesh.isthmus(&["--cluster", "eu-central", "undo", &created, "--origin", OWN])?
        .expect(0)?;
    wait_for(
        "its proxies to go by the mesh's route again",
        PATIENCE,
        || {
            let by = routed(mesh, OWN)?;
            ensure(by[..2] == ["shop/payment", "split"], || format!("{by:?}"))
        },
    )?;
    mesh.isthmus(&[
        "delete",
        "--origin",
        OWN,
        "trafficpolicy/patient",
        "-n",
        "shop",
    ])?
    .expect(0)?;
    mesh.isthmus(&["get", "httproute/payment", "-n", "shop"])?
        .expect(0)?;
    Ok(())
}

/// Route, rule and version of a call of payment.
fn routed(mesh: &Mesh, cluster: &str) -> Result<[String; 3]> {
    let reply = http::get(frontend(mesh, cluster)?, PAYMENT, &[TELL])?.expect(200)?;
    let field = |name| reply.field(name).unwrap_or_default().to_owned();
    let version = reply.json()?["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    Ok([field("x-isthmus-route"), field("x-isthmus-rule"), version])
}

/// What decides how long a call of payment may take; nothing: the default does.
fn request_timeout(mesh: &Mesh, cluster: &str) -> Result<Vec<String>> {
    let command = [
        "explain",
        "shop/payment",
        "--from",
        cluster,
        "--source",
        "shop/frontend",
    ];
    let explained = mesh.json(&command)?;
    let settings = explained["settings"].as_array().into_iter().flatten();
    let mut found = settings.filter(|setting| setting["field"] == "timeout.request");
    let text =
        |setting: &Value, field: &str| setting[field].as_str().unwrap_or_default().to_owned();
    let found = found.next().map(|setting| {
        ["value", "policy", "origin", "target"]
            .map(|field| text(setting, field))
            .to_vec()
    });
    Ok(found.unwrap_or_default())
}
