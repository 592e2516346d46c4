//! The body of a request on its way to a workload. While it is short it is kept as it is sent, so that
//! another try can send it again.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_balance::constants::HELD_BYTES;
use isthmus_codec::http1::Body;
use isthmus_codec::{Fields, Pieces};
use tokio::time::timeout;

use crate::http::{ClientBody, HttpError, Piece};
use crate::memory::{Memory, Room};
use crate::mux::Stream;
use crate::splice::Quiet;

/// A program that takes nothing for so long, and answers nothing, will not.
const STUCK: Duration = Duration::from_mins(5);

/// Memory for what is kept is taken in such steps.
const STEP: u64 = 16 * 1024;

/// What a client sends, and what of it is kept.
pub(super) struct Upload<'c> {
    client: ClientBody<'c>,
    kept: Pieces,
    kept_bytes: u64,
    /// Of the request, and of what is kept.
    room: Room,
    /// The first step is a part of the request's own.
    for_kept: u64,
    reads_ahead: bool,
    end: End,
    kept_whole: KeptWhole,
    /// The client waits to be told to go on.
    waits: Rc<Cell<bool>>,
    quiet: Rc<Quiet>,
}

/// Has all of the client's body been read?
enum End {
    Open,
    Read { trailers: Option<Fields> },
}

/// Can everything that was sent be sent again?
#[derive(Debug, Clone)]
pub(super) struct KeptWhole(Rc<Cell<bool>>);

impl KeptWhole {
    pub(super) fn holds(&self) -> bool {
        self.0.get()
    }
}

/// One try's sending; when all is sent, the client is watched.
pub(super) type Uploading<'u> = Pin<Box<dyn Future<Output = Result<Watching<'u>, Sending>> + 'u>>;

/// Ready when the client has gone away.
pub(super) type Watching<'u> = Pin<Box<dyn Future<Output = ()> + 'u>>;

/// Why an upload ended early.
pub(super) enum Sending {
    /// The stream failed; reading it says why.
    Stream,
    /// The far side takes nothing.
    Stuck,
    Client(HttpError),
}

impl<'c> Upload<'c> {
    /// `body`: what the head has announced. `waits`: it is sent when it is asked for. `room`: the
    /// request's own.
    pub(super) fn new(client: ClientBody<'c>, body: Body, waits: bool, room: Room) -> Self {
        let empty = matches!(body, Body::None | Body::Length(0));
        Self {
            client,
            kept: Pieces::default(),
            kept_bytes: 0,
            room,
            for_kept: STEP,
            reads_ahead: false,
            end: if empty {
                End::Read { trailers: None }
            } else {
                End::Open
            },
            kept_whole: KeptWhole(Rc::new(Cell::new(true))),
            waits: Rc::new(Cell::new(waits && !empty)),
            quiet: Rc::new(Quiet::new()),
        }
    }

    /// Has some of it yet to come?
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.end, End::Open)
    }

    /// There is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.end, End::Read { trailers: None }) && self.kept_bytes == 0
    }

    /// Reads a body whose length is known and short before anything is sent: however slowly a client
    /// sends it, nobody else waits for that. Where there is no memory for it, it is sent as it comes.
    pub(super) async fn read_short(&mut self, body: Body) -> Result<(), HttpError> {
        let is_short = matches!(body, Body::Length(length) if length <= HELD_BYTES);
        while is_short
            && !self.waits.get()
            && matches!(self.end, End::Open)
            && self.has_room(self.kept_bytes)
        {
            // Nothing of it is sent yet, so one piece may be more than there is room for.
            self.reads_ahead = true;
            let taken = self.take().await;
            self.reads_ahead = false;
            taken?;
        }
        Ok(())
    }

    pub(super) fn memory(&self) -> Rc<Memory> {
        Rc::clone(self.room.memory())
    }

    /// The client's half of the connection.
    pub(super) fn client(&mut self) -> &mut ClientBody<'c> {
        &mut self.client
    }

    /// Does the client wait to be told to go on? It is told once.
    pub(super) fn waits(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.waits)
    }

    /// Since when the client has sent nothing.
    pub(super) fn quiet(&self) -> Rc<Quiet> {
        Rc::clone(&self.quiet)
    }

    pub(super) fn kept_whole(&self) -> KeptWhole {
        self.kept_whole.clone()
    }

    /// Sends the body from its beginning: what is kept, then what the client goes on to send. Must not
    /// be called again when something was sent that is not kept.
    pub(super) fn send<'u>(&'u mut self, stream: Rc<Stream>) -> Uploading<'u>
    where
        'c: 'u,
    {
        Box::pin(async move {
            for data in self.kept.all() {
                send(&stream, data.clone()).await?;
            }
            let trailers = loop {
                if let End::Read { trailers } = &self.end {
                    break trailers.as_ref();
                }
                // First kept, then sent: a try may end while it waits for room.
                if let Some(data) = self.take().await.map_err(Sending::Client)? {
                    send(&stream, data).await?;
                }
            };
            stream.finish(trailers).map_err(|_| Sending::Stream)?;
            Ok(self.watch())
        })
    }

    /// Looks after a client that has sent all of its request.
    pub(super) fn watch<'u>(&'u mut self) -> Watching<'u>
    where
        'c: 'u,
    {
        Box::pin(self.client.gone(&self.quiet))
    }

    /// The next piece of data from the client, which is kept while all that there was is short.
    async fn take(&mut self) -> Result<Option<Bytes>, HttpError> {
        let trailers = match self.client.piece().await? {
            Piece::Data(data) => {
                self.quiet.broken();
                self.keep(&data);
                return Ok(Some(data));
            }
            Piece::Trailers(trailers) => Some(trailers),
            Piece::End => None,
        };
        self.end = End::Read { trailers };
        // Nothing more comes.
        self.room.shrink(self.client.window());
        Ok(None)
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len() as u64;
        if !self.kept_whole.0.get() {
            return;
        }
        let has_room = self.reads_ahead || self.has_room(self.kept_bytes);
        if self.kept_bytes <= HELD_BYTES && has_room {
            self.kept.push(data.clone());
        } else {
            self.kept_whole.0.set(false);
            self.kept.clear();
            self.room.shrink(self.for_kept - STEP);
            self.for_kept = STEP;
        }
    }

    /// Is there memory to keep so much?
    fn has_room(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.for_kept).next_multiple_of(STEP);
        let has = missing == 0 || self.room.grow(missing);
        if has {
            self.for_kept += missing;
        }
        has
    }
}

async fn send(stream: &Stream, data: Bytes) -> Result<(), Sending> {
    let sent = timeout(STUCK, stream.send(data)).await;
    sent.map_err(|_| Sending::Stuck)?
        .map_err(|_| Sending::Stream)
}

/// The client's side of a try: it may wait until it is asked, then it sends, and then it waits for the
/// reply.
pub(super) struct ClientSide<'u> {
    withheld: Option<Withheld<'u>>,
    uploading: Option<Uploading<'u>>,
    watching: Option<Watching<'u>>,
}

/// A body that the client sends only when it is asked to.
struct Withheld<'u> {
    stream: Rc<Stream>,
    begin: Box<dyn FnOnce() -> Uploading<'u> + 'u>,
}

/// What has become of the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The client is to be told to go on.
    Wanted,
    /// All of the request is sent.
    Sent,
}

impl<'u> ClientSide<'u> {
    pub(super) fn withholding(
        stream: Rc<Stream>,
        begin: impl FnOnce() -> Uploading<'u> + 'u,
    ) -> Self {
        let begin = Box::new(begin);
        Self {
            withheld: Some(Withheld { stream, begin }),
            uploading: None,
            watching: None,
        }
    }

    pub(super) fn sending(uploading: Uploading<'u>) -> Self {
        Self {
            withheld: None,
            uploading: Some(uploading),
            watching: None,
        }
    }

    pub(super) fn waiting(watching: Watching<'u>) -> Self {
        Self {
            withheld: None,
            uploading: None,
            watching: Some(watching),
        }
    }

    /// Goes on until there is something to know of; in the end, that the client has gone away.
    pub(super) async fn step(&mut self) -> Result<Step, Sending> {
        if let Some(withheld) = &self.withheld {
            withheld.stream.body_wanted().await;
            self.uploading = self.withheld.take().map(|withheld| (withheld.begin)());
            return Ok(Step::Wanted);
        }
        if let Some(uploading) = &mut self.uploading {
            let done = uploading.await;
            self.uploading = None;
            self.watching = Some(done?);
            return Ok(Step::Sent);
        }
        match &mut self.watching {
            Some(watching) => watching.await,
            // It has failed before.
            None => std::future::pending().await,
        }
        Err(Sending::Client(HttpError::Truncated))
    }
}
