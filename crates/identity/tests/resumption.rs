//! Sessions that go on where an earlier one ended: between whom, and for how long.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::sync::Arc;

use common::pair::Pair;
use common::{DOMAIN, TestCluster, TestMesh, TestTime, start};
use isthmus_identity::{
    ClientAuth, LeafCell, PeerRole, Sessions, Tickets, TrustCell, client_config, peer,
    server_config,
};
use rustls::HandshakeKind::{Full, Resumed};
use rustls::{ClientConfig, HandshakeKind, ServerConfig, ServerConnection};

/// One side: what it is and whom it trusts.
struct End {
    leaf: Arc<LeafCell>,
    trust: Arc<TrustCell>,
}

impl End {
    fn new(mesh: &TestMesh, cluster: &TestCluster, account: &str) -> Self {
        Self {
            leaf: Arc::new(LeafCell::new(cluster.leaf("shop", account))),
            trust: Arc::new(TrustCell::new(mesh.bundle())),
        }
    }

    fn cells(&self) -> (Arc<LeafCell>, Arc<TrustCell>) {
        (Arc::clone(&self.leaf), Arc::clone(&self.trust))
    }

    fn server(&self) -> Server {
        let (leaf, trust) = self.cells();
        let time = TestTime::at(start());
        let required = ClientAuth::Required;
        let config = server_config(leaf, trust, &[b"isthmus/1"], required, time);
        let (leaf, trust) = self.cells();
        Server {
            config,
            sessions: Sessions::new(leaf, trust),
        }
    }

    fn client(&self) -> ClientConfig {
        let (leaf, trust) = self.cells();
        client_config(Some(leaf), trust, &[b"isthmus/1"], TestTime::at(start()))
    }
}

struct Server {
    config: ServerConfig,
    sessions: Arc<Sessions>,
}

impl Server {
    /// For one connection.
    fn offering(&self) -> ServerConfig {
        self.sessions.offering(&self.config)
    }
}

struct Stage {
    mesh: TestMesh,
    west: TestCluster,
    caller: End,
    callee: End,
    server: Server,
    client: ClientConfig,
    tickets: Arc<Tickets>,
}

impl Stage {
    fn new() -> Self {
        let mesh = TestMesh::new(DOMAIN);
        let west = mesh.cluster("us-west");
        let [frontend, cart] = ["frontend", "cart"].map(|account| End::new(&mesh, &west, account));
        let (leaf, trust) = frontend.cells();
        Self {
            server: cart.server(),
            client: frontend.client(),
            tickets: Tickets::new(leaf, trust),
            mesh,
            west,
            caller: frontend,
            callee: cart,
        }
    }

    /// A session with the callee, which is called `name` here.
    fn shake(&self, name: &str) -> HandshakeKind {
        let config = self.tickets.toward(name, &self.client);
        let mut pair = Pair::new(config, self.server.offering());
        pair.pump().unwrap();
        let (client, server) = (&pair.client, &pair.server);
        let kind = client.handshake_kind().unwrap();
        assert_eq!(server.handshake_kind(), Some(kind));
        // Both know whom they deal with, either way.
        let bundle = self.mesh.bundle();
        for (connection, role, account) in [
            (&***client, PeerRole::Server, "cart"),
            (&***server, PeerRole::Client, "frontend"),
        ] {
            let found = peer(connection, &bundle, role, start()).unwrap();
            let id = format!("spiffe://{DOMAIN}/ns/shop/sa/{account}");
            assert_eq!(found.id().to_string(), id);
        }
        assert_eq!(client.tls13_tickets_received(), 1);
        kind
    }
}

#[test]
fn who_comes_again_goes_on() {
    let stage = Stage::new();
    let kinds = ["east", "east", "east", "other", "east"].map(|name| stage.shake(name));
    assert_eq!(kinds, [Full, Resumed, Resumed, Full, Resumed]);
}

#[test]
fn a_ticket_is_good_once() {
    let stage = Stage::new();
    assert_eq!(stage.shake("east"), Full);
    let config = || stage.tickets.toward("east", &stage.client);
    // Two that are under way at a time have one ticket between them.
    let mut pairs = [
        Pair::new(config(), stage.server.offering()),
        Pair::new(config(), stage.server.offering()),
    ];
    for pair in &mut pairs {
        pair.pump().unwrap();
    }
    let kinds = pairs.map(|pair| pair.client.handshake_kind().unwrap());
    assert_eq!(kinds, [Resumed, Full]);
}

/// The same first words again, as somebody would send them who has heard them.
#[test]
fn a_ticket_that_was_heard_is_worth_nothing() {
    let stage = Stage::new();
    assert_eq!(stage.shake("east"), Full);
    let config = stage.tickets.toward("east", &stage.client);
    let mut pair = Pair::new(config, stage.server.offering());
    let mut hello = Vec::new();
    pair.client.write_tls(&mut hello).unwrap();
    for expect in [Resumed, Full] {
        let config = Arc::new(stage.server.offering());
        let mut server = ServerConnection::new(config).unwrap();
        server.read_tls(&mut &hello[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut answer = Vec::new();
        server.write_tls(&mut answer).unwrap();
        assert_eq!(server.handshake_kind(), Some(expect));
    }
}

#[test]
fn nothing_outlives_the_leaf_and_the_bundle_it_was_made_under() {
    type Change = fn(&Stage);
    let changes: [(&str, Change); 4] = [
        ("the caller's leaf", |stage| {
            let leaf = stage.west.leaf("shop", "frontend");
            stage.caller.leaf.replace(leaf).unwrap();
        }),
        ("the callee's leaf", |stage| {
            let leaf = stage.west.leaf("shop", "cart");
            stage.callee.leaf.replace(leaf).unwrap();
        }),
        ("whom the caller trusts", |stage| {
            stage.caller.trust.replace(stage.mesh.bundle());
        }),
        ("whom the callee trusts", |stage| {
            stage.callee.trust.replace(stage.mesh.bundle());
        }),
    ];
    for (name, change) in changes {
        let stage = Stage::new();
        assert_eq!(stage.shake("east"), Full);
        change(&stage);
        assert_eq!(stage.shake("east"), Full, "{name}");
        assert_eq!(stage.shake("east"), Resumed, "{name}");
    }
}

/// A handshake that a renewal overtakes leaves nothing behind that could be resumed.
#[test]
fn nothing_is_kept_of_a_handshake_that_began_before() {
    for is_client in [true, false] {
        let stage = Stage::new();
        let config = stage.tickets.toward("east", &stage.client);
        let mut pair = Pair::new(config, stage.server.offering());
        let (end, account) = if is_client {
            (&stage.caller, "frontend")
        } else {
            (&stage.callee, "cart")
        };
        end.leaf.replace(stage.west.leaf("shop", account)).unwrap();
        pair.pump().unwrap();
        assert_eq!(stage.shake("east"), Full, "{account}");
        assert_eq!(stage.shake("east"), Resumed, "{account}");
    }
}

#[test]
fn a_server_that_has_forgotten_is_no_failure() {
    let mut stage = Stage::new();
    assert_eq!(stage.shake("east"), Full);
    stage.server = stage.callee.server();
    assert_eq!(stage.shake("east"), Full);
    assert_eq!(stage.shake("east"), Resumed);
}

#[test]
fn who_does_not_ask_is_given_no_ticket_and_nobody_sends_data_early() {
    let stage = Stage::new();
    let mut pair = Pair::new(stage.client.clone(), stage.server.offering());
    pair.pump().unwrap();
    assert_eq!(pair.client.tls13_tickets_received(), 0);

    assert_eq!(stage.shake("east"), Full);
    let mut config = stage.tickets.toward("east", &stage.client);
    config.enable_early_data = true;
    let mut pair = Pair::new(config, stage.server.offering());
    let early = pair
        .client
        .early_data()
        .map(|mut early| early.write(b"GET"));
    assert!(early.is_none_or(|written| written.is_err()));
}
