//! Tables in Markdown, which is readable as it is.

/// A table whose columns named in `text` are text and all others numbers.
pub(crate) fn markdown(headings: &[&str], text: &[&str], rows: &[Vec<String>]) -> String {
    let first = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&first).chain(rows).collect();
    let column = |(index, heading): (usize, &&str)| {
        let cells = lines.iter().filter_map(|cells| cells.get(index));
        let width = cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default();
        (width.max(2), text.contains(heading))
    };
    let columns: Vec<(usize, bool)> = headings.iter().enumerate().map(column).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&columns).map(|(cell, &(width, is_text))| {
            if is_text {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rules = columns.iter().map(|&(width, is_text)| {
        let end = if is_text { '-' } else { ':' };
        format!("{}{end}", "-".repeat(width - 1))
    });
    let rules: Vec<String> = rules.collect();
    let body: String = rows.iter().map(|cells| line(cells)).collect();
    format!("{}{}{body}", line(&first), line(&rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["bcd", "1000"]].map(|row| row.map(str::to_owned).to_vec());
        let expect = "\
| x   | µs/1 |
| --- | ---: |
| a   |    1 |
| bcd | 1000 |
";
        assert_eq!(markdown(&["x", "µs/1"], &["x"], &rows), expect);
    }
}
