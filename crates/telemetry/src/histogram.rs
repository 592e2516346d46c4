//! A histogram of durations.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::tally::{Hand, Tally};

/// Upper bounds in microseconds, inclusive: from a loopback call to a request that hangs.
const BOUNDS: [u32; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// One sum per bound, one for what lies above them all, and the sum of all microseconds.
const SUMS: usize = BOUNDS.len() + 2;
const MICROS: usize = SUMS - 1;

/// Cheap to clone; clones are the same buckets.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurationHistogram(Tally<SUMS>);

/// One who fills it.
#[derive(Debug)]
pub(crate) struct Durations(Hand<SUMS>);

impl DurationHistogram {
    pub(crate) fn hand(&self) -> Durations {
        Durations(self.0.hand())
    }
}

impl Durations {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|&bound| u64::from(bound) < micros);
        self.0.add(bucket, 1);
        self.0.add(MICROS, micros);
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let sums = self.0.sums();
        // Their sum is the count, although writers go on.
        let counts = &sums[..MICROS];
        let bounds = BOUNDS.iter().map(|&micros| f64::from(micros) / 1e6);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(counts.iter().copied())
            .collect();
        let sum = Duration::from_micros(sums[MICROS]).as_secs_f64();
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
            histogram.hand().observe(Duration::from_micros(micros));
            let filled: Vec<usize> = (0..=BOUNDS.len())
                .filter(|&index| histogram.0.sums()[index] == 1)
                .collect();
            assert_eq!(filled, [bucket], "{micros} µs");
        }
    }
}
