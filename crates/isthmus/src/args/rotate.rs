//! `isthmus rotate`: certificates in the place of others, before their time.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::parse_span;

#[derive(Debug, Subcommand)]
pub(crate) enum RotateArgs {
    /// Replace keys and certificates, one cluster after the other, or that which --cluster names
    #[command(
        after_help = "Nothing is interrupted: what was issued before stays valid until its end, and every process takes\n\
        a new certificate as soon as it is asked to. What was interrupted goes on when it is started again.\n\
        Exit 3 when some process has not renewed in time; it does so at its usual time at the latest.\n\n\
        Examples:\n  isthmus rotate start intermediate\n  \
        isthmus rotate start intermediate --cluster us-west\n  \
        isthmus rotate start leaves"
    )]
    Start(RotateStartArgs),
    /// Show by what each cluster issues certificates, and who has not renewed yet
    #[command(after_help = "Example:\n  isthmus rotate status -o json")]
    Status,
    /// Give up new keys that nothing was signed for yet
    Abort,
}

#[derive(Debug, Args)]
pub(crate) struct RotateStartArgs {
    pub(crate) what: Rotated,
    /// How long the processes of a cluster are waited for
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rotated {
    /// A cluster's own key and certificate, by which it issues those of its processes, and then these. Needs the mesh key
    Intermediate,
    /// Keys and certificates of processes
    Leaves,
}
