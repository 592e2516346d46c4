//! Clusters, connections and disks in virtual time, and what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support;
use bytes::Bytes;
use isthmus_model::{ClusterName, Position};
use isthmus_replica::{
    Change, CloseReason, Content, Expect, Follower, LedgerName, Mark, Output, PeerMessage, Replica,
    SessionId,
};
use isthmus_world::{Chance, Clock, SeededChance, Store, VirtualClock, VirtualStore};

pub(crate) const NAMES: [&str; 3] = ["ap-south", "eu-central", "us-west"];
/// Writes config.
pub(crate) const AUTHORITY: usize = 1;

pub(crate) fn cluster(node: usize) -> ClusterName {
    ClusterName::new(NAMES[node]).unwrap()
}

pub(crate) fn facts(node: usize) -> LedgerName {
    LedgerName::Facts(cluster(node))
}

pub(crate) struct Node {
    pub(crate) store: VirtualStore,
    /// `None` while the process is dead.
    pub(crate) replica: Option<Replica>,
    /// Where copies stood when last looked at in this life.
    pub(crate) seen: BTreeMap<LedgerName, Mark>,
}

/// A connection. Each end has a session of the same number.
pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    /// Whether each end still believes in it.
    pub(crate) open: [bool; 2],
    /// It swallows everything.
    pub(crate) black: bool,
    pub(crate) delay: Duration,
}

/// What happens later, in order of time, then of scheduling.
pub(crate) enum Event {
    Arrive {
        link: u64,
        to: usize,
        message: PeerMessage,
    },
    Closed {
        link: u64,
        to: usize,
    },
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) chance: SeededChance,
    pub(crate) clock: VirtualClock,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) events: BTreeMap<(Duration, u64), Event>,
    pub(crate) scheduled: u64,
    /// Last arrival per link and direction: a connection keeps the order.
    pub(crate) last: BTreeMap<(u64, usize), Duration>,
    /// Highest number that each owner was told is safe, per ledger and key.
    pub(crate) accepted: BTreeMap<(LedgerName, Bytes), u64>,
    /// Every value that was ever written.
    pub(crate) written: BTreeSet<(LedgerName, Bytes, Bytes)>,
    pub(crate) counter: u64,
    pub(crate) entries_sent: usize,
    pub(crate) closed: Vec<CloseReason>,
    pub(crate) outlived: Vec<LedgerName>,
    pub(crate) touched: BTreeMap<(usize, LedgerName), BTreeSet<Bytes>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            chance: SeededChance::new(seed),
            clock: VirtualClock::new(),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            last: BTreeMap::new(),
            accepted: BTreeMap::new(),
            written: BTreeSet::new(),
            counter: 0,
            entries_sent: 0,
            closed: Vec::new(),
            outlived: Vec::new(),
            touched: BTreeMap::new(),
        };
        for node in 0..NAMES.len() {
            world.nodes.push(Node {
                store: VirtualStore::new(),
                replica: None,
                seen: BTreeMap::new(),
            });
            world.start(node);
        }
        world
    }

    pub(crate) fn pick(&mut self, limit: usize) -> usize {
        usize::try_from(self.chance.below(limit as u64)).unwrap()
    }

    pub(crate) fn start(&mut self, node: usize) {
        let seed = self.chance.draw();
        let (now, store) = (self.clock.now(), &self.nodes[node].store);
        let replica = support::load(cluster(node), cluster(AUTHORITY), store, seed, now);
        self.nodes[node].replica = Some(replica);
        self.nodes[node].seen.clear();
        self.save(node);
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].replica = None;
        self.nodes[node].store.power_on();
        let mine = |(id, link): (&u64, &Link)| link.ends.contains(&node).then_some(*id);
        let mine: Vec<u64> = self.links.iter().filter_map(mine).collect();
        for link in mine {
            self.cut(link);
        }
    }

    pub(crate) fn connect(&mut self, from: usize, to: usize) {
        if self.nodes[from].replica.is_none() || self.nodes[to].replica.is_none() {
            return;
        }
        self.scheduled += 1;
        let id = self.scheduled;
        let delay = Duration::from_millis(1 + self.chance.below(100));
        let link = Link {
            ends: [from, to],
            open: [true, true],
            black: false,
            delay,
        };
        self.links.insert(id, link);
        for (node, peer) in [(from, to), (to, from)] {
            let now = self.clock.now();
            let replica = self.nodes[node].replica.as_mut().unwrap();
            let outputs = replica.on_connected(SessionId(id), cluster(peer), now);
            self.perform(node, outputs);
        }
    }

    /// What is on its way is lost; the ends notice at different times.
    pub(crate) fn cut(&mut self, id: u64) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let ends = link.ends;
        self.events
            .retain(|_, event| !matches!(event, Event::Arrive { link, .. } if *link == id));
        for to in ends {
            let after = Duration::from_millis(self.chance.below(500));
            self.schedule(after, Event::Closed { link: id, to });
        }
        self.links.get_mut(&id).unwrap().black = true;
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        let mut at = self.clock.elapsed() + after;
        if let Event::Arrive { link, to, .. } = &event {
            let last = self.last.entry((*link, *to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    pub(crate) fn perform(&mut self, node: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { session, message } => self.send(node, session, message),
                Output::Close { session, reason } => {
                    self.closed.push(reason);
                    self.drop_end(session.0, node);
                }
                Output::Touched { ledger, keys } => {
                    self.touched.entry((node, ledger)).or_default().extend(keys);
                }
                Output::Outlived { ledger, seen, .. } => {
                    // Facts are what their owner says they are, sooner or later.
                    if let (LedgerName::Facts(_), Some(replica)) =
                        (&ledger, &mut self.nodes[node].replica)
                    {
                        replica.overrule(&ledger, seen.epoch);
                    }
                    self.outlived.push(ledger);
                }
                Output::SavedBy { .. } | Output::Authority { .. } | Output::Contact { .. } => {}
            }
        }
        self.save(node);
        self.look(node);
    }

    pub(crate) fn send(&mut self, node: usize, session: SessionId, message: PeerMessage) {
        if let PeerMessage::Piece { content, .. } = &message {
            self.entries_sent += match content {
                Content::Batch(batch) => batch.entries.len(),
                Content::Part(part) => part.entries.len(),
            };
        }
        let Some(link) = self.links.get(&session.0) else {
            return;
        };
        if !link.black {
            let to = other_end(link, node);
            let jitter = Duration::from_micros(self.chance.below(5000));
            let after = self.links[&session.0].delay + jitter;
            let link = session.0;
            self.schedule(after, Event::Arrive { link, to, message });
        }
    }

    /// One end closed the connection: the other hears of it.
    pub(crate) fn drop_end(&mut self, id: u64, node: usize) {
        if let Some(link) = self.links.get_mut(&id) {
            let end = usize::from(link.ends[1] == node);
            link.open[end] = false;
            let (to, delay) = (other_end(link, node), link.delay);
            self.schedule(delay, Event::Closed { link: id, to });
        }
    }

    /// The driver's part: one commit for everything, then show it.
    pub(crate) fn save(&mut self, node: usize) {
        let place = &mut self.nodes[node];
        let Some(replica) = &mut place.replica else {
            return;
        };
        support::agree(replica);
        let Some(unsaved) = replica.unsaved() else {
            return;
        };
        if place.store.commit(&unsaved.batch).is_ok() {
            let outputs = replica.on_saved(unsaved);
            self.perform(node, outputs);
        } else {
            replica.on_not_saved(unsaved, true);
        }
    }

    /// Copies never go back, and hold nothing that their owner has not written.
    pub(crate) fn look(&mut self, node: usize) {
        let place = &mut self.nodes[node];
        let Some(replica) = &place.replica else {
            return;
        };
        for (name, mark) in replica.marks() {
            let before = place.seen.insert(name.clone(), mark).unwrap_or_default();
            assert!(before <= mark, "seed {}: {name} went back", self.seed);
            for (key, _, value) in replica.copy(name).into_iter().flat_map(Follower::entries) {
                let entry = (name.clone(), key.clone(), value.clone());
                assert!(
                    self.written.contains(&entry),
                    "seed {}: {entry:?}",
                    self.seed
                );
            }
        }
    }

    /// Writes the next number under a random key; sometimes deletes.
    pub(crate) fn write(&mut self, node: usize, ledger: &LedgerName) {
        let key = Bytes::from(format!("key-{}", self.chance.below(8)));
        self.counter += 1;
        let number = self.counter;
        let value = (self.chance.below(5) > 0).then(|| Bytes::from(number.to_string()));
        if let Some(value) = &value {
            let entry = (ledger.clone(), key.clone(), value.clone());
            self.written.insert(entry);
        }
        let Some(replica) = &mut self.nodes[node].replica else {
            return;
        };
        let change = Change {
            key: key.clone(),
            value,
            expect: Expect::Anything,
        };
        let written = replica.write(ledger, vec![change]).unwrap();
        self.perform(node, written.outputs);
        let replica = self.nodes[node].replica.as_ref().unwrap();
        if replica.ledger(ledger).unwrap().mark().position >= written.position {
            self.accepted.insert((ledger.clone(), key), number);
        }
    }

    /// Lets time pass and everything happen that is due.
    pub(crate) fn run(&mut self, for_: Duration) {
        let until = self.clock.elapsed() + for_;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
            let tick = (self.nodes.iter())
                .filter_map(|node| node.replica.as_ref()?.next_timeout())
                .map(|at| elapsed + at.saturating_duration_since(now))
                .min();
            let next = event.into_iter().chain(tick).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.clock.advance_to(next);
            match self.events.first_entry() {
                Some(entry) if entry.key().0 <= self.clock.elapsed() => {
                    let event = entry.remove();
                    self.happen(event);
                }
                _ => self.tick(),
            }
        }
        self.clock.advance_to(until);
    }

    pub(crate) fn tick(&mut self) {
        let now = self.clock.now();
        for node in 0..NAMES.len() {
            if let Some(replica) = &mut self.nodes[node].replica {
                let outputs = replica.on_tick(now);
                self.perform(node, outputs);
            }
        }
    }

    pub(crate) fn happen(&mut self, event: Event) {
        let now = self.clock.now();
        let (Event::Arrive { link, to, .. } | Event::Closed { link, to }) = &event;
        let (link, to) = (*link, *to);
        let Some(found) = self.links.get_mut(&link) else {
            return;
        };
        let end = usize::from(found.ends[1] == to);
        if !found.open[end] {
            return;
        }
        if matches!(event, Event::Closed { .. }) {
            found.open[end] = false;
        }
        let Some(replica) = &mut self.nodes[to].replica else {
            return;
        };
        let outputs = match event {
            Event::Arrive { message, .. } => replica.on_message(SessionId(link), message, now),
            Event::Closed { .. } => replica.on_disconnected(SessionId(link)),
        };
        self.perform(to, outputs);
    }

    pub(crate) fn heal(&mut self) {
        for node in 0..NAMES.len() {
            self.nodes[node].store.power_on();
            if self.nodes[node].replica.is_none() {
                self.start(node);
            }
        }
        let all: Vec<u64> = self.links.keys().copied().collect();
        for link in all {
            self.cut(link);
        }
        self.run(Duration::from_secs(1));
        self.links.clear();
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            self.connect(from, to);
        }
        self.run(Duration::from_secs(5));
    }

    pub(crate) fn check_converged(&self) {
        let seed = self.seed;
        let owners = (0..NAMES.len()).map(|node| (node, facts(node)));
        for (owner, name) in owners.chain([(AUTHORITY, LedgerName::Config)]) {
            let ledger = self.nodes[owner].replica.as_ref().unwrap();
            let ledger = ledger.ledger(&name).unwrap();
            if ledger.mark().position == Position(0) {
                continue; // It has not said anything in this life.
            }
            let expect: Vec<_> = ledger.entries().collect();
            for node in (0..NAMES.len()).filter(|node| *node != owner) {
                let replica = self.nodes[node].replica.as_ref().unwrap();
                let copy = replica.copy(&name).unwrap();
                let found: Vec<_> = copy.entries().collect();
                assert_eq!(found, expect, "seed {seed}: {name} at {}", NAMES[node]);
                assert_eq!(copy.mark(), ledger.mark(), "seed {seed}: {name}");
                let holder = self.nodes[owner].replica.as_ref().unwrap();
                let saved = holder.saved_by(&cluster(node), &name);
                assert_eq!(saved, ledger.mark(), "seed {seed}: {name} not saved");
            }
        }
    }

    /// What was accepted is there, unless something later took its place.
    pub(crate) fn check_accepted(&self) {
        let owner = |ledger: &LedgerName| {
            (0..NAMES.len())
                .find(|node| *ledger == facts(*node))
                .unwrap_or(AUTHORITY)
        };
        for ((name, key), number) in &self.accepted {
            let replica = self.nodes[owner(name)].replica.as_ref().unwrap();
            if let Some((_, value)) = replica.find(name, key) {
                let found: u64 = std::str::from_utf8(value).unwrap().parse().unwrap();
                assert!(found >= *number, "seed {}: {name} {key:?}", self.seed);
            }
        }
    }
}

pub(crate) fn other_end(link: &Link, node: usize) -> usize {
    link.ends[usize::from(link.ends[0] == node)]
}
