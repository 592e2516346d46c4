//! Files that are no resources: all their mistakes at once, each with its place.

use isthmus_manifest::{FieldPath, Problem, parse_config};
use serde::Deserialize;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shop {
    name: String,
    open_at: u16,
    #[serde(default)]
    shelves: Vec<Shelf>,
    pair: (String, String),
}

#[derive(Debug, PartialEq, Deserialize)]
struct Shelf {
    label: String,
    width: u16,
    address: std::net::IpAddr,
}

/// Shelves are narrower than the hour at which the shop opens.
fn check(shop: &Shop) -> Vec<Problem> {
    let wide = |(index, shelf): (usize, &Shelf)| {
        let path = FieldPath::root()
            .field("shelves")
            .index(index)
            .field("width");
        (shelf.width >= shop.open_at).then(|| Problem::new(path, "too wide").hint("saw it"))
    };
    shop.shelves.iter().enumerate().filter_map(wide).collect()
}

#[test]
fn mistakes_of_every_kind_are_told_together() {
    let good =
        "name: a\nopenAt: 9\nshelves:\n- {label: b, width: 3, address: 127.0.0.1}\npair: [c, d]\n";
    let shop = parse_config("shop.yaml", good, check).unwrap();
    assert_eq!((shop.open_at, shop.shelves.len()), (9, 1));
    for (text, expect) in [
        ("", &["shop.yaml:1:1: the file says nothing"][..]),
        (
            "# nothing\n---\n",
            &["shop.yaml:1:1: the file says nothing"],
        ),
        (
            "a: 1\n---\nb: 2\n",
            &["shop.yaml:2:1: a second document begins, and this file has one only"],
        ),
        ("[", &["shop.yaml:1:"]),
        (
            "7",
            &["shop.yaml:1:1: expected an object, found the number 7"],
        ),
        (
            "opnAt: 9\n",
            &[
                "shop.yaml:1:1: the field `openAt` is missing",
                "shop.yaml:1:1: the field `pair` is missing",
                "shop.yaml:1:1: the field `name` is missing",
                "shop.yaml:1:1: opnAt: unknown field; did you mean `openAt`?",
            ],
        ),
        (
            // What was left out for one mistake makes no second one.
            "name: a\nopenAt: x\nshelves:\n- {label: b}\n- {label: b, width: 3, address: 127.1.2}\n\
             pair: [c, {}]\n",
            &[
                "shop.yaml:2:9: openAt: expected a whole number",
                "shop.yaml:4:3: shelves[0]: the field `address` is missing",
                "shop.yaml:4:3: shelves[0]: the field `width` is missing",
                "shop.yaml:5:33: shelves[1].address: invalid IP address syntax; write it like 127.0.0.1",
                "shop.yaml:6:11: pair[1]: expected text, found an object",
            ],
        ),
        (
            "name: a\nopenAt: 9\nshelves:\n- {label: b, width: 9, address: '::1'}\npair: [c, d, e]\n",
            &["shop.yaml:5:1: pair: expected a list of 2, found a list"],
        ),
        (
            "name: a\nopenAt: 9\nshelves:\n- {label: [], width: 9, address: '::1'}\n\
             - {label: b, width: 9, address: '::1'}\npair: [c, d]\nnames: []\n",
            &[
                "shop.yaml:4:4: shelves[0].label: expected text",
                "shop.yaml:5:21: shelves[1].width: too wide; saw it",
                "shop.yaml:7:1: names: unknown field; did you mean `name`?",
            ],
        ),
    ] {
        let problems = parse_config("shop.yaml", text, check).unwrap_err();
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(told.len(), expect.len(), "{text}: {told:#?}");
        for (told, expect) in told.iter().zip(expect) {
            assert!(
                told.starts_with(expect),
                "{text}: {told} instead of {expect}"
            );
        }
    }
}
