//! The client's side of an exchange with a host outside.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use isthmus_codec::http1::Body;
use isthmus_telemetry::RefusalReason;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Broken, Call, FAR, MOST_QUEUED, clean_trailers};
use crate::alarm::Alarm;
use crate::http::http1::RequestWriter;
use crate::http::{ClientBody, HttpError, Piece};
use crate::splice::Quiet;

/// How long a server is given to say whether it wants a body that waits to be asked for.
const UNASKED: Duration = Duration::from_secs(1);
/// A server that takes nothing for so long, and answers nothing, will not.
const STUCK: Duration = Duration::from_mins(5);

/// It may wait until it is asked, then it sends, and then it waits for the reply.
pub(super) struct Feed<'c> {
    call: &'c Call,
    withheld: Cell<bool>,
    asked: Notify,
    /// All of the request is sent.
    pub(super) whole: Cell<bool>,
    /// The server reads no more of it.
    stopped: Cell<bool>,
    /// The reply has begun.
    replying: Cell<bool>,
    /// When what is waited for is late.
    pub(super) ends: Cell<Instant>,
    quiet: Quiet,
}

impl<'c> Feed<'c> {
    pub(super) fn new(call: &'c Call) -> Self {
        let limit = if call.expects { UNASKED } else { FAR };
        Self {
            call,
            withheld: Cell::new(call.expects),
            asked: Notify::new(),
            whole: Cell::new(false),
            stopped: Cell::new(false),
            replying: Cell::new(false),
            ends: Cell::new(call.ends(limit)),
            quiet: Quiet::new(),
        }
    }

    pub(super) fn is_withheld(&self) -> bool {
        self.withheld.get()
    }

    /// The client is asked for the body.
    pub(super) fn go_on(&self) {
        self.withheld.set(false);
        self.ends.set(self.call.ends(FAR));
        self.asked.notify_one();
    }

    /// Some of the reply has come.
    pub(super) fn heard(&self) {
        self.quiet.broken();
        self.replying.set(true);
        self.ends.set(self.call.ends(self.call.timeout.idle));
    }

    /// It is the server's turn.
    fn said_all(&self) {
        if !self.replying.get() {
            self.ends.set(self.call.ends(self.call.timeout.request));
        }
    }

    /// Goes on with `feeding`, which is [`Feed::run`]. A server may stop reading and still answer.
    pub(super) async fn gone(
        &self,
        feeding: Pin<&mut impl Future<Output = Result<Infallible, Broken>>>,
    ) -> Broken {
        if !self.stopped.get() {
            match feeding.await {
                Ok(never) => match never {},
                Err(Broken::Silent) => self.stopped.set(true),
                // Who is being answered is told by how that ends.
                Err(Broken::Refused(_)) if self.replying.get() => self.stopped.set(true),
                Err(gone) => return gone,
            }
            self.said_all();
        }
        std::future::pending().await
    }

    /// Sends the request; ends only if that fails, or if the client goes away afterwards.
    pub(super) async fn run(
        &self,
        client: &mut ClientBody<'_>,
        writer: &mut RequestWriter,
    ) -> Result<Infallible, Broken> {
        if self.is_withheld() {
            flush(writer).await?;
            self.asked.notified().await;
        }
        if matches!(self.call.body, Body::None | Body::Length(0)) {
            writer.queue_end(None).map_err(Broken::Client)?;
        } else {
            self.upload(client, writer).await?;
        }
        flush(writer).await?;
        self.whole.set(true);
        self.said_all();
        client.gone(&self.quiet).await;
        Err(Broken::Client(HttpError::Truncated))
    }

    /// Queues the body; of one that is long, or slow to come, sends it as it comes.
    async fn upload(
        &self,
        client: &mut ClientBody<'_>,
        writer: &mut RequestWriter,
    ) -> Result<(), Broken> {
        let mut trailers = None;
        loop {
            let queued = writer.queued();
            let piece = tokio::select! {
                biased;
                piece = client.piece(), if queued < MOST_QUEUED => piece.map_err(Broken::Client)?,
                flushed = flush(writer), if queued > 0 => { flushed?; continue }
            };
            self.quiet.broken();
            self.call.untouched.set(false);
            match piece {
                Piece::Data(data) => {
                    let sent = &self.call.sent;
                    sent.set(sent.get() + data.len() as u64);
                    writer.queue(data).map_err(Broken::Client)?;
                }
                Piece::Trailers(fields) => trailers = Some(clean_trailers(fields)),
                Piece::End => return writer.queue_end(trailers.as_ref()).map_err(Broken::Client),
            }
        }
    }
}

async fn flush(writer: &mut RequestWriter) -> Result<(), Broken> {
    match timeout(STUCK, writer.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Broken::Silent),
        Err(_) => Err(Broken::Refused(RefusalReason::RequestTimeout.into())),
    }
}

/// Ready at `ends`, wherever that has moved to by then.
pub(super) async fn rung(alarm: &mut Alarm, ends: &Cell<Instant>) {
    poll_fn(|cx| alarm.poll(Some(ends.get().into_std()), cx)).await;
}
