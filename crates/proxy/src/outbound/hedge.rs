//! A request that waits for longer than most is sent once more, over a way that stands: see
//! [`isthmus_balance::Hedging`], which decides.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use isthmus_balance::{Attempts, Budget, Hedgeable};
use isthmus_codec::message::{Open, Request};
use isthmus_model::{ClusterName, Handle};

use super::decided::Decided;
use crate::destination::{Destination, Try};
use crate::mux::Stream;
use crate::worker::Worker;

/// The second try of a request, not begun.
pub(super) struct Hedge<'r> {
    worker: &'r Worker,
    destination: &'r Rc<Destination>,
    decided: &'r Decided,
    budget: Rc<RefCell<Budget>>,
    request: &'r Request,
    cluster: ClusterName,
    /// Where the first try went.
    first: Handle,
    state: Hedgeable,
    begun: bool,
}

/// Another try of the same request.
pub(super) struct Second {
    pub(super) attempt: Try,
    pub(super) stream: Rc<Stream>,
}

impl<'r> Hedge<'r> {
    /// Of a request without a body whose first try goes out now, if the policy says so.
    pub(super) fn of(
        worker: &'r Worker,
        destination: &'r Rc<Destination>,
        decided: &'r Decided,
        attempts: &Attempts,
        request: &'r Request,
        first: &Try,
    ) -> Option<Self> {
        if !decided.settings.retry.hedge || !attempts.is_idempotent() {
            return None;
        }
        let (cluster, workload) = (first.cluster()?, first.workload()?);
        let now = Instant::now();
        Some(Self {
            worker,
            destination,
            decided,
            budget: worker.destinations.budget(&decided.called, now),
            request,
            cluster: cluster.clone(),
            first: workload.clone(),
            state: Hedgeable {
                idempotent: true,
                body_held: true,
                sent: now,
                hedged: false,
            },
            begun: false,
        })
    }

    /// A second try was made.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// When to ask [`Hedge::begin`]; `None`: never again.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.destination.hedge_at(&self.cluster, &self.state)
    }

    /// Sends the request to another workload of the cluster, if that is a good idea now. Asked once:
    /// what was not done in time is not worth doing later.
    pub(super) fn begin(&mut self) -> Option<Second> {
        let now = Instant::now();
        let request = self.state;
        self.state.hedged = true;
        let workload = self.destination.pick_workload(
            &self.cluster,
            self.decided.settings.algorithm,
            self.decided.hash_key(),
            std::slice::from_ref(&self.first),
            now,
            self.worker.draw(),
        )?;
        if workload == self.first {
            return None;
        }
        let link = self
            .destination
            .tunnel(&self.cluster, &workload)
            .or_else(|| self.worker.reach.standing(&workload))?;
        let percent = self.decided.settings.retry.budget;
        let budget = &mut self.budget.borrow_mut();
        if !self
            .destination
            .may_hedge(&self.cluster, &request, budget, percent, now)
        {
            return None;
        }
        let mut again = self.request.clone();
        again.context.attempt = again.context.attempt.saturating_add(1);
        let waited = now.saturating_duration_since(request.sent);
        again.context.remaining = again
            .context
            .remaining
            .map(|remaining| remaining.saturating_sub(waited));
        // A link that is full has more to do than its workload's replies say.
        let stream = link.open(&Open::Request(again), true).ok()?;
        let mut attempt = self.destination.begin(&self.cluster, now);
        attempt.start(&workload);
        attempt.hedge();
        self.begun = true;
        Some(Second {
            attempt,
            stream: Rc::new(stream),
        })
    }
}
