//! Is the peer still there? A ping when it is silent, and a bound on the answer.

use std::time::{Duration, Instant};

use super::Settings;

/// Hears everything that comes, pings, and gives up.
#[derive(Debug)]
pub(super) struct Liveness {
    silence_busy: Duration,
    silence_idle: Duration,
    patience: Duration,
    heard: Instant,
    asked: Option<Asked>,
    next: u64,
    rtt: Option<Duration>,
}

#[derive(Debug)]
struct Asked {
    token: u64,
    at: Instant,
}

/// What a timeout means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive,
    Ping(u64),
    Dead { silent: Duration },
}

impl Liveness {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            silence_busy: settings.silence_busy,
            silence_idle: settings.silence_idle,
            patience: settings.patience,
            heard: now,
            asked: None,
            next: 0,
            rtt: None,
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Any byte proves life.
    pub(super) fn on_heard(&mut self, now: Instant) {
        self.heard = now.max(self.heard);
    }

    /// The token of a new ping, or `None` while one is under way.
    pub(super) fn ask(&mut self, now: Instant) -> Option<u64> {
        if self.asked.is_some() {
            return None;
        }
        let token = self.next;
        self.next = self.next.wrapping_add(1);
        self.asked = Some(Asked { token, at: now });
        Some(token)
    }

    /// The round trip of this one ping, or `None` when nothing asked for this answer.
    pub(super) fn on_pong(&mut self, token: u64, now: Instant) -> Option<Duration> {
        let asked = self.asked.take_if(|asked| asked.token == token)?;
        let sample = now.saturating_duration_since(asked.at);
        // Smoothed as in RFC 6298 section 2.3.
        self.rtt = Some(match self.rtt {
            Some(rtt) => (rtt * 7 + sample) / 8,
            None => sample,
        });
        Some(sample)
    }

    /// When [`Liveness::on_timeout`] has something to say, unless something is heard before.
    pub(super) fn due(&self, busy: bool) -> Instant {
        match &self.asked {
            Some(asked) => asked.at.max(self.heard) + self.bound(),
            None if busy => self.heard + self.silence_busy,
            None => self.heard + self.silence_idle,
        }
    }

    pub(super) fn on_timeout(&mut self, busy: bool, now: Instant) -> Verdict {
        if now < self.due(busy) {
            return Verdict::Alive;
        }
        match self.ask(now) {
            Some(token) => Verdict::Ping(token),
            None => Verdict::Dead {
                silent: now.saturating_duration_since(self.heard),
            },
        }
    }

    /// How long an answer may take: four round trips, but never less than the patience; three
    /// times that while no round trip is known.
    fn bound(&self) -> Duration {
        match self.rtt {
            Some(rtt) => self.patience.max(rtt.saturating_mul(4)),
            None => self.patience.saturating_mul(3),
        }
    }
}
