//! Networks that the kernel keeps apart: one network namespace for each place, and a router between
//! them that can drop packets without a word. Needs root.
//!
//! Knows addresses and packets, never the mesh. What is made here goes when it is dropped; what a
//! run that was killed left behind goes with the next one.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::mesh::run;
use crate::trouble::{During, Result, Trouble, ensure, trouble};

/// Places that reach each other through a router, and nothing else.
#[derive(Debug)]
pub struct Network {
    router: Namespace,
    places: Vec<Place>,
}

/// A machine of its own, as far as the network can tell.
#[derive(Debug)]
pub struct Place {
    name: &'static str,
    /// Third byte of its addresses.
    number: u8,
    namespace: Namespace,
}

/// A namespace; it is deleted when this is dropped.
#[derive(Debug)]
struct Namespace(String);

/// Begins the name of every namespace, followed by the process that made it.
const PREFIX: &str = "isthmus-lab-";
/// Last bytes of the addresses that a place has.
const ADDRESSES: std::ops::RangeInclusive<u8> = 1..=20;
/// Last byte of the router's address at each place.
const ROUTER: u8 = 254;
/// Where the kernel shows namespaces that have names (man 8 ip-netns).
const NAMESPACES: &str = "/run/netns";
/// Family, table and chain of the router's rules.
const CHAIN: [&str; 3] = ["ip", "lab", "silence"];

/// Tells the networks of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Network {
    /// Errors: this is not root, a program is missing, or the kernel refuses.
    pub fn of(names: &[&'static str]) -> Result<Self> {
        prerequisites()?;
        remove_leftovers()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = |name| Namespace::add(&format!("{}-{number}-{name}", std::process::id()));
        let router = namespace("router")?;
        let mut network = Self {
            router,
            places: Vec::new(),
        };
        for (name, number) in names.iter().zip(1..) {
            network.places.push(Place {
                name,
                number,
                namespace: namespace(name)?,
            });
        }
        for place in &network.places {
            network.attach(place)?;
        }
        network.router.inside(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").during(|| "ip_forward".to_owned())
        })?;
        let [family, table, chain] = CHAIN;
        network.nft(&["add", "table", family, table])?;
        let hook = "{ type filter hook forward priority 0; policy accept; }";
        network.nft(&["add", "chain", family, table, chain, hook])?;
        Ok(network)
    }

    /// A pair of interfaces, one end here, one at the router.
    fn attach(&self, place: &Place) -> Result<()> {
        let (own, router) = (&place.namespace.0, &self.router.0);
        ip(&format!(
            "link add uplink netns {own} type veth peer name {} netns {router}",
            place.name
        ))?;
        for last in ADDRESSES {
            let address = place.address(last);
            ip(&format!("-n {own} address add {address}/24 dev uplink"))?;
        }
        let gate = place.address(ROUTER);
        let name = place.name;
        ip(&format!("-n {router} address add {gate}/24 dev {name}"))?;
        ip(&format!("-n {router} link set {name} up"))?;
        ip(&format!("-n {own} link set lo up"))?;
        ip(&format!("-n {own} link set uplink up"))?;
        ip(&format!("-n {own} route add default via {gate}"))
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Errors: there is no such place.
    pub fn place(&self, name: &str) -> Result<&Place> {
        let found = self.places.iter().find(|place| place.name == name);
        found.ok_or_else(|| Trouble(format!("there is no place {name}")))
    }

    /// From now on nothing passes between any two places; nobody is told.
    pub fn silence(&self) -> Result<()> {
        self.rule(&["counter", "drop"])
    }

    /// From now on nothing passes to or from this address; nobody is told.
    pub fn silence_address(&self, address: Ipv4Addr) -> Result<()> {
        let address = address.to_string();
        self.rule(&["ip", "saddr", &address, "counter", "drop"])?;
        self.rule(&["ip", "daddr", &address, "counter", "drop"])
    }

    /// Counts what passes and is not TCP from or to one of these ports.
    pub fn count_all_but(&self, ports: &[u16]) -> Result<()> {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let ports = format!("{{ {} }}", ports.join(", "));
        for side in ["sport", "dport"] {
            self.rule(&["tcp", side, &ports, "accept"])?;
        }
        self.rule(&["counter", "accept"])
    }

    /// Packets that the rules have counted.
    pub fn counted(&self) -> Result<u64> {
        let [family, table, chain] = CHAIN;
        let said = self.nft(&["list", "chain", family, table, chain])?;
        // `… counter packets 3 bytes 180 drop`
        let counts = said.split("counter packets ").skip(1);
        let counts = counts.map(|text| {
            text.split(' ')
                .next()
                .and_then(|count| count.parse::<u64>().ok())
        });
        let sum = counts.sum::<Option<u64>>();
        sum.ok_or_else(|| Trouble(format!("nft's counters are odd: {said}")))
    }

    /// Everything passes again.
    pub fn heal(&self) -> Result<()> {
        let [family, table, chain] = CHAIN;
        self.nft(&["flush", "chain", family, table, chain])?;
        Ok(())
    }

    fn rule(&self, rule: &[&str]) -> Result<()> {
        self.nft(&[&["add", "rule"], &CHAIN[..], rule].concat())?;
        Ok(())
    }

    fn nft(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.router.command(Path::new("nft"));
        let said = run(command.args(arguments))?.expect(0);
        Ok(said.during(|| format!("nft {}", arguments.join(" ")))?.out)
    }
}

impl Place {
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One of its addresses, by its last byte.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        // Seen by nobody outside: every network may have the same.
        Ipv4Addr::new(10, 83, self.number, last)
    }

    /// A program that runs there. Its process is the program's own, not one in between.
    pub fn command(&self, program: &Path) -> Command {
        self.namespace.command(program)
    }

    /// Does something there, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace.inside(work)
    }

    /// Where something listens for TCP there, for callers of other places.
    pub fn open_to_others(&self) -> Result<BTreeSet<SocketAddr>> {
        let mut command = self.command(Path::new("ss"));
        let said = run(command.args(["-H", "-l", "-t", "-n"]))?.expect(0)?;
        let mut found = BTreeSet::new();
        for line in said.out.lines() {
            let odd = || Trouble(format!("ss printed {line:?}"));
            // State, two queues, local address, peer.
            let local = line.split_whitespace().nth(3).ok_or_else(odd)?;
            let (address, is_open) = listener(local).ok_or_else(odd)?;
            found.extend(is_open.then_some(address));
        }
        Ok(found)
    }
}

/// `10.83.1.1:80`, `10.83.1.1%lo:80` when bound to an interface, `*:80` for any address; and whether
/// other machines reach it.
fn listener(text: &str) -> Option<(SocketAddr, bool)> {
    let (host, port) = text.rsplit_once(':')?;
    let (host, interface) = match host.split_once('%') {
        Some((host, interface)) => (host, Some(interface)),
        None => (host, None),
    };
    let host = if host == "*" { "[::]" } else { host };
    let address: SocketAddr = format!("{host}:{port}").parse().ok()?;
    let is_open = interface != Some("lo") && !address.ip().is_loopback();
    Some((address, is_open))
}

impl Namespace {
    fn add(name: &str) -> Result<Self> {
        let name = format!("{PREFIX}{name}");
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new(NAMESPACES).join(&self.0);
        let during = || path.display().to_string();
        let namespace = fs::File::open(&path).during(during)?;
        let there = || {
            // This thread alone moves, and it ends here.
            let moved = move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            );
            moved.during(during)?;
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(there).join());
        done.unwrap_or_else(|_| trouble(format!("a thread inside {} has panicked", self.0)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {}", self.0)) {
            eprintln!("taking the network down: {error}");
        }
    }
}

fn ip(arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    let said = run(command.args(arguments.split(' ')))?.expect(0);
    said.during(|| format!("ip {arguments}"))?;
    Ok(())
}

fn prerequisites() -> Result<()> {
    ensure(rustix::process::geteuid().is_root(), || {
        "network namespaces take root: run `sudo --preserve-env make test-root`".to_owned()
    })?;
    for (program, version, package) in [
        ("ip", "-Version", "iproute2"),
        ("ss", "-V", "iproute2"),
        ("nft", "--version", "nftables"),
    ] {
        let mut command = Command::new(program);
        let found = command.arg(version).stdout(Stdio::null()).status();
        ensure(found.is_ok(), || {
            format!(
                "the program {program} is missing: install {package}, or run `make test-root`, \
                 which does"
            )
        })?;
    }
    Ok(())
}

/// Deletes the namespaces of processes that were killed before they could.
fn remove_leftovers() -> Result<()> {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return Ok(()); // The first namespace makes the directory.
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| is_left_over(name, |pid| Path::new("/proc").join(pid).exists()))
    {
        ip(&format!("netns delete {name}"))?;
    }
    Ok(())
}

fn is_left_over(name: &str, runs: impl Fn(&str) -> bool) -> bool {
    let owner = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next());
    owner.is_some_and(|pid| !runs(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_reach_is_told_from_what_they_do_not() {
        for (text, expect) in [
            ("10.83.1.1:80", Some(("10.83.1.1:80", true))),
            ("0.0.0.0:80", Some(("0.0.0.0:80", true))),
            ("*:80", Some(("[::]:80", true))),
            ("10.83.1.1%uplink:80", Some(("10.83.1.1:80", true))),
            ("10.83.1.1%lo:80", Some(("10.83.1.1:80", false))),
            ("127.0.0.9:80", Some(("127.0.0.9:80", false))),
            ("[::1]:80", Some(("[::1]:80", false))),
            ("10.83.1.1", None),
            ("10.83.1.1:http", None),
        ] {
            let expect = expect.map(|(address, open)| (address.parse().unwrap(), open));
            assert_eq!(listener(text), expect, "{text}");
        }
    }

    #[test]
    fn only_namespaces_of_processes_that_have_ended_are_left_over() {
        for (name, expect) in [
            ("isthmus-lab-7-0-west", false),
            ("isthmus-lab-8-0-west", true),
            ("isthmus-9-0-west", false),
            ("west", false),
        ] {
            assert_eq!(is_left_over(name, |pid| pid == "7"), expect, "{name}");
        }
    }
}
