//! One request of a caller, phase by phase: detect, find, authorize, admit, then the tries.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Malformed, RequestHead, Target, Version, strip_hop_by_hop};
use isthmus_codec::message::{Context, Priority, Request};
use isthmus_model::ServiceName;
use isthmus_route::{Headers, RequestView};
use isthmus_telemetry::RefusalReason;

use super::affinity::Affinity;
use super::call::Call;
use super::decided::{
    Decided, Entry, decide_backend, find_port, find_rule, find_service, pick_backend,
};
use super::deliver::{Ended, KeepAlive};
use super::exchange;
use super::outside;
use super::upload::Upload;
use crate::http::{ClientBody, ClientReply, upgradable};
use crate::journey::{Journey, without_query};
use crate::memory::REQUEST;
use crate::names::Named;
use crate::refusal::Refusal;
use crate::told::TELL_FIELD;
use crate::worker::Worker;

pub(super) async fn serve(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    entry: &Entry,
    head: &mut RequestHead,
    body: Body,
    client: ClientBody<'_>,
    reply: &mut ClientReply<'_>,
) -> Result<KeepAlive, Ended> {
    note(journey, head);
    journey.tell(head.fields.remove(TELL_FIELD));
    if head.method == "CONNECT" {
        return Err(no_tunnel().into());
    }
    let (authority, path) = authority_of(head).map_err(|malformed| {
        worker.common.metrics.count_malformed(malformed.code());
        Refusal::malformed(malformed)
    })?;
    journey.record.authority = Some(authority.clone());
    journey.record.path = Some(path.slice_ref(without_query(&path)));

    let expects_continue = head.expects_continue();
    let upgrade = upgrade_of(head, body);
    if upgrade.is_none() && reply.is_http2() && head.asks_upgrade() {
        // A client of HTTP/2 would take any good answer for agreement.
        let detail = "HTTP/2 is spoken here already";
        return Err(Refusal::new(RefusalReason::UpgradeNotSupported, detail).into());
    }
    strip_hop_by_hop(&mut head.fields);
    let (service, port) = match entry {
        Entry::Explicit => match worker.names.detect(&authority)? {
            Named::Service(service, port) => (service, port),
            Named::Outside(host, port) => {
                let place = outside::permit(worker, journey, host, port)?;
                let request = outside::Request {
                    head: RequestHead {
                        method: head.method.clone(),
                        target: path,
                        version: head.version,
                        fields: std::mem::take(&mut head.fields),
                    },
                    authority: authority.clone(),
                    body,
                    expects: expects_continue,
                    upgrade,
                };
                let served = outside::serve(worker, journey, &place, request, client, reply);
                // Boxed: the task of every client would be as large.
                return Box::pin(served).await;
            }
        },
        // Host decides only the route.
        Entry::Service { service, port } => (service.clone(), Some(*port)),
    };
    let decided = decide(worker, journey, service, port, head, &path).await?;
    let window = if body == Body::None {
        0
    } else {
        client.window()
    };
    let room = worker.memory.admit(REQUEST + client.buffer() + window);
    let room = room.ok_or_else(|| Refusal::no_memory(worker.memory.budget()))?;

    head.fields.remove("host");
    head.fields.remove("expect");
    let priority = priority_of(&head.fields);
    let call = Call::of(&head.fields);
    let now = Instant::now();
    let method = std::str::from_utf8(&head.method).unwrap_or_default();
    let mut attempts = call.attempts(&head.fields, &decided.settings, method, now);
    let budget = worker.destinations.budget(&decided.called, now);
    if budget.borrow_mut().on_request(now) {
        attempts.again();
    }
    let mut request = Request {
        service: decided.key.service.clone(),
        port: decided.key.port,
        method: head.method.clone(),
        path,
        authority,
        fields: std::mem::take(&mut head.fields),
        upgrade,
        expects: false,
        context: Context {
            priority,
            source_cluster: Some(worker.common.me.cluster.clone()),
            ..Context::default()
        },
    };
    let mut upload = Upload::new(client, body, expects_continue, room);
    if !upload.is_empty() {
        attempts.receive();
    }
    let read = upload.read_short(body).await;
    read.map_err(Ended::by_client)?;
    if !upload.is_coming() {
        attempts.received(Instant::now());
    }
    exchange::run(
        worker,
        journey,
        &decided,
        &mut attempts,
        budget,
        call,
        &mut request,
        &mut upload,
        reply,
    )
    .await
}

/// What a request names, or why that is nothing that the mesh serves.
fn authority_of(head: &RequestHead) -> Result<(Bytes, Bytes), Malformed> {
    let target = Target::parse(&head.method, &head.target)?;
    let host = || head.fields.find("host").cloned().unwrap_or_default();
    Ok(match target {
        // RFC 9112 section 3.2.2: the absolute form outweighs the Host field.
        Target::Absolute { authority, path } => (authority, path),
        Target::Origin { path } => (host(), path),
        Target::Authority(authority) => (authority, Bytes::from_static(b"/")),
        Target::Asterisk => (host(), Bytes::from_static(b"*")),
    })
}

/// What is to be served first, and turned away last, where not everything can be. A program that calls
/// others in the course of a request hands the field on, as it does with a trace. Any other value than
/// these two, in these letters, is normal; of several fields the first counts.
const PRIORITY_FIELD: &str = "x-isthmus-priority";

fn priority_of(fields: &Fields) -> Priority {
    match fields.find(PRIORITY_FIELD).map(|value| &**value) {
        Some(b"high") => Priority::High,
        Some(b"low") => Priority::Low,
        _ => Priority::Normal,
    }
}

/// The protocols that a client asks to change to. A server may go on as if it had not asked (RFC 9110
/// section 7.8): so it is where a body would come first, and with what the mesh has its own ways for.
fn upgrade_of(head: &RequestHead, body: Body) -> Option<Bytes> {
    let asks = head.asks_upgrade() && body == Body::None && head.version == Version::Http11;
    let wanted = head.fields.find("upgrade").filter(|_| asks)?;
    upgradable(wanted)
}

/// Everything that is decided once per request, on one view.
async fn decide(
    worker: &Worker,
    journey: &mut Journey,
    service: ServiceName,
    port: Option<u16>,
    head: &RequestHead,
    path: &[u8],
) -> Result<Decided, Refusal> {
    journey.record.destination_service = Some(service.clone());
    let view = worker.view_with(&service).await?;
    let called = find_service(&view, &service)?;
    let port = find_port(called, port)?;
    let draw = worker.draw();

    let request = RequestView {
        method: std::str::from_utf8(&head.method).unwrap_or_default(),
        path: std::str::from_utf8(without_query(path)).unwrap_or_default(),
        headers: &HeaderView(&head.fields),
    };
    let rule = find_rule(called, port, &request)?;
    journey.matched(rule);
    let settings = called.settings(rule);
    let backend = pick_backend(rule, draw)?;
    journey.drawn(backend);
    let source = worker.common.config.address;
    let affinity = Affinity::of(&head.fields, &settings, source, worker.draw());
    let decided = decide_backend(
        worker,
        view.clone(),
        &service,
        backend,
        port,
        settings,
        draw,
    )?;
    Ok(Decided {
        affinity,
        ..decided
    })
}

/// A tunnel through HTTP/2 is not offered.
fn no_tunnel() -> Refusal {
    let detail = "CONNECT without :protocol is taken from clients that speak HTTP/1.1, on the proxy's own \
                  listener";
    Refusal::new(RefusalReason::UpgradeNotSupported, detail)
}

fn note(journey: &mut Journey, head: &RequestHead) {
    journey.record.method = Some(head.method.clone());
    journey.record.request_id = head.fields.find("x-request-id").cloned();
}

/// Fields as the router looks at them.
pub(super) struct HeaderView<'f>(pub(super) &'f Fields);

impl Headers for HeaderView<'_> {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.0.find_all(name).map(|value| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_what_the_first_field_says_word_for_word() {
        for (values, expect) in [
            (&[][..], Priority::Normal),
            (&["high"], Priority::High),
            (&["normal"], Priority::Normal),
            (&["low"], Priority::Low),
            (&["High"], Priority::Normal),
            (&["high, low"], Priority::Normal),
            (&[""], Priority::Normal),
            (&["low", "high"], Priority::Low),
            (&["urgent", "high"], Priority::Normal),
        ] {
            let mut fields = Fields::new();
            for value in values {
                fields.push("x-isthmus-priority", *value).unwrap();
            }
            assert_eq!(priority_of(&fields), expect, "{values:?}");
        }
    }
}
