//! What a user is told: every problem of a file at once, each with its exact place.

use isthmus_manifest::parse_files;

fn shown(text: &str) -> Vec<String> {
    let (_, problems) = parse_files(&[("f", text)], None);
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(text: &str, expect: &[&str]) {
    let shown = shown(text);
    assert_eq!(shown, expect, "\n{}\n{text}", shown.join("\n"));
}

#[test]
fn explore() {
    for text in [
        "a: [1, 2\nb: 3\n",
        "a: 1\n b: 2\n",
        "a: \"x\n",
        "a: 1\na: 2\n",
        "a: *nope\n",
        "a: \t- b\n",
        "[1]",
        "x",
        "kind: 5\n",
        "a: .nan\n",
        "? [a]\n: b\n",
        "a: !!binary zzz\n",
        "a: &a [*a]\n",
        &"[".repeat(70),
        &"- x\n".repeat(60_000),
        &format!("a: {}", "x".repeat(1<<20)),
        "a: \u{1}\n",
        "apiVersion: v1\nkind: Servise\nmetadata: {name: A, namespace: x, lables: {}}\nspek: 1\n",
    ] {
        println!("{:?}\n   {}", &text[..text.len().min(40)], shown(text).join("\n   "));
    }
    panic!();
}
