//! What is printed on standard output: tables and text for people, JSON and YAML for programs.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::args::{Color, StructuredFormat};
use crate::config;
use crate::failure::{Failure, Result};

/// Should this stream get colors?
pub(crate) fn use_color(color: Color, stream: &impl IsTerminal) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => stream.is_terminal(),
    }
}

/// A value in the format that was asked for.
pub(crate) fn structured<T: Serialize>(value: &T, format: StructuredFormat) -> String {
    match format {
        StructuredFormat::Json => {
            let text =
                serde_json::to_string_pretty(value).expect("values with text keys are always JSON");
            text + "\n"
        }
        StructuredFormat::Yaml => config::to_yaml(value),
    }
}

/// Rows under headings, columns aligned by characters. Empty when there are no rows.
pub(crate) fn table<R>(headings: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = String>,
{
    let head: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut lines = vec![head];
    lines.extend(rows.into_iter().map(|row| row.into_iter().collect()));
    if lines.len() == 1 {
        return String::new();
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}  "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    lines.iter().map(render).collect()
}

/// Prints and does not mind a reader that has gone, such as `head`.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed("output", "standard output cannot be written").caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// The text at `/a/b` of a JSON value, or `-`.
pub(crate) fn field(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// When another cluster was last heard of, by the one that was asked.
pub(crate) fn last_seen(milliseconds: Option<u64>) -> String {
    match milliseconds {
        None => "not seen since the control plane that was asked has started".to_owned(),
        Some(age) => format!("last seen {}", ago(age)),
    }
}

/// How long ago, in the largest unit that fits.
pub(crate) fn ago(milliseconds: u64) -> String {
    match milliseconds {
        ms if ms < 1000 => format!("{ms} ms ago"),
        ms if ms < 120_000 => format!("{} s ago", ms / 1000),
        ms if ms < 7_200_000 => format!("{} min ago", ms / 60_000),
        ms => format!("{} h ago", ms / 3_600_000),
    }
}

/// Eight hexadecimal digits that nobody else has drawn.
///
/// Errors: the system gives no random numbers.
pub(crate) fn random_name() -> Result<String> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| {
        Failure::failed("no-randomness", "the system gives no random numbers")
            .cause(error.to_string())
    })?;
    Ok(format!("{:08x}", u32::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [["a", "long word"], ["longer", "b"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            table(&["NAME", "X"], rows),
            "NAME    X\na       long word\nlonger  b\n"
        );
        assert_eq!(table(&["NAME"], Vec::<[String; 1]>::new()), "");
    }

    #[test]
    fn ages() {
        for (age, expect) in [
            (
                None,
                "not seen since the control plane that was asked has started",
            ),
            (Some(20), "last seen 20 ms ago"),
            (Some(4200), "last seen 4 s ago"),
            (Some(600_000), "last seen 10 min ago"),
            (Some(86_400_000), "last seen 24 h ago"),
        ] {
            assert_eq!(last_seen(age), expect);
        }
    }
}
