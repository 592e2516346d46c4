//! One stream of a multiplex, as the tasks that use it hold it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use isthmus_codec::message::{Interim, Open, Reply};
use isthmus_codec::mux::{CannotSend, MAX_DATA, ResetCode, StreamId};
use isthmus_codec::{Fields, Pieces};

use super::Link;

/// One stream of a link. Dropping it before both halves are done ends it: a caller's stream is
/// cancelled, and so is one that was not answered to the end; what was answered is still sent, and the
/// rest of what the peer has to say is not wanted.
pub(crate) struct Stream {
    pub(super) id: StreamId,
    pub(super) link: Link,
}

/// A stream that the peer opened.
pub(crate) struct Incoming {
    pub(crate) stream: Stream,
    pub(crate) open: Open,
    /// Nothing follows.
    pub(crate) end: bool,
}

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Item {
    Reply(Reply),
    Data(Bytes),
    End(Option<Fields>),
}

/// Why a stream has ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the far side reset the stream: {0}")]
    Reset(ResetCode),
    #[error("the connection was lost")]
    Lost,
    /// Dropped here, so that those who read have room.
    #[error("what came was not read while others needed the room")]
    Unread,
    #[error("{0}")]
    Unsendable(#[from] CannotSend),
    #[error("the stream is gone")]
    Gone,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) arrived: Arrived,
    /// Bytes that were given out and may still be held by whoever took them.
    pub(super) given: usize,
    pub(super) failed: Option<StreamError>,
    pub(super) receiver: Option<Waker>,
    pub(super) sender: Option<Waker>,
    /// Who wants to know only of the stream's failure.
    pub(super) watcher: Option<Waker>,
    /// The peer opened the stream; we answer.
    pub(super) served: bool,
    pub(super) sent_end: bool,
    pub(super) got_end: bool,
    pub(super) body: Body,
    /// What the peer has said before its reply, and nobody has taken.
    pub(super) interims: VecDeque<Interim>,
}

/// Interim responses that one stream keeps; further ones are dropped.
pub(super) const MOST_INTERIMS: usize = 8;

/// What has come and was not taken, in the order in which it comes on every stream.
#[derive(Default)]
pub(super) struct Arrived {
    reply: Option<Reply>,
    /// Copies of what nobody has taken for a while.
    waiting: Pieces,
    /// Parts of the blocks that they were read with.
    fresh: VecDeque<Bytes>,
    end: Option<Item>,
}

/// Has the peer asked for the body?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Body {
    #[default]
    Unasked,
    Wanted,
}

/// What becomes of a stream that nobody holds any more.
enum Ending {
    Done,
    /// A reset would throw away what of the answer is still queued.
    Answered,
    Cancelled,
}

impl Arrived {
    pub(super) fn reply(&mut self, reply: Reply) {
        self.reply = Some(reply);
    }

    /// True: there was no fresh data before.
    pub(super) fn data(&mut self, bytes: Bytes) -> bool {
        self.fresh.push_back(bytes);
        self.fresh.len() == 1
    }

    pub(super) fn end(&mut self, trailers: Option<Fields>) {
        self.end = Some(Item::End(trailers));
    }

    /// Lets go of the blocks that data was read with: many streams share one, and it is held as long as
    /// any of them holds the smallest part.
    pub(super) fn settle(&mut self) {
        for bytes in std::mem::take(&mut self.fresh) {
            self.waiting.push_copy(&bytes);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_empty(&self) -> bool {
        let nothing = self.reply.is_none() && self.end.is_none();
        nothing && self.waiting.is_empty() && self.fresh.is_empty()
    }

    fn is_at_end(&self) -> bool {
        let no_data = self.waiting.is_empty() && self.fresh.is_empty();
        let no_trailers = matches!(self.end, None | Some(Item::End(None)));
        self.reply.is_none() && no_data && no_trailers
    }

    fn take(&mut self) -> Option<Item> {
        let data = |arrived: &mut Self| {
            let waiting = arrived.waiting.pop(MAX_DATA);
            waiting.or_else(|| arrived.fresh.pop_front())
        };
        (self.reply.take().map(Item::Reply))
            .or_else(|| data(self).map(Item::Data))
            .or_else(|| self.end.take())
    }
}

impl Slot {
    fn ending(&self) -> Ending {
        if self.failed.is_some() || (self.sent_end && self.got_end) {
            Ending::Done
        } else if self.served && self.sent_end {
            Ending::Answered
        } else {
            Ending::Cancelled
        }
    }

    /// What comes next, and how many bytes of what was given out before are handed on by now.
    fn take(&mut self) -> (Option<Result<Item, StreamError>>, usize) {
        let item = self.arrived.take();
        let given = match &item {
            Some(Item::Data(data)) => data.len(),
            _ => 0,
        };
        let handed_on = std::mem::replace(&mut self.given, given);
        let end = || self.got_end.then_some(Ok(Item::End(None)));
        let item = item.map(Ok).or_else(end);
        (item.or_else(|| self.failed.map(Err)), handed_on)
    }

    pub(super) fn wake(&mut self) {
        let wakers = [
            self.receiver.take(),
            self.sender.take(),
            self.watcher.take(),
        ];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Stream {
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Queues the reply.
    pub(crate) fn reply(&self, reply: &Reply, end: bool) -> Result<(), StreamError> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        shared.machine.reply(self.id, reply, end)?;
        shared.slot(self.id, |slot| slot.sent_end |= end);
        shared.wake_driver();
        Ok(())
    }

    /// Queues a response that is none yet. It may be lost on its way.
    pub(crate) fn hint(&self, interim: &Interim) {
        let mut shared = self.link.0.borrow_mut();
        shared.machine.interim(self.id, interim);
        shared.wake_driver();
    }

    /// What the callee says before it replies. Waited for by the task that receives, and by no other.
    /// Never ready when the stream has failed.
    pub(crate) async fn interim(&self) -> Interim {
        poll_fn(|cx| {
            let mut shared = self.link.0.borrow_mut();
            let Some(slot) = shared.streams.get_mut(&self.id) else {
                return Poll::Pending;
            };
            if let Some(interim) = slot.interims.pop_front() {
                return Poll::Ready(interim);
            }
            keep(&mut slot.receiver, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Queues all of `data`, waiting for credit.
    pub(crate) async fn send(&self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            poll_fn(|cx| self.poll_send(cx, &mut data)).await?;
        }
        Ok(())
    }

    /// Takes as much from the front of `data` as there is room for now.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Where it takes nothing, it knows from now on that somebody waits.
        let taken = shared.machine.send(self.id, data)?;
        if taken == 0 {
            shared.slot(self.id, |slot| keep(&mut slot.sender, cx.waker()));
            return Poll::Pending;
        }
        shared.wake_driver();
        Poll::Ready(Ok(taken))
    }

    /// Ends our half.
    pub(crate) fn finish(&self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        let mut shared = self.link.0.borrow_mut();
        shared.check(self.id)?;
        if shared
            .streams
            .get(&self.id)
            .is_none_or(|slot| slot.sent_end)
        {
            return Ok(());
        }
        shared.machine.finish(self.id, trailers)?;
        shared.slot(self.id, |slot| slot.sent_end = true);
        shared.wake_driver();
        Ok(())
    }

    /// What comes next. What was given out before is taken for handed on, and the far side has credit for
    /// it again.
    ///
    /// Errors: the stream was reset or the connection lost, after everything that arrived before
    /// was given out.
    pub(crate) async fn receive(&self) -> Result<Item, StreamError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Item, StreamError>> {
        let shared = &mut *self.link.0.borrow_mut();
        let Some(slot) = shared.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(StreamError::Gone));
        };
        let (item, handed_on) = slot.take();
        if item.is_none() {
            keep(&mut slot.receiver, cx.waker());
        }
        shared.handed_on(self.id, handed_on);
        item.map_or(Poll::Pending, Poll::Ready)
    }

    /// As [`Stream::receive`], of what is here already, and only if nothing of [`Stream::interim`] is.
    pub(crate) fn at_hand(&self) -> Option<Result<Item, StreamError>> {
        let shared = &mut *self.link.0.borrow_mut();
        let slot = shared.streams.get_mut(&self.id)?;
        if !slot.interims.is_empty() {
            return None;
        }
        let (item, handed_on) = slot.take();
        shared.handed_on(self.id, handed_on);
        item
    }

    /// Asks the caller for the body that it holds back.
    pub(crate) fn want_body(&self) {
        let mut shared = self.link.0.borrow_mut();
        shared.machine.want_body(self.id);
        shared.wake_driver();
    }

    /// Waits until the callee has asked for the body. Never ready when the stream has failed.
    pub(crate) async fn body_wanted(&self) {
        poll_fn(|cx| {
            let mut shared = self.link.0.borrow_mut();
            match shared.streams.get_mut(&self.id) {
                Some(slot) if slot.body == Body::Wanted => Poll::Ready(()),
                Some(slot) => {
                    keep(&mut slot.watcher, cx.waker());
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await;
    }

    /// Waits until the stream has failed, whatever is still to be read of it.
    pub(crate) async fn failed(&self) -> StreamError {
        poll_fn(|cx| {
            let mut shared = self.link.0.borrow_mut();
            let Some(slot) = shared.streams.get_mut(&self.id) else {
                return Poll::Ready(StreamError::Gone);
            };
            if let Some(error) = slot.failed {
                return Poll::Ready(error);
            }
            keep(&mut slot.watcher, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Nothing more will arrive, and everything that did was given out.
    pub(crate) fn has_ended(&self) -> bool {
        let shared = self.link.0.borrow();
        let slot = shared.streams.get(&self.id);
        slot.is_some_and(|slot| slot.got_end && slot.arrived.is_empty())
    }

    /// Nothing but the end will arrive, and no trailers with it.
    pub(crate) fn is_at_end(&self) -> bool {
        let shared = self.link.0.borrow();
        let slot = shared.streams.get(&self.id);
        slot.is_some_and(|slot| slot.got_end && slot.arrived.is_at_end())
    }

    /// Ends both halves with a reason.
    pub(crate) fn reset(self, code: ResetCode) {
        let mut shared = self.link.0.borrow_mut();
        shared.machine.reset(self.id, code);
        shared.forget(self.id);
        shared.wake_opener();
        shared.wake_driver_if_due();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut shared = self.link.0.borrow_mut();
        let ending = shared.streams.get(&self.id).map(Slot::ending);
        match ending {
            // One that is done may hold data that nobody has taken, and that its peer waits for.
            Some(Ending::Answered | Ending::Done) => shared.machine.stop(self.id),
            Some(Ending::Cancelled) => shared.machine.reset(self.id, ResetCode::Cancelled),
            None => {}
        }
        shared.forget(self.id);
        shared.wake_opener();
        shared.wake_driver_if_due();
    }
}

/// Remembers whom to wake. Most wait again and again.
pub(super) fn keep(kept: &mut Option<Waker>, waker: &Waker) {
    match kept {
        Some(kept) => kept.clone_from(waker),
        None => *kept = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_codec::memory::MemoryBudget;
    use isthmus_codec::message::{Context as Carried, TcpOpen};
    use isthmus_codec::mux::{Settings, Side};
    use isthmus_model::ServiceName;

    use super::*;
    use crate::testing::{Plain, run, within};

    const BUDGET: u64 = 1 << 20;

    fn open() -> Open {
        Open::Tcp(TcpOpen {
            service: ServiceName::new("shop", "cart").unwrap(),
            port: 80,
            context: Carried::default(),
        })
    }

    /// Two ends, a stream between them, and the budget of the end that sends on it.
    async fn stream() -> (Stream, Incoming, MemoryBudget) {
        let (a, b) = tokio::io::duplex(64 * 1024);
        let (budget, other) = (MemoryBudget::new(BUDGET), MemoryBudget::new(BUDGET));
        let near = Link::start(Plain::new(a), Side::Dialler, Settings::default(), &budget);
        let far = Link::start(Plain::new(b), Side::Listener, Settings::default(), &other);
        let stream = near.open(&open(), false).unwrap();
        let incoming = within(far.accept()).await.unwrap();
        incoming.stream.reply(&Reply::Accepted, false).unwrap();
        (stream, incoming, budget)
    }

    #[test]
    fn a_stream_is_at_its_end_when_only_that_is_left() {
        run(async {
            let mut fields = Fields::new();
            fields.push("grpc-status", "0").unwrap();
            for trailers in [None, Some(fields)] {
                let (stream, incoming, _) = stream().await;
                let far = incoming.stream;
                far.send(Bytes::from_static(b"all")).await.unwrap();
                far.finish(trailers.as_ref()).unwrap();
                assert!(matches!(stream.receive().await, Ok(Item::Reply(_))));
                assert!(!stream.is_at_end());
                assert!(matches!(stream.receive().await, Ok(Item::Data(_))));
                while !stream.link.0.borrow().streams[&stream.id].got_end {
                    tokio::task::yield_now().await;
                }
                assert_eq!(stream.is_at_end(), trailers.is_none());
            }
        });
    }

    #[test]
    fn what_nobody_takes_holds_only_its_own_memory() {
        let mut arrived = Arrived::default();
        let block = Bytes::from(vec![7; 64 * 1024]);
        assert!(arrived.data(block.slice(..10)));
        assert!(!arrived.data(block.slice(10..20_000)));
        assert!(!block.is_unique());
        arrived.settle();
        assert!(block.is_unique(), "the block is let go of");
        assert!(arrived.data(block.slice(..5)), "what comes later is fresh");
        arrived.end(None);
        let mut came = 0;
        loop {
            match arrived.take().unwrap() {
                Item::Data(data) => came += data.len(),
                Item::End(_) => break,
                Item::Reply(_) => panic!("there is no reply"),
            }
        }
        assert_eq!(came, 20_005);
        assert!(arrived.is_empty());
    }

    #[test]
    fn after_a_turn_nothing_is_fresh() {
        run(async {
            let (stream, far, _) = stream().await;
            let link = far.stream.link().clone();
            let fresh = || {
                let shared = link.0.borrow();
                let slot = &shared.streams[&far.stream.id];
                (slot.arrived.fresh.len(), slot.arrived.waiting.len())
            };
            within(stream.send(Bytes::from(vec![7; 1_000])))
                .await
                .unwrap();
            while fresh() == (0, 0) {
                tokio::task::yield_now().await;
            }
            // Another turn: something else comes.
            let other = stream.link().open(&open(), true).unwrap();
            within(link.accept()).await.unwrap();
            drop(other);
            assert_eq!(fresh(), (0, 1_000));
        });
    }

    /// What is held by whoever took it last is not to be sent again yet.
    #[test]
    fn credit_comes_back_when_data_was_handed_on() {
        run(async {
            let (stream, far, _) = stream().await;
            let all = Bytes::from(vec![7; 1 << 20]);
            let sending = tokio::task::spawn_local(async move {
                stream.send(all).await.unwrap();
                stream
            });
            let held = || {
                let shared = far.stream.link().0.borrow();
                let slot = &shared.streams[&far.stream.id];
                let waiting = slot.arrived.fresh.iter().map(Bytes::len).sum::<usize>();
                waiting + slot.arrived.waiting.len() + slot.given
            };
            let mut came = 0;
            while came < 1 << 20 {
                let Item::Data(data) = within(far.stream.receive()).await.unwrap() else {
                    panic!("only data comes");
                };
                came += data.len();
                assert!(held() >= data.len() && held() <= 256 * 1024, "{}", held());
            }
            drop(within(sending).await.unwrap());
        });
    }

    #[test]
    fn a_sender_that_finds_less_room_than_before_is_told_when_there_is_more() {
        run(async {
            let (stream, far, budget) = stream().await;
            // It waits for the next turn, and there would be room for more.
            within(stream.send(Bytes::from(vec![7; 20_000])))
                .await
                .unwrap();
            let mut others = budget.share();
            others.hold(BUDGET);
            let more = stream.send(Bytes::from(vec![7; 100_000]));
            let reading = async {
                let mut came = 0;
                while came < 120_000 {
                    if let Item::Data(data) = far.stream.receive().await.unwrap() {
                        came += data.len();
                    }
                }
            };
            let (sent, ()) = within(async { tokio::join!(more, reading) }).await;
            sent.unwrap();
        });
    }
}
