//! Which services are asked for: those that are called, and those that routes lead to; and which names are
//! forgotten again.

use std::collections::BTreeSet;
use std::time::Instant;

use isthmus_delta::{self as delta, TopicState};
use isthmus_model::ServiceName;
use isthmus_wire::Topic;

use super::Agent;

/// Services that one proxy may call.
pub(super) const MAX_TOPICS: usize = 10_000;

impl Agent {
    /// Asks for a service that somebody calls, and forgets others if too many were named.
    pub(super) fn subscribe(&mut self, service: ServiceName) -> [Option<delta::Request>; 2] {
        let topic = delta::Topic::new(&Topic::Service(service).to_string());
        if self.subscription.state(&topic) != TopicState::NotAsked {
            return [None, None];
        }
        let named = self.subscription.topics().count();
        let existing = named.saturating_sub(self.strangers.len());
        if existing >= MAX_TOPICS {
            tracing::warn!(%topic, limit = MAX_TOPICS, "too many services are called");
            return [None, None];
        }
        let forgotten = if self.strangers.is_crowded() {
            self.forget()
        } else {
            None
        };
        self.strangers.add(&topic, Instant::now());
        [forgotten, self.subscription.subscribe([topic])]
    }

    pub(super) fn want(&mut self, service: ServiceName) {
        // Without a stream there is nothing to send; the next hello tells.
        let _ = self.subscribe(service);
    }

    /// Forgets names that nothing stands behind.
    pub(super) fn forget(&mut self) -> Option<delta::Request> {
        let due = self.strangers.due(&self.needed(), Instant::now());
        if due.is_empty() {
            return None;
        }
        for topic in &due {
            self.strangers.remove(topic);
            if let Ok(Topic::Service(service)) = topic.as_str().parse() {
                self.builder.forget(&service);
            }
        }
        let request = self.subscription.unsubscribe(&due);
        self.publish(&BTreeSet::new());
        request
    }

    /// The topic was answered, and there is nothing in it.
    pub(super) fn is_absent(&self, topic: &delta::Topic) -> bool {
        self.subscription.state(topic) == TopicState::Known
            && self.subscription.resources(topic).next().is_none()
            && self.subscription.refused(topic).next().is_none()
    }

    /// What this proxy needs to know, be it that it does not exist: itself, and what routes lead to.
    pub(super) fn needed(&self) -> BTreeSet<delta::Topic> {
        let own = self.config.own_service().cloned();
        let services = own.into_iter().chain(self.builder.backends().cloned());
        let services = services.map(Topic::Service);
        let topics = [Topic::Mesh].into_iter().chain(services);
        topics
            .map(|topic| delta::Topic::new(&topic.to_string()))
            .collect()
    }

    /// Subscribes to services that routes lead to.
    pub(super) fn want_backends(&mut self) -> Option<delta::Request> {
        let topics: Vec<_> = self
            .builder
            .wanted()
            .into_iter()
            .map(|service| delta::Topic::new(&Topic::Service(service).to_string()))
            .collect();
        self.subscription.subscribe(topics)
    }
}
