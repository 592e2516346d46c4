//! Requests that could be read in two ways, and some mutations of them, on the servers that this
//! machine has. `make smuggling` is the whole of it, on all servers.

use std::path::Path;

use isthmus_lab::smuggling::{Plan, run};
use isthmus_lab::trouble::{Result, ensure};

/// Those that start at once.
const SERVERS: [&str; 5] = ["nginx", "haproxy", "node", "nginx-h2", "node-h2"];

#[test]
fn no_request_is_smuggled_past_a_pair_of_proxies() -> Result<()> {
    let plan = Plan {
        servers: &SERVERS,
        mutations: 300,
        seed: 7,
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_isthmus"));
    let report = run(binary, plan, |report| eprintln!("{report}"))?;
    for server in &report.servers {
        // What is refused proves something only if the rest gets through.
        ensure(server.executed > 30, || server.to_string())?;
        ensure(server.findings.is_empty(), || server.findings.join("\n"))?;
    }
    Ok(())
}
