//! `make soak`: a mesh of three clusters for an hour, under traffic of every protocol, while
//! processes are restarted, workloads come and go, and things break.
//!
//! No request that may be repeated fails, nothing else is executed twice, streams end only by what
//! was done to them, and no process grows or restarts by itself. Exit 1 on a miss.

mod acts;
mod guest;
mod report;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand, ValueEnum};
use isthmus_lab::traffic::{Plan, Scene, Timeline, Traffic, executed, program};
use isthmus_lab::trouble::{During, Result, Trouble};

use acts::Acts;
use report::Report;
use watch::Watch;

/// A mesh under load and trouble, for a long time.
#[derive(Debug, Parser)]
#[command(name = "soak", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    program: Option<Program>,

    #[arg(long, default_value_t = 60)]
    minutes: u64,

    /// Requests a second, of all protocols together.
    #[arg(long, default_value_t = 300)]
    rate: u32,

    /// Streams of each of three kinds on each of four ways.
    #[arg(long, default_value_t = 3)]
    streams: usize,

    /// Seconds from one restart to the next.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    restart_every: u64,

    /// Seconds from one fault to the next.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    fault_every: u64,

    /// Seconds from one arrival of a workload to the next.
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    guest_every: u64,

    /// How long certificates live; they are renewed after half of it
    #[arg(long, default_value = "20m", value_name = "TIME")]
    leaf_lifetime: String,

    /// What happens in which order [default: another one each time, which is printed]
    #[arg(long)]
    seed: Option<u64>,

    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// The program that the traffic goes to
    Serve {
        #[arg(long)]
        address: IpAddr,
        /// Folder of the files that tell what was executed
        #[arg(long)]
        journal: PathBuf,
    },
}

/// Between two lines of progress.
const STEP: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.program {
        Some(Program::Serve { address, journal }) => {
            program::serve(*address, journal).map(|()| true)
        }
        None => soak(&arguments),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("MISS  it could not be measured: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// True: everything was as promised.
fn soak(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(of_the_clock);
    eprintln!("seed {seed}");
    let own = std::env::current_exe().during(|| "finding this program's own file".to_owned())?;
    let scene = Scene::start(&own.with_file_name(""), &arguments.leaf_lifetime)?;
    let plan = Plan {
        lanes: scene.lanes()?,
        rate: arguments.rate,
        streams: arguments.streams,
        life: (Duration::from_secs(10), Duration::from_secs(100)),
        seed,
    };
    let timeline = Arc::<Timeline>::default();
    let traffic = Traffic::start(plan, timeline.clone())?;
    let mut watch = Watch::new(&scene.mesh)?;
    let acts = Acts::new(&scene, &timeline, &own, seed)?;
    let over = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let troubles = scope(|scope| {
        let acting = scope.spawn(|| acts.go_on(arguments, &over));
        let watched = progress(deadline, &traffic, &timeline, &mut watch);
        over.store(true, Ordering::Relaxed);
        let troubles = acting.join();
        let troubles = troubles.map_err(|_| Trouble("whoever acts has panicked".to_owned()))?;
        watched.map(|()| troubles)
    })?;
    let counts = traffic.finish()?;
    // Whatever was lost for good would be missed now.
    scene.whole()?;
    watch.look_again(&timeline)?;
    let report = Report {
        seed,
        minutes: arguments.minutes,
        rate: arguments.rate,
        executed: executed(&scene.journal)?,
        panics: watch::panics(&scene.mesh)?,
        counts,
        troubles,
        episodes: timeline.episodes(),
        found: watch.judge(),
    };
    let held = report.print(arguments.output.is_some())?;
    if held {
        scene.mesh.pass();
    }
    Ok(held)
}

/// A line every ten seconds, until the time is over.
fn progress(
    deadline: Instant,
    traffic: &Traffic,
    timeline: &Timeline,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let begun = Instant::now();
    let mut told = 0;
    while Instant::now() < deadline {
        sleep(STEP.min(deadline.saturating_duration_since(Instant::now())));
        let busy = watch.look_again(timeline)?;
        let all = traffic.tally.all();
        let line = report::line(begun.elapsed(), &traffic.tally.recent(), &all, busy);
        eprintln!("{line}  {}", timeline.around(Instant::now()));
        for failure in all.failures.iter().skip(told) {
            eprintln!("failed: {failure}");
        }
        told = all.failures.len();
    }
    Ok(())
}

fn of_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() % 1_000_000)
}
