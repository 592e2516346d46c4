//! Which cluster a request goes to.
//!
//! The nearest if it is not hot: the caller's own cluster, else the one with the shortest measured
//! round trip. If it is, the quickest of those that are not hot, by what a request is expected to
//! wait there, the way included. If all are hot, the nearest stays the choice, since spilling in panic
//! spreads a fire; unless it does not work: then it is the quickest of those that do. The answer
//! lists every candidate with what was known of it, so deciding and explaining are one call.
//!
//! Chance enters in one place: a cluster that has just returned gets a share that grows over the
//! slow start, one that its operator drains the share that is left to it, and the request's draw says whether this
//! request belongs to it. In every other state the decision does not depend on the draw.
//!
//! A drained cluster works. Where nothing else does, it serves: draining costs no request.

use std::cmp::Ordering;
use std::time::Duration;

use isthmus_model::{ALL_TRAFFIC, ClusterName};

use crate::constants::SHED_BY_CHANCE;
use crate::draw;

/// What facts say about one cluster's part of a (service, port, subset).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterShare {
    pub cluster: ClusterName,
    /// The caller's own cluster.
    pub local: bool,
    /// Workloads that take traffic.
    pub healthy: u32,
    /// All workloads.
    pub total: u32,
    /// Since the cluster said so.
    pub age: Duration,
    /// Measured; `None`: not yet.
    pub rtt: Option<Duration>,
    /// A way to its workloads stands, or it needs none that could be prepared.
    pub connected: bool,
    /// Requests of ours that it may have at a time, by the policy; `None`: no limit but what is learnt.
    pub most: Option<u32>,
    /// What part of the requests that would go there it is to have, in percent, if another can take the rest.
    pub traffic: u8,
    /// Why it must not be used; `None`: it may.
    pub barred: Option<Barred>,
}

/// Why a cluster must not serve a request, whatever its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Barred {
    /// The service is not exported beyond the clusters that run it.
    NotExported,
    /// The policy keeps traffic in the caller's cluster.
    LocalOnly,
}

/// Why a cluster is better left alone for now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hot {
    NoHealthyWorkload,
    /// Its operator wants no requests there. It works.
    Drained,
    /// It failed too often; asked again after `remaining`. Zero: it may be asked, but not by a
    /// request that has failed once already.
    BreakerOpen {
        remaining: Duration,
    },
    /// Another request is finding out whether it is back.
    Probing,
    /// It failed, and no way to it has been found since: no request is spent on finding one.
    Unreached,
    /// Its replies say that its workloads have no capacity left, 0.0 to 1.0.
    Full {
        utilisation: f64,
    },
    /// It holds as many of our requests as the policy allows.
    AtMost {
        limit: u32,
    },
    /// It holds more of our requests than it can work on.
    OverLimit {
        /// Requests that it has not begun to answer.
        waiting: u32,
        limit: u32,
    },
}

/// One cluster as the choice saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Considered {
    pub share: ClusterShare,
    /// 0 is the nearest.
    pub rank: usize,
    /// False: its facts are old and no request of ours succeeded there lately, so that a
    /// remote one ranks behind others.
    pub trusted: bool,
    pub in_flight: u32,
    /// How long a request that goes there now is expected to wait for its reply, the way included.
    pub predicted: Duration,
    pub hot: Option<Hot>,
    /// The request that goes there finds out whether it is back.
    pub probe: bool,
    /// How much of its traffic it takes: below 1.0 during the slow start.
    pub slow_start: f64,
    /// What part of our last requests it turned away, 0.0 to 1.0; 0.0 unless it has done so of late.
    pub shed: f64,
    /// This request has failed there already.
    pub avoided: bool,
}

/// Why the chosen cluster was chosen, or why none was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    Nearest,
    /// No other lawful cluster has a workload.
    OnlyChoice,
    /// The nearest is hot, and this one, the quickest of the rest, is not.
    NearestIsHot(Hot),
    /// The request has failed in the nearest.
    NearestFailed,
    /// The nearest has just returned; it takes this share, and this request is not part of it.
    NearestReturns {
        share: f64,
    },
    /// Its operator wants this share of requests in the nearest, and this one is not part of it.
    NearestDrains {
        share: f64,
    },
    /// The request has failed in every one that is not hot; this is the nearest of them.
    AllFailed,
    /// Every one is hot; this is the nearest (of those with a healthy workload, if any has one), or the
    /// quickest of those that work, if the nearest does not or is drained.
    AllHot,
    /// None chosen: no cluster is known to run it.
    Unknown,
    /// None chosen: those that run it must not be used.
    AllBarred(Barred),
    /// None chosen: every lawful cluster says that it has no workload.
    NoWorkload,
}

/// The answer: what, why, and among what.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    chosen: Option<usize>,
    reason: Reason,
    candidates: Vec<Considered>,
}

impl Reason {
    /// The stable code that `explain` prints and metrics count.
    pub fn code(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::OnlyChoice => "only-choice",
            Self::NearestIsHot(_) => "nearest-is-hot",
            Self::NearestFailed => "nearest-failed",
            Self::NearestReturns { .. } => "nearest-returns",
            Self::NearestDrains { .. } => "nearest-drains",
            Self::AllFailed => "all-failed",
            Self::AllHot => "all-hot",
            Self::Unknown => "unknown",
            Self::AllBarred(barred) => barred.code(),
            Self::NoWorkload => "no-workload",
        }
    }
}

impl Barred {
    /// The stable code, also of the refusal when nothing else is left.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotExported => "not-exported",
            Self::LocalOnly => "local-only",
        }
    }
}

impl Hot {
    /// It works, and has enough to do.
    fn is_busy(self) -> bool {
        matches!(self, Self::Full { .. } | Self::OverLimit { .. })
    }

    /// The stable code that `explain` prints and metrics count.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoHealthyWorkload => "no-healthy-workload",
            Self::Drained => "drained",
            Self::BreakerOpen { .. } => "breaker-open",
            Self::Probing => "probing",
            Self::Unreached => "unreached",
            Self::Full { .. } => "full",
            Self::AtMost { .. } => "at-most",
            Self::OverLimit { .. } => "over-limit",
        }
    }
}

/// One answer that some draws give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Possible<'d> {
    /// `None` only if no lawful cluster has a workload.
    pub chosen: Option<&'d Considered>,
    pub reason: Reason,
    /// How many of all draws give it: above 0.0, in all answers together 1.0.
    pub share: f64,
}

impl Decision {
    /// The choice among all `candidates`, in any order; `draw` is uniformly distributed.
    pub(crate) fn among(mut candidates: Vec<Considered>, draw: u64) -> Self {
        candidates.sort_by(nearer);
        for (rank, candidate) in candidates.iter_mut().enumerate() {
            candidate.rank = rank;
        }
        let (chosen, reason) = match choose(&candidates, draw) {
            Ok((chosen, reason)) => (Some(chosen.rank), reason),
            Err(reason) => (None, reason),
        };
        Self {
            chosen,
            reason,
            candidates,
        }
    }

    /// `None` only if no lawful cluster has a workload.
    pub fn chosen(&self) -> Option<&Considered> {
        self.chosen.map(|index| &self.candidates[index])
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// All that were looked at, nearest first, barred ones too.
    pub fn candidates(&self) -> &[Considered] {
        &self.candidates
    }

    /// When a request might be served again, if every cluster that may serve is left alone for a time that
    /// is known: the soonest.
    pub fn soonest(&self) -> Option<Duration> {
        let running = self.candidates.iter().filter(|candidate| candidate.runs());
        let waits = running.map(|candidate| match candidate.hot {
            Some(Hot::BreakerOpen { remaining }) => remaining,
            _ => Duration::ZERO,
        });
        waits.min().filter(|wait| !wait.is_zero())
    }

    /// What any draw would have made of the same candidates, nearest first: one answer, unless a
    /// cluster is in its slow start or drained in part.
    pub fn possible(&self) -> Vec<Possible<'_>> {
        let mut left = 1.0;
        let mut possible = Vec::new();
        for (candidate, part) in parts(&self.candidates) {
            let share = left * part;
            left -= share;
            if share > 0.0 {
                possible.push(Possible {
                    chosen: Some(candidate),
                    reason: why(candidate, &self.candidates),
                    share,
                });
            }
        }
        if possible.is_empty() {
            // What no draw has chosen, none changes.
            possible.push(Possible {
                chosen: self.chosen(),
                reason: self.reason,
                share: 1.0,
            });
        }
        possible
    }
}

impl Considered {
    /// The stable code of why it is not used, or not for now.
    pub fn why_not(&self) -> Option<&'static str> {
        let barred = self.share.barred.map(Barred::code);
        barred.or(self.hot.map(Hot::code))
    }

    /// Ranks behind others because its facts are old.
    pub fn is_stale(&self) -> bool {
        !self.trusted && !self.share.local
    }

    /// May serve and has something to serve with.
    fn runs(&self) -> bool {
        self.share.barred.is_none() && self.share.total > 0
    }

    /// It has as many of our requests as it may: not even as a last resort does it get more.
    pub fn is_at_most(&self) -> bool {
        self.share.most.is_some_and(|most| self.in_flight >= most)
    }

    /// Nothing says that it fails, or must have no more; it may have enough to do.
    pub fn takes_more(&self) -> bool {
        self.hot.is_none_or(Hot::is_busy)
    }

    fn is_drained(&self) -> bool {
        self.hot == Some(Hot::Drained)
    }

    /// Nothing says that it fails: what its operator wants aside, it may have the request.
    pub(crate) fn works(&self) -> bool {
        self.takes_more() || self.is_drained()
    }

    /// How much of the requests that reach it in turn it takes, 0.0 to 1.0.
    fn part(&self) -> f64 {
        self.slow_start * f64::from(self.share.traffic) / f64::from(ALL_TRAFFIC)
    }

    fn usable(&self) -> bool {
        self.hot.is_none() && !self.avoided
    }

    /// It works, and has turned hardly anybody away of late. It may be so busy that who is served
    /// elsewhere had better leave it alone.
    pub fn has_room(&self) -> bool {
        self.takes_more() && self.shed <= SHED_BY_CHANCE && !self.avoided
    }
}

/// The caller's own cluster first, whatever the age of its facts: losing a control plane must not
/// move traffic. Then trusted ones, by round-trip time (unknown last), by name.
fn nearer(a: &Considered, b: &Considered) -> Ordering {
    let key = |c: &Considered| {
        let rtt = c.share.rtt.unwrap_or(Duration::MAX);
        (!c.share.local, !c.trusted, rtt)
    };
    let by_distance = key(a).cmp(&key(b));
    by_distance.then_with(|| a.share.cluster.cmp(&b.share.cluster))
}

/// `candidates` are sorted, nearest first. Errors: why there is none.
fn choose(candidates: &[Considered], draw: u64) -> Result<(&Considered, Reason), Reason> {
    let mut running = candidates.iter().filter(|c| c.runs());
    let nearest = running.next().ok_or_else(|| why_none(candidates))?;
    if running.next().is_none() {
        return Ok((nearest, Reason::OnlyChoice));
    }
    let takes = |candidate: &Considered, part: f64| {
        let salt = draw::salt(candidate.share.cluster.as_str());
        draw::unit(draw::mix(draw, salt)) < part
    };
    let drawn = parts(candidates).find(|(candidate, part)| takes(candidate, *part));
    Ok(match drawn {
        Some((chosen, _)) => (chosen, why(chosen, candidates)),
        None => last_resort(candidates, nearest),
    })
}

/// Each usable one, with the part that it takes of the requests which pass by those before it. It is
/// measured against the one that takes the most (1.0 for one that was never away, and that nobody drains): so its
/// part only grows while it returns, and when all have just returned the first takes everything.
fn parts(candidates: &[Considered]) -> impl Iterator<Item = (&Considered, f64)> {
    let usable = in_order(candidates);
    let most = usable.iter().map(|c| c.part()).fold(0.0, f64::max);
    let part = move |candidate: &Considered| candidate.part() / most;
    usable
        .into_iter()
        .map(move |candidate| (candidate, part(candidate)))
}

/// The usable ones: the nearest, and as soon as a request has to leave it, the quickest of the rest.
fn in_order(candidates: &[Considered]) -> Vec<&Considered> {
    let nearest = candidates.iter().find(|c| c.runs()).map(|c| c.rank);
    let mut usable: Vec<&Considered> = candidates
        .iter()
        .filter(|c| c.runs() && c.usable())
        .collect();
    usable.sort_by_key(|c| (Some(c.rank) != nearest, !c.trusted, c.predicted, c.rank));
    usable
}

/// Why a usable one was chosen.
fn why(chosen: &Considered, candidates: &[Considered]) -> Reason {
    let mut running = candidates.iter().filter(|c| c.runs());
    let nearest = running.next().unwrap_or(chosen);
    if running.next().is_none() {
        Reason::OnlyChoice
    } else if chosen.rank == nearest.rank {
        Reason::Nearest
    } else if nearest.avoided {
        Reason::NearestFailed
    } else if let Some(hot) = nearest.hot {
        Reason::NearestIsHot(hot)
    } else if nearest.share.traffic < ALL_TRAFFIC {
        Reason::NearestDrains {
            share: nearest.part(),
        }
    } else {
        Reason::NearestReturns {
            share: nearest.slow_start,
        }
    }
}

/// None is usable. One that is only busy may still take a request that nobody else has taken, or whose
/// nearest cluster does not work, and if there is none, one that is drained; and better one that is not hot, or at least works, even if the request
/// has failed there, than any other.
fn last_resort<'c>(
    candidates: &'c [Considered],
    nearest: &'c Considered,
) -> (&'c Considered, Reason) {
    let running = || candidates.iter().filter(|c| c.runs());
    let busy = || running().filter(|c| c.hot.is_some_and(Hot::is_busy));
    let untried = busy().filter(|c| !c.avoided);
    if candidates.iter().any(|c| c.avoided) || !nearest.takes_more() {
        let drained = running().filter(|c| c.is_drained() && !c.avoided && !c.is_at_most());
        let quickest = untried.min_by_key(|c| (c.predicted, c.rank));
        if let Some(chosen) = quickest.or_else(|| drained.min_by_key(|c| (c.predicted, c.rank))) {
            return (chosen, Reason::AllHot);
        }
    }
    if let Some(failed) = running().find(|c| c.hot.is_none()) {
        return (failed, Reason::AllFailed);
    }
    if !nearest.takes_more()
        && let Some(failed) = busy().min_by_key(|c| (c.predicted, c.rank))
    {
        return (failed, Reason::AllHot);
    }
    // Who says that nothing serves there is no better for not having been asked.
    let worth = |c: &&Considered| (c.is_at_most(), c.share.healthy == 0, c.avoided, c.rank);
    (
        running().min_by_key(worth).unwrap_or(nearest),
        Reason::AllHot,
    )
}

fn why_none(candidates: &[Considered]) -> Reason {
    let lawful = candidates.iter().any(|c| c.share.barred.is_none());
    let barred_workload = || {
        candidates
            .iter()
            .filter(|c| c.share.total > 0)
            .find_map(|c| c.share.barred)
    };
    match barred_workload() {
        Some(barred) => Reason::AllBarred(barred),
        None if lawful => Reason::NoWorkload,
        None => match candidates.iter().find_map(|c| c.share.barred) {
            Some(barred) => Reason::AllBarred(barred),
            None => Reason::Unknown,
        },
    }
}

#[cfg(test)]
mod tests;
