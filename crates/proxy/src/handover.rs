//! How a process hands its listening sockets to the next one: words over a pair of sockets that only
//! the two share.
//!
//! ```text
//! serving                      next
//!    │── Socket (one each) ──────►│
//!    │── Sockets ────────────────►│   those were all
//!    │                            │   joins, learns, looks at its program
//!    │◄────────── Socket … ───────│   all that it listens on now, for whoever comes after it
//!    │◄────────── Ready ──────────│
//!    │ falls silent towards the control plane
//!    │── Speak ──────────────────►│
//!    │── Retire ─────────────────►│   much later, when there is another
//!    │◄────────── Retired ────────│   it is silent
//! ```
//!
//! The sockets themselves go over, not their addresses: connections that wait in a socket's queue
//! are taken by whoever accepts next, and none is lost. Decides nothing.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// One end of the pair.
#[derive(Debug)]
pub struct Handover(UnixDatagram);

/// What one process tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Sockets,
    Ready,
    Speak,
    Retire,
    Retired,
}

/// Listening sockets on their way from one process to the next.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(SocketAddr, TcpListener)>);

/// The byte that comes with a socket; words have the others.
const SOCKET: u8 = b's';

impl Word {
    const ALL: [(Self, u8); 5] = [
        (Self::Sockets, b'S'),
        (Self::Ready, b'R'),
        (Self::Speak, b'P'),
        (Self::Retire, b'E'),
        (Self::Retired, b'D'),
    ];

    fn byte(self) -> u8 {
        let found = Self::ALL.iter().find(|(word, _)| *word == self);
        found.map_or(0, |(_, byte)| *byte)
    }

    fn find(byte: u8) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, other)| *other == byte);
        found.map(|(word, _)| *word)
    }
}

impl Handover {
    /// This process's end, and the one that is to be the other's standard input.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = StdDatagram::pair()?;
        Ok((Self::new(own)?, other.into()))
    }

    /// The end that this process was given as its standard input.
    ///
    /// Errors: it was not given one.
    pub fn from_stdin() -> io::Result<Self> {
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        let end = StdDatagram::from(end);
        // Anything else that may stand there, such as a file, has no address of this kind.
        end.local_addr()?;
        Self::new(end)
    }

    fn new(end: StdDatagram) -> io::Result<Self> {
        end.set_nonblocking(true)?;
        Ok(Self(UnixDatagram::from_std(end)?))
    }

    /// Says `word`.
    ///
    /// Errors: nobody can hear it any more.
    pub async fn say(&self, word: Word) -> io::Result<()> {
        self.send(word.byte(), None).await
    }

    /// Hands over all of `sockets`, and says `word`.
    pub async fn give(&self, sockets: &Sockets, word: Word) -> io::Result<()> {
        for (_, socket) in &sockets.0 {
            self.send(SOCKET, Some(socket.as_fd())).await?;
        }
        self.say(word).await
    }

    /// The next word, and the sockets that came before it.
    ///
    /// Errors: the two do not speak the same language.
    pub async fn hear(&self) -> io::Result<(Word, Sockets)> {
        let mut sockets = Sockets::default();
        loop {
            let (byte, descriptor) = self
                .0
                .async_io(Interest::READABLE, || receive(self.0.as_fd()))
                .await?;
            match (byte, descriptor) {
                (SOCKET, Some(descriptor)) => sockets.add(TcpListener::from(descriptor))?,
                (byte, None) => match Word::find(byte) {
                    Some(word) => return Ok((word, sockets)),
                    None => return Err(unexpected()),
                },
                (_, Some(_)) => return Err(unexpected()),
            }
        }
    }

    async fn send(&self, byte: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, || {
                send(self.0.as_fd(), byte, descriptor)
            })
            .await
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a word that is not known")
}

/// `SCM_RIGHTS` of unix(7).
fn send(end: BorrowedFd<'_>, byte: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        // There is room for one.
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(
            descriptor,
        )));
    }
    sendmsg(
        end,
        &[IoSlice::new(&[byte])],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive(end: BorrowedFd<'_>) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    // A program that is started later inherits none of them.
    let received = recvmsg(end, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((byte[0], descriptor))
}

impl Sockets {
    /// Errors: it listens on no address.
    pub(crate) fn add(&mut self, socket: TcpListener) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.0.push((socket.local_addr()?, socket));
        Ok(())
    }

    /// Takes out all that listen on `address`.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let taken = self.0.extract_if(.., |(other, _)| *other == address);
        taken.map(|(_, socket)| socket).collect()
    }

    /// The same sockets once more.
    pub fn share(&self) -> io::Result<Self> {
        let shared = self.0.iter().map(|(address, socket)| {
            let socket = socket.try_clone()?;
            Ok((*address, socket))
        });
        Ok(Self(shared.collect::<io::Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_goes_over_with_its_socket() {
        let (old, end) = Handover::pair().unwrap();
        let new = Handover::new(StdDatagram::from(end)).unwrap();
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let mut sockets = Sockets::default();
        sockets.add(bound).unwrap();
        // Nobody has accepted it when the socket goes over, nor when the old process is gone.
        let mut waiting = TcpStream::connect(address).unwrap();
        waiting.write_all(b"hello").unwrap();

        old.give(&sockets, Word::Sockets).await.unwrap();
        drop(sockets);
        let (word, mut received) = new.hear().await.unwrap();
        assert_eq!(word, Word::Sockets);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(received.take(elsewhere).is_empty());
        let [socket] = received.take(address).try_into().unwrap();
        socket.set_nonblocking(false).unwrap();
        let (mut accepted, _) = socket.accept().unwrap();
        let mut said = [0; 5];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn words_go_both_ways_and_others_are_refused() {
        let (old, end) = Handover::pair().unwrap();
        let new = Handover::new(StdDatagram::from(end)).unwrap();
        for (word, _) in Word::ALL {
            new.say(word).await.unwrap();
            assert_eq!(old.hear().await.unwrap().0, word);
            old.say(word).await.unwrap();
            assert_eq!(new.hear().await.unwrap().0, word);
        }
        for byte in [0, SOCKET, b'x'] {
            new.send(byte, None).await.unwrap();
            let error = old.hear().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{byte}");
        }
        drop(new);
        assert!(old.say(Word::Speak).await.is_err());
    }
}
