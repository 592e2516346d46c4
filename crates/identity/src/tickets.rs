//! Sessions that are resumed (RFC 8446 section 2.2): who comes again after a cut neither signs nor checks a
//! signature, and shares a fresh key all the same (`psk_dhe_ke`).
//!
//! Invariant: nothing is kept longer than the leaf and the trust bundle under which it was; a renewed leaf and
//! a changed bundle each make the next handshake a full one. A ticket is good once, for the peer that it came
//! from. What a resumed session brings is the chain that was presented in the first one; whoever takes
//! the session judges that chain again, as it judges any other. No early data.
//!
//! Tickets are asked for (RFC 9149): a peer that says nothing about them gets none.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{
    ClientSessionStore, Resumption, TicketRequest, Tls12ClientSessionValue, Tls12Resumption,
    Tls13ClientSessionValue,
};
use rustls::server::StoresServerSessions;
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use rustls_pki_types::ServerName;

use crate::generations::Generations;
use crate::{Leaf, LeafCell, TrustBundle, TrustCell};

/// Sessions that a server keeps of one generation; two are kept. Each takes about two kilobytes, mostly the
/// client's chain.
const OF_CLIENTS: usize = 1024;
/// Peers of one generation of which a client keeps tickets; two are kept.
const OF_SERVERS: usize = 512;
/// Tickets of one peer: its connections are made one by one, by any worker.
const OF_PEER: usize = 4;

/// What a client asks for with each handshake.
const REQUEST: TicketRequest = TicketRequest {
    new_session_count: 1,
    resumption_count: 1,
};

/// Lets clients that ask for it resume their sessions with this server. All connections of `config` share
/// what is kept. `leaf` and `trust`: those of `config`.
pub fn offer_tickets(config: &mut ServerConfig, leaf: Arc<LeafCell>, trust: Arc<TrustCell>) {
    config.session_storage = Arc::new(Sessions(Kept::new(leaf, trust)));
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 1;
}

/// What a client has been given by the servers it knows.
#[derive(Debug)]
pub struct Tickets(Kept<Box<str>, Vec<Tls13ClientSessionValue>, OF_SERVERS>);

impl Tickets {
    /// `leaf` and `trust`: those of the configurations that are given to [`Tickets::toward`].
    pub fn new(leaf: Arc<LeafCell>, trust: Arc<TrustCell>) -> Arc<Self> {
        Arc::new(Self(Kept::new(leaf, trust)))
    }

    /// `config`, for connections to the server that is called `peer` here: its address or the like. With
    /// another server a ticket would do no harm, and would be lost.
    pub fn toward(
        self: &Arc<Self>,
        peer: impl Into<Box<str>>,
        config: &ClientConfig,
    ) -> ClientConfig {
        let toward = Toward {
            tickets: Arc::clone(self),
            peer: peer.into(),
        };
        let mut config = config.clone();
        config.resumption =
            Resumption::store(Arc::new(toward)).tls12_resumption(Tls12Resumption::Disabled);
        config.send_ticket_request = Some(REQUEST);
        config
    }
}

/// Tickets of one server.
#[derive(Debug)]
struct Toward {
    tickets: Arc<Tickets>,
    peer: Box<str>,
}

impl ClientSessionStore for Toward {
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tickets.0.with(|kept| match kept.find(&*self.peer) {
            Some(tickets) => {
                if tickets.len() >= OF_PEER {
                    tickets.remove(0);
                }
                tickets.push(ticket);
            }
            None => kept.keep(self.peer.clone(), vec![ticket]),
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.0.with(|kept| kept.find(&*self.peer)?.pop())
    }

    // Members of a mesh agree on the group that they prefer.
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    // TLS 1.2 is not spoken.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}

/// What a server knows of its clients, by their tickets.
#[derive(Debug)]
struct Sessions(Kept<Vec<u8>, Vec<u8>, OF_CLIENTS>);

impl StoresServerSessions for Sessions {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        self.0.with(|kept| kept.keep(ticket, session));
        true
    }

    /// As `take`: a ticket is good once.
    fn get(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.take(ticket)
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.with(|kept| kept.take(ticket))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Something that is kept while a leaf and a bundle are in force.
struct Kept<K, V, const EACH: usize> {
    leaf: Arc<LeafCell>,
    trust: Arc<TrustCell>,
    reign: Mutex<Reign<K, V, EACH>>,
}

/// What was kept under one leaf and one bundle.
struct Reign<K, V, const EACH: usize> {
    leaf: Arc<Leaf>,
    trust: Arc<TrustBundle>,
    kept: Generations<K, V, EACH>,
}

impl<K, V, const EACH: usize> Kept<K, V, EACH> {
    fn new(leaf: Arc<LeafCell>, trust: Arc<TrustCell>) -> Self {
        let reign = Reign {
            leaf: leaf.load(),
            trust: trust.load(),
            kept: Generations::default(),
        };
        Self {
            leaf,
            trust,
            reign: Mutex::new(reign),
        }
    }

    /// Those of the leaf and the bundle of now.
    fn with<T>(&self, use_them: impl FnOnce(&mut Generations<K, V, EACH>) -> T) -> T {
        let (leaf, trust) = (self.leaf.load(), self.trust.load());
        // A map is whole between any two calls of it.
        let mut reign = self.reign.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&leaf, &reign.leaf) || !Arc::ptr_eq(&trust, &reign.trust) {
            *reign = Reign {
                leaf,
                trust,
                kept: Generations::default(),
            };
        }
        use_them(&mut reign.kept)
    }
}

impl<K, V, const EACH: usize> fmt::Debug for Kept<K, V, EACH> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}
