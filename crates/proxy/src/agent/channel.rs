//! Connections to control planes: mutual TLS, gRPC inside.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    JoinToken, LeafCell, PeerRole, TrustCell, accept_control, client_config, control_server_name,
    first_contact, peer, pinned_client_config,
};
use isthmus_model::ClusterName;
use isthmus_wire::proto::control_client::ControlClient;
use rustls::ClientConfig;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

const ALPN: &[&[u8]] = &[b"h2"];
const CONNECT: Duration = Duration::from_secs(3);
/// A control plane that answers no ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Why there is no connection to a control plane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("{address}: {source}")]
    Transport {
        address: SocketAddr,
        source: tonic::transport::Error,
    },
    #[error("no control plane address is configured")]
    NoAddress,
}

/// Opens a connection as the owner of `leaf`, to a control plane of `cluster`.
pub(crate) async fn open(
    address: SocketAddr,
    cluster: &ClusterName,
    leaf: Arc<LeafCell>,
    trust: Arc<TrustCell>,
) -> Result<ControlClient<Channel>, ChannelError> {
    let time = Arc::new(DefaultTimeProvider);
    let config = Arc::new(client_config(Some(leaf), Arc::clone(&trust), ALPN, time));
    let expected = cluster.clone();
    connect(address, cluster, config, move |session| {
        let peer = peer(session, &trust.load(), PeerRole::Server, SystemTime::now())
            .map_err(io::Error::other)?;
        accept_control(&peer, &expected).map_err(io::Error::other)
    })
    .await
}

/// Opens a connection as a newcomer, who knows only the root's fingerprint.
pub(crate) async fn open_pinned(
    address: SocketAddr,
    cluster: &ClusterName,
    token: &JoinToken,
) -> Result<ControlClient<Channel>, ChannelError> {
    let time = Arc::new(DefaultTimeProvider);
    let root = token.root();
    let config = Arc::new(pinned_client_config(root, ALPN, time));
    let expected = cluster.clone();
    connect(address, cluster, config, move |session| {
        let chain = session.peer_certificates().unwrap_or_default();
        let (_, peer) = first_contact(chain, root, SystemTime::now()).map_err(io::Error::other)?;
        accept_control(&peer, &expected).map_err(io::Error::other)
    })
    .await
}

async fn connect(
    address: SocketAddr,
    cluster: &ClusterName,
    config: Arc<ClientConfig>,
    judge: impl Fn(&rustls::CommonState) -> io::Result<()> + Clone + Send + Sync + 'static,
) -> Result<ControlClient<Channel>, ChannelError> {
    let failed = |source| ChannelError::Transport { address, source };
    let name = control_server_name(cluster);
    let connector = tower::service_fn(move |_| {
        let (config, name, judge) = (Arc::clone(&config), name.clone(), judge.clone());
        async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let stream: TlsStream<TcpStream> =
                TlsConnector::from(config).connect(name, socket).await?;
            judge(stream.get_ref().1)?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    // TLS is the connector's; the URI is only an address.
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_with_connector(connector)
        .await
        .map_err(failed)?;
    Ok(ControlClient::new(channel))
}

/// Everything that an error chain says, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
