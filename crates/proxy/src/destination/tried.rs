//! A try that is under way, and what the engines are told of it.

use std::rc::Rc;
use std::time::Instant;

use isthmus_balance::{ClusterTry, Evidence, Outcome, Told};
use isthmus_model::{ClusterName, Handle};

use super::Destination;

/// A try that is under way. Whatever becomes of it is told to the engines: by [`Try::finish`], or,
/// when the request is dropped, as cancelled.
pub(crate) struct Try {
    destination: Rc<Destination>,
    cluster: Option<ClusterTry>,
    handle: Option<Handle>,
    began: Instant,
    replied: Option<Instant>,
    /// Its request is still coming in.
    receives: bool,
    /// It was made because another took long: what it takes itself says nothing of what is usual.
    hedges: bool,
}

impl Try {
    pub(super) fn begin(destination: &Rc<Destination>, cluster: ClusterTry, now: Instant) -> Self {
        Self {
            destination: Rc::clone(destination),
            cluster: Some(cluster),
            handle: None,
            began: now,
            replied: None,
            receives: false,
            hedges: false,
        }
    }

    pub(crate) fn cluster(&self) -> Option<&ClusterName> {
        self.cluster.as_ref().map(ClusterTry::cluster)
    }

    pub(crate) fn workload(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// The workload was chosen.
    pub(crate) fn start(&mut self, handle: &Handle) {
        let mut state = self.destination.state.borrow_mut();
        let cluster = self.cluster.as_ref().map(ClusterTry::cluster);
        if let Some(group) = cluster.and_then(|cluster| state.groups.get_mut(cluster)) {
            group.endpoints.start(handle);
        }
        self.handle = Some(handle.clone());
        // What it took to find a way there is none of the workload's latency.
        self.began = Instant::now();
        if let Some(cluster) = &mut self.cluster {
            cluster.sent(self.began);
        }
    }

    /// The request is still coming in.
    pub(crate) fn receive(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            let mut state = self.destination.state.borrow_mut();
            state.valve.receive(cluster, Instant::now());
            self.receives = true;
        }
    }

    /// All of the request was sent, and nothing of the reply is here.
    pub(crate) fn received(&mut self, now: Instant) {
        if let Some(cluster) = &mut self.cluster
            && std::mem::replace(&mut self.receives, false)
        {
            let mut state = self.destination.state.borrow_mut();
            state.valve.received(cluster, now);
            self.began = now;
        }
    }

    /// The first byte of the reply is here: what counts as latency. `outcome`: what its head says.
    /// `told`: what it says of its workload.
    pub(crate) fn replied(&mut self, outcome: Outcome, told: Told, now: Instant) {
        self.replied = Some(now);
        if let Some(cluster) = &mut self.cluster {
            let mut state = self.destination.state.borrow_mut();
            state.valve.replied(cluster, outcome.evidence(), told, now);
        }
    }

    /// This is the second try of a request whose first takes long.
    pub(crate) fn hedge(&mut self) {
        self.hedges = true;
    }

    /// Another try of the same request was answered first; this one is given up.
    pub(crate) fn overtaken(mut self) {
        if let Some(cluster) = &self.cluster
            && !self.hedges
        {
            let mut state = self.destination.state.borrow_mut();
            if let Some(group) = state.groups.get_mut(cluster.cluster()) {
                group.hedging.observe(self.began.elapsed());
            }
        }
        self.end(Outcome::Cancelled);
    }

    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// As [`Try::finish`], for who does not own it.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        let Some(cluster) = self.cluster.take() else {
            return;
        };
        let now = Instant::now();
        let latency = self
            .replied
            .unwrap_or(now)
            .saturating_duration_since(self.began);
        let mut state = self.destination.state.borrow_mut();
        if let (Some(handle), Some(group)) = (&self.handle, state.groups.get_mut(cluster.cluster()))
        {
            group.endpoints.finish(handle, outcome, latency, now);
            if self.replied.is_some() && !self.hedges && outcome.evidence() == Evidence::Success {
                group.hedging.observe(latency);
            }
        }
        state.valve.finish(cluster, outcome, now);
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}
