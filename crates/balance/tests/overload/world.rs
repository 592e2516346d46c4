//! One workload with a program of some workers, callers that give up after a while and try again, and
//! [`Admission`] before it, in virtual time. When requests arrive and how much work each is depends on
//! the seed alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use isthmus_balance::{Admission, Admitted, Arrival, Importance, Served, Ticket, Turn};

/// A program and its callers, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// How long a request takes, on average.
    pub(crate) service: f64,
    /// How long callers wait for an answer.
    pub(crate) patience: f64,
}

/// Many replies come in a moment.
pub(crate) const QUICK: Program = Program {
    service: 0.020,
    patience: 0.5,
};
/// With few workers: what is to be learnt of replies takes its time.
pub(crate) const SLOW: Program = Program {
    service: 0.100,
    patience: 1.0,
};

/// Callers try again after this, when nobody says when.
const AGAIN: f64 = 0.1;
/// What part of the failed requests is tried again: a budget of 20 %.
const RETRIED: f64 = 0.2;

/// From when on: requests per second, and workers of the program.
pub(crate) type Phase = (f64, f64, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    Admission,
    /// Everything goes to the program, which works first come, first served.
    None,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) importance: Importance,
    pub(crate) began: f64,
    pub(crate) attempt: u32,
    /// When it was answered in time.
    pub(crate) served: Option<f64>,
    pub(crate) shed: bool,
    /// It came to the program, which could not answer it in time.
    pub(crate) late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Done(usize),
    Timeout,
}

pub(crate) struct World {
    guard: Guard,
    program: Program,
    seed: u64,
    now: f64,
    origin: Instant,
    phases: Vec<Phase>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    /// The next timeout that is among the events.
    timer: f64,
    admission: Admission,
    /// Requests that wait at the program, in order, and that it works on.
    line: std::collections::VecDeque<usize>,
    busy: usize,
    admitted: BTreeMap<usize, Admitted>,
    tickets: BTreeMap<Ticket, usize>,
    pub(crate) requests: Vec<Request>,
    /// The most that waited in the queue and in the program.
    pub(crate) most_queued: usize,
    pub(crate) most_in_program: usize,
    /// Utilisation as it was told, each tenth of a second.
    pub(crate) told: Vec<(f64, f64)>,
}

impl World {
    pub(crate) fn run(
        guard: Guard,
        program: Program,
        phases: &[Phase],
        until: f64,
        high: f64,
        seed: u64,
    ) -> Self {
        let mut world = Self {
            guard,
            program,
            seed,
            now: 0.0,
            origin: Instant::now(),
            phases: phases.to_vec(),
            events: BinaryHeap::new(),
            made: 0,
            timer: 0.0,
            admission: Admission::default(),
            line: std::collections::VecDeque::new(),
            busy: 0,
            admitted: BTreeMap::new(),
            tickets: BTreeMap::new(),
            requests: vec![],
            most_queued: 0,
            most_in_program: 0,
            told: vec![],
        };
        world.prepare(until, high);
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            world.now = at as f64 / 1e9;
            if world.now > until {
                break;
            }
            world.on_event(event);
        }
        world
    }

    fn prepare(&mut self, until: f64, high: f64) {
        let (mut at, mut count) = (0.0, 0);
        loop {
            count += 1;
            at += -(1.0 - uniform(self.seed, 3 * count)).ln() / self.phase(at).1;
            if at >= until {
                return;
            }
            let importance = match uniform(self.seed, 3 * count + 1) {
                draw if draw < high => Importance::High,
                draw if draw > 0.9 => Importance::Low,
                _ => Importance::Normal,
            };
            self.ask(importance, at, 0);
        }
    }

    fn ask(&mut self, importance: Importance, at: f64, attempt: u32) {
        self.requests.push(Request {
            importance,
            began: at,
            attempt,
            served: None,
            shed: false,
            late: false,
        });
        self.push(at, Event::Arrive(self.requests.len() - 1));
    }

    fn phase(&self, at: f64) -> Phase {
        let past = self.phases.iter().rev().find(|(from, ..)| *from <= at);
        *past.expect("the first phase begins at 0")
    }

    fn on_event(&mut self, event: Event) {
        let now = self.instant();
        match event {
            Event::Arrive(request) if self.guard == Guard::None => self.start(request),
            Event::Arrive(request) => self.arrive(request, now),
            Event::Done(request) => self.done(request, now),
            Event::Timeout => {
                let turns = self.admission.on_timeout(now);
                self.take(turns);
            }
        }
        self.most_queued = self.most_queued.max(self.admission.queued());
        self.most_in_program = self.most_in_program.max(self.line.len() + self.busy);
        if self.told.last().is_none_or(|(at, _)| self.now - at > 0.1) {
            self.told.push((self.now, self.admission.utilisation(now)));
        }
        if let Some(at) = self.admission.next_timeout(now) {
            let at = at.saturating_duration_since(self.origin).as_secs_f64();
            let at = at.max(self.now + 1e-6);
            if self.timer <= self.now || at < self.timer {
                self.timer = at;
                self.push(at, Event::Timeout);
            }
        }
    }

    fn arrive(&mut self, request: usize, now: Instant) {
        let Request {
            importance,
            attempt,
            ..
        } = self.requests[request];
        let left = Duration::from_secs_f64(self.program.patience);
        match self.admission.arrive(importance, attempt, Some(left), now) {
            Arrival::Admitted(admitted) => {
                self.admitted.insert(request, admitted);
                self.start(request);
            }
            Arrival::Queued(ticket) => {
                self.tickets.insert(ticket, request);
            }
            Arrival::Shed(shed) => self.turn_away(request, shed.retry_after),
        }
    }

    fn take(&mut self, turns: Vec<Turn>) {
        for turn in turns {
            match turn {
                Turn::Go(ticket, admitted) => {
                    let request = self.tickets.remove(&ticket).expect("it was given out");
                    self.admitted.insert(request, admitted);
                    self.start(request);
                }
                Turn::Shed(ticket, shed) => {
                    let request = self.tickets.remove(&ticket).expect("it was given out");
                    self.turn_away(request, shed.retry_after);
                }
            }
        }
    }

    fn turn_away(&mut self, request: usize, retry_after: Duration) {
        self.requests[request].shed = true;
        self.again(request, self.now + retry_after.as_secs_f64());
    }

    /// The caller has no answer, and may try again.
    fn again(&mut self, request: usize, at: f64) {
        let Request {
            importance,
            attempt,
            ..
        } = self.requests[request];
        self.made += 1;
        if attempt < 3 && uniform(self.seed ^ 0xa9a1, self.made) < RETRIED {
            self.ask(importance, at, attempt + 1);
        }
    }

    fn start(&mut self, request: usize) {
        self.line.push_back(request);
        self.work();
    }

    fn work(&mut self) {
        let (_, _, workers) = self.phase(self.now);
        while self.busy < workers
            && let Some(request) = self.line.pop_front()
        {
            self.busy += 1;
            let work = self.program.service * lognormal(self.seed ^ 0x3e7, request as u64);
            self.push(self.now + work, Event::Done(request));
        }
    }

    fn done(&mut self, request: usize, now: Instant) {
        self.busy -= 1;
        let in_time = self.now - self.requests[request].began <= self.program.patience;
        if in_time {
            self.requests[request].served = Some(self.now);
        } else {
            self.requests[request].late = true;
            self.again(
                request,
                self.now
                    .max(self.requests[request].began + self.program.patience)
                    + AGAIN,
            );
        }
        if let Some(admitted) = self.admitted.remove(&request) {
            let turns = self.admission.finish(admitted, Served::Replied, now);
            self.take(turns);
        }
        self.work();
    }

    fn push(&mut self, at: f64, event: Event) {
        self.made += 1;
        let at = (at * 1e9) as u64;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_secs_f64(self.now)
    }

    /// Requests answered in time between these seconds, per second.
    pub(crate) fn goodput(&self, from: f64, to: f64) -> f64 {
        let within = |at: f64| (from..to).contains(&at);
        let served = self
            .requests
            .iter()
            .filter(|r| r.served.is_some_and(within));
        served.count() as f64 / (to - from)
    }
}

fn uniform(seed: u64, count: u64) -> f64 {
    let mut z =
        seed.wrapping_mul(0xd134_2543_de82_ef95) ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// With a mean of 1 and a coefficient of variation of 0.5.
fn lognormal(seed: u64, count: u64) -> f64 {
    let sigma = 1.25_f64.ln().sqrt();
    let (a, b) = (uniform(seed, 2 * count), uniform(seed, 2 * count + 1));
    let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}
