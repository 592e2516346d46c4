//! A program that says what only this release carries: a hint before each answer, that it wants a body,
//! and a change of protocols. It also says again what it hears as a stream, with trailers and as gRPC,
//! in HTTP/1.1 and, on the next port, in HTTP/2.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use isthmus_lab::traffic::program::listen;
use isthmus_lab::traffic::{runtime, unframe};
use isthmus_lab::trouble::{During, Result};
use tokio::task::{LocalSet, spawn_local};

/// What it changes to.
pub(crate) const PROTOCOL: &str = "greeting";
/// All that is said there.
pub(crate) const GREETING: &[u8] = b"welcome";
/// Of a call: each message is answered so many times.
pub(crate) const TIMES: &str = "answer-times";
/// Of a call: milliseconds before anything is answered.
pub(crate) const AFTER: &str = "answer-after";
/// Of a call: what it ends with.
pub(crate) const STATUS: &str = "answer-status";
/// Of an answer: the version of HTTP that has reached the program.
pub(crate) const SPOKEN: &str = "spoken";
/// Of an answer: the `grpc-timeout` that has.
pub(crate) const HEARD: &str = "heard-timeout";

type Fields = BTreeMap<String, String>;

/// What of a call bears on its answer.
struct Wanted {
    is_grpc: bool,
    times: usize,
    after: Duration,
    status: String,
    timeout: Option<String>,
}

impl Wanted {
    fn of(field: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name| field(name).and_then(|text| text.parse().ok());
        Self {
            is_grpc: field("content-type").is_some_and(|kind| kind == "application/grpc"),
            times: usize::try_from(number(TIMES).unwrap_or(1)).unwrap_or(1),
            after: Duration::from_millis(number(AFTER).unwrap_or(0)),
            status: field(STATUS).unwrap_or_else(|| "0".to_owned()),
            timeout: field("grpc-timeout"),
        }
    }

    fn head(&self, spoken: &str) -> Fields {
        let mut head = Fields::from([(SPOKEN.to_owned(), spoken.to_owned())]);
        if self.is_grpc {
            head.insert("content-type".to_owned(), "application/grpc".to_owned());
        }
        if let Some(timeout) = &self.timeout {
            head.insert(HEARD.to_owned(), timeout.clone());
        }
        head
    }

    /// What is said of what was heard: of gRPC each message that is whole, of all else nothing yet.
    fn answer(&self, taken: &mut BytesMut) -> Bytes {
        let mut said = BytesMut::new();
        while let Some((_, length)) = unframe(taken).filter(|_| self.is_grpc) {
            let message = taken.split_to(length);
            (0..self.times).for_each(|_| said.extend_from_slice(&message));
        }
        said.freeze()
    }

    /// Behind those of the request.
    fn trailers(&self) -> Fields {
        if self.is_grpc {
            let said = [("grpc-status", &*self.status), ("grpc-message", "as asked")];
            said.map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        } else {
            Fields::new()
        }
    }
}

/// Serves until it is killed. Errors: it cannot listen.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).during(|| format!("listening on {address}"))?;
    spawn(move || {
        // What goes wrong on a connection ends it, which its client notices.
        for stream in listener.incoming().flatten() {
            spawn(move || converse(stream));
        }
    });
    let second = listen(address.ip(), address.port() + 1, http2);
    LocalSet::new().block_on(&runtime()?, second)
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(fields) = head(&mut reader)? {
        if fields.contains_key("upgrade") {
            let agreed = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
            );
            stream.write_all(agreed.as_bytes())?;
            return stream.write_all(GREETING);
        }
        if fields.contains_key("transfer-encoding") {
            talk(&mut reader, &mut stream, &fields)?;
            continue;
        }
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")?;
        if fields.contains_key("expect") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = fields.get("content-length");
        let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let answer =
            format!("HTTP/1.1 200 OK\r\n{SPOKEN}: HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
        stream.write_all(&body)?;
    }
    Ok(())
}

/// Answers a body that comes in chunks.
fn talk(
    reader: &mut BufReader<TcpStream>,
    stream: &mut TcpStream,
    fields: &Fields,
) -> io::Result<()> {
    let wanted = Wanted::of(|name| fields.get(name).cloned());
    sleep(wanted.after);
    let head = lines(&wanted.head("HTTP/1.1"));
    let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{head}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut taken = BytesMut::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            break;
        }
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece)?;
        taken.extend_from_slice(&piece[..size]);
        stream.write_all(&chunk(&wanted.answer(&mut taken)))?;
    }
    let mut trailers = rest(reader)?;
    trailers.extend(wanted.trailers());
    stream.write_all(&chunk(&taken))?;
    stream.write_all(format!("0\r\n{}\r\n", lines(&trailers)).as_bytes())
}

/// Nothing of nothing, which would be the end.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    match bytes.len() {
        0 => Vec::new(),
        size => [format!("{size:x}\r\n").as_bytes(), bytes, b"\r\n"].concat(),
    }
}

fn lines(fields: &Fields) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    lines.collect()
}

/// The fields of a request, names in lower case. `None`: the connection has ended.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Fields>> {
    let mut first = String::new();
    match reader.read_line(&mut first)? {
        0 => Ok(None),
        _ => rest(reader).map(Some),
    }
}

/// Fields up to the empty line.
fn rest(reader: &mut BufReader<TcpStream>) -> io::Result<Fields> {
    let mut fields = Fields::new();
    for line in reader.by_ref().lines() {
        match line?.split_once(':') {
            Some((name, value)) => {
                fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Ok(fields),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn http2(socket: tokio::net::TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = server::handshake(socket).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        spawn_local(answer(request, respond));
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let wanted = Wanted::of(|name| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    });
    tokio::time::sleep(wanted.after).await;
    let mut reply = Response::new(());
    *reply.headers_mut() = map(pairs(&wanted.head("HTTP/2")));
    let mut replies = respond.send_response(reply, false)?;
    // Frames that are empty would be taken for a flood in the end.
    let mut say = |said: Bytes| {
        if said.is_empty() {
            return Ok(());
        }
        replies.send_data(said, false)
    };
    let mut taken = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        taken.extend_from_slice(&piece);
        say(wanted.answer(&mut taken))?;
    }
    say(taken.freeze())?;
    let mut trailers = body.trailers().await?.unwrap_or_default();
    trailers.extend(map(pairs(&wanted.trailers())));
    replies.send_trailers(trailers)
}

fn pairs(fields: &Fields) -> impl Iterator<Item = (&str, &str)> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Without those that HTTP/2 cannot say.
pub(crate) fn map<'f>(fields: impl Iterator<Item = (&'f str, &'f str)>) -> HeaderMap {
    let parsed = fields.filter_map(|(name, value)| {
        let name = HeaderName::try_from(name).ok()?;
        Some((name, HeaderValue::try_from(value).ok()?))
    });
    parsed.collect()
}
