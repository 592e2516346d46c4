//! What is held back of this cluster's members, and told of: too many were missed together.

use std::time::{Duration, Instant};

use isthmus_api::{Failure, HeldStatus, ReleaseRequest, ReleaseView};
use isthmus_model::Removals;
use isthmus_replica::LedgerName;
use isthmus_world::Store;

use super::answer::{Held, ReplyTo};
use super::members::{Group, HeldBack, START_GRACE};
use super::{Action, Answer, Core, Notice, RequestId};

impl<S: Store> Core<S> {
    pub(super) fn pass_time_of_members(&mut self, now: Instant) {
        let mesh = self.index.declared().mesh();
        let removals = mesh.map_or_else(Removals::default, |mesh| mesh.removals);
        let elapsed = self.members.on_timeout(now, removals);
        let ask = elapsed.ask.into_iter().map(Action::FindListener);
        self.actions.extend(ask);
        self.apply_members(elapsed.changes);
        self.tell_of_held();
    }

    /// A store that was lost, or comes from a backup, knows less of this cluster than others do. What they know is made
    /// void only when those that are there have had the time to say so.
    pub(super) fn overrule_facts(&mut self, now: Instant) {
        // Nobody is believed to stand for a service that is not known yet.
        if self
            .known_since
            .is_none_or(|known| now < known + START_GRACE)
        {
            return;
        }
        if let Some(seen) = self.outlived.take() {
            let facts = LedgerName::Facts(self.settings.cluster.clone());
            // False: there are no epochs left, and the others keep what they know.
            self.replica.overrule(&facts, seen);
        }
    }

    /// Tells of each group of which more is held than was told of, and of each of which nothing is any more.
    fn tell_of_held(&mut self) {
        let back = self.members.held_back();
        let told = |group: &Group| self.held_back.get(group).copied().unwrap_or(0);
        let more = back.iter().filter(|(group, back)| back.held > told(group));
        let more = more.map(|(group, back)| (group.to_string(), back.held, back.total));
        let ended = self
            .held_back
            .keys()
            .filter(|group| !back.contains_key(*group));
        let ended = ended.map(|group| (group.to_string(), 0, 0));
        let notices = more
            .chain(ended)
            .map(|(group, held, total)| Action::Notice(Notice::HeldBack { group, held, total }));
        self.actions.extend(notices);
        let most = |(group, back): (Group, HeldBack)| {
            let held = back.held.max(told(&group));
            (group, held)
        };
        self.held_back = back.into_iter().map(most).collect();
    }

    /// Whoever is held is shown unhealthy from now on, by an operator's word.
    pub(super) fn on_release(&mut self, id: RequestId, request: &ReleaseRequest, now: Instant) {
        let group = match &request.service {
            None => Group::Gateways,
            Some(service) => match service.parse() {
                Ok(service) => Group::Service(service),
                Err(error) => {
                    let failure = Failure::invalid(format!("service: {service:?}: {error}"));
                    return self.answer(id, failure.into());
                }
            },
        };
        let changes = self.members.release(&group, now);
        let view = ReleaseView {
            cluster: self.settings.cluster.to_string(),
            released: changes.len(),
        };
        self.apply_members(changes);
        // A restart would take it back before it is saved.
        self.hold(ReplyTo::Request(id), Held::Ready(Answer::view(&view)));
    }

    pub(super) fn held_status(&self, now: Instant) -> Vec<HeldStatus> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let status = |(group, back): (Group, HeldBack)| HeldStatus {
            group: group.to_string(),
            held: back.held,
            total: back.total,
            held_ms: millis(now.saturating_duration_since(back.since)),
            left_ms: millis(back.until.saturating_duration_since(now)),
        };
        self.members.held_back().into_iter().map(status).collect()
    }
}
