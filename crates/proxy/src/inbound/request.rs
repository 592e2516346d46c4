//! One HTTP request for the program beside this proxy.
//!
//! The request is committed when its first byte is handed to the program: before that, the stream is
//! reset as REFUSED, which tells the caller that it may try elsewhere.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_authz::Caller;
use isthmus_codec::Fields;
use isthmus_codec::http1::{
    Body, BodyEncoder, RequestHead, ResponseHead, Unsendable, Version, strip_hop_by_hop,
};
use isthmus_codec::message::{Reply, Request, Response};
use isthmus_codec::mux::ResetCode;
use isthmus_telemetry::RefusalReason;
use tokio::time::timeout_at;

use super::authorize;
use crate::http::{HttpError, Piece, ProgramConnection, RequestWriter, ResponseReader};
use crate::journey::{Journey, lossy};
use crate::mux::{Item, Stream, StreamError};
use crate::refusal::{Refusal, is_of_mesh};
use crate::told::TELL_FIELD;
use crate::worker::Worker;

/// A request without a deadline may take this long.
const LONGEST: Duration = Duration::from_hours(24);

/// How an exchange with the program ended, when not with a whole reply.
enum Broken {
    /// The program has not seen the request.
    Unseen,
    /// The program may have executed it, and said nothing.
    Unknown,
    /// The reply was begun.
    Cut,
    /// What the program answered is not HTTP.
    NotHttp(HttpError),
    /// What the caller sends does not fit what it announced.
    Request(Unsendable),
    /// The caller went away.
    Caller(StreamError),
    Late,
}

pub(super) async fn serve(
    worker: &Worker,
    journey: &mut Journey,
    stream: Stream,
    request: Request,
    end: bool,
    caller: &Arc<Caller>,
) {
    journey.record.destination_service = Some(request.service.clone());
    journey.record.method = Some(lossy(&request.method));
    journey.record.authority = Some(lossy(&request.authority));
    journey.record.path = Some(lossy(
        request
            .path
            .split(|&byte| byte == b'?')
            .next()
            .unwrap_or(&request.path),
    ));
    journey.record.request_id = request.fields.find("x-request-id").map(|id| lossy(id));

    let port = match authorize(worker, &request.service, request.port, caller).await {
        Ok(port) => port,
        Err(refusal) => return refuse(worker, journey, &stream, &refusal).await,
    };
    let now = Instant::now();
    worker
        .destinations
        .on_inbound(request.context.attempt > 0, now);
    let remaining = request.context.remaining.unwrap_or(LONGEST).min(LONGEST);
    let deadline = now + remaining;
    let exchange = exchange(worker, journey, &stream, &request, end, port);
    let outcome = timeout_at(deadline.into(), exchange)
        .await
        .unwrap_or(Err(Broken::Late));
    match outcome {
        Ok(()) => {}
        Err(Broken::Unseen) => stream.reset(ResetCode::Refused),
        Err(Broken::Unknown) => stream.reset(ResetCode::MaybeExecuted),
        Err(Broken::Cut) => {
            journey.record.refusal = Some(RefusalReason::UpstreamReset);
            stream.reset(ResetCode::Internal);
        }
        Err(Broken::Late) => {
            journey.refused(&RefusalReason::RequestTimeout.into(), worker.name());
            stream.reset(ResetCode::Timeout);
        }
        Err(Broken::Caller(error)) => {
            tracing::debug!(%error, "a caller went away");
        }
        Err(Broken::Request(error)) => {
            tracing::debug!(%error, "a caller broke its own announcement");
            stream.reset(ResetCode::Protocol);
        }
        Err(Broken::NotHttp(error)) => {
            let refusal = Refusal::new(RefusalReason::BadUpstreamReply, error.to_string());
            refuse(worker, journey, &stream, &refusal).await;
        }
    }
}

/// Answers in the place of the program.
async fn refuse(worker: &Worker, journey: &mut Journey, stream: &Stream, refusal: &Refusal) {
    journey.refused(refusal, worker.name());
    let body = refusal.render(worker.name()).body;
    let answered = async {
        if journey.record.method.as_deref() == Some("HEAD") {
            return stream.reply(&refused(refusal, worker.name()), true);
        }
        stream.reply(&refused(refusal, worker.name()), false)?;
        stream.send(body).await?;
        stream.finish(None)
    };
    // A caller that went away needs no answer.
    let _: Result<(), StreamError> = answered.await;
}

/// A refusal as the head of a reply.
pub(super) fn refused(refusal: &Refusal, at: &str) -> Reply {
    let rendered = refusal.render(at);
    Reply::Response(Response {
        status: rendered.status,
        fields: rendered.fields,
        utilisation: None,
        do_not_retry: refusal.reason.retry() == isthmus_telemetry::Retry::Pointless,
        refusal: Some(Bytes::from_static(refusal.reason.code().as_bytes())),
    })
}

async fn exchange(
    worker: &Worker,
    journey: &mut Journey,
    stream: &Stream,
    request: &Request,
    end: bool,
    port: u16,
) -> Result<(), Broken> {
    let program = worker.program.connection(port).await;
    let mut program = program.map_err(|error| {
        tracing::debug!(%error, port, "the program does not take connections");
        Broken::Unseen
    })?;
    journey.record.attempts = 1;
    let (head, body) = to_program(request, end);
    let encoder = program.request(&head, body).map_err(Broken::Request)?;
    let keep = converse(journey, stream, &mut program, encoder, &request.method).await?;
    if keep {
        worker.program.give_back(port, program);
    }
    Ok(())
}

/// The request as the program is to see it, whatever a peer has put into it: what a client could not
/// have said through its own proxy is not handed on. `end`: it has no body.
fn to_program(request: &Request, end: bool) -> (RequestHead, Body) {
    let mut said = request.fields.clone();
    strip_hop_by_hop(&mut said);
    for name in ["host", "expect", TELL_FIELD] {
        said.remove(name);
    }
    let mut fields = Fields::new();
    // All of these were checked when the message was decoded.
    let _ = fields.push("host", request.authority.clone());
    for (name, value) in said.iter() {
        let _ = fields.push(name.clone(), value.clone());
    }
    let length = request.fields.find("content-length").and_then(|length| {
        std::str::from_utf8(length)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok())
    });
    let body = match length {
        Some(length) => Body::Length(length),
        None if end => Body::None,
        None => Body::Chunked,
    };
    let head = RequestHead {
        method: request.method.clone(),
        target: request.path.clone(),
        version: Version::Http11,
        fields,
    };
    (head, body)
}

/// Sends the body while the reply may already be coming, and carries the reply. True: the
/// connection can be used again.
async fn converse(
    journey: &mut Journey,
    stream: &Stream,
    program: &mut ProgramConnection,
    encoder: BodyEncoder,
    method: &[u8],
) -> Result<bool, Broken> {
    let (reader, writer) = program.split();
    let sent_bytes = Cell::new(0);
    let mut uploading = pin!(upload(stream, writer, encoder, &sent_bytes));
    let mut uploaded = None;
    let (head, body) = loop {
        tokio::select! {
            biased;
            head = reader.head() => break head.map_err(|error| match error {
                HttpError::Malformed(_) => Broken::NotHttp(error),
                _ => Broken::Unknown,
            })?,
            done = &mut uploading, if uploaded.is_none() => match done {
                Err(gone @ (Broken::Caller(_) | Broken::Request(_))) => return Err(gone),
                // The program may stop reading and still answer.
                done => uploaded = Some(done.is_ok()),
            },
        }
    };
    let keep = head.keep_alive() && body != Body::UntilClose;
    journey.record.response_code = Some(head.status);
    let bodiless = body == Body::None || method == b"HEAD";
    stream
        .reply(&reply(head, body), bodiless)
        .map_err(Broken::Caller)?;

    {
        let mut downloading = pin!(download(journey, stream, reader, bodiless));
        loop {
            tokio::select! {
                biased;
                done = &mut downloading => break done?,
                done = &mut uploading, if uploaded.is_none() => uploaded = Some(done.is_ok()),
            }
        }
    }
    journey.record.request_bytes = sent_bytes.get();
    Ok(keep && uploaded == Some(true))
}

/// The program's head as it travels. Programs do not speak for the mesh: a refusal that one has got
/// itself and hands on is none of ours.
fn reply(head: ResponseHead, body: Body) -> Reply {
    let mut fields = head.fields;
    strip_hop_by_hop(&mut fields);
    fields.retain(|name, _| !is_of_mesh(name));
    if let Body::Length(length) = body {
        // One spelling, whatever the program wrote; digits are a field value.
        let _ = fields.set("content-length", length.to_string());
    }
    Reply::Response(Response {
        status: head.status,
        fields,
        utilisation: None,
        do_not_retry: false,
        refusal: None,
    })
}

async fn upload(
    stream: &Stream,
    program: &mut RequestWriter,
    mut encoder: BodyEncoder,
    sent: &Cell<u64>,
) -> Result<(), Broken> {
    // The head goes out at once, whenever the body comes.
    program.flush().await.map_err(|_| Broken::Unknown)?;
    loop {
        match stream.receive().await.map_err(Broken::Caller)? {
            Item::Data(data) => {
                sent.set(sent.get() + data.len() as u64);
                encoder
                    .data(&data, program.output())
                    .map_err(Broken::Request)?;
                program.flush().await.map_err(|_| Broken::Unknown)?;
            }
            Item::End(trailers) => {
                encoder
                    .end(trailers.as_ref(), program.output())
                    .map_err(Broken::Request)?;
                return program.flush().await.map_err(|_| Broken::Unknown);
            }
            Item::Reply(_) => return Err(Broken::Unknown),
        }
    }
}

async fn download(
    journey: &mut Journey,
    stream: &Stream,
    program: &mut ResponseReader,
    bodiless: bool,
) -> Result<(), Broken> {
    let mut trailers = None;
    loop {
        match program.piece().await.map_err(|_| Broken::Cut)? {
            Piece::Data(data) => {
                journey.record.response_bytes += data.len() as u64;
                stream.send(data).await.map_err(Broken::Caller)?;
            }
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End if bodiless => return Ok(()),
            Piece::End => return stream.finish(trailers.as_ref()).map_err(Broken::Caller),
        }
    }
}
