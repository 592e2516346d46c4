//! The tries of one request: pick, connect, send, judge; until one reply is delivered or the
//! request is given up.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isthmus_balance::{Attempts, Avoid, Budget, Decision, GiveUp, Outcome, Reason, Verdict};
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, ResponseHead, Unsendable, Version};
use isthmus_codec::message::{Context, Open, Reply, Request, Response, TcpOpen};
use isthmus_codec::mux::{CannotOpen, ResetCode};
use isthmus_model::{ClusterName, Handle};
use isthmus_telemetry::RefusalReason;
use tokio::time::{sleep_until, timeout_at};

use super::KeepAlive;
use super::request::{Decided, Ended, Upload};
use crate::destination::{Destination, MAX_TUNNELS, Try};
use crate::http::{HttpError, Piece, RequestReader, ResponseWriter};
use crate::journey::Journey;
use crate::mux::{Item, Link, Stream, StreamError};
use crate::reach::Unreachable;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// A timer that is never reached, for requests without any deadline.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// The client's connection during one request.
pub(super) struct Client<'c> {
    pub(super) reader: &'c mut RequestReader,
    pub(super) writer: &'c mut ResponseWriter,
    pub(super) request_version: Version,
}

/// A try that brought no reply.
struct Failed {
    outcome: Outcome,
    /// What the caller is told if there is no other try.
    refusal: Refusal,
}

impl Failed {
    fn new(outcome: Outcome, refusal: Refusal) -> Self {
        Self { outcome, refusal }
    }
}

/// A reply of which at least the head is here.
struct Held<'c> {
    head: Response,
    body: HeldBody<'c>,
}

enum HeldBody<'c> {
    /// All of it; the far side cannot cut it any more.
    Whole(Bytes, Option<Fields>),
    /// Still on its way.
    Coming(Rest<'c>),
}

/// Where this request has failed.
#[derive(Default)]
struct Avoided {
    clusters: Vec<ClusterName>,
    workloads: Vec<Handle>,
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
    let settle = Settle {
        destination: &destination,
        decided,
        budget: worker.destinations.budget(&decided.called, Instant::now()),
    };
    let mut avoided = Avoided::default();
    loop {
        let now = Instant::now();
        let decision = choose(&destination, decided, &avoided, now)?;
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
                return Err(Ended::Broken(error));
            }
        };
        attempt.replied(Instant::now());
        let held = match hold(answered, attempts).await {
            Ok(held) => held,
            Err(failed) => {
                settle.failed(attempts, &mut avoided, Some(attempt), failed)?;
                continue;
            }
        };
        let outcome = Outcome::Replied {
            status: held.head.status,
            retry_unwanted: held.head.do_not_retry,
        };
        match settle.judge(attempts, &mut avoided, &attempt, outcome) {
            Verdict::Retry { .. } => attempt.finish(outcome),
            Verdict::Deliver | Verdict::GiveUp { .. } => {
                return deliver(journey, attempts, attempt, held, writer, request_version).await;
            }
        }
    }
}

/// Opens a stream of opaque bytes to a workload whose program has accepted the connection. The try
/// lasts as long as the connection does.
pub(super) async fn open_tcp(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    decided: &Decided,
    attempts: &mut Attempts,
) -> Result<(Try, Stream), Refusal> {
    let destination = worker.destinations.find(&decided.key);
    let settle = Settle {
        destination: &destination,
        decided,
        budget: worker.destinations.budget(&decided.called, Instant::now()),
    };
    let mut avoided = Avoided::default();
    loop {
        let now = Instant::now();
        let decision = choose(&destination, decided, &avoided, now)?;
        attempts.begin(now);
        journey.record.attempts = attempts.tries();
        let connected = connect(worker, &destination, decided, &decision, &avoided, attempts).await;
        let (mut attempt, link) = match connected {
            Ok(connected) => connected,
            Err((attempt, failed)) => {
                settle.failed(attempts, &mut avoided, attempt, failed)?;
                continue;
            }
        };
        journey.record.destination_cluster = attempt.cluster().cloned();
        journey.record.destination_workload = attempt.workload().cloned();
        let context = Context {
            attempt: u8::try_from(attempts.tries() - 1).unwrap_or(u8::MAX),
            source_cluster: Some(worker.common.me.cluster.clone()),
            ..Context::default()
        };
        let open = TcpOpen {
            service: decided.key.service.clone(),
            port: decided.key.port,
            context,
        };
        match accepted(&link, attempts, open).await {
            Ok(stream) => {
                attempt.replied(Instant::now());
                return Ok((attempt, stream));
            }
            Err(failed) => settle.failed(attempts, &mut avoided, Some(attempt), failed)?,
        }
    }
}

/// Opens the stream and waits until the program has accepted.
async fn accepted(link: &Link, attempts: &mut Attempts, open: TcpOpen) -> Result<Stream, Failed> {
    let _committed = attempts.commit();
    let stream = link
        .open(&Open::Tcp(open), false)
        .map_err(|error| not_opened(&error))?;
    match timeout_at(deadline(attempts), stream.receive()).await {
        Ok(Ok(Item::Reply(Reply::Accepted))) => Ok(stream),
        Ok(Ok(Item::Reply(Reply::Response(refused)))) => {
            let code = refused
                .refusal
                .as_deref()
                .and_then(|code| std::str::from_utf8(code).ok());
            let reason = code
                .and_then(RefusalReason::find)
                .unwrap_or(RefusalReason::ConnectFailed);
            let outcome = Outcome::Refused {
                retry_unwanted: refused.do_not_retry,
            };
            Err(Failed::new(outcome, reason.into()))
        }
        Ok(Ok(_)) => {
            let refusal = Refusal::new(RefusalReason::BadUpstreamReply, "not a reply to TCP");
            Err(Failed::new(Outcome::Reset, refusal))
        }
        Ok(Err(error)) => Err(stream_failed(error, link)),
        Err(_) => {
            let outcome = attempts
                .expired(Instant::now())
                .unwrap_or(Outcome::TimedOut);
            Err(Failed::new(outcome, RefusalReason::RequestTimeout.into()))
        }
    }
}

/// The cluster of the next try.
fn choose(
    destination: &Destination,
    decided: &Decided,
    avoided: &Avoided,
    now: Instant,
) -> Result<Decision, Refusal> {
    let service = decided.service()?;
    let shares = destination.shares(&decided.view, service, &decided.permit, &decided.settings);
    destination.observe(&decided.known, service, &shares, &decided.settings, now);
    let decision = destination.pick_cluster(&shares, &avoided.clusters, now, decided.draw);
    if decision.chosen().is_some() {
        return Ok(decision);
    }
    let reason = match decision.reason() {
        Reason::AllBarred(isthmus_balance::Barred::NotExported) => RefusalReason::NotExported,
        _ => RefusalReason::NoHealthyWorkload,
    };
    let detail = format!("{}: {}", decided.key.service, decision.reason().code());
    Err(Refusal::new(reason, detail))
}

/// The workload of the try and a link to it.
async fn connect(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    decision: &Decision,
    avoided: &Avoided,
    attempts: &Attempts,
) -> Result<(Try, Link), (Option<Try>, Failed)> {
    let Some(chosen) = decision.chosen() else {
        return Err((None, unreached(RefusalReason::NoHealthyWorkload.into())));
    };
    let cluster = &chosen.share.cluster;
    let mut attempt = destination.begin(cluster, Instant::now());
    let connecting = async {
        if chosen.share.local {
            connect_local(worker, destination, decided, cluster, avoided, &mut attempt).await
        } else {
            connect_remote(worker, destination, decided, cluster, avoided, &mut attempt).await
        }
    };
    match timeout_at(deadline(attempts), connecting).await {
        Ok(Ok(link)) => Ok((attempt, link)),
        Ok(Err(failed)) => Err((Some(attempt), failed)),
        Err(_) => {
            let outcome = attempts
                .expired(Instant::now())
                .unwrap_or(Outcome::ConnectFailed);
            let detail = format!("{} in cluster {cluster}", decided.key.service);
            let refusal = Refusal::new(RefusalReason::ConnectTimeout, detail);
            Err((Some(attempt), Failed::new(outcome, refusal)))
        }
    }
}

async fn connect_local(
    worker: &Worker,
    destination: &Destination,
    decided: &Decided,
    cluster: &ClusterName,
    avoided: &Avoided,
    attempt: &mut Try,
) -> Result<Link, Failed> {
    let service = decided.service().map_err(unreached)?;
    let now = Instant::now();
    let handle = destination
        .pick_workload(cluster, &avoided.workloads, now, decided.draw)
        .ok_or_else(|| unreached(RefusalReason::NoHealthyWorkload.into()))?;
    attempt.start(&handle);
    let workload = service
        .workloads
        .iter()
        .find(|workload| workload.handle == handle);
    let (Some(workload), Some(view)) = (workload, decided.view.cluster(cluster)) else {
        return Err(unreached(RefusalReason::NoHealthyWorkload.into()));
    };
    let limit = decided.settings.timeout.connect;
    worker
        .reach
        .workload(workload, &service.service, view, limit)
        .await
        .map_err(|unreachable| unreached((&unreachable).into()))
}

async fn connect_remote(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
    avoided: &Avoided,
    attempt: &mut Try,
) -> Result<Link, Failed> {
    if destination.tunnelled(cluster, Instant::now()).is_empty() {
        let turn = destination.turn(cluster);
        let _turn = turn.lock().await;
        if destination.tunnelled(cluster, Instant::now()).is_empty() {
            open_tunnel(worker, destination, decided, cluster)
                .await
                .map_err(|unreachable| unreached((&unreachable).into()))?;
        }
    } else {
        widen(worker, destination, decided, cluster);
    }
    let now = Instant::now();
    let handle = destination.pick_workload(cluster, &avoided.workloads, now, decided.draw);
    let link = handle
        .as_ref()
        .and_then(|handle| destination.tunnel(cluster, handle));
    let (Some(handle), Some(link)) = (handle, link) else {
        return Err(unreached(RefusalReason::ConnectFailed.into()));
    };
    attempt.start(&handle);
    Ok(link)
}

/// Opens one more tunnel to another workload of `cluster` in the background, if there is one.
fn widen(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
) {
    let now = Instant::now();
    let Ok(service) = decided.service() else {
        return;
    };
    let share = service
        .shares
        .iter()
        .find(|share| share.cluster == *cluster && share.subset == decided.key.subset);
    let healthy = share.map_or(0, |share| {
        usize::try_from(share.healthy).unwrap_or(usize::MAX)
    });
    if destination.tunnelled(cluster, now).len() >= healthy.min(MAX_TUNNELS) {
        return;
    }
    let Ok(turn) = destination.turn(cluster).try_lock_owned() else {
        return;
    };
    let (worker, destination, cluster) =
        (Rc::clone(worker), Rc::clone(destination), cluster.clone());
    let decided = decided.for_background();
    tokio::task::spawn_local(async move {
        let _turn = turn;
        if let Err(error) = open_tunnel(&worker, &destination, &decided, &cluster).await {
            tracing::debug!(%cluster, %error, "no further tunnel");
        }
    });
}

async fn open_tunnel(
    worker: &Worker,
    destination: &Destination,
    decided: &Decided,
    cluster: &ClusterName,
) -> Result<(), Unreachable> {
    let view = decided
        .view
        .cluster(cluster)
        .ok_or_else(|| Unreachable::NoGateway(cluster.clone()))?;
    let service = decided
        .service()
        .map_err(|refusal| Unreachable::Ended(refusal.detail))?;
    let avoid = destination.tunnelled(cluster, Instant::now());
    let limit = decided.settings.timeout.connect;
    let key = &decided.key;
    let tunnel = worker
        .reach
        .tunnel(view, &service.service, key.port, &key.subset, avoid, limit)
        .await?;
    destination.add_tunnel(cluster, tunnel, &decided.settings, Instant::now());
    Ok(())
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

/// A stream whose reply is not complete, and what is still being sent on it.
struct Rest<'c> {
    stream: Rc<Stream>,
    uploading: Option<Uploading<'c>>,
}

type Uploading<'c> = Pin<Box<dyn Future<Output = Result<(), Sending>> + 'c>>;

/// Sends the request and waits for the head of the reply.
async fn send<'c>(
    link: &Link,
    attempts: &mut Attempts,
    request: &Request,
    upload: &Upload,
    reader: &'c mut RequestReader,
) -> Result<Answered<'c>, Abandoned> {
    let empty = matches!(upload, Upload::Held(body) if body.is_empty());
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

/// Goes on with an upload; never ready when there is none.
async fn upload_step(uploading: &mut Option<Uploading<'_>>) -> Result<(), Sending> {
    match uploading {
        Some(uploading) => uploading.await,
        None => std::future::pending().await,
    }
}

async fn send_held(stream: Rc<Stream>, body: Bytes) -> Result<(), Sending> {
    stream.send(body).await.map_err(|_| Sending::Stream)?;
    stream.finish(None).map_err(|_| Sending::Stream)
}

enum Sending {
    /// The stream failed; reading it says why.
    Stream,
    Client(HttpError),
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

/// Collects a short reply while another try could still make good for a cut one.
async fn hold<'c>(answered: Answered<'c>, attempts: &Attempts) -> Result<Held<'c>, Failed> {
    let Answered { head, rest } = answered;
    let length = head.fields.find("content-length").and_then(|length| {
        std::str::from_utf8(length)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok())
    });
    if !attempts.holds_reply(length, Instant::now()) {
        return Ok(Held {
            head,
            body: HeldBody::Coming(rest),
        });
    }
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
            Item::Data(data) => body.extend_from_slice(&data),
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

/// Gives the reply to the caller. From its first byte on there is no other try.
async fn deliver(
    journey: &mut Journey,
    attempts: &mut Attempts,
    attempt: Try,
    held: Held<'_>,
    writer: &mut ResponseWriter,
    version: Version,
) -> Result<KeepAlive, Ended> {
    attempts.begin_reply();
    let Held { head, body } = held;
    let status = head.status;
    journey.record.response_code = Some(status);
    if let Some(code) = &head.refusal {
        journey.record.refusal = std::str::from_utf8(code).ok().and_then(RefusalReason::find);
        journey.record.refused_at = head
            .fields
            .find(crate::refusal::AT_FIELD)
            .map(|at| super::request::lossy(at));
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
    fn from(error: Unsendable) -> Self {
        Self::Client(error.into())
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

/// What follows from a try that has ended.
struct Settle<'r> {
    destination: &'r Rc<Destination>,
    decided: &'r Decided,
    budget: Rc<RefCell<Budget>>,
}

impl Settle<'_> {
    /// A try brought no reply. `Ok`: there is another one.
    fn failed(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        attempt: Option<Try>,
        failed: Failed,
    ) -> Result<(), Refusal> {
        let Some(attempt) = attempt else {
            return Err(failed.refusal);
        };
        let place = Place::of(&attempt);
        // The engines learn first, so that a place that is out by now is seen as such.
        attempt.finish(failed.outcome);
        match self.judge_at(attempts, avoided, &place, failed.outcome) {
            Verdict::Retry { .. } => Ok(()),
            Verdict::Deliver => Err(failed.refusal),
            Verdict::GiveUp {
                reason,
                maybe_executed,
            } => Err(give_up(reason, maybe_executed, failed)),
        }
    }

    /// A try brought a reply.
    fn judge(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        attempt: &Try,
        outcome: Outcome,
    ) -> Verdict {
        self.judge_at(attempts, avoided, &Place::of(attempt), outcome)
    }

    fn judge_at(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        place: &Place,
        outcome: Outcome,
    ) -> Verdict {
        let now = Instant::now();
        let before = (avoided.clusters.len(), avoided.workloads.len());
        avoided.add(attempts.avoid(outcome), place);
        let escape = choose(self.destination, self.decided, avoided, now).is_ok_and(|next| {
            let failed = place.cluster.as_ref();
            failed.is_some_and(|failed| {
                self.destination
                    .is_escape(failed, place.workload.as_ref(), &next, now)
            })
        });
        let verdict = attempts.judge(outcome, escape, &mut self.budget.borrow_mut(), now);
        if !matches!(verdict, Verdict::Retry { .. }) {
            avoided.clusters.truncate(before.0);
            avoided.workloads.truncate(before.1);
        }
        verdict
    }
}

/// Where a try was.
struct Place {
    cluster: Option<ClusterName>,
    workload: Option<Handle>,
}

impl Place {
    fn of(attempt: &Try) -> Self {
        Self {
            cluster: attempt.cluster().cloned(),
            workload: attempt.workload().cloned(),
        }
    }
}

impl Avoided {
    fn add(&mut self, avoid: Avoid, place: &Place) {
        if avoid == Avoid::Cluster || place.workload.is_none() {
            self.clusters.extend(place.cluster.clone());
        }
        self.workloads.extend(place.workload.clone());
    }
}

/// What the caller is told at the end of all tries.
fn give_up(reason: GiveUp, maybe_executed: bool, failed: Failed) -> Refusal {
    match reason {
        GiveUp::DeadlinePassed => Refusal::from(RefusalReason::RequestTimeout),
        _ if maybe_executed && failed.outcome != Outcome::TimedOut => {
            Refusal::new(RefusalReason::MaybeExecuted, failed.refusal.detail)
        }
        _ => Refusal {
            detail: format!("{} ({})", failed.refusal.detail, reason.code()),
            ..failed.refusal
        },
    }
}

fn unreached(refusal: Refusal) -> Failed {
    Failed::new(Outcome::ConnectFailed, refusal)
}

/// The link took no stream: nothing was sent.
fn not_opened(error: &CannotOpen) -> Failed {
    let refusal = Refusal::new(RefusalReason::ConnectFailed, error.to_string());
    Failed::new(Outcome::Drained, refusal)
}

fn stream_failed(error: StreamError, link: &Link) -> Failed {
    let outcome = match error {
        // The connection was being left: nobody is to blame.
        StreamError::Reset(ResetCode::Refused) if link.is_leaving() => Outcome::Drained,
        StreamError::Reset(ResetCode::Refused) => Outcome::Refused {
            retry_unwanted: false,
        },
        StreamError::Reset(ResetCode::Timeout) => Outcome::TimedOut,
        StreamError::Reset(_) | StreamError::Unsendable(_) | StreamError::Gone => Outcome::Reset,
    };
    let reason = match outcome {
        Outcome::Refused { .. } | Outcome::Drained => RefusalReason::ConnectFailed,
        Outcome::TimedOut => RefusalReason::RequestTimeout,
        _ => RefusalReason::UpstreamReset,
    };
    Failed::new(outcome, Refusal::new(reason, error.to_string()))
}

fn deadline(attempts: &Attempts) -> tokio::time::Instant {
    let end = attempts.next_timeout();
    end.map_or_else(|| tokio::time::Instant::now() + FAR, Into::into)
}
