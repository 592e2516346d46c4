//! What is done to the mesh: restarts that nobody may notice, workloads that come and go, faults.
//!
//! One thing after the other, in an order that a seed gives again. A restart may fall into the time
//! in which the streams of an earlier one drain, and a fault into a restart's.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::traffic::{CLUSTERS, Chance, Harm, Scene, Timeline};
use isthmus_lab::trouble::{During, Result, Trouble, ensure};

use super::Arguments;
use super::guest::Guest;

/// Whoever acts.
#[derive(Debug)]
pub(crate) struct Acts<'a> {
    scene: &'a Scene,
    timeline: &'a Timeline,
    /// What workloads that come run.
    program: &'a Path,
    chance: Chance,
    /// All proxies and gateways, as `cluster/process`.
    serving: Vec<String>,
    /// Of those, what is to be restarted before any comes again.
    restarts: Vec<String>,
    /// What is to break before anything breaks again.
    faults: Vec<Fault>,
    guest: Option<Guest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// `cluster/process` is killed, and its supervisor starts it again.
    Kill(String),
    /// The program beside a proxy is.
    KillProgram(String),
    /// It hangs for a while.
    Pause(String),
    Cut(&'static str, &'static str),
    BlackHole(&'static str, &'static str),
    /// Every process of a cluster in which nobody calls.
    KillCluster(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Restart,
    Fault,
    Come,
    Leave,
}

/// How long something hangs, or is away.
const HANG: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(8);
/// How long a workload stays that has come.
const STAY: Duration = Duration::from_secs(40);
/// When the first of each is.
const FIRST: [u64; 3] = [15, 45, 30];
const TICK: Duration = Duration::from_millis(200);
const LINKS: [(&str, &str); 3] = [("west", "east"), ("west", "south"), ("east", "south")];
/// The only cluster that nobody calls from.
const CALLED_ONLY: &str = "south";
/// The process whose clients would lose their own connections.
const CALLER: &str = "caller";

impl<'a> Acts<'a> {
    pub(crate) fn new(
        scene: &'a Scene,
        timeline: &'a Timeline,
        program: &'a Path,
        seed: u64,
    ) -> Result<Self> {
        let running = scene.mesh.running()?;
        let mut serving: Vec<String> = running
            .into_iter()
            .filter(|(_, process, _)| process != "control")
            .map(|(cluster, process, _)| format!("{cluster}/{process}"))
            .collect();
        serving.sort_unstable();
        ensure(!serving.is_empty(), || "nothing serves".to_owned())?;
        Ok(Self {
            scene,
            timeline,
            program,
            chance: Chance::new(seed),
            serving,
            restarts: Vec::new(),
            faults: Vec::new(),
            guest: None,
        })
    }

    /// Acts until it is over. Answers what has gone wrong with that itself.
    pub(crate) fn go_on(mut self, arguments: &Arguments, over: &AtomicBool) -> Vec<String> {
        let second = Duration::from_secs;
        let [restart, fault, come] = FIRST;
        let every = |first, every: u64| (Instant::now() + second(first), second(every.max(1)));
        let mut due = [
            (Act::Restart, every(restart, arguments.restart_every)),
            (Act::Fault, every(fault, arguments.fault_every)),
            (Act::Come, every(come, arguments.guest_every)),
            (
                Act::Leave,
                every(come + STAY.as_secs(), arguments.guest_every),
            ),
        ];
        let mut troubles = Vec::new();
        while !over.load(Ordering::Relaxed) {
            for (act, (at, every)) in &mut due {
                if Instant::now() < *at || over.load(Ordering::Relaxed) {
                    continue;
                }
                *at += *every;
                if let Err(trouble) = self.perform(*act) {
                    eprintln!("trouble: {act:?}: {trouble}");
                    troubles.push(format!("{act:?}: {trouble}"));
                }
            }
            sleep(TICK);
        }
        if let Err(trouble) = self.perform(Act::Leave) {
            troubles.push(format!("{:?}: {trouble}", Act::Leave));
        }
        troubles
    }

    fn perform(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Restart => self.restart(),
            Act::Fault => self.fault(),
            Act::Come => {
                let _coming = self.timeline.begin("a workload comes", Harm::None, &[]);
                self.guest = Some(Guest::come(self.scene, self.program)?);
                Ok(())
            }
            Act::Leave => match self.guest.take() {
                Some(guest) => {
                    // It gives its streams less time than a process with a successor does.
                    let _leaving = self.timeline.begin("a workload leaves", Harm::Leave, &[]);
                    guest.leave()
                }
                None => Ok(()),
            },
        }
    }

    fn restart(&mut self) -> Result<()> {
        let name = drawn(&mut self.chance, &mut self.restarts, || {
            self.serving.clone()
        })?;
        let noun = if name.contains("/gateway-") {
            "gateway"
        } else {
            "proxy"
        };
        let what = format!("restart of {name}");
        let on = [name.clone()];
        let _restart = self.timeline.begin(what, Harm::Drain, &on);
        let said = self.scene.mesh.isthmus(&[noun, "restart", &name])?;
        said.expect(0).map(drop)
    }

    fn fault(&mut self) -> Result<()> {
        let fault = drawn(&mut self.chance, &mut self.faults, || faults(&self.serving))?;
        {
            let on = self.touched(&fault);
            let _fault = self.timeline.begin(fault.told(), fault.harm(), &on);
            self.inflict(&fault)?;
        }
        self.scene
            .whole()
            .during(|| format!("after this fault: {}", fault.told()))
    }

    fn inflict(&self, fault: &Fault) -> Result<()> {
        let mesh = &self.scene.mesh;
        let command = |words: &[&str]| mesh.isthmus(words)?.expect(0).map(drop);
        match fault {
            Fault::Kill(name) => {
                let (cluster, process) = parts(name)?;
                mesh.process(cluster, process)?.kill()
            }
            Fault::KillProgram(name) => {
                let (cluster, process) = parts(name)?;
                let address = mesh.address(cluster, process)?.to_string();
                let family = mesh.process(cluster, process)?.family()?;
                let program = family.into_iter().find(|each| {
                    let is_program = |word: &String| word == "serve" || *word == address;
                    each.command.iter().filter(|word| is_program(word)).count() == 2
                });
                let program = program.ok_or_else(|| Trouble(format!("{name} has no program")))?;
                program.kill()
            }
            Fault::Pause(name) => {
                // The one that serves is the last that was started.
                let found = mesh.running()?.into_iter().rfind(|(cluster, process, _)| {
                    parts(name).is_ok_and(|parts| parts == (cluster, process))
                });
                let found = found.ok_or_else(|| Trouble(format!("{name} does not run")))?;
                let _paused = found.2.pause()?;
                sleep(HANG);
                Ok(())
            }
            Fault::Cut(one, other) | Fault::BlackHole(one, other) => {
                let verb = match fault {
                    Fault::Cut(..) => "cut",
                    _ => "blackhole",
                };
                command(&["link", verb, one, other])?;
                sleep(AWAY);
                command(&["link", "restore", one, other])
            }
            Fault::KillCluster(cluster) => {
                command(&["cluster", "kill", cluster])?;
                sleep(AWAY);
                command(&["cluster", "start", cluster])
            }
        }
    }

    /// The processes that may end or begin by it.
    fn touched(&self, fault: &Fault) -> Vec<String> {
        match fault {
            Fault::Kill(name) | Fault::KillProgram(name) => vec![name.clone()],
            Fault::KillCluster(cluster) => {
                let of_it = |name: &&String| parts(name).is_ok_and(|(of, _)| of == *cluster);
                let mut on: Vec<String> = self.serving.iter().filter(of_it).cloned().collect();
                on.push(format!("{cluster}/control"));
                on
            }
            Fault::Pause(_) | Fault::Cut(..) | Fault::BlackHole(..) => Vec::new(),
        }
    }
}

impl Fault {
    fn told(&self) -> String {
        match self {
            Self::Kill(name) => format!("kill of {name}"),
            Self::KillProgram(name) => format!("kill of the program of {name}"),
            Self::Pause(name) => format!("pause of {name}"),
            Self::Cut(one, other) => format!("cut of {one} - {other}"),
            Self::BlackHole(one, other) => format!("black hole {one} - {other}"),
            Self::KillCluster(cluster) => format!("kill of all of {cluster}"),
        }
    }

    fn harm(&self) -> Harm {
        match self {
            Self::Kill(name) | Self::Pause(name) if name.ends_with("/control") => Harm::None,
            _ => Harm::Break,
        }
    }
}

/// Everything that can break without taking a caller's own connections along.
fn faults(serving: &[String]) -> Vec<Fault> {
    let called = serving.iter().filter(|name| !name.contains(CALLER));
    let mut faults = Vec::new();
    for name in called {
        faults.extend([Fault::Kill(name.clone()), Fault::Pause(name.clone())]);
        if !name.contains("/gateway-") {
            faults.push(Fault::KillProgram(name.clone()));
        }
    }
    for cluster in CLUSTERS {
        let control = format!("{cluster}/control");
        faults.extend([Fault::Kill(control.clone()), Fault::Pause(control)]);
    }
    for (one, other) in LINKS {
        faults.extend([Fault::Cut(one, other), Fault::BlackHole(one, other)]);
    }
    faults.push(Fault::KillCluster(CALLED_ONLY));
    faults
}

/// Takes one out of `deck`, which is filled anew when it is empty.
fn drawn<T>(chance: &mut Chance, deck: &mut Vec<T>, all: impl FnOnce() -> Vec<T>) -> Result<T> {
    if deck.is_empty() {
        *deck = all();
    }
    let place = chance.between(0, deck.len() as u64);
    let place = usize::try_from(place).unwrap_or(0);
    ensure(place < deck.len(), || "there is nothing to draw".to_owned())?;
    Ok(deck.swap_remove(place))
}

fn parts(name: &str) -> Result<(&str, &str)> {
    name.split_once('/')
        .ok_or_else(|| Trouble(format!("{name} is no CLUSTER/PROCESS")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_twice_before_everything_has_broken() {
        let serving = ["west/caller-1", "west/gateway-1", "west/near-1"].map(str::to_owned);
        let all = faults(&serving);
        let touches_a_caller = |fault: &&Fault| fault.told().contains("caller");
        assert_eq!(all.iter().find(touches_a_caller), None);
        let (mut chance, mut deck) = (Chance::new(7), Vec::new());
        let mut drawn_all = || -> Vec<String> {
            let draw = |_| {
                drawn(&mut chance, &mut deck, || faults(&serving))
                    .unwrap()
                    .told()
            };
            let mut told: Vec<String> = (0..all.len()).map(draw).collect();
            told.sort_unstable();
            told
        };
        let mut expected: Vec<String> = all.iter().map(Fault::told).collect();
        expected.sort_unstable();
        assert_eq!(drawn_all(), expected);
        assert_eq!(drawn_all(), expected);
    }
}
