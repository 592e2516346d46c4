//! `isthmus simulate`: the control planes of this version in storms, in virtual time.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_sim::{Outcome, Storm, Tally, storms};
use serde_json::{Value, json};

use crate::args::SimulateArgs;
use crate::failure::{Exit, Result};
use crate::output;
use crate::setting::Setting;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);
/// After so many violations more seeds say nothing new.
const ENOUGH: u64 = 20;

/// Exit 3 when an invariant did not hold.
pub(crate) fn simulate(setting: &Setting, args: &SimulateArgs) -> Result<ExitCode> {
    let tally = match args.seed {
        Some(seed) => one(setting, seed, args.steps)?,
        None => many(setting, args)?,
    };
    Ok(match tally.violations {
        0 => ExitCode::SUCCESS,
        _ => Exit::Findings.into(),
    })
}

/// One storm, and everything that was done in it.
fn one(setting: &Setting, seed: u64, steps: usize) -> Result<Tally> {
    let storm = Storm {
        seed,
        steps,
        sabotage: None,
        digest: true,
    };
    let mut tally = Tally::default();
    let mut moments = Vec::new();
    let outcome = storm.run(&mut |moment| match setting.format {
        Some(_) => moments.push(json!({
            "step": moment.step, "atSeconds": moment.at.as_secs_f64(), "what": moment.what,
        })),
        None => {
            let (step, at) = (moment.step, moment.at.as_secs_f64());
            // A reader that has gone is noticed at the end.
            let _ = output::print(&format!("step {step:>4}  {at:>9.3} s  {}\n", moment.what));
        }
    });
    tally.add(&outcome);
    if let Some(format) = setting.format {
        let mut view = summary(&tally, violation(&outcome).as_slice());
        view["moments"] = Value::Array(moments);
        view["digest"] = json!(outcome.digest.map(|digest| format!("{digest:016x}")));
        output::print(&output::structured(&view, format))?;
        return Ok(tally);
    }
    output::print(&broken(&outcome, steps))?;
    if let Some(digest) = outcome.digest {
        let text = format!("every message that arrived, in one number: {digest:016x}\n");
        output::print(&text)?;
    }
    output::print(&last_line(&tally))?;
    Ok(tally)
}

/// Many of them, and what broke.
fn many(setting: &Setting, args: &SimulateArgs) -> Result<Tally> {
    let seeds = args.from..args.from.saturating_add(args.seeds);
    let is_watched = stderr().is_terminal();
    let mut shown = Instant::now();
    let mut violations = Vec::new();
    let mut printed = Ok(());
    let tally = storms(seeds, args.steps, ENOUGH, |outcome, tally| {
        violations.extend(violation(outcome));
        if setting.format.is_none() && outcome.broken.is_some() {
            clear(is_watched);
            printed = output::print(&broken(outcome, args.steps));
        }
        if is_watched && shown.elapsed() > PROGRESS {
            shown = Instant::now();
            let (seeds, violations) = (tally.seeds, tally.violations);
            // Nobody has to read progress.
            let _ = write!(
                stderr(),
                "\r{seeds} of {} seeds, {violations} violations",
                args.seeds
            );
        }
    });
    clear(is_watched);
    printed?;
    match setting.format {
        Some(format) => output::print(&output::structured(&summary(&tally, &violations), format))?,
        None => {
            if tally.violations >= ENOUGH && tally.seeds < args.seeds {
                output::print("that is enough: the other seeds were left out\n")?;
            }
            output::print(&last_line(&tally))?;
        }
    }
    Ok(tally)
}

/// Takes the line of progress away.
fn clear(is_watched: bool) {
    if is_watched {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}

fn last_line(tally: &Tally) -> String {
    let Tally {
        seeds,
        steps,
        checks,
        violations,
        ..
    } = tally;
    format!("{seeds} seeds, {steps} steps, {checks} invariants checked, {violations} violations\n")
}

/// What did not hold, and how to see it again.
fn broken(outcome: &Outcome, steps: usize) -> String {
    let Some((step, broken)) = &outcome.broken else {
        return String::new();
    };
    let seed = outcome.seed;
    format!(
        "seed {seed}, step {step}: {broken}\n  again: isthmus simulate --seed {seed} --steps {steps}\n"
    )
}

fn violation(outcome: &Outcome) -> Option<Value> {
    let (step, broken) = outcome.broken.as_ref()?;
    Some(json!({
        "seed": outcome.seed,
        "step": step,
        "invariant": broken.invariant.to_string(),
        "what": broken.what,
    }))
}

fn summary(tally: &Tally, violations: &[Value]) -> Value {
    json!({
        "seeds": tally.seeds,
        "steps": tally.steps,
        "accepted": tally.accepted,
        "checks": tally.checks,
        "violations": violations,
    })
}
