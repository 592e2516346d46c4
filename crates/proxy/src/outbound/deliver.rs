//! The way back: a reply to the caller, whole or as it comes.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, ResponseHead, Version, strip_hop_by_hop};
use isthmus_codec::message::Response;
use isthmus_telemetry::RefusalReason;

use super::call::Call;
use super::settle::stream_failed;
use super::upload::{ClientSide, Sending};
use crate::alarm::Alarm;
use crate::destination::Try;
use crate::http::{ClientBody, ClientReply, ClientTunnel, HttpError, content_length, grpc};
use crate::journey::{Journey, lossy};
use crate::memory::Room;
use crate::mux::{Item, Stream};
use crate::refusal::{AT_FIELD, Refusal};
use crate::splice::{Carried, Quiet, hear_out, splice};

/// May the client's connection carry another request, if all of this one was read?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeepAlive {
    Yes,
    No,
}

/// How a request ends that is not answered by its destination.
#[derive(Debug)]
pub(super) enum Ended {
    /// To be rendered.
    Refused(Refusal),
    /// The client's connection is no longer usable.
    Broken(HttpError),
}

impl Ended {
    /// Reading the client's request failed, before anything of a reply was sent.
    pub(super) fn by_client(error: HttpError) -> Self {
        match error {
            HttpError::Malformed(malformed) => Self::Refused(Refusal::malformed(malformed)),
            HttpError::Stalled(_) => Self::Refused(Refusal::new(
                RefusalReason::ClientTooSlow,
                error.to_string(),
            )),
            error => Self::Broken(error),
        }
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RefusalReason> for Ended {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<HttpError> for Ended {
    fn from(error: HttpError) -> Self {
        Self::Broken(error)
    }
}

/// A reply of which at least the head is here.
pub(super) struct Held<'u> {
    pub(super) head: Response,
    pub(super) body: HeldBody<'u>,
    /// When the head came.
    pub(super) began: Instant,
}

pub(super) enum HeldBody<'u> {
    /// All of it, and the memory that it takes; the far side cannot cut it any more.
    Whole(Bytes, Option<Fields>, Option<Room>),
    /// Still on its way.
    Coming(Rest<'u>),
}

impl HeldBody<'_> {
    /// As far as they are known.
    pub(super) fn trailers(&self) -> Option<&Fields> {
        match self {
            Self::Whole(_, trailers, _) => trailers.as_ref(),
            Self::Coming(_) => None,
        }
    }
}

/// A stream whose reply is not complete, and what is still being sent on it.
pub(super) struct Rest<'u> {
    pub(super) stream: Rc<Stream>,
    pub(super) client: ClientSide<'u>,
    /// Since when neither side has sent anything.
    pub(super) quiet: Rc<Quiet>,
    /// For the time that the try may take.
    pub(super) alarm: Alarm,
}

/// Gives the reply to the caller. From its first byte on there is no other try. `idle`: `timeout.idle`.
pub(super) async fn deliver(
    journey: &mut Journey,
    attempts: &mut Attempts,
    call: Call,
    attempt: &mut Try,
    held: &mut Held<'_>,
    idle: Duration,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, Ended> {
    attempts.begin_reply();
    let Held { head, body, .. } = held;
    // Another's proxy should have done it; this connection is ours to describe.
    strip_hop_by_hop(&mut head.fields);
    for (name, value) in journey.told() {
        // Names of ours are plain text.
        let _ = head.fields.push(name, value);
    }
    journey.record.response_code = Some(head.status);
    if let Some(code) = &head.refusal {
        journey.record.refusal = std::str::from_utf8(code).ok().and_then(RefusalReason::find);
        journey.record.refused_at = head.fields.find(AT_FIELD).map(|at| lossy(at));
    }
    let delivered = match body {
        HeldBody::Whole(body, trailers, room) => {
            let _room = room.take();
            let (body, trailers) = (std::mem::take(body), trailers.take());
            deliver_whole(journey, head, body, trailers, reply)
                .await
                .map_err(Cut::Client)
        }
        HeldBody::Coming(rest) => {
            deliver_coming(journey, attempts, call, head, rest, idle, reply).await
        }
    };
    // Whatever has become of it, its stream is given up and its memory is free before anything else.
    *body = HeldBody::Whole(Bytes::new(), None, None);
    match delivered {
        Ok(Delivered { keep, trailers }) => {
            journey.record.grpc_status = call.status(head, trailers.as_ref());
            attempt.end(call.outcome(head, trailers.as_ref()));
            Ok(keep)
        }
        Err(Cut::Quiet) => {
            // Who had nothing to say has done nothing wrong.
            attempt.end(call.outcome(head, None));
            cut_off(journey, call, RefusalReason::RequestTimeout, reply).await
        }
        Err(Cut::Upstream(outcome)) => {
            attempt.end(outcome);
            let reason = match outcome {
                Outcome::TimedOut => RefusalReason::RequestTimeout,
                Outcome::Cancelled => RefusalReason::ClientTooSlow,
                _ => RefusalReason::UpstreamReset,
            };
            cut_off(journey, call, reason, reply).await
        }
        Err(Cut::Client(error)) => {
            attempt.end(Outcome::Cancelled);
            Err(Ended::Broken(error))
        }
    }
}

/// Ends a reply that has begun and will not be completed.
async fn cut_off(
    journey: &mut Journey,
    call: Call,
    reason: RefusalReason,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, Ended> {
    journey.record.refusal = Some(reason);
    if !call.is_grpc() {
        // The head is out: only an end that is none tells that the body is cut.
        return Err(Ended::Broken(HttpError::Truncated));
    }
    // A call that has begun can still be told how it ended.
    journey.record.grpc_status = Some(grpc::status_of(reason));
    reply.end(Some(&grpc::ended(reason)))?;
    reply.flush().await?;
    Ok(KeepAlive::No)
}

/// A connection on which client and program have changed to another protocol.
pub(super) struct Upgraded {
    pub(super) head: Response,
    pub(super) stream: Rc<Stream>,
}

impl Upgraded {
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Replied {
            status: self.head.status,
            retry_unwanted: false,
        }
    }

    /// Tells the client, and carries what follows. The try lasts as long as that does.
    pub(super) async fn carry(
        self,
        journey: &mut Journey,
        attempt: Try,
        idle: Duration,
        body: &mut ClientBody<'_>,
        reply: &mut ClientReply<'_>,
    ) -> Result<KeepAlive, Ended> {
        let outcome = self.outcome();
        let Self { mut head, stream } = self;
        strip_hop_by_hop(&mut head.fields);
        let upgrade = head.upgrade.take();
        reply.agree(response_head(&head), upgrade)?;
        journey.record.response_code = Some(if reply.is_http2() { 200 } else { 101 });
        reply.flush().await?;
        let has_all = Cell::new(false);
        let carried = match ClientTunnel::over(body, reply) {
            Some(ClientTunnel::Http1 {
                mut read,
                early,
                write,
            }) => {
                let carried = splice(&mut read, write, early, &stream, idle, &has_all).await;
                if has_all.get() {
                    hear_out(read).await;
                }
                carried
            }
            Some(ClientTunnel::Http2 { read, write }) => {
                splice(read, write, Bytes::new(), &stream, idle, &has_all).await
            }
            None => Carried::default(),
        };
        journey.record.request_bytes += carried.sent;
        journey.record.response_bytes += carried.received;
        attempt.finish(outcome);
        if !has_all.get() {
            return Err(Ended::Broken(HttpError::Truncated));
        }
        reply.end_tunnel();
        Ok(KeepAlive::No)
    }
}

/// A reply that went out whole.
struct Delivered {
    keep: KeepAlive,
    trailers: Option<Fields>,
}

async fn deliver_whole(
    journey: &mut Journey,
    head: &Response,
    body: Bytes,
    trailers: Option<Fields>,
    reply: &mut ClientReply<'_>,
) -> Result<Delivered, HttpError> {
    let bodiless = journey.record.method.as_deref() == Some(b"HEAD") || is_bodiless(head.status);
    let framing = match &trailers {
        _ if bodiless => Body::None,
        Some(_) if reply.version() == Version::Http11 => Body::Chunked,
        _ => Body::Length(body.len() as u64),
    };
    reply.whole_head(response_head(head), framing)?;
    let body = if bodiless { Bytes::new() } else { body };
    journey.record.response_bytes += body.len() as u64;
    reply.rest(body, trailers.as_ref()).await?;
    reply.flush().await?;
    Ok(Delivered {
        keep: KeepAlive::Yes,
        trailers,
    })
}

enum Cut {
    Upstream(Outcome),
    /// Nothing has come, either way, for `timeout.idle`.
    Quiet,
    Client(HttpError),
}

impl From<HttpError> for Cut {
    fn from(error: HttpError) -> Self {
        match error {
            // The reply is longer or shorter than it announced.
            HttpError::Unsendable(_) => Self::Upstream(Outcome::Reset),
            error => Self::Client(error),
        }
    }
}

async fn deliver_coming(
    journey: &mut Journey,
    attempts: &Attempts,
    call: Call,
    head: &Response,
    rest: &mut Rest<'_>,
    idle: Duration,
    reply: &mut ClientReply<'_>,
) -> Result<Delivered, Cut> {
    let framing = framing_of(head, journey, reply.version());
    let keep = if framing == Body::UntilClose {
        KeepAlive::No
    } else {
        KeepAlive::Yes
    };
    reply.head(&response_head(head), framing)?;
    // Who streams wants to see that it has begun.
    if call.lasts(head) {
        reply.flush().await?;
    }
    let quiet = Rc::clone(&rest.quiet);
    quiet.broken();
    let trailers = loop {
        // What ends by itself need not be watched.
        let is_watched = !idle.is_zero() && attempts.next_timeout().is_none();
        let data = {
            let item = tokio::select! {
                biased;
                item = rest.stream.receive() => item,
                done = rest.client.step() => match done {
                    Err(Sending::Client(error)) => return Err(Cut::Client(error)),
                    Ok(_) | Err(Sending::Stream | Sending::Stuck) => continue,
                },
                () = reply.unwanted() => return Err(Cut::Client(HttpError::Truncated)),
                () = rest.alarm.at(attempts.next_timeout()) => {
                    return Err(Cut::Upstream(Outcome::TimedOut));
                }
                () = quiet.lasts(idle), if is_watched => return Err(Cut::Quiet),
            };
            quiet.broken();
            let failed = |error| Cut::Upstream(stream_failed(error, rest.stream.link()).outcome);
            match item.map_err(failed)? {
                // The answer to HEAD, and 204 and 304, have none, whatever comes.
                Item::Data(_) if framing == Body::None => continue,
                Item::Data(data) => data,
                Item::End(trailers) => break trailers,
                Item::Reply(_) => return Err(Cut::Upstream(Outcome::Reset)),
            }
        };
        journey.record.response_bytes += data.len() as u64;
        let writing = pin!(async {
            reply.data(data).await?;
            reply.flush().await
        });
        meanwhile(&mut rest.client, writing).await?;
    };
    reply.end(trailers.as_ref())?;
    reply.flush().await?;
    Ok(Delivered { keep, trailers })
}

/// Writes to a client that may still be sending, and that may read nothing before it has sent all.
async fn meanwhile(
    client: &mut ClientSide<'_>,
    mut writing: Pin<&mut impl Future<Output = Result<(), HttpError>>>,
) -> Result<(), Cut> {
    loop {
        tokio::select! {
            biased;
            written = &mut writing => return Ok(written?),
            done = client.step() => match done {
                Err(Sending::Client(error)) => return Err(Cut::Client(error)),
                Ok(_) | Err(Sending::Stream | Sending::Stuck) => {}
            },
        }
    }
}

/// How the caller is shown the end of the body.
fn framing_of(head: &Response, journey: &Journey, version: Version) -> Body {
    if journey.record.method.as_deref() == Some(b"HEAD") || is_bodiless(head.status) {
        Body::None
    } else if let Some(length @ 1..) = content_length(&head.fields) {
        Body::Length(length)
    } else if version == Version::Http11 {
        Body::Chunked
    } else {
        Body::UntilClose
    }
}

fn is_bodiless(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn response_head(head: &Response) -> ResponseHead {
    ResponseHead {
        status: head.status,
        version: Version::Http11,
        fields: head.fields.clone(),
    }
}
