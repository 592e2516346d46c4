//! docs/reference/resources.md, made from the types and lists that the code itself works with.

use std::fmt::Write as _;
use std::time::Duration;

use isthmus_model::{
    Algorithm, Egress, HashOn, HealthProbe, Kind, LocalityOrder, RetryOn, TrafficSettings,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use crate::kinds::{
    ClusterSpec, LinkSpec, MeshSpec, ServiceExportSpec, TrafficPolicySpec, WorkloadSpec,
    WorkloadStatus,
};
use crate::resolve::{ACCOUNTS_ANNOTATION, SIGNATURE_ANNOTATION};
use crate::standard::{self, Supported};

const HEAD: &str = "\
# Resources

<!-- Generated: cargo run -q -p isthmus-manifest --example reference > docs/reference/resources.md -->

What can be written in resource files and sent to the API. A field that is not listed is an error,
never ignored. Durations are written as in the Gateway API: `500ms`, `10s`, `1h30m`. `status` is
written by the mesh; what a file says there has no effect.
";

/// The whole text of docs/reference/resources.md.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    text += "\n## metadata\n\nOf every kind.\n\n";
    table(&mut text, "metadata.", standard::METADATA);
    for kind in Kind::ALL {
        let scope = if kind.namespaced() {
            "in a namespace"
        } else {
            "in no namespace"
        };
        let _ = write!(
            text,
            "\n## {kind}\n\n`apiVersion: {}`, {scope}.",
            kind.api_version()
        );
        of_kind(&mut text, kind);
        if kind.is_of_clusters() {
            text += OF_CLUSTERS;
        }
    }
    text
}

const OF_CLUSTERS: &str = "
One may belong to a cluster, and holds for callers and workloads of that cluster only: `isthmus apply --origin CLUSTER`, in the API under
`/clusters/<cluster>/apis/…`. That cluster accepts it itself, also while it is cut off. `status.origin` names it.
";

fn of_kind(text: &mut String, kind: Kind) {
    match kind {
        Kind::Mesh => {
            own::<MeshSpec>(text, "spec");
            signed(text, "`egress` and `voters`");
        }
        Kind::Cluster => {
            own::<ClusterSpec>(text, "spec");
            signed(text, "`jurisdiction`, `namespaces` and `revoked`");
        }
        Kind::Link => own::<LinkSpec>(text, "spec"),
        Kind::ServiceExport => own::<ServiceExportSpec>(text, "spec"),
        Kind::TrafficPolicy => own::<TrafficPolicySpec>(text, "spec"),
        Kind::Workload => {
            own::<WorkloadSpec>(text, "spec");
            text.push_str("\n`status`:");
            own::<WorkloadStatus>(text, "status");
        }
        Kind::Namespace => foreign(text, "A Kubernetes Namespace.", standard::NAMESPACE),
        Kind::Service => {
            let about = format!(
                "A Kubernetes Service. The annotation `{ACCOUNTS_ANNOTATION}: a,b` names the \
                 service accounts that its workloads may run as; the default is the account of the \
                 service's name."
            );
            foreign(text, &about, standard::SERVICE);
        }
        Kind::HttpRoute => {
            let about = "An HTTPRoute of the Gateway API, bound to services of its own namespace.";
            foreign(text, about, standard::HTTP_ROUTE);
        }
    }
}

fn signed(text: &mut String, fields: &str) {
    let _ = write!(
        text,
        "\nName, {fields} bind the whole mesh and hold only as the mesh key has signed them, in the annotation \
         `{SIGNATURE_ANNOTATION}: <serial>:<digits>`. `isthmus apply` signs what changes where the mesh key is; \
         `isthmus mesh sign -f FILE` does it for whoever writes without it. Other terms with a lower serial than \
         was seen of the object, also before it was deleted, hold no more, and no object is given an older signature \
         than it has.\n"
    );
}

fn foreign(text: &mut String, about: &str, fields: &[Supported]) {
    let _ = write!(
        text,
        " {about} Of `spec`, these fields are carried out:\n\n"
    );
    table(text, "spec.", fields);
}

fn table(text: &mut String, prefix: &str, fields: &[Supported]) {
    text.push_str("| field | meaning |\n|---|---|\n");
    for (path, meaning) in fields {
        let _ = writeln!(text, "| `{prefix}{path}` | {meaning} |");
    }
}

fn own<S: JsonSchema>(text: &mut String, root: &str) {
    let schema = SchemaGenerator::default()
        .into_root_schema_for::<S>()
        .to_value();
    let _ = write!(text, " {}\n\n", one_line(&schema["description"]));
    let mut rows = Vec::new();
    fields(&schema, &schema["$defs"], root, &mut rows);
    text.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            row.path, row.form, row.default, row.meaning
        );
    }
}

struct Row {
    path: String,
    form: String,
    default: String,
    meaning: String,
}

fn fields(schema: &Value, definitions: &Value, path: &str, rows: &mut Vec<Row>) {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (form, inner) = form(field, definitions);
        let list = if form.starts_with("list") { "[]" } else { "" };
        let path = format!("{path}.{name}");
        let meaning = match one_line(&field["description"]) {
            none if none.is_empty() => inner.map(|it| one_line(&it["description"])),
            meaning => Some(meaning),
        };
        let must = required.iter().any(|it| it == name);
        rows.push(Row {
            default: if must {
                "required".to_owned()
            } else {
                default(&path).unwrap_or_default()
            },
            path: path.clone(),
            form,
            meaning: meaning.unwrap_or_default(),
        });
        if let Some(inner) = inner {
            fields(inner, definitions, &format!("{path}{list}"), rows);
        }
    }
}

/// What a field holds, in words, and the schema of the object in it.
fn form<'a>(field: &'a Value, definitions: &'a Value) -> (String, Option<&'a Value>) {
    if let Some(name) = field["$ref"]
        .as_str()
        .and_then(|it| it.strip_prefix("#/$defs/"))
    {
        return form(&definitions[name], definitions);
    }
    // `Option<T>` of a named type: T or null.
    if let Some(some) = field["anyOf"].as_array().and_then(|any| any.first()) {
        return form(some, definitions);
    }
    if let Some(names) = field["enum"].as_array() {
        let names: Vec<String> = names.iter().map(|it| format!("`{}`", plain(it))).collect();
        return (names.join(", "), None);
    }
    if let Some(format @ ("duration" | "ip:port")) = field["format"].as_str() {
        return (format.to_owned(), None);
    }
    let named = match &field["type"] {
        Value::Array(names) => names.first().unwrap_or(&Value::Null),
        name => name,
    };
    match named.as_str() {
        Some("array") => {
            let (of, inner) = form(&field["items"], definitions);
            (format!("list of {of}"), inner)
        }
        Some("object") if field["properties"].is_object() => ("object".to_owned(), Some(field)),
        Some("string") => ("text".to_owned(), None),
        Some("integer") => ("whole number".to_owned(), None),
        other => (other.unwrap_or("object").to_owned(), None),
    }
}

/// The built-in default of a field, as it would be written.
fn default(path: &str) -> Option<String> {
    let TrafficSettings {
        algorithm,
        hash_on,
        locality_order,
        retry,
        timeout,
        limits,
        outlier,
        health_check,
    } = TrafficSettings::default();
    let text = match path {
        "spec.egress" => match Egress::default() {
            Egress::Deny => "Deny".to_owned(),
            Egress::Allow => "Allow".to_owned(),
        },
        "spec.loadBalancing.algorithm" => match algorithm {
            Algorithm::PeakEwma => "PeakEWMA".to_owned(),
            Algorithm::RoundRobin => "RoundRobin".to_owned(),
            Algorithm::LeastRequest => "LeastRequest".to_owned(),
            Algorithm::RingHash => "RingHash".to_owned(),
            Algorithm::Maglev => "Maglev".to_owned(),
        },
        "spec.loadBalancing.hashOn" => match hash_on {
            HashOn::Header(name) => format!("header: {name}"),
            HashOn::Cookie { name, .. } => format!("cookie: {name}"),
            HashOn::Source => "source: {}".to_owned(),
        },
        "spec.locality.order" => match locality_order {
            LocalityOrder::Nearest => "Nearest".to_owned(),
            LocalityOrder::LocalOnly => "LocalOnly".to_owned(),
        },
        "spec.retry.attempts" => retry.attempts.to_string(),
        "spec.retry.budgetPercent" => retry.budget.value().to_string(),
        "spec.retry.on" => {
            let names: Vec<&str> = retry.on.into_iter().map(reason).collect();
            format!("[{}]", names.join(", "))
        }
        "spec.retry.hedge" => retry.hedge.to_string(),
        "spec.timeout.request" => duration(timeout.request),
        "spec.timeout.perTry" => duration(timeout.per_try),
        "spec.timeout.connect" => duration(timeout.connect),
        "spec.timeout.idle" => duration(timeout.idle),
        "spec.limits.connections" => limit(limits.connections)?,
        "spec.limits.pending" => limit(limits.pending)?,
        "spec.limits.requests" => limit(limits.requests)?,
        "spec.outlier.consecutiveErrors" => outlier.consecutive_errors.to_string(),
        "spec.outlier.baseEjection" => duration(outlier.base_ejection),
        "spec.outlier.maxEjectedPercent" => outlier.max_ejected.value().to_string(),
        "spec.outlier.panicPercent" => outlier.panic.value().to_string(),
        "spec.healthCheck" => match health_check.probe {
            HealthProbe::Tcp => "tcp: {}".to_owned(),
            HealthProbe::Http { path } => format!("http: {{path: {path}}}"),
            HealthProbe::Grpc { service } => format!("grpc: {{service: {service}}}"),
        },
        "spec.healthCheck.interval" => duration(health_check.interval),
        "spec.healthCheck.timeout" => duration(health_check.timeout),
        _ => return None,
    };
    Some(format!("`{text}`"))
}

fn limit(limit: Option<u32>) -> Option<String> {
    limit.map(|limit| limit.to_string())
}

fn reason(reason: RetryOn) -> &'static str {
    match reason {
        RetryOn::ConnectFailure => "ConnectFailure",
        RetryOn::Refused => "Refused",
        RetryOn::Reset => "Reset",
        RetryOn::GatewayError => "GatewayError",
        RetryOn::Unavailable => "Unavailable",
    }
}

fn duration(duration: Duration) -> String {
    gateway_api::Duration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |duration| duration.to_string())
}

fn one_line(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let written = include_str!("../../../docs/reference/resources.md");
        assert!(
            written == reference(),
            "docs/reference/resources.md is stale; run\n  cargo run -q -p isthmus-manifest \
             --example reference > docs/reference/resources.md"
        );
    }

    #[test]
    fn every_setting_has_its_default_in_it() {
        let text = reference();
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| `spec.") && line.contains("| `"));
        for field in [
            "egress",
            "algorithm",
            "hashOn",
            "order",
            "attempts",
            "budgetPercent",
            "on",
            "request",
            "perTry",
            "connect",
            "consecutiveErrors",
            "baseEjection",
            "maxEjectedPercent",
            "healthCheck",
            "interval",
        ] {
            let path = format!(".{field}`");
            let row = rows.clone().find(|row| {
                row.contains(&path) && row.split('|').nth(3).is_some_and(|cell| cell.contains('`'))
            });
            assert!(row.is_some(), "{field}");
        }
    }
}
