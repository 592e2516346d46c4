//! Requests of HTTP/2 and calls of gRPC, on few connections that many share.
//!
//! A connection whose other side has said that it leaves takes nothing new. A request that was sent
//! is never tried again.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use super::program::{CHAT, UNARY};
use super::tally::{Failure, Tally};
use super::words::{body, frame, unframe};

/// Connections to one proxy.
#[derive(Debug)]
pub struct Client {
    proxy: SocketAddr,
    connections: [Mutex<Option<SendRequest<Bytes>>>; CONNECTIONS],
    next: Cell<usize>,
    tally: Arc<Tally>,
}

/// Messages in both directions.
#[derive(Debug)]
pub struct Chat {
    send: SendStream<Bytes>,
    receive: RecvStream,
    read: BytesMut,
}

const CONNECTIONS: usize = 2;

impl Client {
    pub fn new(proxy: SocketAddr, tally: Arc<Tally>) -> Self {
        Self {
            proxy,
            connections: std::array::from_fn(|_| Mutex::default()),
            next: Cell::new(0),
            tally,
        }
    }

    pub(crate) async fn get(&self, host: &str, id: &str) -> Result<(), Failure> {
        let request = Request::get(format!("http://{host}/unary/{id}")).header("x-request-id", id);
        let (response, _) = self.send(request, true).await?;
        is_answer(response, id).await
    }

    pub(crate) async fn post(&self, host: &str, id: &str) -> Result<(), Failure> {
        let sent = body(id);
        let request = Request::post(format!("http://{host}/unary/{id}"))
            .header("x-request-id", id)
            .header("content-length", sent.len());
        let (response, mut stream) = self.send(request, false).await?;
        stream
            .send_data(sent, true)
            .map_err(|error| broken(&error))?;
        is_answer(response, id).await
    }

    /// A call of gRPC: its id there, the body of the id back.
    pub(crate) async fn call(&self, host: &str, id: &str) -> Result<(), Failure> {
        let (response, mut stream) = self.send(grpc(host, UNARY, id), false).await?;
        let message = frame(id.as_bytes());
        stream
            .send_data(message, true)
            .map_err(|error| broken(&error))?;
        let (head, mut receive) = response.await.map_err(|error| broken(&error))?.into_parts();
        let read = read(&mut receive).await?;
        let trailers = receive.trailers().await.map_err(|error| broken(&error))?;
        let trailers = trailers.unwrap_or_default();
        let good = head.status == 200 && grpc_status(&head.headers, &trailers) == Some("0");
        if good && read == frame(&body(id)) {
            return Ok(());
        }
        Err(grpc_failure(&head.headers, &trailers, read.len()))
    }

    /// Opens a stream of gRPC.
    pub async fn chat(&self, host: &str, id: &str) -> Result<Chat, Failure> {
        let (response, send) = self.send(grpc(host, CHAT, id), false).await?;
        let (head, mut receive) = response.await.map_err(|error| broken(&error))?.into_parts();
        if head.status == 200 && head.headers.get("grpc-status").is_none() {
            let read = BytesMut::new();
            return Ok(Chat {
                send,
                receive,
                read,
            });
        }
        let read = read(&mut receive).await?;
        Err(grpc_failure(&head.headers, &HeaderMap::new(), read.len()))
    }

    /// Begins a request. `ends`: it has no body.
    pub async fn send(
        &self,
        request: http::request::Builder,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let request = request
            .body(())
            .map_err(|error| Failure::new(error.to_string()))?;
        let place = self.next.get();
        self.next.set((place + 1) % CONNECTIONS);
        let mut connection = self.connections[place].lock().await;
        loop {
            let ready = match connection.take() {
                Some(ready) => ready,
                None => self.connect().await?,
            };
            // Errors of either are of the connection: nothing has been sent.
            let error = match ready.ready().await {
                Ok(mut ready) => match ready.send_request(request.clone(), ends) {
                    Ok(sent) => {
                        *connection = Some(ready);
                        return Ok(sent);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if error.is_go_away() {
                self.tally.told();
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Failure> {
        let failed = |error: String| Failure::new(format!("connecting to {}: {error}", self.proxy));
        let socket = TcpStream::connect(self.proxy).await;
        let socket = socket.map_err(|error| failed(error.to_string()))?;
        socket
            .set_nodelay(true)
            .map_err(|error| failed(error.to_string()))?;
        let (send, connection) = h2::client::handshake(socket)
            .await
            .map_err(|error| failed(error.to_string()))?;
        // How it ends, each of its streams is told.
        spawn_local(connection);
        Ok(send)
    }
}

impl Chat {
    /// Says `text`, which must come back.
    pub async fn say(&mut self, text: &str) -> Result<(), Failure> {
        let message = frame(text.as_bytes());
        self.send
            .send_data(message, false)
            .map_err(|error| broken(&error))?;
        loop {
            if let Some((message, length)) = unframe(&self.read) {
                let same = message == text.as_bytes();
                let found = String::from_utf8_lossy(message).into_owned();
                let _ = self.read.split_to(length);
                return if same {
                    Ok(())
                } else {
                    Err(Failure::new(format!("{found:?} instead of {text:?}")))
                };
            }
            match self.receive.data().await {
                Some(piece) => {
                    let piece = piece.map_err(|error| broken(&error))?;
                    let released = self.receive.flow_control().release_capacity(piece.len());
                    released.map_err(|error| broken(&error))?;
                    self.read.extend_from_slice(&piece);
                }
                None => return Err(self.end().await),
            }
        }
    }

    /// Ends it, and waits until the other side has too.
    pub async fn close(mut self) -> Result<(), Failure> {
        self.send
            .send_data(Bytes::new(), true)
            .map_err(|error| broken(&error))?;
        if let Some(piece) = self.receive.data().await {
            piece.map_err(|error| broken(&error))?;
            return Err(Failure::new("a message that nobody has asked for"));
        }
        let trailers = self.receive.trailers().await;
        let trailers = trailers.map_err(|error| broken(&error))?;
        let trailers = trailers.unwrap_or_default();
        match grpc_status(&HeaderMap::new(), &trailers) {
            Some("0") => Ok(()),
            _ => Err(grpc_failure(&HeaderMap::new(), &trailers, 0)),
        }
    }

    /// Why the other side has ended it.
    async fn end(&mut self) -> Failure {
        match self.receive.trailers().await {
            Ok(trailers) => grpc_failure(&HeaderMap::new(), &trailers.unwrap_or_default(), 0),
            Err(error) => broken(&error),
        }
    }
}

fn grpc(host: &str, path: &str, id: &str) -> http::request::Builder {
    Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-request-id", id)
}

async fn is_answer(response: ResponseFuture, id: &str) -> Result<(), Failure> {
    let (head, mut receive) = response.await.map_err(|error| broken(&error))?.into_parts();
    let read = read(&mut receive).await?;
    if head.status == 200 && read == body(id) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&read[..read.len().min(200)]);
    Err(Failure {
        why: format!("status {}, {} B: {text}", head.status, read.len()),
        refusal: text_of(&head.headers, "x-isthmus-refusal"),
    })
}

/// A whole body.
pub async fn read(stream: &mut RecvStream) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(|error| broken(&error))?;
        let released = stream.flow_control().release_capacity(piece.len());
        released.map_err(|error| broken(&error))?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Of the trailers, or of a head that is all there is.
fn grpc_status<'a>(head: &'a HeaderMap, trailers: &'a HeaderMap) -> Option<&'a str> {
    let found = trailers.get("grpc-status").or(head.get("grpc-status"))?;
    found.to_str().ok()
}

fn grpc_failure(head: &HeaderMap, trailers: &HeaderMap, length: usize) -> Failure {
    let both = |name| text_of(trailers, name).or_else(|| text_of(head, name));
    let status = grpc_status(head, trailers).unwrap_or("none");
    let message = both("grpc-message").unwrap_or_default();
    Failure {
        why: format!("grpc-status {status}, {length} B: {message}"),
        refusal: both("x-isthmus-refusal"),
    }
}

fn text_of(fields: &HeaderMap, name: &str) -> Option<String> {
    let value = fields.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn broken(error: &h2::Error) -> Failure {
    Failure::new(format!("HTTP/2: {error}"))
}
