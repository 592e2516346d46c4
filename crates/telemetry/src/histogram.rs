//! A histogram of durations that many threads fill without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in microseconds, inclusive: from a loopback call to a request that hangs.
const BOUNDS: [u32; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Cheap to clone; clones count into the same buckets.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurationHistogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// One per bound, and a last one for what lies above them all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl DurationHistogram {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|&bound| u64::from(bound) < micros);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum_micros.fetch_add(micros, Relaxed);
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        // Read once, so that the count is the sum of the buckets although writers go on.
        let counts = self.0.counts.each_ref().map(|count| count.load(Relaxed));
        let bounds = BOUNDS.iter().map(|&micros| f64::from(micros) / 1e6);
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let sum = Duration::from_micros(self.0.sum_micros.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_nothing_is_lost() {
        for (micros, bucket) in [
            (0, 0),
            (500, 0),
            (501, 1),
            (1_000, 1),
            (30_000_000, 14),
            (30_000_001, 15),
            (u64::MAX, 15),
        ] {
            let histogram = DurationHistogram::default();
            histogram.observe(Duration::from_micros(micros));
            let filled: Vec<usize> = (0..=BOUNDS.len())
                .filter(|&index| histogram.0.counts[index].load(Relaxed) == 1)
                .collect();
            assert_eq!(filled, [bucket], "{micros} µs");
        }
    }
}
