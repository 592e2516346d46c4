//! How the mesh says no to a request.
//!
//! Whatever ends a request becomes one [`Refusal`], and this is the only place that renders it:
//! status, `x-isthmus-refusal`, `x-isthmus-at`, and a JSON body for people.

use std::time::Duration;

use bytes::Bytes;
use isthmus_codec::Fields;
use isthmus_codec::http1::Malformed;
use isthmus_codec::memory::MemoryBudget;
use isthmus_telemetry::RefusalReason;
use serde_json::json;

/// Carries the refusal's code.
pub(crate) const REFUSAL_FIELD: &str = "x-isthmus-refusal";
/// Carries the name of the proxy that refused.
pub(crate) const AT_FIELD: &str = "x-isthmus-at";

/// What fields of the mesh's own begin with.
const OF_MESH: &[u8] = b"x-isthmus-";

/// Is this field one that only proxies write?
pub(crate) fn is_of_mesh(name: &[u8]) -> bool {
    name.get(..OF_MESH.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OF_MESH))
}

/// The mesh ends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    /// What exactly, for people: names, addresses, limits.
    pub(crate) detail: String,
    /// When it might be otherwise, as far as that is known.
    retry_after: Option<Duration>,
}

/// `Retry-After` is at least and at most so many seconds (RFC 9110 section 10.2.3). Longer ones would
/// outlive what they are about: nothing of which a proxy knows the end takes longer, and what takes
/// longer may end at any moment.
const RETRY_AFTER_SECONDS: (u64, u64) = (1, 30);

/// A refusal as a message.
pub(crate) struct Rendered {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Bytes,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// All memory that this process may hold for others is taken.
    pub(crate) fn no_memory(memory: &MemoryBudget) -> Self {
        let detail = format!(
            "all of the {} KiB that this proxy may hold for others are taken (`memory` in its file)",
            memory.limit() >> 10
        );
        Self::new(RefusalReason::Overloaded, detail)
    }

    /// It might be otherwise after that. `draw`, uniformly distributed, makes it up to half as long again:
    /// those who are refused together must not come back together.
    pub(crate) fn after(mut self, wait: Duration, draw: u64) -> Self {
        // Of a half, in 65,536 steps.
        let part =
            f64::from(u16::try_from(draw >> 48).unwrap_or(u16::MAX)) / f64::from(u16::MAX) / 2.0;
        let wait = wait.min(Duration::from_secs(RETRY_AFTER_SECONDS.1));
        self.retry_after = Some(wait.mul_f64(1.0 + part));
        self
    }

    /// In whole seconds, rounded up.
    fn retry_after(&self) -> u64 {
        let wait = self.retry_after.unwrap_or_default();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let (least, most) = RETRY_AFTER_SECONDS;
        seconds.clamp(least, most)
    }

    /// A client sent what is no HTTP.
    pub(crate) fn malformed(malformed: Malformed) -> Self {
        let reason = match malformed.status() {
            414 => RefusalReason::UriTooLong,
            431 => RefusalReason::HeadTooLarge,
            505 => RefusalReason::HttpVersionNotSupported,
            _ => RefusalReason::MalformedRequest,
        };
        Self::new(reason, malformed.to_string())
    }

    /// `at`: the name of this proxy.
    pub(crate) fn render(&self, at: &str) -> Rendered {
        let body = json!({
            "refusal": self.reason.code(),
            "at": at,
            "message": self.reason.meaning(),
            "detail": self.detail,
            "next": self.reason.advice(),
        });
        let body = Bytes::from(format!("{body}\n"));
        let mut fields = Fields::new();
        let length = body.len().to_string();
        if self.reason.status() == 503 {
            // Digits are a value.
            let _ = fields.push("retry-after", self.retry_after().to_string());
        }
        for (name, value) in [
            ("content-type", "application/json"),
            ("content-length", length.as_str()),
            (REFUSAL_FIELD, self.reason.code()),
            (AT_FIELD, at),
        ] {
            // A name with control characters is refused when the configuration is read.
            let _ = fields.push(name, value.to_owned());
        }
        Rendered {
            status: self.reason.status(),
            fields,
            body,
        }
    }
}

impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Self {
        Self::new(reason, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_told_when_to_come_again() {
        let refusal = || Refusal::new(RefusalReason::Overloaded, "");
        assert_eq!(refusal().retry_after(), 1);
        for (wait, draw, expect) in [
            (0, u64::MAX, 1),
            (900, 0, 1),
            (1000, 0, 1),
            (1000, 1 << 63, 2),
            (1001, 0, 2),
            (4000, u64::MAX, 6),
            (29_000, u64::MAX, 30),
            (300_000, 0, 30),
        ] {
            let told = refusal().after(Duration::from_millis(wait), draw);
            assert_eq!(told.retry_after(), expect, "{wait} ms, {draw}");
        }
    }
}
