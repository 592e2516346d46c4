//! Sends single requests to a proxy over kept connections. Never sends one twice.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::tally::{Broken, Head};

/// Requests that may wait for their replies, each on a connection of its own.
pub(super) const MOST_OPEN: usize = 4096;

/// A caller asks the mesh to say what it did.
const TELL: HeaderName = HeaderName::from_static("x-isthmus-tell");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every request of a run has in common.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) method: Method,
    /// Absolute, as a proxy is asked.
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Headers that a request has anyway.
pub(super) const OWN_HEADERS: [HeaderName; 5] = [
    HOST,
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    TELL,
    REQUEST_ID,
];

impl Template {
    fn request(&self, id: &str) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.uri.clone())
            .body(Full::new(self.body.clone()))
            .ok()?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        let host = self.uri.authority()?.as_str();
        headers.insert(HOST, HeaderValue::from_str(host).ok()?);
        headers.insert(TELL, HeaderValue::from_static("yes"));
        headers.insert(REQUEST_ID, HeaderValue::from_str(id).ok()?);
        Some(request)
    }
}

/// The caller's end of the way into the mesh.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxy: SocketAddr,
    template: Template,
    open: Arc<Semaphore>,
    /// Connections without a request, the one used last at the end.
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// The right to have one request more that waits.
#[derive(Debug)]
pub(super) struct Slot(#[expect(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

impl Caller {
    pub(super) fn new(proxy: SocketAddr, template: Template) -> Self {
        Self(Arc::new(Inner {
            proxy,
            template,
            open: Arc::new(Semaphore::new(MOST_OPEN)),
            idle: Mutex::default(),
        }))
    }

    /// `None`: too many requests wait already.
    pub(super) fn slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.open).try_acquire_owned();
        permit.ok().map(Slot)
    }

    pub(super) fn in_flight(&self) -> usize {
        MOST_OPEN - self.0.open.available_permits()
    }

    /// Sends a request and reads the whole reply. The head is left in `head` as soon as it is there,
    /// also when the rest of the reply never comes.
    pub(super) async fn call(&self, id: &str, head: &mut Option<Head>) -> Result<(), Broken> {
        let mut request = self.0.template.request(id).ok_or(Broken::ConnectionLost)?;
        let (connection, reply) = loop {
            let kept = self.idle().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if connection.ready().await.is_err() {
                if fresh {
                    return Err(Broken::NoConnection);
                }
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(reply) => break (connection, reply),
                // Closed meanwhile, and nothing of the request was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(Broken::ConnectionLost),
                },
            }
        };
        let read = head.insert(read_head(&reply));
        read_body(reply.into_body(), read).await?;
        self.idle().push(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Broken> {
        let stream = TcpStream::connect(self.0.proxy)
            .await
            .map_err(|_| Broken::NoConnection)?;
        // Without it small writes wait for acknowledgements; failing to set it only costs time.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Broken::NoConnection)?;
        // Its errors reach the sender too.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // No call leaves the list half changed.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_head(reply: &Response<Incoming>) -> Head {
    let text = |name: &str| {
        let value = reply.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Head {
        status: reply.status().as_u16(),
        cluster: text("x-isthmus-cluster"),
        workload: text("x-isthmus-workload"),
        attempts: text("x-isthmus-attempts").and_then(|count| count.parse().ok()),
        refusal: text("x-isthmus-refusal"),
        detail: None,
    }
}

/// The body of a refusal is not longer.
const MOST_OF_REFUSAL: usize = 16 * 1024;

/// Reads a body to its end. Of a refusal the detail is kept, of other replies nothing.
async fn read_body(mut body: Incoming, head: &mut Head) -> Result<(), Broken> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Broken::ConnectionLost)?;
        if let Some(data) = frame.data_ref()
            && head.refusal.is_some()
            && kept.len() < MOST_OF_REFUSAL
        {
            kept.extend_from_slice(data);
        }
    }
    let refusal: Option<Value> = serde_json::from_slice(&kept).ok();
    let detail = refusal
        .as_ref()
        .and_then(|refusal| refusal["detail"].as_str());
    head.detail = detail.map(str::to_owned);
    Ok(())
}
