//! Three clusters that call each other's service, in virtual time: FIFO workloads, lognormal service
//! times, several callers in each cluster, and a story of load and trouble.
//!
//! When requests arrive and how much work each is depends on the seed alone, so that all policies
//! are compared on the same numbers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use isthmus_balance::{
    Admission, Admitted, Arrival, Attempts, Avoid, ClusterShare, Importance, Outcome, Served,
    Ticket as Place, Turn,
};
use isthmus_model::{ClusterName, TrafficSettings};

use crate::chance::{below, lognormal, random, uniform, unit};
use crate::policies::{Policy, Steering, Ticket};

pub(crate) const CLUSTERS: usize = 3;
pub(crate) const WORKLOADS: usize = 4;
pub(crate) const WORKERS: usize = 4;
/// How long callers wait, as a multiple of the service time.
const PATIENCE: f64 = 50.0;
const CALLERS: usize = 4;
/// Round trips in ms: from, to.
const RTT: [[f64; CLUSTERS]; CLUSTERS] = [[0.5, 40.0, 60.0], [40.0, 0.5, 80.0], [60.0, 80.0, 0.5]];
/// How long after an outage begins or ends the facts of all say so.
const TOLD: f64 = 1.0;
const MOST_TRIES: u32 = 3;

pub(crate) fn name(cluster: usize) -> ClusterName {
    ClusterName::new(["us", "eu", "ap"][cluster]).expect("a label")
}

/// What happens, in seconds and in shares of one cluster's capacity.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    /// Mean time of work in seconds.
    pub(crate) service: f64,
    pub(crate) calm: [f64; CLUSTERS],
    pub(crate) trouble: [f64; CLUSTERS],
    /// How much longer everything takes in `us` during the trouble.
    pub(crate) slower: f64,
    /// Workers of each workload in `us` during the trouble.
    pub(crate) workers: usize,
    /// `us` is down during the trouble.
    pub(crate) outage: bool,
    pub(crate) begins: f64,
    pub(crate) ends: f64,
    pub(crate) length: f64,
}

impl Story {
    /// Requests per second that a cluster serves when all its workers are busy.
    fn capacity(&self) -> f64 {
        (WORKLOADS * WORKERS) as f64 / self.service
    }

    fn timeout(&self) -> f64 {
        PATIENCE * self.service
    }
}

/// How the inputs of a policy are worse than the truth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inputs {
    /// Replies say how busy their workload is.
    pub(crate) utilisation: bool,
    /// An [`Admission`] stands before each workload, and it is what says so.
    pub(crate) guarded: bool,
    /// Times and utilisation are wrong by up to this part.
    pub(crate) noise: f64,
    /// This part of the replies does not say; of facts, is not updated.
    pub(crate) lost: f64,
    /// What every workload is assumed to hold, if anything.
    pub(crate) assumed: Option<f64>,
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
    workers: [f64; WORKERS],
    /// Busy workers of all, smoothed over 100 ms, as of then.
    utilisation: (f64, f64),
    busy: usize,
}

struct Running {
    request: usize,
    caller: usize,
    tries: u32,
    avoid: Vec<ClusterName>,
    cluster: usize,
    workload: usize,
    ticket: Ticket,
    /// By the workload, if it is guarded.
    admitted: Option<Admitted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Start(u64, usize, usize),
    Done(u64, usize, usize),
    Reply(u64),
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
        let caller = |_| Steering::new(policy, inputs.assumed, origin);
        let mut world = Self {
            seed,
            story: story.clone(),
            inputs,
            origin,
            now: 0.0,
            events: BinaryHeap::new(),
            made: 0,
            workloads: (0..CLUSTERS)
                .map(|_| (0..WORKLOADS).map(|_| Workload::default()).collect())
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
            WORKERS
        }
    }

    fn facts(&mut self, from: usize) -> Vec<ClusterShare> {
        let told_down = self.story.outage
            && (self.story.begins + TOLD..self.story.ends + TOLD).contains(&self.now);
        (0..CLUSTERS)
            .map(|to| {
                let healthy = if to == 0 && told_down { 0 } else { WORKLOADS };
                let rtt = self.noisy(RTT[from][to] / 1e3);
                ClusterShare {
                    cluster: name(to),
                    local: from == to,
                    healthy: u32::try_from(healthy).expect("few"),
                    total: u32::try_from(WORKLOADS).expect("few"),
                    age: Duration::ZERO,
                    rtt: Some(Duration::from_secs_f64(rtt)),
                    connected: true,
                    most: None,
                    barred: None,
                }
            })
            .collect()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrive(request) => {
                let caller = self.requests[request].from * CALLERS + below(self.draw(), CALLERS);
                let id = self.next_try();
                self.push(self.now + self.story.timeout(), Event::TimedOut(id));
                self.begin(id, request, caller, 1, vec![]);
            }
            Event::Start(id, cluster, workload) => self.start(id, cluster, workload),
            Event::Done(id, cluster, workload) => self.done(id, cluster, workload),
            Event::Reply(id) => {
                let replied = Outcome::Replied {
                    status: 200,
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
                let now = self.now;
                for workload in &mut self.workloads[0] {
                    *workload = Workload {
                        workers: [now; WORKERS],
                        ..Workload::default()
                    };
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
        tries: u32,
        avoid: Vec<ClusterName>,
    ) {
        let (now, draw) = (self.instant(), self.draw());
        let from = caller / CALLERS;
        let (cluster, workload, ticket) =
            self.callers[caller].begin(&self.shares[from], &avoid, now, draw);
        let rtt = way(caller, cluster);
        if cluster == 0 && self.down {
            self.push(self.now + rtt, Event::NotConnected(id));
        } else {
            self.push(self.now + rtt / 2.0, Event::Start(id, cluster, workload));
        }
        self.running.insert(
            id,
            Running {
                request,
                caller,
                tries,
                avoid,
                cluster,
                workload,
                ticket,
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
        let attempt = running.tries - 1;
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
        let Some(request) = self.running.get(&id).map(|running| running.request) else {
            return;
        };
        let slower = if self.in_trouble(cluster) {
            self.story.slower
        } else {
            1.0
        };
        let work = self.work[request] * slower;
        let (now, staffed) = (self.now, self.staffed(cluster));
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
        let now = self.instant();
        let mut admitted = None;
        if let Some(running) = self.running.get_mut(&id)
            && !(cluster == 0 && self.down)
        {
            admitted = running.admitted.take();
            let rtt = way(running.caller, cluster);
            self.push(self.now + rtt / 2.0, Event::Reply(id));
        }
        if let Some(admitted) = admitted {
            let place = &mut self.workloads[cluster][workload];
            let turns = place.admission.finish(admitted, Served::Replied, now);
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
        let told = self.noisy(truth).min(1.0);
        let (cluster, workload) = (running.cluster, running.workload);
        if let Some(admitted) = running.admitted {
            // Nobody waits for it any more, whatever the program does.
            let place = &mut self.workloads[cluster][workload];
            let turns = place.admission.finish(admitted, Served::Otherwise, now);
            self.take(cluster, workload, turns);
        }
        self.callers[running.caller].finish(running.ticket, outcome, says.then_some(told), now);
        self.requests[running.request].ended = self.now;
        match outcome {
            Outcome::Replied { .. } => self.requests[running.request].served = Some(cluster),
            Outcome::TimedOut => {}
            _ if running.tries >= MOST_TRIES => {}
            _ => {
                let mut avoid = running.avoid;
                if outcome != Outcome::Shed || leaves_cluster(running.tries, outcome, now) {
                    avoid.push(name(cluster));
                }
                self.begin(
                    id,
                    running.request,
                    running.caller,
                    running.tries + 1,
                    avoid,
                );
            }
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
    /// One more or less is in the workload: what was busy until now counts for as long as it was.
    fn measure(&mut self, now: f64, change: isize, staffed: usize) {
        let (known, at) = self.utilisation;
        let busy = self.busy.min(staffed) as f64 / staffed as f64;
        let kept = (-(now - at) / 0.1).exp();
        self.utilisation = (known * kept + busy * (1.0 - kept), now);
        self.busy = self.busy.saturating_add_signed(change);
    }
}

/// Does the next try go to another cluster, or to another workload of the same one?
fn leaves_cluster(tries: u32, outcome: Outcome, now: Instant) -> bool {
    let mut attempts = Attempts::new(&TrafficSettings::default(), "GET", None, now);
    (0..tries).for_each(|_| attempts.begin(now));
    attempts.avoid(outcome) == Avoid::Cluster
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
