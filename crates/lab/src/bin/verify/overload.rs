//! A service in one cluster only, of a known capacity: nobody can help it. What is served while there is
//! more load than it can serve, what is not, and what of that is left when the load has gone; and a
//! workload among four that is grey.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_lab::mesh::Mesh;
use isthmus_lab::open_loop::{Call, Running};
use isthmus_lab::processes::Process;
use isthmus_lab::series::Counts;
use isthmus_lab::trouble::Result;

use super::emulated::{Emulated, WORKLOAD_RATE, on_emulated, order, show};
use super::load::executed;
use super::{Arguments, CLUSTERS, Point};

/// Of `crates/lab/meshes`.
const MESH: &str = "overload";
const HOME: &str = CLUSTERS[0];
const CALLERS: [(&str, &str); 2] = [(HOME, "caller-1"), (CLUSTERS[1], "caller-1")];
/// How many of its four workloads are used where the load is far more than they can serve.
const FEW: usize = 2;
const FEW_RATE: f64 = 2.0 * WORKLOAD_RATE;
const ALL: usize = 4;
/// With work of 20 ms, they can serve a thousand per second, and errors of a few percent are many
/// enough in two seconds to be told from chance.
const QUICK: &str = "service=20";
const GREY_RATE: f64 = 300.0;
const STEP: Duration = Duration::from_secs(2);
/// Before and after the trouble, of the capacity.
const CALM: f64 = 0.7;
/// Of what is sent, after the trouble; and by when.
const SERVED: f64 = 0.95;
const RECOVERED: Duration = Duration::from_secs(10);
/// Of the capacity, during the trouble.
const GOODPUT: f64 = 0.9;
/// Tries for each request, and the time over which a proxy counts them.
const BUDGETED: Duration = Duration::from_secs(10);
const TRIES: f64 = 1.2;
/// One in so many is of high priority.
const HIGH: usize = 10;
/// More memory of a proxy.
const MEMORY: u64 = 16 << 20;
/// By when a grey workload harms nobody any more.
const NOTICED: Duration = Duration::from_secs(3);
/// What is left of its errors, as a share of all requests: it makes 1.25 % of them fail at first.
const ERRORS: f64 = 0.003;
/// How much slower the slowest hundredth may be than in calm times.
const SLOWER: f64 = 1.5;

/// More than can be served: how much more, and for how many seconds.
struct Overload {
    name: &'static str,
    factor: f64,
    seconds: u64,
}

const OVERLOADS: [Overload; 2] = [
    Overload {
        name: "2x",
        factor: 2.0,
        seconds: 10,
    },
    Overload {
        name: "5x",
        factor: 5.0,
        seconds: 120,
    },
];
const BEFORE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(14);
/// A learnt limit is the right one by then.
const SETTLES: Duration = Duration::from_secs(2);

pub(crate) fn overload(arguments: &Arguments) -> Result<Vec<Point>> {
    let few = format!("copies: {FEW}");
    let mut points = on_emulated(MESH, &[("copies: 4", &few)], &CALLERS, |mesh| {
        let mut points = Vec::new();
        for overload in &OVERLOADS {
            points.extend(endure(arguments, mesh, overload)?);
        }
        Ok(points)
    })?;
    points.extend(on_emulated(MESH, &[], &CALLERS, |mesh| {
        grey(arguments, mesh)
    })?);
    Ok(points)
}

fn endure(arguments: &Arguments, mesh: &Mesh, overload: &Overload) -> Result<Vec<Point>> {
    let Overload {
        name,
        factor,
        seconds,
    } = *overload;
    let trouble = Duration::from_secs(seconds);
    let phases = vec![
        (BEFORE, CALM * FEW_RATE),
        (trouble, factor * FEW_RATE),
        (AFTER, CALM * FEW_RATE),
    ];
    let proxies = (1..=FEW).map(|number| mesh.process(HOME, &format!("work-{number}")));
    let proxies: Vec<Process> = proxies.collect::<Result<_>>()?;
    let mut order = order(arguments, mesh, name, &CALLERS, phases)?;
    order.high = Some(HIGH);
    let load = order.start()?;
    load.sleep_until(BEFORE);
    let before = resident(&proxies)?;
    let most = most_resident(&load, &proxies, BEFORE + trouble)?;
    let calls = load.finish()?;
    show(arguments, name, &calls);
    let programs = Emulated::of(mesh, HOME, FEW)?;
    eprintln!(
        "{name}: {:?}; at most {} waited in a program",
        Counts::of(&calls).failed,
        programs.most_waiting()?
    );
    let mut points = overload_points(overload, &calls);
    points.push(Point {
        held: most.saturating_sub(before) <= MEMORY,
        what: format!("{name}: memory of a callee's proxy"),
        measured: format!("{} KiB more", most.saturating_sub(before) >> 10),
        bound: format!("at most {} KiB more", MEMORY >> 10),
    });
    points.push(in_vain(mesh, name, &calls)?);
    Ok(points)
}

/// Of the largest.
fn resident(proxies: &[Process]) -> Result<u64> {
    proxies
        .iter()
        .try_fold(0, |most, proxy| Ok(most.max(proxy.resident()?)))
}

fn most_resident(load: &Running, proxies: &[Process], until: Duration) -> Result<u64> {
    const LOOK: Duration = Duration::from_millis(500);
    let mut most = 0;
    let mut at = load.began.elapsed();
    while at < until {
        most = most.max(resident(proxies)?);
        at += LOOK;
        load.sleep_until(at);
    }
    Ok(most)
}

fn overload_points(overload: &Overload, calls: &[Call]) -> Vec<Point> {
    let Overload { name, factor, .. } = *overload;
    let trouble = (BEFORE, BEFORE + Duration::from_secs(overload.seconds));
    let settled = Counts::within(calls, trouble.0 + SETTLES, trouble.1);
    let goodput = rate(
        settled.ok,
        Duration::from_secs(overload.seconds).saturating_sub(SETTLES),
    );
    let high: Vec<&Call> = calls.iter().filter(|call| call.high).collect();
    let high_lost = high.iter().filter(|call| !call.is_ok()).count();
    let replies = || calls.iter().filter_map(|call| call.reply.as_ref().ok());
    let busy = replies().filter(|reply| reply.status == 503).count();
    let silent = replies().filter(|reply| reply.status == 503 && !reply.has_retry_after);
    let odd = calls.iter().filter(|call| {
        call.failure()
            .is_some_and(|failure| failure != "overloaded")
    });
    let calm = Counts::within(calls, Duration::ZERO, BEFORE);
    vec![
        Point::none(
            format!("{name}: requests that failed before"),
            calm.failures(),
            calm.sent,
        ),
        Point {
            held: goodput >= GOODPUT * FEW_RATE,
            what: format!("{name}: served during it"),
            measured: format!("{goodput:.0}/s"),
            bound: format!("at least {:.0}/s of {FEW_RATE:.0}/s", GOODPUT * FEW_RATE),
        },
        recovery(name, calls, trouble.1),
        tries(name, calls, BUDGETED),
        tries(name, calls, STEP),
        Point::none(
            format!("{name}: of high priority that failed"),
            high_lost,
            high.len(),
        ),
        Point::none(
            format!("{name}: 503 without Retry-After"),
            silent.count(),
            busy,
        ),
        Point::none(
            format!(
                "{name}: failed otherwise than by being turned away ({factor} of the capacity)"
            ),
            odd.count(),
            calls.len(),
        ),
    ]
}

/// From when on nearly all is served again.
fn recovery(name: &str, calls: &[Call], from: Duration) -> Point {
    let steps = || {
        (0u32..)
            .map(|step| from + STEP * step)
            .take_while(|at| *at + STEP <= from + AFTER)
    };
    let short = |at: &Duration| {
        let counts = Counts::within(calls, *at, *at + STEP);
        part(counts.ok, counts.sent) < SERVED
    };
    let last = steps().filter(short).last();
    let time = last.map_or(Duration::ZERO, |at| (at + STEP).saturating_sub(from));
    Point::at_most(
        format!("{name}: until {:.0} % are served again", 100.0 * SERVED),
        time,
        RECOVERED,
    )
}

/// Tries for each request, as its caller's proxy made them: the most of any such time.
fn tries(name: &str, calls: &[Call], any: Duration) -> Point {
    let end = calls.last().map_or(Duration::ZERO, |call| call.due);
    let mut most = 0.0_f64;
    let mut at = Duration::ZERO;
    while at + any <= end {
        let due = calls
            .iter()
            .filter(|call| (at..at + any).contains(&call.due));
        let tries = due.clone().map(attempts).sum();
        most = most.max(part(tries, due.count()));
        at += STEP;
    }
    Point {
        held: most > 0.0 && most <= TRIES,
        what: format!(
            "{name}: tries for each request, the most of any {} s",
            any.as_secs()
        ),
        measured: format!("{most:.2}"),
        bound: format!("at most {TRIES}"),
    }
}

fn attempts(call: &Call) -> usize {
    call.reply.as_ref().map_or(1, |reply| reply.attempts)
}

/// Work that was done and of which nobody had anything.
fn in_vain(mesh: &Mesh, name: &str, calls: &[Call]) -> Result<Point> {
    let executed = executed(mesh, &[HOME], "work")?;
    let times = |call: &Call| executed.get(&call.id).copied().unwrap_or(0);
    let all: usize = calls.iter().map(times).sum();
    let served = calls.iter().filter(|call| call.is_ok()).count();
    let vain = all.saturating_sub(served);
    Ok(Point {
        held: part(vain, all) <= 1.0 - SERVED,
        what: format!("{name}: executed in vain or twice"),
        measured: format!("{vain} of {all}"),
        bound: format!("at most {:.0} %", 100.0 * (1.0 - SERVED)),
    })
}

/// One of four workloads is slow, is well again, and then fails now and then.
fn grey(arguments: &Arguments, mesh: &Mesh) -> Result<Vec<Point>> {
    const CALM_FOR: Duration = Duration::from_secs(10);
    const GREY_FOR: Duration = Duration::from_secs(15);
    let programs = Emulated::of(mesh, HOME, ALL)?;
    programs.change(QUICK)?;
    let mut points = Vec::new();
    for (name, grey) in [("500 ms slower", "extra=500"), ("5 % errors", "fail=5")] {
        let phases = vec![(CALM_FOR + GREY_FOR, GREY_RATE)];
        let load = order(arguments, mesh, &grey.replace('=', "-"), &CALLERS, phases)?.start()?;
        load.sleep_until(CALM_FOR);
        programs.change_one(1, grey)?;
        let calls = load.finish()?;
        programs.change_one(1, "extra=0&fail=0")?;
        show(arguments, name, &calls);
        let calm = Counts::within(&calls, NOTICED, CALM_FOR);
        let first = Counts::within(&calls, CALM_FOR, CALM_FOR + NOTICED);
        let from = CALM_FOR + NOTICED;
        let then = Counts::within(&calls, from, CALM_FOR + GREY_FOR);
        eprintln!(
            "{name}: p99 {} ms, then {} ms; {} of {} failed at first",
            calm.quantile(99).as_millis(),
            first.quantile(99).as_millis(),
            first.failures(),
            first.sent
        );
        let about = |what: &str| {
            format!(
                "one of four, {name}: {what}, from {} s on",
                NOTICED.as_secs()
            )
        };
        points.push(Point::none(
            format!("one of four, {name}: requests that failed before"),
            calm.failures(),
            calm.sent,
        ));
        points.push(Point::at_most(
            about("99th percentile"),
            then.quantile(99),
            calm.quantile(99).mul_f64(SLOWER),
        ));
        points.push(Point {
            held: part(then.failures(), then.sent) <= ERRORS,
            what: about("requests that failed"),
            measured: format!("{} of {}", then.failures(), then.sent),
            bound: format!("at most {:.1} %", 100.0 * ERRORS),
        });
        points.push(still_used(&about, &calls, from));
    }
    Ok(points)
}

/// At most half of the workloads are set aside.
fn still_used(about: &dyn Fn(&str) -> String, calls: &[Call], from: Duration) -> Point {
    let end = calls.last().map_or(from, |call| call.due);
    let mut fewest = ALL;
    let mut at = from;
    while at + STEP <= end {
        let due = calls
            .iter()
            .filter(|call| (at..at + STEP).contains(&call.due));
        let replies = due.filter_map(|call| call.reply.as_ref().ok());
        let workloads: BTreeSet<&str> = replies
            .filter_map(|reply| reply.workload.as_deref())
            .collect();
        fewest = fewest.min(workloads.len());
        at += STEP;
    }
    Point {
        held: fewest >= ALL / 2,
        what: about("workloads that serve in any two seconds"),
        measured: fewest.to_string(),
        bound: format!("at least {}", ALL / 2),
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousand")]
fn part(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "some thousand")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
