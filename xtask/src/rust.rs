//! What no Rust file may hold: too many lines, skipped or unfinished work, naps in tests, clocks
//! in engines.

use std::collections::BTreeSet;

use crate::finding::Finding;
use crate::packages::Package;
use crate::source::{Code, is_identifier};
use crate::tree::Tree;

const LINES_TO_WARN: usize = 600;
const LINES_TO_REFUSE: usize = 800;

/// The highest layer whose crates are pure.
const LAST_PURE_LAYER: u64 = 2;

/// Clocks, tasks, sockets and the environment: what pure crates get as arguments.
const IMPURE: [&str; 9] = [
    "Instant::now",
    "SystemTime::now",
    "thread::spawn",
    "tokio::spawn",
    "thread::sleep",
    "time::sleep",
    "env::var",
    "TcpStream",
    "UdpSocket",
];

pub(crate) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let pure: BTreeSet<String> = packages
        .iter()
        .filter(|package| package.layer.is_some_and(|layer| layer <= LAST_PURE_LAYER))
        .filter(|package| package.crate_name() != Some("world"))
        .map(|package| format!("{}/src/", package.folder))
        .collect();
    let mut findings = Vec::new();
    for (path, source) in tree.rust_files() {
        findings.extend(check_length(path, source));
        let code = Code::new(path, source);
        findings.extend(check_unfinished(path, &code));
        findings.extend(check_naps(path, &code));
        if pure.iter().any(|folder| path.starts_with(folder.as_str())) {
            findings.extend(check_pure(path, &code));
        }
    }
    findings
}

fn check_length(path: &str, source: &str) -> Option<Finding> {
    let lines = source.lines().count();
    let what = || format!("{lines} lines: which second thing moved in? Give it a file of its own");
    if lines > LINES_TO_REFUSE {
        Some(Finding::error(path, what()))
    } else {
        (lines > LINES_TO_WARN).then(|| Finding::warning(path, what()))
    }
}

fn check_unfinished(path: &str, code: &Code) -> Vec<Finding> {
    let words = [
        ("#[ignore", "a test is skipped: make it run or delete it"),
        ("todo!", "unfinished work: finish it or leave it out"),
        (
            "unimplemented!",
            "unfinished work: finish it or leave it out",
        ),
    ];
    let found = words
        .iter()
        .flat_map(|(word, what)| code.words(word).map(move |at| (at, *what)));
    found
        .map(|(at, what)| Finding::error(path, what).at(code.line(at)))
        .collect()
}

fn check_naps(path: &str, code: &Code) -> Vec<Finding> {
    let calls = code.words("sleep").filter(|&at| code.in_test(at));
    calls
        .filter(|&at| is_nap(&code.text[..at]))
        .map(|at| {
            let what = "a test sleeps: wait for what it waits for, or use virtual time";
            Finding::error(path, what).at(code.line(at))
        })
        .collect()
}

/// Is the `sleep` behind this text one of a thread or of a timer, and not a method of a clock that
/// the test controls?
fn is_nap(before: &str) -> bool {
    let statement = before.rsplit(';').next().unwrap_or_default();
    let imported = statement.rsplit_once("use ").map(|(_, names)| names);
    before.ends_with("thread::")
        || before.ends_with("time::")
        || imported.is_some_and(|names| names.contains("time::{") || names.contains("thread::{"))
}

fn check_pure(path: &str, code: &Code) -> Vec<Finding> {
    let found = IMPURE.iter().flat_map(|word| {
        let outside = |&at: &usize| !code.in_test(at) && !is_path_tail(&code.text[..at]);
        let places = code.words(word).filter(outside);
        places.map(move |at| (at, *word))
    });
    found
        .map(|(at, word)| {
            let what = format!("a pure crate uses {word}: take time, chance and I/O as arguments");
            Finding::error(path, what).at(code.line(at))
        })
        .collect()
}

/// `quanta::Instant::now` is someone else's; `std::time::Instant::now` is not.
fn is_path_tail(before: &str) -> bool {
    let Some(path) = before.strip_suffix("::") else {
        return false;
    };
    let parent = path.rsplit(|c| !is_identifier(c)).next();
    !matches!(parent, Some("time" | "std" | "net" | "tokio"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::lines;

    fn check_one(path: &str, source: &str) -> Vec<String> {
        let package = Package {
            name: "isthmus-route".to_owned(),
            folder: "crates/route".to_owned(),
            layer: Some(1),
            ..Package::default()
        };
        lines(&check(&Tree::of([(path, source)]), &[package]))
    }

    #[test]
    fn long_files() {
        for (count, expect) in [(600, None), (601, Some("warning")), (801, Some("error"))] {
            let found = check_one("crates/proxy/src/a.rs", &"\n".repeat(count));
            assert_eq!(found.len(), usize::from(expect.is_some()), "{count}");
            if let Some(kind) = expect {
                assert!(found[0].contains(kind), "{}", found[0]);
            }
        }
    }

    #[test]
    fn words_in_code_count_and_words_about_code_do_not() {
        let module = |body: &str| format!("#[cfg(test)]\nmod tests {{\n{body}\n}}\n");
        let naps = "a test sleeps";
        let clock = "pure crate uses";
        for (path, source, expect) in [
            (
                "crates/proxy/src/a.rs",
                "fn f() {\n todo!() }".to_owned(),
                Some((2, "unfinished")),
            ),
            (
                "crates/proxy/src/a.rs",
                "// todo!()\nf(\"todo!\");".to_owned(),
                None,
            ),
            (
                "crates/proxy/src/a.rs",
                module("#[ignore = \"slow\"]\nfn f() {}"),
                Some((3, "skipped")),
            ),
            (
                "crates/proxy/src/a.rs",
                "async fn f() { tokio::time::sleep(d).await }".to_owned(),
                None,
            ),
            (
                "crates/proxy/src/a.rs",
                module("thread::sleep(d);"),
                Some((3, naps)),
            ),
            (
                "crates/proxy/src/a.rs",
                module("use tokio::time::{Duration, sleep};"),
                Some((3, naps)),
            ),
            (
                "crates/proxy/src/a.rs",
                module("clock.sleep(d); fn sleep() {}"),
                None,
            ),
            (
                "crates/proxy/tests/a.rs",
                "tokio::time::sleep(d)".to_owned(),
                Some((1, naps)),
            ),
            (
                "crates/route/src/a.rs",
                "let a = std::time::Instant::now();".to_owned(),
                Some((1, clock)),
            ),
            (
                "crates/route/src/a.rs",
                "let a = Instant::now();".to_owned(),
                Some((1, clock)),
            ),
            (
                "crates/route/src/a.rs",
                module("let a = Instant::now();"),
                None,
            ),
            (
                "crates/proxy/src/a.rs",
                "let a = Instant::now();".to_owned(),
                None,
            ),
        ] {
            let found = check_one(path, &source);
            match expect {
                None => assert!(found.is_empty(), "{source}: {found:?}"),
                Some((line, words)) => {
                    assert_eq!(found.len(), 1, "{source}: {found:?}");
                    let at = format!("{path}:{line}: error: ");
                    assert!(
                        found[0].starts_with(&at) && found[0].contains(words),
                        "{found:?}"
                    );
                }
            }
        }
    }
}
