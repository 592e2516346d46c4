//! A cluster's API over one connection that is kept: the command line makes one for each call, which
//! would take most of the time of a thousand.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use isthmus_identity::{TrustBundle, TrustCell, client_config, control_server_name};
use isthmus_lab::mesh::Mesh;
use isthmus_lab::trouble::{During, Result, ensure};
use isthmus_model::ClusterName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

pub(crate) struct Api {
    runtime: Runtime,
    connection: SendRequest<Full<Bytes>>,
    host: String,
    bearer: String,
}

impl Api {
    pub(crate) fn connect(mesh: &Mesh, cluster: &str) -> Result<Self> {
        let during = || format!("the API of {cluster}");
        let read =
            |path: PathBuf| std::fs::read_to_string(&path).during(|| path.display().to_string());
        let root = read(mesh.home().join("ca/root.pem"))?;
        let token = read(mesh.home().join("token"))?;
        let trust = TrustCell::new(TrustBundle::from_pem(&root).during(during)?);
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let tls = client_config(None, Arc::new(trust), &[b"http/1.1"], clock);
        let name = control_server_name(&ClusterName::new(cluster).during(during)?);
        let address = SocketAddr::new(mesh.address(cluster, "control")?, 7443);

        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.during(during)?;
        let connection = runtime.block_on(async {
            let socket = TcpStream::connect(address).await.during(during)?;
            socket.set_nodelay(true).during(during)?;
            let connector = TlsConnector::from(Arc::new(tls));
            let session = connector.connect(name, socket).await.during(during)?;
            let (sender, connection) = handshake(TokioIo::new(session)).await.during(during)?;
            // Its errors reach the sender too.
            tokio::spawn(connection);
            Ok(sender)
        })?;
        Ok(Self {
            runtime,
            connection,
            host: format!("control.{cluster}.mesh"),
            bearer: format!("Bearer {}", token.trim()),
        })
    }

    /// Posts to `/mesh/v1/explain`.
    pub(crate) fn explain(&mut self, question: &Value) -> Result<Value> {
        let during = || format!("explain {question}");
        let request = Request::post("/mesh/v1/explain")
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(question.to_string()))
            .during(during)?;
        let Self {
            runtime,
            connection,
            ..
        } = self;
        let (status, body) = runtime.block_on(async {
            let reply = connection.send_request(request).await.during(during)?;
            let status = reply.status();
            let body = reply.into_body().collect().await.during(during)?;
            Ok((status, body.to_bytes()))
        })?;
        ensure(status == 200, || {
            let text = String::from_utf8_lossy(&body);
            format!("{question} was answered with {status}: {text}")
        })?;
        serde_json::from_slice(&body).during(during)
    }
}
