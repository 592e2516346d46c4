//! The committed reference pages are what the tables say. `make reference` writes them anew.

use std::path::Path;

use isthmus_telemetry::reference;

#[test]
fn reference_pages_are_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let write = std::env::var_os("UPDATE_REFERENCE").is_some();
    for (name, page) in [
        ("metrics.md", reference::metrics()),
        ("access-log.md", reference::access_log()),
        ("refusals.md", reference::refusals()),
    ] {
        let path = folder.join(name);
        if write {
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/reference/{name} is stale: run `make reference`"
        );
    }
}
