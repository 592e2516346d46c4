//! The two ends against each other, over a stream that is cut at random.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use isthmus_delta::{
    Limits, Publisher, Push, Reply, Request, Resource, ResourceName, Source, Subscription, Topic,
    TopicState, Version,
};
use isthmus_world::{Chance, Clock, SeededChance, VirtualClock};

/// What is published. Versions only grow, so that a content never returns under an old name.
#[derive(Default)]
struct Table {
    topics: BTreeMap<Topic, BTreeMap<ResourceName, Resource>>,
    version: u64,
    ready: bool,
}

impl Source for Table {
    fn resources<'a>(&'a self, topic: &Topic) -> Option<impl Iterator<Item = &'a Resource>> {
        let resources = self.topics.get(topic).map(BTreeMap::values);
        self.ready.then(|| resources.into_iter().flatten())
    }
}

impl Table {
    fn put(&mut self, topic: &Topic, name: &str, body: &'static [u8]) {
        self.version += 1;
        let resource = Resource {
            name: ResourceName::new(name),
            version: Version(self.version),
            body: Bytes::from_static(body),
        };
        let resources = self.topics.entry(topic.clone()).or_default();
        resources.insert(resource.name.clone(), resource);
    }

    fn remove(&mut self, topic: &Topic, name: &str) {
        if let Some(resources) = self.topics.get_mut(topic) {
            resources.remove(&ResourceName::new(name));
        }
    }
}

fn topic(number: u64) -> Topic {
    Topic::new(&format!("service/shop/{number}"))
}

/// The subscriber uses everything but bodies that say `bad`.
fn take(subscription: &mut Subscription, push: Push) -> Reply {
    let mut delivery = subscription.on_push(push);
    let bad: Vec<_> = (delivery.topics().iter())
        .flat_map(|change| {
            let resources = change.resources.iter();
            resources.map(|resource| (change.topic.clone(), resource))
        })
        .filter(|(_, resource)| &resource.body[..] == b"bad")
        .map(|(topic, resource)| (topic, resource.name.clone()))
        .collect();
    for (topic, name) in bad {
        delivery.reject(&topic, &name, "it is bad");
    }
    subscription.settle(delivery)
}

const LIMITS: Limits = Limits {
    pushes: 2,
    push_bytes: 40,
    topics: 10,
};

/// Publisher, subscriber, and what is on the stream between them.
struct Pair {
    source: Table,
    subscription: Subscription,
    publisher: Option<Publisher>,
    requests: VecDeque<Request>,
    pushes: VecDeque<Push>,
    replies: VecDeque<Reply>,
    clock: VirtualClock,
    bodies_sent: usize,
}

impl Pair {
    fn new(source: Table) -> Self {
        Self {
            source,
            subscription: Subscription::new(),
            publisher: None,
            requests: VecDeque::new(),
            pushes: VecDeque::new(),
            replies: VecDeque::new(),
            clock: VirtualClock::new(),
            bodies_sent: 0,
        }
    }

    fn connect(&mut self) {
        let hello = self.subscription.hello();
        self.publisher = Some(Publisher::new(hello, LIMITS).unwrap());
    }

    fn cut(&mut self) {
        let before: Vec<_> = self.subscription.retained();
        let states: Vec<_> = (0..4).map(|n| self.subscription.state(&topic(n))).collect();
        self.publisher = None;
        self.requests.clear();
        self.pushes.clear();
        self.replies.clear();
        self.subscription.on_lost(self.clock.now());
        assert_eq!(self.subscription.retained(), before, "a cut changed it");
        let after: Vec<_> = (0..4).map(|n| self.subscription.state(&topic(n))).collect();
        assert_eq!(states, after, "a cut changed a state");
        assert!(self.subscription.stale_since().is_some());
    }

    fn touch(&mut self, topics: &[Topic]) {
        if let Some(publisher) = &mut self.publisher {
            publisher.on_touched(topics);
        }
    }

    /// One message moves. False when none was there.
    fn step(&mut self, kind: u64) -> bool {
        let Some(publisher) = &mut self.publisher else {
            return false;
        };
        match kind % 4 {
            0 => match publisher.next_push(&self.source) {
                Some(push) => {
                    let resources = push.topics.iter().flat_map(|topic| &topic.resources);
                    let count = resources.clone().count();
                    let bytes: usize = resources
                        .map(|resource| resource.name.as_str().len() + resource.body.len())
                        .sum();
                    assert!(count <= 1 || bytes <= LIMITS.push_bytes);
                    self.bodies_sent += count;
                    self.pushes.push_back(push);
                    assert!(publisher.in_flight() <= LIMITS.pushes);
                    true
                }
                None => false,
            },
            1 => (self.pushes.pop_front())
                .map(|push| take(&mut self.subscription, push))
                .map(|reply| self.replies.push_back(reply))
                .is_some(),
            2 => (self.replies.pop_front())
                .map(|reply| publisher.on_reply(reply).unwrap())
                .is_some(),
            _ => (self.requests.pop_front())
                .map(|request| publisher.on_request(request).unwrap())
                .is_some(),
        }
    }

    fn settle(&mut self) {
        while (0..4).any(|kind| self.step(kind)) {}
    }

    fn check_settled(&self, seed: u64) {
        let publisher = self.publisher.as_ref().unwrap();
        let nothing = BTreeMap::new();
        let mut rejected = 0;
        for topic in self.subscription.topics() {
            assert_eq!(self.subscription.state(topic), TopicState::Known);
            let expect = self.source.topics.get(topic).unwrap_or(&nothing);
            let (bad, good): (Vec<_>, Vec<_>) =
                expect.values().partition(|r| &r.body[..] == b"bad");
            for resource in good {
                let held = self.subscription.find(topic, &resource.name);
                assert_eq!(held, Some(resource), "seed {seed}: {topic}");
                assert!(publisher.is_in_use(topic, &resource.name, resource.version));
            }
            let refused: Vec<_> = (self.subscription.refused(topic))
                .map(|(name, refused)| (name.clone(), refused.version))
                .collect();
            let named: Vec<_> = bad.iter().map(|r| (r.name.clone(), r.version)).collect();
            assert_eq!(refused, named, "seed {seed}: {topic}");
            for held in self.subscription.resources(topic) {
                assert!(
                    expect.contains_key(&held.name),
                    "seed {seed}: {held:?} stayed"
                );
            }
            assert_eq!(publisher.in_sync(topic), bad.is_empty(), "seed {seed}");
            rejected += bad.len();
        }
        assert_eq!(publisher.rejections().count(), rejected, "seed {seed}");
        assert_eq!(self.subscription.stale_since(), None, "seed {seed}");
    }
}

fn act(pair: &mut Pair, chance: &mut SeededChance) {
    let place = topic(chance.below(4));
    let name = format!("HTTPRoute/shop/{}", chance.below(5));
    match chance.below(20) {
        0 => pair.cut(),
        1..3 if pair.publisher.is_none() => pair.connect(),
        3 => {
            let request = pair.subscription.subscribe([place]);
            pair.requests.extend(request);
        }
        4 => {
            let request = pair.subscription.unsubscribe([&place]);
            pair.requests.extend(request);
        }
        5..7 => {
            let body = [&b"good"[..], b"bad", b"a longer body, still good"];
            let body = body[usize::try_from(chance.below(3)).unwrap()];
            pair.source.put(&place, &name, body);
            pair.touch(&[place]);
        }
        7 => {
            pair.source.remove(&place, &name);
            pair.touch(&[place]);
        }
        8 => {
            // A control plane that has just started knows nothing for a while.
            pair.source.ready = !pair.source.ready;
            pair.touch(&(0..4).map(topic).collect::<Vec<_>>());
        }
        _ => {
            let kind = chance.draw();
            pair.step(kind);
        }
    }
}

#[test]
fn whatever_happens_the_ends_agree_in_the_end() {
    for seed in 0..400 {
        let mut chance = SeededChance::new(seed);
        let mut pair = Pair::new(Table::default());
        // Always there: a topic that is called known without it was never answered.
        for number in 0..4 {
            pair.source
                .put(&topic(number), "Service/shop/anchor", b"good");
        }
        for _ in 0..300 {
            act(&mut pair, &mut chance);
            for number in 0..4 {
                let known = pair.subscription.state(&topic(number)) == TopicState::Known;
                let anchor = ResourceName::new("Service/shop/anchor");
                let held = pair.subscription.find(&topic(number), &anchor);
                assert!(!known || held.is_some(), "seed {seed}: emptied");
            }
        }
        pair.source.ready = true;
        if pair.publisher.is_none() {
            pair.connect();
        }
        pair.touch(&(0..4).map(topic).collect::<Vec<_>>());
        pair.settle();
        pair.check_settled(seed);
    }
}

/// A settled pair with `count` resources in one topic.
fn settled(count: usize) -> Pair {
    let mut source = Table {
        ready: true,
        ..Table::default()
    };
    for number in 0..count {
        source.put(&topic(0), &format!("r{number}"), b"good");
    }
    let mut pair = Pair::new(source);
    pair.subscription.subscribe([topic(0)]);
    pair.connect();
    pair.settle();
    pair.check_settled(0);
    pair.bodies_sent = 0;
    pair
}

#[test]
fn only_what_changed_is_sent_also_after_a_cut() {
    let mut pair = settled(1000);
    pair.cut();
    pair.source.put(&topic(0), "r7", b"better");
    pair.source.remove(&topic(0), "r8");
    pair.connect();
    pair.settle();
    pair.check_settled(0);
    assert_eq!(pair.bodies_sent, 1);
}

#[test]
fn changes_that_a_slow_subscriber_has_not_seen_become_one() {
    let mut pair = settled(1);
    for _ in 0..1000 {
        pair.source.put(&topic(0), "r0", b"newer");
        pair.touch(&[topic(0)]);
        pair.step(0);
    }
    assert_eq!(pair.bodies_sent, LIMITS.pushes);
    pair.settle();
    pair.check_settled(0);
    assert_eq!(pair.bodies_sent, LIMITS.pushes + 1);
}

#[test]
fn a_rejected_version_is_sent_once_and_the_last_good_one_stays() {
    let mut pair = settled(2);
    let name = ResourceName::new("r0");
    let good = pair.subscription.find(&topic(0), &name).cloned().unwrap();
    pair.source.put(&topic(0), "r0", b"bad");
    pair.touch(&[topic(0)]);
    pair.settle();
    pair.cut();
    pair.connect();
    pair.settle();
    pair.touch(&[topic(0)]);
    pair.settle();
    assert_eq!(pair.bodies_sent, 1);
    assert_eq!(pair.subscription.find(&topic(0), &name), Some(&good));
    let publisher = pair.publisher.as_ref().unwrap();
    let reasons: Vec<_> = publisher.rejections().map(|found| found.reason).collect();
    assert_eq!(reasons, ["it is bad"]);
}

#[test]
fn unknown_and_empty_differ() {
    let mut pair = Pair::new(Table::default());
    pair.connect();
    let request = pair.subscription.subscribe([topic(0)]);
    pair.requests.extend(request);
    assert_eq!(pair.subscription.state(&topic(1)), TopicState::NotAsked);
    pair.settle();
    assert_eq!(pair.subscription.state(&topic(0)), TopicState::Unknown);
    pair.source.ready = true;
    pair.touch(&[topic(0)]);
    pair.settle();
    assert_eq!(pair.subscription.state(&topic(0)), TopicState::Known);
    assert_eq!(pair.subscription.resources(&topic(0)).count(), 0);
}

#[test]
fn what_an_earlier_process_held_is_served_and_resumed() {
    let mut pair = settled(3);
    let held: Vec<_> = pair.subscription.resources(&topic(0)).cloned().collect();
    pair.cut();
    pair.subscription = Subscription::restore([(topic(0), held)], Instant::now());
    assert_eq!(pair.subscription.state(&topic(0)), TopicState::Known);
    pair.connect();
    pair.settle();
    pair.check_settled(0);
    assert_eq!(pair.bodies_sent, 0);
}

#[test]
fn a_subscriber_that_breaks_the_protocol_is_told_apart() {
    let mut pair = settled(1);
    let publisher = pair.publisher.as_mut().unwrap();
    let reply = Reply {
        nonce: 77,
        rejected: Vec::new(),
    };
    assert!(publisher.on_reply(reply).is_err());
    let request = Request {
        number: 9,
        subscribe: (0..20).map(topic).collect(),
        unsubscribe: Vec::new(),
    };
    assert!(publisher.on_request(request).is_err());
}
