//! Finds the tests that are counted, and has callgrind count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Crates with counts.
const PACKAGES: [&str; 2] = ["isthmus-codec", "isthmus-proxy"];

/// How often each test does what it is named for.
const TIMES: u64 = 100;

/// One that is counted.
struct Test {
    /// In the baseline: the crate's folder and the test.
    name: String,
    /// As its program calls it.
    path: String,
    program: Program,
}

/// What tests of one target were compiled to.
#[derive(Clone)]
struct Program {
    file: PathBuf,
    /// Of the crate: tests are run there.
    folder: PathBuf,
    /// Every test of it is counted, not only those of modules `counts`.
    all: bool,
}

/// The compiler and what it compiles for: with another one, counts are others.
pub(super) fn compiler() -> Result<String, String> {
    let told = output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    let version = told.lines().next().unwrap_or_default();
    Ok(format!("{version}, {}", host.unwrap_or_default()))
}

/// Everything that is counted.
pub(super) fn all(root: &Path) -> Result<BTreeMap<String, u64>, String> {
    let mut tests = Vec::new();
    for program in compile(root)? {
        tests.extend(program.tests()?);
    }
    let mut counts = BTreeMap::new();
    for (index, test) in tests.iter().enumerate() {
        eprintln!("counting {}/{}: {}", index + 1, tests.len(), test.name);
        if counts.insert(test.name.clone(), test.count()?).is_some() {
            return Err(format!("two tests are called {}", test.name));
        }
    }
    Ok(counts)
}

/// As released, allocator included, but for link-time optimisation.
fn compile(root: &Path) -> Result<Vec<Program>, String> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.current_dir(root);
    cargo.args(["test", "--profile", "counts", "--no-run"]);
    cargo.args(["--lib", "--test", "counts"]);
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    let messages = output(cargo.stderr(Stdio::inherit()))?;
    Ok(messages.lines().filter_map(Program::of_message).collect())
}

impl Program {
    /// What a line of cargo's tells of, if that is a program.
    fn of_message(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let file = message["executable"].as_str()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        Some(Self {
            file: file.into(),
            folder: manifest.parent()?.to_owned(),
            all: message["target"]["name"] == "counts",
        })
    }

    fn tests(&self) -> Result<Vec<Test>, String> {
        let listed = output(Command::new(&self.file).args(["--list", "--format", "terse"]))?;
        let paths = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"));
        let folder = self.folder.file_name().unwrap_or_default();
        let tests = paths.filter_map(|path| {
            let short: Vec<&str> = path.split("::").filter(|&part| part != "counts").collect();
            let is_counted = self.all || path.split("::").any(|part| part == "counts");
            is_counted.then(|| Test {
                name: format!("{}::{}", folder.display(), short.join("::")),
                path: path.to_owned(),
                program: self.clone(),
            })
        });
        Ok(tests.collect())
    }
}

impl Test {
    /// Instructions of doing once what the test is named for.
    fn count(&self) -> Result<u64, String> {
        let mut valgrind = Command::new("valgrind");
        valgrind.current_dir(&self.program.folder);
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg("--toggle-collect=*::counted*");
        valgrind.arg(&self.program.file);
        valgrind.args(["--exact", &self.path, "--test-threads=1"]);
        let (output, words) = run(&mut valgrind)?;
        if !output.status.success() {
            return Err(format!("{} fails:\n{words}", self.name));
        }
        let collected = words
            .lines()
            .find_map(|line| line.split_once("Collected :"));
        collected
            .and_then(|(_, count)| count.trim().parse::<u64>().ok())
            .map(|count| count / TIMES)
            .filter(|&count| count > 0)
            .ok_or_else(|| format!("{}: nothing happens in `counted`:\n{words}", self.name))
    }
}

/// What a program says that has to succeed.
fn output(command: &mut Command) -> Result<String, String> {
    let (output, words) = run(command)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} fails\n{words}", program_of(command)))
    }
}

/// With all that it says.
fn run(command: &mut Command) -> Result<(Output, String), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        let program = program_of(command);
        format!("{program}: {error}; scripts/bootstrap counts installs what is missing")
    })?;
    let words = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output, String::from_utf8_lossy(&words).into_owned()))
}

fn program_of(command: &Command) -> String {
    command.get_program().display().to_string()
}
