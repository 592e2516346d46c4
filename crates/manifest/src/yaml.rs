//! YAML text to a tree of values that know their places. JSON is YAML, so it is read here too.
//!
//! This is the only file that knows the YAML library. It never reads files and knows no resources.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MessageFormatter, Options, Spanned, UserMessageFormatter,
};

use crate::path::Step;
use crate::problem::About;
use crate::{FieldPath, Problem};

/// Bytes of one document.
const LARGEST_DOCUMENT: usize = 1 << 20;
/// Lists and objects inside each other.
const DEEPEST: usize = 64;
/// Scalars, lists and objects of one document, aliases expanded.
const MOST_NODES: usize = 50_000;
/// Characters of a message about syntax, which may quote what was written.
const LONGEST_MESSAGE: usize = 300;

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    mark: Mark,
    node: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Scalar(Value),
    List(Vec<Tree>),
    Object(Vec<(String, Mark, Tree)>),
}

/// One document of a file: its text and the line of the file that it begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section<'a> {
    pub(crate) text: &'a str,
    pub(crate) first_line: u32,
}

/// Cuts a file at the lines that begin with `---` (YAML 1.2 section 9.1.2: such a line ends a
/// document wherever it stands), so that an error in one document hides none in the next.
/// Documents of nothing but comments are left out.
pub(crate) fn sections(text: &str) -> Vec<Section<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sections = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    for each in text.split_inclusive('\n') {
        if is_separator(each) && offset > start {
            sections.push(Section {
                text: &text[start..offset],
                first_line,
            });
            (start, first_line) = (offset, line);
        }
        offset += each.len();
        line = line.saturating_add(1);
    }
    sections.push(Section {
        text: &text[start..],
        first_line,
    });
    sections.retain(|section| section.text.lines().any(has_content));
    sections
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !line.is_empty() && !line.starts_with(['#', '%']) && line != "..."
}

/// Reads one document. A duplicate key is a problem, but the rest of the document is read (with the
/// key's first value); after any other error there is no tree.
pub(crate) fn read(section: Section<'_>) -> (Option<Tree>, Vec<(Mark, Problem)>) {
    if section.text.len() > LARGEST_DOCUMENT {
        let message = format!(
            "the document has {} bytes, {LARGEST_DOCUMENT} are allowed",
            section.text.len()
        );
        let mark = Mark {
            line: section.first_line,
            column: 1,
        };
        return (None, vec![(mark, Problem::new(FieldPath::root(), message))]);
    }
    match parse(section.text, DuplicateKeyPolicy::Error) {
        Ok(tree) => (Some(tree.moved_down(section.first_line)), Vec::new()),
        Err(error) => {
            let problem = syntax_problem(&error, section.first_line);
            let duplicate = matches!(error.without_snippet(), Error::DuplicateMappingKey { .. });
            let rest = duplicate
                .then(|| parse(section.text, DuplicateKeyPolicy::FirstWins).ok())
                .flatten();
            (
                rest.map(|tree| tree.moved_down(section.first_line)),
                vec![problem],
            )
        }
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Tree, Error> {
    let options: Options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            flow_nesting_limit: DEEPEST,
            max_nodes: MOST_NODES,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_NODES,
            max_replay_stack_depth: DEEPEST,
        },
        duplicate_keys: duplicate_keys,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

fn syntax_problem(error: &Error, first_line: u32) -> (Mark, Problem) {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let message = UserMessageFormatter.format_message(error);
    let message: String = message.chars().map(visible).take(LONGEST_MESSAGE).collect();
    let mark = match error.location() {
        Some(location) => mark(&location),
        None => Mark { line: 1, column: 1 },
    };
    (
        mark.moved_down(first_line),
        Problem::new(FieldPath::root(), message),
    )
}

fn mark(location: &serde_saphyr::Location) -> Mark {
    Mark {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX).max(1),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX).max(1),
    }
}

impl Mark {
    fn moved_down(self, first_line: u32) -> Self {
        Self {
            line: self.line.saturating_add(first_line.saturating_sub(1)),
            column: self.column,
        }
    }
}

impl Tree {
    pub(crate) fn to_json(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => items.iter().map(Self::to_json).collect(),
            Node::Object(entries) => {
                let entry = |(key, _, tree): &(String, Mark, Self)| (key.clone(), tree.to_json());
                Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
            }
        }
    }

    /// The trees of the list in field `name`, when there is such a list.
    pub(crate) fn into_list(self, name: &str) -> Option<Vec<Self>> {
        let Node::Object(entries) = self.node else {
            return None;
        };
        entries
            .into_iter()
            .find_map(|(key, _, tree)| match tree.node {
                Node::List(items) if key == name => Some(items),
                _ => None,
            })
    }

    /// Where `path` stands, or the innermost thing that holds it. A scalar's own place is shown;
    /// for lists, objects and names of fields it is the place of their key.
    pub(crate) fn find(&self, path: &FieldPath, about: About) -> Mark {
        let (mut tree, mut key) = (self, None);
        for step in path.steps() {
            let next = match (&tree.node, step) {
                (Node::List(items), Step::Index(index)) => items.get(*index).map(|it| (None, it)),
                (Node::Object(entries), Step::Field(name)) => entries
                    .iter()
                    .find(|(key, _, _)| key == name)
                    .map(|(_, mark, tree)| (Some(*mark), tree)),
                _ => None,
            };
            match next {
                Some(found) => (key, tree) = found,
                None => return key.unwrap_or(tree.mark),
            }
        }
        match (&tree.node, about) {
            (Node::Scalar(_), About::Value) => tree.mark,
            _ => key.unwrap_or(tree.mark),
        }
    }

    fn moved_down(self, first_line: u32) -> Self {
        let node = match self.node {
            Node::Scalar(value) => Node::Scalar(value),
            Node::List(items) => Node::List(
                items
                    .into_iter()
                    .map(|it| it.moved_down(first_line))
                    .collect(),
            ),
            Node::Object(entries) => {
                let entry = |(key, mark, tree): (String, Mark, Self)| {
                    (
                        key,
                        mark.moved_down(first_line),
                        tree.moved_down(first_line),
                    )
                };
                Node::Object(entries.into_iter().map(entry).collect())
            }
        };
        Self {
            mark: self.mark.moved_down(first_line),
            node,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self {
            mark: mark(&spanned.referenced),
            node: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number =
            Number::from_f64(value).ok_or_else(|| E::custom("the number is not finite"))?;
        Ok(Node::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            object.push((key.value, mark(&key.referenced), entries.next_value()?));
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Tree {
        let (tree, problems) = read(sections(text)[0]);
        assert_eq!(problems, [], "{text}");
        tree.unwrap()
    }

    #[test]
    fn files_are_cut_at_separators_and_keep_their_lines() {
        let section = |text, first_line| Section { text, first_line };
        for (text, expect) in [
            ("", vec![]),
            ("# only\n---\n# comments\n", vec![]),
            ("a: 1", vec![section("a: 1", 1)]),
            ("a: 1\n---\n\n", vec![section("a: 1\n", 1)]),
            ("%YAML 1.2\n---\na: 1\n", vec![section("---\na: 1\n", 2)]),
            (
                "a: 1\n--- # next\nb: 2\n---x\n",
                vec![section("a: 1\n", 1), section("--- # next\nb: 2\n---x\n", 2)],
            ),
        ] {
            assert_eq!(sections(text), expect, "{text:?}");
        }
    }

    #[test]
    fn values_and_keys_know_their_places() {
        let text = "# head\n---\nmetadata:\n  name: x\n  list: [1, {a: true}]\nalias: &a {b: 2}\nuse: *a\n";
        let tree = only(text);
        let at = |path: &FieldPath, about| {
            let Mark { line, column } = tree.find(path, about);
            (line, column)
        };
        let metadata = FieldPath::root().field("metadata");
        let a = metadata.field("list").index(1).field("a");
        assert_eq!(at(&metadata, About::Value), (3, 1));
        assert_eq!(at(&metadata.field("name"), About::Value), (4, 9));
        assert_eq!(at(&metadata.field("name"), About::Key), (4, 3));
        assert_eq!(at(&a, About::Value), (5, 17));
        assert_eq!(at(&metadata.field("absent").index(7), About::Value), (3, 1));
        assert_eq!(
            tree.to_json(),
            serde_json::json!({
                "metadata": {"name": "x", "list": [1, {"a": true}]},
                "alias": {"b": 2},
                "use": {"b": 2},
            })
        );
    }

    #[test]
    fn json_is_read_with_places() {
        let tree = only("{\n\t\"kind\": \"Mesh\",\n  \"n\": [1.5, -2, null, \"\\u00e9\"]\n}\n");
        assert_eq!(
            tree.to_json(),
            serde_json::json!({"kind": "Mesh", "n": [1.5, -2, null, "é"]})
        );
        let n = FieldPath::root().field("n").index(1);
        assert_eq!(
            tree.find(&n, About::Value),
            Mark {
                line: 3,
                column: 14
            }
        );
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = format!("*a{}, ", level - 1).repeat(10);
            laughs.extend([format!("a{level}: &a{level} [{aliases}]\n")]);
        }
        let indented: String = (0..100).map(|depth| " ".repeat(depth) + "a:\n").collect();
        for text in [
            laughs,
            "[".repeat(100_000),
            "- ".repeat(100_000),
            "{a: ".repeat(1000),
            indented,
            "- x\n".repeat(60_000),
            format!("a: {}", "x".repeat(1 << 20)),
        ] {
            let (tree, problems) = read(sections(&text)[0]);
            assert!(tree.is_none() && problems.len() == 1, "{:?}", &text[..20]);
        }
    }
}
