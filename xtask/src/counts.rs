//! How many instructions it takes to do what every request pays for, held against `counts.txt`.
//!
//! What is counted are ordinary tests: those of files `tests/counts.rs`, and of modules `counts`. Each
//! does one thing a hundred times in a function `counted`, and callgrind counts what happens in there.

mod measure;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

const FILE: &str = "counts.txt";
const ACCEPT: &str = "make counts ARGS=--accept";

/// What a count may grow by before somebody has to say why.
const TOLERANCE: u64 = 5;

/// Counts, and compares with the baseline: does it hold? With `accept`, what was counted is the
/// baseline from now on.
pub(crate) fn run(root: &Path, accept: bool) -> Result<bool, String> {
    let path = root.join(FILE);
    if accept {
        let counts = Counts::measured(root)?;
        std::fs::write(&path, counts.to_string())
            .map_err(|error| format!("writing {FILE}: {error}"))?;
        println!("{FILE} is written; the commit says why");
        return Ok(true);
    }
    let before = std::fs::read_to_string(&path);
    let before = before.map_err(|error| format!("reading {FILE}: {error}; {ACCEPT} writes it"))?;
    let before = Counts::parse(&before)?;
    let compared = Compared::new(&before, &Counts::measured(root)?);
    print!("{compared}");
    Ok(compared.holds())
}

/// Instructions by the name of what was done, and the compiler and machine that it was done with.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    with: String,
    counts: BTreeMap<String, u64>,
}

impl Counts {
    fn measured(root: &Path) -> Result<Self, String> {
        let with = measure::compiler()?;
        let counts = measure::all(root)?;
        Ok(Self { with, counts })
    }

    /// The first line says with what, each other one is a name and a number.
    fn parse(text: &str) -> Result<Self, String> {
        let (with, lines) = text.split_once('\n').unwrap_or((text, ""));
        let counts = lines.lines().enumerate().map(|(index, line)| {
            let count = line.rsplit_once(' ').and_then(|(name, count)| {
                let count = count.parse().ok().filter(|&count| count > 0)?;
                Some((name.to_owned(), count))
            });
            count.ok_or_else(|| format!("{FILE}:{}: not a name and a number", index + 2))
        });
        Ok(Self {
            with: with.to_owned(),
            counts: counts.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.with)?;
        for (name, count) in &self.counts {
            writeln!(f, "{name} {count}")?;
        }
        Ok(())
    }
}

/// What has become of each count.
struct Compared {
    rows: Vec<Row>,
    /// Before and now, if they are not the same.
    compilers: Option<(String, String)>,
}

struct Row {
    name: String,
    before: Option<u64>,
    now: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Grown,
    Shrunk,
    Alike,
    New,
    Gone,
}

impl Row {
    fn change(&self) -> Change {
        match (self.before, self.now) {
            (Some(before), Some(now)) if now * 100 > before * (100 + TOLERANCE) => Change::Grown,
            (Some(before), Some(now)) if now * 100 < before * (100 - TOLERANCE) => Change::Shrunk,
            (Some(_), Some(_)) => Change::Alike,
            (None, _) => Change::New,
            (_, None) => Change::Gone,
        }
    }

    /// Such as `+1.5 %`.
    fn percent(&self) -> Option<String> {
        let (before, now) = (self.before?, self.now?);
        let permille = now.abs_diff(before) * 1000 / before;
        let sign = if now < before { '-' } else { '+' };
        Some(format!("{sign}{}.{} %", permille / 10, permille % 10))
    }
}

impl Compared {
    fn new(before: &Counts, now: &Counts) -> Self {
        let names: BTreeSet<&String> = before.counts.keys().chain(now.counts.keys()).collect();
        let row = |name: &String| Row {
            name: name.clone(),
            before: before.counts.get(name).copied(),
            now: now.counts.get(name).copied(),
        };
        Self {
            rows: names.into_iter().map(row).collect(),
            compilers: (before.with != now.with).then(|| (before.with.clone(), now.with.clone())),
        }
    }

    fn has(&self, change: Change) -> bool {
        self.rows.iter().any(|row| row.change() == change)
    }

    fn holds(&self) -> bool {
        ![Change::Grown, Change::New, Change::Gone]
            .iter()
            .any(|&change| self.has(change))
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or_default();
        let shown = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |c| c.to_string());
        writeln!(
            f,
            "{:width$}  {:>9}  {:>9}  CHANGE",
            "INSTRUCTIONS", "BEFORE", "NOW"
        )?;
        for row in &self.rows {
            let word = match row.change() {
                Change::Grown => "grown",
                Change::Shrunk => "shrunk",
                Change::Alike => "",
                Change::New => "new",
                Change::Gone => "gone",
            };
            let (before, now) = (shown(row.before), shown(row.now));
            let percent = row.percent().unwrap_or_default();
            let line = format!(
                "{:width$}  {before:>9}  {now:>9}  {percent:>8}  {word}",
                row.name
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some((before, now)) = &self.compilers {
            writeln!(f, "{FILE} was written with {before}; this is {now}")?;
        }
        if self.has(Change::Grown) {
            writeln!(
                f,
                "more instructions than {FILE} allows, by more than {TOLERANCE} %: do with fewer, or move \
                 it in the same commit ({ACCEPT}) and say there why it is worth that"
            )?;
        }
        if self.has(Change::New) || self.has(Change::Gone) {
            writeln!(f, "{FILE} does not list what is counted: {ACCEPT} mends it")?;
        }
        if self.has(Change::Shrunk) {
            writeln!(
                f,
                "fewer instructions than {FILE} says: {ACCEPT} keeps it so"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "rustc 1\na 1000\nb::c 200\n";

    fn compare(now: &str) -> Compared {
        Compared::new(
            &Counts::parse(BEFORE).unwrap(),
            &Counts::parse(now).unwrap(),
        )
    }

    #[test]
    fn the_baseline_reads_what_it_writes_and_nothing_else() {
        assert_eq!(Counts::parse(BEFORE).unwrap().to_string(), BEFORE);
        for wrong in ["x\na", "x\na b", "x\na -1", "x\na 0", "x\n\n"] {
            assert!(Counts::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_count_may_grow_by_five_percent_and_must_be_listed() {
        for (now, holds, told) in [
            ("rustc 1\na 1050\nb::c 200\n", true, "+5.0 %"),
            ("rustc 1\na 1051\nb::c 200\n", false, "+5.1 %  grown"),
            ("rustc 1\na 950\nb::c 200\n", true, "-5.0 %"),
            ("rustc 1\na 100\nb::c 200\n", true, "-90.0 %  shrunk"),
            ("rustc 1\na 1000\n", false, "-            gone"),
            ("rustc 1\na 1000\nb::c 200\nd 1\n", false, "new"),
            ("rustc 2\na 1000\nb::c 200\n", true, "this is rustc 2"),
        ] {
            let compared = compare(now);
            assert_eq!(compared.holds(), holds, "{compared}");
            assert!(compared.to_string().contains(told), "{told}: {compared}");
        }
    }
}
