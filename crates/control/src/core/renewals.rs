//! Who holds a certificate of an earlier generation, and is asked to have it renewed.

use isthmus_wire::proto;
use isthmus_wire::proto::to_proxy::Message as ToProxy;
use isthmus_world::{Chance as _, Store};

use super::answer::Renewals;
use super::publishing::ProxySession;
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
        let all = self.publishing.sessions().count() as u64;
        let after = self.chance.below(all * SPACING_MS);
        let after_ms = u32::try_from(after).unwrap_or(u32::MAX);
        self.send_to_proxy(session, ToProxy::Renew(proto::Renew { after_ms }));
    }

    pub(super) fn renewals(&self) -> Answer {
        let (mut renewed, mut waiting) = (0, Vec::new());
        // One that has not said its name yet is heard of soon.
        let is_named = |proxy: &&ProxySession| !proxy.process.is_empty();
        for proxy in (self.publishing.sessions().map(|(_, proxy)| proxy)).filter(is_named) {
            if proxy.generation >= self.generation {
                renewed += 1;
            } else {
                waiting.push(proxy.process.clone());
            }
        }
        waiting.sort();
        Answer::Renewals(Renewals { renewed, waiting })
    }
}
