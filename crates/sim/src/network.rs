//! Links between clusters: ordered, delayed, cut or swallowing everything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isthmus_control::{PeerSessionId, Target};
use isthmus_wire::proto::PeerFrame;
use isthmus_world::{Chance, SeededChance};

/// How long a message takes at least, and how much more it may take.
const DELAY: Duration = Duration::from_millis(20);
const JITTER: Duration = Duration::from_millis(100);
/// When a dial into nothing is given up.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Up,
    /// Connections end, and new ones are refused.
    Cut,
    /// Connections stay open, and nothing arrives.
    BlackHole,
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
    /// Per direction: when the last message arrives, since none overtakes another.
    last: [Duration; 2],
    /// Per direction: what a black hole holds back.
    held: [VecDeque<PeerFrame>; 2],
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

    /// Gives the ends of connections that end with it.
    pub(crate) fn set_link(
        &mut self,
        a: usize,
        b: usize,
        state: LinkState,
        now: Duration,
    ) -> Vec<(usize, PeerSessionId)> {
        self.links.insert((a.min(b), a.max(b)), state);
        let on_it = |session: &Session| session.ends == [a, b] || session.ends == [b, a];
        match state {
            LinkState::BlackHole => Vec::new(),
            LinkState::Up => {
                let sessions: Vec<_> = (self.sessions.iter_mut())
                    .filter(|(_, session)| on_it(session))
                    .map(|(id, session)| (*id, session.ends, std::mem::take(&mut session.held)))
                    .collect();
                for (id, ends, held) in sessions {
                    for (direction, frames) in held.into_iter().enumerate() {
                        for frame in frames {
                            let to = ends[1 - direction];
                            self.arrive(
                                now + DELAY,
                                Delivery::Frame {
                                    to,
                                    session: id,
                                    frame,
                                },
                            );
                        }
                    }
                }
                Vec::new()
            }
            LinkState::Cut => {
                let ended = self.sessions.extract_if(.., |_, session| on_it(session));
                ended
                    .flat_map(|(id, session)| session.ends.map(|site| (site, id)))
                    .collect()
            }
        }
    }

    pub(crate) fn open_session(&mut self, from: usize, to: usize) -> PeerSessionId {
        self.next_session += 1;
        let id = PeerSessionId(self.next_session);
        let session = Session {
            ends: [from, to],
            last: [Duration::ZERO; 2],
            held: Default::default(),
        };
        self.sessions.insert(id, session);
        id
    }

    /// Gives the other end, if there was one.
    pub(crate) fn end_session(&mut self, id: PeerSessionId, by: usize) -> Option<usize> {
        let session = self.sessions.remove(&id)?;
        session.ends.into_iter().find(|end| *end != by)
    }

    /// The other ends of all connections of a site.
    pub(crate) fn end_sessions_of(&mut self, site: usize) -> Vec<(usize, PeerSessionId)> {
        let links = self.links.clone();
        let ended = self
            .sessions
            .extract_if(.., |_, session| session.ends.contains(&site));
        let others = ended.filter_map(|(id, session)| {
            let other = session.ends.into_iter().find(|end| *end != site)?;
            // Behind a black hole nobody hears of it.
            let link = links.get(&(site.min(other), site.max(other)));
            (link != Some(&LinkState::BlackHole)).then_some((other, id))
        });
        others.collect()
    }

    pub(crate) fn announce_end(&mut self, to: usize, session: PeerSessionId, now: Duration) {
        self.arrive(now + DELAY, Delivery::Ended { to, session });
    }

    pub(crate) fn send(
        &mut self,
        id: PeerSessionId,
        from: usize,
        frame: PeerFrame,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        let Some(ends) = self.sessions.get(&id).map(|session| session.ends) else {
            return; // It has ended.
        };
        let swallowed = self.link(ends[0], ends[1]) == LinkState::BlackHole;
        let direction = usize::from(ends[0] != from);
        let arrives = now + delay(chance);
        if let Some(session) = self.sessions.get_mut(&id) {
            if swallowed {
                return session.held[direction].push_back(frame);
            }
            let arrives = arrives.max(session.last[direction]);
            session.last[direction] = arrives;
            let to = ends[1 - direction];
            self.arrive(
                arrives,
                Delivery::Frame {
                    to,
                    session: id,
                    frame,
                },
            );
        }
    }

    pub(crate) fn dial(
        &mut self,
        from: usize,
        to: Option<usize>,
        target: Target,
        now: Duration,
        chance: &mut SeededChance,
    ) {
        let swallowed = to.is_some_and(|to| self.link(from, to) == LinkState::BlackHole);
        let after = if swallowed {
            DIAL_TIMEOUT
        } else {
            delay(chance)
        };
        self.arrive(now + after, Delivery::Dialled { from, to, target });
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// The next thing that happens; `None` when it is a message of a connection that has ended, or
    /// that a black hole swallows on its way.
    pub(crate) fn take_due(&mut self) -> Option<Delivery> {
        let (_, delivery) = self.due.pop_first()?;
        let Delivery::Frame { to, session, frame } = delivery else {
            return Some(delivery);
        };
        let ends = self.sessions.get(&session)?.ends;
        if self.link(ends[0], ends[1]) == LinkState::BlackHole {
            let direction = usize::from(ends[1] != to);
            if let Some(session) = self.sessions.get_mut(&session) {
                session.held[direction].push_back(frame);
            }
            return None;
        }
        Some(Delivery::Frame { to, session, frame })
    }

    fn arrive(&mut self, at: Duration, delivery: Delivery) {
        self.next_delivery += 1;
        self.due.insert((at, self.next_delivery), delivery);
    }
}

fn delay(chance: &mut SeededChance) -> Duration {
    let micros = u64::try_from(JITTER.as_micros()).unwrap_or(u64::MAX);
    DELAY + Duration::from_micros(chance.below(micros))
}
