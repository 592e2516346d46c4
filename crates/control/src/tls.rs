//! Taking connections: TLS first, who it is, then whatever runs inside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use isthmus_identity::{PeerError, PeerRole, TrustBundle, TrustCell, VerifiedPeer, peer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::core::{ConnectionId, Generation};
use crate::issuer::Issuer;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to rest when the system has no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How long a connection lasts whose peer was known by a root that is trusted no more: by then its successor has
/// had time to begin.
const LEAVE: Duration = Duration::from_secs(5);
/// They do not all end at once.
const SPREAD: Duration = Duration::from_millis(50);
const SPREADS: u32 = 100;
/// Connections that wait to be served.
const WAITING: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) connection: ConnectionId,
    /// `None`: it presented no certificate.
    pub(crate) peer: Option<VerifiedPeer>,
    /// Of its certificate.
    pub(crate) generation: Generation,
    pub(crate) address: SocketAddr,
}

/// A connection after its handshake. It ends when the certificate does by which its peer is known, or its root is
/// trusted no more: whoever has a newer one comes again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    ends: Option<Pin<Box<Sleep>>>,
    standing: Standing,
    pub(crate) caller: Arc<Caller>,
}

/// By what the peer's certificate was believed.
#[derive(Debug)]
struct Standing {
    trust: Arc<TrustCell>,
    by: Arc<TrustBundle>,
    /// Empty: it presented none.
    chain: Vec<CertificateDer<'static>>,
}

/// Accepts for ever. Handshakes run beside each other; those that succeed come out.
pub(crate) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    trust: Arc<TrustCell>,
    issuer: Arc<Issuer>,
    mut next_id: impl FnMut() -> ConnectionId,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let (acceptor, trust, accepted) = (acceptor.clone(), trust.clone(), accepted.clone());
        let issuer = issuer.clone();
        let connection = next_id();
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE, handshake(stream, &acceptor)).await;
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    refused(address, &error);
                    return;
                }
                Err(_) => return,
            };
            let by = trust.load();
            let peer = match peer(stream.get_ref().1, &by, PeerRole::Client, SystemTime::now()) {
                Ok(peer) => Some(peer),
                Err(PeerError::NoCertificate) => None,
                Err(error) => {
                    tracing::warn!(%address, %error, "a caller is not of this mesh");
                    return;
                }
            };
            let ends = peer.as_ref().map(|peer| {
                let left = peer.not_after().duration_since(SystemTime::now());
                Box::pin(tokio::time::sleep(left.unwrap_or_default()))
            });
            let chain = stream.get_ref().1.peer_certificates();
            let chain = chain.unwrap_or_default().to_vec();
            let caller = Arc::new(Caller {
                connection,
                peer,
                generation: issuer.generation_of(&chain),
                address,
            });
            let standing = Standing { trust, by, chain };
            // An error means that the server is stopping.
            let _ = accepted
                .send(Ok(Connection {
                    stream,
                    ends,
                    standing,
                    caller,
                }))
                .await;
        });
    }
}

/// A handshake failed; when it was our refusal of the other side, somebody should know.
fn refused(address: SocketAddr, error: &io::Error) {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls.and_then(PeerError::of) {
        Some(peer) => {
            let reason = peer.reason();
            tracing::warn!(%address, reason, error = %peer, "a caller is not of this mesh");
        }
        None => tracing::debug!(%address, %error, "a handshake failed"),
    }
}

pub(crate) fn channel() -> (
    mpsc::Sender<io::Result<Connection>>,
    mpsc::Receiver<io::Result<Connection>>,
) {
    mpsc::channel(WAITING)
}

async fn handshake(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

impl Standing {
    /// Once no: other roots are trusted since, and none of them has signed the peer's cluster.
    fn holds(&mut self) -> bool {
        let trusted = self.trust.load();
        if Arc::ptr_eq(&trusted, &self.by) {
            return true;
        }
        self.by = trusted;
        self.chain.is_empty()
            || (self.by)
                .verify(&self.chain, SystemTime::now(), PeerRole::Client)
                .is_ok()
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Arc<Caller> {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.standing.holds() {
            let id = self.caller.connection.0;
            let spread = SPREAD * u32::try_from(id % u64::from(SPREADS)).unwrap_or_default();
            let at = Instant::now() + LEAVE + spread;
            if self.ends.as_ref().is_none_or(|ends| ends.deadline() > at) {
                self.ends = Some(Box::pin(tokio::time::sleep_until(at)));
            }
        }
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(context).is_ready()
        {
            let ended = "the certificate of the peer has ended, or is trusted no more";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, ended)));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isthmus_identity::{
        CLUSTER_LIFETIME, CertificateRequest, ClusterAuthority, KeyPair, MeshKey,
    };

    use super::*;

    #[test]
    fn who_was_known_by_a_root_that_goes_is_known_no_more() {
        let now = SystemTime::now();
        let found = || MeshKey::found(&"shop.example".parse().unwrap(), now).unwrap();
        let (old, new) = (found(), found());
        let request = |key: &KeyPair| {
            CertificateRequest::from_pem(&key.certificate_request().unwrap()).unwrap()
        };
        let (own, leaf) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let west = "west".parse().unwrap();
        let chain = old.sign_cluster(&request(&own), &west, now, CLUSTER_LIFETIME);
        let authority = ClusterAuthority::new(own, chain.unwrap(), now).unwrap();
        let day = Duration::from_hours(24);
        let chain = authority.issue_control(&request(&leaf), now, day).unwrap();
        let trust = Arc::new(TrustCell::new(old.bundle().clone()));
        let standing = |chain| Standing {
            trust: trust.clone(),
            by: trust.load(),
            chain,
        };
        let (mut known, mut nobody) = (standing(chain.into_vec()), standing(Vec::new()));
        assert!(known.holds());
        let both = TrustBundle::from_pem(&(new.root_pem() + &old.root_pem())).unwrap();
        trust.replace(both);
        assert!(known.holds());
        trust.replace(new.bundle().clone());
        assert!(!known.holds());
        assert!(known.holds(), "that is told once");
        // Who has only a token or nothing was never known by a root.
        assert!(nobody.holds());
    }
}
