//! What the kind of a request means for its time and for the judgement of its replies: a call of gRPC
//! has its own deadline, its own status, and may stream for as long as it likes.

use std::time::{Duration, Instant};

use isthmus_balance::{Attempts, Outcome};
use isthmus_codec::Fields;
use isthmus_codec::message::Response;
use isthmus_model::TrafficSettings;

use crate::http::grpc;

/// The kind of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Plain,
    Grpc {
        /// What is left of the caller's own time, if it has said so.
        deadline: Option<Duration>,
        /// How long the head of the reply may take from the end of the request on; zero: for ever.
        head: Duration,
    },
}

impl Call {
    pub(super) fn of(fields: &Fields, settings: &TrafficSettings) -> Self {
        if grpc::is_grpc(fields) {
            Self::Grpc {
                deadline: grpc::timeout(fields),
                head: settings.timeout.request,
            }
        } else {
            Self::Plain
        }
    }

    pub(super) fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc { .. })
    }

    pub(super) fn attempts(
        self,
        settings: &TrafficSettings,
        method: &str,
        now: Instant,
    ) -> Attempts {
        match self {
            Self::Plain => Attempts::new(settings, method, None, now),
            Self::Grpc { deadline, .. } => {
                let mut settings = settings.clone();
                settings.timeout.request = Duration::ZERO;
                Attempts::new(&settings, method, deadline, now)
            }
        }
    }

    /// When the head of the reply is due, if the request ends now. Only where nothing else bounds it.
    pub(super) fn head_due(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Grpc {
                deadline: None,
                head,
            } if !head.is_zero() => now.checked_add(head),
            Self::Plain | Self::Grpc { .. } => None,
        }
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
