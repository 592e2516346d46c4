//! `up.yaml`: what runs on this machine. Only `up` reads it; it is no resource.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use isthmus_manifest::{FieldPath, Problem};
use isthmus_model::{AccountName, ClusterName, LabelKey, Namespace, ServiceName};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::{self, AccountRef, ConfigFile, Span, Text};
use crate::failure::Result;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpFile {
    /// In the order of their addresses; the first one founds the mesh and is its authority.
    #[serde(deserialize_with = "in_order")]
    pub(crate) clusters: Vec<(Text<ClusterName>, ClusterDeclared)>,
    /// Links that are to behave like a wide area; all others add nothing.
    #[serde(default)]
    pub(crate) links: Vec<LinkDeclared>,
    /// How long certificates of processes are good; default: as in a control plane's file.
    #[serde(default)]
    pub(crate) leaf_lifetime: Option<Span>,
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
    /// Threads of its proxy that carry traffic; default: one.
    #[serde(default)]
    pub(crate) workers: Option<usize>,
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
    /// Errors: everything that is wrong with it, at once.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        config::parse(path, text)
    }

    fn has(&self, cluster: &ClusterName) -> bool {
        self.clusters.iter().any(|(each, _)| each.0 == *cluster)
    }

    /// What is wrong with the link at `index`.
    fn link_problems(&self, index: usize, at: &FieldPath) -> Vec<Problem> {
        let link = &self.links[index];
        let (Text(one), Text(other)) = &link.between;
        let mut problems = Vec::new();
        for (end, name) in [one, other].into_iter().enumerate() {
            if !self.has(name) {
                let names: Vec<&str> = self
                    .clusters
                    .iter()
                    .map(|(each, _)| each.0.as_str())
                    .collect();
                let problem = Problem::new(at.index(end), format!("there is no cluster {name}"));
                problems.push(problem.hint(format!("the clusters are {}", names.join(", "))));
            }
        }
        if one == other {
            let problem = Problem::new(at.clone(), "a link joins two clusters");
            problems.push(problem.hint("name two different ones"));
        }
        let earlier = |earlier: &LinkDeclared| earlier.joins(one, other);
        if self.links[..index].iter().any(earlier) {
            let problem = Problem::new(at.clone(), format!("{one} and {other} are linked twice"));
            problems.push(problem.hint("leave one of them out"));
        }
        problems
    }
}

impl ConfigFile for UpFile {
    fn problems(&self) -> Vec<Problem> {
        let clusters = FieldPath::root().field("clusters");
        let mut problems = Vec::new();
        if self.clusters.is_empty() {
            let problem = Problem::new(clusters.clone(), "a mesh has at least one");
            problems.push(problem.hint("write `us-west: {}`, or another name"));
        }
        if self.clusters.len() > MOST_CLUSTERS {
            let message = format!("at most {MOST_CLUSTERS} fit on one machine");
            problems.push(Problem::new(clusters.clone(), message));
        }
        for (Text(name), cluster) in &self.clusters {
            cluster.problems(&clusters.field(name.as_str()), &mut problems);
        }
        let links = FieldPath::root().field("links");
        for index in 0..self.links.len() {
            problems.extend(self.link_problems(index, &links.index(index).field("between")));
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
    fn problems(&self, at: &FieldPath, problems: &mut Vec<Problem>) {
        if self.gateways > MOST_GATEWAYS {
            let message = format!("at most {MOST_GATEWAYS} fit on one machine");
            problems.push(Problem::new(at.field("gateways"), message));
        }
        let all = || self.processes.iter().chain(&self.traffic);
        let workloads = all().fold(0usize, |sum, process| sum.saturating_add(process.copies));
        if workloads > MOST_WORKLOADS {
            let message = format!("{workloads} workloads, {MOST_WORKLOADS} fit on one machine");
            problems.push(Problem::new(at.field("processes"), message));
        }
        for (list, processes) in [("processes", &self.processes), ("traffic", &self.traffic)] {
            for (index, process) in processes.iter().enumerate() {
                process.problems(&at.field(list).index(index), problems);
            }
        }
    }
}

impl ProcessDeclared {
    fn problems(&self, at: &FieldPath, problems: &mut Vec<Problem>) {
        let mut add = |path: FieldPath, message: String, hint: &str| {
            problems.push(Problem::new(path, message).hint(hint));
        };
        if self.command.is_empty() {
            let hint = "write the program and its arguments as a list";
            add(at.field("command"), "there is no program".to_owned(), hint);
        }
        if let Some((field, message, hint)) = self.account_problem() {
            add(
                field.map_or(at.clone(), |field| at.field(field)),
                message,
                &hint,
            );
        }
        if self.service.is_some() && self.port.is_none() {
            let message = "a service's program listens somewhere".to_owned();
            add(
                at.field("port"),
                message,
                "write the targetPort of the service",
            );
        }
        if self.workers == Some(0) {
            let message = "without a worker nothing is served".to_owned();
            add(at.field("workers"), message, "leave it out, or write 1");
        }
        let base = self.base_name();
        if ClusterName::new(&base).is_err() {
            let message = format!("{base:?} is not a name");
            add(at.field("name"), message, "write a-z, 0-9 and '-'");
        } else if ["control", "gateway"].contains(&base.as_str()) {
            let message = format!("{base} is the name of another process");
            add(at.field("name"), message, "write another name");
        }
    }

    /// Field, message and hint, when it cannot be told what it runs as.
    fn account_problem(&self) -> Option<(Option<&'static str>, String, String)> {
        let service = self.service.as_ref().map(|Text(service)| service);
        let account = self.account.as_ref().map(|Text(account)| account);
        match (service, account.map(|it| (&it.namespace, &it.account))) {
            (None, None) => Some((
                None,
                "it needs a service or an account".to_owned(),
                "write `service: namespace/name` or `account: namespace/name`".to_owned(),
            )),
            (None, Some((None, account))) => Some((
                Some("account"),
                "no service says the namespace of this account".to_owned(),
                format!("write namespace/{account}"),
            )),
            (Some(service), Some((Some(namespace), account)))
                if *namespace != service.namespace =>
            {
                Some((
                    Some("account"),
                    format!("an account of {namespace} cannot run {service}"),
                    format!("write {}/{account}", service.namespace),
                ))
            }
            _ => None,
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
    use crate::config::tests::{assert_complete, documented};

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
    fn the_reference_shows_every_field() {
        let file = UpFile::parse(Path::new("files.md"), documented("up.yaml")).unwrap();
        assert_complete(&file.clusters[0].1.processes);
        assert_complete(&(&file.links, file.leaf_lifetime));
    }

    #[test]
    fn all_mistakes_are_said_at_once_with_their_places() {
        let text = "clusters:\n  us-west:\n    gatways: 1\n    processes:\n    - service: x/y\n      \
                    port: 80800\n      command: []\n    - account: b\n      copys: 2\n      \
                    command: [a, 1]\n  US: {}\nlinks:\n- {between: [us-west, US], rtt: 1s}\n\
                    - {between: [us-west, us-wst], rtt: 1s}\n- {between: [us-west, us-west], rtt: 1}\n";
        let failure = UpFile::parse(Path::new("up.yaml"), text).unwrap_err();
        let heads = failure
            .causes
            .iter()
            .filter_map(|cause| cause.lines().next());
        let expect = [
            "up.yaml:3:5: clusters.us-west.gatways: unknown field; did you mean `gateways`?",
            "up.yaml:6:13: clusters.us-west.processes[0].port: expected a whole number from 0 to 65535",
            "up.yaml:7:7: clusters.us-west.processes[0].command: there is no program; write",
            "up.yaml:8:16: clusters.us-west.processes[1].account: no service says",
            "up.yaml:9:7: clusters.us-west.processes[1].copys: unknown field; did you mean `copies`?",
            "up.yaml:10:20: clusters.us-west.processes[1].command[1]: expected text, found the number 1",
            "up.yaml:11:3: clusters.US: `US`: ",
            "up.yaml:13:23: links[0].between[1]: `US`: ",
            "up.yaml:14:23: links[1].between[1]: there is no cluster us-wst; the clusters are us-west",
            "up.yaml:15:38: links[2].rtt: expected text, found the number 1; put it in quotes",
        ];
        let heads: Vec<&str> = heads.collect();
        assert_eq!(heads.len(), expect.len(), "{heads:#?}");
        for (head, expect) in heads.iter().zip(expect) {
            assert!(head.starts_with(expect), "{head} instead of {expect}");
        }
    }

    #[test]
    fn everything_that_makes_no_sense_is_said() {
        for (text, expect) in [
            ("clusters: {}", "at least one"),
            ("clusters: {a: {gateways: 9}}", "at most 8"),
            (
                "clusters: {a: {processes: [{account: b/c, command: [a], workers: 0}]}}",
                "without a worker",
            ),
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
            (
                "clusters: {a: {}}\nlinks: [{between: [a], rtt: 1s}]",
                "a list of 2",
            ),
            ("clusters: {a: {}, a: {}}", "a"),
        ] {
            let failure = UpFile::parse(Path::new("up.yaml"), text).unwrap_err();
            assert!(
                failure.causes.iter().any(|cause| cause.contains(expect)),
                "{text}: {failure:?}"
            );
        }
    }
}
