//! What follows from a try: the next place, another try, or the end; and what the caller is told then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_balance::constants::RETRY_AFTER;
use isthmus_balance::{
    Attempts, Avoid, Barred, Budget, Decision, Evidence, GiveUp, Outcome, Reason, Relief, Verdict,
};
use isthmus_codec::mux::{CannotOpen, ResetCode};
use isthmus_model::{ClusterName, Handle};
use isthmus_telemetry::RefusalReason;
use tokio::time::timeout_at;

use super::decided::Decided;
use crate::destination::{Destination, Try};
use crate::mux::{Link, StreamError};
use crate::refusal::Refusal;

/// A timer that is never reached, for requests without any deadline.
const FAR: Duration = Duration::from_hours(24);

/// A try that brought no reply.
pub(super) struct Failed {
    pub(super) outcome: Outcome,
    /// What the caller is told if there is no other try.
    pub(super) refusal: Refusal,
}

impl Failed {
    pub(super) fn new(outcome: Outcome, refusal: Refusal) -> Self {
        Self { outcome, refusal }
    }
}

/// Where this request has failed.
#[derive(Default)]
pub(super) struct Avoided {
    pub(super) clusters: Vec<ClusterName>,
    pub(super) workloads: Vec<Handle>,
}

/// What follows from a try that has ended.
pub(super) struct Settle<'r> {
    destination: &'r Rc<Destination>,
    decided: &'r Decided,
    budget: Rc<RefCell<Budget>>,
    /// How each try that brought no reply has ended, for whoever asks why.
    trail: RefCell<Vec<String>>,
}

impl<'r> Settle<'r> {
    /// `budget`: of the service that was called.
    pub(super) fn new(
        destination: &'r Rc<Destination>,
        decided: &'r Decided,
        budget: Rc<RefCell<Budget>>,
    ) -> Self {
        Self {
            destination,
            decided,
            budget,
            trail: RefCell::default(),
        }
    }

    /// A try brought no reply. `Ok`: there is another one.
    pub(super) fn failed(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        attempt: Option<Try>,
        failed: Failed,
    ) -> Result<(), Refusal> {
        let Some(attempt) = attempt else {
            return Err(failed.refusal);
        };
        let place = Place::of(&attempt);
        self.trail.borrow_mut().push(place.told(&failed.refusal));
        // The engines learn first, so that a place that is out by now is seen as such.
        attempt.finish(failed.outcome);
        match self.judge_at(attempts, avoided, &place, failed.outcome) {
            Verdict::Retry => Ok(()),
            Verdict::Deliver => Err(failed.refusal),
            Verdict::GiveUp {
                reason,
                maybe_executed,
            } => {
                let told = give_up(reason, maybe_executed, &failed, &self.trail.take());
                Err(self.not_before(told, &failed, avoided))
            }
        }
    }

    /// Says when it might be otherwise: when the first cluster that failed is asked again; and who was
    /// turned away, not before a standing queue has made room.
    fn not_before(&self, told: Refusal, failed: &Failed, avoided: &Avoided) -> Refusal {
        let next = consider(self.destination, self.decided, avoided, Instant::now());
        let wait = next.ok().and_then(|next| next.soonest());
        let busy = (failed.outcome == Outcome::Shed).then_some(2 * RETRY_AFTER);
        match wait.into_iter().chain(busy).max() {
            Some(wait) => told.after(wait, self.decided.draw),
            None => told,
        }
    }

    /// A try brought a reply.
    pub(super) fn judge(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        attempt: &Try,
        outcome: Outcome,
    ) -> Verdict {
        if outcome.evidence() == Evidence::Success {
            // A good reply is delivered, wherever another try would go.
            let budget = &mut self.budget.borrow_mut();
            return attempts.judge(outcome, Relief::None, budget, Instant::now());
        }
        self.judge_at(attempts, avoided, &Place::of(attempt), outcome)
    }

    fn judge_at(
        &self,
        attempts: &mut Attempts,
        avoided: &mut Avoided,
        place: &Place,
        outcome: Outcome,
    ) -> Verdict {
        let now = Instant::now();
        let before = (avoided.clusters.len(), avoided.workloads.len());
        let next = self.next(attempts.avoid(outcome), avoided, place, now);
        let relief = match (&place.cluster, next) {
            (Some(failed), Some(next)) => {
                let workload = place.workload.as_ref();
                let destination = self.destination;
                destination.relief(outcome, failed, workload, &next, now)
            }
            _ => Relief::None,
        };
        let verdict = attempts.judge(outcome, relief, &mut self.budget.borrow_mut(), now);
        if !matches!(verdict, Verdict::Retry) {
            avoided.clusters.truncate(before.0);
            avoided.workloads.truncate(before.1);
        }
        verdict
    }

    /// Where the next try would go, away from `place`: from all of its cluster, if nobody is left there who has not
    /// failed, or others have failed there as well and another has room.
    fn next(
        &self,
        avoid: Avoid,
        avoided: &mut Avoided,
        place: &Place,
        now: Instant,
    ) -> Option<Decision> {
        let consider = |avoided: &Avoided| {
            let decision = consider(self.destination, self.decided, avoided, now);
            decision.ok()
        };
        let clusters = avoided.clusters.len();
        avoided.add(place);
        let elsewhere = consider(avoided);
        let leaves = match (&place.cluster, &elsewhere) {
            (Some(failed), Some(elsewhere)) => {
                self.destination.leaves(failed, elsewhere)
                    || self
                        .destination
                        .has_failed_everywhere(failed, elsewhere, &avoided.workloads)
            }
            _ => false,
        };
        if avoid == Avoid::Cluster || place.workload.is_none() || leaves {
            return elsewhere;
        }
        avoided.clusters.truncate(clusters);
        consider(avoided)
    }
}

/// Where a try was.
struct Place {
    cluster: Option<ClusterName>,
    workload: Option<Handle>,
}

impl Place {
    fn of(attempt: &Try) -> Self {
        Self {
            cluster: attempt.cluster().cloned(),
            workload: attempt.workload().cloned(),
        }
    }

    fn told(&self, refusal: &Refusal) -> String {
        let cluster = self
            .cluster
            .as_ref()
            .map_or("nowhere", |name| name.as_str());
        let workload = self
            .workload
            .as_ref()
            .map_or("no workload", |handle| handle.as_str());
        format!("{cluster}, {workload}: {}", refusal.detail)
    }
}

impl Avoided {
    fn add(&mut self, place: &Place) {
        self.clusters.extend(place.cluster.clone());
        self.workloads.extend(place.workload.clone());
    }
}

/// What the caller is told at the end of all tries.
fn give_up(reason: GiveUp, maybe_executed: bool, failed: &Failed, trail: &[String]) -> Refusal {
    let detail = format!("{} ({})", trail.join("; then "), reason.code());
    let told = match reason {
        GiveUp::DeadlinePassed => RefusalReason::RequestTimeout,
        _ if maybe_executed && failed.outcome != Outcome::TimedOut => RefusalReason::MaybeExecuted,
        _ => failed.refusal.reason,
    };
    Refusal::new(told, detail)
}

/// Looks at every cluster for the next try, and chooses if one of them may be chosen.
pub(super) fn consider(
    destination: &Destination,
    decided: &Decided,
    avoided: &Avoided,
    now: Instant,
) -> Result<Decision, Refusal> {
    let service = decided.service()?;
    let shares = destination.shares(&decided.view, service, &decided.permit, &decided.settings);
    destination.observe(service, &shares, &decided.settings, now);
    Ok(destination.pick_cluster(&shares, &avoided.clusters, now, decided.draw))
}

/// Errors: what the caller is told if no cluster may be chosen.
pub(super) fn check_chosen(decided: &Decided, decision: &Decision) -> Result<(), Refusal> {
    if let Some(chosen) = decision.chosen() {
        return match chosen.share.most.filter(|_| chosen.is_at_most()) {
            None => Ok(()),
            Some(most) => {
                let service = &decided.key.service;
                let detail = format!("{service} has {most} of this caller, and is allowed no more");
                Err(Refusal::new(RefusalReason::Overloaded, detail))
            }
        };
    }
    let reason = match decision.reason() {
        Reason::AllBarred(Barred::NotExported) => RefusalReason::NotExported,
        _ => RefusalReason::NoHealthyWorkload,
    };
    let detail = format!("{}: {}", decided.key.service, decision.reason().code());
    Err(Refusal::new(reason, detail))
}

/// Waits until the link takes another stream, as long as the try may last.
pub(super) async fn has_room(link: &Link, attempts: &Attempts) -> Result<(), Failed> {
    if link.has_room() {
        return Ok(());
    }
    timeout_at(deadline(attempts), link.room())
        .await
        .map_err(|_| {
            let outcome = attempts
                .expired(Instant::now())
                .unwrap_or(Outcome::ConnectFailed);
            let detail = "the connection to the workload carries as many requests as it may";
            Failed::new(outcome, Refusal::new(RefusalReason::Overloaded, detail))
        })
}

/// The workload could not be reached: nothing was sent.
pub(super) fn unreached(refusal: Refusal) -> Failed {
    Failed::new(Outcome::ConnectFailed, refusal)
}

/// The link took no stream: nothing was sent.
pub(super) fn not_opened(error: &CannotOpen) -> Failed {
    let refusal = Refusal::new(RefusalReason::ConnectFailed, error.to_string());
    Failed::new(Outcome::Drained, refusal)
}

/// The stream ended before the reply was complete.
pub(super) fn stream_failed(error: StreamError, link: &Link) -> Failed {
    let outcome = match error {
        // The connection was being left: nobody is to blame.
        StreamError::Reset(ResetCode::Refused) if link.is_leaving() => Outcome::Drained,
        StreamError::Reset(ResetCode::Refused) => Outcome::Refused {
            retry_unwanted: false,
        },
        StreamError::Reset(ResetCode::Overloaded) => Outcome::Shed,
        StreamError::Reset(ResetCode::Timeout) => Outcome::TimedOut,
        StreamError::Lost => Outcome::Lost,
        StreamError::Unread => Outcome::Cancelled,
        StreamError::Reset(_) | StreamError::Unsendable(_) | StreamError::Gone => Outcome::Reset,
    };
    let reason = match outcome {
        Outcome::Refused { .. } | Outcome::Drained => RefusalReason::ConnectFailed,
        Outcome::Shed => RefusalReason::Overloaded,
        Outcome::TimedOut => RefusalReason::RequestTimeout,
        Outcome::Cancelled => RefusalReason::ClientTooSlow,
        _ => RefusalReason::UpstreamReset,
    };
    Failed::new(outcome, Refusal::new(reason, error.to_string()))
}

/// When the running try is over at the latest.
pub(super) fn deadline(attempts: &Attempts) -> tokio::time::Instant {
    let end = attempts.next_timeout();
    end.map_or_else(|| tokio::time::Instant::now() + FAR, Into::into)
}
