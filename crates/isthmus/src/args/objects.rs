//! What was typed of commands on objects: `get`, `apply`, `delete`, `describe`, `diff`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::origin::OriginArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct GetArgs {
    /// Kind, or kind/name
    #[arg(value_name = "KIND[/NAME]")]
    pub(crate) object: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
    /// What belongs to the mesh and what belongs to any cluster
    #[arg(long, conflicts_with = "origin")]
    pub(crate) all_origins: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ApplyArgs {
    /// File, directory, or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub(crate) file: Vec<PathBuf>,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DeleteArgs {
    #[arg(value_name = "KIND/NAME", required_unless_present = "file")]
    pub(crate) object: Vec<String>,
    /// Delete what stands in a file or directory
    #[arg(short, long = "file", value_name = "FILE", conflicts_with = "object")]
    pub(crate) file: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DescribeArgs {
    #[arg(value_name = "KIND/NAME")]
    pub(crate) object: String,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    /// File, directory, or - for standard input; may be given several times
    #[arg(
        short,
        long = "file",
        value_name = "FILE",
        required_unless_present = "at",
        conflicts_with = "at"
    )]
    pub(crate) file: Vec<PathBuf>,
    /// Config as it was then: RFC 3339, or how long ago by this machine's clock, such as 90s, 10m or 48h
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}
