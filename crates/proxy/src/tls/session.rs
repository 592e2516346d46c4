//! A session over a byte stream: bytes are read a block at a time and opened where they lie, and what
//! is written at once is sealed and sent at once. What is in a record is `codec::tls`'s business.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use isthmus_codec::Sink;
use isthmus_codec::tls::{self, Broken, MAX_DATA, MAX_RECORD, Opened};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::blocks;
use crate::mux::Wire;

/// Taken at once of what is written as bytes.
const MUCH: usize = 128 * 1024;
/// What is sealed and not written yet waits for what is to be sealed next: the last words of a handshake.
const LITTLE: usize = 8 * 1024;

/// One end of a session whose handshake is over.
pub(crate) struct Session<T> {
    io: T,
    machine: tls::Session,
    /// What has been read: first data that is open, then what follows it in its record, then records.
    wire: BytesMut,
    open: usize,
    after: usize,
    flow: blocks::Flow,
    end: Option<End>,
    /// Sealed, and not written yet.
    out: BytesMut,
}

/// Why nothing more is read.
#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    /// Without a word.
    Cut,
    Broken(Broken),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session<T> {
    /// `wire`: what the peer has said behind its handshake; `out`: what is still to be said of ours.
    pub(super) fn new(io: T, machine: tls::Session, wire: BytesMut, out: BytesMut) -> Self {
        Self {
            io,
            machine,
            wire,
            open: 0,
            after: 0,
            flow: blocks::Flow::default(),
            end: None,
            out,
        }
    }

    /// Opens the next record, if all of it is here. True: there was one.
    fn open_next(&mut self) -> Result<bool, Broken> {
        let Some(length) = tls::Session::first(&self.wire)? else {
            return Ok(false);
        };
        match self.machine.open(&mut self.wire[..length])? {
            Opened::Data(part) => {
                self.wire.advance(part.start);
                (self.open, self.after) = (part.len(), length - part.end);
            }
            Opened::Nothing => self.wire.advance(length),
            Opened::Closed => self.end = Some(End::Closed),
        }
        self.taken(0);
        Ok(true)
    }

    /// So much of what is open is no longer in `wire`; when all of it is gone, so is the rest of its record.
    fn taken(&mut self, length: usize) {
        self.open -= length;
        if self.open == 0 {
            self.wire.advance(std::mem::take(&mut self.after));
        }
    }

    /// Gives out what is open, as far as there is room.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.open.min(buffer.remaining());
        buffer.put_slice(&self.wire[..length]);
        self.wire.advance(length);
        self.taken(length);
    }

    /// Ready with true when there is open data, with false at an end that was said.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.open == 0 {
            match self.end {
                Some(End::Closed) => return Poll::Ready(Ok(false)),
                Some(End::Cut) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Some(End::Broken(why)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                None => {}
            }
            match self.open_next() {
                Ok(true) => {}
                Ok(false) => {
                    if ready!(self.poll_wire(cx))? == 0 {
                        self.end = Some(End::Cut);
                    }
                }
                Err(why) => self.break_off(why, cx),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Reads once, behind what is here already.
    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // All of the record that has begun fits.
        let missing = MAX_RECORD.saturating_sub(self.wire.len());
        let Self { flow, io, wire, .. } = self;
        flow.poll_read(io, wire, missing, cx)
    }

    /// Writes what is sealed.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        blocks::give_back(&mut self.out);
        Poll::Ready(Ok(()))
    }

    /// The peer is told why, if the socket takes it.
    fn break_off(&mut self, why: Broken, cx: &mut Context<'_>) {
        self.end = Some(End::Broken(why));
        self.machine.break_off(why, &mut self.out);
        let _ = self.poll_out(cx);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for Session<T> {
    /// One record: where nothing waits for its rest, what is open is handed over as it lies.
    fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        _most: usize,
    ) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_open(cx))? {
            return Poll::Ready(Ok(0));
        }
        let length = self.open;
        let piece = self.wire.split_to(length);
        self.taken(length);
        if input.is_empty() {
            *input = piece;
        } else {
            input.extend_from_slice(&piece);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() > LITTLE {
            self.poll_out(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn say(
        &mut self,
        piece: usize,
        length: usize,
        put: impl FnOnce(&mut dyn Sink),
    ) -> io::Result<()> {
        let sealed = tls::Session::sealed_length(length, piece);
        if sealed <= blocks::SIZE {
            blocks::borrow(&mut self.out);
        }
        self.out.reserve(sealed);
        let sealed = self.machine.seal(piece, &mut self.out, put);
        sealed.map_err(|why| io::Error::new(io::ErrorKind::BrokenPipe, why))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Session<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        if buffer.remaining() > 0 && ready!(session.poll_open(cx))? {
            session.give(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Session<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let session = self.get_mut();
        ready!(session.poll_room(cx))?;
        let data = &data[..data.len().min(MUCH)];
        session.say(MAX_DATA, data.len(), |out| out.append(data))?;
        // It is taken; an error shows with what comes next.
        if let Poll::Ready(Err(error)) = session.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        ready!(session.poll_out(cx))?;
        Pin::new(&mut session.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        session.machine.close(&mut session.out);
        ready!(session.poll_out(cx))?;
        Pin::new(&mut session.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isthmus_codec::mux::ALPN;
    use isthmus_identity::{ClientAuth, client_config, gateway_server_name, server_config};
    use isthmus_telemetry::Metrics;
    use rustls::time_provider::DefaultTimeProvider;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

    use super::*;
    use crate::testing::{Issuer, cluster, run, within};
    use crate::tls::{Me, Turns};

    type Ours = Session<DuplexStream>;
    type Theirs = TlsStream<DuplexStream>;

    /// A pipe that takes and gives bytes in odd portions.
    const PIPE: usize = 10_007;

    fn server(me: &Me) -> TlsAcceptor {
        let (leaf, trust) = (Arc::clone(&me.leaf), Arc::clone(&me.trust));
        let time = Arc::new(DefaultTimeProvider);
        let config = server_config(leaf, trust, &[ALPN], ClientAuth::Required, time);
        TlsAcceptor::from(Arc::new(config))
    }

    /// Who is who `me` is, and trusts whom `trusting` trusts.
    fn client(me: &Me, trusting: &Me) -> TlsConnector {
        let (leaf, trust) = (Arc::clone(&me.leaf), Arc::clone(&trusting.trust));
        let time = Arc::new(DefaultTimeProvider);
        TlsConnector::from(Arc::new(client_config(Some(leaf), trust, &[ALPN], time)))
    }

    fn metrics() -> Metrics {
        Metrics::new("test", 10)
    }

    fn name() -> rustls::pki_types::ServerName<'static> {
        gateway_server_name(&cluster("west"))
    }

    /// A session of ours with one of rustls.
    async fn with_rustls(ours_accepts: bool) -> (Ours, Theirs) {
        let issuer = Issuer::new();
        let me = issuer.workload(&cluster("west"), "cart");
        let (turns, metrics) = (Turns::default(), metrics());
        let (near, far) = duplex(PIPE);
        if ours_accepts {
            let theirs = client(&me, &me);
            let (ours, theirs) = tokio::join!(
                me.accept(near, &turns, &metrics),
                theirs.connect(name(), far)
            );
            (ours.unwrap().0, theirs.unwrap().into())
        } else {
            let theirs = server(&me);
            let connecting = async {
                let ours = me
                    .connect(name(), String::new(), near, &turns, &metrics)
                    .await;
                let (mut ours, _) = ours.unwrap();
                ours.flush().await.unwrap();
                ours
            };
            let (ours, theirs) = tokio::join!(connecting, theirs.accept(far));
            (ours, theirs.unwrap().into())
        }
    }

    /// All of `said` in pieces of many sizes.
    async fn say(to: &mut (impl AsyncWrite + Unpin), said: &[u8]) {
        let mut rest = said;
        for size in [1, 13, 1000, 16_384, 16_385, 70_000].into_iter().cycle() {
            let (part, after) = rest.split_at(rest.len().min(size));
            if part.is_empty() {
                return to.flush().await.unwrap();
            }
            to.write_all(part).await.unwrap();
            rest = after;
        }
    }

    /// As much as was said, by reads of many sizes.
    async fn hear(from: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
        let (mut heard, mut part) = (Vec::new(), vec![0; 100_000]);
        for size in [1, 100, 5_000, 100_000].into_iter().cycle() {
            if heard.len() == length {
                return heard;
            }
            let most = size.min(length - heard.len());
            let count = from.read(&mut part[..most]).await.unwrap();
            assert!(count > 0, "it ends after {}", heard.len());
            heard.extend_from_slice(&part[..count]);
        }
        heard
    }

    async fn talk<A, B>(near: A, far: B)
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let said: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        let (mut near_read, mut near_write) = tokio::io::split(near);
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let talking = async {
            tokio::join!(
                say(&mut near_write, &said),
                say(&mut far_write, &said),
                hear(&mut near_read, said.len()),
                hear(&mut far_read, said.len()),
            )
        };
        let ((), (), at_near, at_far) = within(talking).await;
        assert!(at_near == said && at_far == said);
    }

    #[test]
    fn what_is_said_to_rustls_and_by_it_is_heard() {
        run(async {
            for ours_accepts in [true, false] {
                let (mut ours, mut theirs) = with_rustls(ours_accepts).await;
                talk(&mut ours, &mut theirs).await;
                // It changes its keys, and has us change ours.
                let updated = match &mut theirs {
                    TlsStream::Client(theirs) => theirs.get_mut().1.refresh_traffic_keys(),
                    TlsStream::Server(theirs) => theirs.get_mut().1.refresh_traffic_keys(),
                };
                updated.unwrap();
                talk(&mut ours, &mut theirs).await;
                let mut more = [0];
                tokio::select! {
                    biased;
                    _ = ours.read(&mut more) => panic!("nothing more is said"),
                    () = std::future::ready(()) => {}
                }
                assert_eq!((ours.wire.capacity(), ours.out.capacity()), (0, 0));
            }
        });
    }

    #[test]
    fn two_of_ours_talk() {
        run(async {
            let issuer = Issuer::new();
            let me = issuer.workload(&cluster("west"), "cart");
            let (turns, metrics) = (Turns::default(), metrics());
            let (near, far) = duplex(PIPE);
            let connecting = async {
                let (mut session, _) = me
                    .connect(name(), String::new(), near, &turns, &metrics)
                    .await
                    .unwrap();
                // It comes in one with the end of the handshake.
                session.write_all(b"early").await.unwrap();
                session
            };
            let (near, far) = tokio::join!(connecting, me.accept(far, &turns, &metrics));
            let mut far = far.unwrap().0;
            assert_eq!(hear(&mut far, 5).await, b"early");
            talk(near, far).await;

            let (near, far) = duplex(PIPE);
            let connecting = async {
                let (mut session, _) = me
                    .connect(name(), String::new(), near, &turns, &metrics)
                    .await
                    .unwrap();
                session.write_all(b"all").await.unwrap();
                session.shutdown().await.unwrap();
            };
            let ((), far) = tokio::join!(connecting, me.accept(far, &turns, &metrics));
            let mut heard = Vec::new();
            let hearing = async { far.unwrap().0.read_to_end(&mut heard).await };
            within(hearing).await.unwrap();
            assert_eq!(heard, b"all");
        });
    }

    #[test]
    fn an_end_that_was_said_is_told_from_one_that_was_not() {
        run(async {
            for ours_accepts in [true, false] {
                let (mut ours, mut theirs) = with_rustls(ours_accepts).await;
                ours.write_all(b"last").await.unwrap();
                ours.shutdown().await.unwrap();
                let mut heard = Vec::new();
                within(theirs.read_to_end(&mut heard)).await.unwrap();
                assert_eq!(heard, b"last");
                theirs.write_all(b"answer").await.unwrap();
                theirs.shutdown().await.unwrap();
                heard.clear();
                within(ours.read_to_end(&mut heard)).await.unwrap();
                assert_eq!(heard, b"answer");
                let late = ours.write_all(b"more").await.unwrap_err();
                assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);

                let (mut ours, mut theirs) = with_rustls(ours_accepts).await;
                theirs.write_all(b"last").await.unwrap();
                theirs.flush().await.unwrap();
                drop(theirs);
                heard.clear();
                let cut = within(ours.read_to_end(&mut heard)).await.unwrap_err();
                assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
                assert_eq!(heard, b"last");
            }
        });
    }

    #[test]
    fn what_nobody_has_sealed_ends_the_session_and_the_peer_is_told() {
        run(async {
            let (mut ours, mut theirs) = with_rustls(true).await;
            let forged = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
            let (io, _) = theirs.get_mut();
            io.write_all(&forged).await.unwrap();
            for _ in 0..2 {
                let broken = within(ours.read(&mut [0; 9])).await.unwrap_err();
                assert_eq!(broken.kind(), io::ErrorKind::InvalidData);
                assert!(broken.to_string().contains("not what its peer sealed"));
            }
            let told = within(theirs.read(&mut [0; 9])).await.unwrap_err();
            assert!(told.to_string().contains("BadRecordMac"), "{told}");
        });
    }

    /// What a client says first: one message in one record.
    async fn hello(me: &Me) -> Vec<u8> {
        let (near, mut far) = duplex(PIPE);
        let hearing = async {
            let mut hello = vec![0; 5];
            far.read_exact(&mut hello).await.unwrap();
            let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            hello.resize(5 + length, 0);
            far.read_exact(&mut hello[5..]).await.unwrap();
            drop(far);
            hello
        };
        let (turns, metrics) = (Turns::default(), metrics());
        let (refused, hello) = tokio::join!(
            me.connect(name(), String::new(), near, &turns, &metrics),
            hearing
        );
        assert!(refused.is_err());
        hello
    }

    #[test]
    fn nothing_that_begins_like_a_handshake_makes_it_panic() {
        run(async {
            let me = Issuer::new().workload(&cluster("west"), "cart");
            let (hello, turns, metrics) = (hello(&me).await, Turns::default(), metrics());
            let mut answered = 0;
            for seed in 0..600_usize {
                // Cut into records, one of whose bytes is not what it was; and more behind it.
                let mut said = Vec::new();
                for part in hello[5..].chunks(1 + seed * 37 % hello.len()) {
                    said.extend_from_slice(&[22, 3, 3]);
                    said.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
                    said.extend_from_slice(part);
                }
                if seed % 5 > 0 {
                    let place = seed * 7919 % said.len();
                    said[place] ^= 1 << (seed % 8);
                }
                said.extend_from_slice(&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 20]);
                said.extend_from_slice(&[9; 30][..seed % 31]);
                let (near, mut far) = duplex(4 * PIPE);
                far.write_all(&said).await.unwrap();
                far.shutdown().await.unwrap();
                let accepted = within(me.accept(near, &turns, &metrics)).await;
                assert!(accepted.is_err());
                let mut answer = Vec::new();
                far.read_to_end(&mut answer).await.unwrap();
                answered += usize::from(answer.first() == Some(&22));
            }
            assert!(answered > 100, "{answered}");
        });
    }

    #[test]
    fn who_comes_when_too_many_shake_hands_is_let_go_and_no_refusal_is_counted() {
        run(async {
            let me = Issuer::new().workload(&cluster("west"), "cart");
            let (crowded, metrics) = (Turns::crowded(), metrics());
            let (near, mut far) = duplex(PIPE);
            far.write_all(&hello(&me).await).await.unwrap();
            let refused = me.accept(near, &crowded, &metrics).await.err().unwrap();
            assert!(refused.is_crowded(), "{refused}");
            assert!(!metrics.encode().contains("isthmus_tls_refused_total{"));
            // Those of our own are made all the same.
            let (near, far) = duplex(PIPE);
            let turns = Turns::default();
            let connecting = async {
                let near = me.connect(name(), String::new(), near, &crowded, &metrics);
                near.await.unwrap().0.flush().await.unwrap();
            };
            let ((), far) = tokio::join!(connecting, me.accept(far, &turns, &metrics));
            far.unwrap();
        });
    }

    #[test]
    fn a_peer_whose_handshake_is_refused_is_told_why() {
        run(async {
            let me = Issuer::new().workload(&cluster("west"), "cart");
            let stranger = Issuer::new().workload(&cluster("west"), "cart");
            let (turns, metrics) = (Turns::default(), metrics());
            let (near, far) = duplex(PIPE);
            let theirs = client(&stranger, &me);
            let (ours, theirs) = tokio::join!(
                me.accept(near, &turns, &metrics),
                theirs.connect(name(), far)
            );
            assert_eq!(ours.err().unwrap().reason(), "unknown-root");
            // A client of TLS 1.3 is done before it is refused.
            let told = within(theirs.unwrap().read(&mut [0; 9])).await.unwrap_err();
            assert!(told.to_string().contains("UnknownCA"), "{told}");

            let (near, mut far) = duplex(PIPE);
            let talking = async {
                far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                let mut alert = [0; 7];
                far.read_exact(&mut alert).await.unwrap();
                assert_eq!(alert[0], 21, "{alert:?}");
            };
            let (ours, ()) = tokio::join!(me.accept(near, &turns, &metrics), talking);
            assert_eq!(ours.err().unwrap().reason(), "handshake");
        });
    }
}
