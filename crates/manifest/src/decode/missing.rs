//! Which fields of an object are missing, when serde names the first one only.
//!
//! What stands in for a missing field is seen by nobody: no value made with it is returned.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Cause, Unfit, attempt};
use crate::FieldPath;

/// One of these fits most fields that can be missing.
static STAND_INS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let texts = ["a", "a/a", "127.0.0.1", "127.0.0.1:1", "1s"];
    let others = [json!(1), json!(true), json!([]), json!({})];
    texts.into_iter().map(Value::from).chain(others).collect()
});

/// The fields of the object at `at` that are missing beside `first`: serde names only the first
/// one, so it is asked again with something in its place.
pub(super) fn missing_too<T: DeserializeOwned>(
    json: &Value,
    path: &FieldPath,
    dropped: &[FieldPath],
    (at, first): (&FieldPath, &'static str),
) -> impl Iterator<Item = &'static str> {
    let mut found = Vec::new();
    let mut stand_ins = Vec::new();
    let mut missing = Some(first);
    while let Some(field) = missing.take() {
        let field = at.field(field);
        for value in STAND_INS.iter() {
            stand_ins.push((field.clone(), value));
            let (result, _) = attempt::<T>(json, path, dropped, &stand_ins);
            match result {
                Err(error) if error.path.as_ref().is_some_and(|path| field.holds(path)) => {
                    stand_ins.pop();
                    continue;
                }
                Err(Unfit {
                    path: Some(path),
                    cause: Cause::Missing(next),
                }) if path == *at && next != first && !found.contains(&next) => {
                    found.push(next);
                    missing = Some(next);
                }
                _ => {}
            }
            break;
        }
    }
    found.into_iter()
}
