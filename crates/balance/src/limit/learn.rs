//! One step of learning, about once a second: what a window of replies says of the limit.

use std::time::{Duration, Instant};

use super::{Asking, Load, Room, Sum, Window, blend, inflation, service};
use crate::constants::{
    ASK_AGAIN, ASK_AT_MOST, ASK_FOR, ASK_LONGEST, BASE_FROM, CONCURRENCY_UNPROVEN, FULL, GROWTH,
    LEARN_BAD, LEARN_EVERY, LEARN_FIRST, LEARN_FROM, LEARN_GOOD, PRESSED, PROVEN_KEPT,
};

/// What a window said.
struct Findings {
    /// Requests in service at once per workload, by Little's law.
    busy: f64,
    pressed: bool,
    /// The cluster held about as much of us as it may.
    used: bool,
}

impl Load {
    /// Takes a step if the window is long enough and says enough.
    pub(super) fn learn_if_due(&mut self, room: Room, now: Instant) {
        let asked = self.asking_ends(now);
        if self.is_asking(now) {
            // What it brings is to be seen as a whole.
            return;
        }
        let Some(window) = &self.window else { return };
        let length = now.saturating_duration_since(window.since);
        let says_enough = window.all.count + window.failed >= LEARN_FROM;
        // The first replies are the best guess of what is calm: later ones may have queued. The very
        // first are the quick ones.
        let first = self.base.is_none() && window.all.count >= LEARN_FIRST;
        if !asked && !first && (length < LEARN_EVERY || (!says_enough && length < 10 * LEARN_EVERY))
        {
            return;
        }
        let Some(mut window) = self.window.replace(Window::new(now)) else {
            return;
        };
        window.hold(self.waiting, now);
        let seconds = length.as_secs_f64().max(f64::MIN_POSITIVE);
        self.rate = Some(blend(
            self.rate,
            f64::from(window.begun) / seconds,
            LEARN_BAD,
        ));
        self.steady = window.all.mean();
        self.learn_base(&window, asked);
        if says_enough && !asked && !first {
            self.learn_concurrency(&window, room, seconds, now);
        }
    }

    /// Calm replies tell the base; where there are none, those that say how long they waited. A whole
    /// window that was faster does, too.
    fn learn_base(&mut self, window: &Window, asked: bool) {
        let (all, calm) = (window.all.mean(), window.calm.mean());
        let enough = |sum: &Sum| sum.count >= LEARN_FROM / 2;
        self.tells_waiting = enough(&window.served);
        let served = window.served.mean().filter(|_| self.tells_waiting);
        if let Some(served) = served.filter(|_| !enough(&window.calm)) {
            self.base = Some(blend(self.base, served, LEARN_GOOD));
            return;
        }
        let count = f64::from(window.calm.count);
        let weight = (count / (count + f64::from(self.base_from))).max(LEARN_GOOD);
        self.base = match (self.base, calm.filter(|_| enough(&window.calm))) {
            (None, calm) => calm.or(all),
            (Some(base), Some(calm)) if asked => Some(blend(Some(base), calm, 1.0 - LEARN_GOOD)),
            (Some(base), Some(calm)) => Some(blend(Some(base), calm, weight)),
            (Some(base), None) => all.map_or(Some(base), |all| Some(base.min(all))),
        };
        self.base_from = self
            .base_from
            .saturating_add(window.calm.count)
            .min(BASE_FROM);
    }

    fn learn_concurrency(&mut self, window: &Window, room: Room, seconds: f64, now: Instant) {
        let Some((base, mean)) = self.base.zip(window.all.mean()) else {
            return;
        };
        let found = self.find(window, room, (base, mean), seconds, now);
        self.proven = found.busy.max(self.proven * PROVEN_KEPT);
        let proven = CONCURRENCY_UNPROVEN * self.proven;
        let known = self.concurrency.unwrap_or(proven);
        let target = if found.pressed {
            found.busy
        } else if found.used {
            proven
        } else {
            known.min(proven)
        };
        let step = if target < known {
            LEARN_BAD * (target - known)
        } else {
            (LEARN_GOOD * (target - known)).min((GROWTH - 1.0) * known)
        };
        self.concurrency = Some(known + step);
        let is_unknown = !self.tells_waiting && window.calm.count < LEARN_FROM / 2;
        if found.pressed && found.used && is_unknown {
            self.ask(now);
        }
        if let Some(asking) = self.asking.as_mut().filter(|_| !found.pressed) {
            // The next trouble is another one.
            asking.rest = ASK_AGAIN;
        }
    }

    fn find(
        &self,
        window: &Window,
        room: Room,
        (base, mean): (f64, f64),
        seconds: f64,
        now: Instant,
    ) -> Findings {
        let goodput = f64::from(window.all.count) / seconds;
        let each = |requests: f64| requests / room.workloads.max(0.1);
        let held = each((window.held / seconds - goodput * room.rtt).max(0.0));
        let known = self.concurrency.unwrap_or(0.0);
        Findings {
            busy: each(goodput * service(base, room)),
            pressed: match self.fresh_utilisation(now) {
                Some(utilisation) => utilisation > FULL,
                None => inflation(mean, base, room) > PRESSED,
            },
            used: held > 0.8 * known,
        }
    }

    /// Lowers the limit for a moment: if latency falls, requests had queued; if not, each takes
    /// longer than it did, and the base is learnt anew.
    fn ask(&mut self, now: Instant) {
        let rest = match &self.asking {
            None => ASK_AGAIN,
            Some(asking) if now.saturating_duration_since(asking.since) < asking.rest => return,
            Some(asking) => asking.rest.saturating_mul(2).min(ASK_LONGEST),
        };
        self.asking = Some(Asking {
            since: now,
            rest,
            most: self.ask_at_most(),
            answered: false,
        });
    }

    /// A moment is long enough for the calm replies that it takes, one after the other.
    fn ask_at_most(&self) -> Duration {
        let each = self.steady.or(self.base).unwrap_or(0.0);
        let all = Duration::try_from_secs_f64(f64::from(LEARN_FROM / 2) * each);
        all.unwrap_or(ASK_AT_MOST).clamp(ASK_FOR, ASK_AT_MOST)
    }

    /// True once, when the moment is over: it has brought enough, or has lasted for long enough.
    fn asking_ends(&mut self, now: Instant) -> bool {
        let calm = self.window.as_ref().map_or(0, |window| window.calm.count);
        let over = |asking: &&mut Asking| {
            let passed = now.saturating_duration_since(asking.since);
            let enough = calm >= LEARN_FROM / 2 && passed >= ASK_FOR;
            !asking.answered && (enough || passed >= asking.most)
        };
        let ended = self.asking.as_mut().filter(over);
        ended.map(|asking| asking.answered = true).is_some()
    }
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            counted: now,
            held: 0.0,
            begun: 0,
            all: Sum::default(),
            calm: Sum::default(),
            served: Sum::default(),
            failed: 0,
        }
    }

    /// `waiting` tries have been held until `now`.
    pub(super) fn hold(&mut self, waiting: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        self.held += f64::from(waiting) * passed.as_secs_f64();
        self.counted = now.max(self.counted);
    }
}

impl Sum {
    pub(super) fn add(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.seconds / f64::from(self.count))
    }
}
