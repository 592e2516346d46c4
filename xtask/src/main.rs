//! Chores of this repository. `cargo xtask tidy` checks what the compiler cannot: that layers point
//! down, that documents tell the truth about the code, that nothing refers outside. `cargo xtask counts`
//! counts the instructions of what every request pays for. `cargo xtask mutants` breaks the control plane in
//! a copy, for the tests to notice.
//!
//! Changes no file, but for the baseline of the counts where it is told to.

#![allow(clippy::case_sensitive_file_extension_comparisons)] // names in this repository are lower case

mod counts;
mod documents;
mod finding;
mod modules;
mod mutants;
mod packages;
mod rust;
mod source;
mod tree;

use std::path::Path;
use std::process::ExitCode;

use finding::Finding;
use packages::Package;
use tree::Tree;

const USAGE: &str = "usage: cargo xtask tidy | counts [--accept] | mutants [NAME]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["tidy"] => read(&root()).map(|(tree, packages)| report(&tidy(&tree, &packages))),
        ["counts"] => counts::run(&root(), false),
        ["counts", "--accept"] => counts::run(&root(), true),
        ["mutants"] => mutants::run(&root(), None),
        ["mutants", name] => mutants::run(&root(), Some(name)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(root: &Path) -> Result<(Tree, Vec<Package>), String> {
    Ok((Tree::read(root)?, packages::read(root)?))
}

/// Every check, over a tree and its packages as values.
fn tidy(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = packages::check(tree, packages);
    findings.extend(rust::check(tree, packages));
    findings.extend(modules::check(tree));
    findings.extend(documents::check(tree, packages));
    findings.extend(mutants::check(tree));
    findings.sort();
    findings
}

/// Is everything in order?
fn report(findings: &[Finding]) -> bool {
    for finding in findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    if errors == 0 {
        println!("tidy");
    } else {
        println!("{errors} to put in order");
    }
    errors == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let (tree, packages) = read(&root()).unwrap();
        let findings = tidy(&tree, &packages);
        let errors: Vec<String> = findings
            .iter()
            .filter(|finding| finding.is_error())
            .map(ToString::to_string)
            .collect();
        assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
    }
}
