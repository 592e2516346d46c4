//! Flows out of what proxies count: OpenMetrics text in, rates and latencies out. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// Whose calls to whom, as source proxies see them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    pub(crate) source: String,
    pub(crate) source_cluster: String,
    pub(crate) destination: String,
    pub(crate) destination_cluster: String,
}

/// What has been counted since the proxies began.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FlowCounts {
    pub(crate) requests: u64,
    /// Of these: 5xx, refused, or without an answer.
    pub(crate) errors: u64,
    /// Requests per upper bound in seconds, each including the smaller ones.
    buckets: Vec<(f64, u64)>,
}

pub(crate) type Flows = BTreeMap<FlowKey, FlowCounts>;

/// What happened between two looks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FlowRate {
    pub(crate) per_second: f64,
    pub(crate) errors_per_second: f64,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

type Labels = Vec<(String, String)>;

const REQUESTS: &str = "isthmus_requests_total";
const BUCKETS: &str = "isthmus_request_duration_seconds_bucket";

/// Adds what one proxy has counted as the source of requests.
pub(crate) fn add(flows: &mut Flows, text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else {
            continue;
        };
        if name != REQUESTS && name != BUCKETS {
            continue;
        }
        let label = |wanted: &str| {
            let found = labels.iter().find(|(name, _)| name == wanted);
            found.map_or(String::new(), |(_, value)| value.clone())
        };
        if label("reporter") != "source" {
            continue;
        }
        let key = FlowKey {
            source: label("source_service"),
            source_cluster: label("source_cluster"),
            destination: label("destination_service"),
            destination_cluster: label("destination_cluster"),
        };
        let counts = flows.entry(key).or_default();
        match name {
            REQUESTS => {
                counts.requests = counts.requests.saturating_add(value);
                let code = label("response_code");
                if !label("refusal").is_empty() || !code.starts_with(['1', '2', '3', '4']) {
                    counts.errors = counts.errors.saturating_add(value);
                }
            }
            _ => counts.add_bucket(&label("le"), value),
        }
    }
}

/// What happened from `before` to `after`, `elapsed` apart. Flows that stood still are left out.
pub(crate) fn rates(
    before: &Flows,
    after: &Flows,
    elapsed: Duration,
) -> BTreeMap<FlowKey, FlowRate> {
    let nothing = FlowCounts::default();
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    #[expect(
        clippy::cast_precision_loss,
        reason = "rates are shown with three digits"
    )]
    let per_second = |count: u64| count as f64 / seconds;
    let mut rates = BTreeMap::new();
    for (key, after) in after {
        let before = before.get(key).unwrap_or(&nothing);
        // A proxy that was restarted counts from zero: then there is less than before.
        let requests = after.requests.saturating_sub(before.requests);
        if requests == 0 {
            continue;
        }
        let rate = FlowRate {
            per_second: per_second(requests),
            errors_per_second: per_second(after.errors.saturating_sub(before.errors)),
            p50: quantile(before, after, 50),
            p99: quantile(before, after, 99),
        };
        rates.insert(key.clone(), rate);
    }
    rates
}

impl FlowCounts {
    fn add_bucket(&mut self, bound: &str, count: u64) {
        let Ok(bound) = bound.replace("+Inf", "inf").parse::<f64>() else {
            return;
        };
        let place = self
            .buckets
            .binary_search_by(|(each, _)| each.total_cmp(&bound));
        match place {
            Ok(index) => self.buckets[index].1 = self.buckets[index].1.saturating_add(count),
            Err(index) => self.buckets.insert(index, (bound, count)),
        }
    }

    fn bucket(&self, bound: f64) -> u64 {
        let found = self
            .buckets
            .iter()
            .find(|(each, _)| each.total_cmp(&bound).is_eq());
        found.map_or(0, |(_, count)| *count)
    }
}

/// The upper bound of the bucket that holds the quantile; `None`: it is beyond the last bound.
fn quantile(before: &FlowCounts, after: &FlowCounts, percent: u64) -> Option<Duration> {
    let count = |(bound, count): &(f64, u64)| count.saturating_sub(before.bucket(*bound));
    let total = after.buckets.last().map(count)?;
    let rank = total.saturating_mul(percent).div_ceil(100).max(1);
    let (bound, _) = after.buckets.iter().find(|bucket| count(bucket) >= rank)?;
    Duration::try_from_secs_f64(*bound).ok()
}

/// `name{label="value",…} number` of one line; samples of whole numbers only.
fn sample(line: &str) -> Option<(&str, Labels, u64)> {
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, Some(rest)),
        None => (line.split(' ').next()?, None),
    };
    let Some(mut rest) = rest else {
        let value = line.split(' ').nth(1)?;
        return Some((name, Vec::new(), value.parse().ok()?));
    };
    let mut labels = Vec::new();
    while let Some((label, behind)) = rest.split_once("=\"") {
        let (value, behind) = quoted(behind)?;
        labels.push((label.trim_start_matches(',').to_owned(), value));
        rest = behind;
        if rest.starts_with('}') {
            break;
        }
    }
    let value = rest.strip_prefix('}')?.trim_start().split(' ').next()?;
    Some((name, labels, value.parse().ok()?))
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: &str = "reporter=\"source\",source_service=\"shop/frontend\",source_cluster=\"us-west\",\
                        destination_service=\"shop/cart\",destination_cluster=\"eu-central\"";

    fn text(ok: u64, refused: u64, fast: u64) -> String {
        let all = ok + refused;
        format!(
            "# TYPE isthmus_requests counter\n\
             isthmus_requests_total{{{FLOW},response_code=\"200\",refusal=\"\"}} {ok}\n\
             isthmus_requests_total{{{FLOW},response_code=\"503\",refusal=\"no-healthy-workload\"}} {refused}\n\
             isthmus_requests_total{{reporter=\"destination\",response_code=\"200\"}} 999\n\
             isthmus_request_duration_seconds_bucket{{le=\"0.01\",{FLOW}}} {fast}\n\
             isthmus_request_duration_seconds_bucket{{le=\"0.25\",{FLOW}}} {all}\n\
             isthmus_request_duration_seconds_bucket{{le=\"+Inf\",{FLOW}}} {all}\n\
             isthmus_request_duration_seconds_sum{{{FLOW}}} 1.5\n\
             other 3\n# EOF\n"
        )
    }

    #[test]
    fn two_looks_make_a_rate() {
        let (mut before, mut after) = (Flows::new(), Flows::new());
        add(&mut before, &text(100, 0, 100));
        for _ in 0..2 {
            add(&mut after, &text(100, 5, 60));
        }
        let rates = rates(&before, &after, Duration::from_secs(2));
        let (key, rate) = rates.iter().next().unwrap();
        assert_eq!(
            (rates.len(), key.destination_cluster.as_str()),
            (1, "eu-central")
        );
        let shown = format!("{} {}", rate.per_second, rate.errors_per_second);
        assert_eq!(shown, "55 5");
        assert_eq!(
            rate.p50,
            Some(Duration::from_millis(250)),
            "20 of 110 were fast"
        );
        assert_eq!(rate.p99, Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_stands_still_or_makes_no_sense_is_left_out() {
        let mut flows = Flows::new();
        add(&mut flows, &text(100, 0, 100));
        assert!(rates(&flows, &flows, Duration::from_secs(1)).is_empty());
        for line in [
            "isthmus_requests_total{",
            "isthmus_requests_total{a=\"b",
            "isthmus_requests_total{} x",
            "}{",
            "é",
        ] {
            let mut flows = Flows::new();
            add(&mut flows, line);
            assert!(flows.is_empty(), "{line}");
        }
        let escaped = "isthmus_requests_total{reporter=\"source\",source_service=\"a\\\"}\\\\\"} 1";
        let mut flows = Flows::new();
        add(&mut flows, escaped);
        assert_eq!(flows.keys().next().unwrap().source, "a\"}\\");
    }
}
