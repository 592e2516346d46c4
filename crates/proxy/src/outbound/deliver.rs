//! The way back: a reply to the caller, whole or as it comes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, ResponseHead, Unsendable, Version, strip_hop_by_hop};
use isthmus_codec::message::Response;
use isthmus_telemetry::RefusalReason;
use tokio::time::sleep_until;

use super::settle::{deadline, stream_failed};
use crate::destination::Try;
use crate::http::{HttpError, ResponseWriter};
use crate::journey::{Journey, lossy};
use crate::mux::{Item, Stream};
use crate::refusal::{AT_FIELD, Refusal};

/// May the client's connection carry another request?
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

impl From<Unsendable> for Ended {
    fn from(error: Unsendable) -> Self {
        Self::Broken(error.into())
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// A reply of which at least the head is here.
pub(super) struct Held<'c> {
    pub(super) head: Response,
    pub(super) body: HeldBody<'c>,
}

pub(super) enum HeldBody<'c> {
    /// All of it; the far side cannot cut it any more.
    Whole(Bytes, Option<Fields>),
    /// Still on its way.
    Coming(Rest<'c>),
}

/// A stream whose reply is not complete, and what is still being sent on it.
pub(super) struct Rest<'c> {
    pub(super) stream: Rc<Stream>,
    pub(super) uploading: Option<Uploading<'c>>,
}

pub(super) type Uploading<'c> = Pin<Box<dyn Future<Output = Result<(), Sending>> + 'c>>;

/// Why an upload ended early.
pub(super) enum Sending {
    /// The stream failed; reading it says why.
    Stream,
    Client(HttpError),
}

/// Gives the reply to the caller. From its first byte on there is no other try.
pub(super) async fn deliver(
    journey: &mut Journey,
    attempts: &mut Attempts,
    attempt: Try,
    held: Held<'_>,
    writer: &mut ResponseWriter,
    version: Version,
) -> Result<KeepAlive, Ended> {
    attempts.begin_reply();
    let Held { mut head, body } = held;
    // Another's proxy should have done it; this connection is ours to describe.
    strip_hop_by_hop(&mut head.fields);
    for (name, value) in journey.told() {
        // Names of ours are plain text.
        let _ = head.fields.push(name, value);
    }
    let status = head.status;
    journey.record.response_code = Some(status);
    if let Some(code) = &head.refusal {
        journey.record.refusal = std::str::from_utf8(code).ok().and_then(RefusalReason::find);
        journey.record.refused_at = head.fields.find(AT_FIELD).map(|at| lossy(at));
    }
    let outcome = Outcome::Replied {
        status,
        retry_unwanted: head.do_not_retry,
    };
    let delivered = match body {
        HeldBody::Whole(body, trailers) => {
            deliver_whole(journey, head, &body, trailers.as_ref(), writer).await
        }
        HeldBody::Coming(rest) => {
            match deliver_coming(journey, attempts, head, rest, writer, version).await {
                Err(Cut::Upstream(outcome)) => {
                    attempt.finish(outcome);
                    journey.record.refusal = Some(RefusalReason::UpstreamReset);
                    // The head is out: only ending the connection tells that the body is cut.
                    return Err(Ended::Broken(HttpError::Truncated));
                }
                Err(Cut::Client(error)) => Err(error),
                Ok(keep) => Ok(keep),
            }
        }
    };
    match delivered {
        Ok(keep) => {
            attempt.finish(outcome);
            Ok(keep)
        }
        Err(error) => {
            attempt.finish(Outcome::Cancelled);
            Err(Ended::Broken(error))
        }
    }
}

async fn deliver_whole(
    journey: &mut Journey,
    head: Response,
    body: &[u8],
    trailers: Option<&Fields>,
    writer: &mut ResponseWriter,
) -> Result<KeepAlive, HttpError> {
    let bodiless = journey.record.method.as_deref() == Some("HEAD") || is_bodiless(head.status);
    let framing = if bodiless {
        Body::None
    } else {
        Body::Length(body.len() as u64)
    };
    let mut encoder = writer.head(&response_head(head), framing)?;
    if !bodiless {
        encoder.data(body, writer.output())?;
        journey.record.response_bytes += body.len() as u64;
    }
    encoder.end(trailers, writer.output())?;
    writer.flush().await?;
    Ok(KeepAlive::Yes)
}

enum Cut {
    Upstream(Outcome),
    Client(HttpError),
}

impl From<HttpError> for Cut {
    fn from(error: HttpError) -> Self {
        Self::Client(error)
    }
}

impl From<Unsendable> for Cut {
    /// The reply is longer or shorter than it announced.
    fn from(_: Unsendable) -> Self {
        Self::Upstream(Outcome::Reset)
    }
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Self::Client(error.into())
    }
}

async fn deliver_coming(
    journey: &mut Journey,
    attempts: &Attempts,
    head: Response,
    mut rest: Rest<'_>,
    writer: &mut ResponseWriter,
    version: Version,
) -> Result<KeepAlive, Cut> {
    let framing = framing_of(&head, journey, version);
    let keep = if framing == Body::UntilClose {
        KeepAlive::No
    } else {
        KeepAlive::Yes
    };
    let mut encoder = writer.head(&response_head(head), framing)?;
    loop {
        let item = tokio::select! {
            biased;
            item = rest.stream.receive() => item,
            done = upload_step(&mut rest.uploading), if rest.uploading.is_some() => {
                rest.uploading = None;
                match done {
                    Err(Sending::Client(error)) => return Err(Cut::Client(error)),
                    Ok(()) | Err(Sending::Stream) => continue,
                }
            }
            () = sleep_until(deadline(attempts)) => return Err(Cut::Upstream(Outcome::TimedOut)),
        };
        match item
            .map_err(|error| Cut::Upstream(stream_failed(error, rest.stream.link()).outcome))?
        {
            // The answer to HEAD, and 204 and 304, have none, whatever comes.
            Item::Data(_) if framing == Body::None => {}
            Item::Data(data) => {
                journey.record.response_bytes += data.len() as u64;
                encoder.data(&data, writer.output())?;
                writer.flush().await?;
            }
            Item::End(trailers) => {
                encoder.end(trailers.as_ref(), writer.output())?;
                writer.flush().await?;
                // What is left of the request's body would be read as the next request.
                return Ok(if rest.uploading.is_some() {
                    KeepAlive::No
                } else {
                    keep
                });
            }
            Item::Reply(_) => return Err(Cut::Upstream(Outcome::Reset)),
        }
    }
}

/// How the caller is shown the end of the body.
fn framing_of(head: &Response, journey: &Journey, version: Version) -> Body {
    let length = head.fields.find("content-length").and_then(|length| {
        std::str::from_utf8(length)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok())
    });
    if journey.record.method.as_deref() == Some("HEAD") || is_bodiless(head.status) {
        Body::None
    } else if let Some(length) = length {
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

fn response_head(head: Response) -> ResponseHead {
    ResponseHead {
        status: head.status,
        version: Version::Http11,
        fields: head.fields,
    }
}

/// Goes on with an upload; never ready when there is none.
pub(super) async fn upload_step(uploading: &mut Option<Uploading<'_>>) -> Result<(), Sending> {
    match uploading {
        Some(uploading) => uploading.await,
        None => std::future::pending().await,
    }
}
