//! The subscriber's end.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::message::{
    Hello, Push, Rejected, Reply, Request, Resource, ResourceName, Topic, TopicHello, TopicPush,
    Version,
};

/// What a subscriber wants and holds, over all streams of its life.
#[derive(Debug, Default)]
pub struct Subscription {
    topics: BTreeMap<Topic, Held>,
    /// Number of the last hello or request.
    number: u64,
    connected: bool,
    stale_since: Option<Instant>,
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicState {
    /// Not subscribed.
    NotAsked,
    /// Subscribed, not answered: not known yet.
    Unknown,
    /// Answered in full, now or on an earlier stream. Without resources: it does not exist.
    Known,
}

/// A rejected version and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub version: Version,
    pub reason: String,
}

/// A push to be tried by whoever uses the resources, then settled.
#[derive(Debug)]
#[must_use = "the publisher waits until the delivery is settled"]
pub struct Delivery {
    nonce: u64,
    heard: u64,
    /// What changes, without what is not wanted any more.
    topics: Vec<TopicPush>,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Default)]
struct Held {
    /// Number of the hello or request that asked for it on this stream; pushes that had not heard
    /// of it speak of an earlier subscription.
    asked: u64,
    known: bool,
    /// Its answer was completed on this stream.
    fresh: bool,
    good: BTreeMap<ResourceName, Resource>,
    refused: BTreeMap<ResourceName, Refused>,
}

type Reasons<'a> = BTreeMap<(&'a Topic, &'a ResourceName), &'a str>;

impl Subscription {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with what an earlier process held: known, and stale since `now`.
    pub fn restore(topics: impl IntoIterator<Item = (Topic, Vec<Resource>)>, now: Instant) -> Self {
        let known = |(topic, resources): (Topic, Vec<Resource>)| {
            let named = |resource: Resource| (resource.name.clone(), resource);
            let held = Held {
                known: true,
                good: resources.into_iter().map(named).collect(),
                ..Held::default()
            };
            (topic, held)
        };
        Self {
            topics: topics.into_iter().map(known).collect(),
            stale_since: Some(now),
            ..Self::default()
        }
    }

    /// Wants these topics too. Gives what to send, if there is anything new and a stream.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = Topic>) -> Option<Request> {
        let asked = self.number.saturating_add(1);
        let mut subscribe = Vec::new();
        for topic in topics {
            if !self.topics.contains_key(&topic) {
                let held = Held {
                    asked,
                    ..Held::default()
                };
                self.topics.insert(topic.clone(), held);
                subscribe.push(topic);
            }
        }
        self.request(subscribe, Vec::new())
    }

    /// No longer wants these topics, and forgets them.
    pub fn unsubscribe<'a>(
        &mut self,
        topics: impl IntoIterator<Item = &'a Topic>,
    ) -> Option<Request> {
        let wanted = |topic: &&Topic| self.topics.remove(*topic).is_some();
        let unsubscribe: Vec<Topic> = topics.into_iter().filter(wanted).cloned().collect();
        self.refresh();
        self.request(Vec::new(), unsubscribe)
    }

    /// Begins a stream. Pushes of earlier streams are ignored from here on.
    pub fn hello(&mut self) -> Hello {
        self.number = self.number.saturating_add(1);
        self.connected = true;
        for held in self.topics.values_mut() {
            held.asked = self.number;
            held.fresh = false;
        }
        self.refresh();
        Hello {
            number: self.number,
            topics: self.retained(),
        }
    }

    /// The stream is gone. Everything held stays in use.
    pub fn on_lost(&mut self, now: Instant) {
        self.connected = false;
        self.stale_since.get_or_insert(now);
    }

    /// Takes a push apart. Try each topic's resources, `reject` those that cannot be used, then
    /// `settle`; until then the subscription holds what it held.
    pub fn on_push(&self, push: Push) -> Delivery {
        let mut topics = push.topics;
        topics.retain(|change| self.concerns(&change.topic, push.heard));
        Delivery {
            nonce: push.nonce,
            heard: push.heard,
            topics,
            rejected: Vec::new(),
        }
    }

    /// Takes over what was not rejected. Gives the reply to send on the stream of the push.
    pub fn settle(&mut self, delivery: Delivery) -> Reply {
        let reasons: Reasons<'_> = (delivery.rejected.iter())
            .map(|rejected| ((&rejected.topic, &rejected.name), rejected.reason.as_str()))
            .collect();
        for change in delivery.topics {
            // It may have been unsubscribed while the delivery was tried.
            if self.concerns(&change.topic, delivery.heard)
                && let Some(held) = self.topics.get_mut(&change.topic)
            {
                held.settle(change, &reasons);
            }
        }
        self.refresh();
        Reply {
            nonce: delivery.nonce,
            rejected: delivery.rejected,
        }
    }

    pub fn state(&self, topic: &Topic) -> TopicState {
        match self.topics.get(topic) {
            None => TopicState::NotAsked,
            Some(held) if held.known => TopicState::Known,
            Some(_) => TopicState::Unknown,
        }
    }

    /// All topics subscribed to, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    /// The good resources of a topic, by name.
    pub fn resources(&self, topic: &Topic) -> impl Iterator<Item = &Resource> {
        let held = self.topics.get(topic);
        held.into_iter().flat_map(|held| held.good.values())
    }

    pub fn find(&self, topic: &Topic, name: &ResourceName) -> Option<&Resource> {
        self.topics.get(topic)?.good.get(name)
    }

    /// The rejected resources of a topic. One without a good version must refuse, not be absent.
    pub fn refused(&self, topic: &Topic) -> impl Iterator<Item = (&ResourceName, &Refused)> {
        let held = self.topics.get(topic);
        held.into_iter().flat_map(|held| &held.refused)
    }

    /// What is held of every topic, by name and version.
    pub fn retained(&self) -> Vec<TopicHello> {
        let retained = |(topic, held): (&Topic, &Held)| TopicHello {
            topic: topic.clone(),
            held: versions(&held.good),
            rejected: (held.refused.iter())
                .map(|(name, refused)| (name.clone(), refused.version, refused.reason.clone()))
                .collect(),
        };
        self.topics.iter().map(retained).collect()
    }

    /// Since when something known may have changed without our knowing: from the loss of the
    /// stream until every known topic was completed again.
    pub fn stale_since(&self) -> Option<Instant> {
        self.stale_since
    }

    fn concerns(&self, topic: &Topic, heard: u64) -> bool {
        (self.topics.get(topic)).is_some_and(|held| heard >= held.asked)
    }

    fn refresh(&mut self) {
        if self.connected && self.topics.values().all(|held| held.fresh || !held.known) {
            self.stale_since = None;
        }
    }

    fn request(&mut self, subscribe: Vec<Topic>, unsubscribe: Vec<Topic>) -> Option<Request> {
        if !self.connected || (subscribe.is_empty() && unsubscribe.is_empty()) {
            return None; // The next hello tells.
        }
        self.number = self.number.saturating_add(1);
        Some(Request {
            number: self.number,
            subscribe,
            unsubscribe,
        })
    }
}

impl Delivery {
    /// What changes, topic by topic.
    pub fn topics(&self) -> &[TopicPush] {
        &self.topics
    }

    /// This resource cannot be used, for this reason: the last good one stays.
    pub fn reject(&mut self, topic: &Topic, name: &ResourceName, reason: impl Into<String>) {
        self.rejected.push(Rejected {
            topic: topic.clone(),
            name: name.clone(),
            reason: reason.into(),
        });
    }
}

impl Held {
    fn settle(&mut self, change: TopicPush, reasons: &Reasons<'_>) {
        for resource in change.resources {
            let name = resource.name.clone();
            if let Some(reason) = reasons.get(&(&change.topic, &name)) {
                let (version, reason) = (resource.version, (*reason).to_owned());
                self.refused.insert(name, Refused { version, reason });
            } else {
                self.refused.remove(&name);
                self.good.insert(name, resource);
            }
        }
        for name in &change.removed {
            self.good.remove(name);
            self.refused.remove(name);
        }
        self.known |= change.complete;
        self.fresh |= change.complete;
    }
}

fn versions(good: &BTreeMap<ResourceName, Resource>) -> Vec<(ResourceName, Version)> {
    good.values()
        .map(|resource| (resource.name.clone(), resource.version))
        .collect()
}
