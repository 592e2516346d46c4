//! A proxy that has run out of descriptors lets go whom it cannot serve, and serves on.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, trouble, wait_for};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/one-cluster");
const CATALOG: &str = "http://catalog.shop.mesh/";
const PROXY: (&str, &str) = ("us-west", "frontend-1");
/// Descriptors that are left, and connections that want one.
const LEFT: u64 = 8;
const CONNECTIONS: usize = 60;

#[test]
fn without_descriptors_connections_are_let_go_and_none_hangs() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    mesh.up(&["--quiet"])?;
    let caller = mesh.outbound(PROXY.0, PROXY.1)?;
    // What the proxy needs beyond the client's connection is there from now on.
    http::get(caller, CATALOG, &[])?.expect(200)?;
    let process = mesh.process(PROXY.0, PROXY.1)?;
    let usual = process.limit_descriptors(process.descriptors()? + LEFT)?;

    let clients: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| http::connect(caller))
        .collect::<Result<_>>()?;
    let mut served = 0;
    for mut client in clients {
        served += usize::from(is_served(&mut client)?);
    }
    process.limit_descriptors(usual)?;
    assert!(
        served > 0 && served < CONNECTIONS,
        "{served} of {CONNECTIONS} were served"
    );

    http::get(caller, CATALOG, &[])?.expect(200)?;
    let name = "isthmus_connections_shed_total";
    let shed = mesh.metric(PROXY, name, &["reason=\"no-descriptors\""])?;
    ensure(shed > 0.0, || "none was counted".to_owned())?;
    let log = mesh
        .home()
        .join(format!("logs/{}/{}.log", PROXY.0, PROXY.1));
    let log = fs::read_to_string(&log).during(|| log.display().to_string())?;
    let told = log.matches("for want of room").count();
    ensure((1..=5).contains(&told), || format!("told {told} times"))?;
    ensure(!log.contains("could not be accepted"), || log.clone())?;
    all_is_well(&mesh, caller)?;
    mesh.pass();
    Ok(())
}

/// False: it was closed without an answer. Errors: it hangs.
fn is_served(client: &mut TcpStream) -> Result<bool> {
    let request = http::head("GET", CATALOG, &[]) + "\r\n";
    // One that is closed already may refuse it.
    let _ = client.write_all(request.as_bytes());
    let mut reply = Vec::new();
    match client.read_to_end(&mut reply) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return trouble(format!("a client waits in vain: {error}")),
    }
    Ok(reply.starts_with(b"HTTP/1.1 200"))
}

fn all_is_well(mesh: &Mesh, caller: SocketAddr) -> Result<()> {
    for _ in 0..CONNECTIONS {
        http::get(caller, CATALOG, &[])?.expect(200)?;
    }
    wait_for("the cluster to be whole", PATIENCE, || {
        mesh.is_whole(PROXY.0)
    })
}
