//! The life of what this cluster runs: workloads and gateways, each spoken for by its own proxy.
//!
//! A proxy whose stream drops is not gone: its member keeps its health for a short grace, is then
//! shown unhealthy, and is forgotten only much later. A proxy that says that it is leaving is gone
//! at once. After a restart of the control plane every member waits for its proxy to return.
//!
//! When too many of a service are missed together, it may be this control plane that is cut off and not
//! they: those are held, which is to say shown as they were, until somebody returns or lets go of them,
//! time does, or nobody listens at their address any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_model::{Admission, Gateway, Handle, Health, Removals, ServiceName, Workload};

use super::SessionId;
use crate::index::Change;

/// From the loss of a proxy's stream until its member is shown unhealthy.
const GRACE: Duration = Duration::from_secs(3);
/// From the loss of a proxy's stream until its member is forgotten.
const FORGET: Duration = Duration::from_mins(1);
/// The same two after a start of this control plane, when all proxies have to return.
pub(super) const START_GRACE: Duration = Duration::from_secs(15);
const START_FORGET: Duration = Duration::from_secs(30);
/// So few that are missed together are no mass.
const FEW: usize = 1;
/// How often it is asked whether a held member is still missed together with others, and whether anybody
/// listens where it was.
const ASK: Duration = Duration::from_secs(5);

/// Something of this cluster that a proxy speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    Workload(Workload),
    Gateway(Gateway),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MemberKey {
    Workload(Handle),
    Gateway(String),
}

/// Members that stand in for each other: when many of them are missed at once, none is taken for gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Gateways,
    Service(ServiceName),
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateways => f.write_str("gateways"),
            Self::Service(service) => service.fmt(f),
        }
    }
}

/// What time has brought.
#[derive(Debug)]
pub(super) struct Elapsed {
    pub changes: Vec<Change>,
    /// Does anybody listen here?
    pub ask: Vec<SocketAddr>,
}

/// What is held of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldBack {
    pub held: usize,
    /// All members of the group that this cluster remembers.
    pub total: usize,
    /// When the first of them was held, and when the last one will be let go.
    pub since: Instant,
    pub until: Instant,
}

/// All members, and who speaks for them.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<MemberKey, Kept>);

#[derive(Debug)]
struct Kept {
    member: Member,
    /// How its process was admitted, if that is known.
    admission: Option<Admission>,
    voice: Voice,
}

#[derive(Debug, Clone, Copy)]
enum Voice {
    Heard(SessionId),
    /// Not heard, and shown as it was for a grace.
    Missed {
        unhealthy_at: Instant,
        forgotten_at: Instant,
    },
    /// Likewise, as long as it may be this control plane that is cut off.
    Held {
        since: Instant,
        until: Instant,
        ask_at: Instant,
        /// When it was asked last, too few were missed with it: so others are heard again, and it may be soon.
        is_alone: bool,
    },
    /// Not heard, and shown unhealthy.
    Silent {
        forgotten_at: Instant,
    },
}

impl Member {
    pub(super) fn key(&self) -> MemberKey {
        match self {
            Self::Workload(workload) => MemberKey::Workload(workload.handle.clone()),
            Self::Gateway(gateway) => MemberKey::Gateway(gateway.name.clone()),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Workload(Workload {
                service, address, ..
            }) => format!("{service} at {address}"),
            Self::Gateway(gateway) => gateway.name.clone(),
        }
    }

    fn group(&self) -> Group {
        match self {
            Self::Workload(workload) => Group::Service(workload.service.clone()),
            Self::Gateway(_) => Group::Gateways,
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Workload(workload) => workload.address,
            Self::Gateway(gateway) => gateway.address,
        }
    }

    fn unhealthy(mut self) -> Self {
        match &mut self {
            Self::Workload(workload) => workload.health = Health::Unhealthy,
            Self::Gateway(gateway) => gateway.healthy = false,
        }
        self
    }

    fn into_change(self) -> Change {
        match self {
            Self::Workload(workload) => Change::Workload {
                handle: workload.handle.clone(),
                workload: Some(workload),
            },
            Self::Gateway(gateway) => Change::Gateway {
                name: gateway.name.clone(),
                gateway: Some(gateway),
            },
        }
    }
}

impl Kept {
    /// As its proxy reported it.
    fn is_shown(&self) -> bool {
        !matches!(self.voice, Voice::Silent { .. })
    }

    fn is_heard(&self) -> bool {
        matches!(self.voice, Voice::Heard(_))
    }

    /// Takes traffic, as far as anybody is told.
    fn serves(&self) -> bool {
        self.is_shown()
            && match &self.member {
                Member::Workload(workload) => workload.health.takes_traffic(),
                Member::Gateway(gateway) => gateway.healthy,
            }
    }

    fn is_held(&self) -> bool {
        matches!(self.voice, Voice::Held { .. })
    }

    /// Shows it unhealthy from now on.
    fn give_up(&mut self, now: Instant) -> Change {
        let forgotten_at = match self.voice {
            Voice::Missed { forgotten_at, .. } => forgotten_at,
            _ => now + FORGET,
        };
        self.voice = Voice::Silent { forgotten_at };
        self.member.clone().unhealthy().into_change()
    }
}

impl MemberKey {
    fn into_removal(self) -> Change {
        match self {
            Self::Workload(handle) => Change::Workload {
                handle,
                workload: None,
            },
            Self::Gateway(name) => Change::Gateway {
                name,
                gateway: None,
            },
        }
    }
}

impl Members {
    /// Takes over what an earlier process knew.
    pub(super) fn restore(&mut self, member: Member, now: Instant) -> Change {
        let voice = Voice::Missed {
            unhealthy_at: now + START_GRACE,
            forgotten_at: now + START_FORGET,
        };
        let change = member.clone().into_change();
        let kept = Kept {
            admission: None,
            voice,
            member,
        };
        self.0.insert(kept.member.key(), kept);
        change
    }

    /// A proxy says what it stands for. One session stands for one member: what it stood for before
    /// under another key is gone.
    pub(super) fn report(
        &mut self,
        session: SessionId,
        admission: Option<Admission>,
        member: Member,
    ) -> Vec<Change> {
        let key = member.key();
        let mut changes = self.remove_where(|other, kept| {
            *other != key && matches!(kept.voice, Voice::Heard(heard) if heard == session)
        });
        let shown = (self.0.get(&key)).is_some_and(|kept| kept.member == member && kept.is_shown());
        if !shown {
            changes.push(member.clone().into_change());
        }
        let kept = Kept {
            member,
            admission,
            voice: Voice::Heard(session),
        };
        self.0.insert(key, kept);
        changes
    }

    /// The session's stream is gone.
    pub(super) fn on_closed(&mut self, session: SessionId, now: Instant) {
        for kept in self.0.values_mut() {
            if matches!(kept.voice, Voice::Heard(heard) if heard == session) {
                kept.voice = Voice::Missed {
                    unhealthy_at: now + GRACE,
                    forgotten_at: now + FORGET,
                };
            }
        }
    }

    /// Those who are not heard now, and may come back.
    pub(super) fn silent(&self) -> impl Iterator<Item = &Member> {
        let silent = self.0.values().filter(|kept| !kept.is_heard());
        silent.map(|kept| &kept.member)
    }

    /// What the session stands for.
    pub(super) fn of(&self, session: SessionId) -> impl Iterator<Item = &MemberKey> {
        let its = move |kept: &Kept| matches!(kept.voice, Voice::Heard(heard) if heard == session);
        let members = self.0.iter().filter(move |(_, kept)| its(kept));
        members.map(|(key, _)| key)
    }

    /// The session's process has drained and is going, or may not speak any more.
    pub(super) fn on_left(&mut self, session: SessionId) -> Vec<Change> {
        self.remove_where(|_, kept| matches!(kept.voice, Voice::Heard(heard) if heard == session))
    }

    /// Whoever was admitted so may not be shown any more, heard or not.
    pub(super) fn on_revoked(&mut self, admission: Admission) -> Vec<Change> {
        self.remove_where(|_, kept| kept.admission == Some(admission))
    }

    pub(super) fn on_timeout(&mut self, now: Instant, removals: Removals) -> Elapsed {
        let is_due = |kept: &Kept| match kept.voice {
            Voice::Missed { unhealthy_at, .. } => unhealthy_at <= now,
            Voice::Held { until, ask_at, .. } => until.min(ask_at) <= now,
            Voice::Heard(_) | Voice::Silent { .. } => false,
        };
        let changes = self.remove_where(
            |_, kept| matches!(kept.voice, Voice::Silent { forgotten_at } if forgotten_at <= now),
        );
        let ask = Vec::new();
        let mut elapsed = Elapsed { changes, ask };
        let due = self.0.values().filter(|kept| is_due(kept));
        let due: BTreeSet<_> = due.map(|kept| kept.member.group()).collect();
        if due.is_empty() {
            return elapsed;
        }
        let masses = self.masses(due, removals);
        for kept in self.0.values_mut().filter(|kept| is_due(kept)) {
            let is_mass = masses.contains(&kept.member.group());
            let (ask_at, serves) = (now + ASK, kept.serves());
            match &mut kept.voice {
                Voice::Held {
                    until,
                    ask_at: due,
                    is_alone,
                    ..
                } if now < *until && (is_mass || !*is_alone) => {
                    *due = ask_at;
                    *is_alone = !is_mass;
                    elapsed.ask.push(kept.member.address());
                }
                Voice::Missed { .. } if is_mass && serves => {
                    kept.voice = Voice::Held {
                        since: now,
                        until: now + removals.hold_for,
                        ask_at,
                        is_alone: false,
                    };
                    elapsed.ask.push(kept.member.address());
                }
                _ => elapsed.changes.push(kept.give_up(now)),
            }
        }
        elapsed
    }

    /// Those of the groups of which so many are missed that it may be this control plane that is cut off.
    fn masses(&self, of: BTreeSet<Group>, removals: Removals) -> BTreeSet<Group> {
        let mut counts: BTreeMap<Group, (usize, usize)> =
            of.into_iter().map(|group| (group, (0, 0))).collect();
        for kept in self.0.values().filter(|kept| kept.serves()) {
            if let Some((missed, all)) = counts.get_mut(&kept.member.group()) {
                *missed += usize::from(!kept.is_heard());
                *all += 1;
            }
        }
        let above = usize::from(removals.hold_above.value());
        counts.retain(|_, (missed, all)| *missed > FEW && *missed * 100 > *all * above);
        counts.into_keys().collect()
    }

    /// Nobody listens at the address: whoever is held there is gone.
    pub(super) fn on_refused(&mut self, address: SocketAddr, now: Instant) -> Vec<Change> {
        let held = self.0.values_mut().filter(|kept| kept.is_held());
        let there = held.filter(|kept| kept.member.address() == address);
        there.map(|kept| kept.give_up(now)).collect()
    }

    /// An operator knows better: of a group of which something is held, nobody who is missed is waited for.
    pub(super) fn release(&mut self, group: &Group, now: Instant) -> Vec<Change> {
        let of_it = |kept: &&mut Kept| kept.member.group() == *group;
        if !self.0.values_mut().filter(of_it).any(|kept| kept.is_held()) {
            return Vec::new();
        }
        let missed = |kept: &&mut Kept| kept.is_shown() && !kept.is_heard();
        let missed = self.0.values_mut().filter(of_it).filter(missed);
        missed.map(|kept| kept.give_up(now)).collect()
    }

    /// What is held, by group.
    pub(super) fn held_back(&self) -> BTreeMap<Group, HeldBack> {
        let mut groups: BTreeMap<Group, HeldBack> = BTreeMap::new();
        for kept in self.0.values() {
            let Voice::Held { since, until, .. } = kept.voice else {
                continue;
            };
            let of = groups.entry(kept.member.group()).or_insert(HeldBack {
                held: 0,
                total: 0,
                since,
                until,
            });
            of.held += 1;
            of.since = of.since.min(since);
            of.until = of.until.max(until);
        }
        if !groups.is_empty() {
            for kept in self.0.values() {
                if let Some(of) = groups.get_mut(&kept.member.group()) {
                    of.total += 1;
                }
            }
        }
        groups
    }

    fn remove_where(&mut self, gone: impl Fn(&MemberKey, &Kept) -> bool) -> Vec<Change> {
        let removed = self.0.extract_if(.., |key, kept| gone(key, kept));
        removed.map(|(key, _)| key.into_removal()).collect()
    }
}

#[cfg(test)]
mod tests;
