//! `isthmus audit`: the history as a chain of hashes, checked here and not by who keeps it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use aws_lc_rs::digest::{SHA256, digest};
use isthmus_api::{ChangeView, HistoryRequest};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Changes, caught_up};
use crate::api_client::{ApiClient, ApiError, nobody_answers};
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, hex, table};
use crate::setting::Setting;

/// What stands before the text of a record when it is hashed.
const FORMAT: u8 = 1;

/// What one cluster's copy was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    cluster: String,
    changes: usize,
    oldest: Option<u64>,
    newest: Option<u64>,
    /// Of the newest change.
    hash: Option<String>,
    /// The oldest is the first that was ever recorded.
    complete: bool,
    findings: Vec<String>,
}

/// The chain of one cluster, followed from its newest change to the oldest.
#[derive(Debug, Default)]
struct Chain {
    /// Where the cluster's copy of config stands.
    position: u64,
    /// By position, of what is part of it.
    hashes: BTreeMap<u64, String>,
    expected: Expected,
    /// Positions of what is not part of it, newest first.
    others: Vec<u64>,
    findings: Vec<String>,
}

/// What the next older change must be.
#[derive(Debug, Default, PartialEq)]
enum Expected {
    /// Nothing was seen yet.
    #[default]
    Anything,
    /// The last one says that it is the first.
    Nothing,
    Hash(String),
}

pub(crate) async fn verify(setting: &Setting) -> Result<ExitCode> {
    let (mut reached, mut silent, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    // What is accepted while this goes on is not looked at: it comes to each cluster in its time.
    let mut upto = 0;
    for mut client in setting.clients()? {
        match caught_up(&mut client, 0).await {
            Ok(position) => {
                upto = upto.max(position);
                reached.push(client);
            }
            Err(ApiError::Refused(failure)) => {
                refused.push(format!(
                    "{} shows no history: {}",
                    client.cluster, failure.message
                ));
            }
            Err(error) => silent.push(error.to_string()),
        }
    }
    let mut chains = BTreeMap::new();
    for mut client in reached {
        caught_up(&mut client, upto).await?;
        chains.insert(client.cluster.to_string(), follow(&mut client, upto).await?);
    }
    if chains.is_empty() {
        if refused.is_empty() {
            return Err(nobody_answers(silent));
        }
        let mut failure = Failure::failed("no-history", "no cluster shows its history");
        failure.causes = refused;
        return Err(failure);
    }
    let mut findings = [refused, silent].concat();
    findings.extend(disagreements(&chains));
    let verified = chains
        .into_iter()
        .map(|(cluster, chain)| chain.verified(cluster));
    let verified: Vec<Verified> = verified.collect();
    let text = match setting.format {
        Some(format) => {
            output::structured(&json!({"clusters": verified, "findings": findings}), format)
        }
        None => render(&verified, &findings),
    };
    output::print(&text)?;
    let is_sound = findings.is_empty() && verified.iter().all(|each| each.findings.is_empty());
    Ok(if is_sound {
        ExitCode::SUCCESS
    } else {
        Exit::Findings.into()
    })
}

/// The newest change that any cluster has.
fn newest(chains: &BTreeMap<String, Chain>) -> Option<u64> {
    let newest = chains
        .values()
        .filter_map(|chain| chain.hashes.keys().last());
    newest.max().copied()
}

/// One line of JSON for each change, newest first, with the text that its hash is of.
pub(crate) async fn export(setting: &Setting) -> Result<ExitCode> {
    let mut client = setting.connect().await?;
    let mut changes = Changes::new(&mut client, all());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let failed = |error: io::Error| {
        Failure::failed("output", "standard output cannot be written").caused_by(&error)
    };
    while let Some(change) = changes.next().await? {
        let line = json!({
            "position": change.position,
            "hash": change.hash,
            "record": change.record,
        });
        match writeln!(out, "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            written => written.map_err(failed)?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
        _ => {}
    }
    match &changes.unreadable[..] {
        [] => Ok(ExitCode::SUCCESS),
        [first, ..] => Err(Failure::failed(
            "unreadable-history",
            "not all changes could be exported",
        )
        .cause(first.clone())
        .next("use the version of isthmus that wrote them")),
    }
}

fn all() -> HistoryRequest {
    HistoryRequest {
        limit: Some(super::AT_ONCE),
        records: Some(true),
        ..HistoryRequest::default()
    }
}

/// What one cluster has, up to a position.
async fn follow(client: &mut ApiClient, upto: u64) -> Result<Chain, ApiError> {
    let request = HistoryRequest {
        before: Some(upto.saturating_add(1)),
        ..all()
    };
    let mut changes = Changes::new(client, request);
    let mut chain = Chain::default();
    while let Some(change) = changes.next().await? {
        chain.take(&change);
    }
    chain.position = changes.position.unwrap_or_default().min(upto);
    chain.findings.append(&mut changes.unreadable);
    Ok(chain)
}

impl Chain {
    /// The next older change.
    fn take(&mut self, change: &ChangeView) {
        let position = change.position;
        let record = change.record.as_deref().unwrap_or_default();
        let hash = hash(record);
        // What is believed is the text that was hashed, not what is shown beside it.
        let said: Value = serde_json::from_str(record).unwrap_or_default();
        if hash != change.hash || said["position"] != position {
            let finding = format!("change {position} is not what its hash is of");
            return self.findings.push(finding);
        }
        let fits = match &self.expected {
            Expected::Anything => true,
            Expected::Nothing => false,
            Expected::Hash(expected) => *expected == hash,
        };
        if !fits {
            return self.others.push(position);
        }
        self.expected = match said["previous"].as_str() {
            Some(previous) => Expected::Hash(previous.to_owned()),
            None => Expected::Nothing,
        };
        self.hashes.insert(position, hash);
    }

    fn verified(self, cluster: String) -> Verified {
        let gaps = self.gaps();
        let mut findings = self.findings;
        let oldest = self.hashes.keys().next().copied();
        let is_before = |position: &&u64| oldest.is_some_and(|oldest| **position < oldest);
        let (before, beside): (Vec<u64>, Vec<u64>) = self.others.iter().partition(is_before);
        findings.extend(beside.iter().map(|position| {
            format!(
                "change {position} is not part of the chain: whoever accepted it was restored \
                 from a backup since, or somebody put it there"
            )
        }));
        if let (Some(oldest), [newest, ..]) = (oldest, &before[..]) {
            findings.push(format!(
                "change {oldest} does not follow change {newest}: one of them was changed, or what was \
                 between them taken away; {} older ones are not checked",
                before.len()
            ));
        }
        findings.extend(gaps);
        let newest = self.hashes.last_key_value();
        Verified {
            cluster,
            changes: self.hashes.len(),
            oldest,
            newest: newest.map(|(position, _)| *position),
            hash: newest.map(|(_, hash)| hash.clone()),
            complete: self.expected == Expected::Nothing && before.is_empty(),
            findings,
        }
    }

    /// Positions without a record, between those that have one.
    fn gaps(&self) -> Vec<String> {
        let none = self.hashes.is_empty().then_some(0);
        let positions = none.into_iter().chain(self.hashes.keys().copied());
        let next = self.position.saturating_add(1);
        let following = positions.clone().skip(1).chain([next]);
        let gaps = positions
            .zip(following)
            .filter(|(one, other)| one.saturating_add(1) < *other);
        let told = gaps.map(|(one, other)| {
            format!(
                "the changes from {} to {} have no record: a version without history accepted them, or \
                 they were taken away",
                one.saturating_add(1),
                other.saturating_sub(1)
            )
        });
        told.collect()
    }
}

fn hash(record: &str) -> String {
    let bytes = [&[FORMAT], record.as_bytes()].concat();
    hex(digest(&SHA256, &bytes).as_ref())
}

/// Who has less than another, and changes of which two clusters have different ones.
fn disagreements(clusters: &BTreeMap<String, Chain>) -> Vec<String> {
    let mut first: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
    let mut found = Vec::new();
    for (cluster, Chain { hashes, .. }) in clusters {
        let different = hashes.iter().find_map(|(position, hash)| {
            let (other, expected) = *first.entry(*position).or_insert((cluster, hash));
            (expected != hash).then_some((*position, other))
        });
        if let Some((position, other)) = different {
            found.push(format!(
                "{other} and {cluster} have different changes at {position} and may have others after it"
            ));
        }
        let (own, newest) = (hashes.keys().last().copied(), newest(clusters));
        if let Some(newest) = newest.filter(|_| own < newest) {
            found.push(match own {
                Some(own) => {
                    format!("the newest change that {cluster} has is {own}, others have {newest}")
                }
                None => format!("{cluster} has no change, others have {newest}"),
            });
        }
    }
    found
}

fn render(verified: &[Verified], findings: &[String]) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rows = verified.iter().map(|each| {
        let hash = each.hash.as_deref().unwrap_or("-");
        let reaches = match (each.changes, each.complete) {
            (0, _) => "-",
            (_, true) => "the first",
            (_, false) => "part of the way",
        };
        let chain = if each.findings.is_empty() {
            "sound"
        } else {
            "broken"
        };
        [
            each.cluster.clone(),
            each.changes.to_string(),
            number(each.oldest),
            number(each.newest),
            reaches.to_owned(),
            hash.get(..16).unwrap_or(hash).to_owned(),
            chain.to_owned(),
        ]
    });
    let headings = [
        "CLUSTER", "CHANGES", "OLDEST", "NEWEST", "BACK TO", "HASH", "CHAIN",
    ];
    let mut text = table(&headings, rows);
    for each in verified {
        for finding in &each.findings {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{}: {finding}", each.cluster);
        }
    }
    for finding in findings {
        let _ = writeln!(text, "{finding}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes 3, 2 and 1, chained.
    fn chained() -> Vec<ChangeView> {
        let mut previous: Option<String> = None;
        let mut changes = Vec::new();
        for position in 1..=3u64 {
            let record = json!({"position": position, "previous": previous}).to_string();
            let hash = hash(&record);
            changes.push(
                serde_json::from_value(json!({
                    "position": position, "time": "", "author": "", "cluster": "", "verb": "",
                    "kind": "", "name": "", "before": null, "after": null, "hash": hash,
                    "previous": previous, "record": record,
                }))
                .unwrap(),
            );
            previous = Some(hash);
        }
        changes.reverse();
        changes
    }

    fn followed(changes: &[ChangeView]) -> Chain {
        let position = changes.first().map_or(0, |newest| newest.position);
        let mut chain = Chain {
            position,
            ..Chain::default()
        };
        for change in changes {
            chain.take(change);
        }
        chain
    }

    fn findings(changes: &[ChangeView]) -> Vec<String> {
        followed(changes).verified("west".to_owned()).findings
    }

    #[test]
    fn a_chain_that_nobody_touched_is_sound() {
        assert_eq!(findings(&chained()), Vec::<String>::new());
        // What is older than a copy goes back is not known, and no fault of the copy.
        assert_eq!(findings(&chained()[..2]), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_changed_left_out_or_put_in_is_found() {
        let forged = |change: &ChangeView, author: &str| {
            let record = json!({
                "position": change.position, "previous": change.previous, "author": author,
            });
            let record = record.to_string();
            ChangeView {
                hash: hash(&record),
                record: Some(record),
                ..change.clone()
            }
        };
        let all = chained();
        for (what, changes, expect) in [
            (
                "another text",
                vec![
                    all[0].clone(),
                    ChangeView {
                        record: all[2].record.clone(),
                        ..all[1].clone()
                    },
                ],
                "change 2 is not what its hash is of",
            ),
            (
                "another place",
                vec![
                    all[0].clone(),
                    ChangeView {
                        position: 7,
                        ..all[1].clone()
                    },
                ],
                "change 7 is not what its hash is of",
            ),
            (
                "a text with its hash",
                vec![all[0].clone(), forged(&all[1], "eve"), all[2].clone()],
                "change 3 does not follow change 2",
            ),
            (
                "one left out",
                vec![all[0].clone(), all[2].clone()],
                "change 3 does not follow change 1",
            ),
            (
                "two at one position",
                vec![
                    all[0].clone(),
                    forged(&all[1], "eve"),
                    all[1].clone(),
                    all[2].clone(),
                ],
                "change 2 is not part of the chain",
            ),
        ] {
            let found = findings(&changes);
            assert!(
                found.len() == 1 && found[0].starts_with(expect),
                "{what}: {found:?}"
            );
        }
    }

    #[test]
    fn what_has_no_record_is_told() {
        let mut behind = followed(&chained());
        behind.position = 5;
        assert_eq!(
            behind.verified("west".to_owned()).findings,
            [
                "the changes from 4 to 5 have no record: a version without history accepted them, or they \
                 were taken away"
            ]
        );
        let emptied = Chain {
            position: 3,
            ..Chain::default()
        };
        let found = emptied.verified("west".to_owned()).findings;
        assert!(
            found[0].starts_with("the changes from 1 to 3 have no record"),
            "{found:?}"
        );
        let whole = followed(&chained()).verified("west".to_owned());
        assert!(whole.complete);
        let part = followed(&chained()[..2]).verified("west".to_owned());
        assert!(!part.complete && part.findings.is_empty());
    }

    #[test]
    fn clusters_that_do_not_have_the_same_are_named() {
        let clusters = |last: &[(u64, &str)]| {
            let chain = |hashes: &[(u64, &str)]| Chain {
                hashes: hashes
                    .iter()
                    .map(|(at, hash)| (*at, (*hash).to_owned()))
                    .collect(),
                ..Chain::default()
            };
            BTreeMap::from([
                ("east".to_owned(), chain(&[(1, "a"), (2, "b")])),
                ("west".to_owned(), chain(last)),
            ])
        };
        for (last, expect) in [
            (&[(1, "a"), (2, "b")][..], None),
            (&[(2, "b")], None),
            (
                &[(1, "a"), (2, "c")],
                Some("east and west have different changes at 2 and may have others after it"),
            ),
            (
                &[(1, "a")],
                Some("the newest change that west has is 1, others have 2"),
            ),
            (&[], Some("west has no change, others have 2")),
        ] {
            let found = disagreements(&clusters(last));
            assert_eq!(found.first().map(String::as_str), expect, "{last:?}");
        }
    }
}
