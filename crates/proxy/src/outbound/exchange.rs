//! The tries of one HTTP request: pick, connect, send, judge; until one reply is delivered or the
//! request is given up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use isthmus_balance::{Attempts, Budget, Outcome, Told, Verdict};
use isthmus_codec::http1::{Malformed, ResponseHead, Version, strip_hop_by_hop};
use isthmus_codec::message::{Interim, Open, Reply, Request, Response};
use isthmus_codec::mux::CannotOpen;
use isthmus_telemetry::RefusalReason;
use tokio::time::{sleep_until, timeout_at};

use super::call::Call;
use super::connect::connect;
use super::decided::Decided;
use super::deliver::{Ended, Held, HeldBody, KeepAlive, Rest, Upgraded, deliver};
use super::hedge::{Hedge, Second};
use super::settle::{
    Avoided, Failed, Settle, check_chosen, consider, deadline, not_opened, stream_failed,
};
use super::upload::{ClientSide, Sending, Step, Upload};
use crate::alarm::Alarm;
use crate::blocks;
use crate::destination::Try;
use crate::http::{ClientReply, HttpError, content_length};
use crate::journey::Journey;
use crate::memory::{Memory, Room};
use crate::mux::{Item, Link, StreamError};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Runs the request to its end.
#[expect(
    clippy::too_many_arguments,
    reason = "everything that one request is made of"
)]
pub(super) async fn run(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    decided: &Decided,
    attempts: &mut Attempts,
    budget: Rc<RefCell<Budget>>,
    call: Call,
    request: &mut Request,
    upload: &mut Upload<'_>,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, Ended> {
    let destination = worker.destinations.find(&decided.key);
    let settle = Settle::new(&destination, decided, budget);
    let mut avoided = Avoided::default();
    let (upgraded, attempt) = loop {
        let now = Instant::now();
        let decision = consider(&destination, decided, &avoided, now)?;
        if attempts.tries() == 0 {
            journey.considered(&decision);
        }
        check_chosen(decided, &decision)?;
        attempts.begin(now);
        journey.record.attempts = attempts.tries();
        request.context.remaining = attempts.remaining(now);
        request.context.attempt = u8::try_from(attempts.attempt()).unwrap_or(u8::MAX);

        let ways = (&destination, &decision);
        let (mut attempt, link) =
            match connect(worker, decided, ways, &avoided, attempts, now).await {
                Ok(connected) => connected,
                Err((attempt, failed)) => {
                    settle.failed(attempts, &mut avoided, attempt, failed)?;
                    continue;
                }
            };
        journey.record.destination_cluster = attempt.cluster().cloned();
        journey.record.destination_workload = attempt.workload().cloned();

        if upload.is_coming() {
            attempt.receive();
        }
        let kept_whole = upload.kept_whole();
        // In a block: what is not needed for the reply takes no room while that is delivered.
        let mut held = {
            let hedge = Hedge::of(worker, &destination, decided, attempts, request, &attempt)
                .filter(|_| upload.is_empty() && request.upgrade.is_none());
            let mut tried = Tried {
                attempt: &mut attempt,
                link: &link,
                hedge,
            };
            let alarm = worker.alarms.take();
            let answered = answer(&mut tried, attempts, call, request, upload, reply, alarm).await;
            if tried.is_hedged() {
                journey.record.attempts += 1;
                journey.record.destination_workload = attempt.workload().cloned();
            }
            if !kept_whole.holds() {
                attempts.lose_body();
            }
            match answered {
                Ok(Answered::Reply(held)) => held,
                Ok(Answered::Upgraded(mut upgraded)) => {
                    decided.answer(&mut upgraded.head.fields);
                    attempt.replied(upgraded.outcome(), Told::default(), Instant::now());
                    break (upgraded, attempt);
                }
                Err(Abandoned::Failed(failed)) => {
                    settle.failed(attempts, &mut avoided, Some(attempt), failed)?;
                    continue;
                }
                Err(Abandoned::Client(error)) => {
                    attempt.finish(Outcome::Cancelled);
                    return Err(Ended::by_client(error));
                }
            }
        };
        let outcome = call.outcome(&held.head, held.body.trailers());
        attempt.replied(outcome, told(&held.head), held.began);
        let is_agreed = (200..300).contains(&held.head.status);
        if is_agreed && request.upgrade.is_some() && reply.is_http2() {
            // A client of HTTP/2 would take it for the beginning of what it asked for.
            attempt.finish(outcome);
            return Err(stays_http().into());
        }
        match settle.judge(attempts, &mut avoided, &attempt, outcome) {
            Verdict::Retry => attempt.finish(outcome),
            Verdict::Deliver | Verdict::GiveUp { .. } => {
                decided.answer(&mut held.head.fields);
                let idle = decided.settings.timeout.idle;
                let (attempt, held) = (&mut attempt, &mut held);
                return deliver(journey, attempts, call, attempt, held, idle, reply).await;
            }
        }
    };
    attempts.begin_reply();
    let client = upload.client();
    let idle = decided.settings.timeout.idle;
    // Boxed: few requests become a tunnel, and those last.
    Box::pin(upgraded.carry(journey, attempt, idle, client, reply)).await
}

/// Why `send` has no reply.
enum Abandoned {
    Failed(Failed),
    /// The client's connection broke, or what it sends is malformed.
    Client(HttpError),
}

/// Sends the request, waits for the reply, and collects it if it is short and another try could still
/// make good for a cut one.
async fn answer<'u>(
    tried: &mut Tried<'_>,
    attempts: &mut Attempts,
    call: Call,
    request: &Request,
    upload: &'u mut Upload<'_>,
    reply: &mut ClientReply<'_>,
    alarm: Alarm,
) -> Result<Answered<'u>, Abandoned> {
    let empty = upload.is_empty();
    let (waits, quiet, memory) = (upload.waits(), upload.quiet(), upload.memory());
    let mut expects = false;
    if waits.get() {
        let told = timeout_at(deadline(attempts), tried.link.takes_expectations()).await;
        expects = told.unwrap_or(false);
        if !expects {
            go_on(reply, &waits).await?;
        }
    }
    let _committed = attempts.commit();
    let upgrades = request.upgrade.is_some();
    let opened = {
        let open = Open::Request(Request {
            expects,
            ..request.clone()
        });
        tried.link.open(&open, empty && !upgrades)
    };
    let stream = opened.map_err(|error| match error {
        // So it would be everywhere.
        CannotOpen::TooLarge { limit, .. } => {
            Abandoned::Client(HttpError::Malformed(Malformed::HeadTooLarge { limit }))
        }
        error => Abandoned::Failed(not_opened(&error)),
    })?;
    let stream = Rc::new(stream);
    let client = if empty {
        ClientSide::waiting(upload.watch())
    } else if expects {
        let on = Rc::clone(&stream);
        ClientSide::withholding(Rc::clone(&stream), move || upload.send(on))
    } else {
        ClientSide::sending(upload.send(Rc::clone(&stream)))
    };
    let mut waiting = Waiting {
        rest: Rest {
            stream,
            client,
            quiet,
            alarm,
        },
        waits,
        memory,
    };
    let Item::Reply(Reply::Response(head)) = waiting.head(tried, attempts, reply).await? else {
        return Err(bad("not a reply to a request"));
    };
    call.replying(attempts, &head);
    let began = Instant::now();
    if head.status == 101 && upgrades {
        let stream = waiting.rest.stream;
        return Ok(Answered::Upgraded(Upgraded { head, stream }));
    } else if head.status == 101 {
        return Err(bad("it changes to a protocol that nobody asked for"));
    } else if upgrades {
        // A stream that failed says why when it is read.
        let _ = waiting.rest.stream.finish(None);
    }
    let body = if waiting.rest.stream.has_ended() {
        HeldBody::Whole(Bytes::new(), None, None)
    } else if let Some((length, room)) = waiting.room_to_hold(attempts, &head, began) {
        waiting.hold(attempts, length, room, reply).await?
    } else {
        HeldBody::Coming(waiting.rest)
    };
    Ok(Answered::Reply(Held { head, body, began }))
}

/// Tells a client that waits for it to send the body. From then on it need not be told again.
async fn go_on(reply: &mut ClientReply<'_>, waits: &Cell<bool>) -> Result<(), Abandoned> {
    waits.set(false);
    reply.ask_for_body().await.map_err(Abandoned::Client)
}

/// Tells the client what comes before a reply, of whichever try it is: it binds nobody.
async fn tell(reply: &mut ClientReply<'_>, interim: Interim) -> Result<(), Abandoned> {
    let Interim { status, mut fields } = interim;
    strip_hop_by_hop(&mut fields);
    let head = ResponseHead {
        status,
        version: Version::Http11,
        fields,
    };
    reply.interim(&head).await.map_err(Abandoned::Client)
}

/// What a try has brought.
enum Answered<'u> {
    Reply(Held<'u>),
    Upgraded(Upgraded),
}

/// Whom a request is sent to, and again when that takes long.
struct Tried<'t> {
    /// The one that is waited for, in the end the one that has answered.
    attempt: &'t mut Try,
    link: &'t Link,
    hedge: Option<Hedge<'t>>,
}

impl Tried<'_> {
    fn is_hedged(&self) -> bool {
        self.hedge.as_ref().is_some_and(Hedge::has_begun)
    }
}

/// A try that has been sent, or is being sent.
struct Waiting<'u> {
    rest: Rest<'u>,
    /// The client waits to be told to go on.
    waits: Rc<Cell<bool>>,
    memory: Rc<Memory>,
}

impl<'u> Waiting<'u> {
    /// The head of the reply, of whichever try it comes first.
    async fn head(
        &mut self,
        tried: &mut Tried<'_>,
        attempts: &mut Attempts,
        reply: &mut ClientReply<'_>,
    ) -> Result<Item, Abandoned> {
        let Some(hedge) = &mut tried.hedge else {
            return self.item(Some(tried.attempt), attempts, reply).await;
        };
        let mut second: Option<Second> = None;
        loop {
            let at = hedge.next_timeout();
            tokio::select! {
                biased;
                item = self.item(Some(tried.attempt), attempts, reply) => match (item, second.take()) {
                    // The first has failed, and the second goes on.
                    (Err(Abandoned::Failed(failed)), Some(other)) if failed.outcome != Outcome::TimedOut => {
                        self.go_on_with(other, tried.attempt).finish(failed.outcome);
                    }
                    (item, _) => return item,
                },
                item = receive(second.as_ref()) => match (item, second.take()) {
                    (Ok(item), Some(other)) => {
                        self.go_on_with(other, tried.attempt).overtaken();
                        return Ok(item);
                    }
                    (Err(error), Some(other)) => {
                        let failed = stream_failed(error, other.stream.link());
                        other.attempt.finish(failed.outcome);
                    }
                    (_, None) => {}
                },
                () = sleep_until(at.unwrap_or_else(Instant::now).into()), if at.is_some() => {
                    second = hedge.begin();
                }
            }
        }
    }

    /// The other is waited for from now on. Gives the one before.
    fn go_on_with(&mut self, other: Second, attempt: &mut Try) -> Try {
        self.rest.stream = other.stream;
        std::mem::replace(attempt, other.attempt)
    }

    /// What comes next, while the request may still be on its way; `attempt`: as long as there is nothing
    /// of the reply.
    async fn item(
        &mut self,
        mut attempt: Option<&mut Try>,
        attempts: &mut Attempts,
        reply: &mut ClientReply<'_>,
    ) -> Result<Item, Abandoned> {
        let Rest {
            stream,
            client,
            alarm,
            ..
        } = &mut self.rest;
        let failed = |error| Abandoned::Failed(stream_failed(error, stream.link()));
        if let Some(item) = stream.at_hand() {
            return item.map_err(failed);
        }
        loop {
            tokio::select! {
                biased;
                // Boxed: few replies have one, and every request would have the room for it.
                interim = stream.interim() => Box::pin(tell(reply, interim)).await?,
                item = stream.receive() => return item.map_err(failed),
                done = client.step() => match done {
                    Ok(Step::Wanted) => go_on(reply, &self.waits).await?,
                    Ok(Step::Sent) => {
                        let now = Instant::now();
                        attempts.received(now);
                        if let Some(attempt) = &mut attempt {
                            attempt.received(now);
                        }
                    }
                    Err(Sending::Client(error)) => return Err(Abandoned::Client(error)),
                    Err(Sending::Stuck) => return Err(late(Outcome::TimedOut)),
                    // Reading it says why.
                    Err(Sending::Stream) => {}
                },
                () = reply.unwanted() => return Err(Abandoned::Client(HttpError::Truncated)),
                () = alarm.at(attempts.next_timeout()) => {
                    let expired = attempts.expired(Instant::now());
                    return Err(late(expired.unwrap_or(Outcome::TimedOut)));
                }
            }
        }
    }

    /// The length of a short reply, and room for it; nothing for one that is handed on as it comes.
    fn room_to_hold(
        &self,
        attempts: &Attempts,
        head: &Response,
        began: Instant,
    ) -> Option<(u64, Room)> {
        let length = content_length(&head.fields);
        let short = length.filter(|_| attempts.holds_reply(length, began))?;
        // What is held, and the same again as it is written.
        Some((short, self.memory.grow(2 * short)?))
    }

    /// The body of a short reply.
    async fn hold(
        &mut self,
        attempts: &mut Attempts,
        length: u64,
        room: Room,
        reply: &mut ClientReply<'_>,
    ) -> Result<HeldBody<'u>, Abandoned> {
        let mut body = BytesMut::new();
        loop {
            let missing = usize::try_from(length).unwrap_or(0) - body.len();
            match self.item(None, attempts, reply).await? {
                Item::Data(data) if data.len() > missing => return Err(bad(MISANNOUNCED)),
                // Copied as it is written, which is now.
                Item::Data(data)
                    if body.is_empty()
                        && data.len() == missing
                        && missing < blocks::LONG
                        && self.rest.stream.is_at_end() =>
                {
                    return Ok(HeldBody::Whole(data, None, Some(room)));
                }
                Item::Data(data) => {
                    body.reserve(missing);
                    body.extend_from_slice(&data);
                }
                // The answer to HEAD has the length that the answer to GET would have.
                Item::End(_) if !body.is_empty() && missing > 0 => return Err(bad(MISANNOUNCED)),
                Item::End(trailers) => {
                    return Ok(HeldBody::Whole(body.freeze(), trailers, Some(room)));
                }
                Item::Reply(_) => return Err(bad("a second reply")),
            }
        }
    }
}

const MISANNOUNCED: &str = "the body is not as long as announced";

/// What comes next of the second try; nothing while there is none.
async fn receive(second: Option<&Second>) -> Result<Item, StreamError> {
    match second {
        Some(second) => second.stream.receive().await,
        None => std::future::pending().await,
    }
}

/// The program went on as if nobody had asked for another protocol.
fn stays_http() -> Refusal {
    let detail = "the program answers in HTTP where another protocol was asked for";
    Refusal::new(RefusalReason::UpgradeNotSupported, detail)
}

/// There is no reply in time.
fn late(outcome: Outcome) -> Abandoned {
    Abandoned::Failed(Failed::new(outcome, RefusalReason::RequestTimeout.into()))
}

/// What came is no reply.
fn bad(detail: &str) -> Abandoned {
    let refusal = Refusal::new(RefusalReason::BadUpstreamReply, detail);
    Abandoned::Failed(Failed::new(Outcome::Reset, refusal))
}

/// What a reply says of its workload.
fn told(head: &Response) -> Told {
    Told {
        utilisation: head.utilisation.map(|used| used.fraction().into()),
        waited: head.waited,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isthmus_codec::Fields;
    use isthmus_codec::message::Utilisation;

    use super::*;

    #[test]
    fn what_a_reply_says_of_its_workload_is_known() {
        let head = Response {
            status: 200,
            fields: Fields::new(),
            utilisation: Some(Utilisation::of_permille(500)),
            waited: Some(Duration::from_millis(7)),
            do_not_retry: false,
            refusal: None,
            upgrade: None,
        };
        let expect = Told {
            utilisation: Some(0.5),
            waited: Some(Duration::from_millis(7)),
        };
        assert_eq!(told(&head), expect);
    }
}
