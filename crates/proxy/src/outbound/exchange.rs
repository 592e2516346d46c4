//! The tries of one HTTP request: pick, connect, send, judge; until one reply is delivered or the
//! request is given up.

use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use isthmus_balance::{Attempts, Outcome, Verdict};
use isthmus_codec::http1::Version;
use isthmus_codec::message::{Open, Reply, Request, Response};
use isthmus_telemetry::RefusalReason;
use tokio::time::{sleep_until, timeout_at};

use super::connect::connect;
use super::decided::Decided;
use super::deliver::{
    Ended, Held, HeldBody, KeepAlive, Rest, Sending, Uploading, deliver, upload_step,
};
use super::settle::{
    Avoided, Failed, Settle, check_chosen, consider, deadline, has_room, not_opened, stream_failed,
};
use crate::http::{HttpError, Piece, RequestReader, ResponseWriter};
use crate::journey::Journey;
use crate::mux::{Item, Link, Stream};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The client's connection during one request.
pub(super) struct Client<'c> {
    pub(super) reader: &'c mut RequestReader,
    pub(super) writer: &'c mut ResponseWriter,
    pub(super) request_version: Version,
}

/// The body as far as it has been read.
pub(super) enum Upload {
    /// All of it; it can be sent again.
    Held(Bytes),
    /// Comes as it is sent, once.
    Streamed,
}

/// Runs the request to its end.
pub(super) async fn run(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    decided: &Decided,
    attempts: &mut Attempts,
    mut request: Request,
    upload: Upload,
    client: Client<'_>,
) -> Result<KeepAlive, Ended> {
    let Client {
        reader,
        writer,
        request_version,
    } = client;
    let destination = worker.destinations.find(&decided.key);
    let settle = Settle::new(worker, &destination, decided, Instant::now());
    let mut avoided = Avoided::default();
    loop {
        let now = Instant::now();
        let decision = consider(&destination, decided, &avoided, now)?;
        if attempts.tries() == 0 {
            journey.considered(&decision);
        }
        check_chosen(decided, &decision)?;
        attempts.begin(now);
        journey.record.attempts = attempts.tries();
        request.context.remaining = attempts.remaining(now);
        request.context.attempt = u8::try_from(attempts.tries() - 1).unwrap_or(u8::MAX);

        let (mut attempt, link) =
            match connect(worker, &destination, decided, &decision, &avoided, attempts).await {
                Ok(connected) => connected,
                Err((attempt, failed)) => {
                    settle.failed(attempts, &mut avoided, attempt, failed)?;
                    continue;
                }
            };
        journey.record.destination_cluster = attempt.cluster().cloned();
        journey.record.destination_workload = attempt.workload().cloned();

        let sent = send(&link, attempts, &request, &upload, reader).await;
        let answered = match sent {
            Ok(answered) => answered,
            Err(Abandoned::Failed(failed)) => {
                settle.failed(attempts, &mut avoided, Some(attempt), failed)?;
                continue;
            }
            Err(Abandoned::Client(error)) => {
                attempt.finish(Outcome::Cancelled);
                return Err(Ended::by_client(error));
            }
        };
        let outcome = Outcome::Replied {
            status: answered.head.status,
            retry_unwanted: answered.head.do_not_retry,
        };
        let utilisation = answered.head.utilisation.map(|used| used.fraction().into());
        attempt.replied(outcome, utilisation, Instant::now());
        let held = match hold(answered, attempts).await {
            Ok(held) => held,
            Err(failed) => {
                settle.failed(attempts, &mut avoided, Some(attempt), failed)?;
                continue;
            }
        };
        match settle.judge(attempts, &mut avoided, &attempt, outcome) {
            Verdict::Retry { .. } => attempt.finish(outcome),
            Verdict::Deliver | Verdict::GiveUp { .. } => {
                return deliver(journey, attempts, attempt, held, writer, request_version).await;
            }
        }
    }
}

/// Why `send` has no reply.
enum Abandoned {
    Failed(Failed),
    /// The client's connection broke, or what it sends is malformed.
    Client(HttpError),
}

/// The head of the reply, and the stream that the rest comes on.
struct Answered<'c> {
    head: Response,
    rest: Rest<'c>,
}

/// Sends the request and waits for the head of the reply.
async fn send<'c>(
    link: &Link,
    attempts: &mut Attempts,
    request: &Request,
    upload: &Upload,
    reader: &'c mut RequestReader,
) -> Result<Answered<'c>, Abandoned> {
    let empty = matches!(upload, Upload::Held(body) if body.is_empty());
    has_room(link, attempts).await.map_err(Abandoned::Failed)?;
    let _committed = attempts.commit();
    let stream = link
        .open(&Open::Request(request.clone()), empty)
        .map_err(|error| Abandoned::Failed(not_opened(&error)))?;
    let stream = Rc::new(stream);
    let mut uploading: Option<Uploading<'c>> = match upload {
        Upload::Held(_) if empty => None,
        Upload::Held(body) => Some(Box::pin(send_held(Rc::clone(&stream), body.clone()))),
        Upload::Streamed => {
            attempts.lose_body();
            Some(Box::pin(send_streamed(Rc::clone(&stream), reader)))
        }
    };
    let item = loop {
        tokio::select! {
            biased;
            item = stream.receive() => break item,
            done = upload_step(&mut uploading), if uploading.is_some() => {
                uploading = None;
                // A stream that failed says why when it is read.
                if let Err(Sending::Client(error)) = done {
                    return Err(Abandoned::Client(error));
                }
            }
            () = sleep_until(deadline(attempts)) => {
                let outcome = attempts.expired(Instant::now()).unwrap_or(Outcome::TimedOut);
                let refusal = Refusal::from(RefusalReason::RequestTimeout);
                return Err(Abandoned::Failed(Failed::new(outcome, refusal)));
            }
        }
    };
    match item {
        Ok(Item::Reply(Reply::Response(head))) => Ok(Answered {
            head,
            rest: Rest { stream, uploading },
        }),
        Ok(_) => Err(Abandoned::Failed(Failed::new(
            Outcome::Reset,
            Refusal::new(RefusalReason::BadUpstreamReply, "not a reply to a request"),
        ))),
        Err(error) => Err(Abandoned::Failed(stream_failed(error, link))),
    }
}

async fn send_held(stream: Rc<Stream>, body: Bytes) -> Result<(), Sending> {
    stream.send(body).await.map_err(|_| Sending::Stream)?;
    stream.finish(None).map_err(|_| Sending::Stream)
}

async fn send_streamed(stream: Rc<Stream>, reader: &mut RequestReader) -> Result<(), Sending> {
    let mut trailers = None;
    loop {
        match reader.piece().await.map_err(Sending::Client)? {
            Piece::Data(data) => stream.send(data).await.map_err(|_| Sending::Stream)?,
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End => {
                return stream
                    .finish(trailers.as_ref())
                    .map_err(|_| Sending::Stream);
            }
        }
    }
}

/// What is there of a reply's body is not what its head announced.
fn misannounced() -> Failed {
    let refusal = Refusal::new(
        RefusalReason::BadUpstreamReply,
        "the body is not as long as announced",
    );
    Failed::new(Outcome::Reset, refusal)
}

/// Collects a short reply while another try could still make good for a cut one.
async fn hold<'c>(answered: Answered<'c>, attempts: &Attempts) -> Result<Held<'c>, Failed> {
    let Answered { head, rest } = answered;
    let length = head.fields.find("content-length").and_then(|length| {
        std::str::from_utf8(length)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok())
    });
    let Some(length) = length.filter(|_| attempts.holds_reply(length, Instant::now())) else {
        return Ok(Held {
            head,
            body: HeldBody::Coming(rest),
        });
    };
    let mut body = BytesMut::new();
    loop {
        let item = match timeout_at(deadline(attempts), rest.stream.receive()).await {
            Ok(Ok(item)) => item,
            Ok(Err(error)) => return Err(stream_failed(error, rest.stream.link())),
            Err(_) => {
                let outcome = attempts
                    .expired(Instant::now())
                    .unwrap_or(Outcome::TimedOut);
                return Err(Failed::new(outcome, RefusalReason::RequestTimeout.into()));
            }
        };
        match item {
            Item::Data(data) if (body.len() + data.len()) as u64 > length => {
                return Err(misannounced());
            }
            Item::Data(data) => body.extend_from_slice(&data),
            // The answer to HEAD has the length that the answer to GET would have.
            Item::End(_) if !body.is_empty() && (body.len() as u64) < length => {
                return Err(misannounced());
            }
            Item::End(trailers) => {
                return Ok(Held {
                    head,
                    body: HeldBody::Whole(body.freeze(), trailers),
                });
            }
            Item::Reply(_) => {
                let refusal = Refusal::new(RefusalReason::BadUpstreamReply, "a second reply");
                return Err(Failed::new(Outcome::Reset, refusal));
            }
        }
    }
}
