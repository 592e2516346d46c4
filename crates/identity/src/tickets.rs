//! Sessions that are resumed (RFC 8446 section 2.2): who comes again after a cut neither signs nor checks a
//! signature, and shares a fresh key all the same (`psk_dhe_ke`).
//!
//! Invariant: nothing is kept longer than the leaf and the trust bundle under which its handshake began; a
//! renewed leaf and a changed bundle each make the next handshake a full one. A ticket is good once, for the peer that it came
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
/// client's chain, of which there is a bound.
const OF_CLIENTS: usize = 1024;
/// Peers of one generation of which a client keeps tickets; two are kept.
const OF_SERVERS: usize = 512;
/// Tickets of one peer, for as many workers that call it. Each holds the peer's chain.
const OF_PEER: usize = 4;

/// What a client asks for with each handshake.
const REQUEST: TicketRequest = TicketRequest {
    new_session_count: 1,
    resumption_count: 1,
};

/// What a server knows of its clients, by their tickets; for all connections of one identity.
#[derive(Debug)]
pub struct Sessions(Kept<Vec<u8>, Vec<u8>, OF_CLIENTS>);

impl Sessions {
    /// `leaf` and `trust`: those of the configurations that are given to [`Sessions::offering`].
    pub fn new(leaf: Arc<LeafCell>, trust: Arc<TrustCell>) -> Arc<Self> {
        Arc::new(Self(Kept::new(leaf, trust)))
    }

    /// `config`, for one connection: clients that ask for it may resume their sessions.
    pub fn offering(self: &Arc<Self>, config: &ServerConfig) -> ServerConfig {
        let mut config = config.clone();
        config.session_storage = Arc::new(Offered {
            sessions: Arc::clone(self),
            reign: self.0.reign(),
        });
        config.send_tls13_tickets = 0;
        config.max_tls13_tickets = 1;
        config
    }
}

/// Sessions for a connection that began under a reign.
#[derive(Debug)]
struct Offered {
    sessions: Arc<Sessions>,
    reign: Reign,
}

impl StoresServerSessions for Offered {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        let kept = &self.sessions.0;
        let put = kept.under(&self.reign, |kept| kept.keep(ticket, session));
        put.is_some()
    }

    /// As `take`: a ticket is good once.
    fn get(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.take(ticket)
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let kept = &self.sessions.0;
        kept.under(&self.reign, |kept| kept.take(ticket))?
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// What a client has been given by the servers it knows.
#[derive(Debug)]
pub struct Tickets(Kept<Box<str>, Vec<Tls13ClientSessionValue>, OF_SERVERS>);

impl Tickets {
    /// `leaf` and `trust`: those of the configurations that are given to [`Tickets::toward`].
    pub fn new(leaf: Arc<LeafCell>, trust: Arc<TrustCell>) -> Arc<Self> {
        Arc::new(Self(Kept::new(leaf, trust)))
    }

    /// `config`, for one connection to the server that is called `peer` here: its address or the like. With
    /// another server a ticket would do no harm, and would be lost.
    pub fn toward(
        self: &Arc<Self>,
        peer: impl Into<Box<str>>,
        config: &ClientConfig,
    ) -> ClientConfig {
        let toward = Toward {
            tickets: Arc::clone(self),
            reign: self.0.reign(),
            peer: peer.into(),
        };
        let mut config = config.clone();
        config.resumption =
            Resumption::store(Arc::new(toward)).tls12_resumption(Tls12Resumption::Disabled);
        config.send_ticket_request = Some(REQUEST);
        config
    }
}

/// Tickets of one server, for a connection that began under a reign.
#[derive(Debug)]
struct Toward {
    tickets: Arc<Tickets>,
    reign: Reign,
    peer: Box<str>,
}

impl ClientSessionStore for Toward {
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let kept = &self.tickets.0;
        kept.under(&self.reign, |kept| match kept.find(&*self.peer) {
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
        let kept = &self.tickets.0;
        kept.under(&self.reign, |kept| kept.find(&*self.peer)?.pop())?
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

/// Something that is kept while a leaf and a bundle are in force.
struct Kept<K, V, const EACH: usize> {
    leaf: Arc<LeafCell>,
    trust: Arc<TrustCell>,
    of: Mutex<(Reign, Generations<K, V, EACH>)>,
}

/// The time of one leaf and one bundle.
#[derive(Clone)]
struct Reign {
    leaf: Arc<Leaf>,
    trust: Arc<TrustBundle>,
}

impl PartialEq for Reign {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.leaf, &other.leaf) && Arc::ptr_eq(&self.trust, &other.trust)
    }
}

impl<K, V, const EACH: usize> Kept<K, V, EACH> {
    fn new(leaf: Arc<LeafCell>, trust: Arc<TrustCell>) -> Self {
        let reign = Reign {
            leaf: leaf.load(),
            trust: trust.load(),
        };
        Self {
            leaf,
            trust,
            of: Mutex::new((reign, Generations::default())),
        }
    }

    /// Of now.
    fn reign(&self) -> Reign {
        Reign {
            leaf: self.leaf.load(),
            trust: self.trust.load(),
        }
    }

    /// What was kept under `reign`, if that lasts.
    fn under<T>(
        &self,
        reign: &Reign,
        use_them: impl FnOnce(&mut Generations<K, V, EACH>) -> T,
    ) -> Option<T> {
        let now = self.reign();
        if *reign != now {
            return None;
        }
        // A map is whole between any two calls of it.
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.0 != now {
            *of = (now, Generations::default());
        }
        Some(use_them(&mut of.1))
    }
}

impl<K, V, const EACH: usize> fmt::Debug for Kept<K, V, EACH> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reign").finish_non_exhaustive()
    }
}
