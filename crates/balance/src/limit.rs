//! How many requests a cluster may hold of us before it is hot.

/// The in-flight limit of one (service, cluster).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// Nothing has been learnt: never hot by load. What holds until a learner sets something else.
    #[default]
    Unlimited,
    /// Hot while more than this many are in flight.
    InFlight(u32),
}

impl Limit {
    /// The limit, if `in_flight` exceeds it.
    pub(crate) fn exceeded_by(self, in_flight: u32) -> Option<u32> {
        match self {
            Self::Unlimited => None,
            Self::InFlight(limit) => (in_flight > limit).then_some(limit),
        }
    }
}
