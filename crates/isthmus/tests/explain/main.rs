//! What `explain` prints is what happens: a thousand random requests are explained, then really
//! sent, and each reply tells route, rule, candidates, cluster, reason and workload.
//!
//! The draw of a request is its own. So where chance decides, `explain` prints all that can come of
//! it, and what came must be one of that.
//!
//! Nothing may change between the explanation and the request: links are so different in length that
//! none overtakes another, and after each event all callers are asked until they know of it.

mod agreement;
mod api;
mod request;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use agreement::{Agreed, check, lasting, list, possible_workloads, text};
use api::Api;
use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, trouble, wait_for};
use isthmus_world::SeededChance;
use request::{RandomRequest, sources};
use serde_json::{Value, json};
use state::{CLUSTERS, State, round_trip};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-regions");
const MORE: &str = include_str!("more.yaml");
/// `ISTHMUS_TEST_SEED=<n>` repeats the requests of an earlier run.
const SEED: &str = "ISTHMUS_TEST_SEED";
/// What must have come up, or the requests were too much alike.
const REASONS: [&str; 8] = [
    "nearest",
    "only-choice",
    "nearest-is-hot",
    "unknown",
    "not-exported",
    "no-route",
    "no-backend",
    "no-such-service",
];

#[test]
fn a_thousand_requests_go_where_explain_says() -> Result<()> {
    let seed = seed()?;
    println!("the requests are those of {SEED}={seed}");
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    add_to_example(&mesh)?;
    mesh.up(&["--quiet"])?;
    let mut callers = Vec::new();
    for cluster in CLUSTERS {
        for source in sources(cluster) {
            let number = u64::try_from(callers.len()).unwrap_or(0);
            let chance = SeededChance::new((seed << 8) | number);
            callers.push(Caller::new(&mesh, cluster, source, chance)?);
        }
    }

    let mut all = Tally::default();
    let whole = State::default();
    all.add(in_state(&mut callers, "all is well", &whole, 400)?);

    let paused = program_of(&mesh, "eu-central", "catalog-1")?.pause()?;
    let sick = State {
        sick: Some(("catalog", "eu-central")),
        ..whole
    };
    all.add(in_state(&mut callers, "a program hangs", &sick, 200)?);

    drop(paused);
    let returning = State {
        returning: true,
        ..whole
    };
    all.add(in_state(&mut callers, "it answers again", &returning, 150)?);

    mesh.isthmus(&["cluster", "kill", "eu-central"])?
        .expect(0)?;
    callers.retain(|caller| caller.cluster != "eu-central");
    let lost = State {
        lost: Some("eu-central"),
        ..whole
    };
    all.add(in_state(&mut callers, "a cluster is lost", &lost, 250)?);

    println!("{all:?}");
    assert_eq!(all.served, 1000);
    for reason in REASONS {
        assert!(
            all.reasons.contains_key(reason),
            "{reason} never came up: {all:?}"
        );
    }
    mesh.pass();
    Ok(())
}

/// The program of a workload, which runs beside its proxy.
fn program_of(mesh: &Mesh, cluster: &str, process: &str) -> Result<Process> {
    let is_program = |process: &Process| {
        let first = process.command.first();
        first.is_some_and(|word| word.ends_with("isthmus-demo"))
    };
    let family = mesh.process(cluster, process)?.family()?;
    let found = family.into_iter().find(is_program);
    found.ok_or_else(|| Trouble(format!("{cluster}/{process} has no program")))
}

fn seed() -> Result<u64> {
    match std::env::var(SEED) {
        Ok(text) => text.parse().during(|| format!("{SEED}={text}")),
        Err(_) => {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).during(|| "drawing a seed".to_owned())?;
            Ok(u32::from_le_bytes(bytes).into())
        }
    }
}

/// More services, routes and copies; and links of other lengths.
fn add_to_example(mesh: &Mesh) -> Result<()> {
    for file in ["up.yaml", "mesh.yaml"] {
        for (one, other, example) in [
            ("us-west", "eu-central", 140),
            ("us-west", "ap-south", 220),
            ("eu-central", "ap-south", 120),
        ] {
            let rtt = |ms| format!("rtt: {ms}ms");
            mesh.edit(file, &rtt(example), &rtt(round_trip(one, other)))?;
        }
    }
    // A machine that is busy must not make a second try of a first one.
    let policy = "  healthCheck:\n    http:\n";
    let patient = format!("  timeout: {{connect: 20s}}\n{policy}");
    mesh.edit("routes.yaml", policy, &patient)?;
    let path = mesh.files().join("more.yaml");
    fs::write(&path, MORE).during(|| path.display().to_string())?;
    for (cluster, service, copies) in [
        ("eu-central", "vault", 1),
        ("eu-central", "cart", 1),
        ("ap-south", "ledger", 1),
        ("ap-south", "catalog", 2),
    ] {
        let place = format!("  {cluster}:\n    processes:\n");
        let process = format!(
            "    - service: shop/{service}\n      port: 8080\n      copies: {copies}\n      \
             command: [isthmus-demo, cart, --listen, \"${{ADDRESS}}:${{PORT}}\"]\n"
        );
        mesh.edit("up.yaml", &place, &format!("{place}{process}"))?;
    }
    Ok(())
}

/// How many requests ended for which reason.
#[derive(Debug, Default)]
struct Tally {
    served: usize,
    reasons: BTreeMap<String, usize>,
}

impl Tally {
    fn count(&mut self, agreed: Agreed) {
        self.served += usize::from(agreed.served);
        *self.reasons.entry(agreed.reason).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.served += other.served;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

/// Waits until all callers see `state`, then compares their requests until `served` were served.
fn in_state(callers: &mut [Caller<'_>], name: &str, state: &State, served: usize) -> Result<Tally> {
    let during = || name.to_owned();
    at_once(callers, |_, caller| caller.wait_to_see(state)).during(during)?;
    let count = callers.len();
    let part = |number: usize| served / count + usize::from(number < served % count);
    let compared = at_once(callers, |number, caller| {
        caller.compare(state, part(number))
    });
    let mut all = Tally::default();
    for tally in compared.during(during)? {
        all.add(tally);
    }
    println!("{name}: {all:?}");
    Ok(all)
}

/// Does the same with all callers, each in a thread of its own.
fn at_once<'m, T: Send>(
    callers: &mut [Caller<'m>],
    act: impl Fn(usize, &mut Caller<'m>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let act = &act;
        let begin = |(number, caller)| scope.spawn(move || act(number, caller));
        let running: Vec<_> = callers.iter_mut().enumerate().map(begin).collect();
        let join = |running: thread::ScopedJoinHandle<'_, Result<T>>| match running.join() {
            Ok(done) => done,
            Err(_) => trouble("a caller panicked"),
        };
        // All have ended before the first that failed is told.
        let done: Vec<Result<T>> = running.into_iter().map(join).collect();
        done.into_iter().collect()
    })
}

/// A workload's program that calls others.
struct Caller<'m> {
    mesh: &'m Mesh,
    cluster: &'static str,
    source: &'static str,
    api: Api,
    chance: SeededChance,
    outbound: BTreeMap<String, SocketAddr>,
}

/// What leads to every backend there is: service, path, `x-tenant`.
const EVERY_BACKEND: [(&str, &str, &str); 5] = [
    ("cart", "/spread", "none"),
    ("cart", "/tenant", "gold"),
    ("payment", "/", "none"),
    ("frontend", "/", "none"),
    ("ghost", "/", "none"),
];

impl<'m> Caller<'m> {
    fn new(
        mesh: &'m Mesh,
        cluster: &'static str,
        source: &'static str,
        chance: SeededChance,
    ) -> Result<Self> {
        Ok(Self {
            mesh,
            cluster,
            source,
            api: Api::connect(mesh, cluster)?,
            chance,
            outbound: BTreeMap::new(),
        })
    }

    /// Asks about every backend until the caller's proxy knows.
    fn wait_to_see(&mut self, state: &State) -> Result<()> {
        let Self {
            cluster, source, ..
        } = *self;
        for (service, path, tenant) in EVERY_BACKEND {
            let question = json!({
                "source": format!("shop/{source}"), "service": format!("shop/{service}"),
                "method": "GET", "path": path,
                "headers": [{"name": "x-tenant", "value": tenant}],
            });
            let what = format!("{source} in {cluster} to see what is so of {service}");
            wait_for(&what, PATIENCE, || {
                let explained = self.api.explain(&question)?;
                let backends = list(&explained["backends"]);
                ensure(!backends.is_empty(), || explained.to_string())?;
                backends
                    .iter()
                    .try_for_each(|backend| state.is_seen(cluster, backend))
            })?;
        }
        Ok(())
    }

    /// Explains and sends requests until `served` of them were served. The first is explained by the
    /// command line as well, unless that could be another answer: a slow start passes.
    fn compare(&mut self, state: &State, served: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut by_command = !state.returning;
        while tally.served < served {
            let request = RandomRequest::draw(self.source, &mut self.chance);
            let explained = self.api.explain(&request.question())?;
            if std::mem::take(&mut by_command) {
                self.command_prints(&request, &explained)
                    .during(|| format!("{request:?}"))?;
            }
            let process = text(&explained["process"]).unwrap_or_default().to_owned();
            let outbound = self.outbound_of(process)?;
            let lines = request.lines();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let reply = http::request(outbound, request.method, &request.url(), &lines, b"")?;
            let agreed = check(&explained, &reply).during(|| {
                format!(
                    "{request:?} from {}\nexplained: {explained}\ntold: {} {:?}\n",
                    self.cluster, reply.status, reply.fields
                )
            })?;
            tally.count(agreed);
        }
        Ok(tally)
    }

    fn outbound_of(&mut self, process: String) -> Result<SocketAddr> {
        if let Some(known) = self.outbound.get(&process) {
            return Ok(*known);
        }
        let outbound = self.mesh.outbound(self.cluster, &process)?;
        self.outbound.insert(process, outbound);
        Ok(outbound)
    }

    /// The command line says what the API says, as JSON and in words.
    fn command_prints(&self, request: &RandomRequest, explained: &Value) -> Result<()> {
        let command = request.command(self.cluster);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let printed = self.mesh.json(&command)?;
        let (printed, asked) = (lasting(&printed), lasting(explained));
        ensure(printed == asked, || {
            format!("the API says {asked}, `explain` {printed}")
        })?;
        let words = self.mesh.isthmus(&command)?.expect(0)?.out;
        let mut expected: Vec<String> = ["route", "rule"]
            .iter()
            .filter_map(|name| text(&explained[*name]))
            .filter(|name| *name != "0")
            .map(str::to_owned)
            .collect();
        for choice in list(&explained["backends"])
            .iter()
            .flat_map(|backend| list(&backend["choices"]))
        {
            expected.push(format!("({})", text(&choice["reason"]).unwrap_or_default()));
            expected.extend(text(&choice["cluster"]).map(|cluster| format!("choice: {cluster}")));
            expected.extend(possible_workloads(choice).into_iter().map(str::to_owned));
        }
        for part in expected {
            ensure(words.contains(&part), || {
                format!("{part:?} is not in:\n{words}")
            })?;
        }
        Ok(())
    }
}
