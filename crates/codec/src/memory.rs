//! One account of the memory that a process holds for others, and shares of it.
//!
//! Every buffer that grows with what others send takes a [`Share`] before it grows, and gives it back
//! when it is dropped. Nothing here waits: whoever asks is told at once how much there is, and does
//! with less. What is asked for falls into three kinds, by what becomes of it when there is little:
//!
//! - [`Share::more`]: growth, which makes things faster and which nobody needs. It ends first, while
//!   a quarter of the memory is still there for the other two.
//! - [`MemoryBudget::admit`]: something new begins. It is turned away when nothing is left, and a
//!   connection, on which more begins, a little earlier ([`MemoryBudget::admit_host`]).
//! - [`Share::hold`]: the least that what has begun needs to go on. It is always given, and counted.
//!
//! That is why no deadlock can come of it, however little there is: a deadlock takes somebody who holds
//! something and waits for more. What has begun has its least amount without asking, and what has not
//! begun holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory that a process may hold for others. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: u64,
    taken: AtomicU64,
}

/// A part of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    /// `limit` in bytes; 0: nothing grows, nothing new is admitted.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Account {
            limit,
            taken: AtomicU64::new(0),
        }))
    }

    /// In bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes of all shares. More than the limit when what has begun had to hold more.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Is there nothing left to grow by? Where nothing was ever to grow, nothing runs short.
    pub fn is_short(&self) -> bool {
        self.0.limit > 0 && self.taken() >= self.growth_limit()
    }

    /// A share of nothing, to grow.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// A share for something that begins, or `None` when not all of it is there.
    pub fn admit(&self, bytes: u64) -> Option<Share> {
        self.admit_below(bytes, self.0.limit)
    }

    /// As [`MemoryBudget::admit`], for one that others come with later: the last eighth is left to what
    /// begins on those that are here already.
    pub fn admit_host(&self, bytes: u64) -> Option<Share> {
        self.admit_below(bytes, self.0.limit / 8 * 7)
    }

    fn admit_below(&self, bytes: u64, limit: u64) -> Option<Share> {
        let mut share = self.share();
        share.bytes = self.take(|left| if bytes <= left { bytes } else { 0 }, limit);
        (share.bytes == bytes).then_some(share)
    }

    /// What growth may take all shares to.
    fn growth_limit(&self) -> u64 {
        self.0.limit / 4 * 3
    }

    /// Takes what `amount` makes of what is left below `limit`.
    fn take(&self, amount: impl Fn(u64) -> u64, limit: u64) -> u64 {
        let mut given = 0;
        let take = |taken: u64| {
            given = amount(limit.saturating_sub(taken));
            (given > 0).then_some(taken + given)
        };
        // Nothing is taken when nothing is given.
        let _ = self
            .0
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        given
    }
}

impl Share {
    /// In bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As much of `wanted` as there is for growth, but never more than half of what is left: whoever
    /// comes later finds something, and a few greedy ones cannot take all of it. Returns how much.
    pub fn more(&mut self, wanted: u64) -> u64 {
        let limit = self.budget.growth_limit();
        let given = self.budget.take(|left| wanted.min(left / 2), limit);
        self.bytes += given;
        given
    }

    /// Grows by all of `bytes`, or says false and does not.
    pub fn all_of(&mut self, bytes: u64) -> bool {
        let limit = self.budget.growth_limit();
        let amount = |left| if bytes <= left / 2 { bytes } else { 0 };
        let given = self.budget.take(amount, limit);
        self.bytes += given;
        given == bytes
    }

    /// Counts what has to be held, whether it is there or not.
    pub fn hold(&mut self, bytes: u64) {
        self.budget.0.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Gives `bytes` back, at most what there is.
    pub fn less(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.0.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes all of another share of the same budget in.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.less(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn growth_ends_before_what_is_new_and_what_has_begun_never() {
        let budget = MemoryBudget::new(64 * KIB);
        let mut greedy = budget.share();
        while greedy.more(64 * KIB) > 0 {}
        assert!(greedy.bytes() > 47 * KIB, "{greedy:?}");
        assert!(!greedy.all_of(KIB), "{greedy:?}");
        assert!(
            budget.admit_host(16 * KIB).is_none(),
            "what is left is for those that are here"
        );
        drop(budget.admit_host(8 * KIB).unwrap());
        let new = budget.admit(16 * KIB).unwrap();
        assert!(budget.admit(16 * KIB).is_none());
        let mut begun = budget.share();
        begun.hold(16 * KIB);
        assert!(budget.taken() > budget.limit());
        assert!(budget.admit(1).is_none());
        drop((greedy, begun));
        assert_eq!(budget.taken(), new.bytes());
        assert!(budget.admit(48 * KIB).is_some());
    }

    #[test]
    fn one_never_takes_all() {
        let budget = MemoryBudget::new(64 * KIB);
        let mut first = budget.share();
        assert_eq!(first.more(64 * KIB), 24 * KIB);
        let mut second = budget.share();
        assert_eq!(second.more(64 * KIB), 12 * KIB);
        assert!(!second.all_of(12 * KIB));
        assert!(second.all_of(KIB));
        second.less(u64::MAX);
        assert_eq!(budget.taken(), 24 * KIB);
    }

    #[test]
    fn what_is_joined_is_counted_once() {
        let budget = MemoryBudget::new(64 * KIB);
        let mut all = budget.admit(24 * KIB).unwrap();
        all.join(budget.admit(8 * KIB).unwrap());
        assert_eq!((all.bytes(), budget.taken()), (32 * KIB, 32 * KIB));
        drop(all);
        assert_eq!(budget.taken(), 0);
    }
}
