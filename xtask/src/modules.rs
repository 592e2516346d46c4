//! Inside a crate, modules beside each other know each other one way only.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::source::{Code, is_identifier};
use crate::tree::Tree;

/// Who uses whom among the children of one module.
type Uses<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let folders: BTreeSet<&str> = tree
        .rust_files()
        .filter(|(path, _)| path.contains("/src/"))
        .filter_map(|(path, _)| path.rsplit_once('/').map(|(folder, _)| folder))
        .collect();
    folders
        .into_iter()
        .filter_map(|folder| {
            let cycle = find_cycle(&uses(tree, folder))?;
            let what = format!(
                "modules know each other in a circle ({}): move what they share into one of them \
                 or into a third",
                cycle.join(" → ")
            );
            Some(Finding::error(folder, what))
        })
        .collect()
}

/// The modules that are files or folders in `folder`, and their uses of each other outside tests.
fn uses<'a>(tree: &'a Tree, folder: &str) -> Uses<'a> {
    let prefix = format!("{folder}/");
    let files: Vec<(&str, &str, Code)> = tree
        .rust_files()
        .filter_map(|(path, source)| {
            let inside = path.strip_prefix(&prefix)?;
            let module = inside.split('/').next()?.trim_end_matches(".rs");
            let root = matches!(module, "lib" | "main" | "mod" | "bin" | "tests");
            (!root).then(|| (module, inside, Code::new(path, source)))
        })
        .collect();
    let modules: BTreeSet<&str> = files.iter().map(|(module, _, _)| *module).collect();
    let (_, inner) = folder.split_once("/src").unwrap_or_default();
    let absolute = format!("crate{}::", inner.replace('/', "::"));
    let exports = exports(tree, folder, &modules);

    let mut uses = Uses::new();
    for (module, inside, code) in files {
        let mut named = names_behind(&code, &absolute);
        if !inside.contains('/') {
            named.extend(names_behind(&code, "super::"));
        }
        let neighbours = named
            .iter()
            .filter_map(|name| modules.get(*name).or(exports.get(*name)))
            .copied()
            .filter(|name| *name != module);
        uses.entry(module).or_default().extend(neighbours);
    }
    uses
}

/// Names that the parent module re-exports, and the child each comes from.
fn exports<'a>(
    tree: &'a Tree,
    folder: &str,
    modules: &BTreeSet<&'a str>,
) -> BTreeMap<&'a str, &'a str> {
    let parents = ["/lib.rs", "/main.rs", "/mod.rs", ".rs"];
    let parents = parents.map(|end| format!("{folder}{end}"));
    let sources = parents.iter().filter_map(|path| tree.find(path));
    let statements = sources.flat_map(|text| text.split(';'));
    let mut exports = BTreeMap::new();
    for statement in statements {
        let used = statement.rsplit_once("use ").map(|(_, used)| used);
        let Some((module, names)) = used.and_then(|used| used.split_once("::")) else {
            continue;
        };
        if let Some(module) = modules.get(module.trim()) {
            let names = names.split(|c| !is_identifier(c));
            exports.extend(names.map(|name| (name, *module)));
        }
    }
    exports
}

/// The first names behind `path`, singly or in braces, outside tests.
fn names_behind<'a>(code: &'a Code, path: &str) -> Vec<&'a str> {
    let places = code.text.match_indices(path).filter(|(at, _)| {
        let before = code.text[..*at].chars().next_back();
        !code.in_test(*at) && !before.is_some_and(|c| is_identifier(c) || c == ':')
    });
    places
        .flat_map(|(at, _)| first_names(&code.text[at + path.len()..]))
        .collect()
}

/// `A`, or of `{A, b::{C, D}, E}` the names A, b and E.
fn first_names(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c| !is_identifier(c)).unwrap_or(text.len());
        return vec![&text[..end]];
    };
    let (mut names, mut depth, mut expected) = (Vec::new(), 0usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && is_identifier(c) => {
                let name = &group[at..];
                let end = name.find(|c| !is_identifier(c)).unwrap_or(name.len());
                names.push(&name[..end]);
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// A shortest circle, beginning and ending with the same module.
fn find_cycle<'a>(uses: &Uses<'a>) -> Option<Vec<&'a str>> {
    let circles = uses.keys().filter_map(|start| way_back(uses, start));
    circles.min_by_key(Vec::len)
}

fn way_back<'a>(uses: &Uses<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for &next in uses.get(last).into_iter().flatten() {
                let way: Vec<&str> = way.iter().copied().chain([next]).collect();
                if next == start {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::lines;

    #[test]
    fn circles_are_found_and_lines_are_not() {
        let lib = "mod a;\nmod b;\nmod c;\npub use a::{Alpha, Other};\npub use b::Beta;\n";
        for (a, b, c, circle) in [
            ("use crate::Beta;", "", "use crate::{Alpha, Beta};", None),
            (
                "use crate::Beta;",
                "use super::Alpha;",
                "",
                Some("a → b → a"),
            ),
            (
                "use crate::b::Beta;",
                "use crate::c::X;",
                "fn f() { crate::a::g() }",
                Some("a → b → c → a"),
            ),
            (
                "use crate::{Beta};",
                "#[cfg(test)]\nmod tests { use crate::Alpha; }",
                "",
                None,
            ),
            ("use crate::Beta;", "// crate::Alpha", "", None),
            ("use crate::Alpha;", "", "", None),
        ] {
            let tree = Tree::of([
                ("crates/x/src/lib.rs", lib),
                ("crates/x/src/a.rs", a),
                ("crates/x/src/b.rs", b),
                ("crates/x/src/c.rs", c),
            ]);
            let found = lines(&check(&tree));
            assert_eq!(
                found.len(),
                usize::from(circle.is_some()),
                "{a} {b} {c}: {found:?}"
            );
            if let Some(circle) = circle {
                assert!(found[0].contains(circle), "{}", found[0]);
            }
        }
    }

    #[test]
    fn parent_and_child_may_know_each_other() {
        let tree = Tree::of([
            ("crates/x/src/lib.rs", "mod a;"),
            ("crates/x/src/a.rs", "mod b; use self::b::B; pub struct A;"),
            ("crates/x/src/a/b.rs", "use super::A; pub struct B;"),
        ]);
        assert_eq!(lines(&check(&tree)), [""; 0]);
    }

    #[test]
    fn inner_siblings_are_checked_as_well() {
        let tree = Tree::of([
            ("crates/x/src/lib.rs", "mod a;"),
            ("crates/x/src/a.rs", "mod b; mod c; use b::B;"),
            ("crates/x/src/a/b.rs", "use super::c::C; pub struct B;"),
            ("crates/x/src/a/c.rs", "use crate::a::B; pub struct C;"),
        ]);
        let found = lines(&check(&tree));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/x/src/a: "), "{}", found[0]);
    }
}
