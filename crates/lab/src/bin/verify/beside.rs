//! What everyone else notices of those who misbehave, held against a program that only burns as much of the
//! processors: two cores carry the mesh, who asks it and who hurts it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::Mesh;
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::Result;

use super::{AUTHORITY, Point, quantile, seconds};

pub(crate) const CALLER: &str = "frontend-1";
/// It runs in the caller's cluster, so that what is waited for is not a link.
const PAYMENT: &str = "http://payment.shop.mesh/";

/// What hurts, and the fire, last so long each and are repeated so often; medians count.
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;
/// Good traffic is at most so much slower than beside a fire.
const SLOWER: u32 = 2;
/// Below this, twice as slow is noise.
const NOISE: Duration = Duration::from_millis(20);

/// Good traffic, from a caller to a service of its cluster.
pub(crate) struct Others {
    /// The supervisor, above every process of the mesh.
    all: Process,
    caller: SocketAddr,
}

/// What they have noticed: medians of 99th percentiles, and requests.
pub(crate) struct Noticed {
    hurt: Duration,
    burning: Duration,
    failed: usize,
    asked: usize,
}

/// What one round has shown.
struct Round {
    p99: Duration,
    failed: usize,
    asked: usize,
    /// Processor time of this process and of the mesh.
    burnt: [Duration; 2],
}

impl Others {
    pub(crate) fn of(mesh: &Mesh) -> Result<Self> {
        Ok(Self {
            all: mesh.supervisor()?,
            caller: mesh.outbound(AUTHORITY, CALLER)?,
        })
    }

    /// Beside what `hurt` does until it is told to stop, and beside fires, in turn.
    pub(crate) fn compare(&self, hurt: impl Fn(&AtomicBool) + Sync) -> Result<Noticed> {
        let (mut hurts, mut fires) = (Vec::new(), Vec::new());
        let (mut failed, mut asked) = (0, 0);
        for _ in 0..ROUNDS {
            let round = self.beside(&hurt)?;
            let burnt = round.burnt;
            failed += round.failed;
            asked += round.asked;
            hurts.push(round.p99);
            // What it has left for the mesh to do is no part of the fire.
            sleep(ROUND);
            fires.push(self.beside(|stop| burn(burnt, stop))?.p99);
        }
        Ok(Noticed {
            hurt: quantile(&mut hurts, 0.5),
            burning: quantile(&mut fires, 0.5),
            failed,
            asked,
        })
    }

    /// Good traffic for one round, beside what `act` does until it is told to stop.
    fn beside(&self, act: impl FnOnce(&AtomicBool) + Send) -> Result<Round> {
        let stop = AtomicBool::new(false);
        let burnt = || -> Result<[Duration; 2]> {
            let own = Process::with_id(std::process::id())?.cpu()?;
            let family = self.all.family()?;
            // Who has just ended has burnt what does not count any more.
            let mesh = family.iter().filter_map(|process| process.cpu().ok()).sum();
            Ok([own, mesh])
        };
        let before = burnt()?;
        let mut times = Vec::new();
        let mut failed = 0;
        thread::scope(|scope| {
            scope.spawn(|| act(&stop));
            let begun = Instant::now();
            while begun.elapsed() < ROUND {
                let asked = Instant::now();
                let answered = http::get(self.caller, PAYMENT, &[]).and_then(|r| r.expect(200));
                failed += usize::from(answered.is_err());
                times.push(asked.elapsed());
                sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let after = burnt()?;
        Ok(Round {
            failed,
            asked: times.len(),
            p99: quantile(&mut times, 0.99),
            burnt: [0, 1].map(|at| after[at].saturating_sub(before[at])),
        })
    }
}

impl Noticed {
    /// `beside`: what it was, as in "beside a flood".
    pub(crate) fn points(&self, beside: &str) -> [Point; 2] {
        let fire = seconds(self.burning);
        let slow = format!("99th percentile of others ({fire} beside a fire) {beside}");
        [
            Point::none(
                format!("failed requests of others {beside}"),
                self.failed,
                self.asked,
            ),
            Point::at_most(slow, self.hurt, NOISE.max(self.burning * SLOWER)),
        ]
    }
}

/// Burns as much processor time in a round as was measured, by as many threads as there were at work.
fn burn(burnt: [Duration; 2], stop: &AtomicBool) {
    const TURN: Duration = Duration::from_millis(10);
    thread::scope(|scope| {
        for time in burnt {
            let mut left = time;
            while left > Duration::ZERO {
                let one = left.min(ROUND);
                left -= one;
                let busy = TURN.mul_f64(one.div_duration_f64(ROUND));
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        while begun.elapsed() < busy {
                            std::hint::spin_loop();
                        }
                        sleep(TURN.saturating_sub(begun.elapsed()));
                    }
                });
            }
        }
    });
}
