//! What the kind of a request means for its time and for the judgement of its replies: a call of gRPC
//! has its own deadline, its own status, and a reply that may last as long as it likes.

use std::time::Instant;

use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::message::Response;
use isthmus_model::TrafficSettings;

use crate::http::{grpc, is_stream, remaining};

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Plain,
    Grpc,
}

impl Call {
    pub(super) fn of(fields: &Fields) -> Self {
        if grpc::is_grpc(fields) {
            Self::Grpc
        } else {
            Self::Plain
        }
    }

    pub(super) fn is_grpc(self) -> bool {
        self == Self::Grpc
    }

    /// The tries of a request with these fields.
    pub(super) fn attempts(
        self,
        fields: &Fields,
        settings: &TrafficSettings,
        method: &str,
        now: Instant,
    ) -> Attempts {
        let inherited = remaining::timeout(fields);
        let mut attempts = Attempts::new(settings, method, inherited, now);
        if self.is_grpc() {
            attempts.call();
        }
        attempts
    }

    /// The reply has begun.
    pub(super) fn replying(self, attempts: &mut Attempts, head: &Response) {
        if self.lasts(head) {
            attempts.stream();
        }
    }

    /// Is the reply a stream, which is not late as long as it goes on?
    pub(super) fn lasts(self, head: &Response) -> bool {
        self.is_grpc() || is_stream(head.status, &head.fields)
    }

    /// What a reply says of the place it came from. `trailers`: as far as they are known.
    pub(super) fn outcome(self, head: &Response, trailers: Option<&Fields>) -> Outcome {
        let status = match self.status(head, trailers) {
            Some(status) if head.status == 200 => grpc::as_http(status),
            _ => head.status,
        };
        Outcome::Replied {
            status,
            retry_unwanted: head.do_not_retry,
        }
    }

    /// The status of a call of gRPC.
    pub(super) fn status(self, head: &Response, trailers: Option<&Fields>) -> Option<u16> {
        if !self.is_grpc() {
            return None;
        }
        grpc::status(&head.fields).or_else(|| trailers.and_then(grpc::status))
    }
}
