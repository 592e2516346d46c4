//! Who holds a certificate of an earlier generation, and is asked to have it renewed.

use isthmus_wire::proto;
use isthmus_wire::proto::to_proxy::Message as ToProxy;
use isthmus_world::{Chance as _, Store};

use super::answer::Renewals;
use super::{Answer, ConnectionId, Core, Generation, SessionId};

/// Between two who renew, on average: a signature and a commit of theirs are far shorter.
const SPACING_MS: u64 = 2;

impl<S: Store> Core<S> {
    /// Everybody who holds an older certificate is to renew it.
    pub(super) fn on_issuing(&mut self, generation: Generation) {
        self.generation = self.generation.max(generation);
        let sessions: Vec<_> = (self.publishing.sessions())
            .map(|(session, _)| session)
            .collect();
        for session in sessions {
            self.ask_to_renew(session);
        }
    }

    pub(super) fn on_renewed(&mut self, connection: ConnectionId, generation: Generation) {
        for proxy in self.publishing.sessions_mut() {
            if proxy.connection == connection {
                proxy.generation = proxy.generation.max(generation);
            }
        }
    }

    pub(super) fn ask_to_renew(&mut self, session: SessionId) {
        let Some(proxy) = self.publishing.session(session) else {
            return;
        };
        if proxy.generation >= self.generation {
            return;
        }
        let all = self.publishing.count() as u64;
        let after = self.chance.below(all * SPACING_MS);
        let after_ms = u32::try_from(after).unwrap_or(u32::MAX);
        self.send_to_proxy(session, ToProxy::Renew(proto::Renew { after_ms }));
    }

    pub(super) fn renewals(&self) -> Answer {
        let (mut renewed, mut waiting) = (0, Vec::new());
        for (_, proxy) in self.publishing.sessions() {
            let is_named = !proxy.process.is_empty();
            match (proxy.generation >= self.generation, is_named) {
                (true, true) => renewed += 1,
                // It is heard of soon.
                (true, false) => {}
                (false, true) => waiting.push(proxy.process.clone()),
                (false, false) => waiting.push("one that has just come".to_owned()),
            }
        }
        // Nobody knows what they hold.
        let silent = self.members.silent();
        waiting.extend(silent.map(|member| format!("{} (not heard)", member.name())));
        waiting.sort();
        Answer::Renewals(Renewals { renewed, waiting })
    }
}
