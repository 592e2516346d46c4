//! What travels, in both directions.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

macro_rules! text {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text! {
    /// What one subscribes to: a set of resources, such as `mesh` or `service/shop/cart`.
    Topic
}
text! {
    /// Name of a resource, unique in its topic, such as `HTTPRoute/shop/split`.
    ResourceName
}

/// Which content a resource has. Two contents of one resource never share a version; otherwise
/// opaque (a hash of the content, or a position).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// One resource. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: ResourceName,
    pub version: Version,
    pub body: Bytes,
}

/// The subscriber's first message on a stream: what it wants and what it holds already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// As in `Request`.
    pub number: u64,
    pub topics: Vec<TopicHello>,
}

/// What the subscriber holds of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicHello {
    pub topic: Topic,
    /// Good ones, in use.
    pub held: Vec<(ResourceName, Version)>,
    /// Versions that it rejected and needs not see again.
    pub rejected: Vec<(ResourceName, Version, String)>,
}

/// The subscriber changes what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Counts the subscriber's hellos and requests, so that a push tells which it had heard of.
    pub number: u64,
    pub subscribe: Vec<Topic>,
    pub unsubscribe: Vec<Topic>,
}

/// The publisher tells what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Counts the pushes of one stream.
    pub nonce: u64,
    /// Number of the last hello or request that the publisher had heard when it sent this.
    pub heard: u64,
    pub topics: Vec<TopicPush>,
}

/// What changed in one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPush {
    pub topic: Topic,
    /// New and changed ones.
    pub resources: Vec<Resource>,
    pub removed: Vec<ResourceName>,
    /// With this push, the subscriber was sent everything that is in the topic.
    pub complete: bool,
}

/// The subscriber has handled a push: everything in it is in use but what is listed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub nonce: u64,
    pub rejected: Vec<Rejected>,
}

/// One resource that the subscriber cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub topic: Topic,
    pub name: ResourceName,
    /// Why, for people.
    pub reason: String,
}
