//! The messages of `delta`, as they travel on the Sync stream.
//!
//! What came from the network is only bounded here; whether it makes sense in its place is decided
//! by the machines of `delta`.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_delta::{
    Hello, Push, Rejected, Reply, Request, Resource, ResourceName, Topic, TopicHello, TopicPush,
    Version,
};

use crate::proto;

impl From<&proto::Hello> for Hello {
    fn from(hello: &proto::Hello) -> Self {
        let mut topics: BTreeMap<&str, TopicHello> = BTreeMap::new();
        let named = hello.topics.iter();
        for topic in named.chain(hello.retained.iter().map(|retained| &retained.topic)) {
            topics.entry(topic).or_insert_with(|| TopicHello {
                topic: Topic::new(topic),
                held: Vec::new(),
                rejected: Vec::new(),
            });
        }
        for retained in &hello.retained {
            let (name, version) = (ResourceName::new(&retained.name), Version(retained.version));
            if let Some(topic) = topics.get_mut(retained.topic.as_str()) {
                if retained.rejected.is_empty() {
                    topic.held.push((name, version));
                } else {
                    let reason = retained.rejected.clone();
                    topic.rejected.push((name, version, reason));
                }
            }
        }
        Self {
            number: hello.number,
            topics: topics.into_values().collect(),
        }
    }
}

impl proto::Hello {
    /// Sets what the subscription says; who speaks (version, features, process) is the caller's.
    pub fn set_subscription(&mut self, hello: &Hello) {
        self.number = hello.number;
        self.topics = texts(hello.topics.iter().map(|topic| &topic.topic));
        self.retained = hello.topics.iter().flat_map(retained).collect();
    }
}

fn retained(topic: &TopicHello) -> impl Iterator<Item = proto::Retained> + '_ {
    let retained = |name: &ResourceName, version: Version, rejected: &str| proto::Retained {
        topic: topic.topic.to_string(),
        name: name.to_string(),
        version: version.0,
        rejected: rejected.to_owned(),
    };
    let held = topic.held.iter();
    let rejected = topic.rejected.iter();
    held.map(move |(name, version)| retained(name, *version, ""))
        .chain(rejected.map(move |(name, version, why)| retained(name, *version, some(why))))
}

/// An empty reason would read as "in use".
fn some(reason: &str) -> &str {
    if reason.is_empty() {
        "rejected"
    } else {
        reason
    }
}

impl From<proto::Subscribe> for Request {
    fn from(request: proto::Subscribe) -> Self {
        let topics = |texts: &[String]| texts.iter().map(|text| Topic::new(text)).collect();
        Self {
            number: request.number,
            subscribe: topics(&request.add),
            unsubscribe: topics(&request.remove),
        }
    }
}

impl From<&Request> for proto::Subscribe {
    fn from(request: &Request) -> Self {
        Self {
            number: request.number,
            add: texts(&request.subscribe),
            remove: texts(&request.unsubscribe),
        }
    }
}

impl From<proto::Ack> for Reply {
    fn from(ack: proto::Ack) -> Self {
        let rejected = |rejection: proto::Rejection| Rejected {
            topic: Topic::new(&rejection.topic),
            name: ResourceName::new(&rejection.name),
            reason: rejection.reason,
        };
        Self {
            nonce: ack.nonce,
            rejected: ack.rejected.into_iter().map(rejected).collect(),
        }
    }
}

impl From<Reply> for proto::Ack {
    fn from(reply: Reply) -> Self {
        let rejection = |rejected: Rejected| proto::Rejection {
            topic: rejected.topic.to_string(),
            name: rejected.name.to_string(),
            reason: rejected.reason,
        };
        Self {
            nonce: reply.nonce,
            rejected: reply.rejected.into_iter().map(rejection).collect(),
        }
    }
}

impl proto::Push {
    /// `position`: the config position that the push brings its reader to.
    pub fn of(push: Push, position: u64) -> Self {
        let mut message = Self {
            nonce: push.nonce,
            heard: push.heard,
            position,
            ..Self::default()
        };
        for change in push.topics {
            let topic = change.topic.as_str();
            if change.complete {
                message.complete.push(topic.to_owned());
            }
            let resources = change.resources.into_iter();
            message
                .resources
                .extend(resources.map(|resource| proto::Resource {
                    topic: topic.to_owned(),
                    name: resource.name.to_string(),
                    version: resource.version.0,
                    body: resource.body,
                }));
            let removed = change.removed.iter();
            message.removed.extend(removed.map(|name| proto::Removed {
                topic: topic.to_owned(),
                name: name.to_string(),
            }));
        }
        message
    }
}

impl From<proto::Push> for Push {
    fn from(message: proto::Push) -> Self {
        let mut topics: BTreeMap<String, TopicPush> = BTreeMap::new();
        for resource in message.resources {
            let change = change(&mut topics, &resource.topic);
            change.resources.push(Resource {
                name: ResourceName::new(&resource.name),
                version: Version(resource.version),
                // A part of what was read with it would hold all of it, for as long as the resource is.
                body: Bytes::copy_from_slice(&resource.body),
            });
        }
        for removed in message.removed {
            let name = ResourceName::new(&removed.name);
            change(&mut topics, &removed.topic).removed.push(name);
        }
        for topic in &message.complete {
            change(&mut topics, topic).complete = true;
        }
        Self {
            nonce: message.nonce,
            heard: message.heard,
            topics: topics.into_values().collect(),
        }
    }
}

fn change<'t>(topics: &'t mut BTreeMap<String, TopicPush>, topic: &str) -> &'t mut TopicPush {
    topics.entry(topic.to_owned()).or_insert_with(|| TopicPush {
        topic: Topic::new(topic),
        resources: Vec::new(),
        removed: Vec::new(),
        complete: false,
    })
}

fn texts<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> Vec<String> {
    topics.into_iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn travel<M: Message + Default>(message: &M) -> M {
        M::decode(message.encode_to_vec().as_slice()).unwrap()
    }

    #[test]
    fn messages_round_trip() {
        let (mesh, cart) = (Topic::new("mesh"), Topic::new("service/shop/cart"));
        let hello = Hello {
            number: 3,
            topics: vec![
                TopicHello {
                    topic: mesh.clone(),
                    held: vec![(ResourceName::new("mesh"), Version(u64::MAX))],
                    rejected: vec![(ResourceName::new("x"), Version(2), "no".to_owned())],
                },
                TopicHello {
                    topic: cart.clone(),
                    held: Vec::new(),
                    rejected: Vec::new(),
                },
            ],
        };
        let mut message = proto::Hello::default();
        message.set_subscription(&hello);
        assert_eq!(Hello::from(&travel(&message)), hello);

        let request = Request {
            number: 4,
            subscribe: vec![mesh.clone()],
            unsubscribe: vec![cart.clone()],
        };
        let message = proto::Subscribe::from(&request);
        assert_eq!(Request::from(travel(&message)), request);

        let push = Push {
            nonce: 5,
            heard: 4,
            topics: vec![
                TopicPush {
                    topic: mesh,
                    resources: vec![Resource {
                        name: ResourceName::new("mesh"),
                        version: Version(7),
                        body: vec![1, 2].into(),
                    }],
                    removed: vec![ResourceName::new("x")],
                    complete: false,
                },
                TopicPush {
                    topic: cart.clone(),
                    resources: Vec::new(),
                    removed: Vec::new(),
                    complete: true,
                },
            ],
        };
        let message = proto::Push::of(push.clone(), 9);
        assert_eq!(message.position, 9);
        assert_eq!(Push::from(travel(&message)), push);

        let reply = Reply {
            nonce: 5,
            rejected: vec![Rejected {
                topic: cart,
                name: ResourceName::new("y"),
                reason: "no".to_owned(),
            }],
        };
        let message = proto::Ack::from(reply.clone());
        assert_eq!(Reply::from(travel(&message)), reply);
    }

    #[test]
    fn a_resource_holds_no_more_than_its_own_memory() {
        let message = proto::Push {
            resources: vec![proto::Resource {
                body: vec![1; 200].into(),
                ..proto::Resource::default()
            }],
            ..proto::Push::default()
        };
        let read = Bytes::from(message.encode_to_vec());
        let push = Push::from(proto::Push::decode(read.clone()).unwrap());
        assert_eq!(push.topics[0].resources[0].body, vec![1; 200]);
        assert!(read.is_unique());
    }
}
