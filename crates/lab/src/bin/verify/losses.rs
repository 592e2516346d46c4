//! Runs under load in which each serving cluster is killed, black-holed and returns, in turn.
//!
//! No GET may fail. Nothing is shown by the loss of a cluster that served nobody: each has to have
//! served in the five seconds before. A service goes to the nearest cluster that runs it, so the
//! further ones are lost while the nearer ones are away, or are just getting back their share.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{Result, ensure, wait_for};

use super::load::{Load, Loaded, executed};
use super::{Arguments, CLUSTERS, Point, on_quiet_mesh, whole};

/// GETs a second.
const RATE: u32 = 200;
/// POSTs a second, beside them.
const POST_RATE: u32 = 20;
/// A cluster has to have served so lately.
const BEFORE: Duration = Duration::from_secs(5);
/// How long each state is held.
const HOLD: Duration = Duration::from_secs(6);
/// After its return a cluster has a share by then, and not yet all (its slow start takes 10 s).
const RETURNING: Duration = Duration::from_secs(4);
/// By then a cluster that returned has its whole share.
const RETURNED: Duration = Duration::from_secs(14);
/// The growing share is counted in steps of this length.
const STEP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill(&'static str),
    Start(&'static str),
    /// All links of the cluster.
    BlackHole(&'static str),
    Restore(&'static str),
    Wait(Duration),
}

use Act::{BlackHole, Kill, Restore, Start, Wait};

const WEST: &str = CLUSTERS[0];
const CENTRAL: &str = CLUSTERS[1];
const SOUTH: &str = CLUSTERS[2];

/// Of a service that runs in eu-central and ap-south. The last return is the one whose growth is
/// looked at: nothing else happens during it.
const TWO: [Act; 20] = [
    Wait(HOLD),
    Kill(CENTRAL),
    Wait(HOLD),
    Start(CENTRAL),
    Wait(RETURNING),
    Kill(SOUTH),
    Wait(HOLD),
    Start(SOUTH),
    Wait(HOLD),
    BlackHole(CENTRAL),
    Wait(HOLD),
    Restore(CENTRAL),
    Wait(RETURNING),
    BlackHole(SOUTH),
    Wait(HOLD),
    Restore(SOUTH),
    Wait(HOLD),
    Kill(CENTRAL),
    Wait(HOLD),
    Start(CENTRAL),
];

/// Of a service that runs everywhere. A black hole around the caller's own cluster, which is also
/// the authority's, takes nothing from it; the others are lost while it is away.
const THREE: [Act; 27] = [
    Wait(HOLD),
    Kill(WEST),
    Wait(HOLD),
    Kill(CENTRAL),
    Wait(HOLD),
    Start(WEST),
    Wait(RETURNING),
    Kill(SOUTH),
    Wait(HOLD),
    Start(CENTRAL),
    Start(SOUTH),
    Wait(HOLD),
    BlackHole(WEST),
    Wait(HOLD),
    Restore(WEST),
    Wait(HOLD),
    Kill(WEST),
    Wait(HOLD),
    BlackHole(CENTRAL),
    Wait(HOLD),
    Start(WEST),
    Wait(RETURNING),
    BlackHole(SOUTH),
    Wait(HOLD),
    Restore(CENTRAL),
    Restore(SOUTH),
    Wait(HOLD),
];

pub(crate) fn catalog(arguments: &Arguments) -> Result<Vec<Point>> {
    rounds(arguments, "catalog", &TWO, Some(CENTRAL))
}

pub(crate) fn payment(arguments: &Arguments) -> Result<Vec<Point>> {
    rounds(arguments, "payment", &THREE, None)
}

fn rounds(
    arguments: &Arguments,
    service: &str,
    acts: &[Act],
    grows: Option<&str>,
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for round in 1..=arguments.rounds {
        let of_round = on_quiet_mesh(|mesh| run(mesh, service, acts, grows))?;
        points.extend(of_round.into_iter().map(|point| Point {
            what: format!("run {round}: {}", point.what),
            ..point
        }));
    }
    Ok(points)
}

fn run(mesh: &Mesh, service: &str, acts: &[Act], grows: Option<&str>) -> Result<Vec<Point>> {
    whole(mesh)?;
    let gets = Load::start(mesh, service, "GET", RATE)?;
    let posts = Load::start(mesh, service, "POST", POST_RATE)?;
    let mut lost = Vec::new();
    for act in acts {
        if let Kill(cluster) | BlackHole(cluster) = act {
            lost.push((*act, *cluster, SystemTime::now()));
        }
        perform(mesh, *act)?;
    }
    let returned = SystemTime::now();
    sleep(RETURNED);
    let (gets, posts) = (gets.finish()?, posts.finish()?);
    whole(mesh)?;

    let failures = gets.failures();
    for failure in failures.iter().take(10) {
        eprintln!("{failure}");
    }
    let mut points = vec![Point::none(
        format!("GETs to shop/{service} that failed"),
        failures.len(),
        gets.requests.len(),
    )];
    points.push(all_served(&gets, &lost));
    points.extend(post_points(mesh, service, &posts)?);
    points.extend(grows.map(|cluster| growth(&gets, cluster, returned)));
    Ok(points)
}

fn perform(mesh: &Mesh, act: Act) -> Result<()> {
    let link = |verb: &str, cluster: &str| -> Result<()> {
        for other in CLUSTERS.iter().filter(|other| **other != cluster) {
            mesh.isthmus(&["link", verb, cluster, other])?.expect(0)?;
        }
        Ok(())
    };
    match act {
        Kill(cluster) => mesh
            .isthmus(&["cluster", "kill", cluster])?
            .expect(0)
            .map(drop),
        Start(cluster) => {
            mesh.isthmus(&["cluster", "start", cluster])?.expect(0)?;
            heard_of(mesh, cluster)
        }
        BlackHole(cluster) => link("blackhole", cluster),
        Restore(cluster) => {
            link("restore", cluster)?;
            heard_of(mesh, cluster)
        }
        Wait(time) => {
            sleep(time);
            Ok(())
        }
    }
}

/// Waits until the caller's cluster knows all of `cluster` to be healthy again.
fn heard_of(mesh: &Mesh, cluster: &str) -> Result<()> {
    wait_for("a cluster to have returned", PATIENCE, || {
        let status = mesh.json(&["--cluster", WEST, "status"])?;
        let named = |field: &'static str| {
            let list = status[field].as_array().into_iter().flatten();
            list.filter(move |each| each["name"] == cluster)
        };
        let contact = named("clusters").any(|it| it["contact"] == "own" || it["contact"] == "live");
        let services = status["services"].as_array().into_iter().flatten();
        let shares =
            services.flat_map(|service| service["clusters"].as_array().into_iter().flatten());
        let mut own = shares.filter(|share| share["cluster"] == cluster);
        let healthy = own.all(|share| share["healthy"] == share["total"]);
        ensure(contact && healthy, || format!("{cluster} in {status}"))
    })
}

/// Each cluster that was lost had served shortly before.
fn all_served(gets: &Loaded, lost: &[(Act, &str, SystemTime)]) -> Point {
    let mut idle = 0;
    let mut counts = Vec::new();
    for (act, cluster, at) in lost {
        let served = gets.served(*at - BEFORE, BEFORE);
        let count = served.get(cluster).copied().unwrap_or(0);
        idle += usize::from(count == 0);
        let how = if matches!(act, Kill(_)) {
            "killed"
        } else {
            "black-holed"
        };
        counts.push(format!("{cluster} {count} ({how})"));
    }
    Point {
        held: idle == 0,
        what: format!(
            "requests served in the {} s before each loss",
            BEFORE.as_secs()
        ),
        measured: counts.join(", "),
        bound: "some each".to_owned(),
    }
}

/// None is executed twice; what failed and was executed is told as `maybe-executed`.
fn post_points(mesh: &Mesh, service: &str, posts: &Loaded) -> Result<Vec<Point>> {
    let executed = executed(mesh, &CLUSTERS, service)?;
    let times = |id: &str| executed.get(id).copied().unwrap_or(0);
    let of = posts.requests.len();
    let twice = posts.requests.iter().filter(|post| times(&post.id) > 1);
    let wrong = posts
        .requests
        .iter()
        .filter(|post| match post.failed.as_deref() {
            None => times(&post.id) != 1,
            Some("maybe-executed") => false,
            Some(_) => times(&post.id) != 0,
        });
    let (twice, wrong): (Vec<_>, Vec<_>) = (twice.collect(), wrong.collect());
    for post in twice.iter().chain(&wrong).take(10) {
        eprintln!("executed {} times: {post:?}", times(&post.id));
    }
    Ok(vec![
        Point::none("POSTs that were executed twice", twice.len(), of),
        Point::none("POSTs whose fate was told wrongly", wrong.len(), of),
    ])
}

/// The share of `cluster` after its return only grows, as far as counting can tell.
fn growth(gets: &Loaded, cluster: &str, returned: SystemTime) -> Point {
    let steps = u32::try_from(RETURNED.as_secs() / STEP.as_secs()).unwrap_or(1);
    let mut shares: Vec<f64> = Vec::new();
    let mut grows = true;
    for step in 0..steps {
        let served = gets.served(returned + STEP * step, STEP);
        let all: usize = served.values().sum();
        let own = served.get(cluster).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        let (share, all) = (own as f64 / all.max(1) as f64, all.max(1) as f64);
        if let Some(before) = shares.last() {
            // Three standard deviations of a count of draws.
            let noise = 3.0 * (before * (1.0 - before) / all).sqrt();
            grows &= share >= before - noise;
        }
        shares.push(share);
    }
    let ends_whole = shares.last().is_some_and(|share| *share > 0.99);
    let begins_small = shares.first().is_some_and(|share| *share < 0.5);
    let percent: Vec<String> = shares
        .iter()
        .map(|share| format!("{:.0}", 100.0 * share))
        .collect();
    Point {
        held: grows && ends_whole && begins_small,
        what: format!(
            "share of {cluster} after its return, every {} s",
            STEP.as_secs()
        ),
        measured: format!("{} %", percent.join(" ")),
        bound: "grows to all".to_owned(),
    }
}
