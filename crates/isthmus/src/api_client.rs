//! The command line's end of the API: HTTPS to a cluster's control plane, trusted by the mesh root.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use isthmus_identity::{self as identity, Certificates, PeerRole, TrustBundle, TrustCell};
use isthmus_model::ClusterName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::failure::{Exit, Failure, Result};
use crate::home::{self, Context, Home};

pub(crate) const HISTORY_PATH: &str = "/mesh/v1/history";

/// How long a connection may take, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a reply may take.
const REPLY_LIMIT: Duration = Duration::from_secs(20);
/// How long what is large may take to be made.
const MAKING_LIMIT: Duration = Duration::from_mins(10);
/// Bytes of a reply.
const LARGEST_REPLY: usize = 64 << 20;
/// By how much each context is tried later than the one before it.
const HEAD_START: Duration = Duration::from_millis(100);

/// What all clusters of a mesh are asked with.
#[derive(Clone)]
pub(crate) struct Credentials {
    root: PathBuf,
    tls: TlsConnector,
    trust: Arc<TrustCell>,
    bearer: String,
}

/// One cluster's API. Connects when needed and keeps the connection.
#[derive(Debug)]
pub(crate) struct ApiClient {
    pub(crate) cluster: ClusterName,
    /// Resources and their history are those that belong to this cluster; `None`: to the mesh.
    pub(crate) origin: Option<ClusterName>,
    address: SocketAddr,
    credentials: Credentials,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// What the control plane showed of itself when it was last connected to.
    chain: Option<Certificates>,
}

/// Why a cluster gave no answer, or said no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the API of cluster {cluster} at {address} does not answer: {cause}")]
    Unreachable {
        cluster: ClusterName,
        address: SocketAddr,
        cause: String,
    },
    #[error("{}", .0.message)]
    Refused(Box<isthmus_api::Failure>),
    #[error("the API of cluster {cluster} gave an answer that makes no sense: {cause}")]
    Odd { cluster: ClusterName, cause: String },
}

impl Credentials {
    /// Reads the mesh root and the bearer token from the home.
    pub(crate) fn read(home: &Home) -> Result<Self> {
        let root = home.root_certificate();
        let trust = roots(&root)?;
        let bearer = home::read_file(&home.token()).map_err(|failure| {
            failure.next("put a token there that the cluster's control.yaml has under apiTokens; `isthmus up` writes one")
        })?;
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let trust = Arc::new(TrustCell::new(trust));
        let config = identity::client_config(None, trust.clone(), &[b"http/1.1"], clock);
        Ok(Self {
            root,
            tls: TlsConnector::from(Arc::new(config)),
            trust,
            bearer: format!("Bearer {}", bearer.trim()),
        })
    }

    /// The home may trust other roots than it did when this was read.
    fn refresh(&self) -> Result<Arc<TrustBundle>> {
        let found = roots(&self.root)?;
        if found != *self.trust.load() {
            self.trust.replace(found);
        }
        Ok(self.trust.load())
    }
}

fn roots(path: &Path) -> Result<TrustBundle> {
    TrustBundle::from_pem(&home::read_file(path)?).map_err(|error| {
        let what = format!("{} is not a mesh root", path.display());
        Failure::failed("bad-root", what).caused_by(&error)
    })
}

impl fmt::Debug for Credentials {
    /// Never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The API of `wanted`, else of the first cluster that answers.
///
/// Errors: there is no mesh in the home, no such cluster, or nobody answers (exit 4).
pub(crate) async fn connect(home: &Home, wanted: Option<&ClusterName>) -> Result<ApiClient> {
    connect_first(clients(home, wanted)?).await
}

/// The first of these that answers, the earlier ones with a head start.
///
/// Errors: none does (exit 4).
pub(crate) async fn connect_first(clients: Vec<ApiClient>) -> Result<ApiClient> {
    let mut attempts = JoinSet::new();
    for (position, mut client) in (0u32..).zip(clients) {
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * position).await;
            client.connect().await.map(|()| client)
        });
    }
    let mut errors = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => errors.push(error.to_string()),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Err(nobody_answers(errors))
}

/// The APIs of `wanted`, else of all clusters that the home knows; none is connected yet.
///
/// Errors: there is no mesh in the home, or no such cluster.
pub(crate) fn clients(home: &Home, wanted: Option<&ClusterName>) -> Result<Vec<ApiClient>> {
    let mesh = home.read_mesh()?.ok_or_else(|| no_mesh(home))?;
    let credentials = Credentials::read(home)?;
    let is_wanted = |context: &&Context| wanted.is_none_or(|name| context.name.0 == *name);
    let contexts = mesh.clusters.iter().filter(is_wanted);
    let clients: Vec<ApiClient> = contexts
        .map(|context| ApiClient::new(context.name.0.clone(), context.api, &credentials))
        .collect();
    if !clients.is_empty() {
        return Ok(clients);
    }
    let names: Vec<String> = mesh
        .clusters
        .iter()
        .map(|each| each.name.to_string())
        .collect();
    let wanted = wanted.map_or("any cluster".to_owned(), |name| format!("cluster {name}"));
    Err(Failure::usage(
        "no-such-cluster",
        format!("this home knows no API of {wanted}"),
    )
    .next(format!("the clusters are: {}", names.join(", "))))
}

pub(crate) fn nobody_answers(mut errors: Vec<String>) -> Failure {
    errors.sort();
    let mut failure = Failure::new(
        Exit::Unreachable,
        "mesh-unreachable",
        "no cluster's API answers",
    );
    failure.causes = errors;
    failure.next("start the mesh with `isthmus up`, or see `isthmus logs <cluster>/control`")
}

fn no_mesh(home: &Home) -> Failure {
    let what = format!("there is no mesh in {}", home.path().display());
    Failure::new(Exit::Unreachable, "no-mesh", what)
        .next("start one with `isthmus up -f DIR`, or name another home with --home")
}

impl ApiClient {
    pub(crate) fn new(
        cluster: ClusterName,
        address: SocketAddr,
        credentials: &Credentials,
    ) -> Self {
        Self {
            cluster,
            origin: None,
            address,
            credentials: credentials.clone(),
            connection: None,
            chain: None,
        }
    }

    pub(crate) fn chain(&self) -> Option<&Certificates> {
        self.chain.as_ref()
    }

    /// Connects unless a connection is there.
    pub(crate) async fn connect(&mut self) -> Result<(), ApiError> {
        if self
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.is_closed())
        {
            return Ok(());
        }
        let opened = match timeout(CONNECT_LIMIT, self.open()).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing within {} s", CONNECT_LIMIT.as_secs())),
        };
        let (connection, chain) = opened.map_err(|cause| self.unreachable(cause))?;
        self.connection = Some(connection);
        self.chain = Some(chain);
        Ok(())
    }

    async fn open(&self) -> std::io::Result<(SendRequest<Full<Bytes>>, Certificates)> {
        let refreshed = self.credentials.refresh();
        let trust = refreshed.map_err(|failure| std::io::Error::other(failure.what))?;
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = identity::control_server_name(&self.cluster);
        let stream = self.credentials.tls.connect(name, stream).await?;
        let chain = self.check_peer(&stream, &trust)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        // Its errors reach the sender too.
        tokio::spawn(connection);
        Ok((sender, chain))
    }

    /// A peer of the mesh is not enough: it must be this cluster's control plane.
    fn check_peer(
        &self,
        stream: &tokio_rustls::client::TlsStream<TcpStream>,
        trust: &TrustBundle,
    ) -> std::io::Result<Certificates> {
        let session = stream.get_ref().1;
        let peer = identity::peer(session, trust, PeerRole::Server, SystemTime::now())
            .map_err(std::io::Error::other)?;
        identity::accept_control(&peer, &self.cluster).map_err(std::io::Error::other)?;
        let shown = session.peer_certificates().unwrap_or_default();
        Certificates::new(shown.to_vec()).map_err(std::io::Error::other)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ApiError> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &Value,
    ) -> Result<T, ApiError> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::DELETE, path, None).await
    }

    /// Deletes if the preconditions in `options`, Kubernetes' DeleteOptions, hold.
    pub(crate) async fn delete_if(
        &mut self,
        path: &str,
        options: &Value,
    ) -> Result<Value, ApiError> {
        self.send(Method::DELETE, path, Some(options)).await
    }

    /// `None` when the object does not exist.
    pub(crate) async fn find(&mut self, path: &str) -> Result<Option<Value>, ApiError> {
        self.find_as(path).await
    }

    /// `None` when there is nothing.
    pub(crate) async fn find_as<T: DeserializeOwned>(
        &mut self,
        path: &str,
    ) -> Result<Option<T>, ApiError> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(ApiError::Refused(failure)) if failure.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets what is too large to be held: each piece goes to `take`, with the length of the whole where it is known,
    /// until `take` says that it wants no more.
    pub(crate) async fn download(
        &mut self,
        path: &str,
        take: &mut (dyn FnMut(&[u8], Option<u64>) -> bool + Send),
    ) -> Result<(), ApiError> {
        self.connect().await?;
        let late = || format!("nothing within {} s", REPLY_LIMIT.as_secs());
        let begun = match timeout(MAKING_LIMIT, self.begin(Method::GET, path, None)).await {
            Ok(begun) => begun,
            Err(_) => Err(format!("nothing within {} s", MAKING_LIMIT.as_secs())),
        };
        let reply = begun.map_err(|cause| self.broken_off(cause))?;
        let status = reply.status();
        let length = reply.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = reply.into_body();
        if !status.is_success() {
            let collected = timeout(REPLY_LIMIT, Limited::new(body, LARGEST_REPLY).collect()).await;
            let collected = collected.map_err(|_| self.broken_off(late()))?;
            let bytes = collected.map_err(|error| self.broken_off(error.to_string()))?;
            return self.read::<Value>(status, &bytes.to_bytes()).map(drop);
        }
        loop {
            let frame = timeout(REPLY_LIMIT, body.frame()).await;
            let frame = frame.map_err(|_| self.broken_off(late()))?;
            let Some(frame) = frame else {
                return Ok(());
            };
            let frame = frame.map_err(|error| self.broken_off(describe(&error)))?;
            if frame.data_ref().is_some_and(|piece| !take(piece, length)) {
                self.connection = None;
                return Ok(());
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ApiError> {
        self.connect().await?;
        let exchanged = match timeout(REPLY_LIMIT, self.exchange(method, path, body)).await {
            Ok(exchanged) => exchanged,
            Err(_) => Err(format!("no reply within {} s", REPLY_LIMIT.as_secs())),
        };
        let (status, bytes) = exchanged.map_err(|cause| self.broken_off(cause))?;
        self.read(status, &bytes)
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        let reply = self.begin(method, path, body).await?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), LARGEST_REPLY);
        let collected = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, collected.to_bytes()))
    }

    async fn begin(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, String> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let is_of_origin = ["/api/", "/apis/", HISTORY_PATH];
        let is_of_origin = is_of_origin.iter().any(|root| path.starts_with(root));
        let path = match &self.origin {
            Some(cluster) if is_of_origin => isthmus_api::of_cluster(cluster.as_str(), path),
            _ => path.to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("control.{}.mesh", self.cluster))
            .header(AUTHORIZATION, &self.credentials.bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(text))
            .map_err(|error| error.to_string())?;
        let connection = self.connection.as_mut().ok_or("the connection is closed")?;
        let reply = connection.send_request(request).await;
        reply.map_err(|error| describe(&error))
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, bytes: &[u8]) -> Result<T, ApiError> {
        let odd = |cause: String| ApiError::Odd {
            cluster: self.cluster.clone(),
            cause,
        };
        if status.is_success() {
            return serde_json::from_slice(bytes).map_err(|error| odd(error.to_string()));
        }
        match serde_json::from_slice(bytes) {
            Ok(failure) => Err(ApiError::Refused(failure)),
            Err(_) => Err(odd(format!("status {status} without a reason"))),
        }
    }

    /// Nothing more comes on this connection.
    fn broken_off(&mut self, cause: String) -> ApiError {
        self.connection = None;
        self.unreachable(cause)
    }

    fn unreachable(&self, cause: String) -> ApiError {
        ApiError::Unreachable {
            cluster: self.cluster.clone(),
            address: self.address,
            cause,
        }
    }
}

fn describe(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unreachable { .. } => {
                Self::new(Exit::Unreachable, "mesh-unreachable", error.to_string())
                    .next("see `isthmus status`, or ask another cluster with --cluster")
            }
            ApiError::Odd { .. } => Self::failed("odd-reply", error.to_string())
                .next("compare `isthmus --version` with the version in `isthmus status`"),
            ApiError::Refused(refused) => refused_failure(*refused),
        }
    }
}

fn refused_failure(refused: isthmus_api::Failure) -> Failure {
    let code = match refused.code {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not-found",
        409 => "conflict",
        400 | 422 => "invalid",
        503 => "unavailable",
        _ => "refused",
    };
    let mut failure = Failure::failed(code, refused.message);
    for cause in refused
        .details
        .into_iter()
        .flat_map(|details| details.causes)
    {
        failure = failure.cause(format!("{}: {}", cause.field, cause.message));
    }
    match refused.code {
        401 => failure
            .next("the token in `$ISTHMUS_HOME/token` must be one that the cluster's control.yaml has under apiTokens"),
        409 => failure
            .next("somebody else has changed it meanwhile: look with `isthmus get`, try again"),
        503 => failure.next("try again; `isthmus status` shows who cannot be reached"),
        _ => failure,
    }
}
