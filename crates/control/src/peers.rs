//! Dialling other control planes. Whom and when is the core's decision.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use isthmus_identity::{PeerRole, TrustCell, accept_control, control_server_name, peer};
use isthmus_model::ClusterName;
use isthmus_wire::proto::peers_client::PeersClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::core::{Event, PeerSessionId, Target};
use crate::hub::Hub;
use crate::serve;

/// How long TCP and TLS may take together.
const CONNECT: Duration = Duration::from_secs(3);

/// What it takes to dial.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) hub: Arc<Hub>,
    pub(crate) tls: TlsConnector,
    pub(crate) trust: Arc<TrustCell>,
    pub(crate) own: ClusterName,
    pub(crate) authority: ClusterName,
}

/// Why a control plane was not reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("nothing within {} s", CONNECT.as_secs())]
    Slow,
    #[error(transparent)]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Peer(#[from] isthmus_identity::PeerError),
    #[error(transparent)]
    Unacceptable(#[from] isthmus_identity::Unacceptable),
    #[error("this cluster's own control plane answered")]
    Own,
    #[error(transparent)]
    Channel(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialler({})", self.own)
    }
}

impl Dialler {
    /// Dials, and keeps the stream until it ends. The core is told of either.
    pub(crate) async fn dial(self, target: Target, address: SocketAddr) {
        if let Err(error) = self.run(&target, address).await {
            tracing::debug!(?target, %address, %error, "another control plane was not reached");
            // An error means that the core is gone.
            let _ = self.hub.tell(Event::DialFailed { target }).await;
        }
    }

    async fn run(&self, target: &Target, address: SocketAddr) -> Result<(), DialError> {
        let connecting = tokio::time::timeout(CONNECT, self.connect(target, address));
        let (stream, cluster) = connecting.await.map_err(|_| DialError::Slow)??;
        let mut client = PeersClient::new(channel(stream).await?);
        let session = PeerSessionId(self.hub.next_id());
        let opened = self.hub.open_peer(session);
        // An error ends the stream; what it says goes to the log.
        let outgoing = ReceiverStream::new(opened.outgoing).map_while(Result::ok);
        let replicating = tokio::time::timeout(CONNECT, client.replicate(outgoing)).await;
        let incoming = match replicating {
            Ok(Ok(incoming)) => incoming.into_inner(),
            failed => {
                self.hub.close_peer(session);
                return Err(match failed {
                    Ok(Err(status)) => status.into(),
                    _ => DialError::Slow,
                });
            }
        };
        let event = Event::PeerOpened {
            session,
            cluster,
            target: Some(target.clone()),
        };
        if self.hub.tell(event).await.is_ok() {
            serve::receive(&self.hub, session, incoming, opened.closed).await;
        }
        Ok(())
    }

    async fn connect(
        &self,
        target: &Target,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, ClusterName), DialError> {
        let name = match target {
            Target::Cluster(name) => control_server_name(name),
            Target::Bootstrap(_) => control_server_name(&self.authority),
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(name, stream).await?;
        let trust = self.trust.load();
        let peer = peer(
            stream.get_ref().1,
            &trust,
            PeerRole::Server,
            SystemTime::now(),
        )?;
        let expected = match target {
            Target::Cluster(name) => name,
            Target::Bootstrap(_) => peer.cluster(),
        };
        accept_control(&peer, expected)?;
        if *expected == self.own {
            return Err(DialError::Own);
        }
        Ok((stream, expected.clone()))
    }
}

/// A channel over this one connection; when that ends, so does the channel.
async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(TokioIo::new(stream));
    let connector = ServiceOnce(move || {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::other("the connection has ended")) }
    });
    Endpoint::from_static("http://control.mesh")
        .connect_with_connector(connector)
        .await
}

/// A function as a service.
struct ServiceOnce<F>(F);

impl<F, R> tonic::codegen::Service<http::Uri> for ServiceOnce<F>
where
    F: FnMut() -> R,
    R: Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send + 'static,
{
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: http::Uri) -> Self::Future {
        Box::pin((self.0)())
    }
}
