//! Three clusters that call each other's service, in virtual time: FIFO workloads, lognormal service
//! times, several callers in each cluster, and a story of load and trouble.
//!
//! When requests arrive and how much work each is depends on the seed alone, so that all policies
//! are compared on the same numbers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use isthmus_balance::{
    Admission, Admitted, Arrival, Attempts, ClusterShare, Importance, Outcome, Served,
    Ticket as Place, Told, Turn, Verdict,
};
use isthmus_model::ClusterName;

use crate::chance::{below, lognormal, random, uniform, unit};
use crate::policies::{Failed, Policy, Steering, Ticket};
use crate::story::{Inputs, Story};

pub(crate) const CLUSTERS: usize = 3;
/// No cluster has more callers.
const CALLERS: usize = 4;
/// Round trips in ms: from, to.
const RTT: [[f64; CLUSTERS]; CLUSTERS] = [[0.5, 40.0, 60.0], [40.0, 0.5, 80.0], [60.0, 80.0, 0.5]];
/// How long after an outage begins or ends the facts of all say so.
const TOLD: f64 = 1.0;

pub(crate) fn name(cluster: usize) -> ClusterName {
    ClusterName::new(["us", "eu", "ap"][cluster]).expect("a label")
}

/// One request as it went. Seconds since the beginning.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) from: usize,
    pub(crate) began: f64,
    pub(crate) ended: f64,
    /// Where it was served; `None`: it failed.
    pub(crate) served: Option<usize>,
    /// How often a workload turned it away.
    pub(crate) shed: usize,
}

#[derive(Debug, Default)]
struct Workload {
    admission: Admission,
    /// Tries that wait before it.
    queue: BTreeMap<Place, u64>,
    /// When each worker is free.
    workers: Vec<f64>,
    /// Busy workers of all, smoothed over 100 ms, as of then.
    utilisation: (f64, f64),
    busy: usize,
}

struct Running {
    request: usize,
    caller: usize,
    attempts: Attempts,
    failed: Failed,
    cluster: usize,
    workload: usize,
    ticket: Ticket,
    arrived: f64,
    /// Until its program took it, if that is told.
    waited: Option<f64>,
    /// By the workload, if it is guarded.
    admitted: Option<Admitted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Start(u64, usize, usize),
    Done(u64, usize, usize),
    /// With that status.
    Reply(u64, u16),
    Shed(u64),
    /// Somebody who waits before a workload may not have to any more.
    Turn(usize, usize),
    Broken(u64),
    NotConnected(u64),
    TimedOut(u64),
    Down,
    Up,
    Facts,
}

pub(crate) struct World {
    seed: u64,
    story: Story,
    inputs: Inputs,
    origin: Instant,
    now: f64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    workloads: Vec<Vec<Workload>>,
    callers: Vec<Steering>,
    shares: Vec<Vec<ClusterShare>>,
    requests: Vec<Request>,
    /// Service time of each request where nothing is slower.
    work: Vec<f64>,
    running: BTreeMap<u64, Running>,
    tries: u64,
    down: bool,
}

impl World {
    pub(crate) fn run(policy: Policy, story: &Story, inputs: Inputs, seed: u64) -> Vec<Request> {
        let origin = Instant::now();
        let layout = story.layout;
        let caller = |_| Steering::new(policy, layout, inputs.assumed, origin);
        let workload = || Workload::new(layout.workers, 0.0);
        let mut world = Self {
            seed,
            story: story.clone(),
            inputs,
            origin,
            now: 0.0,
            events: BinaryHeap::new(),
            made: 0,
            workloads: (0..CLUSTERS)
                .map(|_| (0..layout.workloads).map(|_| workload()).collect())
                .collect(),
            callers: (0..CLUSTERS * CALLERS).map(caller).collect(),
            shares: vec![],
            requests: vec![],
            work: vec![],
            running: BTreeMap::new(),
            tries: 0,
            down: false,
        };
        world.prepare();
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            world.now = seconds(at);
            world.on_event(event);
        }
        world.requests
    }

    /// All arrivals and what happens to the clusters.
    fn prepare(&mut self) {
        for from in 0..CLUSTERS {
            let (mut at, mut count) = (0.0, 0);
            loop {
                let load = self.load_of(from, at);
                count += 1;
                let draw = uniform(self.seed ^ 0xa11, (from as u64) << 40 | count);
                at += -(1.0 - draw).ln() / (load * self.story.capacity());
                if at >= self.story.length {
                    break;
                }
                self.requests.push(Request {
                    from,
                    began: at,
                    ended: at,
                    served: None,
                    shed: 0,
                });
                let work =
                    self.story.service * lognormal(self.seed ^ 0x3e7, (from as u64) << 40 | count);
                self.work.push(work);
                self.push(at, Event::Arrive(self.requests.len() - 1));
            }
        }
        if self.story.outage {
            self.push(self.story.begins, Event::Down);
            self.push(self.story.ends, Event::Up);
        }
        let rounds = (0..)
            .map(f64::from)
            .take_while(|at| *at < self.story.length);
        rounds
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|at| self.push(at, Event::Facts));
        self.shares = (0..CLUSTERS).map(|from| self.facts(from)).collect();
    }

    fn load_of(&self, from: usize, at: f64) -> f64 {
        let trouble = (self.story.begins..self.story.ends).contains(&at);
        if trouble {
            self.story.trouble[from]
        } else {
            self.story.calm[from]
        }
    }

    fn in_trouble(&self, cluster: usize) -> bool {
        cluster == 0 && (self.story.begins..self.story.ends).contains(&self.now)
    }

    fn staffed(&self, cluster: usize) -> usize {
        if self.in_trouble(cluster) {
            self.story.workers
        } else {
            self.story.layout.workers
        }
    }

    fn facts(&mut self, from: usize) -> Vec<ClusterShare> {
        let is_down = self.story.outage || self.story.workers == 0;
        let told_down =
            is_down && (self.story.begins + TOLD..self.story.ends + TOLD).contains(&self.now);
        let workloads = self.story.layout.workloads;
        (0..CLUSTERS)
            .map(|to| {
                let healthy = if to == 0 && told_down { 0 } else { workloads };
                let rtt = self.noisy(RTT[from][to] / 1e3);
                ClusterShare {
                    cluster: name(to),
                    local: from == to,
                    healthy: u32::try_from(healthy).expect("few"),
                    total: u32::try_from(workloads).expect("few"),
                    age: Duration::ZERO,
                    rtt: Some(Duration::from_secs_f64(rtt)),
                    connected: true,
                    most: None,
                    traffic: isthmus_model::ALL_TRAFFIC,
                    barred: None,
                }
            })
            .collect()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrive(request) => {
                let from = self.requests[request].from;
                let callers = self.story.layout.callers[from];
                let caller = from * CALLERS + below(self.draw(), callers);
                let id = self.next_try();
                self.push(self.now + self.story.timeout(), Event::TimedOut(id));
                let (timeout, now) = (self.story.timeout(), self.instant());
                let attempts = self.callers[caller].arrive(timeout, now);
                self.begin(id, request, caller, attempts, Failed::default());
            }
            Event::Start(id, cluster, workload) => self.start(id, cluster, workload),
            Event::Done(id, cluster, workload) => self.done(id, cluster, workload),
            Event::Reply(id, status) => {
                let replied = Outcome::Replied {
                    status,
                    retry_unwanted: false,
                };
                self.end(id, replied);
            }
            Event::Shed(id) => self.end(id, Outcome::Shed),
            Event::Turn(cluster, workload) => {
                let now = self.instant();
                let place = &mut self.workloads[cluster][workload];
                let turns = place.admission.on_timeout(now);
                self.take(cluster, workload, turns);
            }
            Event::Broken(id) => self.end(id, Outcome::Lost),
            Event::NotConnected(id) => self.end(id, Outcome::ConnectFailed),
            Event::TimedOut(id) => self.end(id, Outcome::TimedOut),
            Event::Down => {
                self.down = true;
                let there: Vec<u64> = self
                    .running
                    .iter()
                    .filter(|(_, r)| r.cluster == 0)
                    .map(|(id, _)| *id)
                    .collect();
                for id in there {
                    let rtt = way(self.running[&id].caller, 0);
                    self.push(self.now + rtt / 2.0, Event::Broken(id));
                }
            }
            Event::Up => {
                self.down = false;
                let (now, workers) = (self.now, self.story.layout.workers);
                for workload in &mut self.workloads[0] {
                    *workload = Workload::new(workers, now);
                }
            }
            Event::Facts => {
                for from in 0..CLUSTERS {
                    let lost = self.draw_unit() < self.inputs.lost;
                    if !lost {
                        self.shares[from] = self.facts(from);
                    }
                }
                let now = self.instant();
                for (index, caller) in self.callers.iter_mut().enumerate() {
                    caller.observe(&self.shares[index / CALLERS], now);
                }
            }
        }
    }

    fn begin(
        &mut self,
        id: u64,
        request: usize,
        caller: usize,
        mut attempts: Attempts,
        failed: Failed,
    ) {
        let (now, draw) = (self.instant(), self.draw());
        let from = caller / CALLERS;
        attempts.begin(now);
        let (cluster, workload, ticket) =
            self.callers[caller].begin(&self.shares[from], &failed, now, draw);
        let rtt = way(caller, cluster);
        if cluster == 0 && self.down {
            self.push(self.now + rtt, Event::NotConnected(id));
        } else {
            let _sent = attempts.commit();
            self.push(self.now + rtt / 2.0, Event::Start(id, cluster, workload));
        }
        self.running.insert(
            id,
            Running {
                request,
                caller,
                attempts,
                failed,
                cluster,
                workload,
                ticket,
                arrived: self.now,
                waited: None,
                admitted: None,
            },
        );
    }

    /// The request is at its workload.
    fn start(&mut self, id: u64, cluster: usize, workload: usize) {
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        if !self.inputs.guarded {
            return self.execute(id, cluster, workload);
        }
        let now = self.origin + Duration::from_secs_f64(self.now);
        let left = self.requests[running.request].began + self.story.timeout() - self.now;
        let left = Duration::from_secs_f64(left.max(0.0));
        let place = &mut self.workloads[cluster][workload];
        let attempt = running.attempts.attempt();
        running.arrived = self.now;
        match place
            .admission
            .arrive(Importance::Normal, attempt, Some(left), now)
        {
            Arrival::Admitted(admitted) => {
                running.admitted = Some(admitted);
                self.execute(id, cluster, workload);
            }
            Arrival::Queued(ticket) => {
                place.queue.insert(ticket, id);
            }
            Arrival::Shed(_) => self.turn_away(id, cluster),
        }
        self.wake(cluster, workload);
    }

    fn turn_away(&mut self, id: u64, cluster: usize) {
        if let Some(running) = self.running.get(&id) {
            self.requests[running.request].shed += 1;
            let rtt = way(running.caller, cluster);
            self.push(self.now + rtt / 2.0, Event::Shed(id));
        }
    }

    fn take(&mut self, cluster: usize, workload: usize, turns: Vec<Turn>) {
        let mut turns = turns;
        while let Some(turn) = turns.pop() {
            let place = &mut self.workloads[cluster][workload];
            match turn {
                Turn::Go(ticket, admitted) => {
                    let id = place.queue.remove(&ticket).expect("it was given out");
                    if let Some(running) = self.running.get_mut(&id) {
                        running.admitted = Some(admitted);
                        self.execute(id, cluster, workload);
                    } else {
                        let now = self.origin + Duration::from_secs_f64(self.now);
                        turns.extend(place.admission.finish(admitted, Served::Otherwise, now));
                    }
                }
                Turn::Shed(ticket, _) => {
                    let id = place.queue.remove(&ticket).expect("it was given out");
                    self.turn_away(id, cluster);
                }
            }
        }
        self.wake(cluster, workload);
    }

    fn wake(&mut self, cluster: usize, workload: usize) {
        let now = self.instant();
        let next = self.workloads[cluster][workload]
            .admission
            .next_timeout(now);
        if let Some(next) = next {
            let at = next.saturating_duration_since(self.origin).as_secs_f64();
            self.push(at.max(self.now + 1e-6), Event::Turn(cluster, workload));
        }
    }

    /// The program takes the request: the worker does that is free first.
    fn execute(&mut self, id: u64, cluster: usize, workload: usize) {
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        running.waited = Some(self.now - running.arrived);
        let request = running.request;
        let slower = if self.in_trouble(cluster) {
            self.story.slower
        } else {
            1.0
        };
        let work = self.work[request] * slower;
        let (now, staffed) = (self.now, self.staffed(cluster));
        if staffed == 0 {
            return self.answer(id, cluster, workload, 503);
        }
        let place = &mut self.workloads[cluster][workload];
        place.measure(now, 1, staffed);
        let workers = &mut place.workers[..staffed];
        let worker = workers
            .iter_mut()
            .min_by(|a, b| a.total_cmp(b))
            .expect("four");
        *worker = worker.max(now) + work;
        let done = *worker;
        self.push(done, Event::Done(id, cluster, workload));
    }

    fn done(&mut self, id: u64, cluster: usize, workload: usize) {
        let staffed = self.staffed(cluster);
        self.workloads[cluster][workload].measure(self.now, -1, staffed);
        if !(cluster == 0 && self.down) {
            self.answer(id, cluster, workload, 200);
        }
    }

    /// The program answers with that status.
    fn answer(&mut self, id: u64, cluster: usize, workload: usize, status: u16) {
        let now = self.instant();
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        let admitted = running.admitted.take();
        let rtt = way(running.caller, cluster);
        self.push(self.now + rtt / 2.0, Event::Reply(id, status));
        if let Some(admitted) = admitted {
            let served = if status < 500 {
                Served::Replied
            } else {
                Served::Otherwise
            };
            let place = &mut self.workloads[cluster][workload];
            let turns = place.admission.finish(admitted, served, now);
            self.take(cluster, workload, turns);
        }
    }

    fn end(&mut self, id: u64, outcome: Outcome) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        let now = self.instant();
        let says = self.inputs.utilisation && self.draw_unit() >= self.inputs.lost;
        let place = &self.workloads[running.cluster][running.workload];
        let truth = if self.inputs.guarded {
            place.admission.utilisation(now)
        } else {
            place.utilisation.0
        };
        let waited = running.waited.filter(|_| says && self.inputs.guarded);
        let told = Told {
            utilisation: Some(self.noisy(truth).min(1.0)).filter(|_| says),
            waited: waited.map(Duration::from_secs_f64),
        };
        let (cluster, workload) = (running.cluster, running.workload);
        if let Some(admitted) = running.admitted {
            // Nobody waits for it any more, whatever the program does.
            let place = &mut self.workloads[cluster][workload];
            let turns = place.admission.finish(admitted, Served::Otherwise, now);
            self.take(cluster, workload, turns);
        }
        self.callers[running.caller].finish(running.ticket, outcome, told, now);
        self.requests[running.request].ended = self.now;
        if outcome == Outcome::TimedOut {
            return;
        }
        let Running {
            request,
            caller,
            mut attempts,
            mut failed,
            ..
        } = running;
        let from = caller / CALLERS;
        let avoid = self.callers[caller].avoid(
            &attempts,
            &failed,
            outcome,
            &self.shares[from],
            cluster,
            now,
        );
        failed.add(avoid, cluster, workload);
        let verdict = self.callers[caller].judge(
            &mut attempts,
            &failed,
            outcome,
            &self.shares[from],
            (cluster, workload),
            now,
        );
        match verdict {
            Verdict::Deliver if matches!(outcome, Outcome::Replied { status: 200, .. }) => {
                self.requests[request].served = Some(cluster);
            }
            Verdict::Deliver | Verdict::GiveUp { .. } => {}
            Verdict::Retry => self.begin(id, request, caller, attempts, failed),
        }
    }

    fn noisy(&mut self, truth: f64) -> f64 {
        let noise = self.inputs.noise;
        truth * (1.0 + noise * (2.0 * self.draw_unit() - 1.0))
    }

    fn push(&mut self, at: f64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((nanos(at), self.made, event)));
    }

    fn next_try(&mut self) -> u64 {
        self.tries += 1;
        self.tries
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_secs_f64(self.now)
    }

    fn draw(&mut self) -> u64 {
        self.made += 1;
        random(self.seed, self.made)
    }

    fn draw_unit(&mut self) -> f64 {
        unit(self.draw())
    }
}

impl Workload {
    /// Its workers are free from then on.
    fn new(workers: usize, at: f64) -> Self {
        Self {
            workers: vec![at; workers],
            ..Self::default()
        }
    }

    /// One more or less is in the workload: what was busy until now counts for as long as it was.
    fn measure(&mut self, now: f64, change: isize, staffed: usize) {
        let (known, at) = self.utilisation;
        let busy = self.busy.min(staffed) as f64 / staffed.max(1) as f64;
        let kept = (-(now - at) / 0.1).exp();
        self.utilisation = (known * kept + busy * (1.0 - kept), now);
        self.busy = self.busy.saturating_add_signed(change);
    }
}

/// The round trip in seconds.
fn way(caller: usize, cluster: usize) -> f64 {
    RTT[caller / CALLERS][cluster] / 1e3
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
