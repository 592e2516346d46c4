//! How the mesh says no to a request.
//!
//! Whatever ends a request becomes one [`Refusal`], and this is the only place that renders it:
//! status, `x-isthmus-refusal`, `x-isthmus-at`, and a JSON body for people.

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
}

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
            // RFC 9110 section 10.2.3, in seconds: none of these reasons lasts by nature.
            let _ = fields.push("retry-after", "1");
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
