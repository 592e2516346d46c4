//! Mutual TLS with other proxies: who we are, and proof of who they are.
//!
//! A handshake that succeeds yields a `VerifiedPeer`; whether that peer is the right one is judged
//! before the first byte is sent (`identity::accept_…`). What fails is counted by reason.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_codec::mux;
use isthmus_identity::{
    ClientAuth, LeafCell, PeerError, PeerRole, TrustBundle, TrustCell, VerifiedPeer, client_config,
    server_config,
};
use isthmus_model::{ClusterName, Identity};
use isthmus_telemetry::Metrics;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Who this proxy is, and whom it trusts. Both change under way, in their cells.
pub(crate) struct Me {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterName,
    pub(crate) leaf: Arc<LeafCell>,
    pub(crate) trust: Arc<TrustCell>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Who is at the other end of a session, and what has proven it.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    role: PeerRole,
    /// By which it was verified.
    trust: Arc<TrustBundle>,
}

impl Proven {
    fn of(
        session: &CommonState,
        trust: Arc<TrustBundle>,
        role: PeerRole,
    ) -> Result<Self, TlsError> {
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        Ok(Self {
            peer: trust.verify(&chain, SystemTime::now(), role)?,
            chain,
            role,
            trust,
        })
    }

    pub(crate) fn peer(&self) -> &VerifiedPeer {
        &self.peer
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
        let server = server_config(
            Arc::clone(&leaf),
            Arc::clone(&trust),
            &alpn,
            ClientAuth::Required,
            time.clone(),
        );
        let client = client_config(Some(Arc::clone(&leaf)), Arc::clone(&trust), &alpn, time);
        Self {
            identity,
            cluster,
            leaf,
            trust,
            server: server.into(),
            client: client.into(),
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
        metrics: &Metrics,
    ) -> Result<(server::TlsStream<T>, Proven), TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let session = async {
            let stream = TlsAcceptor::from(Arc::clone(&self.server))
                .accept(io)
                .await?;
            let (_, session) = stream.get_ref();
            if session.alpn_protocol() != Some(mux::ALPN) {
                return Err(TlsError::Protocol);
            }
            let proven = Proven::of(session, self.trust.load(), PeerRole::Client)?;
            Ok((stream, proven))
        };
        session.await.inspect_err(|error| count(error, metrics))
    }

    /// Opens a session with a peer. Failures are counted.
    pub(crate) async fn connect<T>(
        &self,
        name: ServerName<'static>,
        io: T,
        metrics: &Metrics,
    ) -> Result<(client::TlsStream<T>, Proven), TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let session = async {
            let stream = TlsConnector::from(Arc::clone(&self.client))
                .connect(name, io)
                .await?;
            let (_, session) = stream.get_ref();
            if session.alpn_protocol() != Some(mux::ALPN) {
                return Err(TlsError::Protocol);
            }
            let proven = Proven::of(session, self.trust.load(), PeerRole::Server)?;
            Ok((stream, proven))
        };
        session.await.inspect_err(|error| count(error, metrics))
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
