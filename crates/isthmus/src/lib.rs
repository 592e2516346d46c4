//! Every process of the mesh and the command line.
//!
//! What was typed ([`args`]) becomes what it means ([`invocation`]); each command is a module of
//! its own and ends in an exit code or one [`failure::Failure`].
//!
//! Two programs are made of it. `isthmus` is all of it. `isthmus-proxy` is what `isthmus` becomes to
//! carry traffic ([`programs`], [`hosted`]): of all else, which would be resident in every proxy, nothing is linked into it.

mod api_client;
mod args;
mod authority;
mod backup;
mod check;
mod config;
mod disk;
mod drain;
mod drift;
mod explain;
mod failure;
mod faults;
mod found;
mod guest;
mod history;
mod home;
mod hosted;
mod invocation;
mod load;
mod logs;
mod memory;
mod mesh_key;
mod mistakes;
mod nofile;
mod notify;
mod output;
mod parent;
mod process;
mod programs;
mod release;
mod resources;
mod revoke;
mod rotate;
mod run;
mod setting;
mod signer;
mod simulate;
mod status;
mod succession;
mod successor;
mod survey;
mod token;
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

use crate::args::Args;
use crate::failure::Failure;
use crate::invocation::Invocation;

/// A request allocates dozens of times; glibc takes three times the instructions for that, and gives
/// pages back to the kernel and faults them in again while it does.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The program `isthmus`.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let color = args.global.color;
    let outcome = Invocation::resolve(args).and_then(invocation::execute);
    outcome.unwrap_or_else(|failure| end(&failure, output::use_color(color, &std::io::stderr())))
}

/// The program `isthmus-proxy`.
pub fn proxy_main() -> ExitCode {
    let outcome = programs::Task::of(std::env::args_os().skip(1)).and_then(hosted::perform);
    outcome.unwrap_or_else(|failure| end(&failure, std::io::stderr().is_terminal()))
}

fn end(failure: &Failure, color: bool) -> ExitCode {
    eprint!("{}", failure.render(color));
    failure.exit.into()
}
