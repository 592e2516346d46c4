//! Links between clusters: ordered, delayed, cut or swallowing everything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isthmus_control::{PeerSessionId, Target};
use isthmus_wire::proto::PeerFrame;
use isthmus_world::{Chance, SeededChance};

/// How long a message takes at least, and how much more it may take.
const DELAY: Duration = Duration::from_millis(20);
const JITTER: Duration = Duration::from_millis(100);
/// After how long an end notices at the latest that its connection was cut.
const NOTICE: Duration = Duration::from_secs(2);
/// When a dial into nothing is given up.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Up,
    /// Connections end, each end notices when it does, and new ones are refused.
    Cut,
    /// Connections stay open, and nothing arrives.
    BlackHole,
    /// The same in one direction only: nothing arrives at this cluster.
    DeafAt(usize),
}

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Delivery {
    Frame {
        to: usize,
        session: PeerSessionId,
        frame: PeerFrame,
    },
    Ended {
        to: usize,
        session: PeerSessionId,
    },
    Dialled {
        from: usize,
        /// Which of the lives of its control plane dialled.
        life: u64,
        to: Option<usize>,
        target: Target,
    },
}

#[derive(Debug)]
pub(crate) struct Network {
    links: BTreeMap<(usize, usize), LinkState>,
    sessions: BTreeMap<PeerSessionId, Session>,
    next_session: u64,
    /// By time, then in the order in which they were made.
    due: BTreeMap<(Duration, u64), Delivery>,
    next_delivery: u64,
}

#[derive(Debug)]
struct Session {
    ends: [usize; 2],
    /// Does this end take it for open?
    open: [bool; 2],
    /// What is sent from now on is lost.
    is_cut: bool,
    /// Per direction: when the last message arrives, since none overtakes another.
    last: [Duration; 2],
    /// Per direction: what a black hole holds back.
    held: [VecDeque<Held>; 2],
}

#[derive(Debug)]
enum Held {
    Frame(PeerFrame),
    End,
}

impl Session {
    fn side(&self, site: usize) -> usize {
        usize::from(self.ends[0] != site)
    }
}

impl Network {
    pub(crate) fn new(sites: usize) -> Self {
        let pairs = (0..sites).flat_map(|a| (a + 1..sites).map(move |b| (a, b)));
        Self {
            links: pairs.map(|pair| (pair, LinkState::Up)).collect(),
            sessions: BTreeMap::new(),
            next_session: 0,
            due: BTreeMap::new(),
            next_delivery: 0,
        }
    }

    pub(crate) fn link(&self, a: usize, b: usize) -> LinkState {
        let link = self.links.get(&(a.min(b), a.max(b)));
        link.copied().unwrap_or(LinkState::Up)
    }

    fn swallows(&self, from: usize, to: usize) -> bool {
        match self.link(from, to) {
            LinkState::BlackHole => true,
            LinkState::DeafAt(deaf) => deaf == to,
            LinkState::Up | LinkState::Cut => false,
        }
    }

    pub(crate) fn set_link(
        &mut self,
        a: usize,
        b: usize,
        state: LinkState,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        self.links.insert((a.min(b), a.max(b)), state);
        if state == LinkState::Cut {
            self.cut(now, chance, |session| {
                session.ends == [a, b] || session.ends == [b, a]
            });
        } else {
            self.release(now);
        }
    }

    /// Connections end without a word; each end notices in its time.
    fn cut(&mut self, now: Duration, chance: &mut SeededChance, which: impl Fn(&Session) -> bool) {
        let mut noticed = Vec::new();
        for (id, session) in &mut self.sessions {
            if which(session) && !session.is_cut {
                session.is_cut = true;
                session.held = Default::default();
                noticed.extend(session.ends.map(|end| (*id, end)));
            }
        }
        for (session, to) in noticed {
            let at = now + span(chance, NOTICE);
            self.arrive(at, Delivery::Ended { to, session });
        }
    }

    /// What was held back where nothing is swallowed any more goes on.
    fn release(&mut self, now: Duration) {
        let mut sessions = std::mem::take(&mut self.sessions);
        for (id, session) in &mut sessions {
            for direction in 0..2 {
                let (from, to) = (session.ends[direction], session.ends[1 - direction]);
                if self.swallows(from, to) {
                    continue;
                }
                for held in std::mem::take(&mut session.held[direction]) {
                    let session = *id;
                    let delivery = match held {
                        Held::Frame(frame) => Delivery::Frame { to, session, frame },
                        Held::End => Delivery::Ended { to, session },
                    };
                    self.arrive(now, delivery); // Before anything that is on its way.
                }
            }
        }
        self.sessions = sessions;
    }

    pub(crate) fn open_session(&mut self, from: usize, to: usize) -> PeerSessionId {
        self.next_session += 1;
        let id = PeerSessionId(self.next_session);
        let session = Session {
            ends: [from, to],
            open: [true; 2],
            is_cut: false,
            last: [Duration::ZERO; 2],
            held: Default::default(),
        };
        self.sessions.insert(id, session);
        id
    }

    /// This end closes it; the other one hears of it behind everything that was sent.
    pub(crate) fn end_session(
        &mut self,
        id: PeerSessionId,
        by: usize,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        self.send_on(id, by, Held::End, now, chance);
        self.close(id, by);
    }

    /// Its control plane died: what it sent is still on its way.
    pub(crate) fn end_sessions_of(
        &mut self,
        site: usize,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        let own = self.sessions.iter();
        let own = own.filter(|(_, session)| session.ends.contains(&site));
        let own: Vec<_> = own.map(|(id, _)| *id).collect();
        for id in own {
            self.end_session(id, site, now, chance);
        }
    }

    fn close(&mut self, id: PeerSessionId, at: usize) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let side = session.side(at);
            session.open[side] = false;
            if session.open == [false; 2] {
                self.sessions.remove(&id);
            }
        }
    }

    pub(crate) fn send(
        &mut self,
        id: PeerSessionId,
        from: usize,
        frame: PeerFrame,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        self.send_on(id, from, Held::Frame(frame), now, chance);
    }

    fn send_on(
        &mut self,
        id: PeerSessionId,
        from: usize,
        what: Held,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return; // It has ended.
        };
        let direction = session.side(from);
        let to = session.ends[1 - direction];
        if !session.open[direction] || session.is_cut {
            return;
        }
        let arrives = now + delay(chance);
        let arrives = arrives.max(session.last[direction]);
        session.last[direction] = arrives;
        let session = id;
        let delivery = match what {
            Held::Frame(frame) => Delivery::Frame { to, session, frame },
            Held::End => Delivery::Ended { to, session },
        };
        self.arrive(arrives, delivery);
    }

    pub(crate) fn dial(
        &mut self,
        (from, life): (usize, u64),
        to: Option<usize>,
        target: Target,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        let swallowed = to.is_some_and(|to| self.swallows(from, to) || self.swallows(to, from));
        let after = if swallowed {
            DIAL_TIMEOUT
        } else {
            delay(chance)
        };
        let dialled = Delivery::Dialled {
            from,
            life,
            to,
            target,
        };
        self.arrive(now + after, dialled);
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// The next thing that happens; `None` when it is of a connection that this end takes for
    /// ended, or a black hole swallows it on its way.
    pub(crate) fn take_due(&mut self) -> Option<Delivery> {
        let (_, delivery) = self.due.pop_first()?;
        let (to, id) = match &delivery {
            Delivery::Frame { to, session, .. } | Delivery::Ended { to, session } => {
                (*to, *session)
            }
            Delivery::Dialled { .. } => return Some(delivery),
        };
        let session = self.sessions.get(&id)?;
        let side = session.side(to);
        if !session.open[side] {
            return None;
        }
        let swallowed = !session.is_cut && self.swallows(session.ends[1 - side], to);
        if swallowed {
            let held = match delivery {
                Delivery::Frame { frame, .. } => Held::Frame(frame),
                _ => Held::End,
            };
            let session = self.sessions.get_mut(&id)?;
            session.held[1 - side].push_back(held);
            return None;
        }
        if let Delivery::Ended { .. } = delivery {
            self.close(id, to);
        }
        Some(delivery)
    }

    fn arrive(&mut self, at: Duration, delivery: Delivery) {
        self.next_delivery += 1;
        self.due.insert((at, self.next_delivery), delivery);
    }
}

fn delay(chance: &mut SeededChance) -> Duration {
    DELAY + span(chance, JITTER)
}

/// Less than this, to the microsecond.
fn span(chance: &mut SeededChance, limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(chance.below(micros))
}
