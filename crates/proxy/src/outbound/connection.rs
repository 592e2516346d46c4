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
use isthmus_codec::http1::{Body, RequestHead, Version};
use isthmus_model::{AppProtocol, ServiceName};
use isthmus_telemetry::RefusalReason;
use isthmus_world::DrainWatch;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{interval, timeout};

use super::decided::Entry;
use super::deliver::{Ended, KeepAlive};
use super::refuse::{Asked, refuse, refuse_unreadable};
use super::tcp::Found;
use super::{request, tcp, tunnel, undeclared};
use crate::alarm::Alarm;
use crate::blocks;
use crate::config::{Listener, Patience};
use crate::crew::Crew;
use crate::http::http1::{self, RequestReader, ResponseWriter};
use crate::http::http2::{self, PREFACE};
use crate::http::{ClientBody, ClientReply, Guarded, HttpError, Prefixed, gathered, grpc};
use crate::intake::Place;
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

/// What comes in a tunnel to a port that speaks HTTP is served as if it had come here without one.
async fn serve_tunnel(clients: Rc<Clients>, asked: Box<tunnel::Asked>, place: Place) {
    let Some((socket, early, found)) = tunnel::serve(&clients.worker, asked).await else {
        return;
    };
    let input = early.into();
    if found.protocol.is_http() {
        spawn_local(serve(clients, socket, input, found.into_entry(), place));
    } else {
        spawn_local(serve_undeclared(clients, socket, input, found, place));
    }
}

/// Serves a client of which `input` has been read already.
pub(super) async fn serve(
    clients: Rc<Clients>,
    mut socket: TcpStream,
    mut input: BytesMut,
    entry: Entry,
    place: Place,
) {
    let Some(spoken) = first_words(&clients.worker, &mut socket, &mut input).await else {
        return;
    };
    match (spoken, &entry) {
        (Spoken::Http2, _) => serve_http2(clients, socket, input, entry, place).await,
        (Spoken::Other, Entry::Service { service, port }) => {
            let (service, port) = (service.clone(), *port);
            serve_unread(&clients.worker, socket, input.freeze(), service, port).await;
        }
        (Spoken::Http1 | Spoken::Other, _) => {
            if let Some(asked) = serve_http1(&clients, socket, input, &entry).await {
                // Boxed: a client without a tunnel has no need of the room that one takes.
                Box::pin(serve_tunnel(clients, asked, place)).await;
            }
        }
    }
}

/// What a client begins with; `None`: it is gone, or silent for so long that it needs no answer.
async fn first_words(
    worker: &Worker,
    socket: &mut TcpStream,
    input: &mut BytesMut,
) -> Option<Spoken> {
    let mut drain = worker.common.drain.clone();
    let spoken = tokio::select! {
        biased;
        spoken = timeout(worker.common.config.patience.idle, detect(socket, input)) => spoken,
        () = drain.closing() => return None,
    };
    spoken.ok()?.ok()?
}

/// Serves a client of a service that does not speak HTTP where it could. `input`: what it has said.
async fn serve_unread(
    worker: &Rc<Worker>,
    socket: TcpStream,
    input: Bytes,
    service: ServiceName,
    port: u16,
) {
    let mut journey = tcp::start(worker);
    match tcp::find(worker, &mut journey, service.clone(), Some(port)).await {
        Ok(found) => tcp::carry_unread(worker, journey, socket, input, found).await,
        Err(refusal) => tcp::refuse_unread(worker, journey, &service, &refusal),
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
    // Boxed: a client of HTTP has one for each of its requests instead.
    let mut journey = Box::new(tcp::start(worker));
    match tcp::find(worker, &mut journey, service.clone(), Some(port)).await {
        Ok(found) if found.protocol.is_http() => {
            serve(clients, socket, BytesMut::new(), found.into_entry(), place).await;
        }
        Ok(found) if found.protocol == AppProtocol::Undeclared => {
            serve_undeclared(clients, socket, BytesMut::new(), found, place).await;
        }
        Ok(found) => tcp::carry_unread(worker, *journey, socket, Bytes::new(), found).await,
        Err(refusal) => tcp::refuse_unread(worker, *journey, &service, &refusal),
    }
}

/// Serves a client of a port of which nobody has said what is spoken on it. `input`: what it has said.
pub(super) async fn serve_undeclared(
    clients: Rc<Clients>,
    mut socket: TcpStream,
    mut input: BytesMut,
    found: Found,
    _place: Place,
) {
    let worker = &clients.worker;
    let (service, port) = (&found.service, found.port);
    match undeclared::detect(worker, &mut socket, &mut input, service, port).await {
        Some(undeclared::Spoken::Http1) => {
            // Only a listener that leads anywhere is asked for tunnels.
            serve_http1(&clients, socket, input, &found.into_entry()).await;
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
///
/// The task of a client is as large as all that is held at once from here down: a value that is passed
/// on by value is held twice, and what is held over two awaits is never laid over something else.
async fn serve_http1(
    clients: &Clients,
    socket: TcpStream,
    input: BytesMut,
    entry: &Entry,
) -> Option<Box<tunnel::Asked>> {
    let worker = &clients.worker;
    let stalled = worker.common.config.patience.stalled;
    let limits = worker.common.config.limits.head;
    let memory = worker.common.memory.share();
    let (mut reader, mut writer) = http1::serve(socket, input, stalled, limits, memory);
    let mut drain = worker.common.drain.clone();
    let leave = Rc::new(drain.clone());
    let mut closing = pin!(drain.closing());
    let mut alarm = worker.alarms.take();
    loop {
        let requests = next_request(worker, &mut reader, &mut alarm, closing.as_mut());
        let (mut head, body) = match requests.await {
            Ok(request) => request?,
            Err(refusal) => {
                turn_away(worker, reader, writer, &refusal).await;
                return None;
            }
        };
        if head.method == "CONNECT" && matches!(entry, Entry::Explicit) {
            let asked = tunnel::Asked {
                reader,
                writer,
                head,
            };
            return Some(Box::new(asked));
        }
        let wants_more = head.keep_alive();
        let keeps = wants_more && head.version == Version::Http10;
        let served = {
            let reply = http1::Reply::new(&mut writer, head.version).keeping(keeps);
            let reply = &mut ClientReply::Http1(reply);
            let upload = ClientBody::Http1(&mut reader);
            let leave = Some(&leave);
            serve_request(worker, leave, entry, &mut head, body, upload, reply).await
        };
        if let Some(malformed) = reader.malformed() {
            // Its head was good, its body was not.
            worker.common.metrics.count_malformed(malformed.code());
        }
        match served {
            Ok(KeepAlive::Yes) if wants_more && reader.is_between() => {}
            Ok(_) => {
                reader.leave(writer).await;
                return None;
            }
            Err(_) => {
                writer.cut();
                return None;
            }
        }
    }
}

/// The next request; `None`: there is none, and nobody to answer. Errors: what it is refused with.
async fn next_request(
    worker: &Worker,
    reader: &mut RequestReader,
    alarm: &mut Alarm,
    closing: impl Future<Output = ()>,
) -> Result<Option<(RequestHead, Body)>, Refusal> {
    let head = tokio::select! {
        biased;
        head = next_head(reader, &worker.common.config.patience, alarm) => head,
        () = closing => return Ok(None),
    };
    match head {
        Ok(request) => Ok(request),
        Err(HttpError::Malformed(malformed)) => {
            worker.common.metrics.count_malformed(malformed.code());
            Err(Refusal::malformed(malformed))
        }
        Err(error @ HttpError::Stalled(_)) => Err(Refusal::new(
            RefusalReason::ClientTooSlow,
            error.to_string(),
        )),
        Err(HttpError::NoMemory) => Err(Refusal::no_memory(&worker.common.memory)),
        Err(_) => Ok(None),
    }
}

/// Refuses a request that could not be read, after which nothing can be.
async fn turn_away(
    worker: &Worker,
    reader: RequestReader,
    mut writer: ResponseWriter,
    refusal: &Refusal,
) {
    let mut reply = ClientReply::Http1(http1::Reply::new(&mut writer, Version::Http11));
    refuse_unreadable(worker, &mut reply, refusal).await;
    reader.leave(writer).await;
}

/// The head of the next request; `None`: the client is done, or has been silent for too long.
async fn next_head(
    reader: &mut RequestReader,
    patience: &Patience,
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

/// Requests side by side.
async fn serve_http2(
    clients: Rc<Clients>,
    socket: TcpStream,
    input: BytesMut,
    entry: Entry,
    _place: Place,
) {
    let worker = &clients.worker;
    let (io, written) = gathered(Prefixed::new(input, socket));
    let (io, alarm) = Guarded::of_client(io);
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
            accepted = poll_fn(|cx| written.poll_turn(cx, |cx| connection.poll_accept(cx))) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a client takes nothing more");
                    return;
                }
            },
            () = alarm.rung() => {
                count_flood(worker);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // Who takes nothing is not waited for.
                let gone = poll_fn(|cx| written.poll_turn(cx, |cx| connection.poll_closed(cx)));
                let _ = timeout(GOODBYE, gone).await;
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
    let (mut head, body) = match head {
        Ok(request) => request,
        Err(malformed) => {
            worker.common.metrics.count_malformed(malformed.code());
            let refusal = Refusal::malformed(malformed);
            return refuse_unreadable(&worker, &mut reply, &refusal).await;
        }
    };
    let upload = ClientBody::Http2(upload);
    // The stream tells the client how it ended.
    let _ = serve_request(&worker, None, &entry, &mut head, body, upload, &mut reply).await;
}

/// `leave`: for a connection that carries one request after the other.
async fn serve_request(
    worker: &Rc<Worker>,
    leave: Option<&Rc<DrainWatch>>,
    entry: &Entry,
    head: &mut RequestHead,
    body: Body,
    upload: ClientBody<'_>,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, HttpError> {
    let protocol = if reply.is_http2() {
        "http/2"
    } else {
        "http/1.1"
    };
    let mut journey = worker.begin(protocol);
    if let Some(leave) = leave {
        journey.ends_when_leaving(Rc::clone(leave));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_client<F>(_: fn(Rc<Clients>, TcpStream, BytesMut, Entry, Place) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_stream<F>(_: fn(Asking) -> F) -> usize {
        size_of::<F>()
    }

    /// A proxy holds hundreds of them: `-Zprint-type-sizes` tells what takes the room.
    #[test]
    fn the_task_of_a_client_is_small() {
        let (client, stream) = (size_of_client(serve), size_of_stream(serve_stream));
        assert!(client <= 5 * 1024, "{client}");
        assert!(stream <= 5 * 1024, "{stream}");
    }

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
