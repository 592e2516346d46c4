//! Requests with the same key go to the same workload: ring hash (Karger et al. 1997) and Maglev
//! (Eisenbud et al., NSDI 2016, section 3.4), and weighted rendezvous (Schindelhauer and Schomaker
//! 2005) for clusters.
//!
//! Tables depend on the names and weights of the workloads alone, so that all proxies agree.

use std::hash::{Hash, Hasher};

use isthmus_model::{Algorithm, ClusterName};

use crate::constants::{MAGLEV_SIZE, RING_MOST, RING_POINTS};
use crate::draw;

/// The key of a request, from what its policy names: a header's value, a cookie, the source.
pub fn hash_key(text: &str) -> u64 {
    draw::mix(draw::salt(text), 0x6b65_7973)
}

/// Which of several clusters a key belongs to. Of a change of weights (not negative; zero gets
/// nothing) only those keys move that it forces to. `None`: no weight is above zero.
pub fn rendezvous<'c>(key: u64, clusters: &[(&'c ClusterName, f64)]) -> Option<&'c ClusterName> {
    let score = |cluster: &ClusterName, weight: f64| {
        let drawn = draw::unit(draw::mix(key, draw::salt(cluster.as_str())));
        -weight / drawn.max(f64::MIN_POSITIVE).ln()
    };
    clusters
        .iter()
        .filter(|(_, weight)| *weight > 0.0)
        .map(|(cluster, weight)| (score(cluster, *weight), *cluster))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, cluster)| cluster)
}

/// The places of workloads, by number, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Table {
    #[default]
    None,
    /// Points and to whom they belong, sorted.
    Ring(Vec<(u64, usize)>),
    Maglev(Vec<u16>),
}

impl Table {
    /// For workloads with these names and weights. Memory is bounded: at most [`RING_MOST`] points
    /// or [`MAGLEV_SIZE`] entries.
    pub(crate) fn new<K: Hash>(algorithm: Algorithm, workloads: &[(&K, u32)]) -> Self {
        let named: Vec<(u64, u32)> = workloads
            .iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(key, weight)| (name_of(key), *weight))
            .collect();
        match algorithm {
            _ if named.len() != workloads.len() || named.is_empty() => Self::None,
            Algorithm::RingHash => Self::Ring(ring(&named)),
            Algorithm::Maglev => Self::Maglev(maglev(&named)),
            Algorithm::PeakEwma | Algorithm::RoundRobin | Algorithm::LeastRequest => Self::None,
        }
    }

    /// Numbers in the order in which a key prefers them, the first of which may be used: who is
    /// not there for a while is replaced by others, and only for its own keys.
    pub(crate) fn preferred(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let (ring, maglev) = match self {
            Self::None => (&[][..], &[][..]),
            Self::Ring(points) => (&points[..], &[][..]),
            Self::Maglev(entries) => (&[][..], &entries[..]),
        };
        let first = ring.partition_point(|(point, _)| *point < key);
        let around = ring[first..].iter().chain(&ring[..first]);
        // On a table, the next entry would give all keys of one to the same other.
        let drawn = (0..entries_to_try(maglev)).map(move |turn| {
            let at = draw::below(draw::mix(key, turn), maglev.len());
            usize::from(maglev[at])
        });
        around.map(|(_, number)| *number).chain(drawn)
    }
}

/// Enough that a key whose workload is out finds another with near certainty.
fn entries_to_try(entries: &[u16]) -> u64 {
    if entries.is_empty() { 0 } else { 32 }
}

/// A number of points proportional to the weight, at hashes of the name.
fn ring(named: &[(u64, u32)]) -> Vec<(u64, usize)> {
    let least = named.iter().map(|(_, weight)| *weight).min().unwrap_or(1);
    let total: u64 = named.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let wanted = total * RING_POINTS / u64::from(least);
    let all = wanted.min(RING_MOST);
    let mut points = Vec::new();
    for (number, (name, weight)) in named.iter().enumerate() {
        let count = (u64::from(*weight) * all / total).max(1);
        points.extend((1..=count).map(|nth| (draw::mix(*name, nth), number)));
    }
    points.sort_unstable();
    points
}

/// Each workload in turn takes the next free entry of a permutation of its own; of two with weights
/// 1 and 2, the second gets two turns for every one of the first.
fn maglev(named: &[(u64, u32)]) -> Vec<u16> {
    let most = named.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    let size = MAGLEV_SIZE as u64;
    let mut permutations: Vec<(u64, u64)> = named
        .iter()
        .map(|(name, _)| {
            (
                draw::mix(*name, 1) % size,
                draw::mix(*name, 2) % (size - 1) + 1,
            )
        })
        .collect();
    let mut entries: Vec<Option<u16>> = vec![None; MAGLEV_SIZE];
    let mut due = vec![0u64; named.len()];
    let mut left = MAGLEV_SIZE;
    while left > 0 {
        for (number, (at, step)) in permutations
            .iter_mut()
            .enumerate()
            .take(usize::from(u16::MAX))
        {
            due[number] += u64::from(named[number].1);
            if due[number] < u64::from(most) || left == 0 {
                continue;
            }
            due[number] -= u64::from(most);
            loop {
                let place = usize::try_from(*at).unwrap_or_default();
                *at = (*at + *step) % size;
                if entries[place].is_none() {
                    entries[place] = u16::try_from(number).ok();
                    left -= 1;
                    break;
                }
            }
        }
    }
    entries.into_iter().flatten().collect()
}

/// FNV-1a over what `Hash` feeds, equal in every process of the same build.
fn name_of<K: Hash>(key: &K) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.hash(&mut hasher);
    draw::mix(hasher.finish(), 0)
}

#[cfg(test)]
mod tests;
