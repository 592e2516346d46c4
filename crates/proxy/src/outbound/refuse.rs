//! How a client is told that its request is refused.

use bytes::Bytes;
use isthmus_codec::http1::{Body, ResponseHead, Version};

use crate::http::{ClientReply, HttpError, grpc};
use crate::journey::Journey;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// What a refusal has to fit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) is_grpc: bool,
}

/// Renders a refusal to a client.
pub(super) async fn refuse(
    worker: &Worker,
    journey: &mut Journey,
    reply: &mut ClientReply<'_>,
    refusal: &Refusal,
    asked: Asked,
) -> Result<(), HttpError> {
    journey.refused(refusal, worker.name());
    let (status, fields, body) = if asked.is_grpc {
        journey.refused_call(grpc::status_of(refusal.reason));
        (200, grpc::refused(refusal, worker.name()), Bytes::new())
    } else {
        let rendered = refusal.render(worker.name());
        (rendered.status, rendered.fields, rendered.body)
    };
    let mut head = ResponseHead {
        status,
        version: Version::Http11,
        fields,
    };
    for (name, value) in journey.told() {
        // Names of ours are plain text.
        let _ = head.fields.push(name, value);
    }
    let (framing, body) = if asked.is_head {
        (Body::None, Bytes::new())
    } else {
        (Body::Length(body.len() as u64), body)
    };
    reply.whole_head(head, framing)?;
    reply.rest(body, None).await?;
    reply.flush().await
}

/// Refuses a request that could not be read.
pub(super) async fn refuse_unreadable(
    worker: &Worker,
    reply: &mut ClientReply<'_>,
    refusal: &Refusal,
) {
    let mut journey = worker.begin("http/1.1");
    // The client may be gone; it is counted all the same.
    let _ = refuse(worker, &mut journey, reply, refusal, Asked::default()).await;
    journey.finish(&worker.recorder);
}
