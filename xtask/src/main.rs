//! Chores of this repository. `cargo xtask tidy` checks what the compiler cannot: that layers point
//! down, that documents tell the truth about the code, that nothing refers outside.
//!
//! It never changes a file.

#![allow(clippy::case_sensitive_file_extension_comparisons)] // names in this repository are lower case

mod documents;
mod finding;
mod modules;
mod packages;
mod rust;
mod source;
mod tree;

use std::path::Path;
use std::process::ExitCode;

use finding::Finding;
use packages::Package;
use tree::Tree;

const USAGE: &str = "usage: cargo xtask tidy";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["tidy"] {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match read(&root()) {
        Ok((tree, packages)) => report(&tidy(&tree, &packages)),
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
    findings.sort();
    findings
}

fn report(findings: &[Finding]) -> ExitCode {
    for finding in findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    if errors == 0 {
        println!("tidy");
        ExitCode::SUCCESS
    } else {
        println!("{errors} to put in order");
        ExitCode::FAILURE
    }
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
