//! The virtual world of the stories: clusters of FIFO workloads, faults, and one caller whose proxy
//! does what the machines say.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use isthmus_balance::constants::{LIVENESS_FLOOR, PING_EVERY};
use isthmus_balance::{
    Attempts, Avoid, Budget, ClusterShare, ClusterTry, Decision, Endpoints, Outcome, Valve,
    Verdict, WorkloadReason,
};
use isthmus_model::{Algorithm, ClusterName, TrafficSettings};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn name(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a label")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Programs die, connections break at once, new ones are refused.
    Kill,
    /// Programs go on, nothing gets through: found by pings, then by connect timeouts.
    BlackHole,
    /// Everything is answered with 503 at once.
    Overload,
}

/// What became of a request. Times are since the beginning of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub post: bool,
    pub began: Duration,
    pub ended: Option<Duration>,
    /// By whom, if it was answered.
    pub served: Option<ClusterName>,
    pub failed: bool,
    pub maybe_executed: bool,
    /// How many programs ran it.
    pub executed: u32,
}

/// Two of them in each cluster, each with four workers; a request takes 10 to 30 ms of one.
#[derive(Debug, Clone)]
struct Workload {
    fault: Fault,
    /// When each worker is free.
    workers: [Duration; 4],
    /// The caller's connection was found dead and must be made anew.
    lost: bool,
}

struct Place {
    rtt: Duration,
    workloads: Vec<Workload>,
    endpoints: Endpoints<usize>,
}

/// A request on its way, with what its proxy knows of it.
struct Journey {
    request: usize,
    attempts: Attempts,
    avoid_clusters: Vec<ClusterName>,
    avoid_workloads: Vec<(ClusterName, usize)>,
}

struct Try {
    journey: Journey,
    ticket: ClusterTry,
    workload: usize,
    began: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive {
        post: bool,
    },
    Execute {
        try_: u64,
    },
    Reply {
        try_: u64,
        status: u16,
    },
    NotConnected {
        try_: u64,
    },
    FoundDead {
        cluster: ClusterName,
        workload: usize,
    },
}

pub(crate) struct World {
    pub(crate) valve: Valve,
    origin: Instant,
    now: Duration,
    seed: u64,
    places: BTreeMap<ClusterName, Place>,
    budget: Budget,
    settings: TrafficSettings,
    /// By time, then by order of making.
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    made: u64,
    tries: u64,
    running: BTreeMap<u64, Try>,
    /// Tries that programs work on: request, cluster, workload.
    programs: BTreeMap<u64, (usize, ClusterName, usize)>,
    requests: Vec<Request>,
}

impl World {
    /// The caller is in `us`, whether or not the service runs there.
    pub(crate) fn new(seed: u64, clusters: &[&str]) -> Self {
        let origin = Instant::now();
        let settings = TrafficSettings::default();
        let place = |&cluster: &&str| {
            let workload = Workload {
                fault: Fault::None,
                workers: [Duration::ZERO; 4],
                lost: false,
            };
            let mut endpoints = Endpoints::new(Algorithm::PeakEwma, settings.outlier.clone());
            endpoints.set(0..2, origin);
            let rtt = match cluster {
                "us" => MS,
                "eu" => 140 * MS,
                _ => 220 * MS,
            };
            let place = Place {
                rtt,
                workloads: vec![workload; 2],
                endpoints,
            };
            (name(cluster), place)
        };
        let mut world = Self {
            valve: Valve::default(),
            origin,
            now: Duration::ZERO,
            seed,
            places: clusters.iter().map(place).collect(),
            budget: Budget::new(origin),
            settings: settings.clone(),
            events: BinaryHeap::new(),
            made: 0,
            tries: 0,
            running: BTreeMap::new(),
            programs: BTreeMap::new(),
            requests: Vec::new(),
        };
        let shares = world.shares();
        world.valve.observe(&shares, origin);
        world
    }

    /// An open loop of `rate` requests/s for some seconds; every tenth is a POST.
    pub(crate) fn load(&mut self, rate: u32, seconds: u32) {
        self.load_within(rate * seconds, Duration::from_secs(1) * seconds);
    }

    /// The same of so many requests within some time.
    pub(crate) fn load_within(&mut self, count: u32, length: Duration) {
        let until = self.now + length;
        for index in 0..count {
            let at = self.now + length * index / count;
            let post = index % 10 == 0;
            self.push(at, Event::Arrive { post });
        }
        self.run_until(until);
        self.now = until;
    }

    /// Lets everything end.
    pub(crate) fn drain(&mut self) {
        self.run_until(Duration::MAX);
        assert!(self.running.is_empty(), "a request hangs");
        for cluster in self.places.keys() {
            assert_eq!(self.valve.in_flight(cluster), 0, "{cluster}");
        }
    }

    pub(crate) fn fault(&mut self, cluster: &str, fault: Fault) {
        self.fault_workload(cluster, 0, fault);
        self.fault_workload(cluster, 1, fault);
    }

    pub(crate) fn fault_workload(&mut self, cluster: &str, workload: usize, fault: Fault) {
        let cluster = name(cluster);
        self.workload(&cluster, workload).fault = fault;
        match fault {
            Fault::None | Fault::Overload => {}
            Fault::Kill => {
                self.programs
                    .retain(|_, (_, at, which)| (&*at, *which) != (&cluster, workload));
                self.reset(&cluster, workload);
            }
            Fault::BlackHole => {
                let at = self.now + PING_EVERY + LIVENESS_FLOOR;
                self.push(at, Event::FoundDead { cluster, workload });
            }
        }
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter()
    }

    /// Requests that began in these seconds and were answered by `cluster`.
    pub(crate) fn served_by(&self, cluster: &str, from: u64, to: u64) -> usize {
        let here = |request: &&Request| {
            let by = request.served.as_ref();
            by.is_some_and(|by| by.as_str() == cluster)
                && (from..to).contains(&request.began.as_secs())
        };
        self.requests().filter(here).count()
    }

    pub(crate) fn failed_gets(&self) -> usize {
        self.requests().filter(|r| r.failed && !r.post).count()
    }

    pub(crate) fn slowest(&self) -> Duration {
        let took = |r: &Request| r.ended.map(|ended| ended.saturating_sub(r.began));
        self.requests().filter_map(took).max().unwrap_or_default()
    }

    /// Tries that have not ended.
    pub(crate) fn on_the_way(&self, cluster: &str) -> u64 {
        self.valve.in_flight(&name(cluster)).into()
    }

    /// Tries that have begun.
    pub(crate) fn tries(&self) -> u64 {
        self.tries
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn run_until(&mut self, until: Duration) {
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at < until
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                return;
            };
            self.now = at;
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrive { post } => self.arrive(post),
            Event::Execute { try_ } => {
                if let Some((request, _, _)) = self.programs.remove(&try_) {
                    self.requests[request].executed += 1;
                }
            }
            Event::Reply { try_, status } => {
                let lost = self.running.get(&try_).is_none_or(|running| {
                    let place = &self.places[running.ticket.cluster()];
                    place.workloads[running.workload].fault == Fault::BlackHole
                });
                let outcome = Outcome::Replied {
                    status,
                    retry_unwanted: false,
                };
                if !lost {
                    self.end(try_, outcome);
                }
            }
            Event::NotConnected { try_ } => self.end(try_, Outcome::ConnectFailed),
            Event::FoundDead { cluster, workload } => {
                if self.workload(&cluster, workload).fault == Fault::BlackHole {
                    self.workload(&cluster, workload).lost = true;
                    self.reset(&cluster, workload);
                }
            }
        }
    }

    fn arrive(&mut self, post: bool) {
        let now = self.instant();
        self.budget.on_request(now);
        let method = if post { "POST" } else { "GET" };
        let journey = Journey {
            request: self.requests.len(),
            attempts: Attempts::new(&self.settings, method, None, now),
            avoid_clusters: vec![],
            avoid_workloads: vec![],
        };
        self.requests.push(Request {
            post,
            began: self.now,
            ended: None,
            served: None,
            failed: false,
            maybe_executed: false,
            executed: 0,
        });
        self.begin_try(journey);
    }

    /// `pick → begin → start`, and what the world makes of it.
    fn begin_try(&mut self, mut journey: Journey) {
        let now = self.instant();
        self.tries += 1;
        let id = self.tries;
        journey.attempts.begin(now);
        let (cluster, workload) = self.pick(&mut journey);
        let ticket = self.valve.begin(&cluster, now);
        let place = self.places.get_mut(&cluster).expect("it was picked");
        place.endpoints.start(&workload);
        let (rtt, request) = (place.rtt, journey.request);
        let target = &mut place.workloads[workload];
        match target.fault {
            Fault::Kill => self.push(self.now + rtt, Event::NotConnected { try_: id }),
            Fault::BlackHole if target.lost => {
                let at = self.now + self.settings.timeout.connect;
                self.push(at, Event::NotConnected { try_: id });
            }
            Fault::BlackHole => {
                let _silence = journey.attempts.commit();
            }
            Fault::Overload => {
                let _sent = journey.attempts.commit();
                let reply = Event::Reply {
                    try_: id,
                    status: 503,
                };
                self.push(self.now + rtt, reply);
            }
            Fault::None => {
                let _sent = journey.attempts.commit();
                target.lost = false;
                let service = 10 * MS + 20 * MS * random_permille(self.seed, self.made) / 1000;
                let first = target.workers.iter_mut().min().expect("four workers");
                *first = (self.now + rtt / 2).max(*first) + service;
                let done = *first;
                self.programs.insert(id, (request, cluster, workload));
                self.push(done, Event::Execute { try_: id });
                let reply = Event::Reply {
                    try_: id,
                    status: 200,
                };
                self.push(done + rtt / 2, reply);
            }
        }
        let running = Try {
            journey,
            ticket,
            workload,
            began: self.now,
        };
        self.running.insert(id, running);
    }

    /// A cluster, and a workload in it; if the request has failed at all of them, another cluster.
    fn pick(&mut self, journey: &mut Journey) -> (ClusterName, usize) {
        let now = self.instant();
        loop {
            let decision = self.decide(&journey.avoid_clusters);
            let cluster = decision
                .chosen()
                .expect("there are workloads")
                .share
                .cluster
                .clone();
            let failed: Vec<usize> = journey
                .avoid_workloads
                .iter()
                .filter_map(|(at, workload)| (*at == cluster).then_some(*workload))
                .collect();
            let draw = self.draw();
            let picked = self.places[&cluster].endpoints.pick(&failed, now, draw);
            let picked = picked.expect("there are workloads");
            if picked.reason == WorkloadReason::AllFailed
                && !journey.avoid_clusters.contains(&cluster)
            {
                journey.avoid_clusters.push(cluster);
                continue;
            }
            return (cluster, *picked.key);
        }
    }

    fn decide(&mut self, avoid: &[ClusterName]) -> Decision {
        let draw = self.draw();
        let shares = self.shares();
        self.valve
            .pick_cluster(&shares, avoid, self.instant(), draw)
    }

    fn shares(&self) -> Vec<ClusterShare> {
        let share = |(cluster, place): (&ClusterName, &Place)| ClusterShare {
            cluster: cluster.clone(),
            local: cluster.as_str() == "us",
            healthy: 2,
            total: 2,
            age: Duration::ZERO,
            rtt: Some(place.rtt),
            connected: true,
            most: None,
            traffic: isthmus_model::ALL_TRAFFIC,
            barred: None,
        };
        self.places.iter().map(share).collect()
    }

    /// `finish → judge`, and what the verdict says.
    fn end(&mut self, id: u64, outcome: Outcome) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        let Try {
            mut journey,
            ticket,
            workload,
            began,
        } = running;
        let now = self.instant();
        let cluster = ticket.cluster().clone();
        self.valve.finish(ticket, outcome, now);
        let place = self.places.get_mut(&cluster).expect("it was picked");
        place
            .endpoints
            .finish(&workload, outcome, self.now.saturating_sub(began), now);
        let mut beyond = journey.avoid_clusters.clone();
        beyond.push(cluster.clone());
        let beyond = self.decide(&beyond);
        match journey.attempts.avoid(outcome) {
            _ if self.valve.leaves(&cluster, &beyond) => {
                journey.avoid_clusters.push(cluster.clone());
            }
            Avoid::Workload => journey.avoid_workloads.push((cluster.clone(), workload)),
            Avoid::Cluster => journey.avoid_clusters.push(cluster.clone()),
        }
        let next = self.decide(&journey.avoid_clusters);
        let relief = self.valve.relief(outcome, &cluster, false, &next, now);
        let verdict = journey
            .attempts
            .judge(outcome, relief, &mut self.budget, now);
        let request = &mut self.requests[journey.request];
        match verdict {
            Verdict::Retry => return self.begin_try(journey),
            Verdict::Deliver => request.served = Some(cluster),
            Verdict::GiveUp { maybe_executed, .. } => {
                request.failed = true;
                request.maybe_executed = maybe_executed;
            }
        }
        request.ended = Some(self.now);
    }

    /// The connection to a workload has broken.
    fn reset(&mut self, cluster: &ClusterName, workload: usize) {
        let there =
            |running: &Try| running.ticket.cluster() == cluster && running.workload == workload;
        let broken: Vec<u64> = self
            .running
            .iter()
            .filter_map(|(id, running)| there(running).then_some(*id))
            .collect();
        for id in broken {
            self.end(id, Outcome::Lost);
        }
    }

    fn workload(&mut self, cluster: &ClusterName, workload: usize) -> &mut Workload {
        let place = self.places.get_mut(cluster).expect("a cluster");
        &mut place.workloads[workload]
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    fn draw(&mut self) -> u64 {
        self.made += 1;
        random(self.seed, self.made)
    }
}

/// SplitMix64.
fn random(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_permille(seed: u64, count: u64) -> u32 {
    u32::try_from(random(seed ^ 0x5eed, count) % 1000).expect("below 1000")
}
