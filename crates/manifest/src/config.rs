//! Files that are no resources, such as the configuration of a process: one document, one typed value.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::decode::{Decoded, decode};
use crate::document::{in_order, place, placed};
use crate::problem::Problems;
use crate::yaml::{self, Mark};
use crate::{FieldPath, Problem};

/// Reads `text`, which stands in the file `name`, as a `T`. `check` says what is wrong with a value
/// whose fields are right one by one; it also sees a value of which some fields did not fit and were
/// left out, and what it says of those is not repeated. When there is no value without such a field,
/// there is nothing to check.
///
/// Errors: everything that is wrong, in order of line, each with its place; never empty.
pub fn parse_config<T: DeserializeOwned>(
    name: &str,
    text: &str,
    check: impl FnOnce(&T) -> Vec<Problem>,
) -> Result<T, Vec<Problem>> {
    let file: Arc<str> = Arc::from(name);
    let whole = |message: &str, line| {
        let mark = Mark { line, column: 1 };
        let problem = Problem::new(FieldPath::root(), message);
        vec![problem.at(place(&file, mark))]
    };
    let section = match yaml::sections(text)[..] {
        [section] => section,
        [] => return Err(whole("the file says nothing", 1)),
        [_, second, ..] => {
            let message = "a second document begins, and this file has one only";
            return Err(whole(message, second.first_line));
        }
    };
    let (tree, wrong) = yaml::read(section);
    let mut problems: Vec<Problem> = wrong
        .into_iter()
        .map(|(mark, problem)| problem.at(place(&file, mark)))
        .collect();
    let mut value = None;
    if let Some(tree) = tree {
        let mut found = Problems::default();
        let decoded = decode::<T>(&tree.to_json(), &FieldPath::root(), &mut found);
        if let Some(Decoded {
            value: read,
            dropped,
        }) = decoded
        {
            let mut checked = Problems::default();
            checked.extend(check(&read));
            dropped.report(checked, &mut found);
            value = Some(read);
        }
        problems.extend(placed(found.into_vec(), &file, &tree));
    }
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(in_order(problems, &[(name, text)])),
    }
}
