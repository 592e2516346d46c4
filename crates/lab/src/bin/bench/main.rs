//! `make bench`: what a request costs through this mesh and through others, side by side.
//!
//! It runs peers as they come and a mesh of its own, made of `crates/lab/bench`, and promises
//! nothing: bounds are checked by `verify`. It takes a machine that is otherwise idle.

mod certificates;
mod load;
mod machine;
mod memory;
mod peers;
mod plan;
mod program;
mod report;
mod samples;
mod sampling;
mod stage;
mod table;
mod targets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use isthmus_lab::trouble::{During, Result, ensure, trouble};
use tokio::runtime::{Builder, Runtime};

use crate::load::{Load, Pace, Size};
use crate::machine::Split;
use crate::plan::{FIGURES, Who};
use crate::report::Report;
use crate::samples::{Measure, Row, Sample};
use crate::sampling::Sampling;
use crate::stage::{Stage, Way};

/// Measure what a request costs through this mesh and through others.
#[derive(Debug, Parser)]
#[command(name = "bench", disable_version_flag = true, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,

    /// Only these figures.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(value_parser = FIGURES.iter().map(|figure| figure.name).collect::<Vec<_>>())]
    only: Vec<String>,

    /// Only these, where they take part.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(value_parser = Who::ALL.map(Who::name))]
    who: Vec<String>,

    /// Only these numbers of connections, where they are measured.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    connections: Vec<usize>,

    /// How long each run counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,

    /// How often everything is run; figures are medians over the rounds.
    #[arg(long, default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Also write a page with figures and method to this file, such as docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Also sample what processes on each way do, into a file for each row in this folder; it costs them a little.
    /// `scripts/where-time-goes FOLDER` makes a table of them.
    #[arg(long, value_name = "FOLDER", conflicts_with = "write")]
    sample: Option<PathBuf>,

    /// Where Envoy is.
    #[arg(long, value_name = "FILE", default_value = "envoy")]
    envoy: PathBuf,
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
/// Where others never rest, a run is not repeated for ever.
const MOST_AGAIN: usize = 2;
const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else if option_env!("ISTHMUS_LAID_OUT").is_some() {
    "profile-guided release"
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
    ensure(arguments.write.is_none() || !cfg!(debug_assertions), || {
        "--write takes a release build: run `make bench`".to_owned()
    })?;
    if let Some(folder) = &arguments.sample {
        std::fs::create_dir_all(folder).during(|| folder.display().to_string())?;
    }
    let rows = arguments.rows();
    ensure(!rows.is_empty(), || "nothing is left to measure".to_owned())?;
    let _alone = machine::alone()?;
    machine::allow_descriptors()?;
    let split = Split::find()?;
    if let Some(split) = split {
        machine::keep_to(split.load)?;
    }
    let whos: Vec<Who> = rows.iter().map(|row| row.entrant.who).collect();
    let start = || Stage::start(&whos, &arguments.envoy, split);
    let is_memory = |row: &Row| matches!(row.figure.load, Load::Memory(_));
    let (mut memory, mut others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_memory);
    for round in 1..=arguments.rounds {
        // What a process has held once stays with it, so each figure has new ones.
        for rows in memory.chunk_by_mut(Row::is_like) {
            let stage = start()?;
            weigh(&stage, round, arguments, rows)?;
            stage.pass();
        }
    }
    let stage = start()?;
    measure(&stage, arguments, &mut others)?;
    others.append(&mut memory);
    let report = Report {
        machine: machine::describe(),
        split,
        profile: PROFILE,
        versions: stage.versions(&arguments.envoy)?,
        rounds: arguments.rounds.into(),
        seconds: arguments.duration,
        rows: others,
    };
    if report.failures().is_none() {
        stage.pass();
    }
    match arguments.output {
        Output::Table => print!("{}", report.text()),
        Output::Json => println!("{:#}", report.json()),
    }
    if let Some(path) = &arguments.write {
        let page = report.page(&arguments.command());
        std::fs::write(path, page).during(|| path.display().to_string())?;
    }
    report.failures().map_or(Ok(()), trouble)
}

/// Everything in turn, round after round, so that an hour in which the machine is slow is one for all.
fn measure(stage: &Stage, arguments: &Arguments, rows: &mut [Row]) -> Result<()> {
    let ways = rows
        .iter()
        .map(|row| stage.way(row.figure.load, &row.entrant));
    let mut ways: Vec<Way> = ways.collect::<Result<_>>()?;
    half_load(rows, &mut ways)?;
    let duration = Duration::from_secs(arguments.duration);
    let rounds = arguments.rounds;
    let mut spare = usize::from(rounds) * rows.len();
    for round in 1..=rounds {
        for (row, way) in rows.iter_mut().zip(&ways) {
            eprintln!("round {round} of {rounds}: {}", row.what());
            let sample = undisturbed(stage, way, row, duration, &mut spare, arguments);
            row.samples.push(sample);
        }
    }
    Ok(())
}

/// Memory, which takes a stage on which nothing has happened yet.
fn weigh(stage: &Stage, round: u16, arguments: &Arguments, rows: &mut [Row]) -> Result<()> {
    let duration = Duration::from_secs(arguments.duration);
    for row in rows {
        let Load::Memory(held) = row.figure.load else {
            continue;
        };
        let what = row.what();
        eprintln!("round {round} of {}: {what}", arguments.rounds);
        let way = stage.way(row.figure.load, &row.entrant)?;
        let sample = memory::sample(&way, held, row.connections, duration);
        let sample = sample.unwrap_or_else(|trouble| {
            eprintln!("  {trouble}\n{}", stage.refusals());
            Sample::new()
        });
        if let Some(resident) = sample.get(&Measure::Resident) {
            eprintln!("  {resident:.1} MiB");
        }
        row.samples.push(sample);
    }
    Ok(())
}

/// Tells those that are asked half as often as the slowest of them sustains how often that is.
fn half_load(rows: &[Row], ways: &mut [Way]) -> Result<()> {
    let is_asked = |row: &&Row| row.figure.load == Load::Paced(Pace::HalfOfSlowest);
    let saturation = Load::Http1 { size: Size::Small };
    let mut slowest = f64::INFINITY;
    for (row, way) in rows.iter().zip(&*ways).filter(|(row, _)| is_asked(row)) {
        let done = saturation.run(way, 64, WARM_UP).during(|| row.what())?;
        slowest = slowest.min(done.count / done.took.as_secs_f64());
    }
    // Infinite if nobody is asked, and then not used.
    let half = format!("{:.0}", slowest / 2.0).parse().unwrap_or_default();
    if half > 0 {
        eprintln!("half of what the slowest sustains is {half}/s");
    }
    for way in ways {
        way.half_load = half;
    }
    Ok(())
}

/// Runs again what failed or what others have disturbed, twice at most, as long as there are runs to
/// `spare`, and takes the run that was disturbed least. A sample without anything: none succeeded.
fn undisturbed(
    stage: &Stage,
    way: &Way,
    row: &Row,
    duration: Duration,
    spare: &mut usize,
    arguments: &Arguments,
) -> Sample {
    let others = |sample: &Sample| sample.get(&Measure::Others).copied();
    let mut best = Sample::new();
    let mut again = MOST_AGAIN;
    loop {
        match run(way, row, duration, arguments) {
            Ok(sample) => {
                let measured = |measure| sample.get(&measure).copied().unwrap_or_default();
                eprintln!(
                    "  {:.0} {}s/s, proxies {:.1} CPU µs; others took {:.0} % of a processor",
                    measured(Measure::Rate),
                    row.figure.load.unit(),
                    measured(Measure::Cpu),
                    measured(Measure::Others)
                );
                if others(&best).is_none_or(|least| measured(Measure::Others) < least) {
                    best = sample;
                }
            }
            Err(trouble) => eprintln!("  {trouble}\n{}", stage.refusals()),
        }
        let is_good = others(&best).is_some_and(|others| others <= DISTURBED_PERCENT);
        if is_good || *spare == 0 || again == 0 {
            return best;
        }
        eprintln!("  once more");
        *spare -= 1;
        again -= 1;
    }
}

fn run(way: &Way, row: &Row, duration: Duration, arguments: &Arguments) -> Result<Sample> {
    let load = row.figure.load;
    load.run(way, row.connections, WARM_UP)?;
    let sampling = arguments.sample.as_ref().map(|folder| {
        let who = row.entrant.who.name();
        let file = format!("{}-{}-{who}.perf", row.figure.name, row.connections);
        Sampling::start(&way.all_proxies(), &folder.join(file))
    });
    let sampling = sampling.transpose()?;
    let before = way.usage()?;
    let done = load.run(way, row.connections, duration)?;
    let after = way.usage()?;
    if let Some(sampling) = sampling {
        sampling.end()?;
    }
    samples::sample(&done, &before, &after)
}

impl Arguments {
    /// What is to be measured, without samples so far.
    fn rows(&self) -> Vec<Row> {
        let is_wanted = |names: &[String], name: &str| {
            names.is_empty() || names.iter().any(|wanted| wanted == name)
        };
        let mut rows = Vec::new();
        for figure in FIGURES.iter().filter(|it| is_wanted(&self.only, it.name)) {
            for &connections in figure.connections {
                if !self.connections.is_empty() && !self.connections.contains(&connections) {
                    continue;
                }
                let entrants = figure.entrants.iter();
                let entrants = entrants.filter(|it| is_wanted(&self.who, it.who.name()));
                rows.extend(entrants.map(|&entrant| Row {
                    figure,
                    connections,
                    entrant,
                    samples: Vec::new(),
                }));
            }
        }
        rows
    }

    /// What to type for the same measurement.
    fn command(&self) -> String {
        let mut words = vec![format!(
            "--duration {} --rounds {}",
            self.duration, self.rounds
        )];
        let connections: Vec<String> = self.connections.iter().map(usize::to_string).collect();
        for (name, list) in [
            ("only", &self.only),
            ("who", &self.who),
            ("connections", &connections),
        ] {
            if !list.is_empty() {
                words.push(format!("--{name} {}", list.join(",")));
            }
        }
        format!("make bench ARGS='{}'", words.join(" "))
    }
}

/// Of one thread, so that all its work can be kept on one processor.
fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.during(|| "starting a runtime".to_owned())
}
