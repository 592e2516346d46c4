//! What is done to control planes and to the links between them, one thing after the other, as a seed says.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use crate::mesh::Mesh;
use crate::traffic::Chance;
use crate::trouble::{Result, trouble};

/// One thing that goes wrong and is mended again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its control plane is killed and stays away.
    Kill(String, Duration),
    /// It is killed, and its supervisor starts it at once.
    Crash(String),
    /// It hangs.
    Pause(String, Duration),
    Cut(String, String, Duration),
    /// Connections stay open, and nothing passes.
    BlackHole(String, String, Duration),
    /// The second does not hear the first, which hears it.
    OneWay(String, String, Duration),
    /// Neither of the links of a cluster passes anything.
    Isolate(String, Duration),
    /// A link comes and goes.
    Flap(String, String),
    /// Two of three are away: nobody may accept anything.
    Minority(String, Duration),
}

/// How often a link comes and goes, and how long it stays so.
const FLAPS: usize = 8;
const FLAP: Duration = Duration::from_millis(250);
/// What is away stays away for so many milliseconds at least: some are back before anybody else leads.
const AWAY: u64 = 300;

/// So many faults, none of them longer than `longest`: all kinds before any comes again, in an order and on clusters
/// that are drawn.
pub(super) fn draw(
    chance: &mut Chance,
    clusters: &[&str],
    count: usize,
    longest: Duration,
) -> Vec<Fault> {
    let mut deck: Vec<u64> = Vec::new();
    (0..count)
        .filter_map(|_| {
            if deck.is_empty() {
                deck = (0..KINDS).collect();
            }
            let place = chance.between(0, deck.len() as u64);
            let kind = deck.swap_remove(usize::try_from(place).ok()?);
            one(chance, clusters, kind, longest)
        })
        .collect()
}

const KINDS: u64 = 9;

fn one(chance: &mut Chance, clusters: &[&str], kind: u64, longest: Duration) -> Option<Fault> {
    let cluster = (*chance.pick(clusters)?).to_owned();
    let others: Vec<&str> = clusters
        .iter()
        .copied()
        .filter(|other| *other != cluster)
        .collect();
    let other = (*chance.pick(&others)?).to_owned();
    let longest = u64::try_from(longest.as_millis()).ok()?;
    let away = Duration::from_millis(chance.between(AWAY, longest));
    Some(match kind {
        0 => Fault::Kill(cluster, away),
        1 => Fault::Crash(cluster),
        2 => Fault::Pause(cluster, away),
        3 => Fault::Cut(cluster, other, away),
        4 => Fault::BlackHole(cluster, other, away),
        5 => Fault::Isolate(cluster, away),
        6 => Fault::Flap(cluster, other),
        7 => Fault::OneWay(cluster, other, away),
        _ => Fault::Minority(cluster, away),
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(one, away) => write!(f, "{one} is killed for {away:?}"),
            Self::Crash(one) => write!(f, "{one} crashes"),
            Self::Pause(one, away) => write!(f, "{one} hangs for {away:?}"),
            Self::Cut(one, other, away) => write!(f, "{one} - {other} is cut for {away:?}"),
            Self::BlackHole(one, other, away) => {
                write!(f, "{one} - {other} is a black hole for {away:?}")
            }
            Self::OneWay(one, other, away) => {
                write!(f, "{other} does not hear {one} for {away:?}")
            }
            Self::Isolate(one, away) => write!(f, "{one} hears nobody for {away:?}"),
            Self::Flap(one, other) => write!(f, "{one} - {other} comes and goes"),
            Self::Minority(one, away) => write!(f, "only {one} is left for {away:?}"),
        }
    }
}

impl Fault {
    /// Begins it, waits, and mends it.
    pub(super) fn inflict(&self, mesh: &Mesh, clusters: &[&str]) -> Result<()> {
        let run = |words: &[&str]| mesh.isthmus(words)?.expect(0).map(drop);
        let others = |one: &str| {
            let others = clusters.iter().copied().filter(|other| *other != one);
            others.collect::<Vec<_>>()
        };
        let links = |verb: &str, one: &str| {
            others(one)
                .into_iter()
                .try_for_each(|other| run(&["link", verb, one, other]))
        };
        match self {
            Self::Kill(one, away) => {
                run(&["control", "kill", one])?;
                sleep(*away);
                run(&["control", "start", one])
            }
            Self::Crash(one) => mesh.process(one, "control")?.kill(),
            Self::Pause(one, away) => {
                let _paused = mesh.process(one, "control")?.pause()?;
                sleep(*away);
                Ok(())
            }
            Self::Cut(one, other, away) | Self::BlackHole(one, other, away) => {
                let verb = match self {
                    Self::Cut(..) => "cut",
                    _ => "blackhole",
                };
                run(&["link", verb, one, other])?;
                sleep(*away);
                run(&["link", "restore", one, other])
            }
            Self::OneWay(one, other, away) => {
                run(&["link", "blackhole", "--one-way", one, other])?;
                sleep(*away);
                run(&["link", "restore", one, other])
            }
            Self::Isolate(one, away) => {
                links("blackhole", one)?;
                sleep(*away);
                links("restore", one)
            }
            Self::Flap(one, other) => {
                for _ in 0..FLAPS {
                    run(&["link", "cut", one, other])?;
                    sleep(FLAP);
                    run(&["link", "restore", one, other])?;
                    sleep(FLAP);
                }
                Ok(())
            }
            Self::Minority(one, away) => {
                let others = others(one);
                if others.is_empty() {
                    return trouble("a minority needs others");
                }
                others
                    .iter()
                    .try_for_each(|other| run(&["control", "kill", other]))?;
                sleep(*away);
                others
                    .iter()
                    .try_for_each(|other| run(&["control", "start", other]))
            }
        }
    }
}
