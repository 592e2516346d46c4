//! HTTP/1.1 over sockets, with the machines of `codec`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Body, BodyEncoder, Item, Limits, Malformed, RequestDecoder, RequestHead, ResponseDecoder,
    ResponseHead, Unsendable, Version, encode_request, encode_response,
};
use isthmus_codec::memory::Share;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{HttpError, Piece};
use crate::blocks::{self, Flow, Output};
use crate::kept::Reusable;
use crate::splice::{Quiet, hear_out, owe};

/// How long a client that has said that nothing follows can wait for its reply. Most that say so have
/// gone away, and what the program does for them is for nobody.
const HALF_CLOSED: Duration = Duration::from_secs(2);
/// Read ahead of a client that sends further requests before it has got the reply to the first.
const READ_AHEAD: usize = blocks::SIZE;

/// The server's reading half of a client's connection.
pub(crate) struct RequestReader {
    stalled: Duration,
    socket: OwnedReadHalf,
    input: BytesMut,
    /// For what is more than a block.
    share: Share,
    decoder: RequestDecoder,
    unread: Unread,
    /// The client has said that nothing follows.
    ended: bool,
}

/// Is some of the last request still to be read? It would be taken for the next one.
#[derive(Debug, Clone, Default)]
struct Unread(Arc<AtomicBool>);

impl Unread {
    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_unread: bool) {
        self.0.store(is_unread, Ordering::Relaxed);
    }
}

/// The server's writing half of a client's connection.
pub(crate) struct ResponseWriter {
    stalled: Duration,
    socket: OwnedWriteHalf,
    output: Output,
    unread: Unread,
    /// Nothing else shows where it ends what the client is being told.
    ends_by_closing: bool,
}

/// Takes a client's connection, of which `input` has been read already. Its first block is counted
/// already; `share` grows with what it sends beyond that.
pub(crate) fn serve(
    socket: TcpStream,
    input: BytesMut,
    stalled: Duration,
    limits: Limits,
    share: Share,
) -> (RequestReader, ResponseWriter) {
    let (read, write) = socket.into_split();
    let unread = Unread::default();
    let reader = RequestReader {
        stalled,
        socket: read,
        input,
        share,
        decoder: RequestDecoder::new(limits),
        unread: unread.clone(),
        ended: false,
    };
    (
        reader,
        ResponseWriter {
            stalled,
            socket: write,
            output: Output::default(),
            unread,
            ends_by_closing: false,
        },
    )
}

impl RequestReader {
    /// How long a client may be silent in the middle of a body.
    pub(super) fn stalled(&self) -> Duration {
        self.stalled
    }

    /// What was wrong with a request that `head` or `piece` could not read on.
    pub(crate) fn malformed(&self) -> Option<Malformed> {
        self.decoder.failure()
    }

    /// Waits for the first byte of the next request. False: the client is done.
    pub(crate) async fn begun(&mut self) -> Result<bool, HttpError> {
        Ok(!self.input.is_empty() || self.read().await? > 0)
    }

    /// The next request; `None` when the client is done.
    pub(crate) async fn head(&mut self) -> Result<Option<(RequestHead, Body)>, HttpError> {
        loop {
            if let Some(head) = self.decode_head()? {
                return Ok(Some(head));
            }
            if self.read().await? == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
        }
    }

    /// The next request, if all of its head is here.
    pub(crate) fn decode_head(&mut self) -> Result<Option<(RequestHead, Body)>, HttpError> {
        self.unread.set(true);
        while let Some(item) = self.decoder.decode(&mut self.input)? {
            let Item::Head(head, body) = item else {
                continue;
            };
            // What follows CONNECT is no request at all.
            let is_whole = matches!(body, Body::None | Body::Length(0));
            self.unread.set(!is_whole || head.method == "CONNECT");
            // What has come of the body fits into a block, or is handed on.
            self.share.less(u64::MAX);
            blocks::give_back(&mut self.input);
            return Ok(Some((head, body)));
        }
        Ok(None)
    }

    /// The next piece of the body of the request that `head` gave.
    pub(crate) async fn piece(&mut self) -> Result<Piece, HttpError> {
        loop {
            let item = self.decoder.decode(&mut self.input)?;
            blocks::give_back(&mut self.input);
            match item {
                Some(Item::Data(data)) => return Ok(Piece::Data(data)),
                Some(Item::Trailers(trailers)) => {
                    self.unread.set(false);
                    return Ok(Piece::Trailers(trailers));
                }
                Some(Item::End) => {
                    self.unread.set(false);
                    return Ok(Piece::End);
                }
                Some(Item::Head(..)) => return Err(HttpError::Truncated),
                None if self.read().await? == 0 => return Err(HttpError::Truncated),
                None => {}
            }
        }
    }

    /// Can the next request be read?
    pub(crate) fn is_between(&self) -> bool {
        !self.unread.get()
    }

    async fn read(&mut self) -> Result<usize, HttpError> {
        // What is there is the beginning of something that is not whole yet.
        let beyond = (self.input.len() / blocks::SIZE * blocks::SIZE) as u64;
        if beyond > self.share.bytes() && !self.share.all_of(beyond - self.share.bytes()) {
            return Err(HttpError::NoMemory);
        }
        // No more than a block at once: behind the end of a body there may be requests that nobody has
        // asked for yet.
        Ok(blocks::read(&mut self.socket, &mut Flow::default(), &mut self.input).await?)
    }

    /// Waits until the client has gone away. What it sends meanwhile is kept for later, within bounds.
    /// One that has ended its half only may still be there to hear the reply: it is given some time, and
    /// again whenever something of the reply has come. Safe to give up on and call again.
    pub(super) async fn gone(&mut self, quiet: &Quiet) {
        while !self.ended && self.input.len() < READ_AHEAD {
            match self.read().await {
                Ok(0) => {
                    self.ended = true;
                    quiet.broken();
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
        if self.ended {
            return quiet.lasts(HALF_CLOSED).await;
        }
        std::future::pending::<()>().await;
    }

    /// As `into_tunnel`, for as long as it lasts.
    pub(super) fn tunnel(&mut self) -> (&mut OwnedReadHalf, Bytes) {
        (&mut self.socket, self.input.split().freeze())
    }

    /// Ends a connection after its last reply (RFC 9112 section 9.6).
    pub(crate) async fn leave(mut self, mut writer: ResponseWriter) {
        if self.is_between() || writer.socket.shutdown().await.is_err() {
            return;
        }
        hear_out(&mut self.socket).await;
    }

    /// The socket and what has been read beyond the last request: a tunnel takes over.
    pub(crate) fn into_tunnel(self) -> (OwnedReadHalf, Bytes) {
        (self.socket, self.input.freeze())
    }
}

impl ResponseWriter {
    /// Queues a head; it goes out with the first `flush`.
    pub(crate) fn head(
        &mut self,
        head: &ResponseHead,
        body: Body,
    ) -> Result<BodyEncoder, HttpError> {
        self.set_ends_by_closing(body == Body::UntilClose);
        Ok(encode_response(head, body, self.output.block())?)
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.output.write(&mut self.socket).await
    }

    pub(crate) fn into_tunnel(self) -> OwnedWriteHalf {
        self.socket
    }

    fn set_ends_by_closing(&mut self, it_does: bool) {
        if it_does != self.ends_by_closing {
            self.ends_by_closing = it_does;
            owe(self.socket.as_ref(), it_does);
        }
    }

    /// Ends a connection in the middle of a reply, so that the client sees that it was not all.
    pub(crate) fn cut(self) {
        if self.ends_by_closing {
            self.socket.forget();
        }
    }
}

/// Some of a body.
fn put_data(encoder: &mut BodyEncoder, data: Bytes, output: &mut Output) -> Result<(), HttpError> {
    if encoder.takes_plain(data.len())? {
        output.push(data);
    } else {
        encoder.chunk(&data, output.block());
    }
    Ok(())
}

/// The end of a body. Only a chunked one writes something there, behind what is long.
fn put_end(
    encoder: BodyEncoder,
    trailers: Option<&Fields>,
    output: &mut Output,
) -> Result<(), HttpError> {
    if encoder.is_chunked() {
        return Ok(encoder.end(trailers, output.block())?);
    }
    Ok(encoder.end(None, &mut BytesMut::new())?)
}

/// The reply to one request of a client.
pub(crate) struct Reply<'c> {
    writer: &'c mut ResponseWriter,
    version: Version,
    /// A client of HTTP/1.0 has asked for it, and is to be told.
    keeps: bool,
    encoder: Option<BodyEncoder>,
}

impl<'c> Reply<'c> {
    /// `version`: the client's.
    pub(crate) fn new(writer: &'c mut ResponseWriter, version: Version) -> Self {
        Self {
            writer,
            version,
            keeps: false,
            encoder: None,
        }
    }

    /// The connection stays for the next request of a client of HTTP/1.0, if the reply's end can be seen
    /// without its end (RFC 9112 appendix C.2.2).
    pub(crate) fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// How long a client may take nothing.
    pub(super) fn stalled(&self) -> Duration {
        self.writer.stalled
    }

    pub(super) fn tunnel(&mut self) -> &mut OwnedWriteHalf {
        self.writer.set_ends_by_closing(true);
        &mut self.writer.socket
    }

    /// The client has got all of what only the end of its connection ends.
    pub(super) fn has_all(&mut self) {
        self.writer.set_ends_by_closing(false);
    }

    pub(super) fn queued(&self) -> usize {
        self.writer.output.len()
    }

    pub(super) fn is_last(&self) -> bool {
        self.writer.unread.get()
    }

    pub(super) async fn ask_for_body(&mut self) -> Result<(), HttpError> {
        let go_on = ResponseHead {
            status: 100,
            version: Version::Http11,
            fields: Fields::new(),
        };
        self.interim(&go_on).await
    }

    pub(super) async fn interim(&mut self, head: &ResponseHead) -> Result<(), HttpError> {
        self.head(head, Body::None)?;
        self.end(None)?;
        self.flush().await
    }

    pub(crate) fn head(&mut self, head: &ResponseHead, body: Body) -> Result<(), HttpError> {
        let stays = self.keeps && body != Body::UntilClose && !head.fields.contains("connection");
        self.encoder = Some(if stays {
            let mut head = head.clone();
            // Both are plain text.
            let _ = head.fields.push("connection", "keep-alive");
            self.writer.head(&head, body)?
        } else {
            self.writer.head(head, body)?
        });
        Ok(())
    }

    pub(crate) fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        if let Some(encoder) = &mut self.encoder {
            put_data(encoder, data, &mut self.writer.output)?;
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        if let Some(encoder) = self.encoder.take() {
            put_end(encoder, trailers, &mut self.writer.output)?;
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), HttpError> {
        self.writer.flush().await?;
        if self.encoder.is_none() {
            self.has_all();
        }
        Ok(())
    }
}

/// A connection to a program that speaks HTTP/1.1.
pub(crate) struct ProgramConnection {
    reader: ResponseReader,
    writer: RequestWriter,
}

/// Its half that reads responses.
pub(crate) struct ResponseReader {
    socket: OwnedReadHalf,
    flow: Flow,
    input: BytesMut,
    decoder: ResponseDecoder,
}

/// Its half that writes requests.
pub(crate) struct RequestWriter {
    socket: OwnedWriteHalf,
    output: Output,
    encoder: Option<BodyEncoder>,
}

/// One request on a connection to the program.
pub(crate) struct Exchange {
    connection: ProgramConnection,
}

impl ProgramConnection {
    pub(crate) fn new(socket: TcpStream) -> Self {
        let (read, write) = socket.into_split();
        let decoder = ResponseDecoder::new(Limits::default());
        Self {
            reader: ResponseReader {
                socket: read,
                flow: Flow::default(),
                input: BytesMut::new(),
                decoder,
            },
            writer: RequestWriter {
                socket: write,
                output: Output::default(),
                encoder: None,
            },
        }
    }

    /// Queues the head of a request; it goes out with the first `flush`.
    pub(crate) fn begin(mut self, head: &RequestHead, body: Body) -> Result<Exchange, Unsendable> {
        self.writer.encoder = Some(encode_request(head, body, self.writer.output.block())?);
        if head.asks_upgrade() {
            self.reader.decoder.expect_upgrade();
        } else {
            self.reader.decoder.expect(&head.method);
        }
        Ok(Exchange { connection: self })
    }
}

impl Reusable for ProgramConnection {
    /// Nothing has arrived that nobody asked for, and the program has not closed.
    fn is_reusable(&self) -> bool {
        let mut byte = [0];
        let nothing = self.reader.socket.try_read(&mut byte);
        self.reader.input.is_empty()
            && matches!(nothing, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Exchange {
    pub(crate) fn split(&mut self) -> (&mut ResponseReader, &mut RequestWriter) {
        let connection = &mut self.connection;
        (&mut connection.reader, &mut connection.writer)
    }

    /// The program has changed to another protocol.
    pub(crate) fn into_tunnel(self) -> (OwnedReadHalf, Bytes, OwnedWriteHalf) {
        let ProgramConnection { reader, writer } = self.connection;
        (reader.socket, reader.input.freeze(), writer.socket)
    }

    /// The connection, when request and response are complete.
    pub(crate) fn into_connection(self) -> ProgramConnection {
        self.connection
    }
}

impl RequestWriter {
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), HttpError> {
        self.queue(data)?;
        Ok(self.flush().await?)
    }

    pub(crate) async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        self.queue_end(trailers)?;
        Ok(self.flush().await?)
    }

    /// Queues some of the body.
    pub(crate) fn queue(&mut self, data: Bytes) -> Result<(), HttpError> {
        if let Some(encoder) = &mut self.encoder {
            put_data(encoder, data, &mut self.output)?;
        }
        Ok(())
    }

    /// Queues the end of the request.
    pub(crate) fn queue_end(&mut self, trailers: Option<&Fields>) -> Result<(), HttpError> {
        if let Some(encoder) = self.encoder.take() {
            put_end(encoder, trailers, &mut self.output)?;
        }
        Ok(())
    }

    /// Bytes that have not been sent yet.
    pub(crate) fn queued(&self) -> usize {
        self.output.len()
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.output.write(&mut self.socket).await
    }
}

impl ResponseReader {
    /// Has the program said nothing that was not read?
    pub(crate) fn is_silent(&self) -> bool {
        self.input.is_empty()
    }

    /// The head of the final response, or of one that comes before. Safe to give up on and call again.
    pub(crate) async fn head(&mut self) -> Result<(ResponseHead, Body), HttpError> {
        loop {
            match self.decoder.decode(&mut self.input)? {
                Some(Item::Head(head, body)) => {
                    blocks::give_back(&mut self.input);
                    return Ok((head, body));
                }
                Some(Item::Data(_) | Item::Trailers(_) | Item::End) => {}
                None if self.read().await? == 0 => {
                    self.decoder.finish()?;
                    return Err(HttpError::Truncated);
                }
                None => {}
            }
        }
    }

    /// The next piece of the response's body. Safe to give up on and call again.
    pub(crate) async fn piece(&mut self) -> Result<Piece, HttpError> {
        loop {
            let item = self.decoder.decode(&mut self.input)?;
            blocks::give_back(&mut self.input);
            let item = match item {
                Some(item) => item,
                None if self.read().await? == 0 => match self.decoder.finish()? {
                    Some(item) => item,
                    None => return Err(HttpError::Truncated),
                },
                None => continue,
            };
            match item {
                Item::Data(data) => return Ok(Piece::Data(data)),
                Item::Trailers(trailers) => return Ok(Piece::Trailers(trailers)),
                Item::End => return Ok(Piece::End),
                Item::Head(..) => return Err(HttpError::Truncated),
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        blocks::read(&mut self.socket, &mut self.flow, &mut self.input).await
    }
}
