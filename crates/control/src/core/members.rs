//! The life of what this cluster runs: workloads and gateways, each spoken for by its own proxy.
//!
//! A proxy whose stream drops is not gone: its member keeps its health for a short grace, is then
//! shown unhealthy, and is forgotten only much later. A proxy that says that it is leaving is gone
//! at once. After a restart of the control plane every member waits for its proxy to return.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isthmus_model::{Gateway, Handle, Health, Workload};

use super::SessionId;
use crate::index::Change;

/// From the loss of a proxy's stream until its member is shown unhealthy.
const GRACE: Duration = Duration::from_secs(3);
/// From the loss of a proxy's stream until its member is forgotten.
const FORGET: Duration = Duration::from_mins(1);
/// The same two after a start of this control plane, when all proxies have to return.
const START_GRACE: Duration = Duration::from_secs(15);
const START_FORGET: Duration = Duration::from_secs(30);

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

/// All members, and who speaks for them.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<MemberKey, Kept>);

#[derive(Debug)]
struct Kept {
    member: Member,
    voice: Voice,
}

#[derive(Debug, Clone, Copy)]
enum Voice {
    Heard(SessionId),
    /// `None`: it is shown unhealthy already.
    Silent {
        unhealthy_at: Option<Instant>,
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
        match self.voice {
            Voice::Heard(_) => true,
            Voice::Silent { unhealthy_at, .. } => unhealthy_at.is_some(),
        }
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
        let voice = Voice::Silent {
            unhealthy_at: Some(now + START_GRACE),
            forgotten_at: now + START_FORGET,
        };
        let change = member.clone().into_change();
        self.0.insert(member.key(), Kept { member, voice });
        change
    }

    /// A proxy says what it stands for. One session stands for one member: what it stood for before
    /// under another key is gone.
    pub(super) fn report(&mut self, session: SessionId, member: Member) -> Vec<Change> {
        let key = member.key();
        let mut changes = self.remove_where(|other, voice| {
            *other != key && matches!(voice, Voice::Heard(heard) if heard == session)
        });
        let shown = (self.0.get(&key)).is_some_and(|kept| kept.member == member && kept.is_shown());
        if !shown {
            changes.push(member.clone().into_change());
        }
        let voice = Voice::Heard(session);
        self.0.insert(key, Kept { member, voice });
        changes
    }

    /// The session's stream is gone.
    pub(super) fn on_closed(&mut self, session: SessionId, now: Instant) {
        for kept in self.0.values_mut() {
            if matches!(kept.voice, Voice::Heard(heard) if heard == session) {
                kept.voice = Voice::Silent {
                    unhealthy_at: Some(now + GRACE),
                    forgotten_at: now + FORGET,
                };
            }
        }
    }

    /// Those who are not heard now, and may come back.
    pub(super) fn silent(&self) -> impl Iterator<Item = &Member> {
        let silent = self.0.values();
        let silent = silent.filter(|kept| matches!(kept.voice, Voice::Silent { .. }));
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
        self.remove_where(|_, voice| matches!(voice, Voice::Heard(heard) if heard == session))
    }

    pub(super) fn on_timeout(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = self.remove_where(
            |_, voice| matches!(voice, Voice::Silent { forgotten_at, .. } if forgotten_at <= now),
        );
        for kept in self.0.values_mut() {
            if let Voice::Silent { unhealthy_at, .. } = &mut kept.voice
                && unhealthy_at.is_some_and(|at| at <= now)
            {
                *unhealthy_at = None;
                changes.push(kept.member.clone().unhealthy().into_change());
            }
        }
        changes
    }

    fn remove_where(&mut self, gone: impl Fn(&MemberKey, Voice) -> bool) -> Vec<Change> {
        let removed = self.0.extract_if(.., |key, kept| gone(key, kept.voice));
        removed.map(|(key, _)| key.into_removal()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(healthy: bool) -> Member {
        Member::Gateway(Gateway {
            name: "gateway-1".to_owned(),
            address: ([127, 0, 0, 1], 15008).into(),
            healthy,
        })
    }

    /// What the changes show.
    fn shown(changes: &[Change]) -> &'static str {
        match changes.last() {
            None => "as before",
            Some(Change::Gateway { gateway: None, .. }) => "gone",
            Some(Change::Gateway {
                gateway: Some(gateway),
                ..
            }) if gateway.healthy => "healthy",
            Some(Change::Gateway { .. }) => "unhealthy",
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lost_stream_is_forgiven_then_shown_then_forgotten() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut members = Members::default();
        let (first, second) = (SessionId(1), SessionId(2));
        assert_eq!(shown(&members.report(first, gateway(true))), "healthy");
        members.on_closed(first, at(0));
        assert_eq!(shown(&members.on_timeout(at(2))), "as before");
        assert_eq!(shown(&members.report(second, gateway(true))), "as before");
        members.on_closed(first, at(2)); // An old session's end says nothing.
        assert_eq!(shown(&members.on_timeout(at(100))), "as before");
        members.on_closed(second, at(100));
        assert_eq!(shown(&members.on_timeout(at(103))), "unhealthy");
        assert_eq!(shown(&members.on_timeout(at(159))), "as before");
        assert_eq!(shown(&members.on_timeout(at(160))), "gone");
        assert_eq!(shown(&members.on_timeout(at(200))), "as before");
    }

    #[test]
    fn after_a_start_all_have_time_to_return() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut members = Members::default();
        members.restore(gateway(true), start);
        assert_eq!(shown(&members.on_timeout(at(14))), "as before");
        assert_eq!(shown(&members.on_timeout(at(15))), "unhealthy");
        assert_eq!(shown(&members.on_timeout(at(30))), "gone");
    }

    #[test]
    fn who_leaves_is_gone_at_once() {
        let mut members = Members::default();
        members.report(SessionId(1), gateway(true));
        assert_eq!(shown(&members.on_left(SessionId(1))), "gone");
        assert_eq!(shown(&members.on_left(SessionId(1))), "as before");
    }
}
