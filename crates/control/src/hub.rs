//! Between the core, which runs alone on a thread of its own, and the tasks that hold sockets.
//!
//! Decides nothing: events go in, actions are taken to whoever they are for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use isthmus_wire::proto;
use isthmus_world::{Clock, Store};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::core::{
    Action, Answer, ConnectionId, Core, Event, Notice, Now, PeerSessionId, Request, RequestId,
    SessionId, Target, WatchEvent,
};

/// Events that wait for the core.
const EVENTS: usize = 1024;
/// Messages that wait for one stream. The core sends a proxy a few pushes at a time, so a stream
/// that fills this is not read at all.
const STREAM: usize = 256;
/// Events that wait for one watch: all objects of a kind may come at once.
const WATCH: usize = 65_536;
/// Events of one commit.
const TOGETHER: usize = 256;

/// Handed to every task of the shell.
#[derive(Debug)]
pub(crate) struct Hub {
    events: mpsc::Sender<Turn>,
    ids: AtomicU64,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    requests: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    watches: BTreeMap<RequestId, mpsc::Sender<WatchEvent>>,
    proxies: BTreeMap<SessionId, Stream<proto::ToProxy>>,
    peers: BTreeMap<PeerSessionId, Stream<proto::PeerFrame>>,
    asks: BTreeMap<ConnectionId, mpsc::Sender<Result<proto::Question, Status>>>,
    answers: BTreeMap<u64, oneshot::Sender<proto::Answer>>,
}

/// The hub's end of a stream.
#[derive(Debug)]
struct Stream<T> {
    outgoing: mpsc::Sender<Result<T, Status>>,
    /// Dropped with the stream.
    _open: oneshot::Sender<Infallible>,
}

/// A task's end of a stream.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    pub(crate) outgoing: mpsc::Receiver<Result<T, Status>>,
    pub(crate) closed: Closed,
}

/// Done when the stream was closed here: nothing more is taken in, whether the other side hears of
/// it or not.
#[derive(Debug)]
pub(crate) struct Closed(oneshot::Receiver<Infallible>);

/// What the core's thread is to do next.
#[derive(Debug)]
pub(crate) enum Turn {
    On(Event),
    Stop,
}

/// The core's thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this control plane is stopping")]
pub(crate) struct Stopped;

/// What `Hub::new` leaves to be run.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) events: mpsc::Receiver<Turn>,
    pub(crate) actions: mpsc::Sender<Vec<Action>>,
    pub(crate) performed: mpsc::Receiver<Vec<Action>>,
}

impl Hub {
    pub(crate) fn new() -> (Self, Ends) {
        let (events, received) = mpsc::channel(EVENTS);
        let (actions, performed) = mpsc::channel(EVENTS);
        let hub = Self {
            events,
            ids: AtomicU64::new(1),
            streams: Mutex::default(),
        };
        let ends = Ends {
            events: received,
            actions,
            performed,
        };
        (hub, ends)
    }

    /// Never given out twice in a process.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn tell(&self, event: Event) -> Result<(), Stopped> {
        let turn = Turn::On(event);
        self.events.send(turn).await.map_err(|_| Stopped)
    }

    /// Ends the core's thread, after everything that it was told.
    pub(crate) async fn stop(&self) {
        // An error means that it has ended.
        let _ = self.events.send(Turn::Stop).await;
    }

    /// Asks the core.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, Stopped> {
        let id = RequestId(self.next_id());
        let (sender, answer) = oneshot::channel();
        self.streams().requests.insert(id, sender);
        self.tell(Event::Request { id, request }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Asks the core for a watch. The events are those that follow the answer `Watching`.
    pub(crate) async fn watch(&self, request: Request) -> Result<(Answer, WatchStream), Stopped> {
        let id = RequestId(self.next_id());
        let (sender, answer) = oneshot::channel();
        let (watch, events) = mpsc::channel(WATCH);
        {
            let mut streams = self.streams();
            streams.requests.insert(id, sender);
            streams.watches.insert(id, watch);
        }
        self.tell(Event::Request { id, request }).await?;
        let ended = self.events.clone();
        let stream = WatchStream { id, events, ended };
        Ok((answer.await.map_err(|_| Stopped)?, stream))
    }

    pub(crate) fn open_proxy(&self, session: SessionId) -> Opened<proto::ToProxy> {
        let (opened, stream) = stream();
        self.streams().proxies.insert(session, stream);
        opened
    }

    pub(crate) fn close_proxy(&self, session: SessionId) {
        self.streams().proxies.remove(&session);
    }

    pub(crate) fn open_peer(&self, session: PeerSessionId) -> Opened<proto::PeerFrame> {
        let (opened, stream) = stream();
        self.streams().peers.insert(session, stream);
        opened
    }

    pub(crate) fn close_peer(&self, session: PeerSessionId) {
        self.streams().peers.remove(&session);
    }

    pub(crate) fn open_ask(
        &self,
        connection: ConnectionId,
    ) -> mpsc::Receiver<Result<proto::Question, Status>> {
        let (sender, receiver) = mpsc::channel(STREAM);
        self.streams().asks.insert(connection, sender);
        receiver
    }

    pub(crate) fn close_ask(&self, connection: ConnectionId) {
        self.streams().asks.remove(&connection);
    }

    /// Puts a question to the proxy of a connection. `None`: it does not answer questions.
    pub(crate) fn question(
        &self,
        connection: ConnectionId,
        question: proto::question::Question,
    ) -> Option<oneshot::Receiver<proto::Answer>> {
        let id = self.next_id();
        let (sender, answer) = oneshot::channel();
        let mut streams = self.streams();
        let question = proto::Question {
            id,
            question: Some(question),
        };
        let asked = streams.asks.get(&connection)?.try_send(Ok(question));
        asked.ok()?;
        streams.answers.retain(|_, waiting| !waiting.is_closed());
        streams.answers.insert(id, sender);
        Some(answer)
    }

    pub(crate) fn on_answer(&self, answer: proto::Answer) {
        let waiting = self.streams().answers.remove(&answer.id);
        if let Some(waiting) = waiting {
            // An error means that nobody waits any more.
            let _ = waiting.send(answer);
        }
    }

    /// Tells all proxies that this control plane is going, and ends all streams.
    pub(crate) fn end_streams(&self) {
        let mut streams = self.streams();
        for proxy in std::mem::take(&mut streams.proxies).into_values() {
            let closing = proto::to_proxy::Message::Closing(proto::Closing {});
            let message = proto::ToProxy {
                message: Some(closing),
            };
            // A full stream ends without it.
            proxy.send(message);
        }
        *streams = Streams::default();
    }

    /// Takes actions to where they belong; gives back what takes time.
    pub(crate) fn perform(&self, actions: Vec<Action>) -> Vec<Errand> {
        let mut errands = Vec::new();
        let mut streams = self.streams();
        for action in actions {
            match action {
                Action::Answer { id, answer } => streams.answer(id, answer),
                Action::Watch { id, event } => {
                    if !streams.tell_watch(id, event) {
                        // The core learns it when the stream is dropped.
                        streams.watches.remove(&id);
                    }
                }
                Action::EndWatch { id } => drop(streams.watches.remove(&id)),
                Action::ToProxy { session, message } => {
                    let stream = streams.proxies.get(&session);
                    if stream.is_some_and(|stream| !stream.send(message)) {
                        streams.proxies.remove(&session);
                    }
                }
                Action::CloseProxy { session, reason } => {
                    tracing::warn!(%reason, "closing a proxy's stream");
                    if let Some(stream) = streams.proxies.remove(&session) {
                        stream.end(Status::invalid_argument(reason));
                    }
                }
                Action::ToPeer { session, frame } => {
                    let stream = streams.peers.get(&session);
                    if stream.is_some_and(|stream| !stream.send(frame)) {
                        streams.peers.remove(&session);
                    }
                }
                Action::ClosePeer { session, reason } => {
                    tracing::info!(%reason, "closing a stream with another control plane");
                    if let Some(stream) = streams.peers.remove(&session) {
                        stream.end(Status::aborted(reason));
                    }
                }
                Action::Dial { target, address } => errands.push(Errand::Dial { target, address }),
                Action::FindListener(address) => errands.push(Errand::FindListener(address)),
                Action::Notice(notice) => log(&notice),
            }
        }
        errands
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // No call leaves the maps half changed, so a panic elsewhere does not matter.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closed {
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent; the error says that the other end was dropped.
        let _ = (&mut self.0).await;
    }
}

fn stream<T>() -> (Opened<T>, Stream<T>) {
    let (sender, outgoing) = mpsc::channel(STREAM);
    let (open, closed) = oneshot::channel();
    let stream = Stream {
        outgoing: sender,
        _open: open,
    };
    let closed = Closed(closed);
    (Opened { outgoing, closed }, stream)
}

impl<T> Stream<T> {
    /// False when the other side does not read fast enough, or has gone.
    fn send(&self, message: T) -> bool {
        self.outgoing.try_send(Ok(message)).is_ok()
    }

    /// Says why, if there is room for it.
    fn end(self, status: Status) {
        let _ = self.outgoing.try_send(Err(status));
    }
}

impl Streams {
    fn answer(&mut self, id: RequestId, answer: Answer) {
        if answer != Answer::Watching {
            self.watches.remove(&id);
        }
        if let Some(request) = self.requests.remove(&id) {
            // An error means that nobody waits any more.
            let _ = request.send(answer);
        }
    }

    /// False when nobody reads it, or not fast enough.
    fn tell_watch(&self, id: RequestId, event: WatchEvent) -> bool {
        let watch = self.watches.get(&id);
        watch.is_some_and(|watch| watch.try_send(event).is_ok())
    }
}

/// An action that takes time.
pub(crate) enum Errand {
    Dial { target: Target, address: SocketAddr },
    FindListener(SocketAddr),
}

/// The events of one watch. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct WatchStream {
    id: RequestId,
    events: mpsc::Receiver<WatchEvent>,
    ended: mpsc::Sender<Turn>,
}

impl tokio_stream::Stream for WatchStream {
    type Item = WatchEvent;

    /// Ends when the watch was ended here; the client lists again.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        self.events.poll_recv(context)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        // When the core is too busy to hear it, it goes on telling a watch that nobody reads.
        let _ = self
            .ended
            .try_send(Turn::On(Event::WatchEnded { id: self.id }));
    }
}

/// The core's thread: as many events as there are, one commit, then what follows.
pub(crate) fn drive<S: Store>(
    mut core: Core<S>,
    clock: &impl Clock,
    mut events: mpsc::Receiver<Turn>,
    actions: &mpsc::Sender<Vec<Action>>,
) {
    let now = || Now {
        monotonic: clock.now(),
        wall: clock.wall(),
    };
    let mut stopping = false;
    while !stopping && let Some(first) = events.blocking_recv() {
        let more = std::iter::from_fn(|| events.try_recv().ok());
        for turn in std::iter::once(first).chain(more).take(TOGETHER) {
            match turn {
                Turn::On(event) => core.on(event, now()),
                Turn::Stop => stopping = true,
            }
        }
        let follows = core.flush();
        if !follows.is_empty() && actions.blocking_send(follows).is_err() {
            return;
        }
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::StoreFailed { error } => {
            tracing::error!(%error, "the store failed: writes are refused until it recovers");
        }
        Notice::StoreRecovered => tracing::info!("the store works again"),
        Notice::BadEntry {
            ledger,
            key,
            reason,
        } => {
            tracing::error!(%ledger, %key, %reason, "an entry is not understood: the last good one stays");
        }
        Notice::BadReport { process, reason } => {
            tracing::warn!(%process, %reason, "a proxy may not stand for its workload");
        }
        Notice::Contact { cluster, contact } => {
            tracing::info!(%cluster, ?contact, "contact with another cluster");
        }
        Notice::VoteLost { reason } => tracing::error!(
            %reason,
            "this cluster has no vote on config any more: `isthmus authority remove` and `add` give it a new one"
        ),
        Notice::Reset { cluster, rejected } => tracing::warn!(
            %cluster,
            %rejected,
            "the authority began anew there, by the mesh key: `isthmus history --rejected` shows what is void"
        ),
        Notice::BadReset { cluster, reason } => {
            tracing::error!(%cluster, %reason, "a peer says that the authority began anew");
        }
        Notice::Behind {
            cluster,
            is_stuck: true,
        } => tracing::error!(
            %cluster,
            "this cluster is heard and saves nothing of what it is told: look at its disk and its log"
        ),
        Notice::Behind { cluster, .. } => {
            tracing::info!(%cluster, "this cluster saves again what it is told");
        }
        Notice::Restored { taken } => tracing::warn!(
            %taken,
            "this store was restored from a backup: what it knew since then is learnt from the other clusters"
        ),
        Notice::HeldBack { group, held: 0, .. } => {
            tracing::info!(%group, "nothing of it is held any more");
        }
        Notice::HeldBack { group, held, total } => tracing::warn!(
            %group,
            %held,
            %total,
            "so many are missed at once that they are shown as they were: `isthmus release` takes them for gone"
        ),
        Notice::Outlived { ledger, cluster } => tracing::error!(
            %ledger,
            %cluster,
            "another cluster knows more of this ledger than its owner: was this store restored from a backup?"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_is_closed_here_takes_nothing_more_in() {
        let (hub, _ends) = Hub::new();
        let session = PeerSessionId(1);
        let mut opened = hub.open_peer(session);
        let reason = "nothing was heard".to_owned();
        hub.perform(vec![Action::ClosePeer { session, reason }]);
        opened.closed.wait().await;
        let last = opened.outgoing.recv().await;
        assert_eq!(
            last.map(|last| last.unwrap_err().code()),
            Some(tonic::Code::Aborted)
        );
        assert!(opened.outgoing.recv().await.is_none());
    }
}
