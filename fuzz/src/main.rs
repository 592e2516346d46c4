//! libFuzzer around one of the targets of `isthmus-fuzz`, named by the environment variable
//! `FUZZ_TARGET`. `scripts/fuzz` builds and runs it; it holds nothing else.

#![no_main]

use std::sync::OnceLock;

use isthmus_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fn named() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    isthmus_fuzz::find(&name).unwrap_or_else(|| {
        eprintln!("FUZZ_TARGET={name} is no target: see crates/fuzz/src/lib.rs");
        std::process::exit(2)
    })
}

fuzz_target!(|data: &[u8]| {
    let _ = (TARGET.get_or_init(named).run)(data);
});
