//! What is wrong with an input, and how it is shown.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use isthmus_model::NameError;

use crate::FieldPath;

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands in a file; `None` for objects that came without one.
    pub place: Option<Place>,
    /// The field that it is about; empty when it is about the whole object.
    pub path: FieldPath,
    /// A sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the name of the field is wrong, or what it holds.
    pub(crate) about: About,
}

/// What of a field is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Key,
    Value,
}

impl Problem {
    /// About what stands at `path`; `message` is a sentence without a full stop.
    pub fn new(path: FieldPath, message: impl Into<String>) -> Self {
        Self {
            place: None,
            path,
            message: message.into(),
            hint: None,
            about: About::Value,
        }
    }

    pub(crate) fn of_key(self) -> Self {
        Self {
            about: About::Key,
            ..self
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    pub(crate) fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    pub(crate) fn at(self, place: Place) -> Self {
        Self {
            place: Some(place),
            ..self
        }
    }

    /// The problem with the line of `text` (the whole file) that it stands on, and a caret.
    pub fn render(&self, text: &str) -> String {
        let head = self.to_string();
        let Some(place) = &self.place else {
            return head;
        };
        let line = place.line.saturating_sub(1) as usize;
        let Some(source) = text.lines().nth(line) else {
            return head;
        };
        let column = place.column.saturating_sub(1) as usize;
        let (shown, caret) = excerpt(source, column);
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        format!("{head}\n{gutter} |\n{number} | {shown}\n{gutter} | {caret}^")
    }
}

/// At most a screen's width of `source` around `column`, and the blanks that lead to the caret.
fn excerpt(source: &str, column: usize) -> (String, String) {
    const BEFORE: usize = 60;
    const WIDTH: usize = 100;
    let start = column.saturating_sub(BEFORE);
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = source
        .chars()
        .skip(start)
        .take(WIDTH)
        .map(visible)
        .collect();
    (shown.trim_end().to_owned(), " ".repeat(column - start))
}

impl fmt::Display for Problem {
    /// `file:line:column: field.path: message; hint`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        if self.path != FieldPath::root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(crate) fn add(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.push(Problem::new(path.clone(), message));
    }

    pub(crate) fn add_hint(
        &mut self,
        path: &FieldPath,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Problem::new(path.clone(), message).hint(hint));
    }

    pub(crate) fn extend(&mut self, problems: Vec<Problem>) {
        self.0.extend(problems);
    }

    pub(crate) fn paths(&self) -> BTreeSet<FieldPath> {
        self.0.iter().map(|problem| problem.path.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// A name of the model, or a problem that says which rule it breaks. `what` is "a cluster name".
    pub(crate) fn name<T>(&mut self, path: &FieldPath, what: &str, text: &str) -> Option<T>
    where
        T: FromStr<Err = NameError>,
    {
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.add(path, format!("{} is not {what}: {error}", quoted(text)));
                None
            }
        }
    }
}

/// Text of a user's as messages show it: escaped, and not longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.is_empty() {
        return "`\"\"`".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

/// The name nearest to a mistyped one, as a question; `None` when none is near.
pub(crate) fn did_you_mean<'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // Distances are quadratic in length, and nobody mistypes a word this long.
    if typed.len() > 100 {
        return None;
    }
    let typed = typed.to_lowercase();
    let distance = |name: &str| {
        let name = name.to_lowercase();
        // Half a name is a name that was not finished.
        if typed.len() >= 3 && name.starts_with(&typed) {
            return Some(1);
        }
        let distance = strsim::osa_distance(&typed, &name);
        (distance <= (name.len().max(typed.len()) / 3).max(1)).then_some(distance)
    };
    names
        .into_iter()
        .filter_map(|name| Some((distance(name)?, name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let fields = ["backendRefs", "matches", "name", "timeouts"];
        for (typed, expect) in [
            ("backendRef", Some("did you mean `backendRefs`?")),
            ("backendrefs", Some("did you mean `backendRefs`?")),
            ("match", Some("did you mean `matches`?")),
            ("filters", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(typed, fields).as_deref(), expect, "{typed}");
        }
    }

    #[test]
    fn a_problem_shows_its_line_and_a_caret() {
        let problem = Problem::new(FieldPath::root().field("spec"), "it is wrong")
            .hint("make it right")
            .at(Place {
                file: "a.yaml".into(),
                line: 2,
                column: 3,
            });
        let expect = "a.yaml:2:3: spec: it is wrong; make it right\n  |\n2 |   x: 1\n  |   ^";
        assert_eq!(problem.render("a:\n  x: 1\n"), expect);
        assert_eq!(problem.render("a:\n"), problem.to_string());
        let long = format!("a:\n{}", "x".repeat(1_000_000));
        assert!(problem.render(&long).len() < 400);
    }
}
