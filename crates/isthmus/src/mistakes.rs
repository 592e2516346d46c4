//! What is wrong with what a user wrote, shown with the lines that it is about.

use isthmus_manifest::Problem;

use crate::failure::Failure;

/// A file's name and text.
pub(crate) type Source = (String, String);

/// All problems as one failure, each with its line.
pub(crate) fn mistakes(code: &'static str, problems: &[Problem], sources: &[Source]) -> Failure {
    let what = match problems.len() {
        1 => "there is a mistake in what was written".to_owned(),
        count => format!("there are {count} mistakes in what was written"),
    };
    let mut failure = Failure::failed(code, what);
    failure.causes = problems
        .iter()
        .map(|problem| render(problem, sources))
        .collect();
    failure
}

fn render(problem: &Problem, sources: &[Source]) -> String {
    let text = problem.place.as_ref().and_then(|place| {
        let source = sources.iter().find(|(name, _)| **name == *place.file);
        source.map(|(_, text)| problem.render(text))
    });
    text.unwrap_or_else(|| problem.to_string())
}
