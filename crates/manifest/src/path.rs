//! Where in an object something stands: `spec.rules[0].backendRefs[1].port`.

use std::fmt;

/// One step down into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Field(String),
    Index(usize),
}

/// A way from the root of an object to one of its values. The empty path is the object itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.step(Step::Field(name.to_owned()))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// True for `other` itself and for everything that holds it.
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The path as written in documentation, without numbers: `spec.rules[].name`.
    pub(crate) fn pattern(&self) -> String {
        let step = |step: &Step| match step {
            Step::Field(_) => step.to_string(),
            Step::Index(_) => "[]".to_owned(),
        };
        let text: String = self.0.iter().map(step).collect();
        text.strip_prefix('.').unwrap_or(&text).to_owned()
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl FromIterator<Step> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for Step {
    /// A field that is no plain word, such as a label's key, stands in `["…"]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match self {
            Self::Field(name) if !name.is_empty() && name.chars().all(plain) => {
                write!(f, ".{name}")
            }
            Self::Field(name) => write!(f, "[{name:?}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.iter().map(Step::to_string).collect();
        f.write_str(text.strip_prefix('.').unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_people_write_them() {
        let labels = FieldPath::root().field("metadata").field("labels");
        for (path, text, pattern) in [
            (FieldPath::root(), "", ""),
            (labels.clone(), "metadata.labels", "metadata.labels"),
            (
                labels.field("a.b/c"),
                r#"metadata.labels["a.b/c"]"#,
                r#"metadata.labels["a.b/c"]"#,
            ),
            (
                FieldPath::root().field("rules").index(1).field("name"),
                "rules[1].name",
                "rules[].name",
            ),
        ] {
            assert_eq!(path.to_string(), text);
            assert_eq!(path.pattern(), pattern);
        }
        assert!(labels.holds(&labels.field("x")) && !labels.field("x").holds(&labels));
    }
}
