//! Configuration files of the mesh's processes, as they are written and as `up` writes them.
//!
//! They are read strictly: everything that is wrong with a file is said at once, each with its
//! place. Names are checked while they are read, by [`Text`], and fields that must agree with each
//! other by [`ConfigFile::problems`]. What a file says about other files is relative to its own directory.

mod clients;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use isthmus_control::{AtRest, KeySource};
use isthmus_identity::{LEAF_LIFETIME, RENEW_AFTER};
use isthmus_manifest::{FieldPath, Problem, parse_config};
use isthmus_model::{
    AccountName, ClusterName, LabelKey, MeshName, Namespace, ServiceName, TrustDomain,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use clients::ClientsEntry;

use crate::disk;
use crate::failure::Result;
use crate::memory::Size;
use crate::mistakes::mistakes;

/// A file that only one kind of process reads, as it is written.
pub(crate) trait ConfigFile: DeserializeOwned {
    /// What is wrong although every field is right by itself.
    fn problems(&self) -> Vec<Problem>;
}

/// A value that is written as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Text<T>(pub(crate) T);

/// A length of time, written as Gateway API durations are (GEP-2257): `1h30m`, `140ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

/// `control.yaml`: one cluster's control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ControlFile {
    pub(crate) mesh: Text<MeshName>,
    pub(crate) trust_domain: Text<TrustDomain>,
    pub(crate) cluster: Text<ClusterName>,
    /// Where it listens, on ports 15012 and 7443.
    pub(crate) address: IpAddr,
    /// Directory of its key, certificate and store.
    pub(crate) data: PathBuf,
    /// The cluster whose control plane accepts config; may be its own.
    pub(crate) authority: Text<ClusterName>,
    /// Where the other clusters' control planes are reached before any config is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) peers: Vec<SocketAddr>,
    /// Who may use the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_tokens: Vec<ApiTokenEntry>,
    /// Default: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaf_lifetime: Option<Span>,
    /// Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) renew_after: Option<Span>,
    /// Default: what lies in `data` is not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at_rest: Option<AtRestEntry>,
}

/// By what the store and the cluster's key are sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AtRestEntry {
    pub(crate) key: KeyEntry,
    /// Keys that may have sealed it before `key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) previous: Vec<KeyEntry>,
}

/// Where a key is: one of these.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KeyEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// The name of a variable of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) env: Option<String>,
    /// A program and its arguments; it prints the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<Vec<String>>,
}

/// Where the mesh key is, if it is not in the home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshKeyFile {
    pub(crate) key: KeyEntry,
}

/// A bearer token of the API: the file holds only its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ApiTokenEntry {
    /// The author of what is written with it.
    pub(crate) name: String,
    pub(crate) sha256: Text<Sha256>,
}

/// SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sha256(pub(crate) [u8; 32]);

/// What `gateway.yaml`, `proxy.yaml` and `run.yaml` have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GatewayFile {
    /// Of the process; unique in its cluster.
    pub(crate) name: String,
    pub(crate) cluster: Text<ClusterName>,
    pub(crate) address: IpAddr,
    /// The cluster's control planes (port 15012).
    pub(crate) control: Vec<SocketAddr>,
    /// File with the join token; needed until the state holds an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Directory of its identity and snapshot.
    pub(crate) state: PathBuf,
    #[serde(default)]
    pub(crate) access_log: bool,
    /// Default: one for a proxy, one per core for a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<usize>,
    /// Default: half of what the process is allowed, at most 1GiB; 512MiB where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Text<Size>>,
    /// How long what has begun may go on after a restart by SIGUSR2. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drain_limit: Option<Span>,
    #[serde(default, skip_serializing_if = "ClientsEntry::is_default")]
    pub(crate) clients: ClientsEntry,
}

/// `proxy.yaml` and `run.yaml`: the proxy of one workload and, in `run.yaml`, the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadFile {
    /// Of the process; unique in its cluster.
    pub(crate) name: String,
    pub(crate) cluster: Text<ClusterName>,
    pub(crate) address: IpAddr,
    /// The cluster's control planes (port 15012).
    pub(crate) control: Vec<SocketAddr>,
    /// File with the join token; needed until the state holds an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Directory of its identity and snapshot.
    pub(crate) state: PathBuf,
    #[serde(default)]
    pub(crate) access_log: bool,
    /// Default: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<usize>,
    /// Default: half of what the process is allowed, at most 1GiB; 512MiB where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Text<Size>>,
    /// How long what has begun may go on after a restart by SIGUSR2. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drain_limit: Option<Span>,
    #[serde(default, skip_serializing_if = "ClientsEntry::is_default")]
    pub(crate) clients: ClientsEntry,
    /// The service that the program is part of; without one it only calls others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Text<ServiceName>>,
    /// `namespace/name` of the account that the token was made for; default: that of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<Text<AccountRef>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<Text<LabelKey>, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// Local addresses that stand for services, for programs that speak plain TCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listeners: Vec<ListenerEntry>,
    pub(crate) program: ProgramEntry,
}

/// A local address that stands for a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListenerEntry {
    pub(crate) listen: SocketAddr,
    pub(crate) service: Text<ServiceName>,
    pub(crate) port: u16,
}

/// `127.0.0.1`, where programs that are not told otherwise listen.
pub(crate) const PROGRAM_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The program behind a proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProgramEntry {
    /// Where it listens.
    pub(crate) address: IpAddr,
    /// Told to the program as PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Only in `run.yaml`. `${ADDRESS}`, `${PORT}` are filled in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    /// Directory that it is started in; default: where `isthmus run` was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
}

/// `name` or `namespace/name` of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccountRef {
    pub(crate) namespace: Option<Namespace>,
    pub(crate) account: AccountName,
}

/// Namespace and account of a process: as it says, else the account of its service's own name.
/// `None`: neither says it.
pub(crate) fn runs_as(
    account: Option<&AccountRef>,
    service: Option<&ServiceName>,
) -> Option<(Namespace, AccountName)> {
    let namespace = account
        .and_then(|account| account.namespace.as_ref())
        .or(service.map(|service| &service.namespace))?;
    let account = match (account, service) {
        (Some(account), _) => account.account.clone(),
        // A service's name and an account's are both labels.
        (None, service) => AccountName::new(service?.name.as_str()).ok()?,
    };
    Some((namespace.clone(), account))
}

/// Reads a configuration file. Relative paths in it are as written.
pub(crate) fn read<T: ConfigFile>(path: &Path) -> Result<T> {
    parse(path, &disk::read_file(path)?)
}

/// As [`read`], from text that stands in `path`.
///
/// Errors: everything that is wrong with it.
pub(crate) fn parse<T: ConfigFile>(path: &Path, text: &str) -> Result<T> {
    let name = path.display().to_string();
    parse_config(&name, text, T::problems).map_err(|problems| {
        mistakes("bad-config", &problems, &[(name, text.to_owned())])
            .next("correct the file; `isthmus up --dry-run` prints whole ones")
    })
}

pub(crate) fn to_yaml<T: Serialize>(value: &T) -> String {
    serde_saphyr::to_string(value).expect("maps with text keys, lists and scalars are always YAML")
}

impl ConfigFile for ControlFile {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = address_problems(self.address);
        let root = FieldPath::root();
        for (index, _) in
            (self.peers.iter().enumerate()).filter(|(_, peer)| peer.ip() == self.address)
        {
            let message = "this control plane itself is no peer of it";
            let problem = Problem::new(root.field("peers").index(index), message);
            problems.push(problem.hint("name the control planes of other clusters"));
        }
        for (index, token) in self.api_tokens.iter().enumerate() {
            if token.name.is_empty() {
                let path = root.field("apiTokens").index(index).field("name");
                let problem = Problem::new(path, "it is empty");
                problems.push(problem.hint("write who uses the token"));
            }
        }
        let lifetime = Span(self.leaf_lifetime());
        if let Some(renew) = self.renew_after
            && renew.0 >= lifetime.0
        {
            let message = format!("a leaf of {lifetime} that is renewed after {renew} ends before");
            let problem = Problem::new(root.field("renewAfter"), message);
            problems.push(problem.hint("write less than leafLifetime, or leave it out"));
        }
        if let Some(at_rest) = &self.at_rest {
            let path = root.field("atRest");
            let previous = at_rest.previous.iter().enumerate();
            let previous = previous.map(|(index, key)| (path.field("previous").index(index), key));
            let keys = std::iter::once((path.field("key"), &at_rest.key)).chain(previous);
            problems.extend(keys.filter_map(|(path, key)| key.problem(path)));
        }
        problems
    }
}

impl ConfigFile for MeshKeyFile {
    fn problems(&self) -> Vec<Problem> {
        let problem = self.key.problem(FieldPath::root().field("key"));
        problem.into_iter().collect()
    }
}

impl MeshKeyFile {
    /// `file`: where it stands.
    pub(crate) fn source(&self, file: &Path) -> KeySource {
        (self.key.source(file)).expect("`problems` refuses what is none")
    }
}

impl KeyEntry {
    fn problem(&self, path: FieldPath) -> Option<Problem> {
        if self.source(Path::new("")).is_some() {
            return None;
        }
        let message = "it says not where the key is, or in more than one way";
        let hint = "write one of `file: PATH`, `env: NAME` and `command: [PROGRAM, ARGUMENT]`";
        Some(Problem::new(path, message).hint(hint))
    }

    /// `file`: where it stands. `None`: it is not one of the three.
    fn source(&self, file: &Path) -> Option<KeySource> {
        match (&self.file, &self.env, &self.command) {
            (Some(path), None, None) => Some(KeySource::File(beside(file, path))),
            (None, Some(name), None) => Some(KeySource::Environment(name.clone())),
            (None, None, Some(words)) if !words.is_empty() => {
                Some(KeySource::Command(words.clone()))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source(Path::new("")) {
            Some(source) => fmt::Debug::fmt(&source, f),
            None => f.write_str("nowhere"),
        }
    }
}

impl ControlFile {
    pub(crate) fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime.map_or(LEAF_LIFETIME, |span| span.0)
    }

    /// `file`: where it stands.
    pub(crate) fn at_rest(&self, file: &Path) -> Option<AtRest> {
        let source = |key: &KeyEntry| key.source(file).expect("`problems` refuses what is none");
        self.at_rest.as_ref().map(|at_rest| AtRest {
            key: source(&at_rest.key),
            previous: at_rest.previous.iter().map(source).collect(),
        })
    }

    pub(crate) fn renew_after(&self) -> Duration {
        self.renew_after.map_or(RENEW_AFTER, |span| span.0)
    }
}

impl ConfigFile for GatewayFile {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = address_problems(self.address);
        problems.extend(process_problems(&self.control, self.workers));
        problems.extend(self.clients.problems());
        problems
    }
}

impl ConfigFile for WorkloadFile {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = address_problems(self.address);
        problems.extend(process_problems(&self.control, self.workers));
        problems.extend(self.clients.problems());
        if self.runs_as().is_none() {
            let message = "nothing says which namespace and account it runs as";
            let hint = "write `service: namespace/name` or `account: namespace/name`";
            let field = FieldPath::root().field("account");
            problems.push(Problem::new(field, message).hint(hint));
        }
        problems
    }
}

impl WorkloadFile {
    pub(crate) fn runs_as(&self) -> Option<(Namespace, AccountName)> {
        let account = self.account.as_ref().map(|Text(account)| account);
        runs_as(account, self.service.as_ref().map(|Text(service)| service))
    }
}

/// The address that others are told must be one that they can reach.
fn address_problems(address: IpAddr) -> Vec<Problem> {
    if !address.is_unspecified() {
        return Vec::new();
    }
    let message = format!("{address} is no address that others can reach");
    let problem = Problem::new(FieldPath::root().field("address"), message);
    vec![problem.hint("write the address of this machine or process")]
}

fn process_problems(control: &[SocketAddr], workers: Option<usize>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if control.is_empty() {
        let message = "a process needs a control plane";
        let problem = Problem::new(FieldPath::root().field("control"), message);
        problems.push(problem.hint("write its address and port, such as 127.0.0.1:15012"));
    }
    if workers == Some(0) {
        let message = "without a worker nothing is served";
        let problem = Problem::new(FieldPath::root().field("workers"), message);
        problems.push(problem.hint("leave it out, or write 1"));
    }
    problems
}

/// `path` as seen from the directory of `file`.
pub(crate) fn beside(file: &Path, path: &Path) -> PathBuf {
    match file.parent() {
        Some(directory) => directory.join(path),
        None => path.to_owned(),
    }
}

/// Reads `1h30m`, `140ms`; at most five digits a unit, units h, m, s, ms in this order.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it like 1h30m, 10s or 140ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    for (unit, milliseconds) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.len()
            - behind
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        if &behind[..letters] != unit {
            continue;
        }
        if number.is_empty() || number.len() > 5 {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total += Duration::from_millis(number * milliseconds);
        rest = &behind[letters..];
    }
    if rest.is_empty() && !text.is_empty() {
        Ok(total)
    } else {
        Err(wrong())
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_span(text).map(Self)
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        if milliseconds == 0 {
            return f.write_str("0s");
        }
        let parts = [
            (milliseconds / 3_600_000, "h"),
            (milliseconds / 60_000 % 60, "m"),
            (milliseconds / 1000 % 60, "s"),
            (milliseconds % 1000, "ms"),
        ];
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(|Text(span)| span)
    }
}

impl FromStr for AccountRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |error: isthmus_model::NameError| format!("{text:?} is not an account: {error}");
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (Some(namespace), account),
            None => (None, text),
        };
        Ok(Self {
            namespace: namespace.map(Namespace::new).transpose().map_err(wrong)?,
            account: AccountName::new(account).map_err(wrong)?,
        })
    }
}

impl Display for AccountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.account),
            None => self.account.fmt(f),
        }
    }
}

impl Sha256 {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Self(hash)
    }
}

impl FromStr for Sha256 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a SHA-256 is 64 hexadecimal digits".to_owned();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

impl Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Borrow<T> for Text<T> {
    fn borrow(&self) -> &T {
        &self.0
    }
}

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: FromStr,
    T::Err: Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| {
            serde::de::Error::custom(format!("`{}`: {error}", text.escape_debug()))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
