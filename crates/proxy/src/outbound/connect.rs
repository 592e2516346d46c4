//! The workload of a try, and a link to it: dialled in the own cluster, by tunnel into another.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use isthmus_balance::{Attempts, Decision, Outcome};
use isthmus_model::ClusterName;
use isthmus_telemetry::RefusalReason;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::decided::Decided;
use super::settle::{Avoided, Failed, deadline, has_room, unreached};
use crate::destination::{Destination, MAX_TUNNELS, Try, Turn};
use crate::mux::Link;
use crate::reach::Unreachable;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The workload of the try and a link to it. `ways`: where it can go, and what was decided of that.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    decided: &Decided,
    (destination, decision): (&Rc<Destination>, &Decision),
    avoided: &Avoided,
    attempts: &Attempts,
    now: Instant,
) -> Result<(Try, Link), (Option<Try>, Failed)> {
    let Some(chosen) = decision.chosen() else {
        return Err((None, unreached(RefusalReason::NoHealthyWorkload.into())));
    };
    let most = decided.settings.limits.pending;
    let _pending = destination.wait(most).ok_or_else(|| {
        let waiting = most.unwrap_or_default();
        let detail = format!(
            "{waiting} wait for a way to {} already",
            decided.key.service
        );
        (
            None,
            unreached(Refusal::new(RefusalReason::Overloaded, detail)),
        )
    })?;
    let cluster = &chosen.share.cluster;
    keep_next_warm(worker, destination, decided, decision);
    let mut attempt = destination.begin(cluster, now);
    let connecting = async {
        if chosen.share.local {
            let attempt = &mut attempt;
            connect_local(worker, destination, decided, cluster, avoided, attempt, now).await
        } else {
            connect_remote(worker, destination, decided, cluster, avoided, &mut attempt).await
        }
    };
    match timeout_at(deadline(attempts), connecting).await {
        Ok(Ok(link)) => match has_room(&link, attempts).await {
            Ok(()) => Ok((attempt, link)),
            Err(failed) => Err((Some(attempt), failed)),
        },
        Ok(Err(failed)) => Err((Some(attempt), failed)),
        Err(_) => {
            let outcome = attempts
                .expired(Instant::now())
                .unwrap_or(Outcome::ConnectFailed);
            let detail = format!("{} was not reached in time", decided.key.service);
            let refusal = Refusal::new(RefusalReason::ConnectTimeout, detail);
            Err((Some(attempt), Failed::new(outcome, refusal)))
        }
    }
}

async fn connect_local(
    worker: &Worker,
    destination: &Destination,
    decided: &Decided,
    cluster: &ClusterName,
    avoided: &Avoided,
    attempt: &mut Try,
    now: Instant,
) -> Result<Link, Failed> {
    let service = decided.service().map_err(unreached)?;
    let handle = destination
        .pick_workload(
            cluster,
            decided.settings.algorithm,
            decided.hash_key(),
            &avoided.workloads,
            now,
            decided.draw,
        )
        .ok_or_else(|| unreached(RefusalReason::NoHealthyWorkload.into()))?;
    attempt.start(&handle);
    let workload = service.workload(&handle);
    let (Some(workload), Some(view)) = (workload, decided.view.cluster(cluster)) else {
        return Err(unreached(RefusalReason::NoHealthyWorkload.into()));
    };
    let limit = decided.settings.timeout.connect;
    worker
        .reach
        .workload(workload, &service.service, view, limit)
        .await
        .map_err(|unreachable| unreached((&unreachable).into()))
}

async fn connect_remote(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
    avoided: &Avoided,
    attempt: &mut Try,
) -> Result<Link, Failed> {
    if destination.has_way(cluster, Instant::now()) {
        widen(worker, destination, decided, cluster);
    } else {
        let opened = await_tunnel(worker, destination, decided, cluster).await;
        // A tunnel that is full is better than none.
        if let Err(unreachable) = opened
            && !destination.is_tunnelled(cluster)
        {
            return Err(unreached((&unreachable).into()));
        }
    }
    let now = Instant::now();
    let mut full = destination.full(cluster);
    full.extend_from_slice(&avoided.workloads);
    let handle = destination.pick_workload(
        cluster,
        decided.settings.algorithm,
        decided.hash_key(),
        &full,
        now,
        decided.draw,
    );
    let link = handle
        .as_ref()
        .and_then(|handle| destination.tunnel(cluster, handle));
    let (Some(handle), Some(link)) = (handle, link) else {
        return Err(unreached(RefusalReason::ConnectFailed.into()));
    };
    attempt.start(&handle);
    Ok(link)
}

/// Opens a tunnel to `cluster`, the first or one more where all are full, or waits with everybody else
/// for the one that is being opened. It is opened to its end even when nobody waits any more: a try
/// whose time is over must not undo what the next one needs.
async fn await_tunnel(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
) -> Result<(), Unreachable> {
    let turn = destination.turn(cluster);
    let turn = match Arc::clone(&turn).try_lock_owned() {
        Ok(turn) => turn,
        Err(_) => {
            let turn = turn.lock_owned().await;
            if destination.has_way(cluster, Instant::now()) {
                return Ok(());
            }
            match destination.why_not_reached(cluster) {
                // Whoever was on the way was leaving, as in a restart: the next one will not be. If
                // all who have waited counted that as a try of theirs, they would have none left.
                None | Some(Unreachable::Ended(_)) => turn,
                Some(error) => return Err(error),
            }
        }
    };
    let opening = open_in_background(worker, destination, decided, cluster, turn);
    let stopping = || Unreachable::Ended("this proxy is stopping".to_owned());
    opening.await.unwrap_or_else(|_| Err(stopping()))
}

/// How many clusters beside the chosen one are kept warm: also of two that are lost at once, the
/// second is not missed.
const KEPT_WARM: usize = 2;

/// Keeps tunnels to the clusters that would be next, so that their callers need not wait for
/// handshakes over long links when the chosen one dies. And looks for a way to those that were left:
/// none of the callers' requests is spent on that.
fn keep_next_warm(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    decision: &Decision,
) {
    let chosen = decision.chosen().map(|chosen| chosen.rank);
    let others = decision.candidates().iter().filter(|candidate| {
        let share = &candidate.share;
        let usable = share.healthy > 0 && share.barred.is_none();
        usable && !share.local && Some(candidate.rank) != chosen
    });
    let (left, next): (Vec<_>, Vec<_>) = others.partition(|candidate| candidate.hot.is_some());
    for candidate in next.into_iter().take(KEPT_WARM).chain(left) {
        if !candidate.share.connected {
            open_one_more(worker, destination, decided, &candidate.share.cluster);
        }
    }
}

/// Opens one more tunnel to another workload of `cluster` in the background, if there is one.
fn widen(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
) {
    if wants_tunnel(destination, decided, cluster) {
        open_one_more(worker, destination, decided, cluster);
    }
}

/// Opens a tunnel that nobody waits for, unless one is being opened or has just failed.
fn open_one_more(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
) {
    if let Some(turn) = destination.spare_turn(cluster, Instant::now()) {
        drop(open_in_background(
            worker,
            destination,
            decided,
            cluster,
            turn,
        ));
    }
}

/// Would a request open a tunnel to one more workload of `cluster`?
pub(super) fn wants_tunnel(
    destination: &Destination,
    decided: &Decided,
    cluster: &ClusterName,
) -> bool {
    let Ok(service) = decided.service() else {
        return false;
    };
    let share = service
        .shares
        .iter()
        .find(|share| share.cluster == *cluster && share.subset == decided.key.subset);
    let healthy = share.map_or(0, |share| {
        usize::try_from(share.healthy).unwrap_or(usize::MAX)
    });
    let tunnels = destination.tunnelled(cluster, Instant::now()).len();
    tunnels == 0 || tunnels < healthy.min(MAX_TUNNELS)
}

/// Opens a tunnel for whoever may need it; `turn` is held until it is there or has failed.
fn open_in_background(
    worker: &Rc<Worker>,
    destination: &Rc<Destination>,
    decided: &Decided,
    cluster: &ClusterName,
    turn: Turn,
) -> JoinHandle<Result<(), Unreachable>> {
    let (worker, destination) = (Rc::clone(worker), Rc::clone(destination));
    let (decided, cluster) = (decided.for_background(), cluster.clone());
    tokio::task::spawn_local(async move {
        let _turn = turn;
        let is_first = !destination.is_tunnelled(&cluster);
        let opened = open_tunnel(&worker, &destination, &decided, &cluster).await;
        let now = Instant::now();
        match &opened {
            Ok(()) if is_first => destination.reached(&cluster, now),
            Ok(()) => {}
            Err(error) => destination.not_reached(&cluster, error.clone(), now),
        }
        opened.inspect_err(|error| tracing::debug!(%cluster, %error, "no tunnel"))
    })
}

async fn open_tunnel(
    worker: &Worker,
    destination: &Destination,
    decided: &Decided,
    cluster: &ClusterName,
) -> Result<(), Unreachable> {
    let view = decided
        .view
        .cluster(cluster)
        .ok_or_else(|| Unreachable::NoGateway(cluster.clone()))?;
    let service = decided
        .service()
        .map_err(|refusal| Unreachable::Ended(refusal.detail))?;
    let avoid = destination.tunnelled(cluster, Instant::now());
    let limit = decided.settings.timeout.connect;
    let key = &decided.key;
    let tunnel = worker
        .reach
        .tunnel(view, &service.service, key.port, &key.subset, avoid, limit)
        .await?;
    destination.add_tunnel(cluster, tunnel, &decided.settings, Instant::now());
    Ok(())
}
