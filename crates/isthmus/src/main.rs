//! `isthmus`: every process of the mesh and the command line, in one binary.
//!
//! What was typed ([`args`]) becomes what it means ([`invocation`]); each command is a module of
//! its own and ends in an exit code or one [`failure::Failure`].

mod api_client;
mod args;
mod check;
mod config;
mod disk;
mod explain;
mod failure;
mod faults;
mod found;
mod guest;
mod home;
mod invocation;
mod load;
mod logs;
mod memory;
mod mistakes;
mod nofile;
mod notify;
mod output;
mod parent;
mod process;
mod resources;
mod run;
mod setting;
mod status;
mod succession;
mod successor;
mod token;
mod up;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

use crate::args::Args;
use crate::invocation::Invocation;

/// A request allocates dozens of times; glibc takes three times the instructions for that, and gives
/// pages back to the kernel and faults them in again while it does.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let color = args.global.color;
    let outcome = Invocation::resolve(args).and_then(invocation::execute);
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprint!(
                "{}",
                failure.render(output::use_color(color, &std::io::stderr()))
            );
            failure.exit.into()
        }
    }
}
