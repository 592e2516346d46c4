//! Nothing that anybody writes ends the process, and every problem says something.

use isthmus_manifest::{check_references, parse_files, parse_object};
use proptest::prelude::*;
use serde_json::Value;

const EXAMPLES: [&str; 3] = [
    include_str!("../../../examples/three-regions/mesh.yaml"),
    include_str!("../../../examples/three-regions/shop.yaml"),
    include_str!("../../../examples/three-regions/routes.yaml"),
];

/// Reads `text`, and renders and looks at all that comes out.
fn read(text: &str) {
    let (parsed, problems) = parse_files(&[("f", text)], None);
    // YAML counts a lone carriage return as the end of a line, too.
    let lines = text.split(['\n', '\r']).count();
    for problem in &problems {
        let place = problem.place.as_ref().expect("it was read from a file");
        assert!(place.line as usize <= lines, "{problem}");
        assert!(!problem.message.is_empty());
        assert!(
            !problem.to_string().chars().any(char::is_control),
            "{problem}"
        );
        assert!(problem.to_string().len() < 4000, "{problem}");
        problem.render(text);
    }
    let all: Vec<_> = parsed
        .into_iter()
        .map(|one| (one.key, one.resource))
        .collect();
    check_references(&all);
}

/// An example with a piece cut out and another put in.
fn mutated() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just(String::new()),
        "[-:#&*!|>'\"%@`{}\\[\\], \n\t?~<]{1,4}",
        "\\PC{0,6}",
        Just("\n---\n".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("<<: *a".to_owned()),
    ];
    let example = proptest::sample::select(&EXAMPLES[..]);
    (example, any::<prop::sample::Index>(), 0_usize..12, pieces).prop_map(
        |(example, at, cut, piece)| {
            let mut characters: Vec<char> = example.chars().collect();
            let start = at.index(characters.len());
            let end = (start + cut).min(characters.len());
            characters.splice(start..end, piece.chars());
            characters.into_iter().collect()
        },
    )
}

/// Any JSON, mostly made of words that mean something.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z/:.=,\\-0-9]{0,12}".prop_map(Value::from),
        Just(Value::from("10s")),
        Just(Value::from("Service")),
    ];
    let word = proptest::sample::select(
        &[
            "name",
            "namespace",
            "kind",
            "group",
            "port",
            "ports",
            "rules",
            "matches",
            "headers",
            "path",
            "value",
            "type",
            "parentRefs",
            "backendRefs",
            "targetRefs",
            "retry",
            "timeout",
            "healthCheck",
            "http",
            "tcp",
            "weight",
            "between",
            "reach",
            "labels",
            "annotations",
        ][..],
    );
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|fields| {
                Value::Object(
                    fields
                        .into_iter()
                        .map(|(key, it)| (key.to_owned(), it))
                        .collect(),
                )
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn yaml_like_garbage(text in "[a-c:\\-\\[\\]{}#&*!|>'\"% \n\t\r]{0,80}") {
        read(&text);
    }

    #[test]
    fn mutated_examples(text in mutated()) {
        read(&text);
    }

    #[test]
    fn any_spec_of_any_kind(
        spec in json(),
        metadata in json(),
        kind in proptest::sample::select(&isthmus_model::Kind::ALL[..]),
    ) {
        let head = serde_json::json!({"name": "a", "namespace": "b"});
        for metadata in [head, serde_json::json!({"name": "a"}), metadata] {
            let object = serde_json::json!({
                "apiVersion": kind.api_version(),
                "kind": kind.name(),
                "metadata": metadata,
                "spec": spec,
                "status": spec,
            });
            if let Err(problems) = parse_object(object.clone()) {
                prop_assert!(!problems.is_empty());
            }
            read(&object.to_string());
        }
    }
}

#[test]
fn many_mistakes_take_no_long_time() {
    let items = "    - {name: 1, x: y}\n".repeat(10_000);
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: b}}\nspec:\n  ports:\n{items}"
    );
    read(&text);
}
