//! The publisher's end: one per stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::message::{
    Hello, Push, Reply, Request, Resource, ResourceName, Topic, TopicHello, TopicPush, Version,
};

/// Where the publisher reads what is to be published.
pub trait Source {
    /// What is in the topic now; names are distinct. Nothing: the topic does not exist. `None`: not
    /// known yet, so that nothing can be said; the topic must be touched when it is.
    fn resources<'a>(&'a self, topic: &Topic) -> Option<impl Iterator<Item = &'a Resource>>;
}

/// Bounds of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pushes on their way, without a reply.
    pub pushes: usize,
    /// Bytes of names and bodies in one push; exceeded only by a single resource that is larger.
    pub push_bytes: usize,
    /// Topics that one subscriber may want.
    pub topics: usize,
}

impl Default for Limits {
    /// 4 pushes of 256 KiB, 100,000 topics.
    fn default() -> Self {
        Self {
            pushes: 4,
            push_bytes: 256 * 1024,
            topics: 100_000,
        }
    }
}

/// What one subscriber wants, was sent, took and rejected.
#[derive(Debug)]
pub struct Publisher {
    limits: Limits,
    topics: BTreeMap<Topic, Sent>,
    /// Topics that may differ from what was sent, in turn; each at most once.
    dirty: VecDeque<Topic>,
    in_flight: VecDeque<InFlight>,
    heard: u64,
    nonce: u64,
}

/// The subscriber broke the protocol: close the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("it replied to push {found}, the oldest without a reply is {expected:?}")]
    Reply { found: u64, expected: Option<u64> },
    #[error("it wants more than {limit} topics")]
    TooManyTopics { limit: usize },
}

/// A resource that the subscriber cannot use, for status conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection<'a> {
    pub topic: &'a Topic,
    pub name: &'a ResourceName,
    pub version: Version,
    pub reason: &'a str,
}

#[derive(Debug, Default)]
struct Sent {
    dirty: bool,
    complete: bool,
    resources: BTreeMap<ResourceName, SentResource>,
}

#[derive(Debug)]
struct SentResource {
    version: Version,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    /// In the push with this nonce.
    Pending(u64),
    Taken,
    Rejected(String),
}

#[derive(Debug)]
struct InFlight {
    nonce: u64,
    resources: Vec<(Topic, ResourceName)>,
}

/// A push that is being put together.
struct Draft {
    bytes: usize,
    limit: usize,
    topics: Vec<TopicPush>,
}

impl Publisher {
    /// Begins a stream with the subscriber's hello.
    ///
    /// Errors: it wants too many topics.
    pub fn new(hello: Hello, limits: Limits) -> Result<Self, Violation> {
        let mut publisher = Self {
            limits,
            topics: BTreeMap::new(),
            dirty: VecDeque::new(),
            in_flight: VecDeque::new(),
            heard: hello.number,
            nonce: 0,
        };
        for topic in hello.topics {
            publisher.begin(topic)?;
        }
        Ok(publisher)
    }

    /// Errors: it wants too many topics.
    pub fn on_request(&mut self, request: Request) -> Result<(), Violation> {
        self.heard = request.number;
        for topic in &request.unsubscribe {
            if self.topics.remove(topic).is_some_and(|sent| sent.dirty) {
                self.dirty.retain(|dirty| dirty != topic);
            }
        }
        for topic in request.subscribe {
            if !self.topics.contains_key(&topic) {
                self.begin(TopicHello {
                    topic,
                    held: Vec::new(),
                    rejected: Vec::new(),
                })?;
            }
        }
        Ok(())
    }

    /// These topics may have changed in the source.
    pub fn on_touched<'a>(&mut self, topics: impl IntoIterator<Item = &'a Topic>) {
        for topic in topics {
            self.mark(topic);
        }
    }

    /// Errors: the reply is not the next one that was due.
    pub fn on_reply(&mut self, reply: Reply) -> Result<(), Violation> {
        let expected = self.in_flight.front().map(|push| push.nonce);
        if expected != Some(reply.nonce) {
            return Err(Violation::Reply {
                found: reply.nonce,
                expected,
            });
        }
        for rejected in reply.rejected {
            self.decide(&rejected.topic, &rejected.name, reply.nonce, || {
                Fate::Rejected(rejected.reason)
            });
        }
        let pushed = self.in_flight.pop_front().map(|push| push.resources);
        for (topic, name) in pushed.into_iter().flatten() {
            self.decide(&topic, &name, reply.nonce, || Fate::Taken);
        }
        Ok(())
    }

    /// The next push, when there is something to say and room to say it. Call it again until it
    /// gives `None`, and after every event above.
    pub fn next_push(&mut self, source: &impl Source) -> Option<Push> {
        if self.in_flight.len() >= self.limits.pushes {
            return None;
        }
        let nonce = self.nonce.saturating_add(1);
        let mut draft = Draft {
            bytes: 0,
            limit: self.limits.push_bytes,
            topics: Vec::new(),
        };
        for _ in 0..self.dirty.len() {
            if draft.is_full() {
                break;
            }
            let Some(topic) = self.dirty.pop_front() else {
                break;
            };
            if let Some(sent) = self.topics.get_mut(&topic) {
                sent.dirty = !draft.add(&topic, sent, source, nonce);
                if sent.dirty {
                    self.dirty.push_back(topic);
                }
            }
        }
        if draft.topics.is_empty() {
            return None;
        }
        self.nonce = nonce;
        let names = |push: &TopicPush| -> Vec<_> {
            let resources = push.resources.iter();
            resources
                .map(|resource| (push.topic.clone(), resource.name.clone()))
                .collect()
        };
        self.in_flight.push_back(InFlight {
            nonce,
            resources: draft.topics.iter().flat_map(names).collect(),
        });
        Some(Push {
            nonce,
            heard: self.heard,
            topics: draft.topics,
        })
    }

    /// Everything that the subscriber cannot use.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection<'_>> {
        self.topics.iter().flat_map(|(topic, sent)| {
            (sent.resources.iter()).filter_map(move |(name, resource)| match &resource.fate {
                Fate::Rejected(reason) => Some(Rejection {
                    topic,
                    name,
                    version: resource.version,
                    reason,
                }),
                Fate::Pending(_) | Fate::Taken => None,
            })
        })
    }

    /// The subscriber has confirmed that it uses this version.
    pub fn is_in_use(&self, topic: &Topic, name: &ResourceName, version: Version) -> bool {
        let sent = self.topics.get(topic);
        sent.and_then(|sent| sent.resources.get(name))
            .is_some_and(|sent| sent.version == version && matches!(sent.fate, Fate::Taken))
    }

    /// The subscriber wants the topic, was sent all of it, and uses all of it.
    pub fn in_sync(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|sent| {
            let taken = |sent: &SentResource| matches!(sent.fate, Fate::Taken);
            sent.complete && !sent.dirty && sent.resources.values().all(taken)
        })
    }

    /// What the subscriber wants, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    pub fn wants(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Pushes without a reply.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn begin(&mut self, hello: TopicHello) -> Result<(), Violation> {
        if self.topics.len() >= self.limits.topics {
            return Err(Violation::TooManyTopics {
                limit: self.limits.topics,
            });
        }
        let mut sent = Sent::default();
        for (name, version) in hello.held {
            let fate = Fate::Taken;
            sent.resources.insert(name, SentResource { version, fate });
        }
        for (name, version, reason) in hello.rejected {
            let fate = Fate::Rejected(reason);
            sent.resources.insert(name, SentResource { version, fate });
        }
        self.topics.insert(hello.topic.clone(), sent);
        self.mark(&hello.topic);
        Ok(())
    }

    fn mark(&mut self, topic: &Topic) {
        if let Some(sent) = self.topics.get_mut(topic)
            && !sent.dirty
        {
            sent.dirty = true;
            self.dirty.push_back(topic.clone());
        }
    }

    fn decide(
        &mut self,
        topic: &Topic,
        name: &ResourceName,
        nonce: u64,
        fate: impl FnOnce() -> Fate,
    ) {
        let sent = self.topics.get_mut(topic);
        if let Some(sent) = sent.and_then(|sent| sent.resources.get_mut(name))
            && matches!(sent.fate, Fate::Pending(pending) if pending == nonce)
        {
            sent.fate = fate();
        }
    }
}

impl Draft {
    fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    /// Adds what differs in the topic. False when there was not room for all of it.
    fn add(&mut self, topic: &Topic, sent: &mut Sent, source: &impl Source, nonce: u64) -> bool {
        let Some(resources) = source.resources(topic) else {
            return true; // It will be touched when it is known.
        };
        let mut push = TopicPush {
            topic: topic.clone(),
            resources: Vec::new(),
            removed: Vec::new(),
            complete: false,
        };
        let mut present = BTreeSet::new();
        let mut room = true;
        for resource in resources {
            present.insert(&resource.name);
            let same = |sent: &SentResource| sent.version == resource.version;
            if sent.resources.get(&resource.name).is_some_and(same) {
                continue;
            }
            let bytes = self.bytes.saturating_add(cost(resource));
            if self.bytes > 0 && bytes > self.limit {
                room = false;
                break;
            }
            self.bytes = bytes;
            push.resources.push(resource.clone());
        }
        for resource in &push.resources {
            let (version, fate) = (resource.version, Fate::Pending(nonce));
            (sent.resources).insert(resource.name.clone(), SentResource { version, fate });
        }
        if room {
            // What takes something's place comes before that goes.
            let gone = |name: &ResourceName| !present.contains(name);
            push.removed = sent.resources.keys().filter(|n| gone(n)).cloned().collect();
            sent.resources.retain(|name, _| present.contains(name));
            push.complete = !sent.complete;
            sent.complete = true;
        }
        if push.complete || !push.resources.is_empty() || !push.removed.is_empty() {
            self.bytes = self.bytes.saturating_add(topic.as_str().len());
            self.topics.push(push);
        }
        room
    }
}

/// Bytes of a resource, its name included: one without a body is not free.
fn cost(resource: &Resource) -> usize {
    let name = resource.name.as_str().len();
    name.saturating_add(resource.body.len()).max(1)
}
