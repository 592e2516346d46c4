//! HTTP/2 over sockets, with the crate `h2`.
//!
//! Credit is given back for what was forwarded, not for what was read: whoever reads slowly holds up
//! whoever sends, all the way through the mesh.

mod tunnel;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Limits, Malformed, RequestHead, ResponseHead, Version};

use tokio::sync::Mutex;

use super::{HttpError, Piece};
use crate::config::ClientLimits;

pub(crate) use tunnel::{TunnelReader, TunnelWriter};

/// What a client that knows that it may speak HTTP/2 sends first (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that a peer may send on one stream before some were forwarded: what every stream has at first,
/// since peers stand beside the proxy and each that nobody reads keeps it.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes that it may send on all streams together.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes that are queued for one stream.
const SEND_BUFFER: usize = 32 * 1024;
/// What a stream may hold of what comes, as long as it does.
pub(crate) const HELD_IN: u64 = STREAM_WINDOW as u64;
/// What a stream may hold of what goes.
pub(crate) const HELD_OUT: u64 = SEND_BUFFER as u64;
/// Bytes of a head, as RFC 9113 section 10.5.1 counts them.
const MAX_HEAD: u32 = 64 * 1024;
/// Streams that a client may have opened and reset before they were looked at.
const MAX_RAPID_RESETS: usize = 32;
/// Streams that are remembered for what still arrives on them after their reset.
const MAX_RESETS: usize = 64;

/// How clients are served.
pub(crate) fn server(limits: &ClientLimits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.head.head).unwrap_or(MAX_HEAD))
        .max_pending_accept_reset_streams(MAX_RAPID_RESETS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .enable_connect_protocol()
        // Counted over a connection's life, it would end those that last for months; `calm` counts
        // them by the second.
        .max_local_error_reset_streams(None);
    builder
}

/// How programs are called.
pub(crate) fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_reset_streams(MAX_RESETS)
        // As with clients.
        .max_local_error_reset_streams(None);
    builder
}

/// A client's request, taken apart: its head as one of HTTP/1.1, its body and where the reply goes.
pub(crate) fn receive(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    stalled: Duration,
    limits: Limits,
) -> (Result<(RequestHead, Body), Malformed>, Receiver, Reply) {
    let (parts, stream) = request.into_parts();
    let is_empty = stream.is_end_stream();
    let protocol = parts.extensions.get::<Protocol>();
    let head = match protocol {
        Some(protocol) => upgrade_head(&parts.uri, &parts.headers, protocol, limits),
        None => request_head(&parts.method, &parts.uri, &parts.headers, limits),
    };
    let head = head.map(|head| {
        // What follows an extended CONNECT is no body.
        let is_bodiless = is_empty || protocol.is_some();
        let body = if is_bodiless {
            Body::None
        } else {
            Body::Chunked
        };
        (head, body)
    });
    (head, Receiver::new(stream), Reply::new(respond, stalled))
}

/// An extended CONNECT (RFC 8441) as a client of HTTP/1.1 would have asked for the same.
fn upgrade_head(
    uri: &Uri,
    map: &HeaderMap,
    protocol: &Protocol,
    limits: Limits,
) -> Result<RequestHead, Malformed> {
    let mut head = request_head(&Method::GET, uri, map, limits)?;
    let mut copies = Copies(BytesMut::new());
    copies.push_known(&mut head.fields, "connection", b"upgrade")?;
    copies.push_known(&mut head.fields, "upgrade", protocol.as_ref())?;
    Ok(head)
}

fn request_head(
    method: &Method,
    uri: &Uri,
    map: &HeaderMap,
    limits: Limits,
) -> Result<RequestHead, Malformed> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    let line = [method.as_str(), authority.unwrap_or(""), path.unwrap_or("")];
    let mut copies = Copies::of(map, line.map(str::len).iter().sum());
    let mut fields = Fields::with_capacity(map.len() + 1);
    // RFC 9113 section 8.3.1: a Host that names something else makes the request malformed.
    let hosts = || map.get_all("host").iter().map(HeaderValue::as_bytes);
    match (authority, hosts().next()) {
        (Some(authority), host) => {
            if host.is_some_and(|_| hosts().any(|host| host != authority.as_bytes())) {
                return Err(Malformed::Host);
            }
            copies.push_known(&mut fields, "host", authority.as_bytes())?;
        }
        (None, Some(host)) if hosts().count() == 1 => {
            copies.push_known(&mut fields, "host", host)?;
        }
        (None, _) => return Err(Malformed::Host),
    }
    let target = match path {
        Some(path) if !path.is_empty() => copies.copy(path.as_bytes()),
        _ if *method == Method::CONNECT => copies.copy(authority.unwrap_or("").as_bytes()),
        _ => Bytes::from_static(b"/"),
    };
    // What a client of HTTP/1.1 may not send, one of HTTP/2 may not either: it may be read by a program
    // of HTTP/1.1.
    let limit = limits.request_line;
    if target.len() > limit {
        return Err(Malformed::RequestLineTooLong { limit });
    }
    let others = || {
        let all = map.iter();
        all.filter(|(name, _)| *name != "host" && *name != "cookie")
    };
    let limit = limits.fields;
    if others().count() > limit {
        return Err(Malformed::TooManyFields { limit });
    }
    for (name, value) in others() {
        copies.push(&mut fields, name.as_str().as_bytes(), value.as_bytes())?;
    }
    // RFC 9113 section 8.2.3: crumbs become one cookie again.
    let crumbs: Vec<&[u8]> = map
        .get_all("cookie")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if !crumbs.is_empty() {
        copies.push_known(&mut fields, "cookie", &crumbs.join(&b"; "[..]))?;
    }
    let head = RequestHead {
        method: copies.copy(method.as_str().as_bytes()),
        target,
        version: Version::Http11,
        fields,
    };
    head.check_host()?;
    Ok(head)
}

/// Parts of a head, copied into one piece of memory.
struct Copies(BytesMut);

impl Copies {
    /// There is room for the fields of `map` and `more` bytes.
    fn of(map: &HeaderMap, more: usize) -> Self {
        let fields = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len());
        Self(BytesMut::with_capacity(fields.sum::<usize>() + more))
    }

    fn copy(&mut self, part: &[u8]) -> Bytes {
        self.0.extend_from_slice(part);
        self.0.split().freeze()
    }

    fn push(&mut self, fields: &mut Fields, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let pushed = fields.push(self.copy(name), self.copy(value));
        pushed.map_err(|_| Malformed::FieldValue)
    }

    /// As [`Copies::push`], a name that needs no copy.
    fn push_known(
        &mut self,
        fields: &mut Fields,
        name: &'static str,
        value: &[u8],
    ) -> Result<(), Malformed> {
        let pushed = fields.push(name, self.copy(value));
        pushed.map_err(|_| Malformed::FieldValue)
    }
}

/// Fields as they arrived; names and values were checked by whoever decoded them.
fn fields_of(map: &HeaderMap) -> Fields {
    let (mut fields, mut copies) = (Fields::with_capacity(map.len()), Copies::of(map, 0));
    for (name, value) in map {
        // A value that `Fields` does not take breaks no rule of HTTP/2 and says nothing in HTTP/1.1.
        let _ = copies.push(&mut fields, name.as_str().as_bytes(), value.as_bytes());
    }
    fields
}

/// Fields as they are sent, without what HTTP/2 says in other ways.
fn map_of(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter() {
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value)
            && !matches!(name.as_str(), "host" | "transfer-encoding" | "connection")
        {
            if name == CONTENT_LENGTH {
                // Equal ones are forgiven in HTTP/1.1 only (RFC 9112 section 6.3).
                map.insert(name, value);
            } else {
                map.append(name, value);
            }
        }
    }
    map
}

/// Trailers as they are sent. What says where a message ends is none (RFC 9110 section 6.5.1).
fn trailers_of(fields: &Fields) -> HeaderMap {
    let mut map = map_of(fields);
    map.remove(CONTENT_LENGTH);
    map
}

/// The body that comes from a peer.
pub(crate) struct Receiver {
    stream: RecvStream,
    /// Given out and not yet given back as credit.
    unreleased: usize,
    trailers_read: bool,
}

impl Receiver {
    fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            unreleased: 0,
            trailers_read: false,
        }
    }

    pub(super) async fn piece(&mut self) -> Result<Piece, HttpError> {
        let forwarded = std::mem::take(&mut self.unreleased);
        if forwarded > 0 {
            self.stream.flow_control().release_capacity(forwarded)?;
        }
        if let Some(data) = poll_fn(|cx| self.stream.poll_data(cx)).await {
            let data = data?;
            self.unreleased = data.len();
            return Ok(Piece::Data(data));
        }
        if self.trailers_read {
            return Ok(Piece::End);
        }
        let trailers = poll_fn(|cx| self.stream.poll_trailers(cx)).await?;
        self.trailers_read = true;
        Ok(trailers.map_or(Piece::End, |trailers| Piece::Trailers(fields_of(&trailers))))
    }
}

/// The body that goes to a peer.
pub(crate) struct Sender {
    stream: SendStream<Bytes>,
    ended: bool,
}

impl Sender {
    fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        Self { stream, ended }
    }

    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        self.send(data, false).await
    }

    /// The last of the body, and its end, which goes with it unless trailers follow.
    async fn rest(&mut self, data: Bytes, trailers: Option<&Fields>) -> Result<(), HttpError> {
        let ends = trailers.is_none() && !data.is_empty();
        self.send(data, ends).await?;
        self.ended |= ends;
        self.end(trailers)
    }

    async fn send(&mut self, mut data: Bytes, ends: bool) -> Result<(), HttpError> {
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let room = poll_fn(|cx| self.stream.poll_capacity(cx)).await;
            let room = room.ok_or(HttpError::Truncated)??;
            let part = data.split_to(room.min(data.len()));
            if !part.is_empty() {
                self.stream.send_data(part, ends && data.is_empty())?;
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let trailers = trailers.map(trailers_of);
        match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => self.stream.send_trailers(trailers)?,
            None => self.stream.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }
}

/// The reply to a client.
pub(crate) struct Reply {
    stalled: Duration,
    respond: SendResponse<Bytes>,
    sender: Option<Sender>,
}

impl Reply {
    fn new(respond: SendResponse<Bytes>, stalled: Duration) -> Self {
        Self {
            stalled,
            respond,
            sender: None,
        }
    }

    /// How long a client may take nothing.
    pub(super) fn stalled(&self) -> Duration {
        self.stalled
    }

    pub(super) fn ask_for_body(&mut self) -> Result<(), HttpError> {
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        Ok(self.respond.send_informational(go_on)?)
    }

    pub(super) fn interim(&mut self, head: &ResponseHead) -> Result<(), HttpError> {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::from_u16(head.status).unwrap_or_default();
        // It says nothing of a body (RFC 9110 section 8.6).
        *interim.headers_mut() = trailers_of(&head.fields);
        Ok(self.respond.send_informational(interim)?)
    }

    pub(super) fn head(&mut self, head: &ResponseHead, body: Body) -> Result<(), HttpError> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or_default();
        *response.headers_mut() = map_of(&head.fields);
        let ends = matches!(body, Body::None | Body::Length(0));
        let stream = self.respond.send_response(response, ends)?;
        self.sender = Some(Sender::new(stream, ends));
        Ok(())
    }

    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        match &mut self.sender {
            Some(sender) => sender.data(data).await,
            None => Ok(()),
        }
    }

    /// As [`Sender::rest`].
    pub(super) async fn rest(
        &mut self,
        data: Bytes,
        trailers: Option<&Fields>,
    ) -> Result<(), HttpError> {
        match &mut self.sender {
            Some(sender) => sender.rest(data, trailers).await,
            None => Ok(()),
        }
    }

    pub(super) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        match &mut self.sender {
            Some(sender) => sender.end(trailers),
            None => Ok(()),
        }
    }

    /// What a client that has changed to another protocol is told.
    pub(super) fn tunnel(&mut self) -> Option<TunnelWriter<'_>> {
        self.sender.as_mut().map(TunnelWriter)
    }

    pub(super) async fn unwanted(&mut self) {
        // An error means the same.
        let _ = poll_fn(|cx| match &mut self.sender {
            Some(sender) => sender.stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        })
        .await;
    }

    pub(super) fn cut(&mut self) {
        self.respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

/// A connection to a program that speaks HTTP/2. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct ProgramConnection {
    requests: SendRequest<Bytes>,
    pings: Rc<Mutex<Option<PingPong>>>,
    open: Rc<Cell<usize>>,
}

/// Names a connection without holding it.
pub(crate) struct Mark(Rc<Cell<usize>>);

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// One request to the program.
pub(crate) struct Exchange {
    answer: Answer,
    sender: Sender,
    _open: OpenRequest,
}

/// Counts a request for as long as it runs.
struct OpenRequest(Rc<Cell<usize>>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl ProgramConnection {
    pub(crate) fn new(requests: SendRequest<Bytes>, pings: Option<PingPong>) -> Self {
        Self {
            requests,
            pings: Rc::new(Mutex::new(pings)),
            open: Rc::default(),
        }
    }

    /// Does the program take an extended CONNECT? It says so in its settings, which come before it
    /// answers a ping.
    pub(crate) async fn takes_tunnels(&self) -> bool {
        let mut pings = self.pings.lock().await;
        if !self.requests.is_extended_connect_protocol_enabled()
            && let Some(pings) = &mut *pings
        {
            // A connection that has ended offers nothing.
            let _ = pings.ping(Ping::opaque()).await;
        }
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Would another request be sent at once?
    pub(crate) fn has_room(&self) -> bool {
        self.open.get() < self.requests.current_max_send_streams()
    }

    /// Requests that run on it.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(Rc::clone(&self.open))
    }

    /// Sends the head of a request; with `protocol`, of an extended CONNECT. Errors: the connection takes
    /// none, and nothing was sent; or the head is none of HTTP/2.
    pub(crate) async fn begin(
        self,
        head: &RequestHead,
        body: Body,
        protocol: Option<&str>,
    ) -> Result<Exchange, HttpError> {
        let mut request = request_of(head)?;
        if let Some(protocol) = protocol {
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        let is_tunnel = protocol.is_some();
        let ends = !is_tunnel && matches!(body, Body::None | Body::Length(0));
        let mut requests = self.requests.ready().await.map_err(|_| HttpError::Unseen)?;
        let (response, stream) = requests.send_request(request, ends)?;
        self.open.set(self.open.get() + 1);
        Ok(Exchange {
            answer: Answer::Due(response),
            sender: Sender::new(stream, ends),
            _open: OpenRequest(self.open),
        })
    }
}

fn request_of(head: &RequestHead) -> Result<Request<()>, HttpError> {
    let malformed = |_| HttpError::Malformed(Malformed::Target);
    let authority = head.fields.find("host").cloned().unwrap_or_default();
    let mut uri = BytesMut::from(&b"http://"[..]);
    uri.extend_from_slice(&authority);
    let path = PathAndQuery::from_maybe_shared(head.target.clone());
    let path = path.map_err(|_| HttpError::Malformed(Malformed::Target))?;
    let uri =
        Uri::from_maybe_shared(uri.freeze()).map_err(|_| HttpError::Malformed(Malformed::Host))?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path);
    let mut request = Request::new(());
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| HttpError::Malformed(Malformed::Target))?;
    *request.method_mut() = Method::from_bytes(&head.method).map_err(malformed)?;
    *request.headers_mut() = map_of(&head.fields);
    Ok(request)
}

impl Exchange {
    pub(super) fn split(&mut self) -> (&mut Answer, &mut Sender) {
        (&mut self.answer, &mut self.sender)
    }

    /// The stream, when the program has agreed to another protocol on it.
    pub(crate) fn tunnel(&mut self) -> Option<(TunnelReader<'_>, TunnelWriter<'_>)> {
        match &mut self.answer {
            Answer::Due(_) => None,
            Answer::Body(receiver) => {
                Some((TunnelReader::of(receiver), TunnelWriter(&mut self.sender)))
            }
        }
    }
}

/// A head that has arrived.
enum Arrived {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

/// What a program answers.
pub(crate) enum Answer {
    Due(ResponseFuture),
    Body(Receiver),
}

impl Answer {
    pub(super) async fn head(&mut self) -> Result<(ResponseHead, Body), HttpError> {
        let Self::Due(response) = self else {
            return Err(HttpError::Truncated);
        };
        let (parts, stream) = loop {
            let arrived = poll_fn(|cx| match response.poll_informational(cx) {
                Poll::Ready(Some(interim)) => Poll::Ready(interim.map(Arrived::Interim)),
                Poll::Ready(None) | Poll::Pending => {
                    Pin::new(&mut *response).poll(cx).map_ok(Arrived::Final)
                }
            });
            match arrived.await? {
                Arrived::Final(response) => break response.into_parts(),
                // RFC 9113 section 8.6: it cannot change to another protocol.
                Arrived::Interim(interim)
                    if interim.status() == StatusCode::SWITCHING_PROTOCOLS => {}
                Arrived::Interim(interim) => {
                    let head = ResponseHead {
                        status: interim.status().as_u16(),
                        version: Version::Http11,
                        fields: fields_of(interim.headers()),
                    };
                    return Ok((head, Body::None));
                }
            }
        };
        let body = if stream.is_end_stream() {
            Body::None
        } else {
            Body::Chunked
        };
        *self = Self::Body(Receiver::new(stream));
        let head = ResponseHead {
            status: parts.status.as_u16(),
            version: Version::Http11,
            fields: fields_of(&parts.headers),
        };
        Ok((head, body))
    }

    pub(super) async fn piece(&mut self) -> Result<Piece, HttpError> {
        match self {
            Self::Due(_) => Err(HttpError::Truncated),
            Self::Body(receiver) => receiver.piece().await,
        }
    }
}
