//! A test of the tests: the control plane broken on purpose, in a copy of the repository, and the storms
//! over simulated meshes that have to notice it.
//!
//! `tidy` holds that each change here still finds its place in the code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::finding::Finding;
use crate::tree::Tree;

const FILE: &str = "xtask/src/mutants.rs";
/// Of what was noticed so much is shown.
const WIDTH: usize = 200;

/// One way to break it.
struct Mutant {
    name: &'static str,
    /// What would be wrong with a mesh that is broken so.
    what: &'static str,
    edits: &'static [Edit],
}

struct Edit {
    file: &'static str,
    /// Stands in the file once.
    was: &'static str,
    is: &'static str,
}

const MUTANTS: [Mutant; 14] = [
    Mutant {
        name: "older-wins",
        what: "a copy takes what is older than what it has",
        edits: &[
            Edit {
                file: "crates/replica/src/follower.rs",
                was: "        if at <= have {\n",
                is: "        if at == have {\n",
            },
            Edit {
                file: "crates/replica/src/ledger.rs",
                was: "            return Relation::Ahead;\n",
                is: "            return Relation::Void;\n",
            },
        ],
    },
    Mutant {
        name: "no-sync",
        what: "what could not be saved is answered and sent as if it were",
        edits: &[Edit {
            file: "crates/control/src/core/mod.rs",
            was: "            Err(error) => {\n                let alone = self.on_votes_not_saved",
            is: "            Err(_) if self.store_failing => {\n                if let Some(unsaved) = unsaved {\n                    \
             let outputs = self.replica.on_saved(unsaved);\n                    self.perform(outputs);\n                }\n                \
             self.on_votes_saved();\n                self.release();\n                false\n            }\n            \
             Err(error) => {\n                let alone = self.on_votes_not_saved",
        }],
    },
    Mutant {
        name: "no-fence",
        what: "a new leader judges before it knows everything that was decided",
        edits: &[Edit {
            file: "crates/control/src/core/authority/mod.rs",
            was: "group.can_propose() && group.term() == self.decided;",
            is: "group.can_propose();",
        }],
    },
    Mutant {
        name: "no-vote",
        what: "a vote is forgotten at a restart",
        edits: &[Edit {
            file: "crates/control/src/authority/log.rs",
            was: "            vote: self.hard.vote,\n",
            is: "            vote: 0,\n",
        }],
    },
    Mutant {
        name: "no-term",
        what: "a term is forgotten at a restart",
        edits: &[Edit {
            file: "crates/control/src/authority/log.rs",
            was: "            term: self.hard.term,\n",
            is: "            term: self.hard.term.min(2),\n",
        }],
    },
    Mutant {
        name: "no-mark",
        what: "a voter that was restored from a backup goes on voting",
        edits: &[Edit {
            file: "crates/control/src/core/restore.rs",
            was: "let restored = Restored::load(&store)?;",
            is: "let restored = Restored::load(&store)?.filter(|_| false);",
        }],
    },
    Mutant {
        name: "no-log",
        what: "entries of the log are acknowledged and not saved",
        edits: &[Edit {
            file: "crates/control/src/authority/log.rs",
            was: "                Some(record) => batch.put(LOG, place(*index), record.clone()),\n",
            is: "                Some(record) if index % 8 != 0 => batch.put(LOG, place(*index), record.clone()),\n                \
             Some(_) => {}\n",
        }],
    },
    Mutant {
        name: "undecided",
        what: "a write is answered when it is proposed",
        edits: &[Edit {
            file: "crates/control/src/core/authority/mod.rs",
            was: "        self.propose_decision(decision, Some((reply_to, held)));\n",
            is: "        self.propose_decision(decision, None);\n        self.held.push((reply_to, held));\n",
        }],
    },
    Mutant {
        name: "no-condition",
        what: "a write is accepted though what it depends on has changed",
        edits: &[Edit {
            file: "crates/control/src/core/config.rs",
            was: "            check_version(key, write.object.as_ref(), found, next)?;\n",
            is: "            drop(check_version(key, write.object.as_ref(), found, next));\n",
        }],
    },
    Mutant {
        name: "older-signature",
        what: "the same terms are accepted with an older signature than they have",
        edits: &[Edit {
            file: "crates/control/src/core/charter.rs",
            was: "                if others == terms && found == known {\n",
            is: "                if others == terms {\n",
        }],
    },
    Mutant {
        name: "early-leaver",
        what: "who was added while it is away goes, because it was not there before",
        edits: &[Edit {
            file: "crates/control/src/core/authority/members.rs",
            was: "        let known = ahead.filter(|(_, at)| *at > recorded.1).unwrap_or(recorded);\n",
            is: "        let known = ahead.filter(|_| false).unwrap_or(recorded);\n",
        }],
    },
    Mutant {
        name: "twice",
        what: "a write that was accepted is made again when it is asked for again",
        edits: &[Edit {
            file: "crates/control/src/core/history.rs",
            was: "record.request.as_deref() == Some(&asked.request)",
            is: "record.request.as_deref() == Some(\"\")",
        }],
    },
    Mutant {
        name: "hasty",
        what: "a dismissed voter goes before others know of it",
        edits: &[Edit {
            file: "crates/control/src/authority/mod.rs",
            was: "        if self.node.raft.state != StateRole::Leader {\n            return self.silent > LINGERING;\n        }\n",
            is: "        if !self.is_new() {\n            return true;\n        }\n",
        }],
    },
    Mutant {
        name: "half-a-change",
        what: "the index of config misses what came with a checkpoint",
        edits: &[Edit {
            file: "crates/replica/src/follower.rs",
            was: "            if self.entries.get(key) != Some(kept) {\n",
            is: "            if !self.entries.contains_key(key) {\n",
        }],
    },
];

/// Each change finds its place.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Mutant { name, edits, .. } in &MUTANTS {
        for Edit { file, was, .. } in *edits {
            let text = tree.find(file);
            // Trees that are made up lack it.
            if text.is_some_and(|text| text.matches(was).count() != 1) {
                let what = format!("{name}: what it changes does not stand in {file} once");
                findings.push(Finding::error(FILE, what));
            }
        }
    }
    findings
}

/// Breaks it in each way, or in the one that is named: is all of it noticed?
pub(crate) fn run(root: &Path, name: Option<&str>) -> Result<bool, String> {
    let wanted: Vec<_> = (MUTANTS.iter())
        .filter(|mutant| name.is_none_or(|name| name == mutant.name))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        return Err(format!(
            "there is no such mutant, only {}",
            names.join(", ")
        ));
    }
    let copy = Copy::new(root)?;
    if let Some(by) = copy.test()? {
        return Err(format!("what is not broken fails already: {by}"));
    }
    let mut unnoticed = 0;
    for Mutant { name, what, edits } in wanted {
        let texts = edits.iter().map(|edit| copy.read(edit.file));
        let texts: Vec<_> = texts.collect::<Result<_, _>>()?;
        for (Edit { file, was, is }, text) in edits.iter().zip(&texts) {
            copy.write(file, &text.replacen(was, is, 1))?;
        }
        let noticed = copy.test();
        for (Edit { file, .. }, text) in edits.iter().zip(&texts) {
            copy.write(file, text)?;
        }
        match noticed? {
            Some(by) => println!("{name}: {what}\n  {by}"),
            None => {
                unnoticed += 1;
                println!("{name}: {what}\n  GOES UNNOTICED");
            }
        }
    }
    println!("{unnoticed} go unnoticed");
    Ok(unnoticed == 0)
}

/// The repository, where it can be broken.
struct Copy(PathBuf);

impl Copy {
    /// Whatever differs from the repository is copied anew, so that little is compiled again.
    fn new(root: &Path) -> Result<Self, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root.join("target"), PathBuf::from);
        let copy = Self(target.join("mutants"));
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output();
        let listed = listed.map_err(|error| format!("running git: {error}"))?;
        for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
            let Ok(content) = std::fs::read(root.join(path)) else {
                continue; // It is deleted and not yet committed.
            };
            let to = copy.0.join(path);
            if std::fs::read(&to).is_ok_and(|found| found == content) {
                continue;
            }
            let failed = |error| format!("copying {path}: {error}");
            let folder = to.parent().unwrap_or(&copy.0);
            std::fs::create_dir_all(folder).map_err(failed)?;
            std::fs::write(&to, content).map_err(failed)?;
        }
        Ok(copy)
    }

    fn read(&self, file: &str) -> Result<String, String> {
        let path = self.0.join(file);
        std::fs::read_to_string(path).map_err(|error| format!("reading {file}: {error}"))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.0.join(file);
        std::fs::write(path, text).map_err(|error| format!("writing {file}: {error}"))
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Output, String> {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--quiet", "--package", "isthmus-sim"]);
        cargo.args(arguments).current_dir(&self.0);
        cargo.env("CARGO_TARGET_DIR", self.0.join("target"));
        let output = cargo.output();
        output.map_err(|error| format!("running cargo: {error}"))
    }

    /// What the tests in the simulator say, if they notice anything.
    fn test(&self) -> Result<Option<String>, String> {
        let built = self.cargo(&["--no-run"])?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            return Err(format!("it does not compile:\n{said}"));
        }
        let output = self.cargo(&["--no-fail-fast", "--", "--nocapture"])?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        // Dots of passed tests may stand before it.
        let seed = said
            .lines()
            .filter_map(|line| line.find("seed ").map(|at| &line[at..]));
        let seed = seed.into_iter().find(|line| line.contains(", step "));
        let failed = said.lines().find(|line| line.ends_with("FAILED"));
        let by = seed.or(failed).unwrap_or("the tests fail");
        Ok(Some(by.chars().take(WIDTH).collect()))
    }
}
