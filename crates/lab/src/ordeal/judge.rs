//! What was answered and told, against the history that all clusters have in common. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::watcher::{Event, Told};
use super::writer::{Outcome, Write};

/// One change of a tally, as the history has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) position: u64,
    pub(super) name: String,
    /// Id and count before and after; `None`: there was no such object.
    pub(super) before: Option<(String, u64)>,
    pub(super) after: Option<(String, u64)>,
}

/// What the tallies are at the end: id and count, by name.
pub(super) type State = BTreeMap<String, (String, u64)>;

/// The changes, oldest first, by themselves: each follows from the one before. Gives what there is at the end.
pub(super) fn judge_history(changes: &[Change], violations: &mut Vec<String>) -> State {
    let mut state = State::new();
    let mut ids = BTreeSet::new();
    let mut last = 0;
    for change in changes {
        let Change {
            position,
            name,
            before,
            after,
        } = change;
        let mut wrong = |what: &str| violations.push(format!("{what}: {change:?}"));
        if *position <= last {
            wrong("two changes in one place");
        }
        last = *position;
        if state.get(name) != before.as_ref() {
            wrong("it does not follow from what was there");
        }
        let count = before.as_ref().map_or(0, |(_, count)| *count);
        if let Some((id, new)) = after {
            if *new != count + 1 {
                wrong("an update was lost");
            }
            if !ids.insert(id.clone()) {
                wrong("it was made twice");
            }
        }
        match after {
            Some(after) => state.insert(name.clone(), after.clone()),
            None => state.remove(name),
        };
    }
    state
}

/// What was answered to writers, against the changes.
pub(super) fn judge_writes(changes: &[Change], writes: &[Write], violations: &mut Vec<String>) {
    let made: BTreeMap<&str, u64> = changes
        .iter()
        .filter_map(|change| Some((change.after.as_ref()?.0.as_str(), change.position)))
        .collect();
    let deleted: BTreeSet<&str> = changes
        .iter()
        .filter(|change| change.after.is_none())
        .filter_map(|change| Some(change.before.as_ref()?.0.as_str()))
        .collect();
    // Several may have tried to delete one state: one of them did.
    let mut deleters: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for write in writes {
        if write.deletes {
            deleters.entry(&write.id).or_default().push(&write.outcome);
            continue;
        }
        let found = made.get(write.id.as_str()).copied();
        let is_right = match write.outcome {
            Outcome::Accepted(at) => found.is_some() && at == found,
            Outcome::Refused(_) => found.is_none(),
            Outcome::Unknown => true,
        };
        if !is_right {
            violations.push(format!("it is at {found:?} in the history: {write:?}"));
        }
    }
    for (id, outcomes) in deleters {
        let accepted = outcomes
            .iter()
            .filter(|one| matches!(one, Outcome::Accepted(_)))
            .count();
        let perhaps = outcomes.iter().any(|one| matches!(one, Outcome::Unknown));
        let is_right = if deleted.contains(id) {
            accepted == 1 || accepted == 0 && perhaps
        } else {
            accepted == 0
        };
        if !is_right {
            let there = deleted.contains(id);
            violations.push(format!(
                "deleted: {there}, and answered: {outcomes:?} of {id}"
            ));
        }
    }
}

/// What one watcher was told, against the changes. Gives how many events it was told.
pub(super) fn judge_watch(
    cluster: &str,
    changes: &[Change],
    told: &[Told],
    violations: &mut Vec<String>,
) -> usize {
    let mut wrong = |what: String| violations.push(format!("the watch of {cluster}: {what}"));
    let mut next = 0;
    let mut state: BTreeMap<&str, &str> = BTreeMap::new();
    let mut events = 0;
    for one in told {
        match one {
            Told::Listed(at, listed) => {
                while let Some(change) = changes.get(next).filter(|change| change.position <= *at) {
                    pass(&mut state, change);
                    next += 1;
                }
                // It may not be older than what was told before.
                let before = next.checked_sub(1).and_then(|last| changes.get(last));
                if before.is_some_and(|before| before.position > *at) {
                    wrong(format!("it lists {at} after {before:?}"));
                }
                let listed: BTreeMap<_, _> = listed
                    .iter()
                    .map(|(name, id)| (name.as_str(), id.as_str()))
                    .collect();
                if listed != state {
                    wrong(format!(
                        "it lists {listed:?} at {at}, and there was {state:?}"
                    ));
                }
            }
            Told::Event(event) => {
                events += 1;
                let Some(change) = changes.get(next) else {
                    wrong(format!("there was no such change: {event:?}"));
                    continue;
                };
                if *event != as_event(change) {
                    wrong(format!("told {event:?} where {change:?} came next"));
                    // From there on.
                    let found = changes
                        .iter()
                        .position(|change| change.position == event.position);
                    next = found.unwrap_or(next);
                }
                if let Some(change) = changes.get(next) {
                    pass(&mut state, change);
                }
                next += 1;
            }
        }
    }
    if next < changes.len() {
        wrong(format!(
            "it was not told of the last {} changes",
            changes.len() - next
        ));
    }
    events
}

fn pass<'a>(state: &mut BTreeMap<&'a str, &'a str>, change: &'a Change) {
    match &change.after {
        Some((id, _)) => state.insert(&change.name, id),
        None => state.remove(change.name.as_str()),
    };
}

fn as_event(change: &Change) -> Event {
    let (kind, state) = match (&change.before, &change.after) {
        (None, after) => ("ADDED", after),
        (Some(_), Some(_)) => ("MODIFIED", &change.after),
        (before, None) => ("DELETED", before),
    };
    Event {
        position: change.position,
        name: change.name.clone(),
        id: state.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
        kind: kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `before` and `after` as `id` and count.
    fn change(position: u64, before: Option<(&str, u64)>, after: Option<(&str, u64)>) -> Change {
        let owned = |(id, count): (&str, u64)| (id.to_owned(), count);
        Change {
            position,
            name: "t".to_owned(),
            before: before.map(owned),
            after: after.map(owned),
        }
    }

    /// Made, changed, deleted, made anew.
    fn changes() -> Vec<Change> {
        vec![
            change(5, None, Some(("a", 1))),
            change(6, Some(("a", 1)), Some(("b", 2))),
            change(9, Some(("b", 2)), None),
            change(12, None, Some(("c", 1))),
        ]
    }

    fn event(position: u64, id: &str, kind: &str) -> Told {
        Told::Event(Event {
            position,
            name: "t".to_owned(),
            id: id.to_owned(),
            kind: kind.to_owned(),
        })
    }

    fn listed(position: u64, ids: &[&str]) -> Told {
        Told::Listed(
            position,
            ids.iter()
                .map(|id| ("t".to_owned(), (*id).to_owned()))
                .collect(),
        )
    }

    fn history(changes: &[Change]) -> usize {
        let mut violations = Vec::new();
        judge_history(changes, &mut violations);
        violations.len()
    }

    #[test]
    fn a_history_follows_from_itself() {
        assert_eq!(history(&changes()), 0);
        for (at, worse) in [
            (1, change(6, Some(("a", 1)), Some(("b", 1)))), // Two have read the same.
            (1, change(6, Some(("x", 1)), Some(("b", 2)))), // Nobody has written that.
            (1, change(5, Some(("a", 1)), Some(("b", 2)))), // One place for two.
            (3, change(12, None, Some(("a", 1)))),          // Twice.
            (2, change(9, None, None)),                     // Nothing was there.
        ] {
            let mut changes = changes();
            changes[at] = worse;
            assert!(history(&changes) > 0, "{changes:?}");
        }
    }

    #[test]
    fn what_was_answered_is_so() {
        let write = |id: &str, deletes, outcome| Write {
            name: "t".to_owned(),
            id: id.to_owned(),
            deletes,
            outcome,
        };
        let accepted = |at| Outcome::Accepted(Some(at));
        let gone = Outcome::Accepted(None);
        for (writes, wrong) in [
            (vec![write("a", false, accepted(5))], 0),
            (vec![write("a", false, accepted(6))], 1),
            (vec![write("a", false, gone.clone())], 1),
            (vec![write("a", false, Outcome::Refused(503))], 1),
            (vec![write("a", false, Outcome::Unknown)], 0),
            (vec![write("x", false, Outcome::Unknown)], 0),
            (vec![write("x", false, Outcome::Refused(409))], 0),
            (vec![write("x", false, accepted(7))], 1),
            (vec![write("b", true, gone.clone())], 0),
            (
                vec![
                    write("b", true, gone.clone()),
                    write("b", true, Outcome::Refused(409)),
                ],
                0,
            ),
            (
                vec![
                    write("b", true, gone.clone()),
                    write("b", true, gone.clone()),
                ],
                1,
            ),
            (vec![write("b", true, Outcome::Refused(409))], 1),
            (vec![write("b", true, Outcome::Unknown)], 0),
            (vec![write("a", true, gone.clone())], 1),
            (vec![write("a", true, Outcome::Unknown)], 0),
        ] {
            let mut violations = Vec::new();
            judge_writes(&changes(), &writes, &mut violations);
            assert_eq!(violations.len(), wrong, "{writes:?}: {violations:?}");
        }
    }

    #[test]
    fn a_watch_tells_everything_once_and_in_order() {
        let all = [
            event(5, "a", "ADDED"),
            event(6, "b", "MODIFIED"),
            event(9, "b", "DELETED"),
            event(12, "c", "ADDED"),
        ];
        let with = |at: usize, told: Vec<Told>| {
            let mut all = all.to_vec();
            all.splice(at..=at, told);
            all
        };
        for (told, is_right) in [
            (all.to_vec(), true),
            ([vec![listed(0, &[])], all.to_vec()].concat(), true),
            (
                vec![listed(6, &["b"]), all[2].clone(), all[3].clone()],
                true,
            ),
            (
                vec![listed(7, &["b"]), all[2].clone(), all[3].clone()],
                true,
            ),
            (vec![all[0].clone(), listed(9, &[]), all[3].clone()], true),
            (vec![listed(12, &["c"])], true),
            (
                vec![
                    all[0].clone(),
                    all[1].clone(),
                    listed(5, &["a"]),
                    all[2].clone(),
                ],
                false,
            ),
            (
                vec![listed(7, &["a"]), all[2].clone(), all[3].clone()],
                false,
            ),
            (all[..3].to_vec(), false),
            (all[1..].to_vec(), false),
            (with(1, vec![]), false),
            (with(1, vec![all[1].clone(), all[1].clone()]), false),
            (with(1, vec![all[2].clone(), all[1].clone()]), false),
            (with(2, vec![event(9, "a", "DELETED")]), false),
            (with(2, vec![event(9, "b", "MODIFIED")]), false),
            (with(3, vec![event(13, "c", "ADDED")]), false),
        ] {
            let mut violations = Vec::new();
            judge_watch("west", &changes(), &told, &mut violations);
            assert_eq!(violations.is_empty(), is_right, "{told:?}: {violations:?}");
        }
    }
}
