//! Packages and their layers: every dependency between crates points to a lower layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::finding::Finding;
use crate::tree::Tree;

/// A package of the workspace, as cargo sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Relative to the root, such as `crates/model`.
    pub(crate) folder: String,
    pub(crate) layer: Option<u64>,
    pub(crate) licence: Option<String>,
    /// Packages of this workspace that it depends on, with `normal`, `dev` or `build`.
    pub(crate) depends: Vec<(String, String)>,
}

impl Package {
    /// What the crate is called in documents: its folder.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.folder.strip_prefix("crates/")
    }
}

/// Asks cargo. Needs no network.
pub(crate) fn read(root: &Path) -> Result<Vec<Package>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("running cargo metadata: {error}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata: {error}"));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("what cargo metadata printed: {error}"))?;
    Ok(from_metadata(&metadata))
}

fn from_metadata(metadata: &Value) -> Vec<Package> {
    let root = format!("{}/", text(&metadata["workspace_root"]));
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let folder = manifest.strip_prefix(&root).unwrap_or(&manifest);
            let depends = package["dependencies"].as_array().into_iter().flatten();
            Package {
                name: text(&package["name"]),
                folder: folder.trim_end_matches("/Cargo.toml").to_owned(),
                layer: package["metadata"]["layer"].as_u64(),
                licence: package["license"].as_str().map(str::to_owned),
                depends: depends
                    .filter(|dependency| dependency["path"].is_string())
                    .map(|dependency| {
                        let kind = dependency["kind"].as_str().unwrap_or("normal");
                        (text(&dependency["name"]), kind.to_owned())
                    })
                    .collect(),
            }
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let layers: BTreeMap<&str, u64> = packages
        .iter()
        .filter_map(|package| Some((package.name.as_str(), package.layer?)))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        check_manifest(tree, package, &mut findings);
        if package.crate_name().is_some() {
            check_layer(package, &layers, &mut findings);
        }
    }
    findings
}

fn check_layer(package: &Package, layers: &BTreeMap<&str, u64>, findings: &mut Vec<Finding>) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let Some(layer) = package.layer else {
        let what = "it names no layer: add `[package.metadata]` with `layer = <n>`";
        findings.push(Finding::error(&manifest, what));
        return;
    };
    for (name, kind) in &package.depends {
        let what = match layers.get(name.as_str()) {
            Some(&below) if below < layer => continue,
            Some(other) => format!(
                "layer {layer} has a {kind} dependency on {name} of layer {other}: dependencies \
                 point to lower layers; move what both need down, or pass it in from above"
            ),
            None => format!("{name} ({kind} dependency) is no crate with a layer"),
        };
        findings.push(Finding::error(&manifest, what));
    }
}

fn check_manifest(tree: &Tree, package: &Package, findings: &mut Vec<Finding>) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let text = tree.find(&manifest).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let inherits = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
    if !inherits {
        let what = "it does not take the workspace's lints: add `[lints]` with `workspace = true`";
        findings.push(Finding::error(&manifest, what));
    }
    if package.licence.as_deref() != Some("Apache-2.0") {
        let what = "its licence is not Apache-2.0: add `license.workspace = true`";
        findings.push(Finding::error(&manifest, what));
    }
    let roots = ["lib.rs", "main.rs"].map(|name| format!("{}/src/{name}", package.folder));
    for root in roots {
        if tree
            .find(&root)
            .is_some_and(|text| !text.starts_with("//!"))
        {
            let what = "it must begin with a `//!` header: what it is, and what it never does";
            findings.push(Finding::error(&root, what).at(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::lines;

    const GOOD: &str = "[package]\n\n[lints]\nworkspace = true\n";

    fn package(name: &str, layer: Option<u64>, depends: &[(&str, &str)]) -> Package {
        let depends = depends.iter();
        Package {
            name: format!("isthmus-{name}"),
            folder: format!("crates/{name}"),
            layer,
            licence: Some("Apache-2.0".to_owned()),
            depends: depends
                .map(|(to, kind)| (format!("isthmus-{to}"), (*kind).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn arrows_point_down() {
        let packages = [
            package("model", Some(0), &[]),
            package("route", Some(1), &[("model", "normal")]),
            package("authz", Some(1), &[("route", "dev")]),
            package("wire", Some(2), &[("proxy", "build"), ("gone", "normal")]),
            package("proxy", Some(4), &[("wire", "normal"), ("model", "dev")]),
            package("new", None, &[("proxy", "normal")]),
        ];
        let tree = Tree::of([
            ("crates/model/Cargo.toml", GOOD),
            ("crates/route/Cargo.toml", GOOD),
            ("crates/authz/Cargo.toml", GOOD),
            ("crates/wire/Cargo.toml", GOOD),
            ("crates/proxy/Cargo.toml", GOOD),
            ("crates/new/Cargo.toml", GOOD),
        ]);
        let found = lines(&check(&tree, &packages));
        for (finding, (file, words)) in found.iter().zip([
            (
                "crates/authz/Cargo.toml",
                "dev dependency on isthmus-route of layer 1",
            ),
            (
                "crates/wire/Cargo.toml",
                "build dependency on isthmus-proxy of layer 4",
            ),
            (
                "crates/wire/Cargo.toml",
                "isthmus-gone (normal dependency) is no crate",
            ),
            ("crates/new/Cargo.toml", "names no layer"),
        ]) {
            assert!(
                finding.starts_with(file) && finding.contains(words),
                "{finding}"
            );
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn every_package_has_lints_licence_and_header() {
        let packages = [Package {
            licence: None,
            ..package("model", Some(0), &[])
        }];
        let tree = Tree::of([
            ("crates/model/Cargo.toml", "[lints]\n[package]\n"),
            ("crates/model/src/lib.rs", "mod a;\n"),
            ("crates/model/src/main.rs", "//! Fine.\n"),
        ]);
        let found = lines(&check(&tree, &packages));
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("lints"), "{}", found[0]);
        assert!(found[1].contains("licence"), "{}", found[1]);
        assert!(
            found[2].starts_with("crates/model/src/lib.rs:1: "),
            "{}",
            found[2]
        );
    }

    #[test]
    fn what_cargo_prints_is_understood() {
        let metadata = json!({
            "workspace_root": "/x",
            "packages": [{
                "name": "isthmus-a",
                "manifest_path": "/x/crates/a/Cargo.toml",
                "license": "Apache-2.0",
                "metadata": { "layer": 3 },
                "dependencies": [
                    { "name": "isthmus-b", "kind": null, "path": "/x/crates/b" },
                    { "name": "isthmus-c", "kind": "dev", "path": "/x/crates/c" },
                    { "name": "serde_json", "kind": null },
                ],
            }],
        });
        let depends = [("b", "normal"), ("c", "dev")];
        assert_eq!(from_metadata(&metadata), [package("a", Some(3), &depends)]);
    }
}
