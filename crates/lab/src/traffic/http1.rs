//! Requests of HTTP/1.1: on connections that are kept, or on new ones.
//!
//! Nothing is tried again, not even where a connection that was kept ends under a request.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::head::{Head, Wire};
use super::tally::Failure;
use super::words::body;

/// Connections to one proxy.
#[derive(Debug)]
pub(crate) struct Pool {
    proxy: SocketAddr,
    /// With when each was used last, the latest at the end.
    idle: RefCell<Vec<(Instant, Wire)>>,
}

/// Connections that nobody has used for so long are closed: what a busy moment took is given back.
const UNUSED: Duration = Duration::from_secs(15);

impl Pool {
    pub(crate) fn new(proxy: SocketAddr) -> Self {
        let idle = RefCell::default();
        Self { proxy, idle }
    }

    pub(crate) async fn get(&self, host: &str, id: &str) -> Result<(), Failure> {
        self.kept("GET", host, id, Bytes::new()).await
    }

    pub(crate) async fn post(&self, host: &str, id: &str) -> Result<(), Failure> {
        self.kept("POST", host, id, body(id)).await
    }

    /// On a connection of its own.
    pub(crate) async fn get_anew(&self, host: &str, id: &str) -> Result<(), Failure> {
        let mut wire = connect(self.proxy).await?;
        let line = "connection: close\r\n";
        ask(&mut wire, &request("GET", host, id, line, &[]), id)
            .await
            .map(drop)
    }

    async fn kept(&self, method: &str, host: &str, id: &str, sent: Bytes) -> Result<(), Failure> {
        let (mut wire, how) = match self.usable() {
            Some(wire) => (wire, "a connection that was kept"),
            None => (connect(self.proxy).await?, "a new connection"),
        };
        let asked = ask(&mut wire, &request(method, host, id, "", &sent), id).await;
        let keeps = asked.map_err(|failure| Failure {
            why: format!("{}, on {how}", failure.why),
            ..failure
        })?;
        if keeps {
            let now = Instant::now();
            let mut idle = self.idle.borrow_mut();
            idle.retain(|(used, _)| now.duration_since(*used) < UNUSED);
            idle.push((now, wire));
        }
        Ok(())
    }

    /// One that the other side has not ended.
    fn usable(&self) -> Option<Wire> {
        loop {
            let (_, wire) = self.idle.borrow_mut().pop()?;
            let looked = wire.socket.try_read(&mut [0]);
            if looked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return Some(wire);
            }
        }
    }
}

pub(crate) async fn connect(proxy: SocketAddr) -> Result<Wire, Failure> {
    let connected = TcpStream::connect(proxy).await.and_then(Wire::new);
    connected.map_err(|error| Failure::new(format!("connecting to {proxy}: {error}")))
}

fn request(method: &str, host: &str, id: &str, line: &str, sent: &[u8]) -> Vec<u8> {
    let length = sent.len();
    let head = format!(
        "{method} http://{host}/unary/{id} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n\
         content-length: {length}\r\n{line}\r\n"
    );
    [head.as_bytes(), sent].concat()
}

/// Sends a request and checks its answer. True: the connection may be used again.
async fn ask(wire: &mut Wire, request: &[u8], id: &str) -> Result<bool, Failure> {
    let broken = |what: &str, error: &std::io::Error| Failure::new(format!("{what}: {error}"));
    let sent = wire.socket.write_all(request).await;
    sent.map_err(|error| broken("sending", &error))?;
    let head = wire.head().await.map_err(|error| broken("head", &error))?;
    let Some(head) = head else {
        return Err(Failure::new("the connection ended instead of an answer"));
    };
    let read = wire.body(head.length()).await;
    let read = read.map_err(|error| broken("body", &error))?;
    is_answer(&head, &read, id)?;
    Ok(!head.is_last())
}

fn is_answer(head: &Head, read: &Bytes, id: &str) -> Result<(), Failure> {
    if head.first.split(' ').nth(1) == Some("200") && *read == body(id) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&read[..read.len().min(200)]);
    Err(Failure {
        why: format!("{}, {} B: {text}", head.first, read.len()),
        refusal: head.field("x-isthmus-refusal").map(str::to_owned),
    })
}
