//! A cluster's API as any program uses it: JSON over HTTP/1.1 and TLS, with the bearer token of the home.
//!
//! Who answers is not checked: it is a process of this machine, at an address that only this machine has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::mesh::Mesh;
use crate::trouble::{During, Result, Trouble};

/// A client of one cluster's API, with one connection at a time.
#[expect(missing_debug_implementations, reason = "it holds the token")]
pub struct Api {
    address: SocketAddr,
    bearer: String,
    tls: TlsConnector,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The request was not sent.
    NotSent(String),
    /// It was, and what became of it is not known.
    Unknown(String),
}

/// What a watch tells, line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    /// Read, and no whole line yet.
    rest: BytesMut,
    /// Who drops it ends the connection.
    _connection: SendRequest<Full<Bytes>>,
}

const CONNECT: Duration = Duration::from_secs(2);
/// Longer than any answer takes that is given at all.
const ANSWER: Duration = Duration::from_secs(15);

impl Api {
    /// Errors: the home knows no such cluster, or cannot be read.
    pub fn of(mesh: &Mesh, cluster: &str) -> Result<Self> {
        let read = |name: &str| {
            let path = mesh.home().join(name);
            std::fs::read_to_string(&path).during(|| path.display().to_string())
        };
        let known: Value =
            serde_json::from_str(&read("mesh.json")?).during(|| "mesh.json".to_owned())?;
        let mut clusters = known["clusters"].as_array().into_iter().flatten();
        let address = clusters.find(|one| one["name"] == cluster);
        let address = address.and_then(|one| one["api"].as_str()?.parse().ok());
        Ok(Self {
            address: address
                .ok_or_else(|| Trouble(format!("{cluster} has no API in mesh.json")))?,
            bearer: format!("Bearer {}", read("token")?.trim()),
            tls: connector()?,
            connection: None,
        })
    }

    /// Status and body. An answer without a body is null.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), Broken> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection
            .ready()
            .await
            .map_err(|error| Broken::NotSent(error.to_string()))?;
        let request = self.request(method, path, body)?;
        let answer = async {
            let reply = connection.send_request(request).await?;
            let status = reply.status().as_u16();
            Ok((status, reply.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = match timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unknown(&error)),
            Err(_) => {
                return Err(Broken::Unknown(format!(
                    "nothing for {} s",
                    ANSWER.as_secs()
                )));
            }
        };
        self.connection = Some(connection);
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).map_err(|error| Broken::Unknown(error.to_string()))?
        };
        Ok((status, body))
    }

    /// A watch on a connection of its own, or what the API says instead of one.
    pub async fn watch(&self, path: &str) -> Result<Result<Lines, u16>, Broken> {
        let mut connection = self.connect().await?;
        let request = self.request("GET", path, None)?;
        let reply = match timeout(ANSWER, connection.send_request(request)).await {
            Ok(reply) => reply.map_err(|error| unknown(&error))?,
            Err(_) => return Err(Broken::Unknown("no answer".to_owned())),
        };
        if reply.status() != 200 {
            return Ok(Err(reply.status().as_u16()));
        }
        Ok(Ok(Lines {
            body: reply.into_body(),
            rest: BytesMut::new(),
            _connection: connection,
        }))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Broken> {
        let opened = timeout(CONNECT, async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(self.address.ip().into());
            let stream = self.tls.connect(name, stream).await?;
            handshake(TokioIo::new(stream))
                .await
                .map_err(std::io::Error::other)
        });
        let (sender, connection) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(Broken::NotSent(error.to_string())),
            Err(_) => return Err(Broken::NotSent("no connection".to_owned())),
        };
        // Its errors reach the sender too.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<http::Request<Full<Bytes>>, Broken> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", &self.bearer)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Broken::NotSent(error.to_string()))
    }
}

impl Lines {
    /// The next one; `None`: the watch has ended, or nothing came for so long.
    pub async fn next(&mut self, patience: Duration) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return serde_json::from_slice(&line).ok();
            }
            let frame = timeout(patience, self.body.frame()).await.ok()??.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.rest.extend_from_slice(bytes);
            }
        }
    }
}

fn unknown(error: &hyper::Error) -> Broken {
    Broken::Unknown(error.to_string())
}

fn connector() -> Result<TlsConnector> {
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(Anybody(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .during(|| "TLS".to_owned())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes whoever answers for the right one.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
