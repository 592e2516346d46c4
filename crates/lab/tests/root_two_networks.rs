//! Two clusters in networks that the kernel keeps apart, put together by hand: calls between them,
//! packets that vanish without a word, and what can be reached from outside.
//!
//! One mesh carries all of it, because a mesh is dear; the steps share its state, in this order,
//! and each leaves the mesh whole.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use isthmus_lab::by_hand::ByHand;
use isthmus_lab::http;
use isthmus_lab::mesh::PATIENCE;
use isthmus_lab::namespaces::Network;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, wait_for};
use serde_json::Value;

const RESOURCES: &str = include_str!("root_two_networks.yaml");
/// Runs in east only.
const CATALOG: &str = "http://catalog.shop.mesh/";
/// Runs in both.
const PAYMENT: &str = "http://payment.shop.mesh/";
const CALLER: (&str, &str) = ("west", "frontend-1");

#[test]
fn two_networks_and_what_vanishes_between_them() -> Result<()> {
    let mut mesh = ByHand::found(&binary()?, Network::of(&["west", "east"])?)?;
    let resources = mesh.write("shop.yaml", RESOURCES)?.display().to_string();
    mesh.isthmus("west", &["apply", "-f", &resources])?
        .expect(0)?;
    for (cluster, services) in [
        ("west", ["frontend", "payment"]),
        ("east", ["catalog", "payment"]),
    ] {
        mesh.start_gateways(cluster, 2)?;
        mesh.start_programs(cluster, &services)?;
    }
    wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole())?;

    calls_cross_as_their_caller_and_by_the_mesh_only(&mesh)?;
    only_what_must_be_is_reached_from_outside(&mesh)?;
    the_loss_of_a_gateway_is_not_seen(&mesh)?;
    silence_between_clusters_is_told_and_passes(&mesh)?;
    mesh.pass();
    Ok(())
}

/// Beside this test's own program, where `cargo build` puts it.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().during(|| "this program".to_owned())?;
    let folder = own.ancestors().nth(2);
    let folder = folder.ok_or_else(|| Trouble(format!("{} is nowhere", own.display())))?;
    Ok(folder.join("isthmus"))
}

/// `service/version/cluster` of who serves a GET. Errors: it is not answered with 200.
fn served_by(mesh: &ByHand, url: &str) -> Result<String> {
    let reply = mesh.get(CALLER, url)?.expect(200)?;
    Ok(reply.field("x-served-by").unwrap_or_default().to_owned())
}

fn calls_cross_as_their_caller_and_by_the_mesh_only(mesh: &ByHand) -> Result<()> {
    mesh.network().count_all_but(&[15008, 15012])?;
    wait_for("west to reach what runs in east", PATIENCE, || {
        served_by(mesh, CATALOG)
    })?;
    assert_eq!(served_by(mesh, CATALOG)?, "catalog/v1/east");
    assert_eq!(served_by(mesh, PAYMENT)?, "payment/v1/west");
    let stray = mesh.network().counted()?;
    assert_eq!(stray, 0, "packets of other ports have crossed");
    mesh.network().heal()?;

    // The callee's proxy says who called: it has seen the caller's certificate.
    let logged = wait_for("the callee's access log", PATIENCE, || {
        let log = mesh.log("east", "catalog-1")?;
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let line = lines.find(|line: &Value| line["reporter"] == "destination");
        line.ok_or_else(|| Trouble(format!("no line of the destination in:\n{log}")))
    })?;
    let caller = "spiffe://shop.example/ns/shop/sa/frontend";
    assert_eq!(logged["source_identity"], caller);
    assert_eq!(logged["source_cluster"], "west");
    Ok(())
}

fn only_what_must_be_is_reached_from_outside(mesh: &ByHand) -> Result<()> {
    let control: &[u16] = &[7443, 15012, 15020];
    let gateway: &[u16] = &[15008, 15020];
    let workload: &[u16] = &[15001, 15008, 15020];
    for (cluster, workloads) in [
        ("west", ["frontend-1", "payment-1"]),
        ("east", ["catalog-1", "payment-1"]),
    ] {
        let mut expect = BTreeSet::new();
        for (process, ports) in [
            ("control", control),
            ("gateway-1", gateway),
            ("gateway-2", gateway),
            (workloads[0], workload),
            (workloads[1], workload),
        ] {
            let address = mesh.address(cluster, process)?;
            expect.extend(ports.iter().map(|port| SocketAddr::from((address, *port))));
        }
        let open = mesh.network().place(cluster)?.open_to_others()?;
        assert_eq!(open, expect, "in {cluster}");
    }

    // Whoever may use a workload's proxy calls in its name: nobody from another machine may.
    let proxy = SocketAddr::from((mesh.address(CALLER.0, CALLER.1)?, 15001));
    let elsewhere = mesh.network().place("east")?;
    let answer = elsewhere.inside(|| http::get(proxy, PAYMENT, &[]));
    ensure(answer.is_err(), || {
        format!("{proxy} calls for another machine: {answer:?}")
    })
}

fn the_loss_of_a_gateway_is_not_seen(mesh: &ByHand) -> Result<()> {
    for gateway in ["gateway-1", "gateway-2"] {
        let address = mesh.address("east", gateway)?;
        for call in 0..200 {
            if call == 20 {
                mesh.network().silence_address(address)?;
            }
            let by = served_by(mesh, CATALOG).during(|| format!("call {call} around {gateway}"))?;
            assert_eq!(by, "catalog/v1/east");
        }
        ensure(mesh.network().counted()? > 0, || {
            format!("nothing went through {gateway}")
        })?;
        mesh.network().heal()?;
        wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole())?;
    }
    Ok(())
}

fn silence_between_clusters_is_told_and_passes(mesh: &ByHand) -> Result<()> {
    served_by(mesh, CATALOG)?;
    mesh.network().silence()?;
    for call in 0..100 {
        let by = served_by(mesh, PAYMENT).during(|| format!("call {call} in the silence"))?;
        assert_eq!(by, "payment/v1/west");
    }
    // The first call finds out, and may have been executed; from then on it is known.
    let first = mesh.get(CALLER, CATALOG)?;
    ensure(first.status >= 500 && first.refusal().is_some(), || {
        format!("{first:?}")
    })?;
    let told = wait_for("west to tell that east is silent", PATIENCE, || {
        let said = mesh.isthmus("west", &["--cluster", "west", "status"])?;
        let said = said.expect(0)?.out;
        let line = said.lines().find(|line| line.starts_with("east "));
        let line = line.unwrap_or_default().to_owned();
        ensure(line.contains("last seen"), || said.clone())?;
        Ok(line)
    })?;
    ensure(told.contains(" s ago"), || told.clone())?;
    ensure(mesh.network().counted()? > 0, || {
        "no packet was dropped".to_owned()
    })?;
    let refused = mesh.get(CALLER, CATALOG)?;
    let refused = refused.expect_refusal(504, "connect-timeout")?;
    let gateway = mesh.address("east", "gateway-1")?.to_string();
    ensure(refused.text().contains(&gateway), || {
        format!("it does not say who was silent: {}", refused.text())
    })?;
    mesh.network().heal()?;
    wait_for("west to reach catalog again", PATIENCE, || {
        served_by(mesh, CATALOG)
    })?;
    wait_for("the mesh to be whole", PATIENCE, || mesh.is_whole())
}
