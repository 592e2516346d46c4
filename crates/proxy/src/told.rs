//! What a caller who asks is told about its own request: how it was decided, in fields of its reply.
//! See docs/reference/explain.md.

use isthmus_balance::{Considered, Decision};
use isthmus_model::Backend;
use isthmus_route::Rule;
use isthmus_telemetry::AccessRecord;

/// A request that carries this field asks. It goes no further than the first proxy.
pub(crate) const TELL_FIELD: &str = "x-isthmus-tell";

/// What is kept for a caller who has asked, as far as the access log does not have it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    rule: Option<String>,
    backend: Option<String>,
    /// Of the first try, as all that follow.
    candidates: Option<String>,
    reason: Option<&'static str>,
}

impl Told {
    pub(crate) fn matched(&mut self, rule: &Rule) {
        self.rule = Some(rule_name(rule));
    }

    pub(crate) fn drawn(&mut self, backend: &Backend) {
        self.backend = Some(backend_name(backend));
    }

    pub(crate) fn considered(&mut self, decision: &Decision) {
        let candidates: Vec<String> = decision.candidates().iter().map(candidate).collect();
        self.candidates = Some(candidates.join(", "));
        self.reason = Some(decision.reason().code());
    }

    /// Names and values of the reply's fields; what is not known is left out.
    pub(crate) fn fields(&self, record: &AccessRecord) -> Vec<(&'static str, String)> {
        let cluster = record.destination_cluster.as_ref();
        let workload = record.destination_workload.as_ref();
        let fields = [
            (
                "x-isthmus-route",
                record.route.as_deref().map(str::to_owned),
            ),
            ("x-isthmus-rule", self.rule.clone()),
            ("x-isthmus-backend", self.backend.clone()),
            ("x-isthmus-candidates", self.candidates.clone()),
            ("x-isthmus-cluster", cluster.map(ToString::to_string)),
            ("x-isthmus-workload", workload.map(ToString::to_string)),
            ("x-isthmus-reason", self.reason.map(str::to_owned)),
            ("x-isthmus-attempts", Some(record.attempts.to_string())),
        ];
        let known = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        known.collect()
    }
}

/// Its name, else its place in the route, from 0.
pub(crate) fn rule_name(rule: &Rule) -> String {
    rule.name()
        .map_or_else(|| rule.index().to_string(), str::to_owned)
}

/// `shop/payment`, or `shop/payment:version=v2` for a subset.
fn backend_name(backend: &Backend) -> String {
    if backend.subset.is_all() {
        return backend.service.to_string();
    }
    format!("{}:{}", backend.service, backend.subset)
}

/// `eu-central 0/1 no-healthy-workload stale`: healthy of all workloads, then what speaks against
/// it, if anything does.
fn candidate(considered: &Considered) -> String {
    let share = &considered.share;
    let mut text = format!("{} {}/{}", share.cluster, share.healthy, share.total);
    let stale = considered.is_stale().then_some("stale");
    for word in considered.why_not().into_iter().chain(stale) {
        text.push(' ');
        text.push_str(word);
    }
    text
}
