//! Protobuf between proxies and control planes: what is accepted is a value of the model, and means
//! the same when it is written again.

use isthmus_delta::{self as delta, Subscription};
use isthmus_model::Gateway;
use isthmus_wire::proto::{
    self, Certificates, EnrollRequest, FromProxy, PeerFrame, RenewRequest, ToProxy, from_proxy,
    to_proxy,
};
use isthmus_wire::{Body, BodyError, LinkReport, PeerFrameError, PeerIncoming, WorkloadReport};
use prost::Message;

use crate::{hyphened, word};

/// The body of a resource, of any kind.
pub(crate) fn body(data: &[u8]) -> String {
    match Body::decode(data) {
        Ok(body) => {
            let again = Body::decode(&body.encode());
            assert_eq!(again.as_ref(), Ok(&body), "what is written is read back");
            word(&body)
        }
        Err(error) => label(&error),
    }
}

/// What travels between a proxy and its control plane; the first byte says which message.
pub(crate) fn proxy(data: &[u8]) -> String {
    let (kind, rest) = data.split_first().unwrap_or((&0, &[]));
    match kind {
        b'f' => FromProxy::decode(rest).map_or_else(|_| damaged(), from_proxy),
        b't' => ToProxy::decode(rest).map_or_else(|_| damaged(), to_proxy),
        b'e' => again::<EnrollRequest>(rest, "enroll"),
        b'r' => again::<RenewRequest>(rest, "renew"),
        b'c' => again::<Certificates>(rest, "certificates"),
        b'q' => again::<proto::Question>(rest, "question"),
        b'a' => again::<proto::Answer>(rest, "answer"),
        _ => "nothing".to_owned(),
    }
}

/// What travels between control planes.
pub(crate) fn peer(data: &[u8]) -> String {
    let Ok(frame) = PeerFrame::decode(data) else {
        return damaged();
    };
    match PeerIncoming::try_from(frame) {
        Ok(PeerIncoming::Ledger(message)) => {
            let written = PeerFrame::from(message.clone()).encode_to_vec();
            let again = PeerFrame::decode(written.as_slice());
            let again = again.map(PeerIncoming::try_from);
            assert_eq!(again, Ok(Ok(PeerIncoming::Ledger(message.clone()))));
            word(&message)
        }
        Ok(other) => word(&other),
        Err(PeerFrameError::Unknown) => "unknown".to_owned(),
        Err(error) => format!("not-a-{}", word(&error)),
    }
}

fn from_proxy(message: FromProxy) -> String {
    use from_proxy::Message as Said;
    let checked = match message.message {
        None => return "from-proxy-nothing".to_owned(),
        Some(Said::Hello(hello)) => {
            let read = delta::Hello::from(&hello);
            let mut written = proto::Hello::default();
            written.set_subscription(&read);
            assert_eq!(delta::Hello::from(&written), read);
            return "hello".to_owned();
        }
        Some(Said::Workload(report)) => WorkloadReport::try_from(report).map(|_| "workload"),
        Some(Said::Gateway(report)) => Gateway::try_from(report).map(|_| "gateway"),
        Some(Said::Link(report)) => LinkReport::try_from(report).map(|_| "link"),
        Some(Said::Subscribe(subscribe)) => {
            let read = delta::Request::from(subscribe);
            assert_eq!(delta::Request::from(proto::Subscribe::from(&read)), read);
            return "subscribe".to_owned();
        }
        Some(Said::Ack(ack)) => {
            let read = delta::Reply::from(ack);
            assert_eq!(delta::Reply::from(proto::Ack::from(read.clone())), read);
            return "ack".to_owned();
        }
        Some(Said::Leaving(_)) => return "leaving".to_owned(),
    };
    checked.map_or_else(|error| label(&error), str::to_owned)
}

fn to_proxy(message: ToProxy) -> String {
    match message.message {
        None => "to-proxy-nothing".to_owned(),
        Some(to_proxy::Message::Push(push)) => {
            let (position, push) = (push.position, delta::Push::from(push));
            let written = proto::Push::of(push.clone(), position);
            assert_eq!(delta::Push::from(written), push);
            subscribed(push).to_owned()
        }
        Some(message) => word(&message),
    }
}

/// A subscriber takes the push in as a proxy does: what cannot be decoded is rejected by name.
fn subscribed(push: delta::Push) -> &'static str {
    let topics = ["mesh", "service/shop/cart"].map(delta::Topic::new);
    let mut subscription = Subscription::default();
    subscription.subscribe(topics);
    subscription.hello();
    let mut delivery = subscription.on_push(push);
    let changed = delivery.topics().iter().flat_map(|change| {
        let resources = change.resources.iter();
        resources.map(|resource| (change.topic.clone(), resource.clone()))
    });
    let changed: Vec<_> = changed.collect();
    let mut unusable = 0;
    for (topic, resource) in &changed {
        if let Err(error) = Body::decode(&resource.body) {
            delivery.reject(topic, &resource.name, error.to_string());
            unusable += 1;
        }
    }
    let reply = subscription.settle(delivery);
    assert!(reply.rejected.len() <= unusable);
    match (changed.len(), unusable) {
        (0, _) => "push-of-nothing-new",
        (_, 0) => "push",
        _ => "push-of-unusable-resources",
    }
}

/// A message whose fields nobody checks here: it can be written and read again.
fn again<M: Message + Default + PartialEq>(data: &[u8], name: &str) -> String {
    let Ok(message) = M::decode(data) else {
        return damaged();
    };
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again == Ok(message), "what is written is read back");
    name.to_owned()
}

fn damaged() -> String {
    "damaged".to_owned()
}

fn label(error: &BodyError) -> String {
    match error {
        BodyError::Field { field, .. } => format!("bad-{}", hyphened(field)),
        error => word(error),
    }
}
