//! `isthmus-proxy`: what `isthmus` becomes to carry traffic.

use std::process::ExitCode;

fn main() -> ExitCode {
    isthmus::proxy_main()
}
