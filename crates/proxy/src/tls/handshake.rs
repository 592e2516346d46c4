//! The handshake, driven over a byte stream: rustls says what to send and what it waits for.

use std::io;
use std::ops::{DerefMut, RangeInclusive};

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
use rustls::{Error, ExtractedSecrets, HandshakeKind, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::session::Session;
use super::turns::Turns;
use crate::blocks;

/// A chain of certificates is a few KiB; what is longer is no handshake.
const MOST: usize = 128 * 1024;

/// Kinds of records (RFC 8446 section 5.1).
const KINDS: RangeInclusive<u8> = 20..=24;

/// What a handshake has brought.
pub(super) struct Agreed<T> {
    pub(super) session: Session<T>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) is_resumed: bool,
}

/// A connection of rustls, of either side.
pub(super) trait Side:
    DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Sized
{
    type Data: tls::Side + 'static;

    const SPEAKS_FIRST: bool;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn into_keys(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    const SPEAKS_FIRST: bool = true;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    const SPEAKS_FIRST: bool = false;

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
    Nothing,
}

/// Bytes that came, and bytes that are to go.
#[derive(Default)]
struct Buffers {
    input: BytesMut,
    /// So much of the input rustls has seen: one record more each time that it asks for more. What follows
    /// the handshake is none of its business.
    shown: usize,
    output: BytesMut,
}

/// Shakes hands over `io`, each step when it has its turn: as a server what `begin` makes, once the client has
/// said something. What is said last is sent with the session's first data, or when it is flushed.
///
/// Errors: `io`'s own; or one that holds rustls's, of which the peer was told, or [`Crowded`].
pub(super) async fn shake<S, T>(
    begin: impl FnOnce() -> Result<S, Error>,
    mut io: T,
    turns: &Turns,
) -> io::Result<Agreed<T>>
where
    S: Side,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffers = Buffers::default();
    let first = |buffers: &mut Buffers| {
        let mut connection = begin().map_err(broken)?;
        let wants = buffers.advance(&mut connection);
        Ok::<_, io::Error>((connection, wants))
    };
    let (mut connection, mut wants) = if S::SPEAKS_FIRST {
        turns.go_on(|| first(&mut buffers)).await?
    } else {
        buffers.read(&mut io).await?;
        let first = turns.begin(|| first(&mut buffers)).await;
        first.map_err(io::Error::other)??
    };
    while !matches!(wants, Ok(Wants::Nothing)) {
        let sent = buffers.send(&mut io).await;
        // Who is refused may be gone.
        wants.map_err(broken)?;
        sent?;
        buffers.read(&mut io).await?;
        wants = turns.go_on(|| buffers.advance(&mut connection)).await;
    }
    // In a block, where the first data fits behind it.
    let mut last = BytesMut::new();
    if !buffers.output.is_empty() {
        blocks::borrow(&mut last);
        last.extend_from_slice(&buffers.output);
    }
    let certificates = connection.peer_certificates().unwrap_or_default().to_vec();
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.as_ref().and_then(SupportedCipherSuite::tls13);
    let suite = suite.ok_or_else(|| broken(Error::HandshakeNotComplete))?;
    let limit = suite.common.confidentiality_limit;
    let (keys, secrets) = connection.into_keys().map_err(broken)?;
    let machine = tls::Session::new(&keys, Box::new(secrets), limit);
    let machine = machine.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    Ok(Agreed {
        session: Session::new(io, machine, buffers.input, last),
        certificates,
        alpn,
        is_resumed,
    })
}

impl Buffers {
    async fn send(&mut self, io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if !self.output.is_empty() {
            io.write_all_buf(&mut self.output).await?;
            io.flush().await?;
        }
        Ok(())
    }

    /// Reads once. Errors: nothing more comes; it is too long.
    async fn read(&mut self, io: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        blocks::borrow(&mut self.input);
        self.input.reserve(tls::MAX_RECORD);
        if io.read_buf(&mut self.input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.input.len() > MOST {
            return Err(broken(Error::General("its handshake is too long".into())));
        }
        Ok(())
    }

    /// Goes on as far as what came allows. If it fails, there is a word for the peer.
    fn advance<S: Side>(&mut self, connection: &mut S) -> Result<Wants, Error> {
        loop {
            match self.step(connection) {
                Ok(Wants::Peer) if self.show_more() => {}
                Ok(wants) => return Ok(wants),
                Err(error) => {
                    self.last_words(connection);
                    return Err(error);
                }
            }
        }
    }

    /// Goes on until there is something to wait for.
    fn step<S: Side>(&mut self, connection: &mut S) -> Result<Wants, Error> {
        loop {
            let shown = &mut self.input[..self.shown];
            let UnbufferedStatus { discard, state } = connection.process(shown);
            let wants = match state? {
                ConnectionState::EncodeTlsData(encode) => {
                    put(encode, &mut self.output);
                    None
                }
                ConnectionState::TransmitTlsData(sent) => {
                    // It goes before anything else does.
                    sent.done();
                    None
                }
                ConnectionState::BlockedHandshake => Some(Wants::Peer),
                ConnectionState::WriteTraffic(_) => Some(Wants::Nothing),
                _ => return Err(Error::HandshakeNotComplete),
            };
            self.input.advance(discard);
            self.shown -= discard;
            match wants {
                None => {}
                Some(Wants::Nothing) if connection.is_handshaking() => return Ok(Wants::Peer),
                Some(wants) => return Ok(wants),
            }
        }
    }

    /// Lets rustls see another record; false: more has to come first.
    fn show_more(&mut self) -> bool {
        let unseen = &self.input[self.shown..];
        let is_tls = unseen.first().is_none_or(|kind| KINDS.contains(kind));
        let length = match tls::first_of_any(unseen) {
            Ok(length) if is_tls => length,
            // It is for rustls to say what is wrong with it.
            _ => Some(unseen.len()),
        };
        self.shown += length.unwrap_or_default();
        length.is_some()
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
