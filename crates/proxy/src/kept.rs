//! Connections that wait for their next request, by where they lead.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::hash::Hash;
use std::time::{Duration, Instant};

use foldhash::HashMap;

/// Servers close idle connections when it suits them; one that was idle for longer is not used.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections to one place. Where hundreds of requests end and begin together, so many wait at a time: whoever
/// closes them pays for new ones, with each wave. They are gone [`IDLE`] after the last wave.
const MAX_IDLE: usize = 512;
/// Places that connections are kept to; of more, none are.
const MAX_PLACES: usize = 1024;

/// A connection that may have gone stale while it waited.
pub(crate) trait Reusable {
    fn is_reusable(&self) -> bool;
}

/// What one worker keeps.
pub(crate) struct Kept<K, C> {
    places: RefCell<HashMap<K, Vec<(C, Instant)>>>,
    count: Cell<usize>,
    /// Of all places together.
    most: usize,
}

impl<K: Eq + Hash, C: Reusable> Kept<K, C> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            places: RefCell::default(),
            count: Cell::new(0),
            most,
        }
    }

    /// The one that was used last, as far as it is still good.
    pub(crate) fn take<Q: Eq + Hash + ?Sized>(&self, place: &Q) -> Option<C>
    where
        K: Borrow<Q>,
    {
        let mut places = self.places.borrow_mut();
        let idle = places.get_mut(place)?;
        let good = |(connection, since): (C, Instant)| {
            (since.elapsed() < IDLE && connection.is_reusable()).then_some(connection)
        };
        let mut pop = || {
            let one = idle.pop()?;
            self.count.set(self.count.get() - 1);
            Some(one)
        };
        std::iter::from_fn(&mut pop).find_map(good)
    }

    /// Keeps a connection whose response is complete. False: there are enough.
    pub(crate) fn give_back(&self, place: K, connection: C) -> bool {
        let mut places = self.places.borrow_mut();
        if places.len() >= MAX_PLACES && !places.contains_key(&place) {
            return false;
        }
        let idle = places.entry(place).or_default();
        let has_room = idle.len() < MAX_IDLE && self.count.get() < self.most;
        if has_room {
            idle.push((connection, Instant::now()));
            self.count.set(self.count.get() + 1);
        }
        has_room
    }

    /// Closes what has waited for too long.
    pub(crate) fn tidy(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE;
        let mut count = 0;
        self.places.borrow_mut().retain(|_, idle| {
            idle.retain(|(_, since)| fresh(*since));
            count += idle.len();
            !idle.is_empty()
        });
        self.count.set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Connection;

    impl Reusable for Connection {
        fn is_reusable(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_a_wave_of_requests_gives_back_is_there_for_the_next() {
        let kept = Kept::new(2 * MAX_IDLE);
        for place in ["cart", "catalog", "payment"] {
            let held = (0..300).filter(|_| kept.give_back(place, Connection));
            assert_eq!(held.count(), 300, "{place}");
        }
        // Neither one place nor all together hold without bound.
        let more = |place| {
            let held = (0..1000).filter(|_| kept.give_back(place, Connection));
            held.count()
        };
        assert_eq!(more("cart"), 124);
        assert_eq!(more("frontend"), 0);
        for place in ["cart", "catalog"] {
            assert!((0..300).all(|_| kept.take(place).is_some()), "{place}");
        }
        assert_eq!(more("frontend"), MAX_IDLE);
        kept.tidy(Instant::now() + IDLE);
        assert!(kept.take("frontend").is_none() && kept.take("payment").is_none());
    }
}
