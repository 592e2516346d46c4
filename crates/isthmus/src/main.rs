//! `isthmus`: every process of the mesh and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    isthmus::main()
}
