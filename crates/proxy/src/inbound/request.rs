//! One HTTP request for the program beside this proxy.
//!
//! The request is committed when its first byte is handed to the program: before that, the stream is
//! reset as REFUSED, which tells the caller that it may try elsewhere.

mod tunnel;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_authz::Caller;
use isthmus_balance::constants::HELD_BYTES;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, ResponseHead, Version, strip_hop_by_hop};
use isthmus_codec::message::{Interim, Reply, Request, Response};
use isthmus_codec::mux::ResetCode;
use isthmus_model::AppProtocol;
use isthmus_telemetry::RefusalReason;
use tokio::sync::Notify;

use self::tunnel::Tunnel;
use super::{Target, authorize, denied, withdrawn};
use crate::gate::{Busy, Pass};
use crate::http::upgrade::Asked;
use crate::http::{
    Exchange, HttpError, Piece, ProgramReply, ProgramRequest, content_length, grpc, http2,
    is_stream, remaining,
};
use crate::journey::{Journey, without_query};
use crate::memory::Room;
use crate::mux::{Item, Stream, StreamError};
use crate::program::NotBegun;
use crate::refusal::{Refusal, is_of_mesh};
use crate::told::TELL_FIELD;
use crate::worker::Worker;

/// How long a program is given to say whether it wants a body that waits to be asked for.
const UNASKED: Duration = Duration::from_secs(1);
/// A request without a deadline may take this long.
const LONGEST: Duration = Duration::from_hours(24);

/// How an exchange with the program ended, when not with a whole reply.
enum Broken {
    /// The program has not seen the request.
    Unseen,
    /// The program may have executed it, and said nothing.
    Unknown,
    /// It does not take what was asked for instead of HTTP, and has not seen the request.
    NoTunnel,
    /// The reply was begun.
    Cut,
    /// What the program answered is not HTTP.
    NotHttp(HttpError),
    /// What the caller sends does not fit what it announced.
    Request(HttpError),
    /// The caller went away.
    Caller(StreamError),
    Late,
    /// What was allowed when it began is so no longer.
    Withdrawn(Refusal),
}

pub(super) async fn serve(
    worker: &Worker,
    journey: &mut Journey,
    stream: Stream,
    request: &mut Request,
    end: bool,
    caller: &Arc<Caller>,
) {
    journey.record.destination_service = Some(request.service.clone());
    journey.record.method = Some(request.method.clone());
    journey.record.authority = Some(request.authority.clone());
    journey.record.path = Some(request.path.slice_ref(without_query(&request.path)));
    journey.record.request_id = request.fields.find("x-request-id").cloned();

    let is_grpc = grpc::is_grpc(&request.fields);
    let target = match authorize(worker, &request.service, request.port, caller).await {
        Ok(target) => target,
        Err(refusal) => return refuse(worker, journey, &stream, &refusal, is_grpc).await,
    };
    if target.protocol == AppProtocol::Http2 {
        journey.record.protocol = "http/2";
    }
    let Some(_room) = room_for(worker, target.protocol) else {
        let refusal = Refusal::no_memory(worker.memory.budget());
        journey.refused(&refusal, worker.name());
        return stream.reset(ResetCode::Overloaded);
    };
    let now = Instant::now();
    worker
        .destinations
        .on_inbound(request.context.attempt > 0, now);
    let remaining = request.context.remaining.unwrap_or(LONGEST).min(LONGEST);
    let deadline = journey.started() + remaining;
    let gate = worker.gates.of(target.port);
    // An upload that is still coming takes as long as its sender does, which says nothing of the
    // program's work.
    let is_short = content_length(&request.fields).is_some_and(|length| length <= HELD_BYTES);
    // Callers' proxies have read a short body before they send it, unless it waits to be asked for.
    let is_whole = end || is_grpc || (is_short && !request.expects);
    let entered = if is_whole {
        tokio::select! {
            entered = gate.enter(&request.context) => entered,
            _ = stream.failed() => return,
        }
    } else {
        Ok(gate.pass_by())
    };
    let mut pass = match entered {
        Ok(pass) => pass,
        Err(shed) => {
            let refusal = Refusal::new(RefusalReason::Overloaded, shed.reason.code());
            journey.refused(&refusal, worker.name());
            return stream.reset(ResetCode::Overloaded);
        }
    };
    // What it has waited for the control plane, and at the gate, is gone.
    let left = deadline.saturating_duration_since(now + pass.waited());
    request.context.remaining = request.context.remaining.map(|_| left);
    let lasts = is_grpc || request.upgrade.is_some();
    let fields = std::mem::take(&mut request.fields);
    let streams = Streams::default();
    let mut alarm = worker.alarms.take();
    let outcome = {
        // Pinned here: it is thousands of bytes, and `select!` moves what it is given.
        let conversation = pin!(async {
            let answered = {
                let answer = exchange(
                    worker, journey, &stream, request, fields, end, target, &mut pass, &streams,
                );
                let mut answer = pin!(answer);
                match alarm.within(deadline, &mut answer).await {
                    Some(answered) => answered?,
                    // Its caller watches what goes on for as long as there is something to tell.
                    None if streams.begun.get() => answer.await?,
                    None => return Err(Broken::Late),
                }
            };
            // What two programs say in another protocol is late for nobody.
            if let Some(tunnel) = answered {
                // Boxed: few requests become one, and those last.
                Box::pin(tunnel.carry(journey, &stream)).await;
            }
            Ok(())
        });
        tokio::select! {
            outcome = conversation => outcome,
            // A caller that goes away takes its request along, whatever the program is doing.
            error = stream.failed() => Err(Broken::Caller(error)),
            refusal = streams.withdrawn(worker, request, caller, lasts) => {
                Err(Broken::Withdrawn(refusal))
            }
        }
    };
    if let Err(broken) = outcome {
        break_off(worker, journey, stream, broken, is_grpc).await;
    }
}

/// Tells the caller that there is no reply, or not all of one.
async fn break_off(
    worker: &Worker,
    journey: &mut Journey,
    stream: Stream,
    broken: Broken,
    is_grpc: bool,
) {
    match broken {
        Broken::Unseen => stream.reset(ResetCode::Refused),
        Broken::Unknown => stream.reset(ResetCode::MaybeExecuted),
        Broken::Cut => {
            journey.record.refusal = Some(RefusalReason::UpstreamReset);
            stream.reset(ResetCode::Internal);
        }
        Broken::Late => {
            journey.refused(&RefusalReason::RequestTimeout.into(), worker.name());
            stream.reset(ResetCode::Timeout);
        }
        Broken::Withdrawn(refusal) => {
            journey.refused(&refusal, worker.name());
            stream.reset(ResetCode::Cancelled);
        }
        Broken::Caller(error) => {
            tracing::debug!(%error, "a caller went away");
        }
        Broken::Request(error) => {
            tracing::debug!(%error, "a caller broke its own announcement");
            stream.reset(ResetCode::Protocol);
        }
        Broken::NoTunnel => {
            let refusal = RefusalReason::UpgradeNotSupported.into();
            refuse(worker, journey, &stream, &refusal, is_grpc).await;
        }
        Broken::NotHttp(error) => {
            let refusal = Refusal::new(RefusalReason::BadUpstreamReply, error.to_string());
            refuse(worker, journey, &stream, &refusal, is_grpc).await;
        }
    }
}

/// Whether the reply to a plain request has turned out to be a stream.
#[derive(Default)]
struct Streams {
    begun: Cell<bool>,
    told: Notify,
}

impl Streams {
    fn begin(&self) {
        self.begun.set(true);
        self.told.notify_one();
    }

    /// As [`withdrawn`]; `lasts`: from the first, else from when the stream begins.
    async fn withdrawn(
        &self,
        worker: &Worker,
        request: &Request,
        caller: &Arc<Caller>,
        lasts: bool,
    ) -> Refusal {
        if !lasts {
            self.told.notified().await;
        }
        let (service, port) = (&request.service, request.port);
        let mut withdrawn = pin!(withdrawn(worker, service, port, caller));
        if !lasts {
            // Boxed: a plain reply never comes here.
            let denied = Box::pin(denied(worker, service, port, caller));
            tokio::select! {
                biased;
                refusal = &mut withdrawn => return refusal,
                // It may have been taken back while the program thought.
                refusal = denied => if let Some(refusal) = refusal {
                    return refusal;
                },
            }
        }
        withdrawn.await
    }
}

/// For what a request holds on its way to a program of this protocol and back, besides what every
/// request does.
fn room_for(worker: &Worker, protocol: AppProtocol) -> Option<Room> {
    worker.memory.admit(match protocol {
        AppProtocol::Http2 => http2::HELD_IN + http2::HELD_OUT,
        AppProtocol::Http1 | AppProtocol::Undeclared | AppProtocol::Tcp => 0,
    })
}

/// Answers in the place of the program.
async fn refuse(
    worker: &Worker,
    journey: &mut Journey,
    stream: &Stream,
    refusal: &Refusal,
    is_grpc: bool,
) {
    journey.refused(refusal, worker.name());
    if is_grpc {
        journey.refused_call(grpc::status_of(refusal.reason));
    }
    let answered = async {
        let head = refused(refusal, worker.name(), is_grpc);
        if is_grpc || journey.record.method.as_deref() == Some(b"HEAD") {
            return stream.reply(&head, true);
        }
        stream.reply(&head, false)?;
        stream.send(refusal.render(worker.name()).body).await?;
        stream.finish(None)
    };
    // A caller that went away needs no answer.
    let _: Result<(), StreamError> = answered.await;
}

/// A refusal as the head of a reply; of a call of gRPC, as all of it.
pub(super) fn refused(refusal: &Refusal, at: &str, is_grpc: bool) -> Reply {
    let (status, fields) = if is_grpc {
        (200, grpc::refused(refusal, at))
    } else {
        let rendered = refusal.render(at);
        (rendered.status, rendered.fields)
    };
    Reply::Response(Response {
        status,
        fields,
        utilisation: None,
        waited: None,
        do_not_retry: refusal.reason.retry() == isthmus_telemetry::Retry::Pointless,
        refusal: Some(Bytes::from_static(refusal.reason.code().as_bytes())),
        upgrade: None,
    })
}

/// Answers the tunnel that the program's connection has become, if it has.
#[expect(
    clippy::too_many_arguments,
    reason = "everything that one request is made of"
)]
async fn exchange(
    worker: &Worker,
    journey: &mut Journey,
    stream: &Stream,
    request: &Request,
    fields: Fields,
    end: bool,
    target: Target,
    pass: &mut Pass,
    streams: &Streams,
) -> Result<Option<Tunnel>, Broken> {
    let is_grpc = grpc::is_grpc(&fields);
    let (mut head, body) = to_program(request, fields, end, target.protocol);
    let wanted = request.upgrade.as_ref();
    let asked =
        wanted.and_then(|wanted| Asked::of(wanted, target.protocol, || worker.draw(), &mut head));
    let (port, program) = (target.port, &worker.program);
    let begun = match target.protocol {
        AppProtocol::Http2 => {
            let protocol = asked.as_ref().map(Asked::protocol);
            program.begin_http2(port, &head, body, protocol).await
        }
        AppProtocol::Http1 | AppProtocol::Tcp | AppProtocol::Undeclared => {
            program.begin_http1(port, &head, body).await
        }
    };
    let exchange = begun.map_err(|error| match error {
        NotBegun::Unreached(_) => {
            tracing::debug!(%error, port, "no way to the program");
            Broken::Unseen
        }
        NotBegun::Unsendable(error) => Broken::Request(error),
        NotBegun::NoTunnel => Broken::NoTunnel,
    })?;
    journey.record.attempts = 1;
    if let Some(asked) = asked {
        return tunnel::upgrade(journey, stream, exchange, &asked, target.idle, pass).await;
    }
    let mut exchange = exchange;
    let conversation = converse(
        journey,
        stream,
        &mut exchange,
        request,
        is_grpc,
        pass,
        streams,
    );
    let keep = conversation.await?;
    if let Exchange::Http1(exchange) = exchange
        && keep
    {
        program.give_back(port, exchange.into_connection());
    }
    Ok(None)
}

/// Hands on what the program says before it replies.
fn hint(stream: &Stream, head: ResponseHead) {
    let ResponseHead {
        status, mut fields, ..
    } = head;
    strip_hop_by_hop(&mut fields);
    fields.retain(|name, _| !is_of_mesh(name));
    stream.hint(&Interim { status, fields });
}

fn no_head(error: HttpError) -> Broken {
    match error {
        HttpError::Malformed(_) => Broken::NotHttp(error),
        HttpError::Unseen => Broken::Unseen,
        _ => Broken::Unknown,
    }
}

/// The request as the program is to see it, whatever a peer has put into its `fields`: what a client could
/// not have said through its own proxy is not handed on. `end`: it has no body.
fn to_program(
    request: &Request,
    mut fields: Fields,
    end: bool,
    protocol: AppProtocol,
) -> (RequestHead, Body) {
    let body = match content_length(&fields) {
        Some(length) => Body::Length(length),
        None if end || request.upgrade.is_some() => Body::None,
        None => Body::Chunked,
    };
    strip_hop_by_hop(&mut fields);
    if let Some(left) = request.context.remaining {
        remaining::set_timeout(&mut fields, left);
    }
    for name in ["expect", TELL_FIELD] {
        fields.remove(name);
    }
    // All of these were checked when the message was decoded.
    let _ = fields.lead("host", request.authority.clone());
    if request.expects {
        let _ = fields.push("expect", "100-continue");
    }
    if protocol == AppProtocol::Http2 && grpc::is_grpc(&fields) && !fields.contains("te") {
        // Programs of gRPC ask for it, and a caller that speaks HTTP/1.1 need not know.
        let _ = fields.push("te", "trailers");
    }
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
    exchange: &mut Exchange,
    request: &Request,
    is_grpc: bool,
    pass: &mut Pass,
    streams: &Streams,
) -> Result<bool, Broken> {
    let (mut reader, writer) = exchange.split();
    let sent_bytes = Cell::new(0);
    let mut uploading = pin!(upload(stream, writer, &sent_bytes));
    let mut uploaded = None;
    // Programs that know nothing of it neither ask for a body nor refuse it.
    let mut patience = pin!(async { tokio::time::sleep(UNASKED).await });
    let mut withheld = request.expects;
    let (head, body) = loop {
        tokio::select! {
            biased;
            head = reader.head() => match head.map_err(no_head)? {
                (head, _) if head.status == 100 => {
                    if std::mem::replace(&mut withheld, false) {
                        stream.want_body();
                    }
                }
                (head, _) if Interim::is_interim(head.status) => hint(stream, head),
                head => break head,
            },
            () = &mut patience, if withheld => {
                withheld = false;
                stream.want_body();
            }
            done = &mut uploading, if uploaded.is_none() => match done {
                Err(gone @ (Broken::Caller(_) | Broken::Request(_))) => return Err(gone),
                // The program may stop reading and still answer.
                done => uploaded = Some(done.is_ok()),
            },
        }
    };
    let keep = head.keep_alive() && body != Body::UntilClose;
    journey.record.response_code = Some(head.status);
    journey.record.grpc_status = grpc::status(&head.fields);
    let bodiless = body == Body::None || request.method == b"HEAD"[..];
    if is_grpc || is_stream(head.status, &head.fields) {
        streams.begin();
    }
    let busy = pass.replied(head.status);
    stream
        .reply(&reply(head, body, busy), bodiless)
        .map_err(Broken::Caller)?;

    {
        let mut downloading = pin!(download(journey, stream, &mut reader, bodiless));
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
fn reply(head: ResponseHead, body: Body, busy: Busy) -> Reply {
    let mut fields = head.fields;
    let upgrade = fields
        .find("upgrade")
        .filter(|_| head.status == 101)
        .cloned();
    strip_hop_by_hop(&mut fields);
    fields.retain(|name, _| !is_of_mesh(name));
    if let Body::Length(length) = body {
        one_length(&mut fields, length);
    }
    Reply::Response(Response {
        status: head.status,
        fields,
        utilisation: Some(busy.utilisation),
        waited: busy.waited,
        do_not_retry: false,
        refusal: None,
        upgrade,
    })
}

/// One spelling of it, whatever the program wrote.
fn one_length(fields: &mut Fields, length: u64) {
    let digits = length.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut written = fields.find_all("content-length");
    // It means this length, so with as many digits it is written as we do.
    let is_plain = |value: &Bytes| value.len() == digits;
    if written.next().is_some_and(is_plain) && written.next().is_none() {
        return;
    }
    drop(written);
    // Digits are a field value.
    let _ = fields.set("content-length", length.to_string());
}

async fn upload(
    stream: &Stream,
    mut program: ProgramRequest<'_>,
    sent: &Cell<u64>,
) -> Result<(), Broken> {
    // The head goes out at once, whenever the body comes.
    program.begin().await.map_err(not_sent)?;
    loop {
        match stream.receive().await.map_err(Broken::Caller)? {
            Item::Data(data) => {
                sent.set(sent.get() + data.len() as u64);
                program.data(data).await.map_err(not_sent)?;
            }
            Item::End(trailers) => return program.end(trailers.as_ref()).await.map_err(not_sent),
            Item::Reply(_) => return Err(Broken::Unknown),
        }
    }
}

fn not_sent(error: HttpError) -> Broken {
    match error {
        HttpError::Unsendable(_) => Broken::Request(error),
        HttpError::Unseen => Broken::Unseen,
        _ => Broken::Unknown,
    }
}

async fn download(
    journey: &mut Journey,
    stream: &Stream,
    program: &mut ProgramReply<'_>,
    bodiless: bool,
) -> Result<(), Broken> {
    let mut trailers = None;
    loop {
        match program.piece().await.map_err(|_| Broken::Cut)? {
            Piece::Data(data) => {
                journey.record.response_bytes += data.len() as u64;
                stream.send(data).await.map_err(Broken::Caller)?;
            }
            Piece::Trailers(fields) => {
                journey.record.grpc_status = grpc::status(&fields);
                trailers = Some(fields);
            }
            Piece::End if bodiless => return Ok(()),
            Piece::End => return stream.finish(trailers.as_ref()).map_err(Broken::Caller),
        }
    }
}
