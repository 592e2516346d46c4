//! docs/by-hand.md, typed as it stands there, with certificates that live for seconds: they are
//! renewed while requests flow.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use isthmus_lab::http;
use isthmus_lab::mesh::PATIENCE;
use isthmus_lab::trouble::{During, Result, Trouble, ensure, trouble, wait_for};

const BY_HAND: &str = include_str!("../../../docs/by-hand.md");
/// Where the document puts the frontend.
const FRONTEND: &str = "127.200.1.11";
const CATALOG: &str = "http://catalog.shop.mesh/";
/// Appended to the document's `control.yaml`.
const SHORT: &str = "leafLifetime: 10s\nrenewAfter: 2s\n";

#[test]
fn a_mesh_by_hand_renews_its_certificates_under_way() -> Result<()> {
    let folder = tempfile::tempdir().during(|| "a folder".to_owned())?;
    let shell = Shell::start(folder.path(), &script()?)?;
    let (caller, admin) = (at(15001)?, at(15020)?);
    wait_for("the mesh of the document", PATIENCE, || {
        shell.still_runs()?;
        http::get(caller, CATALOG, &[])?.expect(200)
    })?;
    // Twice: what was renewed once is renewed again with what the renewal gave.
    for _ in 0..2 {
        let before = expiry(admin)?;
        wait_for("a certificate to be renewed", PATIENCE, || {
            http::get(caller, CATALOG, &[])?.expect(200)?;
            let now = expiry(admin)?;
            ensure(now > before, || format!("it ends at {now}"))
        })?;
    }
    shell.end()
}

/// All that the document has the reader type, in its order.
fn script() -> Result<String> {
    let mut script = String::new();
    let mut rest = BY_HAND;
    while let Some((_, block)) = rest.split_once("```sh\n") {
        let (block, after) = block.split_once("```\n").unwrap_or((block, ""));
        script.push_str(block);
        rest = after;
    }
    // What it leaves in the background ends with the shell, whatever becomes of that.
    let script: String = script
        .lines()
        .map(|line| match line.trim_start().strip_prefix("isthmus ") {
            Some(command) if line.ends_with(" &") => {
                format!("isthmus --die-with-parent $$ {command}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let shortened = script.replacen("\napiTokens:", &format!("\n{SHORT}apiTokens:"), 1);
    ensure(shortened != script, || {
        "the document's control.yaml has no apiTokens".to_owned()
    })?;
    Ok(shortened)
}

fn at(port: u16) -> Result<SocketAddr> {
    let address = FRONTEND.parse().during(|| FRONTEND.to_owned())?;
    Ok(SocketAddr::new(address, port))
}

/// When the frontend's certificate ends, in seconds since 1970.
fn expiry(admin: SocketAddr) -> Result<f64> {
    let url = format!("http://{admin}/metrics");
    let page = http::get(admin, &url, &[])?.expect(200)?.text();
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix("isthmus_leaf_expiry_timestamp_seconds "));
    let value = value.ok_or_else(|| Trouble(format!("no expiry in {page}")))?;
    value.parse().during(|| value.to_owned())
}

/// A shell that has typed the script and waits for its input to end. All that it started ends with
/// it.
struct Shell(Child);

impl Shell {
    fn start(folder: &Path, script: &str) -> Result<Self> {
        let binary = Path::new(env!("CARGO_BIN_EXE_isthmus"));
        let programs = binary.parent().expect("a file is in a folder");
        let path = std::env::var("PATH").during(|| "PATH".to_owned())?;
        let log = folder.join("shell.log");
        let output = fs::File::create(&log).during(|| log.display().to_string())?;
        let errors = output.try_clone().during(|| log.display().to_string())?;
        let text =
            format!("set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n{script}\nread -r _ || true\n");
        let child = Command::new("bash")
            .args(["-c", &text])
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", programs.display()))
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .during(|| "bash".to_owned())?;
        Ok(Self(child))
    }

    fn still_runs(&self) -> Result<()> {
        isthmus_lab::processes::Process::with_id(self.0.id()).map(drop)
    }

    fn end(mut self) -> Result<()> {
        if let Some(mut input) = self.0.stdin.take() {
            input.write_all(b"\n").during(|| "the shell".to_owned())?;
        }
        wait_for("the shell to end", PATIENCE, || {
            let ended = self.0.try_wait().during(|| "the shell".to_owned())?;
            ended.map_or_else(|| trouble("it still runs"), |_| Ok(()))
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It has ended, or something has failed and nobody wants it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
