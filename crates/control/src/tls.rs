//! Taking connections: TLS first, who it is, then whatever runs inside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use isthmus_identity::{PeerError, PeerRole, TrustCell, VerifiedPeer, peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::core::{ConnectionId, Generation};
use crate::issuer::Issuer;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to rest when the system has no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);
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

/// A connection after its handshake. It ends when the certificate does by which its peer is known: whoever has a
/// newer one comes again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    ends: Option<Pin<Box<Sleep>>>,
    pub(crate) caller: Arc<Caller>,
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
            let peer = match peer(
                stream.get_ref().1,
                &trust.load(),
                PeerRole::Client,
                SystemTime::now(),
            ) {
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
            let caller = Arc::new(Caller {
                connection,
                peer,
                generation: issuer.generation_of(chain.unwrap_or_default()),
                address,
            });
            // An error means that the server is stopping.
            let _ = accepted
                .send(Ok(Connection {
                    stream,
                    ends,
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
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(context).is_ready()
        {
            let ended = "the certificate of the peer has ended";
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
