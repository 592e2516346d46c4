//! Requests and tunnels to hosts outside the mesh, where the mesh lets its programs out.
//!
//! They go by plain HTTP/1.1, or unread, and in nobody's name: no certificate of ours is shown, no field of
//! the mesh's own is sent out or taken from there. One request is, where nothing is in its way, one read and
//! one write on each side, over a connection that is kept.

mod feed;
mod place;

pub(super) use place::{Opened, carry, open, permit};

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_balance::is_idempotent;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, ResponseHead, Version, strip_hop_by_hop};
use isthmus_codec::message::Interim;
use isthmus_model::{AppProtocol, TimeoutSettings};
use isthmus_telemetry::RefusalReason;
use tokio::time::Instant;

use self::feed::{Feed, rung};
use self::place::withdrawn;
use super::deliver::{Ended, KeepAlive};
use crate::alarm::Alarm;
use crate::http::http1::{self, ResponseReader};
use crate::http::upgrade::Asked;
use crate::http::{ClientBody, ClientReply, ClientTunnel, HttpError, Piece, remaining};
use crate::journey::Journey;
use crate::memory::{REQUEST, Room};
use crate::outside::{Connection, Place};
use crate::refusal::{Refusal, is_of_mesh};
use crate::splice::{Carried, End, Told, hear_out, join, leave, owe};
use crate::worker::Worker;

/// For what has no end of its own.
const FAR: Duration = Duration::from_hours(24);
/// What is read ahead of whoever does not take it.
const MOST_QUEUED: usize = 64 * 1024;

/// A request for a place, without what concerns only the client's connection.
pub(super) struct Request {
    pub(super) head: RequestHead,
    pub(super) authority: Bytes,
    pub(super) body: Body,
    /// The client waits to be asked for the body.
    pub(super) expects: bool,
    pub(super) upgrade: Option<Bytes>,
}

/// How an exchange ended that brought no whole reply.
enum Broken {
    /// The connection ended before a byte of the reply came.
    Silent,
    /// The server's fault, and nothing of the reply has been handed on.
    Refused(Refusal),
    /// Some of the reply has been.
    Cut(RefusalReason),
    /// The client's connection broke, or what it sends is malformed.
    Client(HttpError),
}

/// Carries a request and its reply.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    place: &Place<'_>,
    request: Request,
    mut client: ClientBody<'_>,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, Ended> {
    let _room = admit(worker, &client, request.body)?;
    let call = Call::of(worker, request);
    let mut kept = worker.outside.take(call.place());
    let mut alarm = worker.alarms.take();
    loop {
        // What was closed while it waited may have come to nobody.
        let may_be_stale = kept.is_some();
        let connection = match kept.take() {
            Some(kept) => kept,
            None => tokio::select! {
                biased;
                opened = worker.outside.open(place, call.place()) => opened?,
                () = reply.unwanted() => return Err(Ended::by_client(HttpError::Truncated)),
                () = alarm.at(call.caller.map(Instant::into_std)) => return Err(call.late().into()),
            },
        };
        journey.record.attempts += 1;
        let done = call
            .run(worker, journey, connection, &mut alarm, &mut client, reply)
            .await;
        journey.record.request_bytes += call.sent.take();
        match done {
            Ok(keep) => return Ok(keep),
            Err(Broken::Silent) if may_be_stale && call.is_repeatable() => {}
            Err(Broken::Silent) => {
                let detail = format!("{} closed the connection and said nothing", call.place());
                return Err(Refusal::new(RefusalReason::MaybeExecuted, detail).into());
            }
            Err(Broken::Refused(refusal)) => return Err(refusal.into()),
            Err(Broken::Cut(reason)) => {
                journey.record.refusal = Some(reason);
                // What has come is handed on; who does not take it misses nothing.
                let _ = reply.flush().await;
                return Err(Ended::Broken(HttpError::Truncated));
            }
            Err(Broken::Client(error)) if journey.record.response_code.is_some() => {
                return Err(Ended::Broken(error));
            }
            Err(Broken::Client(error)) => return Err(Ended::by_client(error)),
        }
    }
}

fn admit(worker: &Worker, client: &ClientBody<'_>, body: Body) -> Result<Room, Refusal> {
    let window = if body == Body::None {
        0
    } else {
        client.window()
    };
    let room = worker.memory.admit(REQUEST + client.buffer() + window);
    room.ok_or_else(|| Refusal::no_memory(worker.memory.budget()))
}

/// A request as it is sent out.
struct Call {
    head: RequestHead,
    body: Body,
    expects: bool,
    asked: Option<Asked>,
    authority: Bytes,
    /// What the caller's own time ends at.
    caller: Option<Instant>,
    timeout: TimeoutSettings,
    /// Nothing of the body has been read, not even its end: it can be sent on another connection.
    untouched: Cell<bool>,
    /// Bytes of the body that were sent, and are not in the record yet.
    sent: Cell<u64>,
}

impl Call {
    fn of(worker: &Worker, request: Request) -> Self {
        let Request {
            mut head,
            authority,
            body,
            expects,
            upgrade,
        } = request;
        let caller = remaining::timeout(&head.fields).map(|left| Instant::now() + left);
        let expects = expects && !matches!(body, Body::None | Body::Length(0));
        let fields = &mut head.fields;
        fields.retain(|name, _| !is_of_mesh(name));
        if !expects {
            fields.remove("expect");
        }
        if fields.find("host") != Some(&authority) {
            // It was read as the authority of a target.
            let _ = fields.set("host", authority.clone());
        }
        // A head that is all of the answer is no beginning of anything.
        let wanted = upgrade.as_ref().filter(|_| head.method != b"HEAD"[..]);
        let asked = wanted
            .and_then(|wanted| Asked::of(wanted, AppProtocol::Http1, || worker.draw(), &mut head));
        Self {
            head,
            body,
            expects,
            asked,
            authority,
            caller,
            timeout: worker.outside.timeout.clone(),
            untouched: Cell::new(true),
            sent: Cell::new(0),
        }
    }

    fn place(&self) -> &str {
        // Only text names a host.
        std::str::from_utf8(&self.authority).unwrap_or_default()
    }

    /// May it be sent again when nobody knows what became of it?
    fn is_repeatable(&self) -> bool {
        let method = std::str::from_utf8(&self.head.method);
        self.untouched.get() && method.is_ok_and(is_idempotent)
    }

    fn ends(&self, limit: Duration) -> Instant {
        let end = Instant::now() + if limit.is_zero() { FAR } else { limit };
        self.caller.map_or(end, |caller| caller.min(end))
    }

    /// The whole exchange on one connection, which is kept if it can carry another one.
    async fn run(
        &self,
        worker: &Worker,
        journey: &mut Journey,
        connection: Connection,
        alarm: &mut Alarm,
        client: &mut ClientBody<'_>,
        reply: &mut ClientReply<'_>,
    ) -> Result<KeepAlive, Broken> {
        let Connection {
            http,
            place,
            opened,
        } = connection;
        let begun = http.begin(&self.head, self.body);
        let mut exchange = begun.map_err(|error| Broken::Client(error.into()))?;
        let done = self.converse(journey, &mut exchange, alarm, client, reply);
        let (keep, reusable) = match done.await? {
            Done::Replied { keep, reusable } => (keep, reusable),
            Done::Agreed(head) => {
                return self
                    .tunnel(worker, journey, exchange, head, client, reply)
                    .await;
            }
        };
        if reusable {
            let connection = Connection {
                http: exchange.into_connection(),
                place,
                opened,
            };
            worker.outside.give_back(connection);
        }
        Ok(keep)
    }

    /// Sends the request while the reply may already be coming, and hands that on as it comes.
    async fn converse(
        &self,
        journey: &mut Journey,
        exchange: &mut http1::Exchange,
        alarm: &mut Alarm,
        client: &mut ClientBody<'_>,
        reply: &mut ClientReply<'_>,
    ) -> Result<Done, Broken> {
        let (reader, writer) = exchange.split();
        let feed = Feed::new(self);
        let mut feeding = pin!(feed.run(client, writer));
        let (mut head, body) = self
            .head(reader, alarm, &feed, feeding.as_mut(), reply)
            .await?;
        if let Some(asked) = &self.asked {
            let agreed = asked.agreed(false, &mut head);
            if agreed.map_err(|error| bad_reply(&error))? {
                return Ok(Done::Agreed(head));
            }
            if reply.is_http2() && (200..300).contains(&head.status) {
                // A client of HTTP/2 would take it for the beginning of what it asked for.
                let detail = "the server answers in HTTP where another protocol was asked for";
                let refusal = Refusal::new(RefusalReason::UpgradeNotSupported, detail);
                return Err(Broken::Refused(refusal));
            }
        }
        let stays = self.asked.is_none() && head.keep_alive() && body != Body::UntilClose;
        journey.record.response_code = Some(head.status);
        clean(&mut head);
        for (name, value) in journey.told() {
            // Names of ours are plain text.
            let _ = head.fields.push(name, value);
        }
        let framing = framing(body, reply.version());
        if feed.is_withheld() {
            reply.whole_head(head, framing).map_err(Broken::Client)?;
        } else {
            reply.head(&head, framing).map_err(Broken::Client)?;
        }
        feed.heard();
        let mut trailers = None;
        loop {
            let piece = tokio::select! {
                biased;
                piece = reader.piece(), if reply.queued() < MOST_QUEUED => piece,
                gone = feed.gone(feeding.as_mut()) => return Err(gone),
                taken = taken(reply) => match taken {
                    Ok(()) => continue,
                    Err(error) => return Err(Broken::Client(error)),
                },
                () = rung(alarm, &feed.ends) => return Err(Broken::Cut(RefusalReason::RequestTimeout)),
            };
            feed.heard();
            match piece.map_err(|_| Broken::Cut(RefusalReason::UpstreamReset))? {
                Piece::Data(data) => {
                    journey.record.response_bytes += data.len() as u64;
                    tokio::select! {
                        biased;
                        queued = reply.data(data) => queued.map_err(cut_by)?,
                        gone = feed.gone(feeding.as_mut()) => return Err(gone),
                    }
                }
                Piece::Trailers(fields) => trailers = Some(clean_trailers(fields)),
                Piece::End => break,
            }
        }
        reply.end(trailers.as_ref()).map_err(cut_by)?;
        tokio::select! {
            biased;
            flushed = reply.flush() => flushed.map_err(Broken::Client)?,
            gone = feed.gone(feeding.as_mut()) => return Err(gone),
        }
        let keep = if framing == Body::UntilClose {
            KeepAlive::No
        } else {
            KeepAlive::Yes
        };
        let reusable = stays && feed.whole.get();
        Ok(Done::Replied { keep, reusable })
    }

    /// The head of the reply. Hands on what comes before it.
    async fn head(
        &self,
        reader: &mut ResponseReader,
        alarm: &mut Alarm,
        feed: &Feed<'_>,
        mut feeding: Pin<&mut impl Future<Output = Result<Infallible, Broken>>>,
        reply: &mut ClientReply<'_>,
    ) -> Result<(ResponseHead, Body), Broken> {
        let mut began = false;
        loop {
            let came = tokio::select! {
                biased;
                gone = feed.gone(feeding.as_mut()) => return Err(gone),
                came = reader.head() => came,
                () = reply.unwanted() => return Err(Broken::Client(HttpError::Truncated)),
                () = rung(alarm, &feed.ends) => {
                    if feed.is_withheld() && !self.is_late() {
                        // Servers that know nothing of it neither ask for a body nor refuse it.
                        feed.go_on();
                        reply.ask_for_body().await.map_err(Broken::Client)?;
                        continue;
                    }
                    return Err(Broken::Refused(self.late()));
                }
            };
            match came {
                Ok((head, _)) if head.status == 100 => {
                    if feed.is_withheld() {
                        feed.go_on();
                        reply.ask_for_body().await.map_err(Broken::Client)?;
                    }
                }
                Ok((mut head, _)) if Interim::is_interim(head.status) => {
                    clean(&mut head);
                    reply.interim(&head).await.map_err(Broken::Client)?;
                }
                Ok(head) => return Ok(head),
                Err(error @ HttpError::Malformed(_)) => return Err(bad_reply(&error)),
                Err(_) if began || !reader.is_silent() => {
                    let detail = format!("{} closed the connection within its reply", self.place());
                    let refusal = Refusal::new(RefusalReason::MaybeExecuted, detail);
                    return Err(Broken::Refused(refusal));
                }
                Err(_) => return Err(Broken::Silent),
            }
            began = true;
        }
    }

    fn is_late(&self) -> bool {
        self.caller.is_some_and(|end| Instant::now() >= end)
    }

    fn late(&self) -> Refusal {
        let detail = format!("{} has not answered in time", self.place());
        Refusal::new(RefusalReason::RequestTimeout, detail)
    }

    /// Client and server speak in another protocol from here on, as long as the mesh lets them.
    async fn tunnel(
        &self,
        worker: &Worker,
        journey: &mut Journey,
        exchange: http1::Exchange,
        mut head: ResponseHead,
        client: &mut ClientBody<'_>,
        reply: &mut ClientReply<'_>,
    ) -> Result<KeepAlive, Broken> {
        let upgrade = head.fields.find("upgrade").cloned();
        clean(&mut head);
        let (read, early, write) = exchange.into_tunnel();
        // They are halves of one.
        let far = read.reunite(write);
        let mut far = far.map_err(|_| Broken::Cut(RefusalReason::UpstreamReset))?;
        journey.record.response_code = Some(if reply.is_http2() { 200 } else { 101 });
        reply.agree(head, upgrade).map_err(Broken::Client)?;
        reply.flush().await.map_err(Broken::Client)?;
        owe(&far, true);
        let mut told = Told::default();
        let carried = {
            let (read, write) = far.split();
            let far = End { read, write, early };
            let joined = async {
                match ClientTunnel::over(client, reply) {
                    Some(ClientTunnel::Http1 { read, early, write }) => {
                        let near = End {
                            read: &mut *read,
                            write,
                            early,
                        };
                        let carried = join(near, far, self.timeout.idle, &mut told).await;
                        if told.near {
                            hear_out(read).await;
                        }
                        carried
                    }
                    Some(ClientTunnel::Http2 { read, write }) => {
                        let early = Bytes::new();
                        let near = End { read, write, early };
                        join(near, far, self.timeout.idle, &mut told).await
                    }
                    None => Carried::default(),
                }
            };
            tokio::select! {
                carried = joined => carried,
                () = withdrawn(worker) => Carried::default(),
            }
        };
        journey.record.request_bytes += carried.sent;
        journey.record.response_bytes += carried.received;
        leave(far, told.far).await;
        if !told.near {
            return Err(Broken::Client(HttpError::Truncated));
        }
        reply.end_tunnel();
        Ok(KeepAlive::No)
    }
}

/// How an exchange ended well.
enum Done {
    Replied {
        keep: KeepAlive,
        reusable: bool,
    },
    /// To go on in another protocol, by this reply.
    Agreed(ResponseHead),
}

/// Sends what is queued; where nothing is, waits until the client does not want the reply any more.
async fn taken(reply: &mut ClientReply<'_>) -> Result<(), HttpError> {
    if reply.queued() > 0 {
        return reply.flush().await;
    }
    reply.unwanted().await;
    Err(HttpError::Truncated)
}

/// Takes what is said for its own connection, and in the mesh's name, out of a reply.
fn clean(head: &mut ResponseHead) {
    strip_hop_by_hop(&mut head.fields);
    head.fields.retain(|name, _| !is_of_mesh(name));
}

/// As [`clean`], of what comes behind a body, whichever way it goes.
fn clean_trailers(mut fields: Fields) -> Fields {
    strip_hop_by_hop(&mut fields);
    fields.retain(|name, _| !is_of_mesh(name));
    fields
}

/// How the client is shown the end of a body.
fn framing(body: Body, version: Version) -> Body {
    match body {
        Body::None | Body::Length(_) => body,
        Body::Chunked | Body::UntilClose if version == Version::Http11 => Body::Chunked,
        Body::Chunked | Body::UntilClose => Body::UntilClose,
    }
}

/// The reply is not what it announced, or the client does not take it.
fn cut_by(error: HttpError) -> Broken {
    match error {
        HttpError::Unsendable(_) => Broken::Cut(RefusalReason::UpstreamReset),
        error => Broken::Client(error),
    }
}

fn bad_reply(error: &HttpError) -> Broken {
    let refusal = Refusal::new(RefusalReason::BadUpstreamReply, error.to_string());
    Broken::Refused(refusal)
}
