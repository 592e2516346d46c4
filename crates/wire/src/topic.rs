//! What a proxy can subscribe to.

use std::fmt;
use std::str::FromStr;

use isthmus_model::ServiceName;

/// A set of resources that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The mesh itself and its clusters, with their gateways.
    Mesh,
    /// One service: its declaration, routes, policies, workloads of the own cluster and shares of
    /// the others.
    Service(ServiceName),
}

/// The text names no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic; topics are `mesh` and `service/<namespace>/<name>`")]
pub struct UnknownTopic(pub String);

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(text: &str) -> Result<Self, UnknownTopic> {
        if text == "mesh" {
            return Ok(Self::Mesh);
        }
        text.strip_prefix("service/")
            .and_then(|service| service.parse().ok())
            .map(Self::Service)
            .ok_or_else(|| UnknownTopic(text.to_owned()))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Service(service) => write!(f, "service/{service}"),
        }
    }
}
