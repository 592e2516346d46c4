//! Every input that is kept, replayed: none of them is a finding, and each is still what its name says.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use isthmus_fuzz::{TARGETS, find};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = entries.map(|entry| name(entry).into_string().unwrap());
    names.collect()
}

#[test]
fn every_input_is_what_its_name_says() {
    let mut wrong = Vec::new();
    for target in TARGETS {
        let folder = corpus().join(target.name);
        for name in names(&folder) {
            let input = fs::read(folder.join(&name)).unwrap();
            let found = catch_unwind(|| (target.run)(&input));
            // One input for each name; a finding that was fixed has a name of its own behind a dot.
            let stem = name.split('.').next().unwrap();
            if found.as_deref().ok() != Some(stem) {
                wrong.push(format!("{}/{name}: {found:?}", target.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
    for target in &targets {
        let count = names(&corpus().join(target)).len();
        assert!(count >= 3, "{target} has {count} inputs");
        assert!(find(target).is_some());
    }
}
