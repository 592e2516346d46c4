//! Mutual TLS with other proxies: who we are, and proof of who they are.
//!
//! A handshake that succeeds yields a `VerifiedPeer`; whether that peer is the right one is judged
//! before the first byte is sent (`identity::accept_…`). What fails is counted by reason.

mod handshake;
mod session;
mod turns;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_codec::mux;
use isthmus_identity::{
    ClientAuth, LeafCell, PeerError, PeerRole, Sessions, Tickets, TrustBundle, TrustCell,
    VerifiedPeer, client_config, server_config,
};
use isthmus_model::{ClusterName, Identity};
use isthmus_telemetry::Metrics;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use self::handshake::{Side, shake};
pub(crate) use self::session::Session;
pub(crate) use self::turns::{Crowded, Turns};

/// Who this proxy is, and whom it trusts. Both change under way, in their cells.
pub(crate) struct Me {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterName,
    pub(crate) leaf: Arc<LeafCell>,
    pub(crate) trust: Arc<TrustCell>,
    server: ServerConfig,
    sessions: Arc<Sessions>,
    client: ClientConfig,
    tickets: Arc<Tickets>,
}

/// Who is at the other end of a session, and what has proven it.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    role: PeerRole,
    /// By which it was verified.
    trust: Arc<TrustBundle>,
    /// It rests on a root that another one takes the place of since.
    is_of_old_root: bool,
}

impl Proven {
    fn of(
        chain: Vec<CertificateDer<'static>>,
        trust: Arc<TrustBundle>,
        role: PeerRole,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            peer: trust.verify(&chain, SystemTime::now(), role)?,
            chain,
            role,
            trust,
            is_of_old_root: false,
        })
    }

    pub(crate) fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Will it be trusted no more, when all that began like it have had time to leave?
    pub(crate) fn is_of_old_root(&self) -> bool {
        self.is_of_old_root
    }

    /// Who it is by the trust of now. What has proven it once is not verified again.
    pub(crate) fn again(
        &mut self,
        trust: &Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<&VerifiedPeer, TlsError> {
        let is_same = Arc::ptr_eq(trust, &self.trust) && now < self.peer.not_after();
        if !is_same {
            self.peer = trust.verify(&self.chain, now, self.role)?;
            // What begins after the change rests on what its other end has by then.
            self.is_of_old_root |= !trust.is_of_first(&self.chain);
            self.trust = Arc::clone(trust);
        }
        Ok(&self.peer)
    }
}

/// Why there is no session with a peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
    #[error("the peer's identity: {0}")]
    Peer(#[from] PeerError),
    #[error("the peer does not speak isthmus/1 on this port")]
    Protocol,
}

impl TlsError {
    /// A short stable word for counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                inner
                    .and_then(PeerError::of)
                    .map_or("handshake", |error| error.reason())
            }
            Self::Peer(error) => error.reason(),
            Self::Protocol => "protocol",
        }
    }

    /// It was turned away because too many shake hands.
    pub(crate) fn is_crowded(&self) -> bool {
        match self {
            Self::Handshake(error) => error
                .get_ref()
                .is_some_and(<dyn Error + Send + Sync>::is::<Crowded>),
            Self::Peer(_) | Self::Protocol => false,
        }
    }

    /// The connection itself failed; nothing is said about the peer.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self, Self::Handshake(error) if error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()))
    }
}

impl Me {
    pub(crate) fn new(
        identity: Identity,
        cluster: ClusterName,
        leaf: Arc<LeafCell>,
        trust: Arc<TrustCell>,
    ) -> Self {
        let time = Arc::new(DefaultTimeProvider);
        let alpn = [mux::ALPN];
        let mut server = server_config(
            Arc::clone(&leaf),
            Arc::clone(&trust),
            &alpn,
            ClientAuth::Required,
            time.clone(),
        );
        let mut client = client_config(Some(Arc::clone(&leaf)), Arc::clone(&trust), &alpn, time);
        let sessions = Sessions::new(Arc::clone(&leaf), Arc::clone(&trust));
        let tickets = Tickets::new(Arc::clone(&leaf), Arc::clone(&trust));
        // Records are sealed and opened by `codec`.
        server.enable_secret_extraction = true;
        client.enable_secret_extraction = true;
        Self {
            identity,
            cluster,
            leaf,
            trust,
            server,
            sessions,
            client,
            tickets,
        }
    }

    /// Is there a certificate that peers still accept?
    pub(crate) fn has_valid_leaf(&self) -> bool {
        !self.leaf.load().expired(SystemTime::now())
    }

    /// Takes a peer's session. Failures are counted.
    pub(crate) async fn accept<T>(
        &self,
        io: T,
        turns: &Turns,
        metrics: &Metrics,
    ) -> Result<(Session<T>, Proven), TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let begin = || UnbufferedServerConnection::new(self.sessions.offering(&self.server).into());
        self.agree(begin, io, PeerRole::Client, turns, metrics)
            .await
    }

    /// Opens a session with a peer that knows itself as `name`, and we as `peer`: if it has given us a ticket,
    /// an earlier session goes on. Failures are counted.
    pub(crate) async fn connect<T>(
        &self,
        name: ServerName<'static>,
        peer: String,
        io: T,
        turns: &Turns,
        metrics: &Metrics,
    ) -> Result<(Session<T>, Proven), TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.tickets.toward(peer, &self.client);
        let begin = || UnbufferedClientConnection::new(config.into(), name);
        self.agree(begin, io, PeerRole::Server, turns, metrics)
            .await
    }

    /// The handshake, and who is there. `role`: the peer's.
    async fn agree<S, T>(
        &self,
        begin: impl FnOnce() -> Result<S, rustls::Error>,
        io: T,
        role: PeerRole,
        turns: &Turns,
        metrics: &Metrics,
    ) -> Result<(Session<T>, Proven), TlsError>
    where
        S: Side,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let agreed = async {
            let agreed = shake(begin, io, turns).await?;
            if agreed.alpn.as_deref() != Some(mux::ALPN) {
                return Err(TlsError::Protocol);
            }
            // Of a session that is resumed as of any other.
            let proven = Proven::of(agreed.certificates, self.trust.load(), role)?;
            metrics.count_tls_handshake(agreed.is_resumed);
            Ok((agreed.session, proven))
        };
        agreed.await.inspect_err(|error| count(error, metrics))
    }
}

/// A peer that went away is no refusal.
fn count(error: &TlsError, metrics: &Metrics) {
    if !error.is_transport() {
        metrics.count_tls_refused(error.reason());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Issuer, cluster};

    #[test]
    fn a_peer_is_verified_once_by_each_bundle() {
        let (now, role) = (SystemTime::now(), PeerRole::Client);
        let me = Issuer::new().workload(&cluster("west"), "cart");
        let (trust, chain) = (me.trust.load(), me.leaf.load().chain().as_slice().to_vec());
        let mut proven = Proven {
            peer: trust.verify(&chain, now, role).unwrap(),
            chain,
            role,
            trust: Arc::clone(&trust),
            is_of_old_root: false,
        };
        let next = Arc::new((*trust).clone());
        proven.again(&next, now).unwrap();
        // Nothing is left that could be verified.
        proven.chain.clear();
        proven.again(&next, now).unwrap();
        assert!(proven.again(&trust, now).is_err());
        // What is not trusted now was not proven by the other either.
        proven.again(&next, now).unwrap();
        assert!(proven.again(&next, proven.peer.not_after()).is_err());
    }
}
