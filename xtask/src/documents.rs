//! Documents tell the truth: every crate and invariant stands in ARCHITECTURE.md, decisions are
//! numbered, links lead somewhere, and nothing refers to what a clone does not have.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::packages::Package;
use crate::source::Code;
use crate::tree::Tree;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const TESTED: &str = "Invariants with their tests";
const UNTESTED: &str = "Invariants not yet tested";
const DECISIONS: &str = "docs/decisions/";

pub(crate) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    match tree.find(ARCHITECTURE) {
        Some(text) => {
            check_crates(text, packages, &mut findings);
            check_invariants(tree, text, &mut findings);
        }
        None => findings.push(Finding::error(ARCHITECTURE, "it is missing")),
    }
    check_decisions(tree, &mut findings);
    check_dependencies(tree, &mut findings);
    for (path, text) in tree.files() {
        if path.ends_with(".md") {
            check_links(tree, path, text, &mut findings);
        }
        check_references(path, text, &mut findings);
    }
    findings
}

/// Every crate has a row `| <layer> | `<name>` | …` with its own layer.
fn check_crates(text: &str, packages: &[Package], findings: &mut Vec<Finding>) {
    let rows: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let (layer, name) = (cells.next()?, cells.next()?);
            Some((name.strip_prefix('`')?.strip_suffix('`')?, layer))
        })
        .collect();
    for package in packages {
        let (Some(name), Some(layer)) = (package.crate_name(), package.layer) else {
            continue;
        };
        let what = match rows.get(name) {
            Some(&shown) if shown == layer.to_string() => continue,
            Some(shown) => format!("crate {name} is of layer {layer}, its row says {shown}"),
            None => format!("crate {name} is missing: add a row `| {layer} | `{name}` | …`"),
        };
        findings.push(Finding::error(ARCHITECTURE, what));
    }
}

/// One `- **Invariant <n>.** …` item, with the text that follows until the next one.
struct Invariant {
    number: usize,
    line: usize,
    tested: bool,
    text: String,
}

fn invariants(text: &str) -> Vec<Invariant> {
    let mut found: Vec<Invariant> = Vec::new();
    let (mut section, mut open) = ("", false);
    for (index, line) in text.lines().enumerate() {
        let item = line.strip_prefix("- **Invariant ");
        let numbered = item.and_then(|rest| rest.split_once(".**"));
        if let Some(title) = line.strip_prefix("## ") {
            (section, open) = (title, false);
        } else if let Some((number, rest)) = numbered {
            found.push(Invariant {
                number: number.parse().unwrap_or(0),
                line: index + 1,
                tested: section == TESTED,
                text: rest.to_owned(),
            });
            open = section == TESTED || section == UNTESTED;
        } else if let (true, true, Some(last)) = (open, line.starts_with("  "), found.last_mut()) {
            last.text.push_str(line);
        } else {
            open = false;
        }
    }
    found
}

/// Invariants are numbered from 1 without gaps, and those that claim tests have them.
fn check_invariants(tree: &Tree, text: &str, findings: &mut Vec<Finding>) {
    let mut found = invariants(text);
    found.sort_by_key(|invariant| invariant.number);
    if found.is_empty() {
        let what = format!("it lists no invariants: `- **Invariant 1.** …` under `## {TESTED}`");
        findings.push(Finding::error(ARCHITECTURE, what));
    }
    for (index, invariant) in found.iter().enumerate() {
        let mut report = |what: String| {
            findings.push(Finding::error(ARCHITECTURE, what).at(invariant.line));
        };
        let (number, expected) = (invariant.number, index + 1);
        if number != expected {
            report(format!("invariant {number} stands where {expected} should"));
        }
        let tests: Vec<&str> = quoted_tests(&invariant.text).collect();
        match (invariant.tested, tests.is_empty()) {
            (true, true) => report(format!(
                "invariant {number} names no test: `tests: `crates/<crate>/src/<file>.rs::<fn>``, \
                 or move it under `## {UNTESTED}`"
            )),
            (false, false) => report(format!(
                "invariant {number} names a test: move it under `## {TESTED}`"
            )),
            _ => {}
        }
        for test in tests {
            if let Err(why) = find_test(tree, test) {
                report(format!("invariant {number}: {test}: {why}"));
            }
        }
    }
}

/// Every `` `<path>.rs::<function>` ``.
fn quoted_tests(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|quoted| quoted.contains(".rs::"))
}

fn find_test(tree: &Tree, test: &str) -> Result<(), &'static str> {
    let (path, function) = test.split_once("::").ok_or("it names no function")?;
    let source = tree.find(path).ok_or("there is no such file")?;
    let name = function.rsplit("::").next().unwrap_or(function);
    let exists = Code::new(path, source).has_test(name);
    exists
        .then_some(())
        .ok_or("there is no such test function in it")
}

/// `docs/decisions/NNNN-title.md`, from 0001 without gaps.
fn check_decisions(tree: &Tree, findings: &mut Vec<Finding>) {
    let names = tree.files().filter_map(|(p, _)| p.strip_prefix(DECISIONS));
    for (index, name) in names.enumerate() {
        let expected = format!("{:04}-", index + 1);
        if !name.starts_with(&expected) || !name.ends_with(".md") {
            let what = format!("decisions are numbered without gaps: expected {expected}….md here");
            findings.push(Finding::error(&format!("{DECISIONS}{name}"), what));
        }
    }
}

/// Every dependency of the workspace has its reason in some decision.
fn check_dependencies(tree: &Tree, findings: &mut Vec<Finding>) {
    let manifest = tree.find("Cargo.toml").unwrap_or_default();
    let section = manifest.split("[workspace.dependencies]").nth(1);
    let section = section.unwrap_or_default().split("\n[").next();
    let names = section.unwrap_or_default().lines().filter_map(|line| {
        let (name, _) = line.split_once('=')?;
        Some(name.trim())
    });
    let decisions = || tree.files().filter(|(path, _)| path.starts_with(DECISIONS));
    for name in names.filter(|name| !name.starts_with("isthmus-") && !name.starts_with('#')) {
        let quoted = format!("`{name}`");
        if !decisions().any(|(_, text)| text.contains(&quoted)) {
            let what =
                format!("dependency {quoted} has no reason in {DECISIONS}: add why we use it");
            findings.push(Finding::error("Cargo.toml", what));
        }
    }
}

/// Links in Markdown lead to files of this repository or to the web.
fn check_links(tree: &Tree, path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for target in link_targets(line) {
            let web = ["https://", "http://", "mailto:", "#"];
            if web.iter().any(|start| target.starts_with(start)) {
                continue;
            }
            let file = target.split('#').next().unwrap_or_default();
            let resolved = resolve(path, file);
            if !resolved.is_some_and(|file| tree.exists(&file)) {
                let what = format!("the link to {target} leads nowhere in this repository");
                findings.push(Finding::error(path, what).at(index + 1));
            }
        }
    }
}

/// What stands in the parentheses of `[…](…)`, outside of `code`.
fn link_targets(line: &str) -> Vec<&str> {
    let prose = line.split('`').step_by(2);
    prose
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split([')', ' ']).next())
        .collect()
}

/// A relative link of the file at `from`, from the root; `None` if it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    (!link.starts_with('/')).then(|| path.trim_end_matches('/').to_owned())
}

/// Names of files that are not here, and paths of one machine. Spelled in pieces, so that this
/// file does not name them either.
const OUTSIDE: [(&str, &str); 3] = [("DESIGN", ".md"), ("STYLE", ".md"), ("shared", "/")];
const MACHINE: [&str; 4] = ["work", "home", "root", "Users"];

fn check_references(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        let outside = OUTSIDE.map(|(head, tail)| format!("{head}{tail}"));
        let outside = outside.iter().filter(|name| stands_alone(line, name));
        let machine = MACHINE.map(|name| format!("/{name}/"));
        let machine = machine.iter().filter(|name| stands_alone(line, name));
        for name in outside {
            let what = format!("{name} is not part of this repository: say here what is meant");
            findings.push(Finding::error(path, what).at(index + 1));
        }
        for name in machine {
            let what = format!("{name} is a path of one machine: use a relative one");
            findings.push(Finding::error(path, what).at(index + 1));
        }
    }
}

/// Does `name` stand in `line`, and not as the tail of a longer word or path?
fn stands_alone(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~}*>".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::lines;

    fn package(name: &str, layer: u64) -> Package {
        Package {
            folder: format!("crates/{name}"),
            layer: Some(layer),
            ..Package::default()
        }
    }

    /// Findings of one check, without those of the others.
    fn run(check: impl Fn(&mut Vec<Finding>)) -> Vec<String> {
        let mut findings = Vec::new();
        check(&mut findings);
        lines(&findings)
    }

    #[test]
    fn crates_have_rows_with_their_layer() {
        let text = "| layer | crate |\n|---|---|\n| 0 | `model` | words |\n| 1 | `wire` | bytes |\n\
                    | 6 | `later` | does not exist yet |\n";
        let packages = [package("model", 0), package("wire", 2), package("new", 3)];
        let found = run(|findings| check_crates(text, &packages, findings));
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md: error: crate wire is of layer 2, its row says 1",
                "ARCHITECTURE.md: error: crate new is missing: add a row `| 3 | `new` | …`",
            ]
        );
    }

    #[test]
    fn invariants_name_tests_that_exist() {
        let good = "`crates/x/src/a.rs::holds`";
        for (tested, untested, expect) in [
            (
                format!("- **Invariant 1.** A. Tests: {good}"),
                "- **Invariant 2.** B.",
                None,
            ),
            (
                format!("- **Invariant 1.** A\n  b. Tests:\n  {good}"),
                "",
                None,
            ),
            (
                "- **Invariant 1.** A.".to_owned(),
                "",
                Some("names no test"),
            ),
            (
                format!("- **Invariant 2.** A. {good}"),
                "",
                Some("2 stands where 1 should"),
            ),
            (
                format!("- **Invariant 1.** A. {good}"),
                "- **Invariant 1.** B.",
                Some("1 stands where 2"),
            ),
            (
                String::new(),
                "- **Invariant 1.** `crates/x/src/a.rs::holds`",
                Some("move it under"),
            ),
            (
                "- **Invariant 1.** `crates/x/src/b.rs::holds`".to_owned(),
                "",
                Some("no such file"),
            ),
            (
                "- **Invariant 1.** `crates/x/src/a.rs::hold`".to_owned(),
                "",
                Some("no such test"),
            ),
            (
                "- **Invariant 1.** `crates/x/src/a.rs::helper`".to_owned(),
                "",
                Some("no such test"),
            ),
            (String::new(), "", Some("lists no invariants")),
        ] {
            let text = format!("## {TESTED}\n\n{tested}\n\n## {UNTESTED}\n\n{untested}\n");
            let tree = Tree::of([(
                "crates/x/src/a.rs",
                "fn helper() {}\n#[test]\nfn holds() {}\n",
            )]);
            let found = run(|findings| check_invariants(&tree, &text, findings));
            match expect {
                None => assert!(found.is_empty(), "{text}{found:?}"),
                Some(words) => assert!(
                    found.len() == 1 && found[0].contains(words),
                    "{text}{found:?}"
                ),
            }
        }
    }

    #[test]
    fn decisions_are_numbered_without_gaps() {
        for (names, expect) in [
            (["0001-a.md", "0002-b.md"], 0),
            (["0001-a.md", "0003-b.md"], 1),
            (["0001-a.md", "0001-b.md"], 1),
            (["0001-a.md", "b.md"], 1),
        ] {
            let [a, b] = names.map(|name| format!("{DECISIONS}{name}"));
            let tree = Tree::of([(a.as_str(), ""), (b.as_str(), "")]);
            let found = run(|findings| check_decisions(&tree, findings));
            assert_eq!(found.len(), expect, "{names:?}: {found:?}");
        }
    }

    #[test]
    fn dependencies_have_reasons() {
        let manifest = "[workspace.dependencies]\nisthmus-a = { path = \"a\" }\n\nhttp = \"1\"\n\
                        redb = \"4\"\n\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n";
        let tree = Tree::of([
            ("Cargo.toml", manifest),
            ("docs/decisions/0001-a.md", "| `http` | types |"),
        ]);
        let found = run(|findings| check_dependencies(&tree, findings));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`redb`"), "{}", found[0]);
    }

    #[test]
    fn links_lead_somewhere() {
        let tree = Tree::of([("docs/a.md", ""), ("docs/b/c.md", ""), ("README.md", "")]);
        for (link, good) in [
            ("[x](a.md)", true),
            ("[x](b/c.md#part) and [y](https://example.com/z)", true),
            ("[x](b)", true),
            ("[x](b/)", true),
            ("[x](../README.md)", true),
            ("[x](#here)", true),
            ("`[x](gone.md)`", true),
            ("```\n[x](gone.md)\n```", true),
            ("[x](gone.md)", false),
            ("[x](../../README.md)", false),
            ("[x](/README.md)", false),
        ] {
            let found = run(|findings| check_links(&tree, "docs/a.md", link, findings));
            assert_eq!(found.is_empty(), good, "{link}: {found:?}");
        }
    }

    #[test]
    fn nothing_refers_outside() {
        let slash = "/";
        for (line, good) in [
            (format!("see {}{}", OUTSIDE[0].0, OUTSIDE[0].1), false),
            (format!("see {}{}x", OUTSIDE[2].0, OUTSIDE[2].1), false),
            (format!("cd {slash}home{slash}me"), false),
            (format!("path = \"{slash}work{slash}x\""), false),
            ("~/.local/bin and $HOME/x".to_owned(), true),
            (format!("https://example.com{slash}home{slash}x"), true),
            (format!("frame{slash}work{slash}x"), true),
            (format!("un{}{}x", OUTSIDE[2].0, OUTSIDE[2].1), true),
            ("the /workloads of /home".to_owned(), true),
        ] {
            let found = run(|findings| check_references("x", &line, findings));
            assert_eq!(found.is_empty(), good, "{line}: {found:?}");
        }
    }
}
