//! `make smuggling`: every case and 10,000 mutations of them on every server that is there. A line per
//! server, its findings below it; exit 1 if there are any, or if a server is missing.

use std::process::ExitCode;

use clap::Parser;
use isthmus_lab::smuggling::{Plan, SERVERS, run};
use isthmus_lab::trouble::{During, Result};

/// Look for requests that a proxy and a server behind it read differently.
#[derive(Debug, Parser)]
#[command(name = "smuggling", disable_version_flag = true)]
struct Arguments {
    /// Only this server; may be given several times.
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,

    /// Mutations of the cases, for each server and each version of HTTP in front of it.
    #[arg(long, default_value_t = 10_000)]
    mutations: usize,

    /// What decides the mutations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Findings that are shown of one server.
const SHOWN: usize = 40;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match try_all(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("smuggling: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// Is nothing wrong, and nothing missing?
fn try_all(arguments: &Arguments) -> Result<bool> {
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    let servers: Vec<&str> = match arguments.server.as_slice() {
        [] => SERVERS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let plan = Plan {
        servers: &servers,
        mutations: arguments.mutations,
        seed: arguments.seed,
    };
    println!("seed {}", plan.seed);
    let report = run(&own.with_file_name("isthmus"), plan, |report| {
        println!("{report}");
        for finding in report.findings.iter().take(SHOWN) {
            println!("    {finding}");
        }
    })?;
    for missing in &report.missing {
        println!("{missing}: not installed; run `scripts/bootstrap smuggling`");
    }
    let sound = report.servers.iter().all(|one| one.findings.is_empty());
    Ok(sound && report.missing.is_empty())
}
