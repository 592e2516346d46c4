//! `up.yaml`: what runs on this machine. Only `up` reads it; it is no resource.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use isthmus_model::{AccountName, ClusterName, LabelKey, Namespace, ServiceName};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::{self, AccountRef, Span, Text};
use crate::failure::{Failure, Result};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpFile {
    /// In the order of their addresses; the first one founds the mesh and is its authority.
    #[serde(deserialize_with = "in_order")]
    pub(crate) clusters: Vec<(Text<ClusterName>, ClusterDeclared)>,
    /// Links that are to behave like a wide area; all others add nothing.
    #[serde(default)]
    pub(crate) links: Vec<LinkDeclared>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ClusterDeclared {
    #[serde(default = "two")]
    pub(crate) gateways: usize,
    #[serde(default)]
    pub(crate) processes: Vec<ProcessDeclared>,
    /// Processes that only make traffic; `--quiet` leaves them out.
    #[serde(default)]
    pub(crate) traffic: Vec<ProcessDeclared>,
}

/// A program and how often it runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProcessDeclared {
    /// What processes are called; default: the service's own name.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The service that it is part of; without one it only calls others.
    #[serde(default)]
    pub(crate) service: Option<Text<ServiceName>>,
    /// `namespace/name` of its account; default: namespace and name of the service.
    #[serde(default)]
    pub(crate) account: Option<Text<AccountRef>>,
    /// Where it listens.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    pub(crate) command: Vec<String>,
    #[serde(default = "one")]
    pub(crate) copies: usize,
    #[serde(default)]
    pub(crate) labels: BTreeMap<Text<LabelKey>, String>,
    #[serde(default)]
    pub(crate) listeners: Vec<ListenerDeclared>,
}

/// A local port that stands for a service, for programs that speak plain TCP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListenerDeclared {
    /// Port at the workload's own address.
    pub(crate) listen: u16,
    pub(crate) service: Text<ServiceName>,
    /// Port of the service.
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LinkDeclared {
    pub(crate) between: (Text<ClusterName>, Text<ClusterName>),
    pub(crate) rtt: Span,
}

/// Addresses of a cluster are 127.x.y.n: controls 1, gateways 2-9, workloads 10-99, relays 100-199.
pub(crate) const MOST_GATEWAYS: usize = 8;
pub(crate) const MOST_WORKLOADS: usize = 90;
const MOST_CLUSTERS: usize = 10;

fn two() -> usize {
    2
}

fn one() -> usize {
    1
}

impl UpFile {
    /// Reads and checks `text`, which stands in `path`.
    ///
    /// Errors: everything that makes no sense, at once; but a file that cannot be read is one error.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: Self = config::parse(path, text)?;
        let problems = file.problems();
        if problems.is_empty() {
            return Ok(file);
        }
        let mut failure = Failure::failed("bad-config", format!("{} is not right", path.display()));
        failure.causes = problems;
        Err(failure.next("correct the file"))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.clusters.is_empty() {
            problems.push("clusters: a mesh has at least one".to_owned());
        }
        if self.clusters.len() > MOST_CLUSTERS {
            problems.push(format!(
                "clusters: at most {MOST_CLUSTERS} fit on one machine"
            ));
        }
        let known = |name: &ClusterName| self.clusters.iter().any(|(each, _)| each.0 == *name);
        for (index, (Text(name), cluster)) in self.clusters.iter().enumerate() {
            let at = format!("clusters.{name}");
            if self.clusters[..index]
                .iter()
                .any(|(other, _)| other.0 == *name)
            {
                problems.push(format!("{at}: it is declared twice"));
            }
            cluster.problems(&at, &mut problems);
        }
        for (index, link) in self.links.iter().enumerate() {
            let (Text(one), Text(other)) = &link.between;
            for end in [one, other].into_iter().filter(|end| !known(end)) {
                problems.push(format!("links[{index}].between: there is no cluster {end}"));
            }
            if one == other {
                problems.push(format!("links[{index}].between: a link joins two clusters"));
            }
            if self.links[..index]
                .iter()
                .any(|earlier| earlier.joins(one, other))
            {
                problems.push(format!(
                    "links[{index}].between: {one} and {other} are linked twice"
                ));
            }
        }
        problems
    }
}

impl LinkDeclared {
    pub(crate) fn joins(&self, one: &ClusterName, other: &ClusterName) -> bool {
        let (Text(a), Text(b)) = &self.between;
        (a == one && b == other) || (a == other && b == one)
    }
}

impl ClusterDeclared {
    fn problems(&self, at: &str, problems: &mut Vec<String>) {
        if self.gateways > MOST_GATEWAYS {
            problems.push(format!(
                "{at}.gateways: at most {MOST_GATEWAYS} fit on one machine"
            ));
        }
        let all = || self.processes.iter().chain(&self.traffic);
        let workloads = all().fold(0usize, |sum, process| sum.saturating_add(process.copies));
        if workloads > MOST_WORKLOADS {
            problems.push(format!(
                "{at}.processes: {workloads} workloads, {MOST_WORKLOADS} fit on one machine"
            ));
        }
        for (list, processes) in [("processes", &self.processes), ("traffic", &self.traffic)] {
            for (index, process) in processes.iter().enumerate() {
                process.problems(&format!("{at}.{list}[{index}]"), problems);
            }
        }
    }
}

impl ProcessDeclared {
    fn problems(&self, at: &str, problems: &mut Vec<String>) {
        if self.command.is_empty() {
            problems.push(format!("{at}.command: there is no program"));
        }
        match (&self.service, &self.account) {
            (None, None) => problems.push(format!("{at}: it needs a service or an account")),
            (
                None,
                Some(Text(AccountRef {
                    namespace: None,
                    account,
                })),
            ) => problems.push(format!(
                "{at}.account: write namespace/{account}, since no service says the namespace"
            )),
            (
                Some(Text(service)),
                Some(Text(AccountRef {
                    namespace: Some(namespace),
                    ..
                })),
            ) if *namespace != service.namespace => {
                problems.push(format!(
                    "{at}.account: an account of {namespace} cannot run {service}"
                ));
            }
            _ => {}
        }
        if self.service.is_some() && self.port.is_none() {
            problems.push(format!("{at}.port: a service's program listens somewhere"));
        }
        let base = self.base_name();
        if ClusterName::new(&base).is_err() {
            problems.push(format!(
                "{at}.name: {base:?} is not a name (a-z, 0-9 and '-')"
            ));
        } else if ["control", "gateway"].contains(&base.as_str()) {
            problems.push(format!("{at}.name: {base} is the name of another process"));
        }
    }

    /// What its processes are called before their number.
    pub(crate) fn base_name(&self) -> String {
        let of_service = || {
            self.service
                .as_ref()
                .map(|service| service.0.name.to_string())
        };
        let of_account = || {
            self.account
                .as_ref()
                .map(|account| account.0.account.to_string())
        };
        self.name
            .clone()
            .or_else(of_service)
            .or_else(of_account)
            .unwrap_or_default()
    }

    /// Namespace and account that it runs as; `None`: it does not say, which is a problem.
    pub(crate) fn runs_as(&self) -> Option<(Namespace, AccountName)> {
        let account = self.account.as_ref().map(|Text(account)| account);
        config::runs_as(account, self.service.as_ref().map(|Text(service)| service))
    }
}

/// A map whose order counts.
fn in_order<'de, D, K, V>(deserializer: D) -> Result<Vec<(K, V)>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de>,
    V: Deserialize<'de>,
{
    struct InOrder<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for InOrder<K, V> {
        type Value = Vec<(K, V)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names, each with what it holds")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(InOrder(PhantomData))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TWO_CLUSTERS: &str = "
clusters:
  us-west:
    gateways: 1
    processes:
    - {service: shop/frontend, port: 8080, command: [demo, frontend, --listen, '${ADDRESS}:8080'], copies: 2}
    - {service: shop/payment, port: 8080, command: [demo], labels: {version: v1}}
    - {service: shop/payment, port: 8080, command: [demo], labels: {version: v2}, listeners: [{listen: 6380, service: shop/redis, port: 6379}]}
    traffic:
    - {account: shop/visitor, command: [demo, visit]}
  eu-central:
    processes: []
links:
- {between: [us-west, eu-central], rtt: 140ms}
";

    #[test]
    fn a_file_says_what_runs() {
        let file = UpFile::parse(Path::new("up.yaml"), TWO_CLUSTERS).unwrap();
        let names: Vec<String> = file
            .clusters
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(names, ["us-west", "eu-central"], "order counts");
        assert_eq!(file.clusters[1].1.gateways, 2);
        let process = &file.clusters[0].1.traffic[0];
        let (namespace, account) = process.runs_as().unwrap();
        assert_eq!((namespace.as_str(), account.as_str()), ("shop", "visitor"));
        assert_eq!(process.base_name(), "visitor");
    }

    #[test]
    fn everything_that_makes_no_sense_is_said() {
        for (text, expect) in [
            ("clusters: {}", "at least one"),
            ("clusters: {a: {gateways: 9}}", "at most 8"),
            (
                "clusters: {a: {processes: [{service: x/y, command: [a]}]}}",
                "port",
            ),
            (
                "clusters: {a: {processes: [{service: x/y, port: 1, command: []}]}}",
                "no program",
            ),
            (
                "clusters: {a: {processes: [{command: [a]}]}}",
                "a service or an account",
            ),
            (
                "clusters: {a: {processes: [{account: b, command: [a]}]}}",
                "write namespace/b",
            ),
            (
                "clusters: {a: {processes: [{name: gateway, account: b/c, command: [a]}]}}",
                "another process",
            ),
            (
                "clusters: {a: {processes: [{account: b/c, command: [a], copies: 91}]}}",
                "91 workloads",
            ),
            (
                "clusters: {a: {}}\nlinks: [{between: [a, b], rtt: 1s}]",
                "no cluster b",
            ),
            (
                "clusters: {a: {}}\nlinks: [{between: [a, a], rtt: 1s}]",
                "joins two",
            ),
            ("clusters: {a: {gatways: 1}}", "gatways"),
            ("clusters: {A: {}}", "A"),
            ("clusters: {a: {}}\nlinks: [{between: [a, a], rtt: 1}]", "1"),
        ] {
            let failure = UpFile::parse(Path::new("up.yaml"), text).unwrap_err();
            assert!(
                failure.causes.iter().any(|cause| cause.contains(expect)),
                "{text}: {failure:?}"
            );
        }
    }
}
