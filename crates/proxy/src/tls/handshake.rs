//! The handshake, driven over a byte stream: rustls says what to send and what it waits for.

use std::io;
use std::ops::DerefMut;

use bytes::{Buf, BytesMut};
use isthmus_codec::tls;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use rustls::{Error, ExtractedSecrets, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::session::Session;
use crate::blocks;

/// A chain of certificates is a few KiB; what is longer is no handshake.
const MOST: usize = 128 * 1024;

/// What a handshake has brought.
pub(super) struct Agreed<T> {
    pub(super) session: Session<T>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) alpn: Option<Vec<u8>>,
}

/// A connection of rustls, of either side.
pub(super) trait Side:
    DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Sized
{
    type Data: 'static;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn into_keys(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// What a handshake waits for.
enum Wants {
    Peer,
    /// What it has to say is to be sent.
    Sending,
    Nothing,
}

/// Bytes that came, bytes that are to go, and data that came before the handshake was seen to be over.
#[derive(Default)]
struct Buffers {
    input: BytesMut,
    output: BytesMut,
    early: BytesMut,
}

/// Runs the handshake of `connection` over `io`.
///
/// Errors: `io`'s own; or one that holds rustls's, of which the peer was told.
pub(super) async fn shake<S, T>(mut connection: S, mut io: T) -> io::Result<Agreed<T>>
where
    S: Side,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffers = Buffers::default();
    loop {
        let step = buffers.step(&mut connection);
        if let Err(error) = step {
            buffers.last_words(&mut connection);
            // The peer may be gone.
            let _ = io.write_all_buf(&mut buffers.output).await;
            return Err(broken(error));
        }
        match step.map_err(broken)? {
            Wants::Sending => {
                io.write_all_buf(&mut buffers.output).await?;
                io.flush().await?;
            }
            Wants::Peer => {
                blocks::borrow(&mut buffers.input);
                buffers.input.reserve(tls::MAX_RECORD);
                if io.read_buf(&mut buffers.input).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if buffers.input.len() > MOST {
                    return Err(broken(Error::General("its handshake is too long".into())));
                }
            }
            Wants::Nothing => break,
        }
    }
    let certificates = connection.peer_certificates().unwrap_or_default().to_vec();
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.as_ref().and_then(SupportedCipherSuite::tls13);
    let suite = suite.ok_or_else(|| broken(Error::HandshakeNotComplete))?;
    let limit = suite.common.confidentiality_limit;
    let (secrets, keys) = connection.into_keys().map_err(broken)?;
    let machine = tls::Session::new(&secrets, Box::new(keys), limit);
    let machine = machine.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    let Buffers { input, early, .. } = buffers;
    Ok(Agreed {
        session: Session::new(io, machine, early, input),
        certificates,
        alpn,
    })
}

impl Buffers {
    /// Goes on until there is something to wait for.
    fn step<S: Side>(&mut self, connection: &mut S) -> Result<Wants, Error> {
        loop {
            let UnbufferedStatus { discard, state } = connection.process(&mut self.input);
            let wants = match state? {
                ConnectionState::EncodeTlsData(encode) => {
                    put(encode, &mut self.output);
                    None
                }
                ConnectionState::TransmitTlsData(sent) => {
                    // Sent before anything else happens.
                    sent.done();
                    Some(Wants::Sending)
                }
                // The peer need not wait for us.
                ConnectionState::ReadTraffic(mut data) => {
                    while let Some(record) = data.next_record() {
                        self.early.extend_from_slice(record?.payload);
                    }
                    None
                }
                ConnectionState::BlockedHandshake => Some(Wants::Peer),
                ConnectionState::WriteTraffic(_) => Some(Wants::Nothing),
                _ => return Err(Error::HandshakeNotComplete),
            };
            self.input.advance(discard);
            if let Some(wants) = wants {
                return Ok(wants);
            }
        }
    }

    /// Why it failed, for the peer. What else has come is not looked at any more.
    fn last_words<S: Side>(&mut self, connection: &mut S) {
        while connection.wants_write()
            && let UnbufferedStatus {
                state: Ok(ConnectionState::EncodeTlsData(encode)),
                ..
            } = connection.process(&mut [])
        {
            put(encode, &mut self.output);
        }
    }
}

/// Appends what is to be sent.
fn put<Data>(mut encode: EncodeTlsData<'_, Data>, output: &mut BytesMut) {
    let before = output.len();
    let mut room = 0;
    loop {
        output.resize(before + room, 0);
        match encode.encode(&mut output[before..]) {
            Ok(written) => return output.truncate(before + written),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                room = required_size;
            }
            Err(EncodeError::AlreadyEncoded) => return output.truncate(before),
        }
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
