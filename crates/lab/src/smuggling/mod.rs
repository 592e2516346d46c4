//! Request smuggling, looked for between a real proxy pair and real servers.
//!
//! Bytes go to the caller's proxy, and behind the callee's proxy stands a server that we did not write
//! and that logs what it was asked. A request is smuggled if the server has seen one that the proxies
//! do not know of, or if an answer arrives at another request than its own. Cases are derived from the
//! rules of RFC 9110 and RFC 9112 ([`cases`]) and of RFC 9113 ([`cases2`]); seeded mutations of them
//! ([`mutate`]) look for what we did not think of. Only [`front`] and [`front2`] know what is spoken to
//! the caller's proxy; what a server speaks, only its script.

pub mod cases;
mod cases2;
mod front;
mod front2;
mod judge;
mod mutate;
mod servers;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use self::cases::{CASES, Case, bytes};
use self::cases2::{CASES2, Message};
use self::front::Front;
use self::front2::Front2;
use self::judge::{Findings, Said};
use self::mutate::Mutations;
pub use self::servers::SERVERS;
use self::servers::Stage;
use crate::trouble::{Result, Trouble, ensure};

/// What to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan<'p> {
    /// Servers to try it on; those whose program is not there are left out.
    pub servers: &'p [&'p str],
    /// Mutations of the cases, for each server and each version of HTTP in front of it.
    pub mutations: usize,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub servers: Vec<ServerReport>,
    /// Servers whose program is not on this machine.
    pub missing: Vec<&'static str>,
}

/// What came of it on one server.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerReport {
    pub server: &'static str,
    pub connections: usize,
    /// Requests that the caller's proxy took, and those of them that it refused.
    pub requests: usize,
    pub refused: usize,
    /// Requests that the server logged, and those that it found malformed.
    pub executed: usize,
    pub malformed_to_server: usize,
    /// What is wrong.
    pub findings: Vec<String>,
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} connections, {} requests, {} refused, {} executed, {} malformed to the server, \
             {} findings",
            self.server,
            self.connections,
            self.requests,
            self.refused,
            self.executed,
            self.malformed_to_server,
            self.findings.len()
        )
    }
}

/// Connections at a time.
const THREADS: usize = 8;

/// Brings up a mesh of `binary` with the plan's servers and tries everything on each of them.
///
/// Errors: it could not be tried; that something was found is no error.
pub fn run(binary: &Path, plan: Plan<'_>, mut tell: impl FnMut(&ServerReport)) -> Result<Report> {
    let (present, missing) = servers::present(plan.servers)?;
    ensure(!present.is_empty(), || {
        let servers = plan.servers.join(", ");
        format!("none of these servers is installed: {servers}; run `scripts/bootstrap smuggling`")
    })?;
    let stage = Stage::set(binary, &present)?;
    let mut reports = Vec::new();
    for server in present {
        let report = try_on(&stage, server, plan)?;
        tell(&report);
        reports.push(report);
    }
    if reports.iter().all(|report| report.findings.is_empty()) {
        stage.pass();
    }
    Ok(Report {
        servers: reports,
        missing,
    })
}

fn try_on(stage: &Stage, server: &'static str, plan: Plan<'_>) -> Result<ServerReport> {
    let front = Front::new(stage.caller()?, &format!("{server}.lab.mesh"));
    let mut findings = Findings::default();
    for (number, case) in CASES.iter().enumerate() {
        let id = Id(number);
        let heard = front.say(&case.bytes(&front.host, &id.to_string()))?;
        findings.check_case(case, &heard);
        findings.check_answers(id, &heard);
    }
    findings.check_reasons(&stage.reasons()?);
    let mut mutations = Mutations::new(plan.seed);
    let mutants: Vec<(Id, Vec<u8>)> = (0..plan.mutations)
        .map(|number| {
            let id = Id(CASES.len() + number);
            let template = mutations.pick(CASES).bytes(&front.host, &id.to_string());
            (id, mutations.mutate(template))
        })
        .collect();
    for (id, heard) in say_all(&mutants, |_, bytes| front.say(bytes))? {
        findings.check_answers(*id, &heard);
    }
    let both = 2 * (CASES.len() + mutants.len());
    let connections =
        CASES.len() + mutants.len() + try_http2(stage, server, plan, both, &mut findings)?;
    let said = stage.said(server, connections)?;
    findings.check_logs(&said);
    let Said {
        source,
        destination: _,
        server: executed,
    } = &said;
    Ok(ServerReport {
        server,
        connections,
        requests: source.len(),
        refused: source.iter().filter(|line| line.refusal.is_some()).count(),
        executed: executed.iter().filter(|line| !line.is_malformed()).count(),
        malformed_to_server: executed.iter().filter(|line| line.is_malformed()).count(),
        findings: findings.into_lines(),
    })
}

/// The same in HTTP/2, with ids from `first` on. Gives the number of connections.
fn try_http2(
    stage: &Stage,
    server: &'static str,
    plan: Plan<'_>,
    first: usize,
    findings: &mut Findings,
) -> Result<usize> {
    let front = Front2::new(stage.caller()?, &format!("{server}.lab.mesh"));
    for (number, case) in CASES2.iter().enumerate() {
        let id = Id(first + number);
        let text = id.to_string();
        let heard = front.say(&case.message(&front.host, &text), &text)?;
        // mod_http2 breaks off some requests with trailers, whoever sends them.
        if server != "apache-h2" || case.trailers.is_empty() {
            findings.check_case2(case, &heard);
        }
        findings.check_answers(id, &heard.into());
    }
    let mut mutations = Mutations::new(plan.seed);
    let mutants: Vec<(Id, Message)> = (0..plan.mutations)
        .map(|number| {
            let id = Id(first + CASES2.len() + number);
            let case = mutations.pick2(CASES2);
            let message = case.message(&front.host, &id.to_string());
            (id, mutations.mutate2(message))
        })
        .collect();
    let said = say_all(&mutants, |id, message| front.say(message, &id.to_string()))?;
    for (id, heard) in said {
        findings.check_answers(*id, &heard.into());
    }
    Ok(CASES2.len() + mutants.len())
}

/// Says everything on connections of their own, some at a time.
fn say_all<'m, M: Sync, H: Send>(
    mutants: &'m [(Id, M)],
    say: impl Fn(Id, &M) -> Result<H> + Sync,
) -> Result<Vec<(&'m Id, H)>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(&'m Id, H)>> {
        let mut heard = Vec::new();
        while let Some((id, mutant)) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            heard.push((id, say(*id, mutant)?));
        }
        Ok(heard)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let heard = worker.join();
            all.extend(heard.map_err(|_| Trouble("a connection's thread panicked".to_owned()))??);
        }
        Ok(all)
    })
}

/// Tells connections apart, wherever it turns up: letters and digits only, of one length. The two
/// letters at the end check the number, so that a mutation does not make another connection's id of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id(usize);

impl Id {
    /// The one that stands in `text` from its first byte.
    fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix('q')?.get(..7)?.parse().ok()?;
        let id = Self(number);
        text.starts_with(&id.to_string()).then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = self.0.wrapping_mul(7919).wrapping_add(13) % (26 * 26);
        let letter =
            |number: usize| u8::try_from(number % 26).map_or('a', |n| char::from(b'a' + n));
        write!(f, "q{:07}{}{}", self.0, letter(check / 26), letter(check))
    }
}

impl Case {
    fn bytes(&self, host: &str, id: &str) -> Vec<u8> {
        bytes(self.text, host, id)
    }
}
