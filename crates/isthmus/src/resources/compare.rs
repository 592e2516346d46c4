//! Two versions of an object: are they the same, and if not, which lines differ. Pure.

use serde_json::{Map, Value};

use crate::config;

/// Do `a` and `b` say the same, whatever the server has noted on them?
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    essence(a) == essence(b)
}

/// What a person writes of an object: labels, annotations and spec.
pub(crate) fn essence(object: &Value) -> Value {
    let mut essence = Map::new();
    for field in ["labels", "annotations"] {
        match object.pointer(&format!("/metadata/{field}")) {
            Some(Value::Object(map)) if !map.is_empty() => {
                essence.insert(field.to_owned(), sorted(map.clone().into()));
            }
            _ => {}
        }
    }
    match object.get("spec") {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) if map.is_empty() => {}
        Some(spec) => {
            essence.insert("spec".to_owned(), sorted(spec.clone()));
        }
    }
    Value::Object(essence)
}

/// The order of fields means nothing.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(String, Value)> = map.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (name, sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar => scalar,
    }
}

/// Lines around a difference that are shown.
const CONTEXT: usize = 2;

/// How `new` differs from `old`, line by line, `-` and `+` in front. `None`: there is no such object.
pub(crate) fn difference(old: Option<&Value>, new: Option<&Value>) -> String {
    let lines = |object: Option<&Value>| -> Vec<String> {
        let text = object.map(|object| config::to_yaml(&essence(object)));
        text.iter()
            .flat_map(|text| text.lines())
            .map(str::to_owned)
            .collect()
    };
    let (old, new) = (lines(old), lines(new));
    let edits = edits(&old, &new);
    let near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        let to = (index + CONTEXT + 1).min(edits.len());
        edits[from..to].iter().any(|(sign, _)| *sign != ' ')
    };
    let shown = edits.iter().enumerate().filter(|(index, _)| near(*index));
    let lines: Vec<String> = shown
        .map(|(_, (sign, line))| format!("{sign} {line}\n"))
        .collect();
    lines.concat()
}

/// Lines of a difference in their colors.
pub(crate) fn paint(lines: &str, color: bool) -> String {
    let painted = lines.lines().map(|line| match line.chars().next() {
        Some('-') if color => format!("\x1b[31m{line}\x1b[0m\n"),
        Some('+') if color => format!("\x1b[32m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    });
    painted.collect()
}

/// The shortest edit by longest common subsequence; objects have hundreds of lines, not millions.
fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0usize; (old.len() + 1) * width];
    for (i, before) in old.iter().enumerate().rev() {
        for (j, after) in new.iter().enumerate().rev() {
            common[i * width + j] = if before == after {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut edits = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            edits.push((' ', old[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            edits.push(('-', old[i].as_str()));
            i += 1;
        } else {
            edits.push(('+', new[j].as_str()));
            j += 1;
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_person_writes_counts() {
        let written = json!({"metadata": {"name": "x", "labels": {}}, "spec": {"a": 1, "b": [2]}});
        let stored = json!({
            "metadata": {"name": "x", "resourceVersion": "7", "uid": "u"},
            "spec": {"b": [2], "a": 1},
            "status": {"conditions": []},
        });
        assert!(same(&written, &stored));
        assert!(!same(&written, &json!({"spec": {"a": 2, "b": [2]}})));
        assert!(same(&json!({"spec": {}}), &json!({"spec": null})));
    }

    #[test]
    fn lines_that_differ_are_shown_with_their_neighbours() {
        let old = json!({"spec": {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}});
        let new = json!({"spec": {"a": 1, "b": 2, "c": 3, "d": 4, "e": 6, "f": 6}});
        assert_eq!(
            difference(Some(&old), Some(&new)),
            "    c: 3\n    d: 4\n-   e: 5\n+   e: 6\n    f: 6\n"
        );
        assert_eq!(
            difference(None, Some(&json!({"spec": {"a": 1}}))),
            "+ spec:\n+   a: 1\n"
        );
        assert_eq!(difference(Some(&old), Some(&old)), "");
        assert_eq!(
            difference(Some(&json!({"spec": {"a": 1}})), None),
            "- spec:\n-   a: 1\n"
        );
    }
}
