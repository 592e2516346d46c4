//! What was acknowledged is there after kill -9 at any moment.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use isthmus_world::{Batch, RedbStore, Store, Table};

const TABLE: Table = Table::new("t");
/// Names the store to the process that writes it; without it the writer's test does nothing.
const PATH: &str = "ISTHMUS_TEST_STORE";

/// Not a test of its own: what the killed process runs.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(PATH) else {
        return;
    };
    let mut store = RedbStore::open(path).unwrap();
    let begin = store.scan(TABLE, b"", usize::MAX).unwrap().len();
    for number in begin.. {
        let mut batch = Batch::new();
        batch.put(
            TABLE,
            number.to_be_bytes().to_vec(),
            number.to_string().into_bytes(),
        );
        store.commit(&batch).unwrap();
        writeln!(std::io::stdout(), "acknowledged {number}").unwrap();
    }
}

#[test]
fn acknowledged_commits_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = output.lines().map_while(Result::ok).filter_map(|line| {
            let number = line.split_once("acknowledged ")?.1;
            number.parse::<usize>().ok()
        });
        let mut last = acknowledged.nth(3 * round);
        child.kill().unwrap();
        last = acknowledged.last().or(last);
        child.wait().unwrap();

        let last = last.expect("the writer acknowledged something");
        let store = RedbStore::open(&path).unwrap();
        for number in 0..=last {
            let value = store.read(TABLE, &number.to_be_bytes()).unwrap();
            assert_eq!(
                value,
                Some(number.to_string().into_bytes()),
                "round {round}: {number} of {last} is gone"
            );
        }
    }
}
