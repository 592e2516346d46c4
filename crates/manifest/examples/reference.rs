//! Prints docs/reference/resources.md.

fn main() {
    print!("{}", isthmus_manifest::reference());
}
