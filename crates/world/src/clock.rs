//! What time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock: the monotonic time that machines are driven by, and the wall time that people and
/// certificates mean.
pub trait Clock: Send + Sync {
    /// Monotonic; never goes back.
    fn now(&self) -> Instant;
    /// Wall time; may jump.
    fn wall(&self) -> SystemTime;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that only moves when it is told to. Clones show the same time.
#[derive(Debug, Clone)]
pub struct VirtualClock(Arc<VirtualTime>);

#[derive(Debug)]
struct VirtualTime {
    start: Instant,
    /// Nanoseconds since `start`.
    elapsed: AtomicU64,
    /// Wall time at `start`, in nanoseconds since the Unix epoch.
    wall_start: AtomicU64,
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtualClock {
    /// Wall time of every new virtual clock, 2026-01-01T00:00:00Z, since the Unix epoch.
    const WALL_START: Duration = Duration::from_hours(20_454 * 24);

    pub fn new() -> Self {
        Self(Arc::new(VirtualTime {
            start: Instant::now(),
            elapsed: AtomicU64::new(0),
            wall_start: AtomicU64::new(nanoseconds(Self::WALL_START)),
        }))
    }

    /// Time since this clock was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.elapsed.load(Ordering::SeqCst))
    }

    pub fn advance(&self, by: Duration) {
        self.0.elapsed.fetch_add(nanoseconds(by), Ordering::SeqCst);
    }

    /// Moves to `elapsed` since the clock was made; a time in the past changes nothing.
    pub fn advance_to(&self, elapsed: Duration) {
        self.0
            .elapsed
            .fetch_max(nanoseconds(elapsed), Ordering::SeqCst);
    }

    /// Sets wall time without moving monotonic time: somebody changed the machine's date.
    pub fn jump_wall(&self, to: SystemTime) {
        let since_epoch = to.duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = since_epoch.saturating_sub(self.elapsed());
        self.0
            .wall_start
            .store(nanoseconds(start), Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.0.start + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        let start = Duration::from_nanos(self.0.wall_start.load(Ordering::SeqCst));
        UNIX_EPOCH + start + self.elapsed()
    }
}

/// Saturates after 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_moves_only_when_told() {
        let clock = VirtualClock::new();
        let shared = clock.clone();
        let (now, wall) = (clock.now(), clock.wall());
        assert_eq!((shared.now(), shared.wall()), (now, wall));

        let minute = Duration::from_mins(1);
        clock.advance(minute);
        assert_eq!(shared.now(), now + minute);
        assert_eq!(shared.wall(), wall + minute);

        clock.advance_to(Duration::from_secs(1));
        assert_eq!(shared.elapsed(), minute, "time went back");

        clock.jump_wall(wall - minute);
        assert_eq!(shared.wall(), wall - minute);
        assert_eq!(shared.now(), now + minute);
    }
}
