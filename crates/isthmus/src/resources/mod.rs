//! Commands on objects: look at them, change them, compare them with files.

mod change;
mod compare;
mod files;
mod look;
mod reference;
mod sign;

pub(crate) use change::{Outcome, apply, apply_one, delete, diff, replaced};
pub(crate) use compare::{difference, essence, paint, same};
pub(crate) use files::{UP_FILE, problems_failure, read_sources, sources};
pub(crate) use look::{conditions, describe, get};
pub(crate) use reference::ObjectRef;
pub(crate) use sign::sign;
