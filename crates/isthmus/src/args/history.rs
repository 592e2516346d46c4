//! What was typed of commands about what was decided: `history`, `undo` and `audit`.

use clap::{Args as ClapArgs, Subcommand};

use super::origin::OriginArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct HistoryArgs {
    /// Kind, or kind/name [default: all objects]
    #[arg(value_name = "KIND[/NAME]")]
    pub(crate) object: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long, requires = "object")]
    pub(crate) all_namespaces: bool,
    /// At most so many changes, the newest
    #[arg(long, default_value = "20", value_name = "N", value_parser = at_least_one)]
    pub(crate) limit: usize,
    /// Show the lines that each changed
    #[arg(long)]
    pub(crate) diff: bool,
    /// Show those that are void, since the authority began anew without them, as the clusters have kept them
    #[arg(long)]
    pub(crate) rejected: bool,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a whole number from 1 on".to_owned())
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UndoArgs {
    /// The change, as `isthmus history` numbers it
    #[arg(value_name = "CHANGE")]
    pub(crate) change: u64,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Undo the later changes of the object with it
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditArgs {
    /// Follow the chain of hashes in every cluster, and compare them; exit 3 when something is wrong
    #[command(
        after_help = "Each change names the hash of the one before it. The hashes are computed here, from what the\n\
        clusters give out.\n\n\
        Examples:\n  isthmus audit verify\n  isthmus audit verify --cluster eu-central -o json"
    )]
    Verify(OriginArgs),
    /// Print all changes, newest first, one line of JSON each
    #[command(
        after_help = "`hash` is the SHA-256 of one byte 1 and `record`. `record` is JSON and names the hash of the\n\
        change before it as `previous`.\n\n\
        Example:\n  isthmus audit export > audit.jsonl"
    )]
    Export(OriginArgs),
}
