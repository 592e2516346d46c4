//! The demo shop: four small programs that call each other by mesh names.
//!
//! `frontend` really calls `cart`, `catalog` and `payment` at `http://<service>.shop.mesh/` through
//! `HTTP_PROXY`. Every program prints one JSON line per request it has executed, so that a test can
//! tell what was done once, twice or never.
//!
//! `shopper` is no service: it visits the frontend at a steady rate.
//!
//! It knows nothing of the mesh beyond those names, and is never part of the product.

mod body;
mod client;
mod pages;
mod server;
mod settings;
mod shopper;

use std::process::ExitCode;

use clap::Parser as _;

use crate::settings::{Arguments, Program, Settings};

fn main() -> ExitCode {
    match Settings::resolve(Arguments::parse()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match settings.program {
        Program::Shopper => runtime.block_on(shopper::visit(settings)),
        _ => runtime.block_on(server::serve(settings)),
    }
}
