//! Incremental distribution from a control plane to a proxy: both ends, as machines.
//!
//! A subscriber asks for topics; the publisher sends what is in them, and from then on only what
//! changed. The subscriber takes or rejects each resource by name. A lost stream changes nothing
//! at the subscriber; the next one begins with what it holds, so that only differences travel.
//!
//! - A topic is *unknown* until its answer is complete, then *known*, and a known topic without
//!   resources does not exist. Neither a lost stream nor a publisher that knows nothing yet turns a
//!   known topic into an unknown or an empty one.
//! - A rejected resource leaves the last good one in place, and is not sent again until it changes.
//! - A slow subscriber costs the publisher a set of topics to look at again, never a queue.
//!
//! The idea is Envoy's incremental xDS (the delta protocol). Streams are ordered and reliable;
//! opening them, and what the bytes of a resource mean, is the business of others.

mod message;
mod publisher;
mod subscription;

pub use message::{
    Hello, Push, Rejected, Reply, Request, Resource, ResourceName, Topic, TopicHello, TopicPush,
    Version,
};
pub use publisher::{Limits, Publisher, Rejection, Source, Violation};
pub use subscription::{Delivery, Refused, Subscription, TopicState};
