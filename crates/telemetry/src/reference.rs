//! The reference pages that are written from the tables of this crate.

use std::fmt::Write as _;

use crate::{AccessRecord, CONTROL_METRICS, METRICS, MetricKind, MetricName, RefusalReason};

const NOTE: &str =
    "<!-- Written from crate `telemetry` by `make reference`; edit it there. -->\n\n";

/// `docs/reference/metrics.md`.
pub fn metrics() -> String {
    let mut page = format!("# Metrics\n\n{NOTE}");
    page.push_str(
        "Every proxy, gateway and control plane serves its metrics in the OpenMetrics text format at \
         `http://<its address>:15020/metrics`.\n\n\
         ## Proxies and gateways\n\n\
         `reporter` says which side of a call counted it: `source`, `destination` or `gateway`. \
         Services are `namespace/name`; what a side cannot know is `unknown`, and a host outside \
         the mesh `outside`. A process tells a \
         bounded number of label sets apart; the rest are counted as `other`, and how many that \
         were in `isthmus_label_overflow_total`.\n\n",
    );
    metric_table(&mut page, &METRICS);
    page.push_str("\n## Control planes\n\nOf the cluster that answers, and of the others as it sees them.\n\n");
    metric_table(&mut page, &CONTROL_METRICS);
    page
}

fn metric_table(page: &mut String, metrics: &[MetricName]) {
    page.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
        row(page, format_args!("`{name}` | {kind} | {labels} | {help}"));
    }
}

/// `docs/reference/access-log.md`.
pub fn access_log() -> String {
    let mut page = format!("# Access log\n\n{NOTE}");
    page.push_str(
        "One JSON object per line for every request and TCP connection that has ended. Every line \
         has every field, in this order; what is not known is `null`.\n\n\
         | field | meaning |\n|---|---|\n",
    );
    for field in AccessRecord::FIELDS {
        row(
            &mut page,
            format_args!("`{}` | {}", field.name, field.meaning),
        );
    }
    page
}

/// `docs/reference/refusals.md`.
pub fn refusals() -> String {
    let mut page = format!("# Refusals\n\n{NOTE}");
    page.push_str(
        "When the mesh itself ends a request, its reply carries `x-isthmus-refusal: <reason>` and \
         `x-isthmus-at: <proxy>`; replies of applications never do. `fault` says who has to act, \
         `retry` whether the caller may send the request again: `safe` means that it never reached \
         the application.\n\n\
         | reason | status | fault | retry | what happened | what to do |\n|---|---|---|---|---|---|\n",
    );
    for &reason in RefusalReason::ALL {
        let cells = [
            format!("`{reason}`"),
            reason.status().to_string(),
            reason.fault().name().to_owned(),
            reason.retry().name().to_owned(),
            escape(reason.meaning()),
            escape(reason.advice()),
        ];
        row(&mut page, format_args!("{}", cells.join(" | ")));
    }
    page
}

fn row(page: &mut String, cells: std::fmt::Arguments<'_>) {
    writeln!(page, "| {cells} |").expect("writing into a string cannot fail");
}

/// `<service>` would be read as HTML.
fn escape(text: &str) -> String {
    let mut code = false;
    text.chars().fold(String::new(), |mut out, c| {
        code ^= c == '`';
        match c {
            '<' if !code => out.push_str("&lt;"),
            c => out.push(c),
        }
        out
    })
}
