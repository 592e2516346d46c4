//! Memory, descriptors and ends of every process of the mesh, looked at from outside.
//!
//! A process is flat if the median of the last quarter of its life is hardly above that of the
//! quarter before it: by then what is kept for good has been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use isthmus_lab::mesh::Mesh;
use isthmus_lab::processes::Process;
use isthmus_lab::traffic::Timeline;
use isthmus_lab::trouble::{During, Result};

/// What is known of one process.
#[derive(Debug, Clone)]
struct Life {
    /// `cluster/process`, `up`, or the program's address.
    name: String,
    /// It has taken over from another one, or is a program: it may end when its name is touched.
    follows: bool,
    /// Resident bytes and descriptors, in the order of time.
    memory: Vec<u64>,
    descriptors: Vec<u64>,
    cpu: Duration,
    begun: Instant,
}

/// Looks at everything, again and again.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    mesh: &'a Mesh,
    lives: BTreeMap<u32, Life>,
    alive: BTreeSet<u32>,
    looked: Instant,
    /// Processes that nothing was done to and that ended all the same.
    ended: Vec<String>,
}

/// What was found in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Processes that there were at all.
    pub(crate) seen: usize,
    /// Processes that lived long enough to be judged.
    pub(crate) judged: usize,
    pub(crate) grown: Vec<String>,
    pub(crate) leaking: Vec<String>,
    pub(crate) ended: Vec<String>,
    /// The largest of each name: memory at the end, in bytes, and its growth over a quarter.
    pub(crate) memory: BTreeMap<String, (u64, i64)>,
}

/// What this program itself is called.
const OWN: &str = "soak";
/// Fewer looks tell nothing of a process.
const LOOKS: usize = 16;
/// Of the last quarter above the one before.
const MEMORY_SHARE: u64 = 20;
const MEMORY_LEAST: u64 = 1 << 20;
const DESCRIPTORS_SHARE: u64 = 5;
const DESCRIPTORS_LEAST: u64 = 8;
/// What was done to a process may end it, or one that it has started, so much later.
const CONSEQUENCES: Duration = Duration::from_secs(45);

impl<'a> Watch<'a> {
    pub(crate) fn new(mesh: &'a Mesh) -> Result<Self> {
        let mut watch = Self {
            mesh,
            lives: BTreeMap::new(),
            alive: BTreeSet::new(),
            looked: Instant::now(),
            ended: Vec::new(),
        };
        watch.look_again(&Timeline::default())?;
        Ok(watch)
    }

    /// Looks at everything once more; answers how busy the mesh was since, and this program itself,
    /// as shares of one core.
    pub(crate) fn look_again(&mut self, timeline: &Timeline) -> Result<(f64, f64)> {
        let names = names(self.mesh)?;
        let now = Instant::now();
        let own = std::process::id();
        let mut family = self.mesh.supervisor()?.family()?;
        family.push(Process::with_id(own)?);
        let mut alive = BTreeSet::new();
        let mut busy = (Duration::ZERO, Duration::ZERO);
        for process in &family {
            let Some(name) = name_of(process, self.mesh, &names, own) else {
                continue;
            };
            // One that has just ended is missed at the next look.
            let (Ok(memory), Ok(descriptors), Ok(cpu)) =
                (process.resident(), process.descriptors(), process.cpu())
            else {
                continue;
            };
            alive.insert(process.pid);
            let life = self.lives.entry(process.pid).or_insert_with(|| Life {
                follows: is_follower(process),
                name,
                memory: Vec::new(),
                descriptors: Vec::new(),
                cpu: Duration::ZERO,
                begun: now,
            });
            life.memory.push(memory);
            life.descriptors.push(descriptors);
            let part = if process.pid == own {
                &mut busy.1
            } else {
                &mut busy.0
            };
            *part += cpu.saturating_sub(life.cpu);
            life.cpu = cpu;
        }
        let ended: Vec<u32> = self.alive.difference(&alive).copied().collect();
        for pid in ended {
            self.has_ended(pid, timeline);
        }
        self.alive = alive;
        let took = now.saturating_duration_since(self.looked).as_secs_f64();
        self.looked = now;
        let share = |time: Duration| time.as_secs_f64() / took.max(0.001);
        Ok((share(busy.0), share(busy.1)))
    }

    fn has_ended(&mut self, pid: u32, timeline: &Timeline) {
        let Some(life) = self.lives.get(&pid) else {
            return;
        };
        let episodes = timeline.episodes();
        let mut done = episodes.iter().filter(|each| {
            let over = each.ended.is_some_and(|at| at + CONSEQUENCES < self.looked);
            // A restart ends no process that stays for its service, nor the program.
            let may = life.follows || !each.what.starts_with("restart");
            !over && may && each.on.contains(&life.name)
        });
        if done.next().is_none() {
            let lived = life.begun.elapsed().as_secs();
            let what = timeline.around(Instant::now());
            self.ended.push(format!(
                "{} (process {pid}) after {lived} s; meanwhile: {what}",
                life.name
            ));
        }
    }

    /// What all looks together say.
    pub(crate) fn judge(self) -> Found {
        let mut found = Found {
            seen: self.lives.len(),
            judged: 0,
            grown: Vec::new(),
            leaking: Vec::new(),
            ended: self.ended,
            memory: BTreeMap::new(),
        };
        for (pid, life) in &self.lives {
            let Some((before, after)) = quarters(&life.memory) else {
                continue;
            };
            let growth = after.cast_signed() - before.cast_signed();
            let largest = found.memory.entry(life.name.clone()).or_default();
            *largest = (*largest).max((after, growth));
            if life.name == OWN {
                // It keeps what it has measured.
                continue;
            }
            found.judged += 1;
            let at = |text: String| format!("{} (process {pid}): {text}", life.name);
            if grows(before, after, MEMORY_SHARE, MEMORY_LEAST) {
                let text = format!("{} to {} KiB", before >> 10, after >> 10);
                found.grown.push(at(text));
            }
            if let Some((before, after)) = quarters(&life.descriptors)
                && grows(before, after, DESCRIPTORS_SHARE, DESCRIPTORS_LEAST)
            {
                found
                    .leaking
                    .push(at(format!("{before} to {after} descriptors")));
            }
        }
        found
    }
}

/// Medians of the third and the fourth quarter.
fn quarters(series: &[u64]) -> Option<(u64, u64)> {
    if series.len() < LOOKS {
        return None;
    }
    let part = series.len() / 4;
    let (rest, fourth) = series.split_at(series.len() - part);
    let third = &rest[rest.len() - part..];
    Some((median(third)?, median(fourth)?))
}

fn median(series: &[u64]) -> Option<u64> {
    let mut sorted = series.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// More than a `share`th, and more than `least`.
fn grows(before: u64, after: u64, share: u64, least: u64) -> bool {
    after > before + least.max(before / share)
}

/// Names of all processes of the plan, by their addresses.
fn names(mesh: &Mesh) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for (cluster, process, _) in mesh.running()? {
        let address = mesh.address(&cluster, &process)?;
        names.insert(address.to_string(), format!("{cluster}/{process}"));
    }
    Ok(names)
}

/// `None`: it is none of the mesh's.
fn name_of(
    process: &Process,
    mesh: &Mesh,
    names: &BTreeMap<String, String>,
    own: u32,
) -> Option<String> {
    if process.pid == own {
        return Some(OWN.to_owned());
    }
    if process.command.iter().any(|word| word == "serve") {
        return process
            .command
            .iter()
            .find_map(|word| names.get(word).cloned());
    }
    if process.command.iter().any(|word| word == "up") {
        return Some("up".to_owned());
    }
    let clusters = mesh.home().join("clusters");
    let name = |word: &String| {
        let path = Path::new(word).strip_prefix(&clusters).ok()?;
        let name = path.parent()?;
        match path.file_name()?.to_str()? {
            "control.yaml" => Some(format!("{}/control", name.display())),
            _ => Some(name.display().to_string()),
        }
    };
    process.command.iter().find_map(name)
}

fn is_follower(process: &Process) -> bool {
    let marks = ["--take-over", "serve"];
    let mut words = process.command.iter();
    words.any(|word| marks.contains(&word.as_str()))
}

/// Lines of all logs that tell of a panic.
pub(crate) fn panics(mesh: &Mesh) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![mesh.home().join("logs")];
    while let Some(folder) = folders.pop() {
        let during = || folder.display().to_string();
        for entry in fs::read_dir(&folder).during(during)? {
            let path = entry.during(during)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).during(|| path.display().to_string())?;
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            found.extend(lines.map(|line| format!("{}: {line}", path.display())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_still_grows_late_in_life_is_told_from_what_has_grown() {
        let series = |growth: &dyn Fn(u64) -> u64| (0..40).map(growth).collect::<Vec<u64>>();
        let mib = 1 << 20;
        for (what, series, expect) in [
            ("steady", series(&|_| 40 * mib), false),
            ("warm", series(&|at| (20 + at.min(20)) * mib), false),
            ("leak", series(&|at| (40 + at) * mib), true),
            (
                "one peak",
                series(&|at| if at == 38 { 90 * mib } else { 40 * mib }),
                false,
            ),
        ] {
            let (before, after) = quarters(&series).unwrap();
            let found = grows(before, after, MEMORY_SHARE, MEMORY_LEAST);
            assert_eq!(found, expect, "{what}: {before} to {after}");
        }
        assert_eq!(quarters(&[1; LOOKS - 1]), None);
    }
}
