//! What a proxy must know of gRPC: that a call is one, and its status.
//!
//! Source: "gRPC over HTTP2", doc/PROTOCOL-HTTP2.md of grpc/grpc, and doc/statuscodes.md.

use isthmus_codec::Fields;
use isthmus_telemetry::{RefusalReason, Retry};

use crate::refusal::Refusal;

/// Carries the status, in the trailers, or in the head of a reply without a body.
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Is a message with these fields part of a gRPC call? gRPC-Web is none: its status is in the body.
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    fields.find("content-type").is_some_and(|kind| {
        let rest = kind.strip_prefix(b"application/grpc");
        matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
    })
}

/// The status that trailers, or the head of a reply without a body, carry.
pub(crate) fn status(fields: &Fields) -> Option<u16> {
    std::str::from_utf8(fields.find(STATUS)?).ok()?.parse().ok()
}

/// What a gRPC status says in the words of HTTP, for those who judge a try by them: is the server at
/// fault, and was it not there at all?
pub(crate) fn as_http(status: u16) -> u16 {
    match status {
        // UNKNOWN, INTERNAL, DATA_LOSS
        2 | 13 | 15 => 500,
        // UNAVAILABLE
        14 => 503,
        // DEADLINE_EXCEEDED
        4 => 504,
        _ => 200,
    }
}

/// A refusal as gRPC clients know it: fields of a reply without a body, with HTTP status 200.
pub(crate) fn refused(refusal: &Refusal, at: &str) -> Fields {
    let reason = refusal.reason;
    let mut message = format!("{}: {} {}", reason.code(), reason.meaning(), refusal.detail);
    message.truncate(message.trim_end().len());
    let mut fields = Fields::new();
    for (name, value) in [
        ("content-type", "application/grpc".to_owned()),
        (STATUS, status_of(reason).to_string()),
        (MESSAGE, percent_encoded(&message)),
        (crate::refusal::REFUSAL_FIELD, reason.code().to_owned()),
        (crate::refusal::AT_FIELD, at.to_owned()),
    ] {
        // Visible ASCII all of them.
        let _ = fields.push(name, value);
    }
    fields
}

/// The trailers of a call that the mesh ends after its reply has begun.
pub(crate) fn ended(reason: RefusalReason) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in [
        (STATUS, status_of(reason).to_string()),
        (MESSAGE, percent_encoded(reason.meaning())),
        (crate::refusal::REFUSAL_FIELD, reason.code().to_owned()),
    ] {
        // Visible ASCII all of them.
        let _ = fields.push(name, value);
    }
    fields
}

/// The status by which a client is told: UNAVAILABLE only where another try does no harm.
pub(crate) fn status_of(reason: RefusalReason) -> u16 {
    match (reason, reason.status()) {
        (RefusalReason::RequestTimeout, _) => 4,
        (RefusalReason::NotAuthorized | RefusalReason::NotExported, _) => 7,
        (
            RefusalReason::MalformedRequest
            | RefusalReason::UpstreamReset
            | RefusalReason::BadUpstreamReply,
            _,
        ) => 13,
        (_, 404) => 12,
        (_, 414 | 431) => 8,
        _ if reason.retry() == Retry::Safe => 14,
        _ => 2,
    }
}

/// As the specification wants `grpc-message`: visible ASCII but `%` as it is.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    encoded
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &'static str, value: &'static str) -> Fields {
        let mut fields = Fields::new();
        fields.push(name, value).unwrap();
        fields
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (kind, expect) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&fields("content-type", kind)), expect, "{kind}");
        }
        assert!(!is_grpc(&Fields::new()));
    }

    #[test]
    fn a_refusal_is_a_status_and_a_message() {
        let refusal = Refusal::new(RefusalReason::NoHealthyWorkload, "100 % of küche");
        let fields = refused(&refusal, "cart-1");
        assert_eq!(status(&fields), Some(14));
        let message = fields.find(MESSAGE).unwrap();
        assert!(message.ends_with(b"100 %25 of k%C3%BCche"), "{message:?}");
        assert_eq!(
            fields.find("x-isthmus-refusal").unwrap(),
            "no-healthy-workload"
        );
    }

    #[test]
    fn unavailable_is_said_only_where_another_try_is_safe() {
        for &reason in RefusalReason::ALL {
            let is_safe = reason.retry() == Retry::Safe;
            assert!(status_of(reason) != 14 || is_safe, "{reason}");
        }
        assert_eq!(status_of(RefusalReason::RequestTimeout), 4);
        assert_eq!(status_of(RefusalReason::MaybeExecuted), 2);
        assert_eq!(status_of(RefusalReason::NotAuthorized), 7);
    }
}
