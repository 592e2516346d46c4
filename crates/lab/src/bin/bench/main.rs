//! `make bench`: what a request costs, in requests per second, processor time and latency: to a
//! program directly, through one proxy, through two, and into another cluster.
//!
//! It has a mesh of its own, made of `crates/lab/bench`, and promises nothing: bounds are checked by
//! `verify`. It takes a machine that is otherwise idle.

mod client;
mod figures;
mod machine;
mod paths;
mod program;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use isthmus_lab::mesh::Mesh;
use isthmus_lab::trouble::{During, Result, Trouble, ensure};
use tokio::runtime::{Builder, Runtime};

use crate::client::Load;
use crate::figures::{Run, Runs};
use crate::machine::Split;
use crate::paths::Path;
use crate::report::Report;

/// Measure what a request costs on each way to a program.
#[derive(Debug, Parser)]
#[command(name = "bench", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,

    /// Connections of the client, one run for each number.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 16, 64])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Vec<u16>,

    /// How long each run counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,

    /// How often everything is run; figures are medians over the rounds.
    #[arg(long, default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Also write a page with figures and method to this file, such as docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the program that is called.
    #[command(hide = true)]
    Program {
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// Before a run counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// A run in which all else took more of one processor is not to be trusted.
pub(crate) const DISTURBED_PERCENT: f64 = 10.0;
const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Program { listen }) => program::serve(*listen),
        None => bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure(arguments.write.is_none() || PROFILE == "release", || {
        "--write takes a release build: run `make bench`".to_owned()
    })?;
    let split = Split::find()?;
    let mesh = paths::start(split)?;
    let runs = measure(&mesh, arguments)?;
    let report = Report {
        machine: machine::describe(),
        split,
        profile: PROFILE,
        version: mesh
            .isthmus(&["--version"])?
            .expect(0)?
            .out
            .trim()
            .to_owned(),
        rounds: arguments.rounds.into(),
        seconds: arguments.duration,
        rows: figures::rows(&runs),
    };
    mesh.pass();
    match arguments.output {
        Output::Table => print!("{}", report.text()),
        Output::Json => println!("{:#}", report.json()),
    }
    if let Some(path) = &arguments.write {
        let page = report.page(&arguments.command());
        std::fs::write(path, page).during(|| path.display().to_string())?;
    }
    Ok(())
}

/// Everything in turn, round after round, so that an hour in which the machine is slow is one for all.
fn measure(mesh: &Mesh, arguments: &Arguments) -> Result<Runs> {
    let paths = paths::find(mesh)?;
    let rounds = arguments.rounds;
    let mut spare = usize::from(rounds) * arguments.connections.len() * paths.len();
    let mut runs = Runs::new();
    for round in 1..=rounds {
        for &connections in &arguments.connections {
            let load = Load {
                connections: connections.into(),
                warm_up: WARM_UP,
                duration: Duration::from_secs(arguments.duration),
            };
            let mut ways = Vec::new();
            for path in &paths {
                let what = format!("{}, {connections} connections", path.way.name);
                eprintln!("round {round} of {rounds}: {what}");
                let run = undisturbed(path, load, &mut spare);
                ways.push(run.during(|| what)?);
            }
            let ways = ways.try_into();
            let ways =
                ways.map_err(|_| Trouble("there are not as many paths as ways".to_owned()))?;
            runs.entry(connections.into()).or_default().push(ways);
        }
    }
    Ok(runs)
}

/// Runs again what others have disturbed, as long as there are runs to `spare`.
fn undisturbed(path: &Path, load: Load, spare: &mut usize) -> Result<Run> {
    loop {
        let measured = client::run(&path.target, load, || path.usage())?;
        let run = Run::of(path.way, &measured)?;
        eprintln!(
            "  {:.0} requests/s, proxies {:.1} CPU µs",
            run.requests_per_second, run.proxies
        );
        if run.others_percent <= DISTURBED_PERCENT || *spare == 0 {
            return Ok(run);
        }
        *spare -= 1;
        eprintln!(
            "  once more: others took {:.0} % of a processor",
            run.others_percent
        );
    }
}

impl Arguments {
    /// What to type for the same measurement.
    fn command(&self) -> String {
        let connections: Vec<String> = self.connections.iter().map(u16::to_string).collect();
        format!(
            "make bench ARGS='--connections {} --duration {} --rounds {}'",
            connections.join(","),
            self.duration,
            self.rounds
        )
    }
}

/// Of one thread, so that all its work can be kept on one processor.
fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.during(|| "starting a runtime".to_owned())
}
