//! Peers: each a pair of processes with a configuration of its own in `crates/lab/bench/peers`, one
//! worker each.
//!
//! Their addresses are fixed, so that the files are what anybody can run: the program is 127.0.7.1,
//! callers' proxies are 127.0.7.11 and up, callees' 127.0.7.21 and up.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use isthmus_lab::mesh::{PATIENCE, run};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

use crate::certificates;
use crate::machine::{self, Split};
use crate::plan::Peer;

/// Where the program of all peers listens for HTTP/1.1.
pub(crate) const PROGRAM: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 7, 1)), 8080);

/// All files of peers, by name.
pub(crate) const FILES: [(&str, &str); 6] = [
    (
        "nginx-out.conf",
        include_str!("../../../bench/peers/nginx-out.conf"),
    ),
    (
        "nginx-in.conf",
        include_str!("../../../bench/peers/nginx-in.conf"),
    ),
    (
        "haproxy-out.cfg",
        include_str!("../../../bench/peers/haproxy-out.cfg"),
    ),
    (
        "haproxy-in.cfg",
        include_str!("../../../bench/peers/haproxy-in.cfg"),
    ),
    (
        "envoy-out.yaml",
        include_str!("../../../bench/peers/envoy-out.yaml"),
    ),
    (
        "envoy-in.yaml",
        include_str!("../../../bench/peers/envoy-in.yaml"),
    ),
];

/// A process that ends with this one.
#[derive(Debug)]
pub(crate) struct Kept(Child);

/// A pair that runs.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) peer: Peer,
    caller: Kept,
    callee: Kept,
}

impl Peer {
    /// Where the caller's proxy takes connections.
    pub(crate) fn caller(self) -> Ipv4Addr {
        match self {
            Self::Nginx => Ipv4Addr::new(127, 0, 7, 11),
            Self::Haproxy => Ipv4Addr::new(127, 0, 7, 12),
            Self::Envoy => Ipv4Addr::new(127, 0, 7, 13),
        }
    }

    /// Where the callee's proxy does.
    pub(crate) fn callee(self) -> Ipv4Addr {
        match self {
            Self::Nginx => Ipv4Addr::new(127, 0, 7, 21),
            Self::Haproxy => Ipv4Addr::new(127, 0, 7, 22),
            Self::Envoy => Ipv4Addr::new(127, 0, 7, 23),
        }
    }

    /// What to type to start one of the pair, `out` or `in`.
    fn command(self, half: &str, envoy: &Path) -> Command {
        let (program, words) = match self {
            Self::Nginx => (Path::new("nginx"), format!("-p . -c nginx-{half}.conf")),
            Self::Haproxy => (Path::new("haproxy"), format!("-db -f haproxy-{half}.cfg")),
            Self::Envoy => (
                envoy,
                format!("-l error -c envoy-{half}.yaml --concurrency 1 --disable-hot-restart"),
            ),
        };
        let mut command = Command::new(program);
        command.args(words.split(' '));
        command
    }

    /// The line in which it says its version.
    pub(crate) fn version(self, envoy: &Path) -> Result<String> {
        let (program, argument) = match self {
            Self::Nginx => (Path::new("nginx"), "-v"),
            Self::Haproxy => (Path::new("haproxy"), "-v"),
            Self::Envoy => (envoy, "--version"),
        };
        let said = run(Command::new(program).arg(argument))?.expect(0)?;
        let text = said.out + &said.err;
        let line = text.lines().find(|line| line.contains("version"));
        let line = line.unwrap_or(&text).trim();
        Ok(line.replace(&envoy.display().to_string(), "Envoy"))
    }
}

/// A folder with all files and with certificates that are made for it.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let tls = folder.join("tls");
    fs::create_dir_all(&tls).during(|| tls.display().to_string())?;
    for half in ["out", "in"] {
        // nginx makes no parents.
        let path = folder.join(format!("nginx-{half}.tmp"));
        fs::create_dir_all(&path).during(|| path.display().to_string())?;
    }
    for (name, text) in FILES {
        let path = folder.join(name);
        fs::write(&path, text).during(|| path.display().to_string())?;
    }
    let authority = certificates::authority(&tls)?;
    for half in ["out", "in"] {
        certificates::leaf(&tls, &authority, half, &format!("DNS:{half}.bench"))?;
    }
    Ok(())
}

impl Pair {
    /// Starts both in the folder of [`prepare`], on the processor that is for proxies.
    pub(crate) fn start(
        peer: Peer,
        folder: &Path,
        envoy: &Path,
        split: Option<Split>,
    ) -> Result<Self> {
        let addresses = [(peer.caller(), 8000).into(), (peer.callee(), 9004).into()];
        for address in addresses {
            unused(address)?;
        }
        let start = |half| Kept::start(&peer.command(half, envoy), folder, split.map(|it| it.mesh));
        let pair = Self {
            peer,
            caller: start("out")?,
            callee: start("in")?,
        };
        for address in addresses {
            wait_for(&format!("{peer:?} to listen"), PATIENCE, || {
                TcpStream::connect(address).during(|| address.to_string())
            })?;
        }
        Ok(pair)
    }

    /// The caller's and the callee's, each with all its processes.
    pub(crate) fn proxies(&self) -> Result<[Vec<Process>; 2]> {
        Ok([self.caller.family()?, self.callee.family()?])
    }
}

impl Kept {
    /// Starts it in `folder`, on one processor.
    pub(crate) fn start(command: &Command, folder: &Path, cpu: Option<usize>) -> Result<Self> {
        let log = log(folder, command);
        let output = fs::File::create(&log).during(|| log.display().to_string())?;
        let errors = output.try_clone().during(|| log.display().to_string())?;
        // It goes with this process, however that ends.
        let mut kept = Command::new("setpriv");
        kept.args(["--pdeathsig", "TERM"]);
        kept.arg(command.get_program()).args(command.get_args());
        kept.current_dir(folder).stdin(Stdio::null());
        kept.stdout(output).stderr(errors);
        let child = machine::on(cpu, || kept.spawn().during(|| format!("{kept:?}")))?;
        Ok(Self(child))
    }

    pub(crate) fn family(&self) -> Result<Vec<Process>> {
        Process::with_id(self.0.id())?.family()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(process) = Process::with_id(self.0.id()) {
            // One that has ended meanwhile needs no word.
            let _ = process.terminate();
        }
        let _ = self.0.wait();
    }
}

/// Errors: somebody else listens there, who would be measured instead.
pub(crate) fn unused(address: SocketAddr) -> Result<()> {
    ensure(TcpStream::connect(address).is_err(), || {
        format!("something listens on {address} already")
    })
}

/// What it says goes beside its configuration.
fn log(folder: &Path, command: &Command) -> PathBuf {
    let words: Vec<_> = command
        .get_args()
        .filter_map(|word| word.to_str())
        .collect();
    let file = words
        .iter()
        .find(|word| FILES.iter().any(|(name, _)| name == *word));
    folder.join(format!("{}.log", file.unwrap_or(&"program")))
}
