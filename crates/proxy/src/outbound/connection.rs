//! One connection of a client: what is spoken on it, then request after request.
//!
//! A port that is declared to speak HTTP is entered by HTTP/1.1 or HTTP/2, as the client likes; what
//! is neither is carried unread. Nothing here waits for a client that waits for the server: of ports
//! where the server speaks first, no byte is looked at ([`super::tcp`]), and of those that nobody has
//! declared no longer than a few milliseconds ([`super::undeclared`]).

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Malformed, RequestHead, ResponseHead, Version};
use isthmus_model::AppProtocol;
use isthmus_telemetry::RefusalReason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::decided::Entry;
use super::deliver::{Ended, KeepAlive};
use super::tcp::Found;
use super::{outside, request, tcp, undeclared};
use crate::alarm::Alarm;
use crate::blocks;
use crate::config::{Listener, Patience};
use crate::crew::Crew;
use crate::http::http1::{self, RequestReader, ResponseWriter};
use crate::http::http2::{self, PREFACE};
use crate::http::{ClientBody, ClientReply, Guarded, HttpError, Prefixed, grpc};
use crate::intake::Place;
use crate::journey::Journey;
use crate::names::Named;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Until a client that began as one of HTTP/2 has sent its settings.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For a client to take what is said to it last.
const GOODBYE: Duration = Duration::from_secs(1);

/// What serves the clients of one worker.
pub(crate) struct Clients {
    pub(super) worker: Rc<Worker>,
    /// Has somebody serve a request that comes beside others.
    streams: Box<dyn Fn(Asking)>,
}

impl Clients {
    pub(crate) fn of(worker: Rc<Worker>) -> Rc<Self> {
        let crew = Crew::new(serve_stream);
        let streams = Box::new(move |asking| crew.give(asking));
        Rc::new(Self { worker, streams })
    }
}

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    /// Nothing that begins a message of HTTP, such as TLS.
    Other,
}

/// Serves a client of which `input` has been read already.
pub(super) async fn serve(
    clients: Rc<Clients>,
    mut socket: TcpStream,
    mut input: BytesMut,
    entry: Entry,
    place: Place,
) {
    let worker = &clients.worker;
    let mut drain = worker.common.drain.clone();
    let spoken = tokio::select! {
        biased;
        spoken = timeout(worker.common.config.patience.idle, detect(&mut socket, &mut input)) => spoken,
        () = drain.closing() => return,
    };
    // Who is gone, or silent for so long, needs no answer.
    let Ok(Ok(Some(spoken))) = spoken else {
        return;
    };
    match (spoken, entry) {
        (Spoken::Http2, entry) => serve_http2(clients, socket, input, entry, place).await,
        (Spoken::Other, Entry::Service { service, port }) => {
            let mut journey = tcp::start(worker);
            match tcp::find(worker, &mut journey, service.clone(), Some(port)).await {
                Ok(found) => {
                    tcp::carry_unread(worker, journey, socket, input.freeze(), found).await;
                }
                Err(refusal) => tcp::refuse_unread(worker, journey, &service, &refusal),
            }
        }
        (Spoken::Http1 | Spoken::Other, entry) => {
            serve_http1(clients, socket, input, entry, place).await;
        }
    }
}

/// Serves a client of a listener that leads to one port of one service.
pub(super) async fn serve_listener(
    clients: Rc<Clients>,
    socket: TcpStream,
    target: Listener,
    place: Place,
) {
    let worker = &clients.worker;
    let Listener { service, port, .. } = target;
    let mut journey = tcp::start(worker);
    match tcp::find(worker, &mut journey, service.clone(), Some(port)).await {
        Ok(found) if found.protocol.is_http() => {
            serve(clients, socket, BytesMut::new(), found.into_entry(), place).await;
        }
        Ok(found) if found.protocol == AppProtocol::Undeclared => {
            serve_undeclared(clients, socket, BytesMut::new(), found, place).await;
        }
        Ok(found) => tcp::carry_unread(worker, journey, socket, Bytes::new(), found).await,
        Err(refusal) => tcp::refuse_unread(worker, journey, &service, &refusal),
    }
}

/// Serves a client of a port of which nobody has said what is spoken on it. `input`: what it has said.
async fn serve_undeclared(
    clients: Rc<Clients>,
    mut socket: TcpStream,
    mut input: BytesMut,
    found: Found,
    place: Place,
) {
    let worker = &clients.worker;
    let (service, port) = (&found.service, found.port);
    match undeclared::detect(worker, &mut socket, &mut input, service, port).await {
        Some(undeclared::Spoken::Http1) => {
            serve_http1(clients, socket, input, found.into_entry(), place).await;
        }
        Some(_) => {
            let journey = tcp::start(worker);
            tcp::carry_unread(worker, journey, socket, input.freeze(), found).await;
        }
        None => {}
    }
}

/// Reads until it is clear what is spoken. `None`: the client is gone.
async fn detect(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<Option<Spoken>> {
    loop {
        if let Some(spoken) = spoken(input) {
            return Ok(Some(spoken));
        }
        socket.readable().await?;
        blocks::borrow(input);
        if socket.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

/// `None`: more bytes are needed, of which a client of HTTP/2 sends them without being asked.
fn spoken(input: &[u8]) -> Option<Spoken> {
    let common = input.len().min(PREFACE.len());
    match input.first()? {
        _ if input.starts_with(PREFACE) => Some(Spoken::Http2),
        _ if input[..common] == PREFACE[..common] => None,
        // Methods are tokens, and an empty line before a request is forgiven.
        b'A'..=b'Z' | b'a'..=b'z' | b'\r' => Some(Spoken::Http1),
        _ => Some(Spoken::Other),
    }
}

/// Request after request. When this process leaves, the reply to the next request says that it was the
/// last: a client that has just sent one would not know what became of it if the connection were
/// closed instead.
async fn serve_http1(
    clients: Rc<Clients>,
    socket: TcpStream,
    input: BytesMut,
    entry: Entry,
    place: Place,
) {
    let worker = &clients.worker;
    let patience = worker.common.config.patience;
    let limits = worker.common.config.limits.head;
    let memory = worker.common.memory.share();
    let (mut reader, mut writer) = http1::serve(socket, input, patience.stalled, limits, memory);
    let mut drain = worker.common.drain.clone();
    let leave = Rc::new(drain.clone());
    let mut closing = pin!(drain.closing());
    let mut alarm = worker.alarms.take();
    loop {
        let head = tokio::select! {
            biased;
            head = next_head(&mut reader, patience, &mut alarm) => head,
            () = &mut closing => return,
        };
        let request = match head {
            Ok(Some(request)) => Ok(request),
            Err(HttpError::Malformed(malformed)) => {
                worker.common.metrics.count_malformed(malformed.code());
                Err(Refusal::malformed(malformed))
            }
            Err(error @ HttpError::Stalled(_)) => Err(Refusal::new(
                RefusalReason::ClientTooSlow,
                error.to_string(),
            )),
            Err(HttpError::NoMemory) => Err(Refusal::no_memory(&worker.common.memory)),
            Ok(None) | Err(_) => return,
        };
        let (head, body) = match request {
            Ok(request) => request,
            Err(refusal) => {
                let mut reply = ClientReply::Http1(http1::Reply::new(&mut writer, Version::Http11));
                refuse_unreadable(worker, &mut reply, &refusal).await;
                return reader.leave(writer).await;
            }
        };
        if head.method == "CONNECT" && matches!(entry, Entry::Explicit) {
            return connect(clients, reader, writer, head, place).await;
        }
        let wants_more = head.keep_alive();
        let keeps = wants_more && head.version == Version::Http10;
        let reply = http1::Reply::new(&mut writer, head.version).keeping(keeps);
        let mut reply = ClientReply::Http1(reply);
        let mut journey = worker.begin("http/1.1");
        journey.ends_when_leaving(Rc::clone(&leave));
        let upload = ClientBody::Http1(&mut reader);
        let served = serve_request(worker, journey, &entry, head, body, upload, &mut reply).await;
        if let Some(malformed) = reader.malformed() {
            // Its head was good, its body was not.
            worker.common.metrics.count_malformed(malformed.code());
        }
        match served {
            Ok(KeepAlive::Yes) if wants_more && reader.is_between() => {}
            Ok(_) => return reader.leave(writer).await,
            Err(_) => return writer.cut(),
        }
    }
}

/// The head of the next request; `None`: the client is done, or has been silent for too long.
async fn next_head(
    reader: &mut RequestReader,
    patience: Patience,
    alarm: &mut Alarm,
) -> Result<Option<(RequestHead, Body)>, HttpError> {
    match alarm
        .within(Instant::now() + patience.idle, reader.begun())
        .await
    {
        Some(Ok(true)) => {}
        Some(Ok(false)) | None => return Ok(None),
        Some(Err(error)) => return Err(error),
    }
    // Most come whole.
    if let Some(head) = reader.decode_head()? {
        return Ok(Some(head));
    }
    let head = timeout(patience.head, reader.head()).await;
    head.unwrap_or(Err(HttpError::Stalled(patience.head)))
}

/// A client asked for a tunnel. What it says in it to a port that speaks HTTP is served as if it had
/// come here without one; else it is carried unread.
async fn connect(
    clients: Rc<Clients>,
    reader: RequestReader,
    mut writer: ResponseWriter,
    head: RequestHead,
    place: Place,
) {
    let worker = &clients.worker;
    let mut journey = tcp::start(worker);
    journey.record.authority = Some(head.target.clone());
    let opened = async {
        let (service, port) = match worker.names.detect(&head.target)? {
            Named::Service(service, port) => (service, port),
            Named::Outside(host, port) => {
                // Nothing says which one is meant (RFC 9110 section 9.3.6).
                let port = port.ok_or_else(|| Refusal::malformed(Malformed::Target))?;
                let place = outside::permit(worker, &mut journey, host, Some(port))?;
                return Ok(Tunnel::Outside(outside::open(worker, &place).await?));
            }
        };
        let found = tcp::find(worker, &mut journey, service, port).await?;
        if found.protocol.is_http() {
            return Ok(Tunnel::Http(found.into_entry()));
        }
        if found.protocol == AppProtocol::Undeclared {
            return Ok(Tunnel::Undeclared(found));
        }
        let opened = tcp::open(worker, found, &mut journey).await?;
        Ok(Tunnel::Tcp(opened))
    };
    match opened.await {
        Ok(Tunnel::Http(entry)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                // Its requests are counted, not the tunnel that they come in.
                tokio::task::spawn_local(serve(clients, socket, early.into(), entry, place));
            }
            return;
        }
        Ok(Tunnel::Undeclared(found)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                let client = serve_undeclared(clients, socket, early.into(), found, place);
                tokio::task::spawn_local(client);
            }
            return;
        }
        Ok(Tunnel::Tcp(opened)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                tcp::carry(&mut journey, socket, early, opened).await;
            }
        }
        Ok(Tunnel::Outside(opened)) => {
            if let Some((socket, early)) = accept(reader, writer).await {
                outside::carry(worker, &mut journey, socket, early, opened).await;
            }
        }
        Err(refusal) => {
            let mut reply = ClientReply::Http1(http1::Reply::new(&mut writer, head.version));
            // The client may be gone; it is counted all the same.
            let refused = refuse(worker, &mut journey, &mut reply, &refusal, Asked::default());
            let _ = refused.await;
        }
    }
    journey.finish(&worker.recorder);
}

/// Where a tunnel leads.
enum Tunnel {
    Http(Entry),
    Undeclared(Found),
    Tcp(tcp::Opened),
    Outside(outside::Opened),
}

/// Tells the client that the tunnel stands. RFC 9110 section 9.3.6: a successful answer to CONNECT has
/// no body. `None`: it is gone.
async fn accept(reader: RequestReader, mut writer: ResponseWriter) -> Option<(TcpStream, Bytes)> {
    let ok = ResponseHead {
        status: 200,
        version: Version::Http11,
        fields: Fields::new(),
    };
    let mut reply = http1::Reply::new(&mut writer, Version::Http11);
    reply.head(&ok, Body::None).ok()?;
    reply.end(None).ok()?;
    reply.flush().await.ok()?;
    let (read, early) = reader.into_tunnel();
    Some((read.reunite(writer.into_tunnel()).ok()?, early))
}

/// Requests side by side.
async fn serve_http2(
    clients: Rc<Clients>,
    socket: TcpStream,
    input: BytesMut,
    entry: Entry,
    _place: Place,
) {
    let worker = &clients.worker;
    let (io, alarm) = Guarded::of_client(Prefixed::new(input, socket));
    let handshake = timeout(
        HANDSHAKE,
        http2::server(&worker.common.config.limits).handshake(io),
    );
    let Ok(Ok(mut connection)) = handshake.await else {
        return;
    };
    let entry = Rc::new(entry);
    let mut drain = worker.common.drain.clone();
    let mut draining = false;
    let mut used = true;
    let mut told = false;
    let mut idle = interval(worker.common.config.patience.idle);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = alarm.rung() => {
                count_flood(worker);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // Who takes nothing is not waited for.
                let _ = timeout(GOODBYE, poll_fn(|cx| connection.poll_closed(cx))).await;
                return;
            }
            () = async { tokio::select! { () = drain.draining() => {}, () = alarm.worn() => {} } },
                if !draining =>
            {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
            _ = idle.tick() => {
                // Every request that runs holds the entry.
                if !used && Rc::strong_count(&entry) == 1 {
                    if told {
                        // It neither leaves nor lets us.
                        return;
                    }
                    told = true;
                    connection.graceful_shutdown();
                }
                used = false;
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => {
                used = true;
                (clients.streams)(Asking {
                    worker: Rc::clone(worker),
                    entry: Rc::clone(&entry),
                    request,
                    respond,
                });
                // One after the other: who opens hundreds at once has them all begin between any two
                // steps of everybody else's.
                tokio::task::yield_now().await;
            }
            Some(Err(error)) => {
                if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
                    count_flood(worker);
                }
                tracing::debug!(%error, "a client's HTTP/2 connection has ended");
                return;
            }
            None => return,
        }
    }
}

/// A client had to be told to calm down.
fn count_flood(worker: &Worker) {
    worker.common.metrics.count_connection_shed("http2-flood");
}

/// A request of a client that speaks HTTP/2.
struct Asking {
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

async fn serve_stream(asking: Asking) {
    let Asking {
        worker,
        entry,
        request,
        respond,
    } = asking;
    let config = &worker.common.config;
    let stalled = config.patience.stalled_stream;
    let (head, upload, reply) = http2::receive(request, respond, stalled, config.limits.head);
    let mut reply = ClientReply::Http2(reply);
    let (head, body) = match head {
        Ok(request) => request,
        Err(malformed) => {
            worker.common.metrics.count_malformed(malformed.code());
            let refusal = Refusal::malformed(malformed);
            return refuse_unreadable(&worker, &mut reply, &refusal).await;
        }
    };
    let journey = worker.begin("http/2");
    let upload = ClientBody::Http2(upload);
    // The stream tells the client how it ended.
    let _ = serve_request(&worker, journey, &entry, head, body, upload, &mut reply).await;
}

async fn serve_request(
    worker: &Rc<Worker>,
    mut journey: Journey,
    entry: &Entry,
    head: RequestHead,
    body: Body,
    upload: ClientBody<'_>,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, HttpError> {
    let asked = Asked {
        is_head: head.method == "HEAD",
        is_grpc: grpc::is_grpc(&head.fields),
    };
    let served = request::serve(worker, &mut journey, entry, head, body, upload, reply).await;
    let ended = match served {
        Ok(keep) => Ok(keep),
        Err(Ended::Refused(refusal)) => {
            let sent = refuse(worker, &mut journey, reply, &refusal, asked).await;
            sent.map(|()| KeepAlive::Yes)
        }
        Err(Ended::Broken(error)) => {
            reply.cut();
            Err(error)
        }
    };
    let was_last = journey.was_last();
    journey.finish(&worker.recorder);
    match ended {
        Ok(_) if was_last => Ok(KeepAlive::No),
        ended => ended,
    }
}

/// What a refusal has to fit.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    is_head: bool,
    is_grpc: bool,
}

/// Renders a refusal to a client.
async fn refuse(
    worker: &Worker,
    journey: &mut Journey,
    reply: &mut ClientReply<'_>,
    refusal: &Refusal,
    asked: Asked,
) -> Result<(), HttpError> {
    journey.refused(refusal, worker.name());
    let (status, fields, body) = if asked.is_grpc {
        journey.refused_call(grpc::status_of(refusal.reason));
        (200, grpc::refused(refusal, worker.name()), Bytes::new())
    } else {
        let rendered = refusal.render(worker.name());
        (rendered.status, rendered.fields, rendered.body)
    };
    let mut head = ResponseHead {
        status,
        version: Version::Http11,
        fields,
    };
    for (name, value) in journey.told() {
        // Names of ours are plain text.
        let _ = head.fields.push(name, value);
    }
    if asked.is_head {
        reply.whole_head(head, Body::None)?;
    } else {
        reply.whole_head(head, Body::Length(body.len() as u64))?;
        reply.data(body).await?;
    }
    reply.end(None)?;
    reply.flush().await
}

/// Refuses a request that could not be read.
async fn refuse_unreadable(worker: &Worker, reply: &mut ClientReply<'_>, refusal: &Refusal) {
    let mut journey = worker.begin("http/1.1");
    // The client may be gone; it is counted all the same.
    let _ = refuse(worker, &mut journey, reply, refusal, Asked::default()).await;
    journey.finish(&worker.recorder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        let preface = PREFACE.to_vec();
        for (input, expect) in [
            (&b""[..], None),
            (b"G", Some(Spoken::Http1)),
            (b"P", None),
            (b"PO", Some(Spoken::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nS", None),
            (b"PRI * HTTP/1.1", Some(Spoken::Http1)),
            (&preface, Some(Spoken::Http2)),
            (b"\r\n", Some(Spoken::Http1)),
            (b"\x16\x03\x01", Some(Spoken::Other)),
            (b"*1\r\n$4\r\nPING", Some(Spoken::Other)),
            (b"\0", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(input), expect, "{input:?}");
        }
        let more = [PREFACE, b"rest"].concat();
        assert_eq!(spoken(&more), Some(Spoken::Http2));
    }
}
