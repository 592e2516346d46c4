//! A storm of handshakes at a proxy that serves: what its traffic notices.
//!
//! Who storms says the same hello again and again, which costs it nothing, and the proxy a key exchange
//! and a signature for each.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_lab::http;
use isthmus_lab::trouble::{During, Result};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::beside::Others;
use super::slow::raise_limit;
use super::{AUTHORITY, Arguments, Point, on_quiet_mesh, whole};

/// Whom most of the good traffic goes to.
const CALLEE: &str = "payment-1";
/// Where proxies take sessions.
const MESH: u16 = 15008;
/// What proxies say that they speak.
const ALPN: &[u8] = b"isthmus/1";
/// An answer that has not come by then will not.
const PATIENCE: Duration = Duration::from_secs(5);

struct Storm {
    name: &'static str,
    /// Connections that are open at a time; the oldest makes room for the next.
    open: usize,
    /// It waits for the answer to its hello.
    hears: bool,
}

const STORMS: [Storm; 2] = [
    Storm {
        name: "a storm that hears every answer",
        open: 64,
        hears: true,
    },
    // More than may shake hands at a time.
    Storm {
        name: "a storm that hears none",
        open: 1000,
        hears: false,
    },
];

pub(crate) fn storm(_: &Arguments) -> Result<Vec<Point>> {
    raise_limit()?;
    on_quiet_mesh(|mesh| {
        whole(mesh)?;
        let others = Others::of(mesh)?;
        let target = SocketAddr::new(mesh.address(AUTHORITY, CALLEE)?, MESH);
        let hello = hello()?;
        let mut points = Vec::new();
        for storm in &STORMS {
            let said = AtomicUsize::new(0);
            let noticed = others.compare(|stop| blow(storm, target, &hello, &said, stop))?;
            let said = said.into_inner();
            points.extend(noticed.points(&format!("beside {}", storm.name)));
            points.push(Point {
                held: said > 0,
                what: format!("hellos of {}", storm.name),
                measured: said.to_string(),
                bound: "for comparison".to_owned(),
            });
        }
        let shed = (
            "isthmus_connections_shed_total",
            "reason=\"too-many-handshakes\"",
        );
        let shed = mesh.metric((AUTHORITY, CALLEE), shed.0, &[shed.1])?;
        points.push(Point {
            held: shed > 0.0,
            what: "connections let go at once when too many shook hands".to_owned(),
            measured: format!("{shed}"),
            bound: "some".to_owned(),
        });
        Ok(points)
    })
}

/// What a proxy says first, of somebody whom nobody knows.
fn hello() -> Result<Vec<u8>> {
    let during = || "a hello".to_owned();
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        ..default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .during(during)?;
    let mut config = config
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from("storm.test").during(during)?;
    let mut client = ClientConnection::new(Arc::new(config), name).during(during)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).during(during)?;
    Ok(hello)
}

/// Connection after connection. `said`: those that have said hello.
fn blow(storm: &Storm, target: SocketAddr, hello: &[u8], said: &AtomicUsize, stop: &AtomicBool) {
    let mut open = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        if open.len() == storm.open
            && let Some(oldest) = open.pop_front()
            && storm.hears
        {
            hear(oldest);
        }
        // A connection that is refused is none.
        let Ok(mut stream) = http::connect(target) else {
            continue;
        };
        if stream.write_all(hello).is_ok() {
            said.fetch_add(1, Ordering::Relaxed);
            open.push_back(stream);
        }
    }
}

fn hear(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    // Whether it was answered or let go: it makes room.
    let _ = stream.read(&mut [0; 8192]);
}
