//! Random requests: who calls whom, and how. The same seed gives the same ones.

use isthmus_world::{Chance, SeededChance};
use serde_json::{Value, json};

/// A request as somebody in one cluster may send it.
#[derive(Debug)]
pub(crate) struct RandomRequest {
    pub(crate) source: &'static str,
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

/// What runs in each cluster and so can call.
pub(crate) fn sources(cluster: &str) -> &'static [&'static str] {
    match cluster {
        "us-west" => &["frontend", "cart", "payment"],
        "eu-central" => &["frontend", "cart", "catalog", "payment", "vault"],
        _ => &["frontend", "catalog", "payment", "ledger"],
    }
}

/// What is called; those that stand twice, more often.
const SERVICES: [&str; 12] = [
    "cart", "cart", "cart", "catalog", "catalog", "payment", "payment", "frontend", "ledger",
    "vault", "ghost", "nobody",
];
const METHODS: [&str; 4] = ["GET", "GET", "POST", "PUT"];
/// What the routes of `cart` tell apart, and what nothing does.
const PATHS: [&str; 9] = [
    "/echo",
    "/exact",
    "/exact/not",
    "/exact?query=1",
    "/spread",
    "/spread/a/b",
    "/spreadsheet",
    "/tenant/a",
    "/none",
];
const HEADERS: [&[(&str, &str)]; 6] = [
    &[],
    &[("x-canary", "always")],
    &[("X-Canary", "always"), ("x-other", "1")],
    &[("x-canary", "sometimes")],
    &[("x-tenant", "gold")],
    &[("x-tenant", "silver")],
];

impl RandomRequest {
    pub(crate) fn draw(source: &'static str, chance: &mut SeededChance) -> Self {
        Self {
            source,
            service: one_of(&SERVICES, chance),
            method: one_of(&METHODS, chance),
            path: one_of(&PATHS, chance),
            headers: one_of(&HEADERS, chance).to_vec(),
        }
    }

    /// What the API is asked about it.
    pub(crate) fn question(&self) -> Value {
        let header = |(name, value): &(&str, &str)| json!({"name": name, "value": value});
        let headers: Vec<Value> = self.headers.iter().map(header).collect();
        json!({
            "source": format!("shop/{}", self.source),
            "service": format!("shop/{}", self.service),
            "method": self.method,
            "path": self.path,
            "headers": headers,
        })
    }

    /// The command that asks the same.
    pub(crate) fn command(&self, cluster: &str) -> Vec<String> {
        let words = [
            "explain",
            &format!("shop/{}", self.service),
            "--source",
            &format!("shop/{}", self.source),
            "--from",
            cluster,
            "--method",
            self.method,
            "--path",
            self.path,
        ]
        .map(str::to_owned);
        let header =
            |(name, value): &(&str, &str)| ["--header".to_owned(), format!("{name}={value}")];
        words
            .into_iter()
            .chain(self.headers.iter().flat_map(header))
            .collect()
    }

    /// Its header on the wire, with the wish to be told how it went.
    pub(crate) fn lines(&self) -> Vec<String> {
        let own = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        own.chain(["x-isthmus-tell: 1".to_owned()]).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}.shop.mesh{}", self.service, self.path)
    }
}

fn one_of<T: Copy>(list: &[T], chance: &mut SeededChance) -> T {
    let count = u64::try_from(list.len()).expect("a short list");
    list[usize::try_from(chance.draw() % count).expect("less than the list's length")]
}
