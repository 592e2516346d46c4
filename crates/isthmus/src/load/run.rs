//! The loop of a run: starts what is due, counts what ends, shows how it goes.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::Stop;
use super::caller::Caller;
use super::journal::Journal;
use super::report::{Progress, Report, RunFacts, milliseconds, progress_line};
use super::schedule::Schedule;
use super::tally::{Broken, Counts, Ended, Tally, request_id};
use crate::failure::{Failure, Result};

/// A request that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    number: u64,
    /// After the start of the run.
    at: Duration,
}

/// Requests that are due and not begun. A machine that cannot keep up begins later ones late, and
/// their time counts from when they were due.
const MOST_DUE: usize = 10_000;

/// Everything that a single request needs to know.
#[derive(Debug, Clone)]
struct Flight {
    run: String,
    caller: Caller,
    began: Instant,
    timeout: Duration,
    abandon: watch::Receiver<bool>,
}

/// Sends all requests of the schedule and waits for their ends. The first [`Stop`] ends the
/// schedule, the second one the waiting.
pub(super) async fn run(
    schedule: Schedule,
    timeout: Duration,
    caller: Caller,
    mut journal: Option<Journal>,
    mut facts: RunFacts,
    stop: &mut Stop,
) -> Result<(Report, Option<Journal>)> {
    let (abandon_all, abandon) = watch::channel(false);
    let began = Instant::now();
    facts.started = isthmus_telemetry::rfc3339(SystemTime::now());
    facts.duration_ms = milliseconds(schedule.duration);
    let flight = Flight {
        run: facts.run.clone(),
        caller: caller.clone(),
        began,
        timeout,
        abandon,
    };
    let mut due = Some(pace(schedule, began)?);
    let mut tally = Tally::new(facts.run.clone());
    let mut flights = JoinSet::new();
    let mut screen = Screen::new();
    let mut progress = interval(screen.every());
    progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
    progress.tick().await;
    while due.is_some() || !flights.is_empty() {
        tokio::select! {
            // What is rare comes first: requests may be due, and end, without a pause.
            biased;
            () = stop.asked() => {
                if due.take().is_some() {
                    facts.duration_ms = milliseconds(began.elapsed());
                } else {
                    abandon_all.send_replace(true);
                }
            }
            _ = progress.tick() => screen.show(began.elapsed(), caller.in_flight()),
            Some(ended) = flights.join_next() => {
                let ended = ended.map_err(|error| {
                    Failure::failed("bug", "a request could not be followed").caused_by(&error)
                })?;
                if let Some(journal) = &mut journal {
                    journal.write(&facts.run, &ended);
                }
                tally.add(&ended);
                screen.add(&ended);
            }
            next = next_due(&mut due), if due.is_some() => match next {
                Some(next) => drop(flights.spawn(flight.clone().fly(next))),
                None => due = None,
            },
        }
    }
    screen.clear();
    Ok((tally.report(facts), journal))
}

async fn next_due(due: &mut Option<mpsc::Receiver<Due>>) -> Option<Due> {
    due.as_mut()?.recv().await
}

/// Tells of each request when it is due. A thread of its own sleeps more exactly than the timers
/// of the event loop, which count whole milliseconds.
fn pace(schedule: Schedule, began: Instant) -> Result<mpsc::Receiver<Due>> {
    let (sender, receiver) = mpsc::channel(MOST_DUE);
    let pace = move || {
        for number in 0.. {
            let Some(at) = schedule.due(number) else {
                return;
            };
            let wait = at.saturating_sub(began.elapsed());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if sender.blocking_send(Due { number, at }).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("pace".to_owned());
    thread.spawn(pace).map_err(|error| {
        Failure::failed("no-thread", "no thread can be started").caused_by(&error)
    })?;
    Ok(receiver)
}

impl Flight {
    async fn fly(mut self, due: Due) -> Ended {
        let mut head = None;
        let broken = match self.caller.slot() {
            None => Some(Broken::TooManyOpen),
            Some(_slot) => {
                let id = request_id(&self.run, due.number);
                let latest = self.began + due.at.saturating_add(self.timeout);
                let call = timeout_at(latest.into(), self.caller.call(&id, &mut head));
                tokio::select! {
                    called = call => match called {
                        Ok(called) => called.err(),
                        Err(_) => Some(Broken::Timeout),
                    },
                    _ = self.abandon.wait_for(|abandon| *abandon) => Some(Broken::Abandoned),
                }
            }
        };
        Ended {
            number: due.number,
            scheduled: due.at,
            took: self.began.elapsed().saturating_sub(due.at),
            head,
            broken,
        }
    }
}

/// Standard error: a line that is renewed every second on a terminal, else a line now and then.
struct Screen {
    terminal: bool,
    /// Since the line before.
    counts: Counts,
    served: BTreeMap<Option<String>, u64>,
    failed_in_all: u64,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            counts: Counts::new(),
            served: BTreeMap::new(),
            failed_in_all: 0,
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(if self.terminal { 1 } else { 5 })
    }

    fn add(&mut self, ended: &Ended) {
        let failed = ended.failure().is_some();
        self.counts.add(ended, failed);
        self.failed_in_all += u64::from(failed);
        let cluster = ended.cluster().map(str::to_owned);
        *self.served.entry(cluster).or_default() += 1;
    }

    fn show(&mut self, elapsed: Duration, in_flight: usize) {
        let line = progress_line(&Progress {
            elapsed,
            requests: self.counts.requests,
            failed: self.counts.failed,
            in_flight,
            p50: self.counts.quantile(0.5),
            p99: self.counts.quantile(0.99),
            served: &self.served,
            failed_in_all: self.failed_in_all,
        });
        let text = if self.terminal {
            format!("\r{}\x1b[K", cut(&line))
        } else {
            format!("{line}\n")
        };
        say(&text);
        self.counts = Counts::new();
        self.served.clear();
    }

    /// Makes room for the result.
    fn clear(&self) {
        if self.terminal {
            say("\r\x1b[K");
        }
    }
}

/// A line that wraps cannot be written over.
fn cut(line: &str) -> String {
    let columns = rustix::termios::tcgetwinsize(io::stderr())
        .map_or(80, |size| usize::from(size.ws_col).max(1));
    line.chars().take(columns - 1).collect()
}

fn say(text: &str) {
    // Progress is for whoever looks; nobody may.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
