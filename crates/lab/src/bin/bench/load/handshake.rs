//! Full handshakes of mutual TLS with a post-quantum key exchange: nothing is resumed, nothing is
//! carried.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_lab::http::connect;
use isthmus_lab::trouble::{During, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, NamedGroup, SignatureScheme, Stream,
};

use super::Done;
use super::threads::side_by_side;
use crate::stage::{Credentials, Way};

/// Makes handshake after handshake. Counts those that the server has accepted.
pub(super) fn run(way: &Way, connections: usize, duration: Duration) -> Result<Done> {
    let config = Arc::new(config(&way.credentials)?);
    side_by_side(connections, duration, |until| {
        let mut made = 0;
        while Instant::now() < until {
            shake_hands(way, &config)?.leave()?;
            made += 1;
        }
        Ok(made)
    })
}

fn config(credentials: &Credentials) -> Result<ClientConfig> {
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        ..default_provider()
    };
    let verifier = AnyServer(provider.clone());
    let file = || credentials.certificate.chain.display().to_string();
    let chain = CertificateDer::pem_file_iter(&credentials.certificate.chain).during(file)?;
    let chain = chain.collect::<Result<_, _>>().during(file)?;
    let key = PrivateKeyDer::from_pem_file(&credentials.certificate.key).during(file)?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .during(file)?;
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = config.with_client_auth_cert(chain, key).during(file)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![credentials.protocol.as_bytes().to_vec()];
    Ok(config)
}

/// Opens sessions and keeps them.
pub(crate) fn hold(way: &Way, connections: usize) -> Result<Vec<Session>> {
    let config = Arc::new(config(&way.credentials)?);
    (0..connections)
        .map(|_| shake_hands(way, &config))
        .collect()
}

/// A session that stands.
#[derive(Debug)]
pub(crate) struct Session {
    tls: ClientConnection,
    socket: TcpStream,
}

/// Errors: the server does not accept the client's certificate, as far as it says so by now.
fn shake_hands(way: &Way, config: &Arc<ClientConfig>) -> Result<Session> {
    let during = || format!("a handshake with {}", way.address);
    let mut socket = connect(way.address)?;
    socket.set_nodelay(true).during(during)?;
    let name = ServerName::try_from("in.bench").during(during)?;
    let mut tls = ClientConnection::new(Arc::clone(config), name).during(during)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).during(during)?;
    }
    let group = tls.negotiated_key_exchange_group();
    let group = group.map(SupportedKxGroup::name);
    ensure(group == Some(NamedGroup::X25519MLKEM768), || {
        format!("the key exchange was {group:?}")
    })?;
    if way.credentials.greets {
        let read = Stream::new(&mut tls, &mut socket).read(&mut [0; 4096]);
        ensure(read.during(during)? > 0, || "it did not greet".to_owned())?;
    }
    Ok(Session { tls, socket })
}

impl Session {
    /// Says goodbye and waits until the server has left too. Errors: it says that it has refused.
    fn leave(mut self) -> Result<()> {
        let during = || "a handshake".to_owned();
        let Self { tls, socket } = &mut self;
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(socket).during(during)?;
        }
        socket.shutdown(Shutdown::Write).during(during)?;
        loop {
            match Stream::new(tls, socket).read(&mut [0; 4096]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Some close without a goodbye of their own.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error).during(during),
            }
        }
    }
}

/// Takes any certificate whose key the server has. What the client checks is not measured.
#[derive(Debug)]
struct AnyServer(CryptoProvider);

impl ServerCertVerifier for AnyServer {
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
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
