//! Resource files: which ones are meant, and what stands in them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use isthmus_manifest::{Document, Parsed, Problem, parse_files, read_files};
use isthmus_model::Namespace;

use crate::failure::{Exit, Failure, Result};
use crate::home;
use crate::mistakes::{Source, mistakes};

/// What `up` reads beside the resource files of its directory.
pub(crate) const UP_FILE: &str = "up.yaml";

/// Reads files, all resource files of directories, and standard input (`-`).
pub(crate) fn sources(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            sources.push(("standard input".to_owned(), standard_input()?));
        } else if path.is_dir() {
            let files = resource_files(path)?;
            if files.is_empty() {
                let what = format!("there are no resource files in {}", path.display());
                return Err(Failure::failed("no-files", what)
                    .next("their names end in .yaml, .yml or .json"));
            }
            for file in files {
                sources.push((file.display().to_string(), home::read_file(&file)?));
            }
        } else {
            sources.push((path.display().to_string(), home::read_file(path)?));
        }
    }
    Ok(sources)
}

/// What stands in `sources`, checked; in the order in which it must be created.
///
/// Errors: everything that is wrong, with its place.
pub(crate) fn parse(sources: &[Source], namespace: &Namespace) -> Result<Vec<Parsed>> {
    let documents = read_sources(sources, namespace)?;
    let mut problems = Vec::new();
    let mut parsed = Vec::new();
    for document in documents {
        match document.resolve() {
            Ok(one) => parsed.push(one),
            Err(wrong) => problems.extend(wrong),
        }
    }
    if !problems.is_empty() {
        return Err(problems_failure(&problems, sources));
    }
    if parsed.is_empty() {
        let names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        let what = format!("there are no objects in {}", names.join(", "));
        return Err(Failure::failed("no-objects", what));
    }
    // Kinds are ordered so that what others refer to comes first.
    parsed.sort_by_key(|one| one.key.kind);
    Ok(parsed)
}

/// The documents of `sources` whose specs nobody has looked at yet.
pub(crate) fn read_sources(sources: &[Source], namespace: &Namespace) -> Result<Vec<Document>> {
    let files: Vec<(&str, &str)> = sources
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let (documents, problems) = read_files(&files, Some(namespace));
    if problems.is_empty() {
        Ok(documents)
    } else {
        // What is wrong with the specs of the others is told with it.
        let (_, problems) = parse_files(&files, Some(namespace));
        Err(problems_failure(&problems, sources))
    }
}

/// All problems of resources as one failure, each with its line.
pub(crate) fn problems_failure(problems: &[Problem], sources: &[Source]) -> Failure {
    mistakes("invalid", problems, sources)
        .next("correct the files; docs/reference lists all fields of all kinds")
}

/// What was written (with `dry_run`: would be) names what does not exist.
pub(crate) fn dangling_failure(problems: &[Problem], sources: &[Source], dry_run: bool) -> Failure {
    let mut failure = mistakes("refs-not-resolved", problems, sources);
    failure.exit = Exit::Findings;
    let would_be = if dry_run { "would be " } else { "" };
    failure.what = format!("{would_be}written, but it names what does not exist");
    failure.next("correct the names and apply again, or apply what is missing")
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| {
            Failure::failed("file-unreadable", "standard input cannot be read").caused_by(&error)
        })?;
    Ok(text)
}

fn resource_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| {
        let what = format!("{} cannot be read", directory.display());
        Failure::failed("file-unreadable", what).caused_by(&error)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let fits = matches!(extension, Some("yaml" | "yml" | "json"));
        if fits && path.is_file() && path.file_name().is_some_and(|name| name != UP_FILE) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
