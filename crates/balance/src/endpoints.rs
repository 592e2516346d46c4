//! Which workload, among those of one cluster, a request goes to.
//!
//! By default the better of two drawn at random, by estimated latency times requests in flight
//! (peak EWMA, power of two choices): near the best choice, without a herd that follows the one best
//! workload. Those that hash send the same key to the same workload. A new workload starts with the mean estimate of the others, not with zero, and with a
//! weight that grows over the slow start.

use std::hash::Hash;
use std::time::{Duration, Instant};

use isthmus_model::{Algorithm, OutlierSettings};

use crate::affinity::Tables;
use crate::constants::{FAILURE_LATENCY, GREY_JUDGED};
use crate::draw;
use crate::latency::PeakEwma;
use crate::outcome::{Evidence, Outcome};
use crate::outlier::{Cause, Ejection, Outlier, Siblings, has_room};
use crate::ramp::{self, Ramp};

/// The workloads of one (service, port, subset) in one cluster. `K` names one: a handle, or a
/// tunnel.
#[derive(Debug, Clone)]
pub struct Endpoints<K> {
    /// Sorted by key.
    list: Vec<Endpoint<K>>,
    algorithm: Algorithm,
    outlier: OutlierSettings,
    /// Whom a key prefers, by number among those that are present.
    tables: Tables,
    /// Whom the last try went to: where round robin goes on.
    last: Option<K>,
    /// How many of the list are leaving.
    leaving: usize,
    /// When the last of those that were ejected returns.
    out_until: Option<Instant>,
    /// What they did, together, at some time; only of many, see [`FEW`].
    together: Option<(Instant, Siblings)>,
}

/// Among so many each is compared with all others. Among more, with all of them as they were a moment ago,
/// which is the same then, and is known for all after one look at each.
const FEW: usize = 32;

#[derive(Debug, Clone)]
struct Endpoint<K> {
    key: K,
    in_flight: u32,
    latency: PeakEwma,
    outlier: Outlier,
    /// Set if it joined others that were there.
    ramp: Option<Ramp>,
    /// No longer in the set; kept until its last try has ended.
    leaving: bool,
}

/// Those that a choice is among.
struct Pool<'e, K> {
    list: &'e [Endpoint<K>],
    /// Their places in the list; `None`: all of it, as nearly always.
    places: Option<Vec<usize>>,
}

/// The choice and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked<'e, K> {
    pub key: &'e K,
    pub reason: WorkloadReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadReason {
    /// The algorithm chose among several.
    Algorithm(Algorithm),
    OnlyChoice,
    /// The request has failed at every one that is not ejected.
    AllFailed,
    /// Every one is ejected.
    AllEjected,
}

/// One workload as `explain` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadView<K> {
    pub key: K,
    pub in_flight: u32,
    /// `None`: never measured.
    pub latency: Option<Duration>,
    /// Relative to the others; lower during the slow start.
    pub weight: f64,
    pub ejection: Option<Ejection>,
    /// A request that has failed nowhere yet could go there now.
    pub possible: bool,
}

impl<K: Ord + Clone + Hash> Endpoints<K> {
    pub fn new(algorithm: Algorithm, outlier: OutlierSettings) -> Self {
        Self {
            list: Vec::new(),
            algorithm,
            outlier,
            tables: Tables::default(),
            last: None,
            leaving: 0,
            out_until: None,
            together: None,
        }
    }

    /// New settings; what was learnt is kept.
    pub fn configure(&mut self, algorithm: Algorithm, outlier: OutlierSettings) {
        self.outlier = outlier;
        self.algorithm = algorithm;
    }

    /// Replaces the set. Those that stay keep what was learnt about them. Those that join others
    /// start slowly; the first ones do not, since somebody has to take the traffic.
    pub fn set(&mut self, keys: impl IntoIterator<Item = K>, now: Instant) {
        let ramp = self.present().next().map(|_| Ramp { since: now });
        self.list.iter_mut().for_each(|e| e.leaving = true);
        for key in keys {
            let index = self.find(&key).unwrap_or_else(|index| {
                self.list.insert(index, Endpoint::new(key, ramp));
                index
            });
            self.list[index].leaving = false;
        }
        self.let_go();
        self.tables = Tables::default();
    }

    /// Chooses the workload of a try. `avoid`: where this request has failed. Changes nothing.
    /// `None` only if the set is empty.
    pub fn pick(&self, avoid: &[K], now: Instant, draw: u64) -> Option<Picked<'_, K>> {
        self.pick_for(None, avoid, now, draw)
    }

    /// [`Endpoints::pick`] for a request with this key, see [`crate::hash_key`]: the algorithms that
    /// hash send the same key to the same workload while that is there, not ejected, and the
    /// request has not failed at it. Without a key they choose as peak EWMA does.
    pub fn pick_for(
        &self,
        key: Option<u64>,
        avoid: &[K],
        now: Instant,
        draw: u64,
    ) -> Option<Picked<'_, K>> {
        self.pick_by(self.algorithm, key, avoid, now, draw)
    }

    /// [`Endpoints::pick_for`] by another algorithm: routes to the same workloads may differ in that.
    pub fn pick_by(
        &self,
        algorithm: Algorithm,
        key: Option<u64>,
        avoid: &[K],
        now: Instant,
        draw: u64,
    ) -> Option<Picked<'_, K>> {
        let (pool, fallback) = self.pool(avoid, now)?;
        let alone = pool.len() == 1;
        let endpoint = self.pick_among(&pool, algorithm, key, now, draw)?;
        let reason = match fallback {
            Some(reason) => reason,
            None if alone => WorkloadReason::OnlyChoice,
            None => WorkloadReason::Algorithm(algorithm),
        };
        Some(Picked {
            key: &endpoint.key,
            reason,
        })
    }

    /// A try sets out. Unknown keys are ignored.
    pub fn start(&mut self, key: &K) {
        if let Ok(index) = self.find(key) {
            let endpoint = &mut self.list[index];
            endpoint.in_flight = endpoint.in_flight.saturating_add(1);
            self.last = Some(key.clone());
        }
    }

    /// A try has ended after `latency` (to the first byte of the reply, or to the failure). Returns
    /// the ejection if this was the failure too many. Unknown keys are ignored.
    pub fn finish(
        &mut self,
        key: &K,
        outcome: Outcome,
        latency: Duration,
        now: Instant,
    ) -> Option<Ejection> {
        let index = self.find(key).ok()?;
        let endpoint = &mut self.list[index];
        endpoint.in_flight = endpoint.in_flight.saturating_sub(1);
        endpoint.measure(outcome, latency, now);
        let leaving = endpoint.leaving;
        let bad = endpoint
            .outlier
            .observe(outcome, latency, &self.outlier, now);
        if leaving {
            self.let_go();
            return None;
        }
        let cause = bad.or_else(|| self.compare(index, now))?;
        let out = self.present().filter(|e| e.outlier.ejection(now).is_some());
        let out = out.count();
        if !has_room(&self.outlier, self.len(), out) {
            return None;
        }
        let outlier = &mut self.list[index].outlier;
        outlier.eject(cause, &self.outlier, now);
        self.out_until = self.out_until.max(outlier.returns(now));
        outlier.ejection(now)
    }

    /// What the workload at `index` does far worse than those that take traffic beside it.
    fn compare(&mut self, index: usize, now: Instant) -> Option<Cause> {
        if !self.list[index].outlier.is_due(&self.outlier, now) {
            return None;
        }
        let siblings = if self.list.len() <= FEW {
            self.siblings(Some(index), now)
        } else {
            let is_fresh = |at: Instant| now.saturating_duration_since(at) < GREY_JUDGED;
            match self.together.filter(|(at, _)| is_fresh(*at)) {
                Some((_, together)) => together,
                None => self.together.insert((now, self.siblings(None, now))).1,
            }
        };
        self.list[index].outlier.judge(&siblings, now)
    }

    /// What all that take traffic do, but for the one at a place.
    fn siblings(&self, but: Option<usize>, now: Instant) -> Siblings {
        let others =
            self.list.iter().enumerate().filter(|(at, e)| {
                Some(*at) != but && !e.leaving && e.outlier.ejection(now).is_none()
            });
        Siblings::of(others.map(|(_, e)| e.outlier.record(now)))
    }

    /// Is it out now?
    pub fn is_ejected(&self, key: &K, now: Instant) -> bool {
        self.find(key)
            .is_ok_and(|index| self.list[index].outlier.ejection(now).is_some())
    }

    /// When the next ejected one returns.
    pub fn next_return(&self, now: Instant) -> Option<Instant> {
        self.present().filter_map(|e| e.outlier.returns(now)).min()
    }

    /// Every workload with its state, and whether a new request could go there now.
    pub fn describe(&self, now: Instant) -> Vec<WorkloadView<K>> {
        let all_out = self.present().all(|e| e.outlier.ejection(now).is_some());
        let all_in = all_out || self.panics(now);
        let view = |e: &Endpoint<K>| {
            let ejection = e.outlier.ejection(now);
            WorkloadView {
                key: e.key.clone(),
                in_flight: e.in_flight,
                latency: e.latency.estimate(now).map(Duration::from_secs_f64),
                weight: e.weight(now),
                ejection,
                possible: all_in || ejection.is_none(),
            }
        };
        self.present().map(view).collect()
    }

    /// The names of all that [`Endpoints::pick`] may choose for a request that has failed nowhere
    /// yet, whatever the draw and the requests in flight.
    pub fn possible(&self, now: Instant) -> Vec<K> {
        let possible = |view: WorkloadView<K>| view.possible.then_some(view.key);
        self.describe(now)
            .into_iter()
            .filter_map(possible)
            .collect()
    }

    /// Are so few left that those which are ejected are used as well?
    fn panics(&self, now: Instant) -> bool {
        let below = self.outlier.panic.fraction();
        if below == 0.0 {
            return false;
        }
        let mut usable = 0.0;
        let mut all = 0.0;
        for endpoint in self.present() {
            all += 1.0;
            usable += f64::from(u8::from(endpoint.outlier.ejection(now).is_none()));
        }
        usable < below * all
    }

    pub fn len(&self) -> usize {
        self.present().count()
    }

    pub fn contains(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub fn is_empty(&self) -> bool {
        self.present().next().is_none()
    }

    fn present(&self) -> impl Iterator<Item = &Endpoint<K>> {
        self.list.iter().filter(|e| !e.leaving)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.list.binary_search_by(|e| e.key.cmp(key))
    }

    /// Those that are not ejected and have not failed, and why it is others if there are none of them.
    fn pool(&self, avoid: &[K], now: Instant) -> Option<(Pool<'_, K>, Option<WorkloadReason>)> {
        if avoid.is_empty() && self.leaving == 0 && self.out_until.is_none_or(|until| until <= now)
        {
            let all = Pool {
                list: &self.list,
                places: None,
            };
            return (all.len() > 0).then_some((all, None));
        }
        let panics = self.panics(now);
        let failed = |e: &Endpoint<K>| avoid.contains(&e.key);
        let ejected = |e: &Endpoint<K>| !panics && e.outlier.ejection(now).is_some();
        for (may_have_failed, may_be_ejected, reason) in [
            (false, false, None),
            (true, false, Some(WorkloadReason::AllFailed)),
            (false, true, Some(WorkloadReason::AllEjected)),
            (true, true, Some(WorkloadReason::AllEjected)),
        ] {
            let belongs = |e: &Endpoint<K>| {
                !e.leaving && (may_have_failed || !failed(e)) && (may_be_ejected || !ejected(e))
            };
            let places = (0..self.list.len()).filter(|place| belongs(&self.list[*place]));
            let places: Vec<usize> = places.collect();
            if !places.is_empty() {
                let some = Pool {
                    list: &self.list,
                    places: Some(places),
                };
                return Some((some, reason));
            }
        }
        None
    }

    fn pick_among<'e>(
        &'e self,
        pool: &Pool<'e, K>,
        algorithm: Algorithm,
        key: Option<u64>,
        now: Instant,
        draw: u64,
    ) -> Option<&'e Endpoint<K>> {
        let count = pool.len();
        if count <= 1 {
            return pool.get(0);
        }
        if let Some(owner) = key.and_then(|key| self.owner(algorithm, key, pool)) {
            return Some(owner);
        }
        if algorithm == Algorithm::RoundRobin {
            return self.next_in_turn(pool, now, draw);
        }
        let first = draw::below(draw::mix(draw, 1), count);
        let step = 1 + draw::below(draw::mix(draw, 2), count - 1);
        let (a, b) = (pool.get(first)?, pool.get((first + step) % count)?);
        let cost = |e: &Endpoint<K>| e.cost(algorithm, || self.neutral(now), now);
        Some(if cost(b) < cost(a) { b } else { a })
    }

    /// The first of the pool that the key prefers.
    fn owner<'e>(
        &'e self,
        algorithm: Algorithm,
        key: u64,
        pool: &Pool<'e, K>,
    ) -> Option<&'e Endpoint<K>> {
        let workloads = self.present().map(|e| &e.key);
        let nth = |number| match self.leaving {
            0 => self.list.get(number),
            _ => self.present().nth(number),
        };
        self.tables
            .of(algorithm, workloads)?
            .preferred(key)
            .filter_map(nth)
            .find(|endpoint| pool.has(endpoint))
    }

    /// The first of the pool after the last that got a try, by key. One in its slow start is passed
    /// over as often as its weight says.
    fn next_in_turn<'e>(
        &self,
        pool: &Pool<'e, K>,
        now: Instant,
        draw: u64,
    ) -> Option<&'e Endpoint<K>> {
        let passed = |e: &&Endpoint<K>| Some(&e.key) <= self.last.as_ref();
        let ahead = || pool.iter().filter(|e| !passed(e));
        let turn = || (1..).zip(ahead().chain(pool.iter().filter(passed)));
        turn()
            .find(|(salt, e)| draw::unit(draw::mix(draw, *salt)) < e.weight(now))
            .or_else(|| turn().next())
            .map(|(_, endpoint)| endpoint)
    }

    /// Forgets those that have left.
    fn let_go(&mut self) {
        self.list.retain(|e| !e.leaving || e.in_flight > 0);
        self.leaving = self.list.iter().filter(|e| e.leaving).count();
    }

    /// What an unmeasured workload is taken for: the mean of the others; 1 s if nothing is measured,
    /// which then holds for all alike.
    fn neutral(&self, now: Instant) -> f64 {
        let measured = self.present().filter_map(|e| e.latency.estimate(now));
        let (count, sum) = measured.fold((0.0, 0.0), |(count, sum), one| (count + 1.0, sum + one));
        if count > 0.0 { sum / count } else { 1.0 }
    }
}

impl<'e, K> Pool<'e, K> {
    fn len(&self) -> usize {
        self.places.as_ref().map_or(self.list.len(), Vec::len)
    }

    fn get(&self, number: usize) -> Option<&'e Endpoint<K>> {
        match &self.places {
            Some(places) => self.list.get(*places.get(number)?),
            None => self.list.get(number),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &'e Endpoint<K>> {
        (0..self.len()).filter_map(|number| self.get(number))
    }

    fn has(&self, endpoint: &Endpoint<K>) -> bool {
        self.places.is_none() || self.iter().any(|other| std::ptr::eq(other, endpoint))
    }
}

impl<K> Endpoint<K> {
    fn new(key: K, ramp: Option<Ramp>) -> Self {
        Self {
            key,
            in_flight: 0,
            latency: PeakEwma::default(),
            outlier: Outlier::default(),
            ramp,
            leaving: false,
        }
    }

    /// Failures count as slow. A try that its caller abandoned says only "not faster than that".
    fn measure(&mut self, outcome: Outcome, latency: Duration, now: Instant) {
        let slower = |known: f64| latency.as_secs_f64() > known;
        match outcome.evidence() {
            Evidence::Success => self.latency.observe(latency, now),
            Evidence::Failure => self.latency.observe(latency.max(FAILURE_LATENCY), now),
            Evidence::Neutral if matches!(outcome, Outcome::Drained | Outcome::Shed) => {}
            Evidence::Neutral if self.latency.estimate(now).is_some_and(slower) => {
                self.latency.observe(latency, now);
            }
            Evidence::Neutral => {}
        }
    }

    /// What slow start leaves it of its share, after joining and after an ejection.
    fn weight(&self, now: Instant) -> f64 {
        ramp::share(self.ramp, now).min(ramp::share(self.outlier.ramp(), now))
    }

    /// `neutral`: what one is taken for that was never measured.
    fn cost(&self, algorithm: Algorithm, neutral: impl Fn() -> f64, now: Instant) -> f64 {
        let latency = match algorithm {
            Algorithm::PeakEwma | Algorithm::RingHash | Algorithm::Maglev => {
                self.latency.estimate(now).unwrap_or_else(neutral)
            }
            Algorithm::LeastRequest | Algorithm::RoundRobin => 1.0,
        };
        latency * (f64::from(self.in_flight) + 1.0) / self.weight(now)
    }
}

#[cfg(test)]
mod tests;
