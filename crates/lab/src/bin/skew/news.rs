//! What only this release can read, written while processes of the other are there: those go on with what
//! they have read last, and leave out what they may.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use isthmus_lab::http::{self, Reply};
use isthmus_lab::mesh::{Mesh, PATIENCE, run};
use isthmus_lab::trouble::{Result, ensure, wait_for};
use serde_json::Value;

use super::program::SPOKEN;
use super::ways::Way;
use super::{BOOKING, CALLEE, CALLER, CATALOG, Place};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/skew/news");

/// Takes every caller and callee through the news and back. `this`: the binary of this release; the
/// other cannot write them. `is_new`: is the process of this release?
pub(crate) fn are_read_or_left(
    mesh: &Mesh,
    this: &Path,
    is_new: impl Fn(Place) -> bool,
) -> Result<()> {
    let caller = mesh.outbound(CALLER.0, CALLER.1)?;

    apply(mesh, this, "optional.yaml")?;
    for place in [CALLER, CALLEE] {
        wait_for("a protocol to be read or left", PATIENCE, || {
            ensure(rejects(mesh, place, "booking")? != is_new(place), || {
                format!("{place:?}: new is {}", is_new(place))
            })
        })?;
    }
    let spoken = if is_new(CALLEE) { "HTTP/2" } else { "HTTP/1.1" };
    speaks(caller, spoken)?;
    Way::Lines(caller).carries_all(spoken)?;
    if is_new(CALLER) {
        Way::Http2(caller).carries_all(spoken)?;
    }
    wait_for("the time limit of a policy with news", PATIENCE, || {
        slow(caller)?.expect_refusal(504, "request-timeout")
    })?;

    apply(mesh, this, "unknown.yaml")?;
    if is_new(CALLER) {
        wait_for("the policy to be read", PATIENCE, || {
            slow(caller)?.expect(200)
        })?;
    } else {
        wait_for("the policy to be left", PATIENCE, || {
            ensure(rejects(mesh, CALLER, "catalog")?, || "it is not".to_owned())
        })?;
        slow(caller)?.expect_refusal(504, "request-timeout")?;
        http::get(caller, CATALOG, &[])?.expect(200)?;
    }
    Ok(())
}

/// A caller that went back to the release before, amid the news: what it cannot read, and has never
/// read otherwise, it refuses.
pub(crate) fn refuses_what_it_never_read(mesh: &Mesh) -> Result<()> {
    let caller = mesh.outbound(CALLER.0, CALLER.1)?;
    let said = http::get(caller, BOOKING, &[])?;
    ensure(said.refusal().is_some(), || {
        format!("the request was not refused: {said:?}")
    })?;
    http::get(caller, CATALOG, &[])?.expect(200).map(drop)
}

/// Writes what both releases can read, and waits until everybody has read it.
pub(crate) fn are_taken_back(mesh: &Mesh) -> Result<()> {
    let shop = mesh.files().join("shop.yaml");
    let said = mesh.isthmus(&["apply", "-f", &shop.display().to_string()])?;
    said.expect(0)?;
    for (place, service) in [
        (CALLER, "booking"),
        (CALLEE, "booking"),
        (CALLER, "catalog"),
    ] {
        wait_for("the old values to be read", PATIENCE, || {
            ensure(!rejects(mesh, place, service)?, || {
                format!("{place:?} rejects {service}")
            })
        })?;
    }
    speaks(mesh.outbound(CALLER.0, CALLER.1)?, "HTTP/1.1")
}

fn apply(mesh: &Mesh, this: &Path, file: &str) -> Result<()> {
    let mut command = Command::new(this);
    command
        .env("ISTHMUS_HOME", mesh.home())
        .args(["apply", "-f"]);
    let said = run(command.arg(Path::new(FILES).join(file)))?;
    said.expect(0).map(drop)
}

/// Does a process reject anything of a service?
fn rejects(mesh: &Mesh, (cluster, process): Place, service: &str) -> Result<bool> {
    let status = mesh.json(&["--cluster", cluster, "status"])?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let topic = format!("service/shop/{service} ");
    let of = |text: &Value| text.as_str().is_some_and(|text| text.starts_with(&topic));
    let proxies = list(&status["proxies"]);
    let mut proxies = proxies.iter().filter(|proxy| proxy["process"] == process);
    Ok(proxies.any(|proxy| list(&proxy["rejected"]).iter().any(of)))
}

/// Waits until requests reach the program in this version of HTTP.
fn speaks(caller: SocketAddr, spoken: &str) -> Result<()> {
    wait_for("the protocol of the port", PATIENCE, || {
        let page = http::get(caller, BOOKING, &[])?.expect(200)?;
        let found = page.field(SPOKEN);
        ensure(found == Some(spoken), || format!("{found:?}, not {spoken}"))
    })
}

fn slow(caller: SocketAddr) -> Result<Reply> {
    http::get(caller, &format!("{CATALOG}slow?ms=2000"), &[])
}
