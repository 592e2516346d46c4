//! Requests with the same key go to the same workload: ring hash (Karger et al. 1997) and Maglev
//! (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Tables depend on the names of the workloads alone, so that all proxies agree.

use std::cell::OnceCell;
use std::hash::{Hash, Hasher};

use isthmus_model::Algorithm;

use crate::constants::{MAGLEV_SIZE, RING_MOST, RING_POINTS};
use crate::draw;

/// The key of a request, from what its policy names: a header's value, a cookie, the source.
pub fn hash_key(text: &str) -> u64 {
    draw::mix(draw::salt(text), 0x6b65_7973)
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
    /// For workloads with these names. Memory is bounded: at most [`RING_MOST`] points, or one for each
    /// workload if these are more, or [`MAGLEV_SIZE`] entries.
    pub(crate) fn new<K: Hash>(algorithm: Algorithm, workloads: &[&K]) -> Self {
        let names: Vec<u64> = workloads.iter().map(|key| name_of(*key)).collect();
        match algorithm {
            _ if names.is_empty() => Self::None,
            Algorithm::RingHash => Self::Ring(ring(&names)),
            Algorithm::Maglev => Self::Maglev(maglev(&names)),
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

/// The tables of one set of workloads, each made when it is asked for first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    ring: OnceCell<Table>,
    maglev: OnceCell<Table>,
}

impl Tables {
    /// `None`: `algorithm` hashes nothing.
    pub(crate) fn of<'k, K: Hash + 'k>(
        &self,
        algorithm: Algorithm,
        workloads: impl Iterator<Item = &'k K>,
    ) -> Option<&Table> {
        let table = match algorithm {
            Algorithm::RingHash => &self.ring,
            Algorithm::Maglev => &self.maglev,
            Algorithm::PeakEwma | Algorithm::RoundRobin | Algorithm::LeastRequest => return None,
        };
        let make = || Table::new(algorithm, &workloads.collect::<Vec<_>>());
        Some(table.get_or_init(make))
    }
}

/// Enough that a key whose workload is out finds another with near certainty.
fn entries_to_try(entries: &[u16]) -> u64 {
    if entries.is_empty() { 0 } else { 32 }
}

/// As many points for each, at hashes of its name.
fn ring(names: &[u64]) -> Vec<(u64, usize)> {
    let each = RING_POINTS.min(RING_MOST / names.len() as u64).max(1);
    let mut points = Vec::new();
    for (number, name) in names.iter().enumerate() {
        points.extend((1..=each).map(|nth| (draw::mix(*name, nth), number)));
    }
    points.sort_unstable();
    points
}

/// Each workload in turn takes the next free entry of a permutation of its own.
fn maglev(names: &[u64]) -> Vec<u16> {
    let size = MAGLEV_SIZE as u64;
    let permutation = |name: &u64| {
        let step = draw::mix(*name, 2) % (size - 1) + 1;
        (draw::mix(*name, 1) % size, step)
    };
    let mut permutations: Vec<(u64, u64)> = names.iter().map(permutation).collect();
    permutations.truncate(MAGLEV_SIZE);
    let mut entries: Vec<Option<u16>> = vec![None; MAGLEV_SIZE];
    let mut left = MAGLEV_SIZE;
    while left > 0 {
        for (number, (at, step)) in permutations.iter_mut().enumerate().take(left) {
            let place = loop {
                let place = usize::try_from(*at).unwrap_or_default();
                *at = (*at + *step) % size;
                if entries[place].is_none() {
                    break place;
                }
            };
            entries[place] = u16::try_from(number).ok();
            left -= 1;
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
