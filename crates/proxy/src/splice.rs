//! Carries opaque bytes both ways between a socket and a stream, with half-close: the end of one
//! direction does not end the other.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, sleep_until, timeout};

use crate::blocks::Flow;
use crate::mux::{Item, Stream};

/// Written to the socket at once.
const WRITE_SIZE: usize = 64 * 1024;

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carried {
    /// From the socket to the stream.
    pub(crate) sent: u64,
    /// From the stream to the socket.
    pub(crate) received: u64,
}

/// For how long what a peer still says is thrown away after it has been told that this was all.
const LINGER: Duration = Duration::from_secs(1);

/// As [`splice`], of a socket that is carried to its end.
pub(crate) async fn splice_socket(
    socket: TcpStream,
    early: Bytes,
    stream: &Stream,
    idle: Duration,
) -> Carried {
    struct Write<'h>(Option<OwnedWriteHalf>, &'h Cell<bool>);

    impl Drop for Write<'_> {
        fn drop(&mut self) {
            if let Some(write) = self.0.take().filter(|_| !self.1.get()) {
                // It would say that this was all before the reset says that it was not.
                write.forget();
            }
        }
    }

    owe(&socket, true);
    let has_all = Cell::new(false);
    let (mut read, write) = socket.into_split();
    let mut write = Write(Some(write), &has_all);
    let Some(half) = &mut write.0 else {
        return Carried::default();
    };
    let carried = splice(&mut read, half, early, stream, idle, &has_all).await;
    if has_all.get() {
        owe(read.as_ref(), false);
        hear_out(&mut read).await;
    }
    carried
}

/// As long as a peer is owed something, whatever closes its connection resets it, be it the end of this
/// process: a connection that is only closed says that this was all.
pub(crate) fn owe(socket: &TcpStream, something: bool) {
    let linger = something.then_some(Duration::ZERO);
    // A socket that has failed needs none.
    let _ = rustix::net::sockopt::set_socket_linger(socket, linger);
}

/// Hears a peer out that has been told that this was all. The kernel would answer what it still says with a
/// reset, which may overtake the last words.
pub(crate) async fn hear_out(mut read: impl AsyncRead + Unpin) {
    let mut heard = [0; 1024];
    let all = async { while let Ok(1..) = read.read(&mut heard).await {} };
    let _ = timeout(LINGER, all).await;
}

/// What cannot be read from, or written to, any more.
enum Broke {
    Socket,
    Stream,
}

/// Returns when both directions have ended, or at once when one side cannot be heard any more or nothing has
/// come, either way, for `idle` (zero: however long): peers that have vanished without a word would hold it
/// for ever.
/// `early`: bytes that were read from the socket before. `has_all`: set when the socket has been told that
/// nothing follows.
pub(crate) async fn splice(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    early: Bytes,
    stream: &Stream,
    idle: Duration,
    has_all: &Cell<bool>,
) -> Carried {
    let mut carried = Carried::default();
    let quiet = Quiet::new();
    let Carried { sent, received } = &mut carried;
    let up = async {
        *sent += early.len() as u64;
        let stream_broke = |_| Broke::Stream;
        stream.send(early).await.map_err(stream_broke)?;
        let (mut flow, mut block) = (Flow::default(), BytesMut::new());
        loop {
            let reading = poll_fn(|cx| flow.poll_read(&mut read, &mut block, 0, cx));
            let length = reading.await.map_err(|_| Broke::Socket)?;
            if length == 0 {
                return stream.finish(None).map_err(stream_broke);
            }
            *sent += length as u64;
            quiet.broken();
            let piece = block.split().freeze();
            stream.send(piece).await.map_err(stream_broke)?;
        }
    };
    let down = async {
        let (mut pieces, mut next) = (VecDeque::new(), None);
        loop {
            let item = match next.take() {
                Some(item) => item,
                None => stream.receive().await,
            };
            match item.map_err(|_| Broke::Stream)? {
                Item::Data(data) => {
                    let mut length = data.len();
                    pieces.push_back(data);
                    // What has come together is written together.
                    while length < WRITE_SIZE && next.is_none() {
                        match stream.at_hand() {
                            Some(Ok(Item::Data(data))) => {
                                length += data.len();
                                pieces.push_back(data);
                            }
                            None => break,
                            other => next = other,
                        }
                    }
                    *received += length as u64;
                    quiet.broken();
                    let written = write_all(&mut write, &mut pieces).await;
                    written.map_err(|_| Broke::Socket)?;
                }
                Item::End(_) => {
                    write.shutdown().await.map_err(|_| Broke::Socket)?;
                    has_all.set(true);
                    return Ok(());
                }
                Item::Reply(_) => return Err(Broke::Stream),
            }
        }
    };
    let both = async {
        let (mut up, mut down) = (pin!(up), pin!(down));
        // Who takes nothing more may still have said something before.
        let _: Result<(), Broke> = tokio::select! {
            ended = &mut up => match ended {
                Ok(()) | Err(Broke::Stream) => down.await,
                Err(Broke::Socket) => return,
            },
            ended = &mut down => match ended {
                Ok(()) | Err(Broke::Socket) => up.await,
                Err(Broke::Stream) => return,
            },
        };
    };
    tokio::select! {
        () = both => {}
        () = quiet.lasts(idle), if !idle.is_zero() => {
            tracing::info!(?idle, "a connection that carried nothing is ended");
        }
    }
    carried
}

/// Writes all of `pieces`.
async fn write_all(
    write: &mut (impl AsyncWrite + Unpin),
    pieces: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    pieces.retain(|piece| !piece.is_empty());
    while !pieces.is_empty() {
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut written = write.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(piece) = pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            pieces.pop_front();
        }
    }
    Ok(())
}

/// One end of opaque bytes that go to another one.
pub(crate) struct End<R, W> {
    pub(crate) read: R,
    pub(crate) write: W,
    /// Was read from it before.
    pub(crate) early: Bytes,
}

/// Who has been told that nothing follows.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) near: bool,
    pub(crate) far: bool,
}

/// As [`splice`], between two ends that are both at hand. Sent is what goes from `near` to `far`.
pub(crate) async fn join(
    mut near: End<impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
    mut far: End<impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
    idle: Duration,
    told: &mut Told,
) -> Carried {
    let (sent, received) = (Cell::new(0), Cell::new(0));
    let quiet = Quiet::new();
    let both = async {
        let up = pump(&mut near.read, near.early, &mut far.write, &sent, &quiet);
        let down = pump(&mut far.read, far.early, &mut near.write, &received, &quiet);
        let (mut up, mut down) = (pin!(up), pin!(down));
        // Who takes nothing more may still have said something before.
        tokio::select! {
            ended = &mut up => {
                told.far = ended.is_ok();
                if !matches!(ended, Err(Deaf::Source)) {
                    told.near = down.await.is_ok();
                }
            }
            ended = &mut down => {
                told.near = ended.is_ok();
                if !matches!(ended, Err(Deaf::Source)) {
                    told.far = up.await.is_ok();
                }
            }
        }
    };
    tokio::select! {
        () = both => {}
        () = quiet.lasts(idle), if !idle.is_zero() => {
            tracing::info!(?idle, "a connection that carried nothing is ended");
        }
    }
    Carried {
        sent: sent.get(),
        received: received.get(),
    }
}

/// As [`join`], of two sockets that are carried to their end.
pub(crate) async fn join_sockets(
    mut near: TcpStream,
    early: Bytes,
    mut far: TcpStream,
    idle: Duration,
) -> Carried {
    owe(&near, true);
    owe(&far, true);
    let mut told = Told::default();
    let carried = {
        let (read, write) = near.split();
        let near = End { read, write, early };
        let (read, write) = far.split();
        let early = Bytes::new();
        join(near, End { read, write, early }, idle, &mut told).await
    };
    tokio::join!(leave(near, told.near), leave(far, told.far));
    carried
}

/// Ends a connection; it is reset if its peer has not been told all.
pub(crate) async fn leave(mut socket: TcpStream, has_all: bool) {
    if has_all {
        owe(&socket, false);
        hear_out(&mut socket).await;
    }
}

/// The side of a pump that has failed.
enum Deaf {
    Source,
    Sink,
}

/// Carries what one side says to the other, and then its end.
async fn pump(
    mut source: impl AsyncRead + Unpin,
    early: Bytes,
    mut sink: impl AsyncWrite + Unpin,
    carried: &Cell<u64>,
    quiet: &Quiet,
) -> Result<(), Deaf> {
    let (mut flow, mut block) = (Flow::default(), BytesMut::from(early));
    loop {
        carried.set(carried.get() + block.len() as u64);
        quiet.broken();
        sink.write_all(&block).await.map_err(|_| Deaf::Sink)?;
        block.clear();
        let reading = poll_fn(|cx| flow.poll_read(&mut source, &mut block, 0, cx));
        if reading.await.map_err(|_| Deaf::Source)? == 0 {
            return sink.shutdown().await.map_err(|_| Deaf::Sink);
        }
    }
}

/// Since when nothing has come.
#[derive(Debug)]
pub(crate) struct Quiet(Cell<Instant>);

impl Quiet {
    pub(crate) fn new() -> Self {
        Self(Cell::new(Instant::now()))
    }

    pub(crate) fn broken(&self) {
        self.0.set(Instant::now());
    }

    /// Waits until it has lasted for `limit`.
    pub(crate) async fn lasts(&self, limit: Duration) {
        while self.0.get().elapsed() < limit {
            sleep_until(self.0.get() + limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use isthmus_codec::message::Reply;
    use tokio::net::TcpListener;
    use tokio::sync::Notify;
    use tokio::task::{spawn_local, yield_now};
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::mux::tests::{open, pair, run};
    use crate::testing::within;

    const IDLE: Duration = Duration::from_hours(1);

    /// Servers that refuse an upload do so: they answer, say that this was all, and hear no more.
    #[tokio::test]
    async fn who_still_speaks_hears_all_that_was_said() {
        const SAID: usize = 1 << 20;
        run(async {
            let (near, far) = pair(64_000);
            let stream = near.open(&open(), false).unwrap();
            let gone = Notify::new();
            let answering = async {
                let answer = far.accept().await.unwrap().stream;
                answer.reply(&Reply::Accepted, false).unwrap();
                answer.send(vec![7; SAID].into()).await.unwrap();
                answer.finish(None).unwrap();
                // Until something was said that nobody wants.
                answer.receive().await.unwrap();
                drop(answer);
                gone.notify_one();
            };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let client = TcpStream::connect(address).await.unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = client.into_split();
            let hearing = async {
                // It reads late, when most of it waits in the kernel.
                gone.notified().await;
                for _ in 0..1000 {
                    yield_now().await;
                }
                let mut heard = Vec::new();
                read.read_to_end(&mut heard).await.unwrap();
                heard.len()
            };
            spawn_local(async move { while write.write_all(&[0; 1000]).await.is_ok() {} });
            let carrying = async {
                assert!(matches!(stream.receive().await, Ok(Item::Reply(_))));
                splice_socket(socket, Bytes::new(), &stream, IDLE).await
            };
            let ((), _, heard) = tokio::join!(answering, carrying, within(hearing));
            assert_eq!(heard, SAID);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_hour_without_a_byte_is_an_hour_of_quiet() {
        let quiet = Quiet::new();
        let begun = Instant::now();
        for _ in 0..3 {
            let minutes = timeout(Duration::from_mins(59), quiet.lasts(IDLE)).await;
            assert!(minutes.is_err(), "after {:?}", begun.elapsed());
            quiet.broken();
        }
        advance(Duration::from_secs(1)).await;
        quiet.lasts(IDLE).await;
        assert_eq!(begun.elapsed(), 3 * Duration::from_mins(59) + IDLE);
    }
}
