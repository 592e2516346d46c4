//! Counters that many threads count into without sharing a line of memory.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// `N` sums over all who count. Cheap to clone; clones are the same sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally<const N: usize>(Arc<Mutex<Counted<N>>>);

#[derive(Debug)]
struct Counted<const N: usize> {
    /// Of those who count no more.
    ended: [u64; N],
    counting: Vec<Arc<Line<N>>>,
}

/// Made by the thread that counts: what lies beside it was allocated by the same, so no line of the
/// processor's cache is written by two.
#[derive(Debug)]
struct Line<const N: usize>([AtomicU64; N]);

/// One who counts: a thread at a time, so that nothing has to be locked for it.
#[derive(Debug)]
pub(crate) struct Hand<const N: usize> {
    line: Arc<Line<N>>,
    of: Tally<N>,
    /// Not `Sync`: two threads that add at once would lose one of the two.
    alone: PhantomData<Cell<u64>>,
}

impl<const N: usize> Tally<N> {
    /// One more who counts. Call it on the thread that will.
    pub(crate) fn hand(&self) -> Hand<N> {
        let line = Arc::new(Line(std::array::from_fn(|_| AtomicU64::new(0))));
        self.counted().counting.push(Arc::clone(&line));
        Hand {
            line,
            of: self.clone(),
            alone: PhantomData,
        }
    }

    pub(crate) fn sums(&self) -> [u64; N] {
        let counted = self.counted();
        let mut sums = counted.ended;
        for line in &counted.counting {
            line.add_to(&mut sums);
        }
        sums
    }

    fn counted(&self) -> MutexGuard<'_, Counted<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> Default for Counted<N> {
    fn default() -> Self {
        Self {
            ended: [0; N],
            counting: Vec::new(),
        }
    }
}

impl<const N: usize> Line<N> {
    fn add_to(&self, sums: &mut [u64; N]) {
        for (sum, count) in sums.iter_mut().zip(&self.0) {
            *sum = sum.wrapping_add(count.load(Relaxed));
        }
    }
}

impl<const N: usize> Hand<N> {
    /// Adds to the sum of this index.
    pub(crate) fn add(&self, index: usize, count: u64) {
        let sum = &self.line.0[index];
        sum.store(sum.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

/// What was counted stays counted.
impl<const N: usize> Drop for Hand<N> {
    fn drop(&mut self) {
        let mut counted = self.of.counted();
        counted
            .counting
            .retain(|line| !Arc::ptr_eq(line, &self.line));
        self.line.add_to(&mut counted.ended);
    }
}

impl EncodeMetric for Tally<1> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let [sum] = self.sums();
        encoder.encode_counter::<NoLabelSet, u64, f64>(&sum, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Tally<1> {
    const TYPE: MetricType = MetricType::Counter;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hands_are_counted_and_those_that_have_ended_stay() {
        let tally = Tally::<2>::default();
        let (kept, dropped) = (tally.hand(), tally.clone().hand());
        kept.add(0, 3);
        dropped.add(0, 4);
        dropped.add(1, 5);
        assert_eq!(tally.sums(), [7, 5]);
        drop(dropped);
        assert_eq!(tally.sums(), [7, 5]);
        assert_eq!(tally.counted().counting.len(), 1);
        kept.add(1, 1);
        assert_eq!(tally.sums(), [7, 6]);
    }

    #[test]
    fn threads_lose_nothing_of_what_they_count_at_once() {
        const EACH: u64 = 10_000;
        let tally = Tally::<1>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let hand = tally.hand();
                scope.spawn(move || (0..EACH).for_each(|_| hand.add(0, 1)));
            }
        });
        assert_eq!(tally.sums(), [4 * EACH]);
    }
}
