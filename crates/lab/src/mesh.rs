//! A whole mesh as its user has it: the binary `isthmus`, a home of its own, example files.
//!
//! Whatever happens, dropping a [`Mesh`] takes the mesh and its home down with it; unless all has
//! passed, its logs are put aside and their place is printed.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::spawn;
use std::time::Duration;

use serde_json::Value;

use crate::processes::Process;
use crate::trouble::{During, Result, Trouble, ensure, trouble, wait_for};

/// A mesh of this machine.
#[derive(Debug)]
pub struct Mesh {
    binary: PathBuf,
    /// Holds the files and the home; goes with the mesh.
    folder: PathBuf,
    /// `up`, while it runs as a child of this process.
    up: Option<Child>,
    /// Nothing has failed: its logs are not needed.
    passed: bool,
}

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// How long a command may run.
const LONGEST: Duration = Duration::from_mins(3);
/// How long `up` may take to be ready, on a machine that is busy.
const UP_LIMIT: Duration = Duration::from_mins(1);
/// How long whatever was asked for may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the meshes of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Mesh {
    /// A mesh that does not run yet, of a copy of the files in `example`.
    ///
    /// Errors: a program that it takes is missing; says which, and how to have it.
    pub fn of(binary: &Path, example: &Path) -> Result<Self> {
        prerequisites(binary)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a socket has at most 107 bytes.
        let name = format!("isthmus-lab-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let files = folder.join("files");
        fs::create_dir_all(&files).during(|| files.display().to_string())?;
        let mesh = Self {
            binary: binary.to_owned(),
            folder,
            up: None,
            passed: false,
        };
        for entry in fs::read_dir(example).during(|| example.display().to_string())? {
            let from = entry.during(|| example.display().to_string())?.path();
            let to = files.join(from.file_name().unwrap_or_default());
            fs::copy(&from, to).during(|| format!("copying {}", from.display()))?;
        }
        Ok(mesh)
    }

    /// Its copy of the example.
    pub fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Replaces `old`, which must stand there, everywhere in one of its files.
    pub fn edit(&self, file: &str, old: &str, new: &str) -> Result<()> {
        let path = self.files().join(file);
        let text = fs::read_to_string(&path).during(|| path.display().to_string())?;
        ensure(text.contains(old), || format!("{file} has no {old:?}"))?;
        fs::write(&path, text.replace(old, new)).during(|| path.display().to_string())
    }

    /// Writes a file beside the mesh's own, which `up` does not read.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).during(|| path.display().to_string())?;
        Ok(path)
    }

    /// Starts `up` with more `arguments` as a child of this process, and waits until it is ready.
    pub fn up(&mut self, arguments: &[&str]) -> Result<()> {
        let log = self.up_log_path();
        let during = || log.display().to_string();
        let output = File::create(&log).during(during)?;
        let errors = output.try_clone().during(during)?;
        let parent = std::process::id().to_string();
        let files = self.files();
        let child = self
            .command(&["--die-with-parent", &parent, "up", "-f"])
            .arg(files)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .during(|| self.binary.display().to_string())?;
        self.up = Some(child);
        wait_for("`up` to be ready", UP_LIMIT, || {
            let said = self.up_log()?;
            ensure(said.lines().any(|line| line == "ready"), || {
                format!("it has said:\n{said}")
            })
        })
    }

    /// All that the last `up` has said.
    pub fn up_log(&self) -> Result<String> {
        let path = self.up_log_path();
        fs::read_to_string(&path).during(|| path.display().to_string())
    }

    fn up_log_path(&self) -> PathBuf {
        self.folder.join("up.log")
    }

    /// The process of `up`, the relay between the clusters included.
    ///
    /// Errors: it was not started by [`Mesh::up`].
    pub fn supervisor(&self) -> Result<Process> {
        match &self.up {
            Some(child) => Process::with_id(child.id()),
            None => trouble("`up` is not a child of this process"),
        }
    }

    /// Stops the mesh and keeps its home.
    pub fn down(&mut self) -> Result<()> {
        self.isthmus(&["down"])?.expect(0)?;
        self.reap();
        Ok(())
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.up.take() {
            // `down` has waited for it; if that failed, nothing better can be done.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs a command on this mesh to its end.
    pub fn isthmus(&self, arguments: &[&str]) -> Result<Said> {
        run(&mut self.command(arguments))
    }

    /// What a command prints with `-o json`. Errors: it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.isthmus(&[arguments, &["-o", "json"]].concat())?;
        let said = said.expect(0)?;
        serde_json::from_str(&said.out).during(|| format!("{arguments:?} printed {}", said.out))
    }

    /// A command on this mesh, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("ISTHMUS_HOME", self.home()).args(arguments);
        for name in ["HTTP_PROXY", "http_proxy", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        command
    }

    /// Where a workload's proxy takes calls of its program.
    pub fn outbound(&self, cluster: &str, process: &str) -> Result<SocketAddr> {
        Ok((self.address(cluster, process)?, 15001).into())
    }

    /// Where a process serves its metrics and health.
    pub fn admin(&self, cluster: &str, process: &str) -> Result<SocketAddr> {
        Ok((self.address(cluster, process)?, 15020).into())
    }

    /// The address of a process, as its configuration file has it.
    pub fn address(&self, cluster: &str, process: &str) -> Result<IpAddr> {
        let folder = self.home().join("clusters").join(cluster);
        let candidates = match process {
            "control" => vec![folder.join("control.yaml")],
            _ => ["run.yaml", "gateway.yaml"]
                .map(|name| folder.join(process).join(name))
                .to_vec(),
        };
        let text = candidates
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        let mut line = text.as_deref().into_iter().flat_map(str::lines);
        let address = line.find_map(|line| line.strip_prefix("address:"));
        address
            .and_then(|address| address.trim().trim_matches('"').parse().ok())
            .ok_or_else(|| Trouble(format!("there is no process {cluster}/{process}")))
    }

    /// A gauge or counter of a process, summed over the label sets in which `label="value"` of all
    /// `labels` stand.
    pub fn metric(
        &self,
        (cluster, process): (&str, &str),
        name: &str,
        labels: &[&str],
    ) -> Result<f64> {
        let admin = self.admin(cluster, process)?;
        let page = crate::http::get(admin, "/metrics", &[])?.expect(200)?;
        let text = page.text();
        let lines = text.lines().filter(|line| {
            let named = line.strip_prefix(name);
            named.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let value = |line: &str| {
            line.rsplit(' ')
                .next()
                .and_then(|text| text.parse::<f64>().ok())
        };
        // A sum of nothing is -0.
        Ok(lines.filter_map(value).sum::<f64>() + 0.0)
    }

    /// The running process `cluster/process`: for a workload its proxy, not its program.
    pub fn process(&self, cluster: &str, process: &str) -> Result<Process> {
        let folder = self.home().join("clusters").join(cluster);
        let (own, control) = (folder.join(process), folder.join("control.yaml"));
        let is_it = |word: &String| match process {
            "control" => Path::new(word) == control,
            _ => Path::new(word).parent() == Some(&own),
        };
        let family = self.supervisor()?.family()?;
        let found = family
            .into_iter()
            .find(|each| each.command.iter().any(is_it));
        found.ok_or_else(|| Trouble(format!("{cluster}/{process} does not run")))
    }

    /// All processes that `up` has started and that run, as `(cluster, process)`: control planes,
    /// gateways, proxies.
    pub fn running(&self) -> Result<Vec<(String, String, Process)>> {
        let clusters = self.home().join("clusters");
        let name = |word: &String| -> Option<(String, String)> {
            let path = Path::new(word).strip_prefix(&clusters).ok()?;
            let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
            match parts[..] {
                [cluster, "control.yaml"] => Some((cluster.to_owned(), "control".to_owned())),
                [cluster, process, _] => Some((cluster.to_owned(), process.to_owned())),
                _ => None,
            }
        };
        let family = self.supervisor()?.family()?;
        let found = family.into_iter().filter_map(|each| {
            let (cluster, process) = each.command.iter().find_map(name)?;
            Some((cluster, process, each))
        });
        Ok(found.collect())
    }

    /// All that was to be seen was seen: takes the mesh down and keeps nothing.
    pub fn pass(mut self) {
        self.passed = true;
    }

    /// Does `cluster` see everything as it should be: itself and all others, connected and healthy?
    ///
    /// Errors: what is not.
    pub fn is_whole(&self, cluster: &str) -> Result<()> {
        is_whole(cluster, &self.json(&["--cluster", cluster, "status"])?)
    }

    /// Puts the logs aside, where they outlive the mesh.
    fn keep_logs(&self) {
        let kept = self.folder.with_extension("failed");
        let moved = fs::rename(self.home().join("logs"), &kept)
            .and_then(|()| fs::rename(self.up_log_path(), kept.join("up.log")));
        match moved {
            Ok(()) => eprintln!("the mesh's logs are in {}", kept.display()),
            Err(error) => eprintln!("the mesh's logs could not be kept: {error}"),
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let stopped = self.isthmus(&["down"]).and_then(|said| said.expect(0));
        self.reap();
        if !self.passed {
            self.keep_logs();
        }
        let purged = self.isthmus(&["down", "--purge", "--yes"]);
        let purged = purged.and_then(|said| said.expect(0));
        for trouble in stopped.err().into_iter().chain(purged.err()) {
            eprintln!("taking the mesh down: {trouble}");
        }
        // Nothing but what was made here is in it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Said {
    /// Errors: the command ended with another code.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure(self.code == Some(code), || {
            format!(
                "exit code {:?} instead of {code}\n{}{}",
                self.code, self.out, self.err
            )
        })?;
        Ok(self)
    }

    /// Errors: the command has not ended with this code and said all of `texts` on standard error.
    pub fn expect_failure(self, code: i32, texts: &[&str]) -> Result<Self> {
        let said = self.expect(code)?;
        for text in texts {
            ensure(said.err.contains(text), || {
                format!("{text:?} is not in what was said:\n{}", said.err)
            })?;
        }
        Ok(said)
    }
}

/// Does what `status` says of `cluster` show everything as it should be?
///
/// Errors: what is not.
pub(crate) fn is_whole(cluster: &str, status: &Value) -> Result<()> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let clusters = list(&status["clusters"]);
    for other in &clusters {
        let contact = &other["contact"];
        ensure(contact == "own" || contact == "live", || {
            format!("{cluster} has no contact with {other}")
        })?;
    }
    for proxy in list(&status["proxies"]) {
        ensure(proxy["connected"] == true, || {
            format!("{cluster} does not hear from {proxy}")
        })?;
    }
    for service in list(&status["services"]) {
        let healthy = |share: &Value| share["healthy"] == share["total"];
        ensure(list(&service["clusters"]).iter().all(healthy), || {
            format!("{cluster} sees {service}")
        })?;
    }
    ensure(!clusters.is_empty(), || {
        format!("{cluster} knows no cluster")
    })
}

/// Runs a program to its end; one that has not ended within [`LONGEST`] is killed.
pub fn run(command: &mut Command) -> Result<Said> {
    let what = format!("{command:?}");
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().during(|| what.clone())?;
    let process = Process::with_id(child.id());
    let (ended, end) = channel();
    spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(LONGEST) else {
        process.and_then(|process| process.kill())?;
        return trouble(format!("{what} did not end within {} s", LONGEST.as_secs()));
    };
    let output = output.during(|| what)?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn prerequisites(binary: &Path) -> Result<()> {
    for program in [binary.to_owned(), binary.with_file_name("isthmus-demo")] {
        ensure(program.is_file(), || {
            format!(
                "{} is missing: run `cargo build --workspace`",
                program.display()
            )
        })?;
    }
    for program in ["redis-server", "curl"] {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        ensure(found.is_ok(), || {
            format!("the program {program} is missing: install it, or run `make test`, which does")
        })?;
    }
    Ok(())
}
