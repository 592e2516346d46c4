//! Just enough understanding of Rust's surface to search code and not what it talks about.

use std::ops::Range;

/// A Rust file's code with comments and the insides of literals blanked out. Lines and columns
/// stay where they are.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) text: String,
    tests: Vec<Range<usize>>,
}

impl Code {
    pub(crate) fn new(path: &str, source: &str) -> Self {
        let text = blank(source);
        let ends = ["/tests.rs", "/counts.rs"];
        let whole = path.contains("/tests/") || ends.iter().any(|end| path.ends_with(end));
        let tests = if whole {
            std::iter::once(0..text.len()).collect()
        } else {
            test_modules(&text)
        };
        Self { text, tests }
    }

    /// Does what stands at this byte only serve tests?
    pub(crate) fn in_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// Where `word` stands on its own: no letter, digit or `_` touches it.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.text
            .match_indices(word)
            .map(|(at, _)| at)
            .filter(move |&at| {
                let before = self.text[..at].chars().next_back();
                let after = self.text[at + word.len()..].chars().next();
                let starts = !word.starts_with(is_identifier) || !before.is_some_and(is_identifier);
                let ends = !word.ends_with(is_identifier) || !after.is_some_and(is_identifier);
                starts && ends
            })
    }

    /// Is there a test function of this name?
    pub(crate) fn has_test(&self, name: &str) -> bool {
        let function = format!("fn {name}");
        self.words(&function).any(|at| {
            let above = self.text[..at].trim_end();
            let item = above.rfind([';', '}', '{']).map_or(0, |end| end + 1);
            let attributes = &above[item..];
            attributes.contains("test]") || attributes.contains("test(")
        })
    }
}

pub(crate) fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The bodies of `#[cfg(test)] mod … { … }`.
fn test_modules(text: &str) -> Vec<Range<usize>> {
    let starts = text.match_indices("#[cfg(test)]").map(|(at, _)| at);
    starts
        .map(|start| {
            let rest = &text[start..];
            let end = match rest.find(['{', ';']) {
                Some(open) if rest[open..].starts_with('{') => closing_brace(rest, open),
                Some(semicolon) => semicolon,
                None => rest.len(),
            };
            start..start + end
        })
        .collect()
}

/// Where the brace that opens at `open` closes.
fn closing_brace(text: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    text.len()
}

/// Replaces every byte of comments and inside literals by a blank, except for line ends.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            [b'/', b'*', ..] => block_comment_end(bytes, at),
            [b'"', ..] => string_end(bytes, at),
            [b'\'', ..] => char_end(source, at),
            [b'r', ..] if starts_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at + 1),
            _ => at + 1,
        };
        if end > at + 1 {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    // What was blanked is whole characters, so this changes nothing more.
    String::from_utf8_lossy(&out).into_owned()
}

/// Not in the middle of an identifier; `b` and `c` may stand before a raw string.
fn starts_word(bytes: &[u8], at: usize) -> bool {
    let word = |at: usize| bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_';
    let prefixed = at > 0 && matches!(bytes[at - 1], b'b' | b'c');
    let start = if prefixed { at - 1 } else { at };
    start == 0 || !word(start - 1)
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let found = bytes[from..].windows(what.len()).position(|w| w == what);
    found.map(|position| from + position)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while at < bytes.len() {
        match bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..]
        .iter()
        .take_while(|&&byte| byte == b'#')
        .count();
    let quote = start + 1 + hashes;
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let end = find(bytes, quote + 1, &close);
    Some(end.map_or(bytes.len(), |end| end + close.len()))
}

/// End of a character literal, or of the quote alone if it begins a lifetime.
fn char_end(source: &str, start: usize) -> usize {
    let mut rest = source[start + 1..].char_indices();
    match (rest.next(), rest.next()) {
        (Some((_, '\\')), Some((escaped, c))) => {
            let after = start + 1 + escaped + c.len_utf8();
            let close = source[after..].find('\'');
            close.map_or(source.len(), |close| after + close + 1)
        }
        (Some(_), Some((close, '\''))) => start + 1 + close + 1,
        _ => start + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        for (source, expect) in [
            ("a // todo\nb", "a        \nb"),
            ("a /* x /* y */ \n */ b", "a              \n    b"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            (r##"f(r#"a"b"#, c)"##, "f(        , c)"),
            (r#"br"\" x"#, "b     x"),
            (r"'a' '\'' '\u{1}' b", "                 b"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("'ä' b", "     b"),
            ("var\"x\"", "var   "),
        ] {
            assert_eq!(blank(source), expect, "{source}");
        }
    }

    #[test]
    fn tests_are_told_from_code() {
        let source = "fn a() { A }\n#[cfg(test)]\nmod tests {\n fn b() { B }\n}\nfn c() { C }\n";
        let code = Code::new("crates/x/src/y.rs", source);
        for (word, expect) in [("A", false), ("B", true), ("C", false)] {
            let at = code.words(word).next().unwrap();
            assert_eq!(code.in_test(at), expect, "{word}");
        }
        assert!(Code::new("crates/x/tests/y.rs", source).in_test(0));
    }

    #[test]
    fn test_functions_are_found() {
        let source = "#[test]\nfn plain() {}\n\n#[tokio::test]\n#[cfg(unix)]\nasync fn later() {}\n\
                      fn helper() {}\n#[test_log::test(tokio::test)] async fn logged() {}\n\
                      proptest! {\n  /// Doc.\n  #[test]\n  fn property(x in 0..1) {}\n}\n";
        let code = Code::new("x.rs", source);
        for (name, expect) in [
            ("plain", true),
            ("later", true),
            ("logged", true),
            ("property", true),
            ("helper", false),
            ("plai", false),
            ("gone", false),
        ] {
            assert_eq!(code.has_test(name), expect, "{name}");
        }
    }
}
