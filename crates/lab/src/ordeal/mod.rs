//! Config that many write at once, through all clusters, while control planes are killed and hang and links
//! break: what was accepted is there, once, and everybody is told of it in order.
//!
//! Writers add one to tallies that they share, each write on condition of what was read; watchers follow through every
//! cluster. At the end the history, which has to be the same everywhere, is the measure of what everybody was answered
//! and told. What goes wrong follows from a seed; when it meets which write does not.

mod faults;
mod judge;
mod watcher;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::api::Api;
use crate::mesh::{Mesh, PATIENCE};
use crate::traffic::Chance;
use crate::trouble::{During, Result, Trouble, ensure, wait_for};

use judge::{Change, State, judge_history, judge_watch, judge_writes};
use watcher::{Told, Watcher};
use writer::{Common, Writer, Written, collection, count, id_of, position};

pub use faults::Fault;

/// What is to be gone through.
#[derive(Debug, Clone, Copy)]
pub struct Ordeal {
    pub seed: u64,
    /// All kinds of fault before any comes again.
    pub faults: usize,
    /// None of them lasts longer.
    pub longest: Duration,
    /// Writes that are tried, at least.
    pub writes: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Writes that were sent, and those that were answered with 2xx.
    pub tried: usize,
    pub accepted: usize,
    /// Those of which nobody knows at first, and those that were refused.
    pub unknown: usize,
    pub refused: usize,
    pub changes: usize,
    /// Writes that were read back and did not show yet.
    pub late: usize,
    /// Events that watchers were told, and how often one had to begin anew.
    pub events: usize,
    pub relisted: usize,
    /// From the end of each fault until a write was accepted, and from the last until all clusters had the same.
    pub recovered: Vec<Duration>,
    pub converged: Duration,
    pub violations: Vec<String>,
}

const NAMESPACE: &str = "ordeal";
const ID: &str = "ordeal/id";
const COUNT: &str = "ordeal/count";
const WRITERS: usize = 10;
/// Few, so that writers meet.
const TALLIES: u64 = 12;
/// Between two tries with a cluster that does not answer.
const WAIT: Duration = Duration::from_millis(50);
/// Between two faults, in which everything works.
const PEACE: Duration = Duration::from_secs(1);
/// What was sent and not answered is decided by then.
const LATE: Duration = Duration::from_secs(2);
/// A page of the history.
const PAGE: usize = 500;

impl Ordeal {
    /// Puts a mesh through it that is whole, and whose `clusters` accept config together. `told` hears of each
    /// fault before it comes.
    ///
    /// Errors: what makes it impossible to say. What is wrong is in the outcome.
    pub fn run(
        &self,
        mesh: &Mesh,
        clusters: &[&str],
        mut told: impl FnMut(&Fault),
    ) -> Result<Outcome> {
        let runtime = runtime()?;
        runtime.block_on(found(&mut Api::of(mesh, clusters[0])?))?;
        let common = Arc::new(Common::default());
        let mut chance = Chance::new(self.seed);
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let cluster = clusters[number % clusters.len()];
            writers.push(Writer {
                number,
                api: Api::of(mesh, cluster)?,
                chance: Chance::new(chance.between(0, u64::MAX)),
                objects: TALLIES,
                common: common.clone(),
            });
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut watchers = Vec::new();
        for cluster in clusters {
            let over = over.clone();
            let api = Api::of(mesh, cluster)?;
            watchers.push(((*cluster).to_owned(), Watcher { api, over }));
        }
        let clients = spawn(move || clients(writers, watchers));
        let mut outcome = Outcome::default();
        // Whatever happens, those who write and watch end.
        let disturbed = self.disturb(
            mesh,
            clusters,
            &mut chance,
            &common,
            &mut outcome,
            &mut told,
        );
        common.over.store(true, Ordering::Relaxed);
        let ended = wait_for("the writers to end", PATIENCE, || {
            let ended = common.ended.load(Ordering::Relaxed);
            ensure(ended == WRITERS, || format!("{ended} have"))
        });
        let disturbed = disturbed.and(ended);
        let begun = Instant::now();
        let settled = disturbed.and_then(|()| settle(&runtime, mesh, clusters));
        outcome.converged = settled
            .as_ref()
            .map_or_else(|_| begun.elapsed(), |one| one.after);
        over.store(true, Ordering::Relaxed);
        let seen = clients
            .join()
            .map_err(|_| Trouble("a client panicked".to_owned()))?;
        let (written, watched) = seen?;
        let Settled { changes, state, .. } = settled?;
        outcome.late = written.late;
        let violations = &mut outcome.violations;
        if judge_history(&changes, violations) != state {
            violations.push(format!("the history does not lead to {state:?}"));
        }
        judge_writes(&changes, &written.writes, violations);
        for (cluster, seen) in &watched {
            outcome.events += judge_watch(cluster, &changes, seen, violations);
            let lists = seen.iter().filter(|one| matches!(one, Told::Listed(..)));
            outcome.relisted += lists.count().saturating_sub(1);
        }
        outcome.changes = changes.len();
        outcome.tried = written.writes.len();
        for write in &written.writes {
            match write.outcome {
                writer::Outcome::Accepted(_) => outcome.accepted += 1,
                writer::Outcome::Refused(_) => outcome.refused += 1,
                writer::Outcome::Unknown => outcome.unknown += 1,
            }
        }
        Ok(outcome)
    }

    fn disturb(
        &self,
        mesh: &Mesh,
        clusters: &[&str],
        chance: &mut Chance,
        common: &Common,
        outcome: &mut Outcome,
        told: &mut impl FnMut(&Fault),
    ) -> Result<()> {
        let accepted = || common.accepted.load(Ordering::Relaxed);
        wait_for("a first write to be accepted", PATIENCE, || {
            ensure(accepted() > 0, || "none was".to_owned())
        })?;
        for fault in faults::draw(chance, clusters, self.faults, self.longest) {
            told(&fault);
            fault.inflict(mesh, clusters).during(|| fault.to_string())?;
            let (begun, before) = (Instant::now(), accepted());
            let again = wait_for("a write to be accepted again", PATIENCE, || {
                ensure(accepted() > before, || "none was".to_owned())
            });
            again.during(|| fault.to_string())?;
            outcome.recovered.push(begun.elapsed());
            sleep(PEACE);
        }
        let mut before = 0;
        while common.tried.load(Ordering::Relaxed) < self.writes {
            let now = accepted();
            ensure(now > before, || "writes are accepted no more".to_owned())?;
            before = now;
            sleep(PATIENCE / 2);
        }
        Ok(())
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .build()
        .during(|| "a runtime".to_owned())
}

/// What the watcher of each cluster was told.
type Watched = Vec<(String, Vec<Told>)>;

/// What all of them have seen, by the time that they are told to end.
fn clients(writers: Vec<Writer>, watchers: Vec<(String, Watcher)>) -> Result<(Written, Watched)> {
    runtime()?.block_on(async {
        let writers: Vec<_> = writers
            .into_iter()
            .map(|one| tokio::spawn(one.go_on()))
            .collect();
        let watchers: Vec<_> = watchers
            .into_iter()
            .map(|(cluster, one)| (cluster, tokio::spawn(one.go_on())))
            .collect();
        let mut written = Written::default();
        for writer in writers {
            let one = writer.await.during(|| "a writer".to_owned())?;
            written.writes.extend(one.writes);
            written.late += one.late;
        }
        let mut watched = Vec::new();
        for (cluster, watcher) in watchers {
            watched.push((cluster, watcher.await.during(|| "a watcher".to_owned())?));
        }
        Ok((written, watched))
    })
}

/// The namespace that tallies live in.
async fn found(api: &mut Api) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let made = api.ask("POST", "/api/v1/namespaces", Some(&object)).await;
    match made {
        Ok((201 | 409, _)) => Ok(()),
        other => Err(Trouble(format!("the namespace {NAMESPACE}: {other:?}"))),
    }
}

/// What all clusters have in common at last.
struct Settled {
    changes: Vec<Change>,
    state: State,
    /// So long it took.
    after: Duration,
}

/// Waits until all clusters have the same, and nothing comes after that.
fn settle(runtime: &Runtime, mesh: &Mesh, clusters: &[&str]) -> Result<Settled> {
    let begun = Instant::now();
    let ask = |cluster: &str| {
        let mut api = Api::of(mesh, cluster)?;
        let asked = runtime.block_on(api.ask("GET", &collection(), None));
        let (_, list) = asked.map_err(|broken| Trouble(format!("{cluster}: {broken:?}")))?;
        let items = list["items"].as_array().into_iter().flatten();
        let items = items.map(|item| (text(&item["metadata"]["name"]), tally(item)));
        Ok::<_, Trouble>((position(&list), items.collect::<Vec<_>>()))
    };
    let same = || {
        wait_for("all clusters to have the same", PATIENCE, || {
            let lists: Vec<_> = clusters.iter().map(|one| ask(one)).collect::<Result<_>>()?;
            ensure(lists.windows(2).all(|pair| pair[0] == pair[1]), || {
                format!("they have {lists:?}")
            })?;
            lists
                .into_iter()
                .next()
                .ok_or_else(|| Trouble("no clusters".to_owned()))
        })
    };
    let mut list = same()?;
    let after = begun.elapsed();
    // What nobody knew the end of may come yet.
    loop {
        sleep(LATE);
        let again = same()?;
        if std::mem::replace(&mut list, again) == list {
            break;
        }
    }
    let mut all: BTreeMap<u64, Change> = BTreeMap::new();
    for cluster in clusters {
        for change in runtime.block_on(history(&mut Api::of(mesh, cluster)?))? {
            let known = all.entry(change.position).or_insert_with(|| change.clone());
            ensure(*known == change, || {
                format!("{cluster} has {change:?}, another one {known:?}")
            })?;
        }
    }
    let (_, items) = list;
    let state = items
        .into_iter()
        .filter_map(|(name, tally)| Some((name, tally?)));
    Ok(Settled {
        state: state.collect(),
        changes: all.into_values().collect(),
        after,
    })
}

/// All changes of tallies that a cluster knows, oldest first.
async fn history(api: &mut Api) -> Result<Vec<Change>> {
    let (mut changes, mut before) = (Vec::new(), None);
    loop {
        let mut path = format!("/mesh/v1/history?kind=Service&namespace={NAMESPACE}&limit={PAGE}");
        if let Some(before) = before {
            path = format!("{path}&before={before}");
        }
        let (code, view) = api
            .ask("GET", &path, None)
            .await
            .map_err(|broken| Trouble(format!("the history: {broken:?}")))?;
        ensure(code == 200, || format!("the history: {code} {view}"))?;
        let page = view["changes"].as_array().into_iter().flatten();
        changes.extend(page.map(|change| Change {
            position: change["position"].as_u64().unwrap_or_default(),
            name: text(&change["name"]),
            before: tally(&change["before"]),
            after: tally(&change["after"]),
        }));
        before = view["next"].as_u64();
        if before.is_none() {
            changes.reverse();
            return Ok(changes);
        }
    }
}

fn tally(object: &Value) -> Option<(String, u64)> {
    Some((id_of(object)?.to_owned(), count(object)))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
