//! Files to documents, documents to resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{Namespace, Resource, ResourceKey};
use serde_json::Value;

use crate::problem::About;
use crate::references::{Finding, Severity, check_references};
use crate::yaml::{self, Mark, Tree};
use crate::{FieldPath, Object, Place, Problem, resolve};

/// An object with the places of its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// May be completed before it is resolved; places stay those of what was written.
    pub object: Object,
    file: Arc<str>,
    tree: Tree,
}

/// A document and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub document: Document,
    pub key: ResourceKey,
    pub resource: Resource,
}

impl Document {
    /// Where `path` stands; when it does not, where the innermost thing stands that would hold it.
    pub fn place(&self, path: &FieldPath) -> Place {
        place(&self.file, self.tree.find(path, About::Value))
    }

    /// Errors: everything that is wrong with the object, never empty.
    pub fn resolve(self) -> Result<Parsed, Vec<Problem>> {
        match resolve(&self.object) {
            Ok(resource) => Ok(Parsed {
                key: self.object.key(&resource),
                document: self,
                resource,
            }),
            Err(problems) => Err(placed(problems, &self.file, &self.tree)),
        }
    }
}

/// Reads the documents of `files`, pairs of name and text. Objects of namespaced kinds that name no
/// namespace are put into `namespace`. A list of objects stands for its items. An object that appears twice
/// is a problem at its second place.
///
/// Returns the documents whose head is valid, and everything that is wrong, both in order of file
/// and line.
pub fn read_files(
    files: &[(&str, &str)],
    namespace: Option<&Namespace>,
) -> (Vec<Document>, Vec<Problem>) {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let file: Arc<str> = Arc::from(*name);
        for section in yaml::sections(text) {
            let (tree, wrong) = yaml::read(section);
            let at = |(mark, problem): (Mark, Problem)| problem.at(place(&file, mark));
            problems.extend(wrong.into_iter().map(at));
            for tree in tree.into_iter().flat_map(objects) {
                match valid(tree.to_json(), namespace) {
                    Ok(object) => documents.push(Document {
                        object,
                        file: file.clone(),
                        tree,
                    }),
                    Err(wrong) => problems.extend(placed(wrong, &file, &tree)),
                }
            }
        }
    }
    refuse_duplicates(&mut documents, &mut problems);
    (documents, in_order(problems, files))
}

/// Reads `files` as [`read_files`] does, and resolves what was read.
pub fn parse_files(
    files: &[(&str, &str)],
    namespace: Option<&Namespace>,
) -> (Vec<Parsed>, Vec<Problem>) {
    let (documents, mut problems) = read_files(files, namespace);
    let mut parsed = Vec::new();
    for document in documents {
        match document.resolve() {
            Ok(one) => parsed.push(one),
            Err(wrong) => problems.extend(wrong),
        }
    }
    (parsed, in_order(problems, files))
}

/// What `parsed` names that is neither there nor in `others`: references without which a part of a
/// resource has no effect, each with its place.
pub fn check_parsed(parsed: &[Parsed], others: Vec<(ResourceKey, Resource)>) -> Vec<Problem> {
    let places: BTreeMap<&ResourceKey, &Document> =
        parsed.iter().map(|one| (&one.key, &one.document)).collect();
    let mut all: Vec<(ResourceKey, Resource)> = parsed
        .iter()
        .map(|one| (one.key.clone(), one.resource.clone()))
        .collect();
    all.extend(
        others
            .into_iter()
            .filter(|(key, _)| !places.contains_key(key)),
    );
    let problem = |finding: Finding| {
        let document = places.get(&finding.key)?;
        let place = document.place(&finding.path);
        let problem = Problem::new(finding.path, finding.message).maybe_hint(finding.hint);
        Some(problem.at(place))
    };
    check_references(&all)
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error)
        .filter_map(problem)
        .collect()
}

/// The key and the meaning of one object, as the API receives it. Its problems have no place.
///
/// Errors: everything that is wrong with it, never empty.
pub fn parse_object(json: Value) -> Result<(ResourceKey, Resource), Vec<Problem>> {
    let object = valid(json, None)?;
    let resource = resolve(&object)?;
    Ok((object.key(&resource), resource))
}

/// An object with a valid head. Errors: what is wrong with the head, and with `spec` as well.
fn valid(json: Value, namespace: Option<&Namespace>) -> Result<Object, Vec<Problem>> {
    let (object, mut problems) = Object::read(json, namespace);
    match object {
        Some(object) if problems.is_empty() => Ok(object),
        object => {
            let spec = FieldPath::root().field("spec");
            let of_spec = object.and_then(|object| resolve(&object).err());
            let of_spec = of_spec.into_iter().flatten();
            problems.extend(of_spec.filter(|problem| spec.holds(&problem.path)));
            Err(problems)
        }
    }
}

/// The items of a list, such as `get` prints, else the tree itself.
fn objects(tree: Tree) -> Vec<Tree> {
    let json = tree.to_json();
    let is_list = json["items"].is_array()
        && json["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
    if !is_list {
        return vec![tree];
    }
    tree.into_list("items").unwrap_or_default()
}

fn refuse_duplicates(documents: &mut Vec<Document>, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    let path = FieldPath::root().field("metadata").field("name");
    documents.retain(|document| {
        let (kind, metadata) = (document.object.kind(), document.object.metadata());
        let key = (kind, metadata.namespace.clone(), metadata.name.clone());
        let here = document.place(&path);
        if let Some(first) = seen.get(&key) {
            let Place { file, line, .. } = first;
            let message = format!("{kind} `{}` is declared twice", metadata.name);
            let problem = Problem::new(path.clone(), message);
            problems.push(
                problem
                    .hint(format!("the first is at {file}:{line}"))
                    .at(here),
            );
            return false;
        }
        seen.insert(key, here);
        true
    });
}

pub(crate) fn placed(problems: Vec<Problem>, file: &Arc<str>, tree: &Tree) -> Vec<Problem> {
    let one = |problem: Problem| {
        let mark = tree.find(&problem.path, problem.about);
        problem.at(place(file, mark))
    };
    problems.into_iter().map(one).collect()
}

pub(crate) fn place(file: &Arc<str>, mark: Mark) -> Place {
    Place {
        file: file.clone(),
        line: mark.line,
        column: mark.column,
    }
}

/// By the order in which the files were given, then by line and column.
pub(crate) fn in_order(mut problems: Vec<Problem>, files: &[(&str, &str)]) -> Vec<Problem> {
    problems.sort_by_key(|problem| {
        problem.place.as_ref().map(|place| {
            let file = files.iter().position(|(name, _)| **name == *place.file);
            (file, place.line, place.column)
        })
    });
    problems
}
