//! What begins a stream between proxies and what answers it: what can be read has one meaning, and
//! is written in one way.

use bytes::{Bytes, BytesMut};
use isthmus_codec::DecodeError;
use isthmus_codec::message::{Interim, Open, Reply, TunnelReply};

use crate::{hyphened, word};

/// What begins a stream.
pub(crate) fn open(data: &[u8]) -> String {
    match Open::decode(Bytes::copy_from_slice(data)) {
        Ok(open) => {
            let mut written = BytesMut::new();
            open.encode(&mut written);
            let again = Open::decode(written.freeze());
            assert_eq!(again.as_ref(), Ok(&open), "what is written is read back");
            word(&open)
        }
        Err(error) => label(&error),
    }
}

/// What answers it.
pub(crate) fn reply(data: &[u8]) -> String {
    match Reply::decode(Bytes::copy_from_slice(data)) {
        Ok(reply) => {
            let mut written = BytesMut::new();
            reply.encode(&mut written);
            let again = Reply::decode(written.freeze());
            assert_eq!(again.as_ref(), Ok(&reply), "what is written is read back");
            match &reply {
                Reply::Tunnel(TunnelReply::Refused { code, .. }) => {
                    format!("refused-{}", word(code))
                }
                Reply::Tunnel(TunnelReply::Open { .. }) => "tunnel".to_owned(),
                reply => word(reply),
            }
        }
        Err(error) => label(&error),
    }
}

/// What may come before the answer to a request.
pub(crate) fn interim(data: &[u8]) -> String {
    match Interim::decode(Bytes::copy_from_slice(data)) {
        Ok(interim) => {
            let mut written = BytesMut::new();
            interim.encode(&mut written);
            let again = Interim::decode(written.freeze());
            assert_eq!(again.as_ref(), Ok(&interim), "what is written is read back");
            word(&interim)
        }
        Err(error) => label(&error),
    }
}

/// The kind of the error and the field that it is about.
fn label(error: &DecodeError) -> String {
    let about = match error {
        DecodeError::Truncated { field }
        | DecodeError::Missing { field }
        | DecodeError::Invalid { field, .. } => field,
        DecodeError::UnknownKind { message, .. } => message,
        DecodeError::UnknownCritical { .. } | DecodeError::Order { .. } => "number",
    };
    format!("{}-{}", word(error), hyphened(about))
}
