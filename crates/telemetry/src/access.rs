//! The access log: one record per request or TCP connection, one JSON object per line.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use isthmus_model::{ClusterName, Handle, ServiceName};
use serde_json::{Map, Value};

use crate::flow::OUTSIDE;
use crate::{RefusalReason, Reporter, Source};

/// What is known about a request or connection when it has ended. `None` is logged as `null`, so
/// that every line has the same fields.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRecord {
    pub started: SystemTime,
    pub took: Duration,
    pub reporter: Reporter,
    /// As the caller sent it in `x-request-id`.
    pub request_id: Option<Bytes>,
    /// `http/1.1`, `http/2` or `tcp`: what the program beside the reporter speaks.
    pub protocol: &'static str,
    pub source: Option<Rc<Source>>,
    pub destination_service: Option<ServiceName>,
    pub destination_cluster: Option<ClusterName>,
    pub destination_workload: Option<Handle>,
    /// The destination is no service of the mesh.
    pub outside: bool,
    pub method: Option<Bytes>,
    pub authority: Option<Bytes>,
    pub path: Option<Bytes>,
    /// `namespace/name` of the route that matched.
    pub route: Option<Arc<str>>,
    pub response_code: Option<u16>,
    /// Of a gRPC call that has got one.
    pub grpc_status: Option<u16>,
    pub refusal: Option<RefusalReason>,
    /// The proxy or gateway that refused.
    pub refused_at: Option<String>,
    /// How often it was sent; 0 if it was refused before.
    pub attempts: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// One field of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessField {
    pub name: &'static str,
    pub meaning: &'static str,
}

const fn field(name: &'static str, meaning: &'static str) -> AccessField {
    AccessField { name, meaning }
}

impl AccessRecord {
    /// Every field, in the order of the line.
    pub const FIELDS: [AccessField; 22] = [
        field(
            "time",
            "start of the request, UTC, RFC 3339 with milliseconds",
        ),
        field("duration_ms", "until the last byte of the reply"),
        field("reporter", "`source`, `destination` or `gateway`"),
        field("request_id", "`x-request-id` as the caller sent it"),
        field(
            "protocol",
            "`http/1.1`, `http/2` or `tcp`: what the program beside the reporter speaks",
        ),
        field(
            "source_identity",
            "the caller's SPIFFE id, proven by its certificate",
        ),
        field("source_service", "`namespace/name`"),
        field("source_cluster", "where the caller runs"),
        field(
            "destination_service",
            "`namespace/name`; `outside` if it is none of the mesh",
        ),
        field("destination_cluster", "where it was served"),
        field(
            "destination_workload",
            "handle of the workload that served it",
        ),
        field("method", "request method"),
        field("authority", "host and port that were called"),
        field("path", "request target without its query"),
        field("route", "`namespace/name` of the route that matched"),
        field("response_code", "status that the caller saw"),
        field("grpc_status", "of a gRPC call that has got one"),
        field("refusal", "the mesh's reason, if it refused"),
        field("refused_at", "proxy or gateway that refused"),
        field("attempts", "times it was sent; 0 if refused before"),
        field("request_bytes", "body bytes towards the destination"),
        field("response_bytes", "body bytes towards the source"),
    ];

    /// One JSON object and a newline.
    pub fn to_json_line(&self) -> String {
        let source = self.source.as_deref();
        let values: [Value; Self::FIELDS.len()] = [
            rfc3339(self.started).into(),
            (self.took.as_secs_f64() * 1e3).into(),
            self.reporter.name().into(),
            lossy(self.request_id.as_ref()),
            self.protocol.into(),
            text(source.map(|source| &source.identity)),
            text(source.and_then(|source| source.service.as_ref())),
            text(source.map(|source| &source.cluster)),
            if self.outside {
                OUTSIDE.into()
            } else {
                text(self.destination_service.as_ref())
            },
            text(self.destination_cluster.as_ref()),
            text(self.destination_workload.as_ref()),
            lossy(self.method.as_ref()),
            lossy(self.authority.as_ref()),
            lossy(self.path.as_ref()),
            self.route.as_deref().into(),
            self.response_code.into(),
            self.grpc_status.into(),
            self.refusal.map(RefusalReason::code).into(),
            self.refused_at.as_deref().into(),
            self.attempts.into(),
            self.request_bytes.into(),
            self.response_bytes.into(),
        ];
        let names = Self::FIELDS.iter().map(|field| field.name.to_owned());
        let object: Map<String, Value> = names.zip(values).collect();
        format!("{}\n", Value::Object(object))
    }
}

/// What is not UTF-8 is shown as such.
fn lossy(value: Option<&Bytes>) -> Value {
    value.map(|value| String::from_utf8_lossy(value)).into()
}

fn text(value: Option<&impl ToString>) -> Value {
    value.map(ToString::to_string).into()
}

/// A moment as people and programs write it: UTC with milliseconds (RFC 3339); what lies before 1970 is shown as its first instant.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are
/// counted from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let day = days + DAYS_TO_1970;
    let (era, day) = (day / DAYS_IN_400_YEARS, day % DAYS_IN_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let next_year = u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::frontend;

    #[test]
    fn times() {
        for (seconds, millis, expect) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_704_067_199, 5, "2023-12-31T23:59:59.005Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000);
            assert_eq!(rfc3339(time), expect);
        }
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn a_line_has_every_field_in_order_and_stays_one_line() {
        let record = AccessRecord {
            started: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            took: Duration::from_micros(1_500),
            reporter: Reporter::Source,
            request_id: Some("a\n\"b".into()),
            protocol: "http/1.1",
            source: Some(frontend("us-west").into()),
            destination_service: None,
            destination_cluster: None,
            destination_workload: Some(Handle::new("w1")),
            outside: false,
            method: Some("GET".into()),
            authority: None,
            path: Some("/".into()),
            route: None,
            response_code: Some(404),
            grpc_status: None,
            refusal: Some(RefusalReason::NoSuchService),
            refused_at: None,
            attempts: 0,
            request_bytes: 0,
            response_bytes: u64::MAX,
        };
        let line = record.to_json_line();
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let names: Vec<&str> = parsed.keys().map(String::as_str).collect();
        let expect: Vec<&str> = AccessRecord::FIELDS.iter().map(|f| f.name).collect();
        assert_eq!(names, expect);
        for (name, expect) in [
            ("time", Value::from("2023-11-14T22:13:20.123Z")),
            ("duration_ms", 1.5.into()),
            ("request_id", "a\n\"b".into()),
            ("source_service", "shop/frontend".into()),
            ("destination_service", Value::Null),
            ("destination_workload", "w1".into()),
            ("response_code", 404.into()),
            ("refusal", "no-such-service".into()),
            ("response_bytes", u64::MAX.into()),
        ] {
            assert_eq!(parsed[name], expect, "{name}");
        }
        let left = AccessRecord {
            outside: true,
            ..record
        };
        let parsed: Value = serde_json::from_str(&left.to_json_line()).unwrap();
        assert_eq!(parsed["destination_service"], "outside");
    }
}
