//! A workload's latency estimate: peak EWMA (Finagle's, after "The power of two choices" with a
//! moving average that follows bad news at once and good news slowly).

use std::time::{Duration, Instant};

use crate::constants::{LATENCY_DECAY, LATENCY_FLOOR};

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PeakEwma {
    /// Seconds, and when they were so. `None`: never measured.
    estimate: Option<(f64, Instant)>,
}

impl PeakEwma {
    /// A higher sample replaces the estimate; a lower one draws it down with the time constant
    /// [`LATENCY_DECAY`].
    pub(crate) fn observe(&mut self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64();
        let estimate = match self.estimate {
            Some((known, at)) if sample < known => {
                let kept = kept(at, now);
                known * kept + sample * (1.0 - kept)
            }
            Some(_) | None => sample,
        };
        self.estimate = Some((estimate, now));
    }

    /// In seconds, at least [`LATENCY_FLOOR`]. What is not measured again fades, so that a workload
    /// that was once slow is tried again. `None`: never measured.
    pub(crate) fn estimate(&self, now: Instant) -> Option<f64> {
        let (known, at) = self.estimate?;
        Some((known * kept(at, now)).max(LATENCY_FLOOR.as_secs_f64()))
    }
}

fn kept(at: Instant, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(at).as_secs_f64();
    (-passed / LATENCY_DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(estimate: Option<f64>, ms: f64) -> bool {
        estimate.is_some_and(|seconds| (seconds * 1e3 - ms).abs() < 0.05)
    }

    #[test]
    fn bad_news_at_once_and_good_news_with_time() {
        let (mut latency, start) = (PeakEwma::default(), Instant::now());
        assert_eq!(latency.estimate(start), None);
        latency.observe(10 * MS, start);
        assert!(near(latency.estimate(start), 10.0));
        latency.observe(100 * MS, start);
        assert!(near(latency.estimate(start), 100.0));
        latency.observe(10 * MS, start);
        assert!(near(latency.estimate(start), 100.0), "no time has passed");
        let later = start + LATENCY_DECAY;
        latency.observe(10 * MS, later);
        let e = (-1.0f64).exp();
        assert!(near(latency.estimate(later), 100.0 * e + 10.0 * (1.0 - e)));
    }

    #[test]
    fn what_is_not_measured_fades_to_the_floor() {
        let (mut latency, start) = (PeakEwma::default(), Instant::now());
        latency.observe(100 * MS, start);
        let e = (-1.0f64).exp();
        assert!(near(latency.estimate(start + LATENCY_DECAY), 100.0 * e));
        assert!(near(latency.estimate(start + 100 * LATENCY_DECAY), 0.1));
    }
}
