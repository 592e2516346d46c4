//! `isthmus rotate`: certificates in the place of others, before their time.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::parse_span;

#[derive(Debug, Subcommand)]
pub(crate) enum RotateArgs {
    /// Replace keys and certificates, one cluster after the other, or that which --cluster names
    #[command(
        after_help = "Nothing is interrupted: what was issued before stays valid until its end, and every process takes\n\
        a new certificate as soon as it is asked to. What was interrupted goes on when it is started again.\n\
        A root takes the place of another in two steps: after `start root` both are trusted and the new one issues,\n\
        after `finish` it is the only one. Whoever is away from the first to the last joins anew.\n\
        Exit 3 when some process has not renewed in time; it does so at its usual time at the latest.\n\n\
        Examples:\n  isthmus rotate start intermediate\n  \
        isthmus rotate start intermediate --cluster us-west\n  \
        isthmus rotate start leaves\n  \
        isthmus rotate start root && isthmus rotate finish"
    )]
    Start(RotateStartArgs),
    /// Show by what each cluster issues certificates, and who has not renewed yet
    #[command(after_help = "Example:\n  isthmus rotate status -o json")]
    Status,
    /// Trust the old root no more, when all is signed by the new one: its key is the mesh key from then on
    #[command(
        after_help = "Certificates of the old root are refused from then on. A process that was away since the rotation began joins anew;\n\
        after a day (the lifetime of its certificate) it would have to in any case.\n\n\
        Example:\n  isthmus rotate finish"
    )]
    Finish(RotateWaitArgs),
    /// Go back: give up new keys that nothing was signed for yet, and a root that is to take the place of another
    Abort(RotateWaitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RotateStartArgs {
    pub(crate) what: Rotated,
    #[command(flatten)]
    pub(crate) wait: RotateWaitArgs,
    /// With `root`: where its key is written; in the home if not said
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateWaitArgs {
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
    /// The mesh key and its root, by which the clusters are signed, and then all of these. Needs the mesh key
    Root,
}
