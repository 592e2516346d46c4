//! Bodies: what is replied, and how what was received is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};

/// A reply's body: known at once, or made while it is sent.
pub(crate) enum Reply {
    Whole(Full<Bytes>),
    /// So many bytes still to come, of unknown length to the reader, hence chunked.
    Filler(usize),
}

static FILLER: [u8; 16 * 1024] = [b'.'; 16 * 1024];

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Filler(0) => Poll::Ready(None),
            Self::Filler(left) => {
                let chunk = &FILLER[..FILLER.len().min(*left)];
                *left -= chunk.len();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Filler(left) => *left == 0,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Filler(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// A request's body: all of it counted, its beginning kept.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) bytes: u64,
    kept: Vec<u8>,
}

const MAX_KEPT: usize = 64 * 1024;

impl Received {
    /// Reads to the end. Errors: the body broke off.
    pub(crate) async fn read(mut body: Incoming) -> hyper::Result<Self> {
        let mut received = Self::default();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                received.bytes += data.len() as u64;
                let room = MAX_KEPT - received.kept.len();
                received
                    .kept
                    .extend_from_slice(&data[..room.min(data.len())]);
            }
        }
        Ok(received)
    }

    /// The body as text; `None` if it is longer than what is kept, or no UTF-8.
    pub(crate) fn text(&self) -> Option<&str> {
        let whole = self.kept.len() as u64 == self.bytes;
        whole
            .then(|| std::str::from_utf8(&self.kept).ok())
            .flatten()
    }
}
