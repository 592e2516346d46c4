//! What happens in a story, where, and what its callers are told of it.

use crate::world::CLUSTERS;

/// What there is in each cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) workloads: usize,
    /// Of each workload.
    pub(crate) workers: usize,
    /// In each of the clusters.
    pub(crate) callers: [usize; CLUSTERS],
}

/// What happens, in seconds and in shares of one cluster's capacity.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) layout: Layout,
    /// Mean time of work in seconds.
    pub(crate) service: f64,
    /// How long callers wait, as a multiple of that.
    pub(crate) patience: f64,
    pub(crate) calm: [f64; CLUSTERS],
    pub(crate) trouble: [f64; CLUSTERS],
    /// How much longer everything takes in `us` during the trouble.
    pub(crate) slower: f64,
    /// Workers of each workload in `us` during the trouble. With none, all is answered with 503.
    pub(crate) workers: usize,
    /// `us` is down during the trouble.
    pub(crate) outage: bool,
    pub(crate) begins: f64,
    pub(crate) ends: f64,
    pub(crate) length: f64,
}

impl Story {
    /// Requests per second that a cluster serves when all its workers are busy.
    pub(crate) fn capacity(&self) -> f64 {
        (self.layout.workloads * self.layout.workers) as f64 / self.service
    }

    pub(crate) fn timeout(&self) -> f64 {
        self.patience * self.service
    }
}

/// How the inputs of a policy are worse than the truth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inputs {
    /// Replies say how busy their workload is.
    pub(crate) utilisation: bool,
    /// An [`Admission`] stands before each workload, and it is what says so.
    pub(crate) guarded: bool,
    /// Times and utilisation are wrong by up to this part.
    pub(crate) noise: f64,
    /// This part of the replies does not say; of facts, is not updated.
    pub(crate) lost: f64,
    /// What every workload is assumed to hold, if anything.
    pub(crate) assumed: Option<f64>,
}
