//! What stays open: a stream of gRPC, a tunnel after an Upgrade, a TCP connection. What is said on it
//! comes back.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;

use super::head::Wire;
use super::http1::connect;
use super::http2::Chat;
use super::program::{GREETING, ONCE};
use super::tally::Failure;

#[derive(Debug)]
pub(crate) enum Stream {
    Chat(Chat),
    /// A tunnel or a TCP connection.
    Lines(Wire),
}

impl Stream {
    /// Has a connection of HTTP/1.1 become a tunnel.
    pub(crate) async fn tunnel(proxy: SocketAddr, host: &str, id: &str) -> Result<Self, Failure> {
        let mut wire = connect(proxy).await?;
        let head = format!(
            "GET http://{host}/tunnel/{id} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n\
             connection: upgrade\r\nupgrade: echo\r\n\r\n"
        );
        let sent = wire.socket.write_all(head.as_bytes()).await;
        sent.map_err(|error| broken(&error))?;
        match wire.head().await.map_err(|error| broken(&error))? {
            Some(head) if head.first.split(' ').nth(1) == Some("101") => Ok(Self::Lines(wire)),
            Some(head) => Err(Failure {
                why: format!("{} instead of a tunnel", head.first),
                refusal: head.field("x-isthmus-refusal").map(str::to_owned),
            }),
            None => Err(Failure::new("the connection ended instead of a tunnel")),
        }
    }

    /// Connects by a local listener of a proxy. The other side speaks first.
    pub(crate) async fn session(listener: SocketAddr) -> Result<Self, Failure> {
        let mut wire = connect(listener).await?;
        hear(&mut wire, GREETING).await?;
        Ok(Self::Lines(wire))
    }

    /// Says `text`, which must come back.
    pub(crate) async fn say(&mut self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Chat(chat) => chat.say(text).await,
            Self::Lines(wire) => {
                let sent = wire.socket.write_all(format!("{text}\n").as_bytes()).await;
                sent.map_err(|error| broken(&error))?;
                hear(wire, text).await
            }
        }
    }

    /// Ends it, and waits until the other side has too.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        let mut wire = match self {
            Self::Chat(chat) => return chat.close().await,
            Self::Lines(wire) => wire,
        };
        let shut = wire.socket.shutdown().await;
        shut.map_err(|error| broken(&error))?;
        match wire.line().await.map_err(|error| broken(&error))? {
            None => Ok(()),
            Some(line) => Err(Failure::new(format!("{line:?} after the end"))),
        }
    }
}

/// A TCP connection for one line, which must not be executed twice.
pub(crate) async fn line(listener: SocketAddr, id: &str) -> Result<(), Failure> {
    let mut session = Stream::session(listener).await?;
    session.say(&format!("{ONCE}{id}")).await?;
    session.close().await
}

async fn hear(wire: &mut Wire, expected: &str) -> Result<(), Failure> {
    match wire.line().await.map_err(|error| broken(&error))? {
        Some(line) if line == expected => Ok(()),
        Some(line) => Err(Failure::new(format!("{line:?} instead of {expected:?}"))),
        None => Err(Failure::new(format!("the end instead of {expected:?}"))),
    }
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(format!("the connection: {error}"))
}
