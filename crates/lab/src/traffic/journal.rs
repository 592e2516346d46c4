//! What programs have written down: which requests were executed, and how often.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::trouble::{During, Result};

/// Requests that must not be executed twice, as the programs saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// How many different ones.
    pub requests: u64,
    /// Those that were executed more than once.
    pub twice: Vec<String>,
}

/// Reads the journals of all programs.
pub fn executed(folder: &Path) -> Result<Executed> {
    let during = || folder.display().to_string();
    let mut times: HashMap<String, u32> = HashMap::new();
    for entry in fs::read_dir(folder).during(during)? {
        let path = entry.during(during)?.path();
        let text = fs::read_to_string(&path).during(|| path.display().to_string())?;
        for id in text.lines() {
            *times.entry(id.to_owned()).or_default() += 1;
        }
    }
    let requests = times.len() as u64;
    let twice = times.into_iter().filter(|(_, times)| *times > 1);
    let mut twice: Vec<String> = twice.map(|(id, _)| id).collect();
    twice.sort_unstable();
    Ok(Executed { requests, twice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_programs_have_executed_is_found() {
        let folder = std::env::temp_dir().join(format!("isthmus-journal-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("one"), "post-1\npost-2\n").unwrap();
        fs::write(folder.join("two"), "post-3\npost-2\n").unwrap();
        let found = executed(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let (requests, twice) = (3, vec!["post-2".to_owned()]);
        assert_eq!(found.unwrap(), Executed { requests, twice });
    }
}
