//! The program that every protocol ends at: HTTP/1.1 with Upgrade on one port, HTTP/2 with gRPC on
//! the next, and TCP that speaks first on a third.
//!
//! It writes down the id of every request that must not be executed twice, as soon as it has it.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, server};
use http::{HeaderMap, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::head::{Head, Wire};
use super::words::{body, frame, unframe};
use crate::trouble::{During, Result};

/// Ports of a program.
pub const HTTP1: u16 = 8080;
pub const HTTP2: u16 = 8081;
pub const TCP: u16 = 7000;
/// What TCP begins with.
pub(crate) const GREETING: &str = "welcome";
/// Lines of TCP that are no talk but a request begin so.
pub(crate) const ONCE: &str = "once ";
pub(crate) const UNARY: &str = "/soak.Echo/Unary";
pub(crate) const CHAT: &str = "/soak.Echo/Chat";

type Journal = Rc<RefCell<File>>;

/// Serves until it is killed. Errors: it cannot listen, or not write its journal.
pub fn serve(address: IpAddr, journal: &Path) -> Result<()> {
    let runtime = super::runtime()?;
    let name = format!("{address}-{}", std::process::id());
    let path = journal.join(name);
    let during = || path.display().to_string();
    fs::create_dir_all(journal).during(during)?;
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let journal = Rc::new(RefCell::new(file.during(during)?));
    LocalSet::new().block_on(&runtime, async {
        let (first, second) = (journal.clone(), journal.clone());
        tokio::try_join!(
            listen(address, HTTP1, move |socket| http1(socket, first.clone())),
            listen(address, HTTP2, move |socket| http2(socket, second.clone())),
            listen(address, TCP, move |socket| tcp(socket, journal.clone())),
        )
        .map(drop)
    })
}

/// Has `converse` take each connection, until it is dropped. Errors: it cannot listen.
pub async fn listen<F>(address: IpAddr, port: u16, converse: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let during = || format!("listening on {address}:{port}");
    let listener = TcpListener::bind((address, port)).await.during(during)?;
    loop {
        let (socket, _) = listener.accept().await.during(during)?;
        // What goes wrong on a connection ends it, which its client notices.
        spawn_local(converse(socket));
    }
}

fn write_down(journal: &Journal, id: &str) -> io::Result<()> {
    // One write of a whole line: what stands there was executed, however this process ends.
    journal.borrow_mut().write_all(format!("{id}\n").as_bytes())
}

async fn http1(socket: TcpStream, journal: Journal) -> io::Result<()> {
    let mut wire = Wire::new(socket)?;
    while let Some(head) = wire.head().await? {
        if head.field("upgrade").is_some() {
            let agreed =
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n";
            wire.socket.write_all(agreed).await?;
            return echo(wire, &journal).await;
        }
        let sent = wire.body(head.length()).await?;
        let (status, answer) = answer(&head, &sent, &journal)?;
        let length = answer.len();
        let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n");
        let reply = [head.as_bytes(), &answer].concat();
        wire.socket.write_all(&reply).await?;
    }
    Ok(())
}

fn answer(head: &Head, sent: &Bytes, journal: &Journal) -> io::Result<(u16, Bytes)> {
    let mut words = head.first.split(' ');
    let (method, path) = (words.next(), words.next());
    unary(
        method.unwrap_or_default(),
        path.unwrap_or_default(),
        sent,
        journal,
    )
}

/// Status and body of the answer to a request of either version of HTTP.
fn unary(method: &str, path: &str, sent: &Bytes, journal: &Journal) -> io::Result<(u16, Bytes)> {
    if path == "/healthz" {
        return Ok((200, Bytes::from_static(b"well\n")));
    }
    let Some(id) = path.strip_prefix("/unary/") else {
        return Ok((404, Bytes::new()));
    };
    if method == "POST" {
        write_down(journal, id)?;
        if *sent != body(id) {
            return Ok((400, Bytes::from_static(b"not the body of this id\n")));
        }
    }
    Ok((200, body(id)))
}

async fn tcp(socket: TcpStream, journal: Journal) -> io::Result<()> {
    let mut wire = Wire::new(socket)?;
    let greeting = format!("{GREETING}\n");
    wire.socket.write_all(greeting.as_bytes()).await?;
    echo(wire, &journal).await
}

/// Says every line again.
async fn echo(mut wire: Wire, journal: &Journal) -> io::Result<()> {
    while let Some(line) = wire.line().await? {
        if let Some(id) = line.strip_prefix(ONCE) {
            write_down(journal, id)?;
        }
        wire.socket
            .write_all(format!("{line}\n").as_bytes())
            .await?;
    }
    wire.socket.shutdown().await
}

async fn http2(socket: TcpStream, journal: Journal) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = server::handshake(socket).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        spawn_local(exchange(request, respond, journal.clone()));
    }
    Ok(())
}

async fn exchange(
    request: Request<RecvStream>,
    respond: server::SendResponse<Bytes>,
    journal: Journal,
) -> Result<()> {
    let (head, body) = request.into_parts();
    let during = || "a stream of HTTP/2".to_owned();
    match head.uri.path() {
        CHAT => chat(body, respond).await.during(during),
        UNARY => rpc(body, respond, &journal).await,
        path => {
            let sent = read(body).await.during(during)?;
            let (status, answer) =
                unary(head.method.as_str(), path, &sent, &journal).during(during)?;
            let mut respond = respond;
            let reply = Response::builder().status(status).body(());
            let mut stream = respond
                .send_response(reply.during(during)?, false)
                .during(during)?;
            stream.send_data(answer, true).during(during)
        }
    }
}

async fn read(mut stream: RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// gRPC: the id in, its body out.
async fn rpc(
    stream: RecvStream,
    respond: server::SendResponse<Bytes>,
    journal: &Journal,
) -> Result<()> {
    let during = || "a call of gRPC".to_owned();
    let sent = read(stream).await.during(during)?;
    let message = unframe(&sent).map(|(message, _)| String::from_utf8_lossy(message).into_owned());
    let id = message.unwrap_or_default();
    write_down(journal, &id).during(during)?;
    let mut replies = begin(respond).during(during)?;
    replies.send_data(frame(&body(&id)), false).during(during)?;
    end(&mut replies).during(during)
}

/// gRPC in both directions: every message comes back at once.
async fn chat(
    mut stream: RecvStream,
    respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut replies = begin(respond)?;
    let mut read = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        read.extend_from_slice(&piece);
        while let Some((_, length)) = unframe(&read) {
            replies.send_data(read.split_to(length).freeze(), false)?;
        }
    }
    end(&mut replies)
}

fn begin(mut respond: server::SendResponse<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    let mut head = Response::new(());
    let kind = http::HeaderValue::from_static("application/grpc");
    head.headers_mut().insert("content-type", kind);
    respond.send_response(head, false)
}

fn end(replies: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    replies.send_trailers(trailers)
}
